//! Where a stream comes from.

mod bytes;
mod cache;
mod file;
mod look_ahead;
mod peek;

use crate::error::{Error, Operation, Result, Side};
use crate::pipe::Pipe;
use crate::section::{Readable, Section, readable};
use crate::sys::{self, Fd};
use crate::wait::Waiting;
pub use bytes::ByteSource;
pub use file::FileSource;

/// What a read gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// So many bytes of data, at least one.
    Data(usize),
    /// Nothing: a hole comes next. [`Source::section`] gives its length, [`Source::skip`] passes it.
    AtHole,
    /// Nothing: the end.
    End,
}

/// Data that lies in a file, for a sink that can fetch it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The file's descriptor.
    pub fd: Fd,
    /// Its first byte there.
    pub offset: u64,
    /// Bytes of it, all data as far as is known.
    pub length: u64,
}

/// What is known of the data that comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ahead {
    /// Nothing: it must be read.
    Unknown,
    /// It lies in a file: a sink may fetch it there, or [`Source::feed`] gives it.
    Stored(Extent),
    /// So many bytes of it can be had by [`Source::feed`], and are worth it.
    Fed(u64),
}

impl Ahead {
    /// Less than this is read and written: to pass so few pages on costs more than to copy them.
    pub const LEAST: u64 = 64 << 10;
}

/// What blocks of data look like that were not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Glimpse {
    /// Each surely holds more than zeros; if not, each may be all zeros.
    pub solid: bool,
    /// Bytes in them, at least one.
    pub length: u64,
}

/// What is told of a stream before it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Description {
    /// Bytes of the stream, if known.
    pub length: Option<u64>,
    /// Bytes of the whole source, if known.
    pub source_size: Option<u64>,
    /// Where in the source the stream starts.
    pub source_offset: u64,
    /// Bytes of the stream that are data, if known.
    pub data_bytes: Option<u64>,
    /// Whatever the sender calls this transfer; zeros for nothing.
    pub transfer_id: [u8; 16],
    /// What tells this source, as it is now, from any other; zeros for nothing.
    pub identity: [u8; 32],
}

/// What a peer told of the stream that it sends, and how it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// What it told.
    pub description: Description,
    /// It waits for answers.
    pub answers: bool,
    /// Its data comes with checksums.
    pub checksum: bool,
    /// It comes with a digest of the whole.
    pub digest: bool,
    /// Where it starts: what is before was moved by an earlier transfer.
    pub start: u64,
}

/// The source of a stream: data, holes, and an end.
///
/// Any call but `total`, `waiting` and `abort` may fail with `EAGAIN` or `EINTR`, and is then made
/// again; nothing is lost by that.
pub trait Source {
    /// Does what must be done before anything else is known: a peer says who it is.
    fn prepare(&mut self) -> Result<()> {
        Ok(())
    }

    /// What a peer told beforehand, if it has one.
    fn told(&mut self) -> Result<Option<Told>> {
        Ok(None)
    }

    /// Whether it can tell holes from data at all.
    fn tells_holes(&mut self) -> Result<bool>;

    /// The bytes from its start to its end, if that is known.
    fn total(&self) -> Option<u64>;

    /// Where it begins, from the start of its stream: what is before was moved by an earlier
    /// transfer.
    fn start(&self) -> u64 {
        0
    }

    /// Goes back to its start.
    fn rewind(&mut self) -> Result<()> {
        Err(Error::nowhere(Operation::Seek, Side::Source, libc::ESPIPE))
    }

    /// Is told that all before this offset of its stream is on the medium.
    fn stored(&mut self, durable: u64) {
        let _ = durable;
    }

    /// The section that it is in, from where it is. A stream knows it only at a hole.
    fn section(&mut self) -> Result<Section>;

    /// Reads data into a buffer that is not empty.
    fn read(&mut self, buffer: &mut [u8]) -> Result<Read>;

    /// What is known of the data that comes next. [`Source::skip`] passes over what was fetched
    /// where it lies.
    fn ahead(&mut self) -> Result<Ahead> {
        Ok(Ahead::Unknown)
    }

    /// What the data that comes next looks like, of at most `most` bytes, block by block; the first
    /// block has `first` bytes, the others `block`, and the last may be cut off by `most` or by the
    /// end of the data. `None` if nothing is known without reading it.
    fn peek(&mut self, most: u64, first: u64, block: u64) -> Result<Option<Glimpse>> {
        let _ = (most, first, block);
        Ok(None)
    }

