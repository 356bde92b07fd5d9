//! The pieces that are on their way, in the order of the stream, and the memory for them.

use super::piece::{Piece, State};
use super::room::{Holds, Room, units};
use crate::section::Kind;
use crate::sys::memory::Slab;
use std::collections::VecDeque;
use std::mem::replace;
use std::ops::{Index, IndexMut};
use std::time::Instant;

/// Holes and kept sections need no slab, but the list of pieces has an end.
pub(super) const PIECES_PER_SLAB: usize = 16;

/// The memory for pieces.
#[derive(Debug)]
pub(super) struct Memory {
    /// For pieces of any length.
    pub(super) slabs: Vec<Slab>,
    /// For short ones.
    pub(super) short: Vec<Slab>,
    /// The most bytes of a short one.
    pub(super) short_most: u64,
    /// The most bytes of any.
    pub(super) most: u64,
}

/// The pieces, by their index. A piece keeps its token while those before it leave.
#[derive(Debug)]
pub(super) struct Queue {
    pieces: VecDeque<Piece>,
    /// The most of them.
    most: usize,
    /// Those that are to be written.
    loaded: usize,
    /// The token of the first piece.
    first: u64,
    /// The stream was planned up to here.
    planned: u64,
    slabs: Vec<Slab>,
    /// Memory for short pieces, each of at most this many bytes.
    short: Vec<Slab>,
    short_most: u64,
    /// The length of such memory.
    short_length: usize,
    room: Room,
    /// The pieces that there is memory for.
    count: usize,
    /// The time at which pieces begin and end now.
    now: Instant,
    progress: Progress,
}

/// How far the pieces with memory are, in units.
#[derive(Debug, Default)]
struct Progress {
    /// All that have begun.
    begun: u64,
    /// The token of the first piece that was not looked at, to see if it was overtaken, and the units before it.
    looked: u64,
    before: u64,
}

impl Queue {
    /// No pieces, and memory for them, of which some are used at the beginning; `None` if there is no memory. The stream
    /// is at `begun`.
    pub(super) fn new(memory: Memory, begin: Option<usize>, begun: u64) -> Option<Self> {
        let Memory { slabs, short, short_most, most: longest } = memory;
        let count = slabs.len() + short.len();
        let most = count * PIECES_PER_SLAB;
        let mut pieces = VecDeque::new();
        pieces.try_reserve_exact(most).ok()?;
        let room = Room::new(count, begin, longest);
        let short_length = short.first().map_or(0, |slab| slab.bytes().len());
        let (first, planned) = (0, begun);
        Some(Queue {
            pieces,
            most,
            loaded: 0,
            first,
            planned,
            slabs,
            short,
            short_most,
            short_length,
            room,
            count,
            now: Instant::now(),
            progress: Progress::default(),
        })
    }

    /// Pieces begin and end at this time from here on: the clock is not read for each of them.
    pub(super) fn set_time(&mut self, now: Instant) {
        self.now = now;
    }

    /// Memory that no piece has.
    pub(super) fn any_slab(&self) -> Option<&Slab> {
        self.slabs.first().or(self.short.first())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.pieces.len() >= self.most
    }

    pub(super) fn len(&self) -> usize {
        self.pieces.len()
    }

    /// The units that may have memory at once.
    pub(super) fn limit(&self) -> usize {
        self.room.limit()
    }

    /// The pieces that there is memory for.
    pub(super) fn slabs_in_all(&self) -> usize {
        self.count
    }

    /// Whether many later pieces have overtaken the one with this token, if it has memory.
    pub(super) fn has_overtaken(&self, token: u64) -> bool {
        token < self.progress.looked
    }

    /// The place in the stream up to which it was planned.
    pub(super) fn planned(&self) -> u64 {
        self.planned
    }

    /// The token of the piece at an index, or of the next one.
    pub(super) fn token(&self, index: usize) -> u64 {
        self.first + index as u64
    }

    /// The index of the piece with this token.
    pub(super) fn index(&self, token: u64) -> Option<usize> {
        let index = usize::try_from(token.checked_sub(self.first)?).ok()?;
        (index < self.pieces.len()).then_some(index)
    }

    /// A piece enters another state.
    pub(super) fn enter(&mut self, index: usize, state: State) {
        let piece = &mut self.pieces[index];
        self.loaded -= usize::from(piece.state == State::Loaded);
        self.loaded += usize::from(state == State::Loaded);
        piece.state = state;
    }

