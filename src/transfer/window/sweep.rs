//! One request for several holes and the short data between them.
//!
//! Where holes and data alternate every few kilobytes, a request for each hole costs as much as one for the data. A sweep
//! zeroes the whole range, and then the data in it is written. The sink must be able to do that faster than it can write.
//!
//! ```text
//!     hole data hole data hole      planned; the data is being read
//!     |<---- FAST ZERO ---->|       all of the data has come
//!          data      data           the range was zeroed: written as without a sweep
//! ```
//!
//! No byte is zeroed before the data at its place is in memory, since both ends may show one disk. A piece that takes long
//! to read dissolves its sweep, so that the others do not wait for it.

use super::exchange::count_of;
use super::piece::{Piece, State};
use super::queue::Queue;
use super::{SHORT, Window};
use crate::end::{Ask, Failure, Request};
use crate::error::{Error, Result, Side};
use crate::section::Kind;
use crate::transfer::turn::Turn;
use std::ops::Range;

/// The most holes of one sweep. More would save little, and all of the data waits.
const MOST: usize = 16;

/// How far a sweep is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The next hole may join it.
    Open,
    /// It has all of its holes.
    Closed,
    /// The request is under way.
    Asked,
}

/// A range of pieces that begins and ends with a hole.
#[derive(Debug)]
struct Sweep {
    phase: Phase,
    /// The tokens of the first and the last hole.
    first: u64,
    last: u64,
    holes: usize,
    /// The units of its data.
    units: usize,
    /// The pieces of data that were not read yet.
    reading: usize,
}

impl Sweep {
    /// Whether its data has half of the memory or more. Other pieces must be read at the same time.
    fn is_large(&self, queue: &Queue) -> bool {
        let Sweep { holes, units, .. } = *self;
        holes > 1 && (units * 2 >= queue.limit() || (holes - 1) * 2 >= queue.slabs_in_all())
    }
}

/// The sweeps, in the order of the stream. Only the last one is open.
#[derive(Debug)]
pub(super) struct Sweeps {
    list: Vec<Sweep>,
    /// The sink takes such requests.
    possible: bool,
}

impl Sweeps {
    /// None yet. `most` pieces have memory at once. `None` if there is no memory.
    pub(super) fn new(possible: bool, most: usize) -> Option<Self> {
        let mut list = Vec::new();
        // Each one has data, except for the last.
        list.try_reserve_exact(if possible { most + 1 } else { 0 }).ok()?;
        Some(Sweeps { list, possible })
    }

    /// The place in the list of the sweep that has a piece.
    fn of(&self, token: u64) -> Option<usize> {
        let nth = self.list.partition_point(|sweep| sweep.last < token);
        self.list.get(nth).filter(|sweep| sweep.first <= token).map(|_| nth)
    }

    /// A piece was read. Returns whether it is in a sweep.
    pub(super) fn read(&mut self, token: u64) -> bool {
        let nth = self.of(token);
        if let Some(sweep) = nth.and_then(|nth| self.list.get_mut(nth)) {
            sweep.reading -= 1;
        }
        nth.is_some()
    }
}

/// Whether a piece of data that follows a hole may be in a sweep.
fn may_join(data: &Piece, hole: &Piece) -> bool {
    data.kind == Kind::Data && data.state == State::Reading && data.length <= SHORT.min(hole.length)
}

impl Window {
    /// A hole was planned: it joins the open sweep, or begins another.
    #[inline(never)]
    pub(super) fn sweep_hole(&mut self) {
        let (Some(to), true) = (&self.to, self.sweeps.possible) else { return };
        let index = self.queue.len() - 1;
        let token = self.queue.token(index);
        let (start, end) = to.middle(&self.queue[index]);
        if start == end {
            return;
        }
        if let Some(sweep) = self.sweeps.list.last_mut().filter(|last| last.phase == Phase::Open) {
            let follows = sweep.last + 2 == token
                && may_join(&self.queue[index - 1], &self.queue[index - 2])
                && self.queue.index(sweep.first).is_some_and(|first| {
                    let piece = &self.queue[index];
                    piece.from + piece.length - self.queue[first].from <= to.geometry.zero
                });
            if follows {
                sweep.last = token;
                sweep.holes += 1;
                sweep.units += self.queue[index - 1].units;
                sweep.reading += 1;
                if sweep.holes == MOST || sweep.is_large(&self.queue) {
                    sweep.phase = Phase::Closed;
                }
                self.queue.enter(index, State::Held);
                return;
            }
            self.close_sweep();
        }
        let (first, last) = (token, token);
        let sweep = Sweep { phase: Phase::Open, first, last, holes: 1, units: 0, reading: 0 };
        self.sweeps.list.push(sweep);
        self.queue.enter(index, State::Held);
    }

    /// No hole joins the open sweep any more.
    fn close_sweep(&mut self) {
        match self.sweeps.list.last_mut() {
            Some(sweep) if sweep.phase == Phase::Open && sweep.holes > 1 => {
                sweep.phase = Phase::Closed;
            }
            Some(sweep) if sweep.phase == Phase::Open => self.dissolve(self.sweeps.list.len() - 1),
            _ => {}
        }
    }

