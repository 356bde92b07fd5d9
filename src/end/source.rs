//! A source of a stream: the trait that every source has, and the traits of its further abilities.

use super::End;
use super::addressed::Addressable;
use super::introduction::Introduced;
use super::ways::{Feed, Lent, Stored};
use crate::error::Result;
use crate::section::Kind;

/// The facts about a source that are known before the first byte moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SourceInfo {
    /// Bytes from its start to its end, if known.
    pub total: Option<u64>,
    /// It can distinguish holes from data.
    pub reports_holes: bool,
    /// Keep sections may come. One that comes although this is false is an error of the source.
    pub keeps: bool,
    /// The offset in the stream at which it begins: an earlier transfer moved everything before.
    pub start: u64,
}

/// One fact about the place in the stream that a source has reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// This many bytes of data, at least one, were read into the buffer and are consumed.
    Data(usize),
    /// A hole of this length, at least one byte, comes next. [`Source::consume`] moves past it.
    Hole(u64),
    /// The receiver keeps this many bytes, at least one, as they are. [`Source::consume`] moves past
    /// them.
    Keep(u64),
    /// The end.
    End,
}

/// The section that a source is in, as far as it is known without reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Its kind.
    pub kind: Kind,
    /// Bytes to its end; `None` if that is not known yet. 0 at the end of the stream only.
    pub length: Option<u64>,
}

/// A source of a stream. It is pulled.
pub trait Source: End + SourceWays {
    /// Learns the facts that must be known before the first byte. May be called again later, and then
    /// answers the same.
    fn open(&mut self) -> Result<SourceInfo>;

    /// Reads data into a buffer that is not empty, or reports what comes instead.
    fn next(&mut self, buffer: &mut [u8]) -> Result<Next>;

    /// The section that comes next. Consumes nothing, and needs no more from a stream than the next
    /// read returns.
    fn look(&mut self) -> Result<Look>;

    /// Moves past `length` bytes that this source reported and that were then moved otherwise: a hole
    /// or a kept section of [`Source::next`] or [`Source::look`], an extent of [`Stored`], or memory of
    /// [`Lent`]. `length` is at most the reported length, and no other call came in between.
    fn consume(&mut self, length: u64);
}

/// The further abilities of a source.
pub trait SourceWays {
    /// Its data lies in a file.
    fn stored(&mut self) -> Option<&mut dyn Stored> {
        None
    }
    /// It can put data into a pipe.
    fn feed(&mut self) -> Option<&mut dyn Feed> {
        None
    }
    /// It may have data in memory already.
    fn lent(&mut self) -> Option<&mut dyn Lent> {
        None
    }
    /// It can look for zeros without reading everything.
    fn peek(&mut self) -> Option<&mut dyn Peek> {
        None
    }
    /// It can go back to its start.
    fn rewind(&mut self) -> Option<&mut dyn Rewind> {
        None
    }
    /// A read that is not ready may continue to fill its buffer: the next read is given the same buffer,
    /// which nothing else uses in between.
    fn holds_buffer(&self) -> bool {
        false
    }
    /// Its holes are those of a map, which may turn out not to be usable.
    fn mapped(&mut self) -> Option<&mut dyn Mapped> {
        None
    }
    /// It takes requests by offset, several at a time.
    fn addressed(&mut self) -> Option<&mut dyn Addressable> {
        None
    }
    /// Its peer has introduced the stream.
    fn introduced(&mut self) -> Option<&mut dyn Introduced> {
        None
    }
}

/// The appearance of blocks of data that were not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Glimpse {
    /// Each of them surely holds more than zeros. If not, each of them may be all zeros.
    pub solid: bool,
    /// Bytes in them, at least one.
    pub length: u64,
}

/// See [`SourceWays::peek`].
pub trait Peek {
    /// Looks at the data that comes next, block by block, up to `most` bytes. The first block has
    /// `first` bytes, the others `block`. The last may be cut off by `most` or by the end of the data.
    /// `None` if nothing can be known without reading.
    fn glimpse(&mut self, most: u64, first: u64, block: u64) -> Result<Option<Glimpse>>;
}

/// See [`SourceWays::mapped`].
pub trait Mapped {
    /// Called if holes are required. Checks whether the map works, which otherwise happens at the first hole,
    /// and returns that. A map that fails later is then an error, and the rest is not taken for data.
    fn require(&mut self) -> Result<bool>;
}

/// See [`SourceWays::rewind`].
pub trait Rewind {
    /// Goes back to the start of the source.
    fn to_start(&mut self) -> Result<()>;
}
