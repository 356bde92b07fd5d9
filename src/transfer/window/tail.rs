//! The one incomplete block of an addressable sink: see [`crate::edge`].

use super::exchange::TAIL;
use super::piece::Piece;
use super::port::Port;
use crate::edge::{Edge, Want};
use crate::end::{Ask, Request};
use crate::error::{Error, Operation, Result, Side};
use crate::section::Kind;
use crate::sys::memory::Slab;

/// The next step to put a part of a piece into the block.
pub(super) enum Todo {
    /// A request is under way.
    Wait,
    /// Submit this.
    Ask(Request),
    /// Bytes that the sink moves past, as those of [`Tail::take_in`].
    Left(Option<(u64, bool)>),
    /// It cannot be done.
    Refuse(Error),
    /// This many bytes are in the block.
    Took(u64),
}

/// The block.
#[derive(Debug)]
pub(super) struct Tail {
    edge: Edge,
    block: u64,
    /// The offset behind which everything reads zero.
    size: u64,
    grows: bool,
    reads: bool,
    /// Its content; none while a request has it.
    slab: Option<Slab>,
    /// Bytes that were put into it and that the sink has not been moved past.
    owed: u64,
    /// Bytes that the last read of it brought, if it is read again.
    come: u64,
}

impl Tail {
    pub(super) fn new(to: &Port, slab: Slab) -> Self {
        let geometry = &to.geometry;
        Tail {
            edge: Edge::new(geometry.block),
            block: geometry.block,
            size: geometry.size,
            grows: geometry.grows,
            reads: geometry.reads,
            slab: Some(slab),
            owed: 0,
            come: 0,
        }
    }

    fn request(&mut self, ask: Ask, offset: u64) -> Todo {
        let Some(slab) = self.slab.take() else { return Todo::Wait };
        let (token, length, memory) = (TAIL, self.block, Some(slab));
        Todo::Ask(Request { token, ask, offset, length, memory, start: 0 })
    }

    /// Puts the next part of a piece, at `offset`, into the block. The part ends with the first `end` bytes of
    /// the piece.
    pub(super) fn put(&mut self, piece: &Piece, offset: u64, end: u64) -> Todo {
        if self.slab.is_none() {
            return Todo::Wait;
        }
        if self.edge.is_full() {
            return self.leave();
        }
        let most = end - piece.retired;
        match self.edge.want(offset, most) {
            Want::Store(at) => self.store(at),
            Want::Load(_) if piece.kind == Kind::Keep => {
                // Bytes that are kept do not need a block without new bytes.
                let took = most.min(self.block - offset % self.block);
                self.owed += took;
                self.edge.close();
                Todo::Took(took)
            }
            Want::Load(at) => self.load(at, offset),
            Want::Fill(range) => {
                let count = range.len();
                let Some(slab) = &mut self.slab else { return Todo::Wait };
                let place = &mut slab.bytes_mut()[range.clone()];
                match piece.kind {
                    Kind::Data => {
                        let at = piece.retired as usize;
                        place.copy_from_slice(&piece.bytes()[at..at + count]);
                    }
                    Kind::Hole | Kind::End => place.fill(0),
                    Kind::Keep => {}
                }
                if piece.kind == Kind::Keep {
                    self.edge.kept(&range);
                } else {
                    self.edge.filled(&range);
                }
                self.owed += count as u64;
                Todo::Took(count as u64)
            }
        }
    }

    fn load(&mut self, at: u64, offset: u64) -> Todo {
        if self.owed > 0 {
            // Kept bytes before it.
            return Todo::Left(self.pay(false));
        }
        if self.grows && at >= self.size {
            if let Some(slab) = &mut self.slab {
                slab.bytes_mut()[..self.block as usize].fill(0);
            }
            self.edge.opened(at);
            return Todo::Left(None);
        }
        if self.reads {
            return self.request(Ask::Read, at);
        }
        if offset != at {
            return Todo::Refuse(self.blind(offset));
        }
        self.edge.opened(at);
        Todo::Left(None)
    }

    fn blind(&self, offset: u64) -> Error {
        Error::Unaligned {
            operation: Operation::Write,
            side: Side::Sink,
            offset,
            block: self.block,
            why: "the rest of the block must be kept, and the sink cannot be read",
        }
    }

    fn store(&mut self, at: u64) -> Todo {
        let filled = self.edge.pending().1;
        if filled < self.block && !self.reads && at + filled < self.size {
            return Todo::Refuse(self.blind(at + filled));
        }
        self.request(Ask::Write, at)
    }

    /// The block is full: it is written, or left if nothing in it has changed.
    fn leave(&mut self) -> Todo {
        let at = self.edge.pending().0;
        if self.edge.is_dirty() {
            return self.store(at);
        }
        self.edge.close();
        Todo::Left(self.pay(false))
    }

    /// The stream has ended.
    pub(super) fn settle(&mut self) -> Todo {
        if self.slab.is_none() {
            return Todo::Wait;
        }
        self.leave()
    }

    fn pay(&mut self, written: bool) -> Option<(u64, bool)> {
        Some((std::mem::take(&mut self.owed), written))
    }

    /// A request for it is back. Returns the bytes that the sink moves past, and whether data was written.
    pub(super) fn take_in(
        &mut self,
        request: Request,
        result: Result<u64>,
    ) -> Result<Option<(u64, bool)>> {
        let count = result?;
        let Some(mut slab) = request.memory else { return Err(Error::Internal) };
        let at = request.offset;
        if request.ask == Ask::Read {
            // Missing bytes lie behind the end and read zero. If not, the read is repeated below.
            let known = (count as usize).min(self.block as usize);
            slab.bytes_mut()[known..self.block as usize].fill(0);
            self.slab = Some(slab);
            // A read may be short. It is repeated as long as it returns something.
            if count < self.block && at + count < self.size && count > self.come {
                self.come = count;
                return Ok(None);
            }
            // An end that grows may end before the stream begins. One that does not has all of the block.
            if count < self.block && at + count < self.size && !self.grows {
                return Err(Error::at(Operation::Read, Side::Sink, at + count, libc::EIO));
            }
            self.come = 0;
            self.edge.opened(at);
            return Ok(None);
        }
        self.slab = Some(slab);
        if count < self.edge.pending().1 {
            if count == 0 {
                return Err(Error::at(Operation::Write, Side::Sink, at, libc::EIO));
            }
            // It is still dirty, and will be written again.
            return Ok(None);
        }
        self.edge.stored();
        Ok(self.pay(true))
    }
}
