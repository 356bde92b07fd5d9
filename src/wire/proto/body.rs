//! Encodes and decodes the bodies of HELLO, ACCEPT, CHECKPOINT, END and STATUS.

use super::codec::{
    MAX_OFFSET, MAX_PAYLOAD, MIN_PAYLOAD, Malformed, Put, Result, Take, UNKNOWN, VERSION,
};
use super::{Refused, broken};
use crate::digest::{Hash, LENGTH};
use crate::error::{Bound, Rule};

static LEAST_VERSION: Rule = Rule::new("the oldest version that the peer accepts", Bound::FromOne);
static UNKNOWN_FEATURES: Rule =
    Rule::new("the set of required features that are not known here", Bound::Exactly);
static LARGEST_PAYLOAD: Rule = Rule::new("the largest payload of the peer", Bound::FromOne);
static SOURCE_SIZE: Rule = Rule::new("source_size", Bound::Most);
static RANGE_END: Rule = Rule::new("the end of the range (source_offset + length)", Bound::Most);
static DATA_BYTES: Rule = Rule::new("data_bytes", Bound::Most);

/// Feature: the receiver answers.
pub const ANSWERS: u64 = 1;
/// Feature: each DATA frame carries the CRC-32C of its payload.
pub const CHECKSUM: u64 = 2;
/// Feature: CHECKPOINT, END and STATUS carry the digest.
pub const DIGEST: u64 = 4;
/// Feature: the receiver may offer to resume from what it holds.
pub const RESUME: u64 = 8;
/// Feature: the stream may have KEEP frames.
pub const KEEP: u64 = 16;
/// Every feature that is known here.
pub const FEATURES: u64 = ANSWERS | CHECKSUM | DIGEST | RESUME | KEEP;
/// The features that a receiver may turn on.
pub const OPTIONAL: u64 = CHECKSUM | DIGEST | RESUME;

/// Flag of ACCEPT: the receiver takes everything from the start if its offer is refused.
pub const RESTART: u32 = 1;

/// The sender's introduction of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// The highest version that it speaks.
    pub version: u16,
    /// The lowest.
    pub least_version: u16,
    /// The most bytes of data in one of its frames.
    pub max_payload: u32,
    /// Features without which it does not send.
    pub required: u64,
    /// Features that the receiver may turn on.
    pub optional: u64,
    /// Bytes of the stream, or [`UNKNOWN`].
    pub length: u64,
    /// Bytes of the whole source, or [`UNKNOWN`].
    pub source_size: u64,
    /// Where in the source the stream starts.
    pub source_offset: u64,
    /// Bytes of the stream that are data, or [`UNKNOWN`].
    pub data_bytes: u64,
    /// The sender's name for this transfer; zeros for none.
    pub transfer_id: [u8; 16],
    /// Distinguishes this source, as it is now, from any other; zeros for nothing.
    pub identity: [u8; 32],
    /// With [`KEEP`]: the identity of what the receiver must hold; zeros for none.
    pub base: [u8; 32],
    /// The longest silence of the sender in milliseconds; 0 promises nothing.
    pub keepalive_ms: u32,
}

impl Hello {
    /// Bytes of its body.
    pub const SIZE: usize = 144;

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
        to.bytes(&self.base);
        to.u32(self.keepalive_ms);
        bytes
    }

    /// Decodes the HELLO of this version or a later one, without judging it.
    pub fn parse(body: &[u8]) -> Result<Self> {
        let mut from = Take(body.get(..Self::SIZE).ok_or(Malformed::BodyLength)?);
        Ok(Hello {
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
            base: from.bytes(),
            keepalive_ms: from.u32(),
        })
    }

    /// Refuses what no receiver of this version can accept.
    pub fn check(&self) -> std::result::Result<(), Refused> {
        let version = self.version.min(VERSION);
        if self.least_version == 0 || self.least_version > version {
            let (errno, least) = (libc::EPROTONOSUPPORT, self.least_version.into());
            return Err(broken(&LEAST_VERSION, errno, least, version.into()));
        }
        let unknown = self.required & !FEATURES;
        if unknown != 0 {
            return Err(broken(&UNKNOWN_FEATURES, libc::EPROTONOSUPPORT, unknown, 0));
        }
        if self.required & RESUME != 0 {
            return Err(Malformed::MisplacedResume.into());
        }
        if self.required & KEEP != 0 && self.optional & RESUME != 0 {
            return Err(Malformed::KeepAndResume.into());
        }
        if !(1..=MAX_PAYLOAD).contains(&self.max_payload) {
            let (given, most) = (self.max_payload.into(), MAX_PAYLOAD.into());
            return Err(broken(&LARGEST_PAYLOAD, libc::EPROTO, given, most));
        }
        self.check_sizes()
    }

    fn check_sizes(&self) -> std::result::Result<(), Refused> {
        let known = |size: u64| (size != UNKNOWN).then_some(size);
        let (length, source) = (known(self.length), known(self.source_size));
        let data = known(self.data_bytes).unwrap_or(0);
        let end = self.source_offset.saturating_add(length.unwrap_or(0));
        for (rule, given, most) in [
            (&SOURCE_SIZE, source.unwrap_or(0), MAX_OFFSET),
            (&RANGE_END, end, source.unwrap_or(MAX_OFFSET)),
            (&DATA_BYTES, data, length.or(source).unwrap_or(MAX_OFFSET)),
        ] {
            if given > most {
                return Err(broken(rule, libc::EPROTO, given, most));
            }
        }
        Ok(())
    }
}

