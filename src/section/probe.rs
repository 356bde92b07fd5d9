//! One question to the map of a file, and whether its answer is believed.

use super::signals::steadily;
use super::{Kind, Section};
use crate::error::{Error, Operation, Result, Side};
use crate::filesystem::{self, FileSystem};
use crate::sys::{self, Fd, Sys};
use crate::trace::{Event, MapEvent, Trail};

/// The most bytes that are taken for data if the map contradicts itself. Then it is asked again.
const DOUBTFUL: u64 = 1024 * 1024;

/// The section at `offset`, which is before `end`, by lseek(2). `known`: the file system reported it as data.
/// An answer that contradicts itself is data, and `doubt` is called.
#[inline(always)]
pub(super) fn probe(
    fd: Fd,
    offset: u64,
    end: u64,
    known: bool,
    mut doubt: impl FnMut(),
) -> Sys<Section> {
    let to = |kind, to: u64| Ok(Section::new(kind, offset, to.min(end) - offset));
    let mut doubtful = |end| {
        doubt();
        to(Kind::Data, end)
    };
    let mut data_first = !known;
    // The file may change between the two questions about a section: try both twice.
    for _ in 0..2 {
        if data_first {
            match sys::seek_data(fd, offset) {
                Ok(data) if data < offset => return doubtful(end),
                Ok(data) if data > end && data > sys::size(fd)? => return doubtful(end),
                Ok(data) if data > offset => return to(Kind::Hole, data),
                Ok(_) => {}
                Err(libc::ENXIO) => return rest(fd, offset, end, Kind::Hole),
                Err(errno) => return Err(errno),
            }
        }
        match sys::seek_hole(fd, offset) {
            Ok(hole) if hole > offset => return to(Kind::Data, hole),
            Ok(hole) if hole < offset => return doubtful(end),
            Ok(_) => {}
            Err(libc::ENXIO) => return rest(fd, offset, end, Kind::Data),
            Err(errno) => return Err(errno),
        }
        data_first = true;
    }
    doubtful(offset.saturating_add(DOUBTFUL))
}

/// The section behind the last answer of the map: to `end`, or to the end of the file if that is less.
#[cold]
fn rest(fd: Fd, offset: u64, end: u64, kind: Kind) -> Sys<Section> {
    let end = end.min(sys::size(fd)?);
    Ok(if end > offset { Section::new(kind, offset, end - offset) } else { Section::end(offset) })
}

/// The meaning of a failure of lseek(2).
pub(super) enum Refusal {
    /// There is no map: everything is data.
    NoMap(i32),
    /// The medium, the memory or the connection to it failed, or a signal came.
    Failure(i32),
    /// Another reason, which may lie in the map alone.
    Other(i32),
}

impl Refusal {
    fn of(errno: i32) -> Self {
        match errno {
            libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOTTY => Refusal::NoMap(errno),
            libc::EIO
            | libc::ENOMEM
            | libc::EINTR
            | libc::EBADF
            | libc::ESTALE
            | libc::ENODEV
            | libc::ENOTCONN
            | libc::ECONNABORTED
            | libc::ETIMEDOUT
            | libc::EREMOTEIO
            | libc::EBADMSG
            | libc::EUCLEAN => Refusal::Failure(errno),
            _ => Refusal::Other(errno),
        }
    }

    /// As `of`, for a file. The SMB client of Linux fails with EIO if a file has more sections than it asks its
    /// server for. If the medium has failed, a read will show it.
    pub(super) fn of_file(fd: Fd, errno: i32) -> Self {
        match Refusal::of(errno) {
            Refusal::Failure(libc::EIO) if FileSystem::of(fd) == Ok(FileSystem::Smb) => {
                Refusal::Other(errno)
            }
            meaning => meaning,
        }
    }
}

/// Whether a hole of the map is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Belief {
    /// No hole was reported, and no question failed.
    Unasked,
    /// The map may not follow the page cache.
    Foreign,
    /// The map follows the page cache.
    Native,
    /// The content of the cache was written back before the map was asked again.
    Flushed,
    /// It cannot be written back: all is data.
    Never,
}

impl Belief {
    /// Whether holes are believed without further checks.
    #[inline]
    pub(super) fn takes(self, kind: Kind) -> bool {
        kind != Kind::Hole || matches!(self, Belief::Native | Belief::Flushed)
    }

    /// Finds out, before a hole is met, whether one will be believed.
    #[cold]
    pub(super) fn settle(&mut self, fd: Fd, offset: u64, trail: &mut Trail) -> Result<()> {
        if *self != Belief::Unasked {
            return Ok(());
        }
        if filesystem::map_follows_cache(fd, offset) {
            *self = Belief::Native;
        } else if let Some(errno) = self.flush(fd, offset, trail)? {
            trail.record(Event::Map(MapEvent::Refused, Some(errno)));
        }
        Ok(())
    }

    /// Writes back the cache, after which the map can be believed. Returns the errno if that fails.
    #[cold]
    fn flush(&mut self, fd: Fd, offset: u64, trail: &mut Trail) -> Result<Option<i32>> {
        match steadily(|| sys::sync_data(fd)) {
            Ok(()) => {
                *self = Belief::Flushed;
                trail.record(Event::Map(MapEvent::Flushed, None));
                Ok(None)
            }
            Err(libc::EINTR) => Err(Error::at(Operation::Map, Side::Source, offset, libc::EINTR)),
            Err(errno) => {
                *self = Belief::Never;
                Ok(Some(errno))
            }
        }
    }
}

/// Decides on a hole that is not believed yet, or on a question that failed. `None` means that
/// there is no map that could be used: everything from here on is data.
///
/// A server does not see the page cache of this machine, so a hole of its map may have data. Some local maps
/// lack cached data too: ext4 fails with ENOENT for a file that it is about to store within its inode. To
/// write back the cache solves both.
#[cold]
pub(super) fn reconsider(
    fd: Fd,
    offset: u64,
    end: u64,
    first: Sys<Section>,
    belief: &mut Belief,
    trail: &mut Trail,
) -> Result<Option<Section>> {
    let failed = |errno| Err(Error::at(Operation::Map, Side::Source, offset, errno));
    let refused = |errno, trail: &mut Trail| {
        trail.record(Event::Map(MapEvent::Refused, Some(errno)));
        Ok(None)
    };
    match first.map_err(|errno| Refusal::of_file(fd, errno)) {
        Ok(section) => {
            if *belief != Belief::Foreign && filesystem::map_follows_cache(fd, offset) {
                *belief = Belief::Native;
                return Ok(Some(section));
            }
        }
        Err(Refusal::NoMap(errno)) => return refused(errno, trail),
        Err(Refusal::Failure(errno)) => return failed(errno),
        Err(Refusal::Other(errno)) if *belief == Belief::Flushed => return refused(errno, trail),
        Err(Refusal::Other(_)) => {}
    }
    if let Some(errno) = belief.flush(fd, offset, trail)? {
        return refused(errno, trail);
    }
    match probe(fd, offset, end, false, || ()).map_err(|errno| Refusal::of_file(fd, errno)) {
        Ok(section) => Ok(Some(section)),
        Err(Refusal::NoMap(errno) | Refusal::Other(errno)) => refused(errno, trail),
        Err(Refusal::Failure(errno)) => failed(errno),
    }
}
