//! The one block of a direct target that is filled only in part so far.
//!
//! A stream comes in the order of its offsets. So only the block that it has reached can be incomplete, and
//! each block is written once. This module keeps the state; the caller does the I/O.

use std::ops::Range;

/// The step that must be taken before bytes can be put at an offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Want {
    /// Write the block at this offset: the stream has left it.
    Store(u64),
    /// Read the block at this offset, and call [`Edge::opened`].
    Load(u64),
    /// Copy the bytes to this place in the block, and call [`Edge::filled`].
    Fill(Range<usize>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    /// It is in memory, and this many bytes from its start have come.
    Open(u64),
}

/// The block that the stream has reached.
#[derive(Debug)]
pub struct Edge {
    block: u64,
    at: u64,
    state: State,
    dirty: bool,
}

impl Edge {
    /// The state without a block, for blocks of this size.
    pub fn new(block: u64) -> Self {
        Edge { block, at: 0, state: State::Closed, dirty: false }
    }

    /// The next step that is needed to put at most `length` bytes at an offset.
    pub fn want(&self, offset: u64, length: u64) -> Want {
        let skew = offset % self.block;
        match self.state {
            State::Open(_) if self.at == offset - skew => {
                let end = (skew + length).min(self.block);
                Want::Fill(skew as usize..end as usize)
            }
            State::Open(_) if self.dirty => Want::Store(self.at),
            State::Open(_) | State::Closed => Want::Load(offset - skew),
        }
    }

    /// The block at this offset is in memory.
    pub fn opened(&mut self, at: u64) {
        *self = Edge { block: self.block, at, state: State::Open(0), dirty: false };
    }

    /// Bytes were copied into it.
    pub fn filled(&mut self, range: &Range<usize>) {
        self.state = State::Open(range.end as u64);
        self.dirty = true;
    }

    /// Bytes stay as they are. They are in memory if the block is.
    pub fn kept(&mut self, range: &Range<usize>) {
        self.state = State::Open(range.end as u64);
    }

    /// It was written. A full block is not used any more.
    pub fn stored(&mut self) {
        self.dirty = false;
        if self.is_full() {
            self.close();
        }
    }

    /// The block in memory is not used any more.
    pub fn close(&mut self) {
        self.state = State::Closed;
        self.dirty = false;
    }

    /// Whether a block is in memory.
    pub fn is_open(&self) -> bool {
        self.state != State::Closed
    }

    /// Whether all of it has come.
    pub fn is_full(&self) -> bool {
        self.state == State::Open(self.block)
    }

    /// Whether it must be written.
    pub fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Its offset, and the number of bytes that have come.
    pub fn pending(&self) -> (u64, u64) {
        match self.state {
            State::Closed => (self.at, 0),
            State::Open(filled) => (self.at, filled),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_loaded_filled_in_order_and_left_when_it_is_full() {
        let mut edge = Edge::new(512);
        assert_eq!(edge.want(1000, 600), Want::Load(512));
        edge.opened(512);
        assert_eq!(edge.want(1000, 10), Want::Fill(488..498));
        edge.filled(&(488..498));
        assert_eq!(edge.want(1010, 600), Want::Fill(498..512));
        edge.filled(&(498..512));
        assert!(edge.is_full() && edge.is_dirty());
        assert_eq!(edge.want(1024, 600), Want::Store(512));
        edge.stored();
        assert!(!edge.is_open());
        assert_eq!(edge.want(1024, 600), Want::Load(1024));
    }

    #[test]
    fn a_block_that_is_written_early_stays() {
        let mut edge = Edge::new(512);
        edge.opened(0);
        edge.filled(&(0..100));
        edge.stored();
        assert_eq!((edge.is_open(), edge.is_dirty(), edge.pending()), (true, false, (0, 100)));
        assert_eq!(edge.want(100, 9), Want::Fill(100..109));
        assert_eq!(edge.want(700, 9), Want::Load(512));
    }
}
