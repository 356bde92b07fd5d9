//! Descriptors as sources.

mod bytes;
mod cache;
mod file;
mod look_ahead;
mod peek;

use crate::buffer::boxed;
use crate::end::Source;
use crate::error::{Allowed, Error, Operation, Result, Side};
use crate::section::{Readable, readable};
use crate::sys::{self, Fd};
use bytes::ByteSource;
use file::FileSource;

/// How a descriptor is read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// The offset of the first byte.
    pub offset: u64,
    /// Bytes to read; 0 means to the end.
    pub length: u64,
    /// Read all of it, whatever its map reports.
    pub ignore_map: bool,
    /// An end before `length` is not an error.
    pub at_most: bool,
}

/// Examines a descriptor and makes a source of it. The descriptor must stay open for as long as the source
/// lives.
pub fn from_fd(fd: Fd, options: &Options) -> Result<Box<dyn Source>> {
    let found = readable(fd)?;
    let error = |errno| Error::nowhere(Operation::Open, Side::Source, errno);
    let flags = sys::flags(fd).map_err(error)?;
    if flags & libc::O_ACCMODE == libc::O_WRONLY || flags & libc::O_PATH == libc::O_PATH {
        return Err(error(libc::EBADF));
    }
    Ok(match found {
        Readable::Seekable(file) => boxed(FileSource::new(fd, file, options)?)?,
        Readable::Stream(kind) => boxed(ByteSource::new(fd, kind, options)?)?,
    })
}

/// The end of a range, which must not exceed the largest offset.
fn range_end(offset: u64, length: u64) -> Result<u64> {
    offset.checked_add(length).filter(|end| i64::try_from(*end).is_ok()).ok_or_else(|| {
        Error::value(
            "options.length",
            length,
            Allowed::Most((i64::MAX as u64).saturating_sub(offset)),
        )
    })
}
