//! Descriptors as sinks.
//!
//! A hole always reads zero afterwards. `zeroing` makes a range read zero; each kind of sink decides when
//! that is needed.

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
    /// Everything before this offset is on the medium. An errno ends the stream.
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
    /// The offset of the first byte.
    pub offset: u64,
    /// The most bytes that may be written; 0 means no limit.
    pub length: u64,
    /// fsync before success.
    pub sync: bool,
    /// Cut a regular file at the end of the stream.
    pub truncate: bool,
    /// The target already reads zero where the stream has holes.
    pub known_zero: bool,
    /// fsync after this many bytes; 0 means only at the end.
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
        // pwrite(2) would append, whatever the offset, and a device cannot grow.
        let why = "is a block device that was opened with O_APPEND";
        return Err(Error::argument("fd", why, libc::EINVAL));
    }
    Ok(boxed(BlockSink::new(fd, options, checkpoint)?)?)
}
