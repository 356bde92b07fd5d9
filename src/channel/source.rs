//! The end of a channel that is read.

use super::sink::freed;
use super::state::{Chunk, Item, Shared};
use crate::end::{End, Lent, Look, Next, Peer, Source, SourceInfo, SourceWays};
use crate::error::{Error, Operation, Result, Side};
use crate::life::Life;
use crate::section::Kind;
use crate::sys::Arc;
use crate::wait::Waiting;
use std::time::Instant;

/// The source of a channel.
#[derive(Debug)]
pub struct ChannelSource {
    shared: Arc<Shared>,
    offset: u64,
    /// The chunk that is being emptied. It has data.
    chunk: Option<Chunk>,
    life: Life,
}

/// The next item of the queue.
enum Coming {
    Data(Chunk),
    Hole(u64),
    Keep(u64),
    End,
}

impl ChannelSource {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        ChannelSource { shared, offset: 0, chunk: None, life: Life::Open }
    }

    fn error(&self, operation: Operation, errno: i32) -> Error {
        Error::at(operation, Side::Source, self.offset, errno)
    }

    /// The kind and the length of the next section. Data is then in the chunk.
    fn next_kind(&mut self, operation: Operation) -> Result<(Kind, u64)> {
        self.life.check(operation, Side::Source, self.offset)?;
        if let Some(chunk) = &self.chunk {
            let left = chunk.bytes().len() as u64;
            self.shared.with(|state| state.check_sink())?;
            return Ok((Kind::Data, left));
        }
        let coming = self.shared.with(|state| {
            state.check_sink()?;
            state.hear();
            Ok(match state.front() {
                Some(Item::Hole(length)) => Some(Coming::Hole(*length)),
                Some(Item::Keep(length)) => Some(Coming::Keep(*length)),
                Some(Item::Data(_)) => state.take_chunk().map(Coming::Data),
                None if state.has_ended() => Some(Coming::End),
                None => None,
            })
        })?;
        Ok(match coming.ok_or_else(|| self.error(operation, libc::EAGAIN))? {
            Coming::Hole(length) => (Kind::Hole, length),
            Coming::Keep(length) => (Kind::Keep, length),
            Coming::End => (Kind::End, 0),
            Coming::Data(chunk) => {
                let length = chunk.bytes().len() as u64;
                self.chunk = Some(chunk);
                (Kind::Data, length)
            }
        })
    }

    /// The first bytes of the chunk were taken.
    fn took(&mut self, count: usize) {
        self.offset += count as u64;
        if let Some(chunk) = &mut self.chunk {
            chunk.took(count);
            if chunk.bytes().is_empty() {
                if let Some(chunk) = self.chunk.take() {
                    self.shared.with(|state| state.emptied(chunk));
                }
            }
        }
    }
}

impl Source for ChannelSource {
    fn open(&mut self) -> Result<SourceInfo> {
        self.life.check(Operation::Open, Side::Source, self.offset)?;
        let announced = self.shared.with(|state| {
            state.check_sink()?;
            Ok(state.hear())
        })?;
        // The sink has not announced its stream yet.
        let announced = announced.ok_or_else(|| self.error(Operation::Open, libc::EAGAIN))?;
        Ok(SourceInfo {
            total: announced.total,
            reports_holes: true,
            keeps: announced.keeps,
            start: 0,
        })
    }

    fn next(&mut self, buffer: &mut [u8]) -> Result<Next> {
        Ok(match self.next_kind(Operation::Read)? {
            (Kind::End, _) => Next::End,
            (Kind::Hole, length) => Next::Hole(length),
            (Kind::Keep, length) => Next::Keep(length),
            (Kind::Data, length) => {
                let count = usize::try_from(length).unwrap_or(usize::MAX).min(buffer.len());
                if let Some(chunk) = &self.chunk {
                    buffer[..count].copy_from_slice(&chunk.bytes()[..count]);
                }
                self.took(count);
                Next::Data(count)
            }
        })
    }

    fn look(&mut self) -> Result<Look> {
        let (kind, length) = self.next_kind(Operation::Map)?;
        // More data may come behind it, and belong to the same section.
        let known = kind != Kind::Data;
        Ok(Look { kind, length: known.then_some(length) })
    }

    fn consume(&mut self, length: u64) {
        if self.chunk.is_some() {
            self.took(usize::try_from(length).unwrap_or(usize::MAX));
        } else {
            self.offset += length;
            self.shared.with(|state| state.took(length));
        }
    }
}

impl SourceWays for ChannelSource {
    fn lent(&mut self) -> Option<&mut dyn Lent> {
        Some(self)
    }
}

impl Lent for ChannelSource {
    fn bytes(&mut self) -> Result<&[u8]> {
        match self.next_kind(Operation::Read)? {
            (Kind::Data, _) => Ok(self.chunk.as_ref().map_or(&[], Chunk::bytes)),
            _ => Ok(&[]),
        }
    }
}

impl Peer for ChannelSource {
    fn signs(&self) -> u64 {
        0
    }

    fn flush(&mut self, _now: Instant) -> Result<()> {
        Ok(())
    }

    fn flush_by(&self) -> Option<Instant> {
        None
    }

    fn durable(&mut self, offset: u64) {
        self.shared.set_durable(offset);
    }
}

impl End for ChannelSource {
    fn finish(&mut self) -> Result<()> {
        match self.life {
            Life::Finished => return Ok(()),
            Life::Open => {}
            Life::Aborted => self.life.check(Operation::Finish, Side::Source, self.offset)?,
        }
        self.shared.with(|state| {
            state.check_sink()?;
            state.finish_source();
            Ok(())
        })?;
        self.life = Life::Finished;
        Ok(())
    }

    fn abort(&mut self, error: &Error) {
        if self.life == Life::Open {
            self.life = Life::Aborted;
            self.shared.with(|state| state.fail_source(error));
        }
    }

    fn waiting(&self) -> Waiting {
        let fd = self.shared.source_fd();
        Waiting::Descriptor { fd, events: libc::POLLIN, blocking: true }
    }

    fn peer(&mut self) -> Option<&mut dyn Peer> {
        Some(self)
    }
}

impl Drop for ChannelSource {
    fn drop(&mut self) {
        self.abort(&freed(Side::Source));
    }
}
