//! Frames to bytes and back. No I/O, no memory, no state.
//!
//! docs/wire-format.md is the specification of what is here.

use super::errno;
use crate::error::{Error, Operation, Side, Text};

/// The version that is written, and the highest that is understood.
pub const VERSION: u16 = 1;
/// Bytes of a frame's header.
pub const HEADER: usize = 32;
/// The most bytes that a DATA frame may carry, in any version.
pub const MAX_PAYLOAD: u32 = 4 << 20;
/// The least that a receiver must take in a DATA frame.
pub const MIN_PAYLOAD: u32 = 4096;
/// The most bytes of the body of any other frame.
pub const MAX_BODY: usize = 4096;
/// The most bytes of an ERROR's text.
pub const MAX_TEXT: usize = 255;
/// An offset or a length of which nothing is known.
pub const UNKNOWN: u64 = u64::MAX;
/// No stream is longer.
pub const MAX_OFFSET: u64 = i64::MAX as u64;

/// Feature: the receiver answers.
pub const ANSWERS: u64 = 1;
/// Feature: each DATA frame carries the CRC-32C of its payload.
pub const CHECKSUM: u64 = 2;
/// Feature: CHECKPOINT, END and STATUS carry the digest.
pub const DIGEST: u64 = 4;
/// Feature: the receiver may offer to go on from what it holds.
pub const RESUME: u64 = 8;
/// Every feature that is known here.
pub const FEATURES: u64 = ANSWERS | CHECKSUM | DIGEST | RESUME;

/// Flag of ACCEPT: the receiver takes all from the start if its offer is not met.
pub const RESTART: u32 = 1;

const MAGIC: [u8; 3] = *b"\xf5SP";

/// A frame's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Who sends, and what.
    Hello = 1,
    /// The receiver's answer to it.
    Accept = 2,
    /// The sender's answer to an offer to resume.
    Begin = 3,
    /// Data.
    Data = 4,
    /// A hole.
    Hole = 5,
    /// The digest of all before.
    Checkpoint = 6,
    /// What the receiver has made durable.
    Ack = 7,
    /// Nothing, said to show that one is there.
    Keepalive = 8,
    /// The end of the stream.
    End = 9,
    /// The receiver's last word: all is stored.
    Status = 10,
    /// The last word of either, on failure.
    Error = 11,
    /// A type of a later version that may be passed over.
    Ignored = 0x80,
}

/// What is wrong with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Malformed {
    Magic,
    HeaderChecksum,
    BodyChecksum,
    Type,
    BodyLength,
    PayloadLength,
    Empty,
    Range,
    Unused,
    Version,
    Features,
    Payload,
    Sizes,
    Offer,
    Text,
}

impl Malformed {
    /// It in words.
    #[must_use]
    pub fn why(self) -> &'static str {
        match self {
            Malformed::Magic => "this is no frame of a sparse stream",
            Malformed::HeaderChecksum => "a header's checksum is wrong",
            Malformed::BodyChecksum => "a checksum is wrong",
            Malformed::Type => "a frame of an unknown type",
            Malformed::BodyLength => "a frame's body has an impossible length",
            Malformed::PayloadLength => "a frame has more data than is allowed",
            Malformed::Empty => "a frame of length zero",
            Malformed::Range => "a frame beyond every offset",
            Malformed::Unused => "a field that must be zero is not",
            Malformed::Version => "the peer speaks no version that is known here",
            Malformed::Features => "a feature is needed that is not there",
            Malformed::Payload => "an impossible limit of the payload",
            Malformed::Sizes => "sizes that contradict each other",
            Malformed::Offer => "an impossible offer to resume",
            Malformed::Text => "an error's text has an impossible length",
        }
    }

    /// The errno that stands for it.
    #[must_use]
    pub fn errno(self) -> i32 {
        match self {
            Malformed::HeaderChecksum | Malformed::BodyChecksum => libc::EBADMSG,
            Malformed::Version | Malformed::Features => libc::EPROTONOSUPPORT,
            Malformed::PayloadLength => libc::EMSGSIZE,
            _ => libc::EPROTO,
        }
    }
}

type Result<T> = std::result::Result<T, Malformed>;

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Its type.
    pub kind: Kind,
    /// Bytes of the body.
    pub length: u32,
    /// Where in the stream it applies.
    pub offset: u64,
    /// A hole's length, a digest or a reason.
    pub value: u64,
    /// The body's CRC-32C; 0 where none is given.
    pub checksum: u32,
}

impl Header {
    /// That of a frame without a body.
    #[must_use]
    pub fn new(kind: Kind, offset: u64, value: u64) -> Self {
        Header { kind, length: 0, offset, value, checksum: 0 }
    }

