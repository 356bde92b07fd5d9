//! Where a stream goes.
//!
//! A hole always reads zero afterwards. How a range is made to do so is in `zeroing`, in one
//! place; when it must be is the matter of each kind of sink.

mod append;
mod block;
mod bytes;
mod file;
mod growth;
mod place;
mod proof;
mod zeroing;

use crate::error::{Error, Operation, Result, Side};
use crate::pipe::Pipe;
use crate::source::Extent;
use crate::sys::{self, Fd, FileKind, Sys};
use crate::wait::Waiting;
pub use append::AppendSink;
pub use block::BlockSink;
pub use bytes::ByteSink;
pub use file::FileSink;
use std::time::Instant;

/// The sink of a stream: takes data and holes, and an end.
///
/// Any call but `waiting` and `abort` may fail with `EAGAIN` or `EINTR`, and is then made again;
/// nothing is lost by that.
pub trait Sink {
    /// Whether it can make holes at all.
    fn makes_holes(&mut self) -> Result<bool>;

    /// Is told, before the first byte, how many there will be, so that it can refuse.
    fn announce(&mut self, total: u64) -> Result<()> {
        let _ = total;
        Ok(())
    }

    /// Bytes from the start of the stream that are there already. They are not written again, but
    /// shown to [`Sink::check`] and [`Sink::check_hole`], all of them and in order; then
    /// [`Sink::agrees`] is asked.
    fn held(&mut self) -> Result<u64> {
        Ok(0)
    }

    /// Is shown data that it holds.
    fn check(&mut self, buffer: &[u8]) {
        let _ = buffer;
    }

    /// Is shown a hole that it holds.
    fn check_hole(&mut self, length: u64) {
        let _ = length;
    }

    /// Whether what it was shown is what it holds. If not, all is written from the start.
    fn agrees(&mut self) -> Result<bool> {
        Ok(true)
    }

    /// Takes some of the data, which is not empty; at least one byte.
    fn write(&mut self, buffer: &[u8]) -> Result<usize>;

    /// Whether it may fetch data where it lies. Asked before the first byte, after
    /// [`Sink::held`].
    fn fetches(&mut self) -> bool {
        false
    }

    /// Fetches data where it lies, without a copy through memory, and returns how many bytes.
    /// `None` means that it cannot, or that it failed: the same data is then written, which tells
    /// whose failure it was.
    fn fetch(&mut self, extent: &Extent) -> Result<Option<u64>> {
        let _ = extent;
        Ok(None)
    }

    /// Whether it takes data from a pipe.
    fn drains(&self) -> bool {
        false
    }

    /// Takes some of what is in a pipe, and returns how many bytes, at least one. `None` means that
    /// it cannot, or that it failed: what is left in the pipe is then written, which tells why.
    fn drain(&mut self, pipe: &mut Pipe) -> Result<Option<u64>> {
        let _ = pipe;
        Ok(None)
    }

    /// Whether it may lend memory.
    fn lends(&self) -> bool {
        false
    }

    /// Lends memory, if it has some: data that is put at its start counts as written when
    /// [`Sink::keep`] says how many bytes it is, with no other call in between. It is not empty.
    fn lend(&mut self) -> Result<Option<&mut [u8]>> {
        Ok(None)
    }

    /// So many bytes, at least one, were put where [`Sink::lend`] said.
    fn keep(&mut self, count: usize) -> Result<()> {
        let _ = count;
        Err(Error::Internal)
    }

    /// Makes a hole of at most this length, which is more than 0; at least one byte. Returns its
    /// length: one call is one bounded step.
    fn hole(&mut self, length: u64) -> Result<u64>;

    /// Nothing may come for a while: what was kept back to go out with more goes out now.
    fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    /// When [`Sink::flush`] is due next, even if nothing comes: a peer was promised to hear something.
    fn flush_by(&self) -> Option<Instant> {
        None
    }

    /// All before this offset of the stream is on the medium, if anything is known of that.
    fn durable(&self) -> Option<u64> {
        None
    }

    /// That was all of it. Everything that could still fail fails here.
    fn finish(&mut self) -> Result<()>;

    /// The stream failed, with this error. Does nothing after a `finish` that succeeded.
    fn abort(&mut self, error: &Error);

    /// What `EAGAIN` means here.
    fn waiting(&self) -> Waiting;

