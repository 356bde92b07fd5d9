//! A block device.

mod requests;

use super::place::Place;
use super::zeroing::{Zeroing, write_zeros};
use super::{Checkpoint, Options};
use crate::device;
use crate::end::{Addressable, Attempt, Drain, End, HoleWay, Made, Plan, Sink, SinkInfo, SinkWays};
use crate::error::{Error, Operation, Result, Side};
use crate::pipe::Pipe;
use crate::sys::{Fd, FileKind};
use crate::trace::Trail;
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
            place: Place::new(fd, options, capacity, libc::ENOSPC, checkpoint)?
                .direct(FileKind::Block, capacity)?,
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
    fn open(&mut self, plan: &Plan) -> Result<SinkInfo> {
        if let Some(total) = plan.total {
            self.place.admit(total)?;
        }
        self.place.admit_edges(plan.total)?;
        let (durable, keeps) = (self.place.durable().is_some(), self.place.keeps());
        Ok(SinkInfo { makes_holes: true, keeps, held: 0, durable })
    }

    fn write(&mut self, buffer: &[u8]) -> Result<usize> {
        self.place.room(1, Operation::Write)?;
        self.make_durable_if_due()?;
        self.place.write(buffer)
    }

    fn hole(&mut self, length: u64) -> Result<Made> {
        self.place.room(length, Operation::Hole)?;
        self.make_durable_if_due()?;
        let part = self.place.edge_part(length);
        if part > 0 {
            let length = self.place.write_edge_zeros(part)?;
            return Ok(Made { length, way: HoleWay::Written });
        }
        let at = self.place.at();
        let length = self.place.whole_blocks(length);
        let head = at.next_multiple_of(self.sector) - at;
        let (made, way) = if self.known_zero {
            (Ok(length), HoleWay::KnownZero)
        } else if head > 0 || length < self.sector {
            // Less than a sector can only be written.
            let part = if head > 0 { head.min(length) } else { length };
            (write_zeros(self.place.fd, at, part), HoleWay::Written)
        } else {
            let made = self.zeroing.zero(at, length - length % self.sector);
            (made, self.zeroing.way())
        };
        let length = made.map_err(|errno| self.place.error(Operation::Hole, errno))?;
        self.place.advance(length);
        Ok(Made { length, way })
    }

    fn keep(&mut self, length: u64) -> Result<u64> {
        self.place.room(length, Operation::Keep)?;
        self.make_durable_if_due()?;
        self.place.leave_edge()?;
        self.place.advance(length);
        Ok(length)
    }

    fn durable(&self) -> Option<u64> {
        self.place.durable()
    }
}

impl<C: Checkpoint> SinkWays for BlockSink<C> {
    fn drain(&mut self) -> Option<&mut dyn Drain> {
        // Pages of a pipe are not aligned.
        if self.place.is_direct() { None } else { Some(self) }
    }

    fn addressed(&mut self) -> Option<&mut dyn Addressable> {
        if self.place.is_direct() { Some(self) } else { None }
    }
}

impl<C: Checkpoint> Drain for BlockSink<C> {
    fn drain_pipe(&mut self, pipe: &mut Pipe) -> Result<Attempt> {
        self.place.room(1, Operation::Write)?;
        self.make_durable_if_due()?;
        self.place.drain(pipe)
    }
}

impl<C: Checkpoint> End for BlockSink<C> {
    fn finish(&mut self) -> Result<()> {
        self.place.finish()
    }

    fn abort(&mut self, error: &Error) {
        self.place.queue.end(error);
        self.place.abort();
    }

    fn waiting(&self) -> Waiting {
        self.place.queue.waiting()
    }

    fn trail(&mut self) -> Option<&mut Trail> {
        Some(&mut self.zeroing.trail)
    }
}
