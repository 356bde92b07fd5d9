//! The kind of a descriptor for a reader: a file with offsets and perhaps a map, or a stream of bytes.

use super::signals::steadily;
use crate::device;
use crate::error::{Error, Operation, Result, Side};
use crate::sys::{self, Fd, FileKind, Sys};

/// A descriptor whose content has offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seekable {
    /// Its end when it was examined.
    pub end: u64,
    /// Whether it may have a map.
    pub map: bool,
    /// Whether blocks are allocated for it. If not, its size may be wrong: /proc has files of size 0 with content.
    pub allocated: bool,
}

/// The kind of source that a descriptor is to a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readable {
    /// It has offsets.
    Seekable(Seekable),
    /// It is a stream of bytes.
    Stream(FileKind),
}

/// Examines a descriptor.
pub fn readable(fd: Fd) -> Result<Readable> {
    let stat = steadily(|| sys::stat(fd)).map_err(unopened)?;
    match stat.kind {
        FileKind::Regular => Ok(Readable::Seekable(regular(&stat))),
        kind => special(fd, kind).map_err(unopened),
    }
}

/// As [`readable`], for a descriptor that must have offsets.
#[inline]
pub(super) fn seekable(fd: Fd) -> Sys<Seekable> {
    let stat = steadily(|| sys::stat(fd))?;
    if stat.kind == FileKind::Regular {
        return Ok(regular(&stat));
    }
    match special(fd, stat.kind)? {
        Readable::Seekable(seekable) => Ok(seekable),
        Readable::Stream(_) => Err(libc::ESPIPE),
    }
}

fn regular(stat: &sys::Stat) -> Seekable {
    Seekable { end: stat.size, map: true, allocated: stat.allocated }
}

/// As [`readable`], for a descriptor that is not a regular file.
#[cold]
fn special(fd: Fd, kind: FileKind) -> Sys<Readable> {
    if steadily(|| sys::flags(fd))? & libc::O_PATH == libc::O_PATH {
        return Err(libc::EBADF);
    }
    match kind {
        FileKind::Regular | FileKind::Other => Err(libc::ESPIPE),
        FileKind::Directory => Err(libc::EISDIR),
        FileKind::Block => {
            let end = steadily(|| device::size(fd))?;
            Ok(Readable::Seekable(Seekable { end, map: false, allocated: true }))
        }
        FileKind::Pipe | FileKind::Socket | FileKind::Character => Ok(Readable::Stream(kind)),
    }
}

#[cold]
pub(super) fn unopened(errno: i32) -> Error {
    Error::nowhere(Operation::Open, Side::Source, errno)
}
