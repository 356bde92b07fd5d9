//! A block device.

use super::place::Place;
use super::zeroing::{Zeroing, write_zeros};
use super::{Checkpoint, Options, Sink};
use crate::device;
use crate::error::{Error, Operation, Result, Side};
use crate::pipe::Pipe;
use crate::sys::Fd;
use crate::wait::Waiting;

/// A block device that is written by offset.
#[derive(Debug)]
pub struct BlockSink<C> {
    place: Place<C>,
    sector: u64,
    known_zero: bool,
    zeroing: Zeroing,
}

impl<C: Checkpoint> BlockSink<C> {
    pub(super) fn new(fd: Fd, options: &Options, checkpoint: C) -> Result<Self> {
        let error = |errno| Error::nowhere(Operation::Open, Side::Sink, errno);
        let capacity = device::size(fd).map_err(error)?;
        let sector = device::sector(fd).map_err(error)?;
        Ok(BlockSink {
            place: Place::new(fd, options, capacity, libc::ENOSPC, checkpoint)?,
            sector,
            known_zero: options.known_zero,
            zeroing: Zeroing::of_device(fd),
        })
    }

    fn make_durable_if_due(&mut self) -> Result<()> {
        if self.place.due() { self.place.make_durable() } else { Ok(()) }
    }
}

impl<C: Checkpoint> Sink for BlockSink<C> {
    fn makes_holes(&mut self) -> Result<bool> {
        Ok(true)
    }

    fn announce(&mut self, total: u64) -> Result<()> {
        self.place.admit(total)
    }

    fn write(&mut self, buffer: &[u8]) -> Result<usize> {
        self.place.room(1, Operation::Write)?;
        self.make_durable_if_due()?;
        self.place.write(buffer)
    }

    fn drains(&self) -> bool {
        true
    }

    fn drain(&mut self, pipe: &mut Pipe) -> Result<Option<u64>> {
        self.place.room(1, Operation::Write)?;
        self.make_durable_if_due()?;
        self.place.drain(pipe)
    }

    fn hole(&mut self, length: u64) -> Result<u64> {
        self.place.room(length, Operation::Hole)?;
        self.make_durable_if_due()?;
        let at = self.place.at();
        let head = at.next_multiple_of(self.sector) - at;
        let made = if self.known_zero {
            Ok(length)
        } else if head > 0 || length < self.sector {
            // Less than a sector: only writing can do that.
            write_zeros(self.place.fd, at, if head > 0 { head.min(length) } else { length })
        } else {
            self.zeroing.zero(at, length - length % self.sector)
        };
        let made = made.map_err(|errno| self.place.error(Operation::Hole, errno))?;
        self.place.advance(made);
        Ok(made)
    }

    fn durable(&self) -> Option<u64> {
        self.place.durable()
    }

    fn finish(&mut self) -> Result<()> {
        self.place.finish()
    }

    fn abort(&mut self, _error: &Error) {
        self.place.abort();
    }

    fn waiting(&self) -> Waiting {
        Waiting::Owner
    }
}
