//! Which frame may follow which, and how long it may be: the checks of a receiver before it acts on
//! a frame.

use super::body::{End, Hello};
use super::frame::{Header, MAX_OFFSET, Malformed, UNKNOWN};
use super::{Refused, refused};

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
            return Err(refused("the stream is longer than is allowed", libc::EFBIG));
        }
        Ok(Sequence { limits, length, start: 0, at: 0, counts: End::default() })
    }

    /// The end of what was accepted.
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
            return Err(Malformed::PayloadLength.into());
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
        Err(refused("a frame's offset is not where the stream is", libc::EPROTO))
    }

    /// END, whose counts must be those of what came.
    pub fn end(&self, header: &Header, end: &End) -> Result<(), Refused> {
        self.here(header)?;
        if self.length != UNKNOWN && self.at != self.length {
            return Err(refused("the stream ends before its announced length", libc::EPROTO));
        }
        if (End { digest: self.counts.digest, ..*end }) != self.counts {
            return Err(refused("the end counts other bytes than came", libc::EPROTO));
        }
        Ok(())
    }

    fn advance(&mut self, offset: u64, length: u64) -> Result<(), Refused> {
        if offset != self.at {
            return Err(refused("a frame's offset is not where the stream is", libc::EPROTO));
        }
        if length == 0 {
            return Err(Malformed::Empty.into());
        }
        let end = offset.checked_add(length).ok_or(Malformed::Range)?;
        if self.length != UNKNOWN && end > self.length {
            return Err(refused("a frame ends beyond the announced length", libc::EPROTO));
        }
        if end > self.limits.size {
            return Err(refused("the stream is longer than is allowed", libc::EFBIG));
        }
        self.at = end;
        Ok(())
    }
}
