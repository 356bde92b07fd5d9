//! Ends that take requests by offset, several at a time.

use super::hole::HoleWay;
use crate::error::{Error, Operation, Result, Side, Text, lasting};
use crate::section::Kind;
use crate::sys::memory::Slab;
use std::collections::VecDeque;

/// The facts about an end that takes requests by offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// The offset in the end at which the next byte of the stream lies.
    pub at: u64,
    /// The end of what it holds. Nothing is read beyond it.
    pub size: u64,
    /// Offsets and lengths of READ and WRITE are multiples of this power of two, which is at most 65536.
    pub block: u64,
    /// Addresses of memory are multiples of this power of two, which is at most `block`.
    pub memory: u64,
    /// The most bytes of one READ or WRITE.
    pub request: u64,
    /// The most bytes of one ZERO. It need not be aligned if this is a file.
    pub zero: u64,
    /// The most requests that may be under way.
    pub depth: usize,
    /// Requests in flight at the beginning; 0 for the default.
    pub begin: usize,
    /// A sink: writes beyond `size` make it longer, and everything there reads zero. If not, nothing can be
    /// written beyond `size`.
    pub grows: bool,
    /// A sink: it takes FAST ZERO.
    pub fast_zero: bool,
    /// A sink: it can be read, so that the rest of a block can be kept.
    pub reads: bool,
}

/// The kind of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Ask {
    /// Read into the memory.
    Read = 1,
    /// Write from the memory.
    Write = 2,
    /// Make a range read zero.
    Zero = 3,
    /// Bring everything that was written to the medium.
    Flush = 4,
    /// Make a range read zero, in which data will be written later, if that takes less time than to write it. If not, the
    /// reply is `EOPNOTSUPP`.
    FastZero = 5,
}

/// A request. It owns its memory, so that the memory is not used before the request has finished.
#[derive(Debug)]
pub struct Request {
    /// The number by which its owner identifies it.
    pub token: u64,
    /// The kind of the request.
    pub ask: Ask,
    /// The offset in the end.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// READ and WRITE: the memory.
    pub memory: Option<Slab>,
    /// READ and WRITE: the start of the bytes in the memory.
    pub start: usize,
}

impl Request {
    /// The bytes to be written.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        let range = self.start..self.start + self.length as usize;
        self.memory.as_ref().and_then(|slab| slab.bytes().get(range)).unwrap_or_default()
    }

    /// The bytes to be read into.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let range = self.start..self.start + self.length as usize;
        self.memory.as_mut().and_then(|slab| slab.bytes_mut().get_mut(range)).unwrap_or_default()
    }
}

/// A request that is back.
#[derive(Debug)]
pub struct Reply {
    /// The request.
    pub request: Request,
    /// Bytes that were read, written or zeroed, perhaps fewer than requested; 0 for a READ at the end.
    pub result: std::result::Result<u64, Failure>,
}

/// The failure of a request: an errno, and the details that its end has added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The errno.
    pub errno: i32,
    /// The details, if there are any.
    pub said: Option<Said>,
}

/// Details of a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// The operation that failed, if it is not that of the request.
    pub operation: Option<Operation>,
    /// The offset at which it failed, if it is not that of the request.
    pub offset: Option<u64>,
    /// The text.
    pub text: Text,
}

impl From<i32> for Failure {
    fn from(errno: i32) -> Self {
        Failure { errno, said: None }
    }
}

impl Failure {
    /// The error of a request at this place.
    #[must_use]
    pub fn at(self, operation: Operation, side: Side, offset: u64) -> Error {
        let errno = lasting(self.errno);
        match self.said {
            _ if errno != self.errno => {
                let why = "the request was answered with EAGAIN or EINTR";
                Error::Because { operation, side, offset, errno, why }
            }
            None => Error::at(operation, side, offset, errno),
            Some(said) => Error::Said {
                operation: said.operation.unwrap_or(operation),
                side,
                offset: Some(said.offset.unwrap_or(offset)),
                errno,
                text: said.text,
            },
        }
    }
}

/// See [`super::SourceWays::addressed`] and [`super::SinkWays::addressed`].
///
/// While requests are in flight the other calls of an end work as always: a source is still asked for its next
/// section, and [`super::Source::consume`] moves past data that is being read.
pub trait Addressable {
    /// Learns the facts. Called before the first request.
    fn describe(&mut self) -> Result<Geometry>;

    /// Receives one slab of the memory of all later requests.
    fn memory(&mut self, slab: &Slab) {
        let _ = slab;
    }

    /// Whether the stream may have a section of this kind that ends at this offset of the end.
    fn reach(&mut self, kind: Kind, end: u64) -> Result<()> {
        let _ = (kind, end);
        Ok(())
    }

    /// Takes a request. There are never more in flight than the end allows. A failure is a reply.
    fn submit(&mut self, request: Request);

    /// Returns the requests that are done, in any order. Never waits.
    fn advance(&mut self, replies: &mut VecDeque<Reply>) -> Result<()>;

    /// A sink: all requests for the next bytes of the stream, this many, are done. `written`: they are data.
    fn passed(&mut self, length: u64, written: bool) -> Result<()> {
        let _ = (length, written);
        Ok(())
    }

    /// A sink: how the last ZERO was done.
    fn zero_way(&self) -> HoleWay {
        HoleWay::Passed
    }

    /// Whether it can be used without requests, too.
    fn has_other_ways(&self) -> bool {
        true
    }

    /// Whether its requests never come back, because they belong to the parent of this process.
    fn is_foreign(&self) -> bool {
        false
    }

    /// The stream has failed: cancels all requests that can be cancelled.
    fn cancel(&mut self, error: &Error);
}
