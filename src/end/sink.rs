//! A sink of a stream: the trait that every sink has, and the traits of its further abilities.

use super::End;
use super::addressed::Addressable;
use super::hole::Made;
use super::ways::{Drain, Fetch, Lend};
use crate::error::Result;

/// The intentions of a transfer, reported to a sink before the first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Plan {
    /// The length of the stream, if known. The sink refuses it here if it cannot take all of it.
    pub total: Option<u64>,
    /// Holes may come. If not, zeros are written instead.
    pub holes: bool,
    /// Keep sections may come. A sink that cannot keep fails with `EOPNOTSUPP`.
    pub keeps: bool,
}

/// The facts about a sink that are known before the first byte moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SinkInfo {
    /// It can make holes, as far as is known.
    pub makes_holes: bool,
    /// It can keep bytes as they are.
    pub keeps: bool,
    /// Bytes from the start of the stream that it holds already; see [`Held`].
    pub held: u64,
    /// [`Sink::durable`] may report something.
    pub durable: bool,
}

/// A sink of a stream. It is pushed.
pub trait Sink: End + SinkWays {
    /// Checks the plan, refuses everything that can be refused, and reports the abilities of the sink. May be
    /// called again later, and then returns the same.
    fn open(&mut self, plan: &Plan) -> Result<SinkInfo>;

    /// Takes some of the data, which is not empty; at least one byte.
    fn write(&mut self, buffer: &[u8]) -> Result<usize>;

    /// Makes a hole of at most `length` bytes, which is more than 0.
    fn hole(&mut self, length: u64) -> Result<Made>;

    /// Moves past at most `length` bytes, which is more than 0, and keeps them as they are. Returns how many, at
    /// least one.
    fn keep(&mut self, length: u64) -> Result<u64>;

    /// The offset of the stream before which everything is on the medium, if that is known. Asked after each step
    /// if [`SinkInfo::durable`] is set.
    fn durable(&self) -> Option<u64> {
        None
    }
}

/// The further abilities of a sink.
pub trait SinkWays {
    /// It can fetch data from a file.
    fn fetch(&mut self) -> Option<&mut dyn Fetch> {
        None
    }
    /// It can take data from a pipe.
    fn drain(&mut self) -> Option<&mut dyn Drain> {
        None
    }
    /// It may lend memory to read into.
    fn lend(&mut self) -> Option<&mut dyn Lend> {
        None
    }
    /// It takes requests by offset, several at a time.
    fn addressed(&mut self) -> Option<&mut dyn Addressable> {
        None
    }
    /// It may hold a part of the stream already.
    fn held(&mut self) -> Option<&mut dyn Held> {
        None
    }
}

/// See [`SinkWays::held`]. The loop passes to the sink, in order, the part of the stream that it holds, and then
/// asks for the result.
pub trait Held {
    /// Compares data with the content that is held.
    fn check(&mut self, buffer: &[u8]);

    /// Compares a hole with the content that is held.
    fn check_hole(&mut self, length: u64);

    /// Whether everything was equal. If not, everything is written from the start.
    fn agrees(&mut self) -> Result<bool>;
}