    /// How often a peer has shown that it is there.
    fn signs(&self) -> u64 {
        0
    }
}

/// Is told what is durable.
pub trait Checkpoint {
    /// All before this offset is on the medium. An errno ends the stream.
    fn reached(&mut self, durable: u64) -> Sys<()>;
}

impl Checkpoint for () {
    fn reached(&mut self, _durable: u64) -> Sys<()> {
        Ok(())
    }
}

/// How a descriptor is written.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Where the first byte goes.
    pub offset: u64,
    /// The most bytes that may go there; 0 means no limit.
    pub length: u64,
    /// fsync before success.
    pub sync: bool,
    /// Cut a regular file after the end of the stream.
    pub truncate: bool,
    /// Where holes go it already reads zero.
    pub known_zero: bool,
    /// fsync after so many bytes; 0 means not in between.
    pub sync_interval: u64,
}

/// A descriptor as a sink.
#[derive(Debug)]
pub enum FdSink<C> {
    /// A regular file.
    File(FileSink<C>),
    /// A regular file that was opened with O_APPEND.
    Append(AppendSink<C>),
    /// A block device.
    Block(BlockSink<C>),
    /// A pipe, a socket or a character device.
    Bytes(ByteSink),
}

impl<C: Checkpoint> FdSink<C> {
    /// Examines a descriptor, which must stay open for as long as the sink lives.
    pub fn new(fd: Fd, options: &Options, checkpoint: C) -> Result<Self> {
        let error = |errno| Error::nowhere(Operation::Open, Side::Sink, errno);
        let stat = sys::stat(fd).map_err(error)?;
        let flags = sys::flags(fd).map_err(error)?;
        if flags & libc::O_PATH == libc::O_PATH {
            return Err(error(libc::EBADF));
        }
        match stat.kind {
            FileKind::Directory => return Err(error(libc::EISDIR)),
            FileKind::Other => return Err(error(libc::ESPIPE)),
            _ if flags & libc::O_ACCMODE == libc::O_RDONLY => return Err(error(libc::EBADF)),
            FileKind::Pipe | FileKind::Socket | FileKind::Character => {
                return ByteSink::new(fd, stat.kind, options).map(FdSink::Bytes);
            }
            FileKind::Regular | FileKind::Block => {}
        }
        let appends = flags & libc::O_APPEND != 0;
        if stat.kind == FileKind::Regular {
            return if appends {
                AppendSink::new(fd, stat.size, options, checkpoint).map(FdSink::Append)
            } else {
                FileSink::new(fd, stat.size, options, checkpoint).map(FdSink::File)
            };
        }
        if appends {
            // pwrite(2) would append, whatever the offset, and a device has no room there.
            let why = "was opened with O_APPEND, which writes nowhere but at the end";
            return Err(Error::argument("fd", why, libc::EINVAL));
        }
        BlockSink::new(fd, options, checkpoint).map(FdSink::Block)
    }
}

/// The same call of whichever kind it is.
macro_rules! each {
    ($self:ident, $end:ident => $call:expr) => {
        match $self {
            FdSink::File($end) => $call,
            FdSink::Append($end) => $call,
            FdSink::Block($end) => $call,
            FdSink::Bytes($end) => $call,
        }
    };
}

impl<C: Checkpoint> Sink for FdSink<C> {
    fn makes_holes(&mut self) -> Result<bool> {
        each!(self, end => end.makes_holes())
    }

    fn announce(&mut self, total: u64) -> Result<()> {
        each!(self, end => end.announce(total))
    }

    fn write(&mut self, buffer: &[u8]) -> Result<usize> {
        each!(self, end => end.write(buffer))
    }

    fn fetches(&mut self) -> bool {
        each!(self, end => end.fetches())
    }

    fn fetch(&mut self, extent: &Extent) -> Result<Option<u64>> {
        each!(self, end => end.fetch(extent))
    }

    fn drains(&self) -> bool {
        each!(self, end => end.drains())
    }

    fn drain(&mut self, pipe: &mut Pipe) -> Result<Option<u64>> {
        each!(self, end => end.drain(pipe))
    }

    fn hole(&mut self, length: u64) -> Result<u64> {
        each!(self, end => end.hole(length))
    }

    fn durable(&self) -> Option<u64> {
        each!(self, end => end.durable())
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
