//! A piece of the stream in flight.

use super::grid::Grid;
use super::room::Holds;
use crate::end::HoleWay;
use crate::section::Kind;
use crate::sys::memory::Slab;
use crate::zero::is_zero;

/// The state of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// A stream is read into it.
    Filling,
    /// It is being read.
    Reading,
    /// It is in a sweep, and is not to be written yet.
    Held,
    /// A part of it is being written.
    Writing,
    /// The source has ended within it, after `cursor` bytes.
    Short,
    /// Its content is known. The part that was not written yet is to be written.
    Loaded,
    /// It was written, except for incomplete blocks at its ends.
    Done,
}

/// A part of a piece that is of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Run {
    Data(u64),
    Zeros(u64),
    Keep(u64),
}

impl Run {
    pub(super) fn length(self) -> u64 {
        match self {
            Run::Data(length) | Run::Zeros(length) | Run::Keep(length) => length,
        }
    }
}

/// A piece.
#[derive(Debug)]
pub(super) struct Piece {
    /// Its first byte in the stream.
    pub(super) from: u64,
    pub(super) length: u64,
    pub(super) kind: Kind,
    pub(super) state: State,
    /// Its data, unless a request has it.
    pub(super) slab: Option<Slab>,
    /// Whether it or its request has memory.
    pub(super) holds: Holds,
    /// How much that counts.
    pub(super) units: usize,
    /// The place of its first byte in the slab.
    pub(super) skew: usize,
    /// The place in its slab that reads have reached.
    pub(super) come: u64,
    /// The most bytes that a stream may fill it with.
    pub(super) room: u64,
    /// Bytes from its start that were written.
    pub(super) cursor: u64,
    /// Bytes from its start that were accounted for.
    pub(super) retired: u64,
    /// A bit for each of its blocks, set for zeros; none if no block is.
    pub(super) zeros: Option<Vec<u64>>,
    /// The way in which its holes were made.
    pub(super) hole_way: HoleWay,
}

impl Piece {
    /// A piece of data. Memory was taken for it, which counts when the piece is queued.
    pub(super) fn data(from: u64, length: u64, state: State) -> Self {
        Piece {
            from,
            length,
            kind: Kind::Data,
            state,
            slab: None,
            holds: Holds::Nothing,
            units: 0,
            skew: 0,
            come: 0,
            room: 0,
            cursor: 0,
            retired: 0,
            zeros: None,
            hole_way: HoleWay::Extended,
        }
    }

    /// A hole or a kept section.
    pub(super) fn section(kind: Kind, from: u64, length: u64) -> Self {
        Piece { kind, ..Piece::data(from, length, State::Loaded) }
    }

    /// Its data.
    pub(super) fn bytes(&self) -> &[u8] {
        let range = self.skew..self.skew + self.length as usize;
        self.slab.as_ref().and_then(|slab| slab.bytes().get(range)).unwrap_or_default()
    }

    /// Finds the blocks that are all zeros.
    pub(super) fn look_for_zeros(&mut self, grid: Grid) {
        let mut found: Vec<u64> = Vec::new();
        let mut at = 0;
        let mut nth = 0;
        while at < self.length {
            let end = self.length.min(at + grid.to_block_end(self.from + at));
            if is_zero(&self.bytes()[at as usize..end as usize]) {
                if found.is_empty() {
                    let words = grid.blocks(self.length).div_ceil(64) as usize;
                    if found.try_reserve_exact(words).is_err() {
                        // Without memory for the bits, it is data.
                        return;
                    }
                    found.resize(words, 0);
                }
                found[nth / 64] |= 1 << (nth % 64);
            }
            at = end;
            nth += 1;
        }
        self.zeros = (!found.is_empty()).then_some(found);
    }

    /// The run that begins at `at` and ends at `end` at the latest.
    pub(super) fn run(&self, at: u64, end: u64, grid: Grid) -> Run {
        match (self.kind, &self.zeros) {
            (Kind::Hole | Kind::End, _) => Run::Zeros(end - at),
            (Kind::Keep, _) => Run::Keep(end - at),
            (Kind::Data, None) => Run::Data(end - at),
            (Kind::Data, Some(zeros)) => {
                let base = grid.block(self.from);
                let is_zero = |at: u64| {
                    let nth = (grid.block(self.from + at) - base) as usize;
                    zeros[nth / 64] & 1 << (nth % 64) != 0
                };
                let first = is_zero(at);
                let mut reach = at;
                while reach < end && is_zero(reach) == first {
                    reach += grid.to_block_end(self.from + reach);
                }
                let length = reach.min(end) - at;
                if first { Run::Zeros(length) } else { Run::Data(length) }
            }
        }
    }
}