    /// Gives at most so many bytes of the data that comes next to a pipe, and returns how many, at
    /// least one. `None` means that it cannot, or that it failed: the same data is then read, which
    /// tells why.
    fn feed(&mut self, pipe: &mut Pipe, most: u64) -> Result<Option<u64>> {
        let _ = (pipe, most);
        Ok(None)
    }

    /// Whether it may lend memory.
    fn lends(&self) -> bool {
        false
    }

    /// The start of the data that comes next, if it is in memory already; empty otherwise. What a
    /// sink took of it is passed over by [`Source::take`].
    fn lent(&mut self) -> Result<&[u8]> {
        Ok(&[])
    }

    /// So many bytes, at least one, were taken of what [`Source::lent`] gave, with no other call in
    /// between.
    fn take(&mut self, count: usize) -> Result<()> {
        let _ = count;
        Err(Error::Internal)
    }

    /// Passes over a part of the section that it is in.
    fn skip(&mut self, length: u64) -> Result<()>;

    /// All of it was taken, and the sink is finished.
    fn finish(&mut self) -> Result<()>;

    /// The stream failed, with this error. Does nothing after a `finish` that succeeded.
    fn abort(&mut self, error: &Error);

    /// What `EAGAIN` means here.
    fn waiting(&self) -> Waiting;

    /// How often a peer has shown that it is there while nothing of the stream came.
    fn signs(&self) -> u64 {
        0
    }
}

/// How a descriptor is read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// The first byte.
    pub offset: u64,
    /// How many; 0 means to the end.
    pub length: u64,
    /// Read all of it, whatever its map says.
    pub ignore_map: bool,
}

/// A descriptor as a source.
#[derive(Debug)]
pub enum FdSource {
    /// A regular file or a block device.
    File(FileSource),
    /// A pipe, a socket or a character device.
    Bytes(ByteSource),
}

impl FdSource {
    /// Examines a descriptor, which must stay open for as long as the source lives.
    pub fn new(fd: Fd, options: &Options) -> Result<Self> {
        let found = readable(fd)?;
        let error = |errno| Error::nowhere(Operation::Open, Side::Source, errno);
        let flags = sys::flags(fd).map_err(error)?;
        if flags & libc::O_ACCMODE == libc::O_WRONLY || flags & libc::O_PATH == libc::O_PATH {
            return Err(error(libc::EBADF));
        }
        match found {
            Readable::Seekable(file) => FileSource::new(fd, file, options).map(FdSource::File),
            Readable::Stream(kind) => ByteSource::new(fd, kind, options).map(FdSource::Bytes),
        }
    }
}

/// The same call of whichever kind it is.
macro_rules! each {
    ($self:ident, $end:ident => $call:expr) => {
        match $self {
            FdSource::File($end) => $call,
            FdSource::Bytes($end) => $call,
        }
    };
}

impl Source for FdSource {
    fn tells_holes(&mut self) -> Result<bool> {
        each!(self, end => end.tells_holes())
    }

    fn total(&self) -> Option<u64> {
        each!(self, end => end.total())
    }

    fn rewind(&mut self) -> Result<()> {
        each!(self, end => end.rewind())
    }

    fn section(&mut self) -> Result<Section> {
        each!(self, end => end.section())
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<Read> {
        each!(self, end => end.read(buffer))
    }

    fn ahead(&mut self) -> Result<Ahead> {
        each!(self, end => end.ahead())
    }

    fn peek(&mut self, most: u64, first: u64, block: u64) -> Result<Option<Glimpse>> {
        each!(self, end => end.peek(most, first, block))
    }

    fn feed(&mut self, pipe: &mut Pipe, most: u64) -> Result<Option<u64>> {
        each!(self, end => end.feed(pipe, most))
    }

    fn skip(&mut self, length: u64) -> Result<()> {
        each!(self, end => end.skip(length))
    }

    fn finish(&mut self) -> Result<()> {
        each!(self, end => end.finish())
    }

    fn abort(&mut self, error: &Error) {
        each!(self, end => end.abort(error));
    }

    fn waiting(&self) -> Waiting {
        each!(self, end => end.waiting())
    }
}

/// The end of a range, checked.
fn range_end(offset: u64, length: u64) -> Result<u64> {
    offset
        .checked_add(length)
        .filter(|end| i64::try_from(*end).is_ok())
        .ok_or_else(|| Error::argument("options.length", "ends beyond every file", libc::EINVAL))
}