/// Why the receiver makes no offer, or the sender refuses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// No reason: nothing is held, or the offer is accepted.
    None,
    /// Another source is held, or this one in an earlier state.
    Identity,
    /// The sender cannot resume.
    Unable,
    /// The content that is held differs from the source.
    Content,
    /// A reason that is not known here.
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

    /// The reason in the value of a BEGIN.
    pub fn of_begin(value: u64) -> Result<Self> {
        u16::try_from(value).map(Reason::of).map_err(|_| Malformed::Unused)
    }
}

/// The receiver's answer to HELLO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accept {
    /// The version of this conversation.
    pub version: u16,
    /// The reason for no offer although something is held.
    pub reason: Reason,
    /// The most bytes of data that it takes in one frame.
    pub max_payload: u32,
    /// The features in force.
    pub features: u64,
    /// The offer: this many bytes are held; 0 for none.
    pub resume_offset: u64,
    /// The digest of those bytes.
    pub resume_digest: Hash,
    /// [`RESTART`] or nothing.
    pub flags: u32,
}

impl Accept {
    /// Bytes of its body.
    pub const SIZE: usize = 64;

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
        to.bytes(&self.resume_digest);
        to.u32(self.flags);
        bytes
    }

    /// Decodes an ACCEPT, which must fit the HELLO.
    pub fn decode(body: &[u8], hello: &Hello) -> Result<Self> {
        let mut from = Take(body.get(..Self::SIZE).ok_or(Malformed::BodyLength)?);
        let accept = Accept {
            version: from.u16(),
            reason: Reason::of(from.u16()),
            max_payload: from.u32(),
            features: from.u64(),
            resume_offset: from.u64(),
            resume_digest: from.bytes(),
            flags: from.u32(),
        };
        if !(hello.least_version..=hello.version).contains(&accept.version) {
            return Err(Malformed::Version);
        }
        let offered = hello.required | hello.optional & OPTIONAL;
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

/// The bytes of a stream that were sent on one connection, by section, and its digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct End {
    /// Bytes sent in DATA frames.
    pub data_bytes: u64,
    /// Bytes sent as holes.
    pub hole_bytes: u64,
    /// Bytes sent as kept.
    pub keep_bytes: u64,
    /// The digest of the whole stream, or zeros.
    pub digest: Hash,
}

impl End {
    /// Bytes of its body.
    pub const SIZE: usize = 56;

    /// Its body.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let mut to = Put(&mut bytes);
        to.u64(self.data_bytes);
        to.u64(self.hole_bytes);
        to.u64(self.keep_bytes);
        to.bytes(&self.digest);
        bytes
    }

    /// Decodes an END.
    pub fn decode(body: &[u8]) -> Result<Self> {
        let mut from = Take(body.get(..Self::SIZE).ok_or(Malformed::BodyLength)?);
        Ok(End {
            data_bytes: from.u64(),
            hole_bytes: from.u64(),
            keep_bytes: from.u64(),
            digest: from.bytes(),
        })
    }
}

/// Decodes the digest that the body of a CHECKPOINT or a STATUS starts with.
pub fn digest(body: &[u8]) -> Result<Hash> {
    body.first_chunk::<LENGTH>().copied().ok_or(Malformed::BodyLength)
}
