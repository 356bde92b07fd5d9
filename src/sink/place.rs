//! Where a sink with offsets is: its range, its limits, and what of it is durable.

use super::interval::Interval;
use super::{Checkpoint, Options};
use crate::end::{Attempt, Extent};
use crate::error::{Allowed, Error, Operation, Result, Side};
use crate::filesystem::FileSystem;
use crate::life::Life;
use crate::pipe::Pipe;
use crate::sys::{self, Fd};
use std::time::Instant;

/// The place in a regular file or a block device that the next byte goes to.
#[derive(Debug)]
pub(super) struct Place<C> {
    pub(super) fd: Fd,
    start: u64,
    at: u64,
    /// The first byte that may not be written, and the errno that says so.
    limit: (u64, i32),
    sync: bool,
    interval: Interval,
    durable: u64,
    checkpoint: C,
    /// The file system; not asked for at first.
    file_system: Option<FileSystem>,
    life: Life,
}

impl<C: Checkpoint> Place<C> {
    /// A place within `capacity`, beyond which `errno` is the answer.
    pub(super) fn new(
        fd: Fd,
        options: &Options,
        capacity: u64,
        errno: i32,
        checkpoint: C,
    ) -> Result<Self> {
        let at = options.offset;
        let mut limit = (capacity, errno);
        if options.length != 0 {
            let end = at.checked_add(options.length).ok_or_else(|| {
                Error::value("options.length", options.length, Allowed::Most(u64::MAX - at))
            })?;
            if end < limit.0 {
                limit = (end, libc::EFBIG);
            }
        }
        if at > limit.0 {
            return Err(Error::at(Operation::Open, Side::Sink, at, limit.1));
        }
        Ok(Place {
            fd,
            start: at,
            at,
            limit,
            sync: options.sync,
            interval: Interval::new(options.sync_interval),
            durable: at,
            checkpoint,
            file_system: None,
            life: Life::Open,
        })
    }

    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Moves on past a hole or kept bytes.
    pub(super) fn advance(&mut self, by: u64) {
        self.at += by;
        self.interval.other();
    }

    /// Moves on past data.
    fn put(&mut self, count: u64) {
        self.at += count;
        self.interval.data(count);
    }

    pub(super) fn error(&self, operation: Operation, errno: i32) -> Error {
        if errno == libc::EAGAIN {
            // There is nobody to wait for.
            return Error::Because {
                operation,
                side: Side::Sink,
                offset: self.at,
                errno: libc::EIO,
                why: "the file system returned EAGAIN, which cannot be waited for",
            };
        }
        Error::at(operation, Side::Sink, self.at, errno)
    }

    /// Whether so much more fits.
    pub(super) fn room(&self, length: u64, operation: Operation) -> Result<()> {
        self.life.check(operation, Side::Sink, self.at)?;
        let (limit, errno) = self.limit;
        match self.at.checked_add(length) {
            Some(end) if end <= limit => Ok(()),
            _ => Err(Error::at(operation, Side::Sink, self.at, errno)),
        }
    }

    /// Refuses a stream of this many bytes that does not fit, before any of it comes.
    pub(super) fn admit(&self, total: u64) -> Result<()> {
        self.life.check(Operation::Write, Side::Sink, self.at)?;
        let (limit, errno) = self.limit;
        let room = limit.saturating_sub(self.at);
        if total <= room {
            Ok(())
        } else {
            Err(Error::TooLong { offset: self.at, total, room, errno })
        }
    }

    /// How many bytes may be put here before something else is due.
    fn most(&self) -> u64 {
        self.interval.most().min(self.limit.0 - self.at)
    }

    /// Writes what fits, and moves on.
    pub(super) fn write(&mut self, buffer: &[u8]) -> Result<usize> {
        let most = self.most().min(buffer.len() as u64) as usize;
        let count = sys::pwrite(self.fd, &buffer[..most], self.at)
            .map_err(|errno| self.error(Operation::Write, errno))?;
        if count == 0 {
            return Err(self.error(Operation::Write, libc::EIO));
        }
        self.put(count as u64);
        Ok(count)
    }

    /// The file system that it is on.
    pub(super) fn file_system(&mut self) -> FileSystem {
        let fd = self.fd;
        *self.file_system.get_or_insert_with(|| FileSystem::of(fd).unwrap_or(FileSystem::Other))
    }

    /// Whether [`Place::fetch`] may be the way: its file system does more than to move pages.
    pub(super) fn fetches(&mut self) -> bool {
        self.file_system().copies_itself()
    }

    /// Fetches what fits of an extent, and moves on.
    pub(super) fn fetch(&mut self, extent: &Extent) -> Result<Attempt> {
        self.life.check(Operation::Write, Side::Sink, self.at)?;
        if !self.fetches() {
            return Ok(Attempt::Declined(None));
        }
        let most = self.most().min(extent.length);
        let answer = match most {
            0 => Ok(0),
            _ => sys::copy_file_range(extent.fd, extent.offset, self.fd, self.at, most),
        };
        match answer {
            Ok(0) => Ok(Attempt::Declined(None)),
            Ok(count) => {
                self.put(count);
                Ok(Attempt::Moved(count))
            }
            Err(libc::EINTR) => Err(self.error(Operation::Write, libc::EINTR)),
            Err(errno) => Ok(Attempt::Declined(Some(errno))),
        }
    }

    /// Takes what fits of a pipe, and moves on.
    pub(super) fn drain(&mut self, pipe: &mut Pipe) -> Result<Attempt> {
        match pipe.drain(self.fd, self.at, self.most()) {
            Ok(0) => Ok(Attempt::Declined(None)),
            Ok(count) => {
                self.put(count);
                Ok(Attempt::Moved(count))
            }
            Err(libc::EINTR) => Err(self.error(Operation::Write, libc::EINTR)),
            Err(errno) => Ok(Attempt::Declined(Some(errno))),
        }
    }

    /// Whether it is time to make durable what there is.
    pub(super) fn due(&mut self) -> bool {
        self.interval.is_due(Instant::now)
    }

    /// Makes durable what there is, and says so.
    pub(super) fn make_durable(&mut self) -> Result<()> {
        sys::sync(self.fd).map_err(|errno| self.error(Operation::Sync, errno))?;
        self.checkpoint
            .reached(self.at)
            .map_err(|errno| Error::at(Operation::Checkpoint, Side::Sink, self.at, errno))?;
        self.durable = self.at;
        self.interval.reached(Instant::now());
        Ok(())
    }

    /// Bytes of the stream that are durable, if that is looked after.
    pub(super) fn durable(&self) -> Option<u64> {
        (self.sync || self.interval.is_set()).then(|| self.durable - self.start)
    }

    /// The end: makes it durable if that was asked for.
    pub(super) fn finish(&mut self) -> Result<()> {
        if self.life == Life::Finished {
            return Ok(());
        }
        self.life.check(Operation::Finish, Side::Sink, self.at)?;
        if self.sync || self.interval.is_set() {
            self.make_durable()?;
        }
        self.life = Life::Finished;
        Ok(())
    }

    pub(super) fn abort(&mut self) {
        self.life.abort();
    }

    pub(super) fn over(&self) -> bool {
        self.life != Life::Open
    }
}
