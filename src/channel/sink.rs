//! The end of a channel that is written.

use super::state::{Announced, Chunk, Item, SMALL, Shared};
use crate::end::{End, HoleWay, Lend, Made, Plan, Sink, SinkInfo, SinkWays};
use crate::error::{Error, Operation, Result, Side};
use crate::life::Life;
use crate::sys::Arc;
use crate::wait::Waiting;

/// The sink of a channel.
#[derive(Debug)]
pub struct ChannelSink {
    shared: Arc<Shared>,
    offset: u64,
    /// The chunk that is lent.
    lent: Option<Chunk>,
    life: Life,
}

impl ChannelSink {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        ChannelSink { shared, offset: 0, lent: None, life: Life::Open }
    }

    fn error(&self, operation: Operation, errno: i32) -> Error {
        Error::at(operation, Side::Sink, self.offset, errno)
    }

    /// An empty chunk: the one that was lent and not used, or another.
    fn chunk(&mut self, operation: Operation) -> Result<Chunk> {
        if let Some(chunk) = self.lent.take() {
            return Ok(chunk);
        }
        self.life.check(operation, Side::Sink, self.offset)?;
        let site = (operation, self.offset);
        let chunk = self.shared.with(|state| {
            state.check_put(site)?;
            state.announce(Announced::default());
            state.empty_chunk()
        })?;
        chunk.ok_or_else(|| self.error(operation, libc::EAGAIN))
    }

    /// Adds a section that is not data.
    fn put(&mut self, operation: Operation, item: Item, length: u64) -> Result<()> {
        self.life.check(operation, Side::Sink, self.offset)?;
        Error::check_end(operation, Side::Sink, self.offset, length)?;
        let lent = self.lent.take();
        let done = self.shared.with(|state| {
            if let Some(chunk) = lent {
                state.unused(chunk);
            }
            state.check_put((operation, self.offset))?;
            let announced = state.announce(Announced::default());
            if matches!(item, Item::Keep(_)) && !announced.keeps {
                let why = "kept sections must be announced before the first byte";
                let errno = libc::EPROTO;
                let offset = self.offset;
                return Err(Error::Because { operation, side: Side::Sink, offset, errno, why });
            }
            let room = state.has_room();
            if room {
                state.push(item);
            }
            Ok(room)
        })?;
        if !done {
            return Err(self.error(operation, libc::EAGAIN));
        }
        self.offset += length;
        Ok(())
    }
}

impl Sink for ChannelSink {
    fn open(&mut self, plan: &Plan) -> Result<SinkInfo> {
        self.life.check(Operation::Open, Side::Sink, self.offset)?;
        let announced = Announced { total: plan.total, keeps: plan.keeps };
        self.shared.with(|state| {
            state.check_source()?;
            state.announce(announced);
            Ok(())
        })?;
        Ok(SinkInfo { makes_holes: true, keeps: true, held: 0, durable: true })
    }

    fn write(&mut self, buffer: &[u8]) -> Result<usize> {
        self.life.check(Operation::Write, Side::Sink, self.offset)?;
        Error::check_end(Operation::Write, Side::Sink, self.offset, buffer.len() as u64)?;
        let site = (Operation::Write, self.offset);
        let behind = self.shared.with(|state| {
            state.check_put(site)?;
            Ok(if state.has_room() { state.put_behind(buffer) } else { 0 })
        })?;
        if behind > 0 {
            self.offset += behind as u64;
            return Ok(behind);
        }
        let mut chunk = self.chunk(Operation::Write)?;
        let count = chunk.put(buffer);
        self.shared.with(|state| state.push_chunk(chunk));
        self.offset += count as u64;
        Ok(count)
    }

    fn hole(&mut self, length: u64) -> Result<Made> {
        self.put(Operation::Hole, Item::Hole(length), length)?;
        Ok(Made { length, way: HoleWay::Passed })
    }

    fn keep(&mut self, length: u64) -> Result<u64> {
        self.put(Operation::Keep, Item::Keep(length), length)?;
        Ok(length)
    }

    fn durable(&self) -> Option<u64> {
        self.shared.durable()
    }
}

impl SinkWays for ChannelSink {
    fn lend(&mut self) -> Option<&mut dyn Lend> {
        Some(self)
    }
}

impl Lend for ChannelSink {
    fn room(&mut self) -> Result<Option<&mut [u8]>> {
        if self.lent.is_none() {
            // Without a chunk a write may still be appended to the last piece.
            self.lent = self
                .chunk(Operation::Write)
                .map(Some)
                .or_else(|error| if error.would_block() { Ok(None) } else { Err(error) })?;
        }
        Ok(self.lent.as_mut().map(Chunk::room))
    }

    fn committed(&mut self, count: usize) {
        let Some(mut chunk) = self.lent.take() else { return };
        chunk.filled(count);
        self.offset += count as u64;
        self.lent = self.shared.with(|state| {
            // A small amount of data is appended to the last piece, and the chunk is lent again.
            let behind = if count <= SMALL { state.put_behind(chunk.bytes()) } else { 0 };
            chunk.took(behind);
            if chunk.bytes().is_empty() {
                state.unused(chunk);
            } else {
                state.push_chunk(chunk);
            }
            None
        });
    }
}

impl End for ChannelSink {
    fn finish(&mut self) -> Result<()> {
        match self.life {
            Life::Finished => return Ok(()),
            Life::Open => {}
            Life::Aborted => self.life.check(Operation::Finish, Side::Sink, self.offset)?,
        }
        self.lent = None;
        let finished = self.shared.with(|state| {
            state.check_source()?;
            Ok(state.finish_sink())
        })?;
        if !finished {
            return Err(self.error(Operation::Finish, libc::EAGAIN));
        }
        self.life = Life::Finished;
        Ok(())
    }

    fn abort(&mut self, error: &Error) {
        if self.life == Life::Open {
            self.life = Life::Aborted;
            self.lent = None;
            self.shared.with(|state| state.fail_sink(error));
        }
    }

    fn waiting(&self) -> Waiting {
        let fd = self.shared.sink_fd();
        Waiting::Descriptor { fd, events: libc::POLLIN, blocking: true }
    }
}

impl Drop for ChannelSink {
    fn drop(&mut self) {
        self.abort(&freed(Side::Sink));
    }
}

/// The error that an end reports if the other was freed before it was finished.
pub(super) fn freed(side: Side) -> Error {
    Error::nowhere(Operation::Finish, side, libc::ECANCELED)
}