    /// The indexes of its pieces, which are all in the queue: its first hole stays until it was zeroed.
    fn pieces_of(&self, sweep: &Sweep) -> Range<usize> {
        let index = |token| self.queue.index(token).unwrap_or_default();
        index(sweep.first)..index(sweep.last) + 1
    }

    /// Its pieces are written as they are, each hole with a request of its own.
    fn dissolve(&mut self, nth: usize) {
        let sweep = self.sweeps.list.remove(nth);
        for index in self.pieces_of(&sweep) {
            if self.queue[index].state == State::Held {
                self.queue.enter(index, State::Loaded);
            }
        }
    }

    /// Dissolves the sweep that a piece is in.
    pub(super) fn dissolve_sweep_of(&mut self, token: u64) {
        if let Some(nth) = self.sweeps.of(token) {
            self.dissolve(nth);
        }
    }

    /// Submits the sweeps whose data has come. Returns whether there were any.
    pub(super) fn sweep(&mut self, turn: &mut Turn) -> Result<bool> {
        if self.sweeps.list.is_empty() {
            return Ok(false);
        }
        let any = self.ask_for_sweeps(turn)?;
        // The others are under way now, if there are any.
        if self.is_last_hole() {
            self.close_sweep();
            return Ok(self.ask_for_sweeps(turn)? || any);
        }
        Ok(any)
    }

    fn ask_for_sweeps(&mut self, turn: &mut Turn) -> Result<bool> {
        let (mut any, mut nth) = (false, 0);
        while let Some(sweep) = self.sweeps.list.get(nth) {
            let (overtaken, ready) = (self.queue.has_overtaken(sweep.first), sweep.reading == 0);
            match sweep.phase {
                Phase::Closed if ready && self.to.as_ref().is_some_and(|to| !to.is_full()) => {
                    self.ask_for_sweep(nth, turn)?;
                    any = true;
                }
                Phase::Open | Phase::Closed if overtaken && !ready => {
                    self.dissolve(nth);
                    continue;
                }
                Phase::Open | Phase::Closed | Phase::Asked => {}
            }
            nth += 1;
        }
        Ok(any)
    }

    /// Whether no hole can join the open sweep, or to wait for one would take too long.
    fn is_last_hole(&self) -> bool {
        let Some(sweep) = self.sweeps.list.last().filter(|last| last.phase == Phase::Open) else {
            return false;
        };
        let Some(index) = self.queue.index(sweep.last) else { return true };
        let next = (self.queue.len() > index + 1).then(|| &self.queue[index + 1]);
        self.source_ended
            || self.queue.is_full()
            || self.stalled.source.is_some()
            || self.stalled.rate.is_some()
            || next.is_some_and(|next| !may_join(next, &self.queue[index]))
            || self.queue.len() > index + 2
            // The next hole comes when there is memory for the data before it. Other pieces have memory, which becomes
            // free.
            || sweep.is_large(&self.queue)
            || self.in_flight() == 0 && self.queue.count_loaded() == 0
    }

    fn ask_for_sweep(&mut self, nth: usize, turn: &mut Turn) -> Result<()> {
        let (Some(to), Some(sweep)) = (&self.to, self.sweeps.list.get_mut(nth)) else {
            return Err(Error::Internal);
        };
        sweep.phase = Phase::Asked;
        let (token, sweep) = (sweep.first, &self.sweeps.list[nth]);
        let pieces = self.pieces_of(sweep);
        let (first, last) = (&self.queue[pieces.start], &self.queue[pieces.end - 1]);
        let offset = to.offset(first.from + to.middle(first).0);
        let length = to.offset(last.from + to.middle(last).1) - offset;
        let request = Request { token, ask: Ask::FastZero, offset, length, memory: None, start: 0 };
        self.submit(Side::Sink, request, turn)
    }

    /// A sweep is back.
    #[inline(never)]
    pub(super) fn swept(
        &mut self,
        request: &Request,
        result: std::result::Result<u64, Failure>,
        turn: &mut Turn,
    ) -> Result<()> {
        let count = match result {
            Err(Failure { errno: libc::EOPNOTSUPP, .. }) => {
                self.sweeps.possible = false;
                self.dissolve_sweep_of(request.token);
                // The others are not asked for any more.
                while let Some(nth) =
                    self.sweeps.list.iter().position(|sweep| sweep.phase != Phase::Asked)
                {
                    self.dissolve(nth);
                }
                return Ok(());
            }
            other => count_of(Side::Sink, request, other)?,
        };
        let (Some(to), Some(nth)) = (&self.to, self.sweeps.of(request.token)) else {
            return Err(Error::Internal);
        };
        let Some(sweep) = self.sweeps.list.get(nth) else { return Err(Error::Internal) };
        let end = request.offset + count - count % to.block();
        let way = turn.sink.addressed().map(|end| end.zero_way());
        for index in self.pieces_of(sweep) {
            let piece = &mut self.queue[index];
            let from = to.offset(piece.from);
            if piece.kind == Kind::Hole && from < end {
                piece.cursor = piece.cursor.max(to.middle(piece).1.min(end - from));
                piece.hole_way = way.unwrap_or(piece.hole_way);
            }
        }
        self.dissolve(nth);
        Ok(())
    }
}