    /// The number of pieces that are to be written.
    pub(super) fn count_loaded(&self) -> usize {
        self.loaded
    }

    /// The index of the first piece that is to be written, from this one on.
    pub(super) fn loaded(&self, from: usize) -> Option<usize> {
        let mut pieces = self.pieces.iter().skip(from);
        pieces.position(|piece| piece.state == State::Loaded).map(|nth| from + nth)
    }

    pub(super) fn front(&self) -> Option<&Piece> {
        self.pieces.front()
    }

    pub(super) fn back(&self) -> Option<&Piece> {
        self.pieces.back()
    }

    pub(super) fn back_mut(&mut self) -> Option<&mut Piece> {
        self.pieces.back_mut()
    }

    /// Adds a piece, which begins where the last one ends.
    pub(super) fn push(&mut self, mut piece: Piece) {
        self.planned += piece.length;
        // Memory was taken for its data, which it or its request has.
        if piece.kind == Kind::Data {
            let units = units(piece.length.max(piece.room));
            piece.units = units;
            piece.holds = self.room.took(units, self.now);
            self.progress.begun += units as u64;
        }
        self.loaded += usize::from(piece.state == State::Loaded);
        self.pieces.push_back(piece);
        self.look_behind();
    }

    /// Sees which pieces were overtaken by those that begin now.
    fn look_behind(&mut self) {
        while self.progress.begun - self.progress.before > self.room.behind() {
            let Some(nth) = self.index(self.progress.looked) else { break };
            let piece = &mut self.pieces[nth];
            if let Holds::Memory(_) = piece.holds {
                piece.holds = Holds::Overtaken;
                self.room.overtaken(piece.units);
            }
            self.progress.before += piece.units as u64;
            self.progress.looked += 1;
        }
    }

    /// The last piece has grown by this many bytes.
    pub(super) fn grew(&mut self, count: u64) {
        self.planned += count;
        if let Some(piece) = self.pieces.back_mut() {
            piece.length += count;
        }
    }

    /// Lets the first piece go.
    pub(super) fn pop(&mut self) {
        if !self.pieces.is_empty() {
            self.free_slab(0);
            self.enter(0, State::Done);
            if let Some(piece) = self.pieces.pop_front() {
                if self.progress.looked == self.first {
                    self.progress.looked += 1;
                    self.progress.before += piece.units as u64;
                }
            }
            self.first += 1;
        }
    }

    /// Drops the last piece, to which nothing came.
    pub(super) fn drop_last(&mut self) {
        if let Some(last) = self.pieces.len().checked_sub(1) {
            let held = self.take_back(last);
            let units = self.pieces[last].units;
            self.room.dropped(held, units);
            self.progress.begun -= units as u64;
            self.pieces.pop_back();
        }
    }

    /// Takes memory for a piece of this length, if one more may have some.
    pub(super) fn take_slab(&mut self, length: u64) -> Option<Slab> {
        if !self.has_slab(length) {
            return None;
        }
        let short = if length <= self.short_most { self.short.pop() } else { None };
        short.or_else(|| self.slabs.pop())
    }

    /// Whether there is memory for a piece of this length, if one more may have some.
    pub(super) fn has_slab(&mut self, length: u64) -> bool {
        let any = !self.slabs.is_empty() || length <= self.short_most && !self.short.is_empty();
        self.room.admits() && any
    }

    /// The piece at an index needs its memory no longer.
    pub(super) fn free_slab(&mut self, index: usize) {
        let held = self.take_back(index);
        self.room.gave(held, self.pieces[index].units, self.now);
    }

    fn take_back(&mut self, index: usize) -> Holds {
        let piece = &mut self.pieces[index];
        if let Some(slab) = piece.slab.take() {
            // Both kinds may have one length: neither gets more than there is room for.
            let is_short =
                slab.bytes().len() == self.short_length && self.short.len() < self.short.capacity();
            if is_short { self.short.push(slab) } else { self.slabs.push(slab) }
        }
        replace(&mut piece.holds, Holds::Nothing)
    }
}

impl Index<usize> for Queue {
    type Output = Piece;

    fn index(&self, index: usize) -> &Piece {
        &self.pieces[index]
    }
}

impl IndexMut<usize> for Queue {
    fn index_mut(&mut self, index: usize) -> &mut Piece {
        &mut self.pieces[index]
    }
}
