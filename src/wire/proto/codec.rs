//! The alphabet of frames: numbers to bytes and back, the limits of all frames, and the defects of a frame.
//!
//! docs/wire-format.md is the specification.

/// The version that is written, and the highest that is understood.
pub const VERSION: u16 = 1;
/// The most bytes that a DATA frame may carry, in any version.
pub const MAX_PAYLOAD: u32 = 4 << 20;
/// The smallest limit that a receiver may set for a DATA frame.
pub const MIN_PAYLOAD: u32 = 4096;
/// An offset or a length that is not known.
pub const UNKNOWN: u64 = u64::MAX;
/// No stream is longer.
pub const MAX_OFFSET: u64 = i64::MAX as u64;

/// The defect of a frame.
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
    MisplacedResume,
    KeepAndResume,
    Payload,
    Offer,
    Text,
}

impl Malformed {
    /// It in words.
    #[must_use]
    pub fn why(self) -> &'static str {
        match self {
            Malformed::Magic => "the bytes are not a frame of a sparse stream",
            Malformed::HeaderChecksum => "a header's checksum is wrong",
            Malformed::BodyChecksum => "the checksum of a frame is wrong",
            Malformed::Type => "a frame has an unknown type that must be known",
            Malformed::BodyLength => {
                "the body of a frame has a length that is not allowed for its type"
            }
            Malformed::PayloadLength => "a frame has more data than is allowed",
            Malformed::Empty => "a frame has the length 0",
            Malformed::Range => "a frame ends beyond the largest offset",
            Malformed::Unused => "a field that must be zero is not zero",
            Malformed::Version => "the version of ACCEPT was not offered in HELLO",
            Malformed::Features => "the features of ACCEPT do not match those of HELLO",
            Malformed::MisplacedResume => "resuming cannot be required",
            Malformed::KeepAndResume => "a stream with kept sections cannot be resumed",
            Malformed::Payload => "the largest payload of ACCEPT is not from 4096 to 4194304",
            Malformed::Offer => {
                "the offer to resume of ACCEPT is beyond the stream, or was not agreed"
            }
            Malformed::Text => "the text of ERROR has a length that is not allowed",
        }
    }

    /// The errno that stands for it.
    #[must_use]
    pub fn errno(self) -> i32 {
        match self {
            Malformed::HeaderChecksum | Malformed::BodyChecksum => libc::EBADMSG,
            Malformed::Version | Malformed::Features => libc::EPROTONOSUPPORT,
            Malformed::KeepAndResume => libc::EOPNOTSUPP,
            Malformed::PayloadLength => libc::EMSGSIZE,
            Malformed::Magic
            | Malformed::Type
            | Malformed::BodyLength
            | Malformed::Empty
            | Malformed::Range
            | Malformed::Unused
            | Malformed::MisplacedResume
            | Malformed::Payload
            | Malformed::Offer
            | Malformed::Text => libc::EPROTO,
        }
    }
}

/// The result of decoding.
pub type Result<T> = std::result::Result<T, Malformed>;

/// Numbers, little-endian, put into bytes that have room for them.
pub(super) struct Put<'a>(pub(super) &'a mut [u8]);

impl Put<'_> {
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        let all = std::mem::take(&mut self.0);
        let (here, rest) = all.split_at_mut(bytes.len());
        here.copy_from_slice(bytes);
        self.0 = rest;
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }
}

/// Numbers, little-endian, taken off bytes that hold them.
pub(super) struct Take<'a>(pub(super) &'a [u8]);

impl Take<'_> {
    pub(super) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let (here, rest) = self.0.split_at(N);
        self.0 = rest;
        let mut bytes = [0; N];
        bytes.copy_from_slice(here);
        bytes
    }

    pub(super) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.bytes())
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }
}