    /// That of a frame with this body.
    #[must_use]
    pub fn with_body(kind: Kind, offset: u64, value: u64, body: &[u8]) -> Self {
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
        Header { kind, length, offset, value, checksum: crc32c::crc32c(body) }
    }

    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let mut to = Put(&mut bytes);
        to.bytes(&MAGIC);
        to.bytes(&[self.kind as u8]);
        to.u32(self.length);
        to.u64(self.offset);
        to.u64(self.value);
        to.u32(self.checksum);
        let checksum = crc32c::crc32c(&bytes[..HEADER - 4]);
        bytes[HEADER - 4..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The header that these bytes are. All that a header alone can have wrong is found.
    pub fn decode(bytes: &[u8; HEADER]) -> Result<Self> {
        let mut from = Take(bytes);
        if from.bytes::<3>() != MAGIC {
            return Err(Malformed::Magic);
        }
        let [kind] = from.bytes();
        let length = from.u32();
        let (offset, value) = (from.u64(), from.u64());
        let checksum = from.u32();
        if crc32c::crc32c(&bytes[..HEADER - 4]) != from.u32() {
            return Err(Malformed::HeaderChecksum);
        }
        // Least and most bytes of the body, and whether the value is used.
        let control = MAX_BODY as u32;
        let (kind, least, most, valued) = match kind {
            1 => (Kind::Hello, Hello::SIZE as u32, control, false),
            2 => (Kind::Accept, Accept::SIZE as u32, control, false),
            3 => (Kind::Begin, 0, 0, true),
            4 => (Kind::Data, 0, MAX_PAYLOAD, false),
            5 => (Kind::Hole, 0, 0, true),
            6 => (Kind::Checkpoint, 0, 0, true),
            7 => (Kind::Ack, 0, 0, false),
            8 => (Kind::Keepalive, 0, 0, false),
            9 => (Kind::End, End::SIZE as u32, control, true),
            10 => (Kind::Status, 0, 0, true),
            11 => (Kind::Error, Failure::SIZE as u32, control, true),
            0x80.. => (Kind::Ignored, 0, control, true),
            _ => return Err(Malformed::Type),
        };
        if kind == Kind::Data && length > most {
            return Err(Malformed::PayloadLength);
        }
        if !(least..=most).contains(&length) {
            return Err(Malformed::BodyLength);
        }
        if !valued && value != 0 || length == 0 && checksum != 0 {
            return Err(Malformed::Unused);
        }
        let extent = match kind {
            Kind::Data => u64::from(length),
            Kind::Hole => value,
            _ => 1,
        };
        if extent == 0 {
            return Err(Malformed::Empty);
        }
        let nowhere = matches!(kind, Kind::Hello | Kind::Accept);
        if nowhere && offset != 0 {
            return Err(Malformed::Unused);
        }
        let end = match kind {
            Kind::Data | Kind::Hole => offset.checked_add(extent),
            Kind::Ignored => Some(0),
            _ => Some(offset),
        };
        if end.is_none_or(|end| end > MAX_OFFSET) {
            return Err(Malformed::Range);
        }
        Ok(Header { kind, length, offset, value, checksum })
    }

    /// Whether this is its body, by its checksum.
    pub fn check(&self, body: &[u8]) -> Result<()> {
        if crc32c::crc32c(body) == self.checksum { Ok(()) } else { Err(Malformed::BodyChecksum) }
    }
}

/// What the sender says first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// The highest version that it speaks.
    pub version: u16,
    /// The lowest.
    pub least_version: u16,
    /// The most bytes of data in one frame of its.
    pub max_payload: u32,
    /// Features without which it does not go on.
    pub required: u64,
    /// Features that it can have as well.
    pub optional: u64,
    /// Bytes of the stream, or [`UNKNOWN`].
    pub length: u64,
    /// Bytes of the whole source, or [`UNKNOWN`].
    pub source_size: u64,
    /// Where in the source the stream starts.
    pub source_offset: u64,
    /// Bytes of the stream that are data, or [`UNKNOWN`].
    pub data_bytes: u64,
    /// Whatever the sender calls this transfer; zeros for nothing.
    pub transfer_id: [u8; 16],
    /// What tells this source, as it is now, from any other; zeros for nothing.
    pub identity: [u8; 32],
    /// It is silent for no longer than so many milliseconds; 0 says nothing.
    pub keepalive_ms: u32,
}

impl Hello {
    /// Bytes of its body.
    pub const SIZE: usize = 112;

