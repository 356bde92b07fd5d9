//! Descriptors as sinks.
//!
//! A hole always reads zero afterwards. How a range is made to do so is in `zeroing`, in one
//! place; when it must be is the matter of each kind of sink.

mod append;
mod block;
mod bytes;
mod digest;
mod file;
mod growth;
mod interval;
mod place;
mod proof;
mod writeback;
mod zeroing;

use crate::buffer::boxed;
use crate::end::Sink;
use crate::error::{Error, Operation, Result, Side};
use crate::sys::{self, Fd, FileKind, Sys};
use append::AppendSink;
use block::BlockSink;
use bytes::ByteSink;
pub use digest::DigestSink;
use file::FileSink;

/// Called when data has become durable.
pub trait Checkpoint: Send {
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
    /// fsync after this many bytes; 0 means not in between.
    pub sync_interval: u64,
}

/// Examines a descriptor and makes a sink of it. The descriptor must stay open for as long as the sink lives.
pub fn from_fd(
    fd: Fd,
    options: &Options,
    checkpoint: impl Checkpoint + 'static,
) -> Result<Box<dyn Sink>> {
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
            return Ok(boxed(ByteSink::new(fd, stat.kind, options)?)?);
        }
        FileKind::Regular | FileKind::Block => {}
    }
    let appends = flags & libc::O_APPEND != 0;
    if stat.kind == FileKind::Regular {
        return Ok(match appends {
            true => boxed(AppendSink::new(fd, stat.size, options, checkpoint)?)?,
            false => boxed(FileSink::new(fd, stat.size, options, checkpoint)?)?,
        });
    }
    if appends {
        // pwrite(2) would append, whatever the offset, and a device has no room there.
        let why = "is a block device that was opened with O_APPEND";
        return Err(Error::argument("fd", why, libc::EINVAL));
    }
    Ok(boxed(BlockSink::new(fd, options, checkpoint)?)?)
}
