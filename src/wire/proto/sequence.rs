//! The order and the length of frames: the checks of a receiver before it acts on a frame.

use super::body::{End, Hello};
use super::codec::{MAX_OFFSET, Malformed, UNKNOWN};
use super::frame::Header;
use super::{Refused, broken};
use crate::error::{Bound, Rule};

static LENGTH: Rule = Rule::new("the length of the stream", Bound::Most);
static PAYLOAD: Rule = Rule::new("the payload of a frame", Bound::Most);
static OFFSET: Rule = Rule::new("the offset of a frame", Bound::Exactly);
static END: Rule = Rule::new("the end of a frame", Bound::Most);
static ANNOUNCED: Rule = Rule::new("the length of the ended stream", Bound::Exactly);
static DATA: Rule = Rule::new("the number of bytes of data in END", Bound::Exactly);
static HOLES: Rule = Rule::new("the number of bytes of holes in END", Bound::Exactly);
static KEPT: Rule = Rule::new("the number of kept bytes in END", Bound::Exactly);

/// The receiver's limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes that a stream may have, holes included.
    pub size: u64,
    /// The most bytes of data in one frame.
    pub payload: u32,
}

/// The position of a stream, frame by frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequence {
    limits: Limits,
    length: u64,
    start: u64,
    at: u64,
    counts: End,
}

impl Sequence {
    /// A stream that was announced by this HELLO.
    pub fn new(hello: &Hello, limits: Limits) -> Result<Self, Refused> {
        let length = hello.length;
        let limits = Limits {
            size: limits.size.min(MAX_OFFSET),
            payload: limits.payload.min(hello.max_payload),
        };
        if length != UNKNOWN && length > limits.size {
            return Err(broken(&LENGTH, libc::EFBIG, length, limits.size));
        }
        Ok(Sequence { limits, length, start: 0, at: 0, counts: End::default() })
    }

    /// The end of the frames that were accepted.
    #[must_use]
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Where it starts.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start
    }

    /// It resumes there instead of at its start.
    pub fn resume(&mut self, at: u64) {
        (self.start, self.at) = (at, at);
    }

    /// DATA.
    pub fn data(&mut self, header: &Header) -> Result<(), Refused> {
        if header.length > self.limits.payload {
            let (errno, most) = (Malformed::PayloadLength.errno(), self.limits.payload);
            return Err(broken(&PAYLOAD, errno, header.length.into(), most.into()));
        }
        let length = u64::from(header.length);
        self.advance(header.offset, length)?;
        self.counts.data_bytes += length;
        Ok(())
    }

    /// HOLE.
    pub fn hole(&mut self, header: &Header) -> Result<(), Refused> {
        self.advance(header.offset, header.value)?;
        self.counts.hole_bytes += header.value;
        Ok(())
    }

    /// KEEP.
    pub fn keep(&mut self, header: &Header) -> Result<(), Refused> {
        self.advance(header.offset, header.value)?;
        self.counts.keep_bytes += header.value;
        Ok(())
    }

    /// Any other frame with the offset of the stream.
    pub fn here(&self, header: &Header) -> Result<(), Refused> {
        if header.offset == self.at {
            return Ok(());
        }
        Err(broken(&OFFSET, libc::EPROTO, header.offset, self.at))
    }

    /// END, whose counts must be those of the frames before it.
    pub fn end(&self, header: &Header, end: &End) -> Result<(), Refused> {
        self.here(header)?;
        if self.length != UNKNOWN && self.at != self.length {
            return Err(broken(&ANNOUNCED, libc::EPROTO, self.at, self.length));
        }
        for (rule, given, came) in [
            (&DATA, end.data_bytes, self.counts.data_bytes),
            (&HOLES, end.hole_bytes, self.counts.hole_bytes),
            (&KEPT, end.keep_bytes, self.counts.keep_bytes),
        ] {
            if given != came {
                return Err(broken(rule, libc::EPROTO, given, came));
            }
        }
        Ok(())
    }

    fn advance(&mut self, offset: u64, length: u64) -> Result<(), Refused> {
        if offset != self.at {
            return Err(broken(&OFFSET, libc::EPROTO, offset, self.at));
        }
        if length == 0 {
            return Err(Malformed::Empty.into());
        }
        let end = offset.checked_add(length).ok_or(Malformed::Range)?;
        if self.length != UNKNOWN && end > self.length {
            return Err(broken(&END, libc::EPROTO, end, self.length));
        }
        if end > self.limits.size {
            return Err(broken(&LENGTH, libc::EFBIG, end, self.limits.size));
        }
        self.at = end;
        Ok(())
    }
}
