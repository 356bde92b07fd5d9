//! The position of a sink with offsets: its range, its limits, and how much of it is durable.

use super::interval::Interval;
use super::writeback::Writeback;
use super::{Checkpoint, Options};
use crate::direct::{Alignment, BLIND, Part, Writer};
use crate::end::{Attempt, Extent, Geometry, Reply};
use crate::error::{Allowed, Bound, Error, Operation, Result, Rule, Side};
use crate::filesystem::FileSystem;
use crate::life::Life;
use crate::pipe::Pipe;
use crate::queue::{DEPTH, Queue, REQUEST};
use crate::sys::{self, Fd, FileKind};
use std::collections::VecDeque;
use std::time::Instant;

static START: Rule = Rule::new("options.offset", Bound::Most);
static END: Rule = Rule::new("the end of the bytes", Bound::Most);

/// The error for bytes beyond the limit.
#[cold]
fn beyond(
    rule: &'static Rule,
    operation: Operation,
    offset: u64,
    given: u64,
    (limit, errno): (u64, i32),
) -> Error {
    let given = i64::try_from(given).unwrap_or(i64::MAX);
    rule.broken((operation, Side::Sink, offset), errno, given, limit)
}

/// The error for a kept section that ends beyond the old content of a file.
#[cold]
pub(super) fn not_there(offset: u64, end: u64, size: u64) -> Error {
    static KEPT: Rule = Rule::new("the end of the kept section", Bound::Most);
    beyond(&KEPT, Operation::Keep, offset, end, (size, libc::ENODATA))
}

/// The place in a regular file or a block device that the next byte goes to.
#[derive(Debug)]
pub(super) struct Place<C> {
    pub(super) fd: Fd,
    start: u64,
    at: u64,
    /// The first byte that may not be written, and the errno for it.
    limit: (u64, i32),
    sync: bool,
    interval: Interval,
    writeback: Writeback,
    durable: u64,
    checkpoint: C,
    /// The file system, once it was looked up.
    file_system: Option<FileSystem>,
    life: Life,
    /// Set if it was opened with O_DIRECT.
    direct: Option<Box<Writer>>,
    /// Requests that are under way.
    pub(super) queue: Queue,
}

