//! Frames to bytes and back: headers, and the length of each kind's body.
//!
//! docs/wire-format.md is the specification.

use super::body::{Accept, End, Hello};
use super::codec::{MAX_OFFSET, MAX_PAYLOAD, Malformed, Put, Result, Take};
use super::failure::Failure;
use crate::digest;

/// Bytes of a frame's header.
pub const HEADER: usize = 32;
/// The most bytes of the body of any other frame.
pub const MAX_BODY: usize = 4096;

const MAGIC: [u8; 3] = *b"\xf5SP";

/// A frame's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The sender introduces the stream.
    Hello = 1,
    /// The receiver's answer to it.
    Accept = 2,
    /// The sender's answer to an offer to resume.
    Begin = 3,
    /// Data.
    Data = 4,
    /// A hole.
    Hole = 5,
    /// The digest of everything before.
    Checkpoint = 6,
    /// The length that the receiver has made durable.
    Ack = 7,
    /// A sign of life.
    Keepalive = 8,
    /// The end of the stream.
    End = 9,
    /// The receiver's last frame: everything is stored.
    Status = 10,
    /// The last frame of either, on failure.
    Error = 11,
    /// Bytes that the receiver leaves as they are.
    Keep = 12,
    /// A type of a later version that is to be ignored.
    Ignored = 0x80,
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Its type.
    pub kind: Kind,
    /// Bytes of the body.
    pub length: u32,
    /// Where in the stream it applies.
    pub offset: u64,
    /// A length or a reason.
    pub value: u64,
    /// The body's CRC-32C; 0 where none is given.
    pub checksum: u32,
}

/// The rules for the header of one kind.
struct Rule {
    kind: Kind,
    /// Bytes of the body.
    body: std::ops::RangeInclusive<u32>,
    /// The value has a meaning.
    valued: bool,
}

impl Rule {
    fn of(number: u8) -> Result<Self> {
        let control = MAX_BODY as u32;
        let rule = |kind, body, valued| Rule { kind, body, valued };
        Ok(match number {
            1 => rule(Kind::Hello, Hello::SIZE as u32..=control, false),
            2 => rule(Kind::Accept, Accept::SIZE as u32..=control, false),
            3 => rule(Kind::Begin, 0..=0, true),
            4 => rule(Kind::Data, 0..=MAX_PAYLOAD, false),
            5 => rule(Kind::Hole, 0..=0, true),
            6 => rule(Kind::Checkpoint, digest::LENGTH as u32..=control, false),
            7 => rule(Kind::Ack, 0..=0, false),
            8 => rule(Kind::Keepalive, 0..=0, false),
            9 => rule(Kind::End, End::SIZE as u32..=control, false),
            10 => rule(Kind::Status, digest::LENGTH as u32..=control, false),
            11 => rule(Kind::Error, Failure::SIZE as u32..=control, true),
            12 => rule(Kind::Keep, 0..=0, true),
            0x80.. => rule(Kind::Ignored, 0..=control, true),
            0 | 13..=0x7f => return Err(Malformed::Type),
        })
    }
}

impl Header {
    /// The header of a frame without a body.
    #[must_use]
    pub fn new(kind: Kind, offset: u64, value: u64) -> Self {
        Header { kind, length: 0, offset, value, checksum: 0 }
    }

    /// The header of a frame with this body.
    #[must_use]
    pub fn with_body(kind: Kind, offset: u64, value: u64, body: &[u8]) -> Self {
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
        Header { kind, length, offset, value, checksum: crc32c::crc32c(body) }
    }

    /// The header of the ERROR that carries this failure.
    #[must_use]
    pub fn of_failure(failure: &Failure) -> Self {
        let (offset, value) = failure.place();
        Header::with_body(Kind::Error, offset, value, failure.body())
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

    /// Decodes a header, and checks everything that can be checked without its body.
    #[inline]
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
        let Rule { kind, body, valued } = Rule::of(kind)?;
        if kind == Kind::Data && length > *body.end() {
            return Err(Malformed::PayloadLength);
        }
        if !body.contains(&length) {
            return Err(Malformed::BodyLength);
        }
        if !valued && value != 0 || length == 0 && checksum != 0 {
            return Err(Malformed::Unused);
        }
        let header = Header { kind, length, offset, value, checksum };
        header.check_range()?;
        Ok(header)
    }

    /// Checks what the frame covers of the stream.
    fn check_range(&self) -> Result<()> {
        let end = match (self.kind, self.extent()) {
            (_, Some(0)) => return Err(Malformed::Empty),
            (_, Some(extent)) => self.offset.checked_add(extent),
            (Kind::Hello | Kind::Accept, _) if self.offset != 0 => return Err(Malformed::Unused),
            // A later version gives it a meaning.
            (Kind::Ignored, _) => Some(0),
            (_, None) => Some(self.offset),
        };
        match end {
            Some(end) if end <= MAX_OFFSET => Ok(()),
            Some(_) | None => Err(Malformed::Range),
        }
    }

    /// Bytes of the stream in a frame that carries some.
    #[must_use]
    pub fn extent(&self) -> Option<u64> {
        match self.kind {
            Kind::Data => Some(u64::from(self.length)),
            Kind::Hole | Kind::Keep => Some(self.value),
            Kind::Hello
            | Kind::Accept
            | Kind::Begin
            | Kind::Checkpoint
            | Kind::Ack
            | Kind::Keepalive
            | Kind::End
            | Kind::Status
            | Kind::Error
            | Kind::Ignored => None,
        }
    }

    /// Bytes of the frame that are examined as a whole: all but the payload of DATA.
    #[must_use]
    pub fn whole(&self) -> usize {
        HEADER + if self.kind == Kind::Data { 0 } else { self.length as usize }
    }

    /// Checks a body against its checksum.
    pub fn check(&self, body: &[u8]) -> Result<()> {
        if crc32c::crc32c(body) == self.checksum { Ok(()) } else { Err(Malformed::BodyChecksum) }
    }
}

/// A frame at the start of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'a> {
    /// It is not complete. At least this many bytes of it are needed.
    Incomplete(usize),
    /// It is complete; of DATA, the header is.
    Whole(Header, &'a [u8]),
}

/// The frame at the start of these bytes. The magic is checked even if only a part of it has come.
#[inline]
pub fn first(bytes: &[u8]) -> Result<Frame<'_>> {
    let Some(head) = bytes.first_chunk::<HEADER>() else {
        let there = bytes.len().min(MAGIC.len());
        return if bytes[..there] == MAGIC[..there] {
            Ok(Frame::Incomplete(HEADER))
        } else {
            Err(Malformed::Magic)
        };
    };
    let header = Header::decode(head)?;
    match bytes.get(HEADER..header.whole()) {
        None => Ok(Frame::Incomplete(header.whole())),
        Some(body) => {
            // An empty body has no checksum, and the payload of DATA is not checked here.
            if !body.is_empty() {
                header.check(body)?;
            }
            Ok(Frame::Whole(header, body))
        }
    }
}
