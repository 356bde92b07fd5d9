//! The ways to move data without the loop's memory: from a file, through a pipe, in memory that is lent.

use crate::error::Result;
use crate::pipe::Pipe;
use crate::sys::Fd;

/// Data that lies in a file, where a sink can fetch it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The descriptor of the file.
    pub fd: Fd,
    /// The offset of the first byte in the file.
    pub offset: u64,
    /// Its length in bytes. All of it is data as far as is known.
    pub length: u64,
}

impl Extent {
    /// Fewer bytes than this are read and written: to move so few pages costs more than a copy.
    pub const LEAST: u64 = 64 << 10;
}

/// The result of a way that may not be possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// This many bytes, at least one, were moved.
    Moved(u64),
    /// Nothing was moved, and this way is not to be tried again in this transfer. The errno, if there is one, is
    /// traced. The same data is then moved in another way, which reports an error if it fails too.
    Declined(Option<i32>),
}

/// See [`super::SourceWays::stored`].
pub trait Stored {
    /// The data that comes next, if the next section is data. [`super::Source::consume`] moves past the part that
    /// was fetched.
    fn extent(&mut self) -> Result<Option<Extent>>;
}

/// See [`super::SourceWays::feed`].
pub trait Feed {
    /// The number of bytes that can be put into a pipe now; 0 if there are none, or so few that a copy costs less.
    fn feedable(&mut self) -> Result<u64>;

    /// Puts at most `most` of those bytes into the pipe. They are consumed.
    fn feed_pipe(&mut self, pipe: &mut Pipe, most: u64) -> Result<Attempt>;
}

/// See [`super::SourceWays::lent`].
pub trait Lent {
    /// The part of the next data that is in memory; empty if none is. [`super::Source::consume`] moves past the part
    /// that was used.
    fn bytes(&mut self) -> Result<&[u8]>;
}

/// See [`super::SinkWays::fetch`].
pub trait Fetch {
    /// Fetches some of an extent without a copy through memory.
    fn fetch_extent(&mut self, extent: &Extent) -> Result<Attempt>;
}

/// See [`super::SinkWays::drain`].
pub trait Drain {
    /// Takes some of the bytes in the pipe.
    fn drain_pipe(&mut self, pipe: &mut Pipe) -> Result<Attempt>;
}

/// See [`super::SinkWays::lend`].
pub trait Lend {
    /// Memory to put data into, not empty, if there is some now.
    fn room(&mut self) -> Result<Option<&mut [u8]>>;

    /// This many bytes, at least one, were put at the start of the memory of [`Lend::room`], with no
    /// other call in between: they count as written.
    fn committed(&mut self, count: usize);
}