impl<C: Checkpoint> Place<C> {
    /// A place within `capacity`. Bytes beyond it fail with `errno`.
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
            return Err(beyond(&START, Operation::Open, at, at, limit));
        }
        Ok(Place {
            fd,
            start: at,
            at,
            limit,
            sync: options.sync,
            interval: Interval::new(options.sync_interval),
            writeback: Writeback::new(options.sync, at),
            durable: at,
            checkpoint,
            file_system: None,
            life: Life::Open,
            direct: None,
            queue: Queue::new(fd),
        })
    }

    /// Finds out whether it was opened with O_DIRECT. `old_end` is the end of the old content.
    pub(super) fn direct(mut self, kind: FileKind, old_end: u64) -> Result<Self> {
        let error = |errno| Error::nowhere(Operation::Open, Side::Sink, errno);
        if let Some(alignment) = Alignment::of(self.fd, kind).map_err(error)? {
            let writer = Writer::new(self.fd, alignment, old_end).map_err(error)?;
            self.direct = Some(crate::buffer::boxed(writer)?);
            self.writeback.never();
        }
        Ok(self)
    }

    /// Whether it was opened with O_DIRECT.
    pub(super) fn is_direct(&self) -> bool {
        self.direct.is_some()
    }

    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Whether the stream has come anywhere.
    pub(super) fn has_moved(&self) -> bool {
        self.at > self.start
    }

    /// Moves on past a hole or kept bytes.
    pub(super) fn advance(&mut self, by: u64) {
        self.at += by;
        self.interval.other();
    }

    /// Moves on past data.
    #[inline]
    pub(super) fn put(&mut self, count: u64) {
        self.at += count;
        self.interval.data(count);
        self.writeback.data(self.fd, self.at, count);
    }

    pub(super) fn error(&self, operation: Operation, errno: i32) -> Error {
        if let (BLIND, Some(block)) = (errno, self.blind()) {
            return self.unaligned(operation, self.at, block);
        }
        if errno == libc::EAGAIN {
            // There is nothing to wait for.
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

    /// Whether this much more fits.
    pub(super) fn room(&self, length: u64, operation: Operation) -> Result<()> {
        self.life.check(operation, Side::Sink, self.at)?;
        let end = self.at.saturating_add(length);
        if end <= self.limit.0 {
            return Ok(());
        }
        Err(beyond(&END, operation, self.at, end, self.limit))
    }

    /// Refuses a stream of this many bytes that does not fit, before it starts.
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

    /// The size of a block, if a part of one cannot be written because the rest cannot be read.
    fn blind(&self) -> Option<u64> {
        let direct = self.direct.as_ref()?;
        (!direct.readable()).then(|| direct.alignment().block)
    }

    fn unaligned(&self, operation: Operation, offset: u64, block: u64) -> Error {
        let why = "the rest of the block must be kept, and O_WRONLY does not allow to read it";
        Error::Unaligned { operation, side: Side::Sink, offset, block, why }
    }

    /// Whether sections can be kept. Their ends are not known in advance, and may lie within a block.
    pub(super) fn keeps(&self) -> bool {
        self.blind().is_none()
    }

    /// Refuses a stream that starts, ends or may end within a block whose rest cannot be read.
    pub(super) fn admit_edges(&self, total: Option<u64>) -> Result<()> {
        let (Some(block), Some(direct)) = (self.blind(), &self.direct) else { return Ok(()) };
        let old_end = direct.old_end();
        let cuts = |offset: u64| offset % block != 0 && offset - offset % block < old_end;
        if cuts(self.at) {
            return Err(self.unaligned(Operation::Open, self.at, block));
        }
        match total {
            Some(total) => {
                let end = self.at.saturating_add(total);
                // Nothing lies behind the end of the file.
                if cuts(end) && end < old_end {
                    return Err(self.unaligned(Operation::Open, end, block));
                }
            }
            None if self.at < old_end => {
                let why = "the stream may end within a block, and O_WRONLY does not allow to read the rest";
                return Err(Error::Unaligned {
                    operation: Operation::Open,
                    side: Side::Sink,
                    offset: self.at,
                    block,
                    why,
                });
            }
            None => {}
        }
        Ok(())
    }

    /// Bytes at the start of a hole that must be written as zeros, because they are a part of a block.
    pub(super) fn edge_part(&self, length: u64) -> u64 {
        self.direct.as_ref().map_or(0, |direct| direct.part(self.at, length))
    }

    /// Whether a part of a block is buffered.
    pub(super) fn holds_edge(&self) -> bool {
        self.direct.as_ref().is_some_and(|direct| direct.holds())
    }

    /// The part of a hole at an aligned offset that is whole blocks.
    pub(super) fn whole_blocks(&self, length: u64) -> u64 {
        self.direct.as_ref().map_or(length, |direct| direct.alignment().down(length))
    }

    /// Writes zeros into a part of a block, and moves on.
    pub(super) fn write_edge_zeros(&mut self, length: u64) -> Result<u64> {
        let at = self.at;
        let Some(direct) = &mut self.direct else { return Err(Error::Internal) };
        let count = direct.put(Part::Zeros(length), at);
        let count = count.map_err(|errno| self.error(Operation::Hole, errno))?;
        self.advance(count);
        Ok(count)
    }

    /// Writes the buffered part of an incomplete block. The next piece need not be adjacent.
    pub(super) fn leave_edge(&mut self) -> Result<()> {
        let left = self.direct.as_mut().map_or(Ok(()), |direct| direct.leave());
        left.map_err(|errno| self.error(Operation::Write, errno))
    }

    /// The end of the padding that was written to fill a block; 0 if none was.
    pub(super) fn padded(&self) -> u64 {
        self.direct.as_ref().map_or(0, |direct| direct.padded())
    }

    /// Bytes that may be written here before a checkpoint is due or the limit is reached.
    fn most(&self) -> u64 {
        self.interval.most().min(self.limit.0 - self.at)
    }

    /// Writes as much as fits, and moves on.
    #[inline]
    pub(super) fn write(&mut self, buffer: &[u8]) -> Result<usize> {
        let most = self.most().min(buffer.len() as u64) as usize;
        let count = match &mut self.direct {
            None => sys::pwrite(self.fd, &buffer[..most], self.at),
            Some(direct) => direct.write(&buffer[..most], self.at),
        };
        let count = count.map_err(|errno| self.error(Operation::Write, errno))?;
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

    /// Whether [`Place::fetch`] is worth trying: the file system does more than to copy pages.
    pub(super) fn fetches(&mut self) -> bool {
        // Where shared blocks end, the rest of a block must be read.
        if self.blind().is_some() {
            return false;
        }
        self.file_system().copies_itself()
    }

    /// Fetches as much of an extent as fits, and moves on.
    pub(super) fn fetch(&mut self, extent: &Extent) -> Result<Attempt> {
        self.life.check(Operation::Write, Side::Sink, self.at)?;
        if !self.fetches() {
            return Ok(Attempt::Declined(None));
        }
        let most = self.most().min(extent.length);
        let answer = match most {
            0 => Ok(0),
            // With O_DIRECT blocks are shared or nothing is done: a copy would go through the cache.
            _ if self.is_direct() => self.share(extent, most),
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

    fn share(&self, extent: &Extent, most: u64) -> sys::Sys<u64> {
        // No block of a file system is larger.
        let whole = most - most % (64 << 10);
        match whole {
            0 => Ok(0),
            _ => {
                sys::clone_range(extent.fd, extent.offset, self.fd, self.at, whole).map(|()| whole)
            }
        }
    }

    /// Takes as much from a pipe as fits, and moves on.
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

    /// The facts for requests, if it was opened with O_DIRECT. `grows`: it can grow, and holds bytes up to here.
    pub(super) fn geometry(&mut self, grows: Option<u64>) -> Result<Geometry> {
        self.life.check(Operation::Open, Side::Sink, self.at)?;
        // Data that was written before, in another way, may end within a block.
        self.leave_edge()?;
        self.queue.reserve()?;
        let Some(direct) = &self.direct else { return Err(Error::Internal) };
        let alignment = direct.alignment();
        Ok(Geometry {
            at: self.at,
            size: grows.unwrap_or(direct.old_end()),
            block: alignment.block,
            memory: alignment.memory,
            request: REQUEST,
            zero: i64::MAX as u64,
            depth: DEPTH,
            begin: 0,
            grows: grows.is_some(),
            fast_zero: false,
            reads: direct.readable(),
        })
    }

    /// Whether the stream may reach this offset.
    pub(super) fn reach(&self, end: u64, operation: Operation) -> Result<()> {
        self.life.check(operation, Side::Sink, self.at)?;
        if end <= self.limit.0 {
            return Ok(());
        }
        Err(beyond(&END, operation, self.limit.0, end, self.limit))
    }

    /// Takes back requests that are done.
    pub(super) fn take_replies(&mut self, replies: &mut VecDeque<Reply>) -> Result<()> {
        let advanced = self.queue.advance(replies);
        advanced.map_err(|errno| Error::at(Operation::Write, Side::Sink, self.at, errno))
    }

    /// Whether it is time to make the written data durable.
    pub(super) fn due(&mut self) -> bool {
        self.interval.is_due(Instant::now)
    }

    /// Makes the written data durable, and reports the checkpoint.
    pub(super) fn make_durable(&mut self) -> Result<()> {
        let settled = self.direct.as_mut().map_or(Ok(()), |direct| direct.settle());
        settled.map_err(|errno| self.error(Operation::Write, errno))?;
        sys::sync(self.fd).map_err(|errno| self.error(Operation::Sync, errno))?;
        self.checkpoint
            .reached(self.at)
            .map_err(|errno| Error::at(Operation::Checkpoint, Side::Sink, self.at, errno))?;
        self.durable = self.at;
        self.interval.reached(Instant::now());
        Ok(())
    }

    /// Bytes of the stream that are durable, if that was asked for.
    pub(super) fn durable(&self) -> Option<u64> {
        (self.sync || self.interval.is_set()).then(|| self.durable - self.start)
    }

    /// Ends it, and makes it durable if that was asked for.
    pub(super) fn finish(&mut self) -> Result<()> {
        if self.life == Life::Finished {
            return Ok(());
        }
        self.life.check(Operation::Finish, Side::Sink, self.at)?;
        self.leave_edge()?;
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
