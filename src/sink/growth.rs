//! The growth of a regular file: the holes past its end, and its size.
//!
//! A hole past the end is skipped, and one ftruncate(2) in `finish` sets the size. If the target refuses
//! that, because it can only be written in order or its size cannot be set, zeros are written instead.

use super::zeroing::write_zeros;
use crate::end::{HoleWay, Made, Peer};
use crate::error::Result;
use crate::filesystem::FileSystem;
use crate::sys::{self, Fd, Sys};
use crate::trace::{Event, Trail};
use std::time::Instant;

/// The most zeros that one call writes, so that a cancel acts in time.
const FILL_MOST: u64 = 16 << 20;

/// Reserved blocks are given back in units of this. If blocks are larger, the kernel rounds inwards.
const BLOCK: u64 = 4096;

/// The writes that are allowed past the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// Anything.
    Any,
    /// Only the next byte can be written.
    Sequential,
}

/// The end of a regular file that is written.
#[derive(Debug)]
pub(super) struct Growth {
    fd: Fd,
    /// The start of the sink's range. Bytes before it belong to others, even past the end: another writer may
    /// be at work there.
    start: u64,
    /// The size: that at the start, or the end of what was written since.
    size: u64,
    order: Order,
    /// Whether blocks are reserved past the end of the data, which are to be given back when a hole is
    /// skipped. `None` before it is known.
    reserves: Option<bool>,
    /// Steps in which skipped holes were filled after all.
    filled: u64,
}

impl Growth {
    /// For a file of this size that is written from `start` on.
    pub(super) fn new(fd: Fd, start: u64, size: u64) -> Self {
        Growth { fd, start, size, order: Order::Any, reserves: None, filled: 0 }
    }

    /// The size, as far as it is known.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Data was written up to this offset.
    pub(super) fn reached(&mut self, end: u64) {
        self.size = self.size.max(end);
    }

    /// The file was given this size.
    pub(super) fn set(&mut self, size: u64) {
        self.size = size;
    }

    /// Called before a write at an offset: fills the skipped holes before it, if it must. `EINTR` means that
    /// a part of that is done.
    #[inline]
    pub(super) fn prepare(&mut self, at: u64) -> Sys<()> {
        match self.order {
            Order::Sequential if at > self.size => self.fill(at),
            Order::Sequential | Order::Any => Ok(()),
        }
    }

    /// Whether a write at an offset that failed is to be repeated: a hole before it was skipped, and from
    /// now on none is.
    #[cold]
    pub(super) fn write_in_order(&mut self, at: u64, errno: i32, trail: &mut Trail) -> bool {
        let refused = matches!(errno, libc::ESPIPE | libc::EINVAL | libc::EOPNOTSUPP);
        if !refused || self.order == Order::Sequential || at <= self.size {
            return false;
        }
        // Another writer may have made it longer.
        self.size = sys::size(self.fd).unwrap_or(self.size);
        self.write_all_holes(errno, trail);
        at > self.size
    }

    /// From here on zeros are written for holes past the end too.
    fn write_all_holes(&mut self, errno: i32, trail: &mut Trail) {
        self.order = Order::Sequential;
        let (way, next) = (HoleWay::Extended, HoleWay::Written);
        trail.record(Event::HoleDeclined { way, errno: Some(errno), next });
    }

    /// Skips a hole at an offset that is not before the end, or writes it. Returns how much of it.
    pub(super) fn skip_hole(
        &mut self,
        file_system: impl FnOnce() -> FileSystem,
        at: u64,
        length: u64,
    ) -> Sys<Made> {
        if self.order == Order::Sequential {
            self.prepare(at)?;
            let count = write_zeros(self.fd, at, length)?;
            self.reached(at + count);
            return Ok(Made { length: count, way: HoleWay::Written });
        }
        self.release(file_system, at + length);
        Ok(Made { length, way: HoleWay::Extended })
    }

    /// Gives back blocks that are reserved past the end, up to the end of a hole that is skipped.
    pub(super) fn release(&mut self, file_system: impl FnOnce() -> FileSystem, end: u64) {
        if self.size == 0
            || !*self.reserves.get_or_insert_with(|| file_system().reserves_past_end())
        {
            return;
        }
        // From the end of the data: a hole may come in several parts, which share a block.
        let from = self.size.max(self.start).next_multiple_of(BLOCK);
        if from >= end {
            return;
        }
        match sys::punch_hole(self.fd, from, end - from) {
            Ok(()) | Err(libc::EINTR) => {}
            // A failure costs disk space only.
            Err(_) => self.reserves = Some(false),
        }
    }

    /// Makes the file at least this long. `EINTR` means that a part of it is done.
    pub(super) fn extend(&mut self, to: u64, trail: &mut Trail) -> Sys<()> {
        if to <= self.size {
            return Ok(());
        }
        // Another writer may have made it longer.
        self.size = sys::size(self.fd)?;
        if to <= self.size {
            return Ok(());
        }
        // A size beyond the limit would raise SIGXFSZ, which kills the process.
        if to > sys::file_size_limit()? {
            return Err(libc::EFBIG);
        }
        if self.order == Order::Any {
            match sys::truncate(self.fd, to) {
                Ok(()) => {
                    self.size = to;
                    return Ok(());
                }
                Err(errno) if sys::is_refusal(errno) || errno == libc::ESPIPE => {
                    self.write_all_holes(errno, trail);
                }
                Err(errno) => return Err(errno),
            }
        }
        self.fill(to)
    }

    /// Writes one bounded step of zeros, from the end towards an offset. `EINTR` means that some are left.
    #[cold]
    fn fill(&mut self, to: u64) -> Sys<()> {
        let stop = to.min(self.size.saturating_add(FILL_MOST));
        while self.size < stop {
            self.size += write_zeros(self.fd, self.size, stop - self.size)?;
        }
        self.filled += 1;
        if stop < to { Err(libc::EINTR) } else { Ok(()) }
    }

    /// The peer whose signs of life show that holes are being filled, if any were.
    pub(super) fn peer(&mut self) -> Option<&mut dyn Peer> {
        if self.filled > 0 { Some(self) } else { None }
    }
}

/// To fill skipped holes may take long, and the stream does not move in that time: each step counts as a
/// sign of life.
impl Peer for Growth {
    fn signs(&self) -> u64 {
        self.filled
    }

    fn flush(&mut self, _now: Instant) -> Result<()> {
        Ok(())
    }

    fn flush_by(&self) -> Option<Instant> {
        None
    }
}