    /// Its body.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let mut to = Put(&mut bytes);
        to.u16(self.version);
        to.u16(self.least_version);
        to.u32(self.max_payload);
        to.u64(self.required);
        to.u64(self.optional);
        to.u64(self.length);
        to.u64(self.source_size);
        to.u64(self.source_offset);
        to.u64(self.data_bytes);
        to.bytes(&self.transfer_id);
        to.bytes(&self.identity);
        to.u32(self.keepalive_ms);
        bytes
    }

    /// The HELLO that this body is, of this version or a later one.
    pub fn decode(body: &[u8]) -> Result<Self> {
        let mut from = Take(body.get(..Self::SIZE).ok_or(Malformed::BodyLength)?);
        let hello = Hello {
            version: from.u16(),
            least_version: from.u16(),
            max_payload: from.u32(),
            required: from.u64(),
            optional: from.u64(),
            length: from.u64(),
            source_size: from.u64(),
            source_offset: from.u64(),
            data_bytes: from.u64(),
            transfer_id: from.bytes(),
            identity: from.bytes(),
            keepalive_ms: from.u32(),
        };
        if hello.least_version == 0 || hello.least_version > hello.version {
            return Err(Malformed::Version);
        }
        if hello.least_version > VERSION {
            return Err(Malformed::Version);
        }
        // What a later version needs it has said in `required`, which is looked at first.
        if hello.required & !FEATURES != 0 {
            return Err(Malformed::Features);
        }
        if !(1..=MAX_PAYLOAD).contains(&hello.max_payload) {
            return Err(Malformed::Payload);
        }
        let known = |size: u64| (size != UNKNOWN).then_some(size);
        let (length, source) = (known(hello.length), known(hello.source_size));
        let data = known(hello.data_bytes);
        let end = hello.source_offset.checked_add(length.unwrap_or(0));
        let sound = end
            .is_some_and(|end| end <= MAX_OFFSET && source.is_none_or(|size| end <= size))
            && source.is_none_or(|size| size <= MAX_OFFSET)
            && data.is_none_or(|data| data <= length.or(source).unwrap_or(MAX_OFFSET));
        if !sound {
            return Err(Malformed::Sizes);
        }
        Ok(hello)
    }
}

/// Why the receiver does not offer to go on, or the sender not to take the offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// There is none: nothing is held, or the offer is taken.
    None,
    /// What is held is of another source, or of this one as it was before.
    Identity,
    /// The sender cannot resume.
    Unable,
    /// What is held is not what the source has.
    Content,
    /// One that is not known here.
    Other(u16),
}

impl Reason {
    /// Its number.
    #[must_use]
    pub fn code(self) -> u16 {
        match self {
            Reason::None => 0,
            Reason::Identity => 1,
            Reason::Unable => 2,
            Reason::Content => 3,
            Reason::Other(code) => code,
        }
    }

    fn of(code: u16) -> Self {
        match code {
            0 => Reason::None,
            1 => Reason::Identity,
            2 => Reason::Unable,
            3 => Reason::Content,
            other => Reason::Other(other),
        }
    }

    /// The reason that the value of a BEGIN is.
    pub fn of_begin(value: u64) -> Result<Self> {
        u16::try_from(value).map(Reason::of).map_err(|_| Malformed::Unused)
    }
}

/// The receiver's answer to HELLO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accept {
    /// The version that is spoken.
    pub version: u16,
    /// Why nothing is offered though something was held.
    pub reason: Reason,
    /// The most bytes of data that it takes in one frame.
    pub max_payload: u32,
    /// The features that are in force.
    pub features: u64,
    /// The offer: so many bytes are held; 0 for none.
    pub resume_offset: u64,
    /// The digest of those bytes.
    pub resume_digest: u64,
    /// [`RESTART`] or nothing.
    pub flags: u32,
}

impl Accept {
    /// Bytes of its body.
    pub const SIZE: usize = 40;

    /// Its body.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let mut to = Put(&mut bytes);
        to.u16(self.version);
        to.u16(self.reason.code());
        to.u32(self.max_payload);
        to.u64(self.features);
        to.u64(self.resume_offset);
        to.u64(self.resume_digest);
        to.u32(self.flags);
        bytes
    }

    /// The ACCEPT that this body is, which must fit to the HELLO.
    pub fn decode(body: &[u8], hello: &Hello) -> Result<Self> {
        let mut from = Take(body.get(..Self::SIZE).ok_or(Malformed::BodyLength)?);
        let accept = Accept {
            version: from.u16(),
            reason: Reason::of(from.u16()),
            max_payload: from.u32(),
            features: from.u64(),
            resume_offset: from.u64(),
            resume_digest: from.u64(),
            flags: from.u32(),
        };
        if !(hello.least_version..=hello.version).contains(&accept.version) {
            return Err(Malformed::Version);
        }
        let offered = hello.required | hello.optional;
        if accept.features & !offered != 0 || hello.required & !accept.features != 0 {
            return Err(Malformed::Features);
        }
        if !(MIN_PAYLOAD..=MAX_PAYLOAD).contains(&accept.max_payload) {
            return Err(Malformed::Payload);
        }
        let able = accept.features & (RESUME | DIGEST) == RESUME | DIGEST;
        let most = if hello.length == UNKNOWN { MAX_OFFSET } else { hello.length };
        if accept.resume_offset != 0 && !able || accept.resume_offset > most {
            return Err(Malformed::Offer);
        }
        Ok(accept)
    }
}

/// What an END counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct End {
    /// Bytes sent in DATA frames.
    pub data_bytes: u64,
    /// Bytes sent as holes.
    pub hole_bytes: u64,
}

impl End {
    /// Bytes of its body.
    pub const SIZE: usize = 16;

    /// Its body.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let mut to = Put(&mut bytes);
        to.u64(self.data_bytes);
        to.u64(self.hole_bytes);
        bytes
    }

    /// The END that this body is.
    pub fn decode(body: &[u8]) -> Result<Self> {
        let mut from = Take(body.get(..Self::SIZE).ok_or(Malformed::BodyLength)?);
        Ok(End { data_bytes: from.u64(), hole_bytes: from.u64() })
    }
}

/// A failure: the body of an ERROR, with room for its text.
#[derive(Debug, Clone, Copy)]
pub struct Failure {
    bytes: [u8; Self::SIZE + MAX_TEXT],
    length: usize,
}

/// The value of an ERROR whose offset means something.
const AT_OFFSET: u64 = 1;

impl Failure {
    /// Bytes of its body before the text.
    pub const SIZE: usize = 8;

    /// The frame that tells a peer of this error.
    #[must_use]
    pub fn encode(error: &Error) -> ([u8; HEADER], Self) {
        let mut failure = Failure { bytes: [0; Self::SIZE + MAX_TEXT], length: 0 };
        let text = {
            let mut text = Cut { bytes: &mut failure.bytes[Self::SIZE..], at: 0 };
            // Being cut is the only failure, and no loss.
            let _ = std::fmt::Write::write_fmt(&mut text, format_args!("{error}"));
            text.at
        };
        let mut to = Put(&mut failure.bytes[..Self::SIZE]);
        to.u32(errno::to_wire(error.errno()));
        to.bytes(&[error.operation() as u8, error.side() as u8]);
        to.u16(u16::try_from(text).unwrap_or(0));
        failure.length = Self::SIZE + text;
        let offset = error.offset().filter(|offset| *offset <= MAX_OFFSET);
        let value = if offset.is_some() { AT_OFFSET } else { 0 };
        let offset = offset.unwrap_or(0);
        let header = Header::with_body(Kind::Error, offset, value, failure.body()).encode();
        (header, failure)
    }

    /// Its body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// The peer's error that such a frame tells of.
    pub fn decode(header: &Header, body: &[u8]) -> Result<Error> {
        let (head, rest) = body.split_at_checked(Self::SIZE).ok_or(Malformed::BodyLength)?;
        let mut from = Take(head);
        let errno = errno::from_wire(from.u32());
        let [operation, side] = from.bytes();
        let length = usize::from(from.u16());
        let text = rest.get(..length).filter(|text| text.len() <= MAX_TEXT);
        let text = text.ok_or(Malformed::Text)?;
        Ok(Error::Peer {
            operation: Operation::ALL
                .get(usize::from(operation))
                .copied()
                .unwrap_or(Operation::None),
            side: match side {
                1 => Side::Source,
                2 => Side::Sink,
                _ => Side::None,
            },
            offset: (header.value & AT_OFFSET != 0).then_some(header.offset),
            errno,
            text: Text::new(text),
        })
    }
}

/// A text that is written into bytes and cut to fit, at a character's boundary.
struct Cut<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl std::fmt::Write for Cut<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for character in text.chars() {
            let end = self.at + character.len_utf8();
            let place = self.bytes.get_mut(self.at..end).ok_or(std::fmt::Error)?;
            character.encode_utf8(place);
            self.at = end;
        }
        Ok(())
    }
}

/// Numbers, little-endian, put into bytes that have room for them.
struct Put<'a>(&'a mut [u8]);

impl Put<'_> {
    fn bytes(&mut self, bytes: &[u8]) {
        let all = std::mem::take(&mut self.0);
        let (here, rest) = all.split_at_mut(bytes.len());
        here.copy_from_slice(bytes);
        self.0 = rest;
    }

    fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }
}

/// Numbers, little-endian, taken off bytes that hold them.
struct Take<'a>(&'a [u8]);

impl Take<'_> {
    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let (here, rest) = self.0.split_at(N);
        self.0 = rest;
        let mut bytes = [0; N];
        bytes.copy_from_slice(here);
        bytes
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.bytes())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }
}
