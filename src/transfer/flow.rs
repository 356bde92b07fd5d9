//! Moves the stream, piece by piece.
//!
//! Three things may be in flight between two steps, in the order of the stream: the gap (a hole that has
//! come and was not made yet), pending data in the pool, and data in the pipe of the ladder. A step pushes
//! one of them, or pulls if there is nothing to push. They change only once the sink has taken something, so
//! that every step can be repeated.

use super::gap::Gap;
use super::ladder::{Ladder, Tried};
use super::meter::Part;
use super::options::Options;
use super::pool::Pool;
use super::turn::{Done, STEP_COST, Turn};
use super::window::{Kinds, Window};
use super::zeros::{Run, Zeros};
use crate::end::{Next, Sink, Source};
use crate::error::{Error, Operation, Result, Side};
use crate::trace::Way;

/// The stream on its way from the source to the sink.
#[derive(Debug)]
pub(super) struct Flow {
    pool: Pool,
    gap: Gap,
    zeros: Option<Zeros>,
    ladder: Ladder,
    kinds: Kinds,
    /// Moves everything, once it exists.
    window: Option<Box<Window>>,
    options: Options,
}

impl Flow {
    pub(super) fn new(
        options: &Options,
        source: &mut dyn Source,
        sink: &mut dyn Sink,
        holes: bool,
        keeps: bool,
    ) -> Result<Self> {
        let detects = options.detect_zeroes && holes;
        let ladder = Ladder::new(source, sink, detects);
        let peeks = ladder.may(Way::Fetch) && source.peek().is_some();
        Ok(Flow {
            pool: Pool::new(options.buffer_size)?,
            gap: Gap::new(options, holes)?,
            zeros: detects.then(|| Zeros::new(options.zero_block, peeks)),
            ladder,
            kinds: Kinds { holes, keeps },
            window: None,
            options: *options,
        })
    }

    /// The memory, while nothing is on its way.
    pub(super) fn pool(&mut self) -> &mut Pool {
        self.pool.clear();
        &mut self.pool
    }

    /// Makes one step: pushes what is on its way, or else pulls.
    #[inline]
    pub(super) fn step(&mut self, turn: &mut Turn) -> Result<Done> {
        if self.ladder.may(Way::Window) {
            if let Some(done) = self.step_window(turn)? {
                return Ok(done);
            }
        }
        // Most steps begin with nothing to push: to check here costs less than a call.
        let nothing = self.pool.is_empty()
            && self.gap.is_empty()
            && self.ladder.under_way() == 0
            && !self.wants_glimpse();
        if !nothing {
            if let Some(done) = self.push(false, turn)? {
                return Ok(done);
            }
        }
        if let Some(done) = self.pull(turn)? {
            return Ok(done);
        }
        // In the same step: most of what is pulled can be pushed at once.
        Ok(self.push(false, turn)?.unwrap_or(Done::Worked(0)))
    }

    /// Makes a step with several requests in flight. `None` if that is not possible, or while a better way is
    /// tried.
    #[cold]
    fn step_window(&mut self, turn: &mut Turn) -> Result<Option<Done>> {
        if let Some(window) = &mut self.window {
            return window.step(turn).map(Some);
        }
        let fetches = !self.window_is_next();
        let pending = !self.pool.is_empty() || !self.gap.is_empty() || self.ladder.under_way() > 0;
        if fetches || pending {
            return Ok(None);
        }
        let made = Window::new(&self.options, self.kinds, turn).and_then(crate::buffer::boxed);
        match made {
            Ok(window) => {
                window.show_memory(turn);
                self.ladder.choose(Way::Window, turn);
                self.window = Some(window);
                Ok(Some(Done::Worked(0)))
            }
            Err(error) if error.operation() == Operation::Allocate && has_other_ways(turn) => {
                self.ladder.decline(Way::Window, Some(error.errno()), turn);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether no way is left that is better than several requests in flight.
    #[inline]
    fn window_is_next(&self) -> bool {
        self.ladder.may(Way::Window) && (self.zeros.is_some() || !self.ladder.may(Way::Fetch))
    }

    /// Whether requests are under way.
    pub(super) fn has_requests(&self) -> bool {
        self.window.as_ref().is_some_and(|window| window.in_flight() > 0)
    }

    /// Cancels all requests that can be cancelled.
    pub(super) fn cancel_requests(&mut self, error: &Error, turn: &mut Turn) {
        if let Some(window) = &mut self.window {
            window.cancel(error, turn);
        }
    }

    /// Takes back requests that were cancelled. Returns whether all are back.
    pub(super) fn take_requests(&mut self, turn: &mut Turn) -> bool {
        self.window.as_mut().is_none_or(|window| window.drain(turn))
    }

    /// Pushes what is on its way after the source has ended. `None` when nothing is left.
    pub(super) fn drain(&mut self, turn: &mut Turn) -> Result<Option<Done>> {
        if let Some(zeros) = &mut self.zeros {
            zeros.settle();
        }
        self.push(true, turn)
    }

    fn wants_glimpse(&self) -> bool {
        self.zeros.as_ref().is_some_and(Zeros::wants_glimpse)
    }

    /// Where the pending data lies in the stream.
    #[inline]
    fn place(&self, turn: &Turn) -> u64 {
        turn.meter.position() + self.gap.length()
    }

    /// Gives the sink one piece of what is on its way. `None` if something must be pulled first.
    #[inline]
    fn push(&mut self, draining: bool, turn: &mut Turn) -> Result<Option<Done>> {
        if !self.pool.is_empty() {
            return self.push_pending(turn).map(Some);
        }
        if self.ladder.under_way() > 0 {
            return self.ladder.drain(&mut self.pool, turn).map(Some);
        }
        // A gap that cannot grow is pushed before the source is asked.
        if !draining && (self.gap.is_empty() || self.gap.is_open()) && self.wants_glimpse() {
            self.glimpse(turn)?;
        }
        if !self.gap.is_empty() && (draining || !self.gap.is_open()) {
            return self.push_gap(turn).map(Some);
        }
        Ok(None)
    }

    /// Pushes some of the pending data, or what must come before it.
    #[inline]
    fn push_pending(&mut self, turn: &mut Turn) -> Result<Done> {
        let gap = self.gap.length();
        let count = match &mut self.zeros {
            None => self.pool.pending().len(),
            Some(zeros) => {
                let place = turn.meter.position() + gap;
                if let Some(room) = zeros.wants_more(place, &self.pool) {
                    return self.pull_more(room, turn);
                }
                match zeros.run(place, &self.pool) {
                    Run::Data(count) => count,
                    Run::Zeros(count) => return Ok(self.join_gap(count, turn)),
                    Run::Unknown => return Err(Error::Internal),
                }
            }
        };
        if self.gap.is_empty() { self.push_data(count, turn) } else { self.push_gap(turn) }
    }

    /// Pending zeros become a part of the gap.
    fn join_gap(&mut self, count: usize, turn: &mut Turn) -> Done {
        self.pool.take(count);
        if let Some(zeros) = &mut self.zeros {
            zeros.took(count);
        }
        self.gap.join_zeros(count as u64);
        // Reading is progress and work, though nothing has moved and it becomes a hole.
        turn.progressed();
        Done::Worked(count as u64)
    }

    fn push_data(&mut self, count: usize, turn: &mut Turn) -> Result<Done> {
        let most = match turn.pace.allowance(turn.now) {
            Ok(allowed) => usize::try_from(allowed).unwrap_or(usize::MAX),
            Err(when) => return Ok(Done::TooEarly(when)),
        };
        let piece = &self.pool.pending()[..count.min(most)];
        let length = piece.len() as u64;
        let taken = turn.sink.write(piece)? as u64;
        let taken = turn.taken(Operation::Write, taken, length)?;
        self.pool.take(taken as usize);
        if let Some(zeros) = &mut self.zeros {
            zeros.took(taken as usize);
        }
        self.ladder.moved(Way::Copy, taken, turn)
    }

    fn push_gap(&mut self, turn: &mut Turn) -> Result<Done> {
        self.gap.push(&mut self.pool, &mut self.ladder, turn)
    }

    /// Determines which part of the next data need not be read.
    fn glimpse(&mut self, turn: &mut Turn) -> Result<()> {
        let place = self.place(turn);
        let size = self.pool.size();
        let (Some(zeros), Some(source)) = (&mut self.zeros, turn.source.peek()) else {
            return Ok(());
        };
        if zeros.glimpse(source, place, size)? {
            // The gap is pushed before that data.
            self.gap.close();
        }
        Ok(())
    }

    /// Moves the next section without the pool, if possible, or reads it into the pool. `None` if it was read,
    /// or if the gap must be pushed first.
    #[inline]
    fn pull(&mut self, turn: &mut Turn) -> Result<Option<Done>> {
        let solid = self.zeros.as_ref().map_or(u64::MAX, Zeros::solid);
        if !self.gap.is_empty() {
            return self.pull_behind_gap(turn);
        }
        if solid > 0 {
            match self.ladder.climb(solid, self.zeros.is_some(), turn)? {
                Tried::Done(done) => {
                    self.passed(done);
                    return Ok(Some(done));
                }
                Tried::Came(next) => return self.came(next, turn),
                Tried::Nothing if self.window_is_next() => return Ok(Some(Done::Worked(0))),
                Tried::Nothing => self.passed(Done::Worked(0)),
            }
        }
        match self.read(turn)? {
            // The common case, without a call.
            Next::Data(_) => Ok(None),
            next => self.came(next, turn),
        }
    }

    /// Reads behind a gap that may still grow.
    fn pull_behind_gap(&mut self, turn: &mut Turn) -> Result<Option<Done>> {
        // Much may be read before anything moves: buffered frames and signs of life must not wait for that.
        turn.flush()?;
        match self.read(turn) {
            Err(error) if error.would_block() => {
                // A known gap is pushed before the transfer waits.
                self.gap.close();
                Ok(None)
            }
            other => self.came(other?, turn),
        }
    }

    /// Data moved without a search for zeros.
    fn passed(&mut self, done: Done) {
        let Some(zeros) = &mut self.zeros else { return };
        if let Done::Worked(count) = done {
            zeros.moved(count);
        }
        if !self.ladder.may(Way::Fetch) {
            zeros.stop_peeking();
        }
    }

    /// Reads into the empty pool.
    #[inline(always)]
    fn read(&mut self, turn: &mut Turn) -> Result<Next> {
        self.pool.clear();
        let (size, held, gap) = (self.pool.size(), self.pool.held_end(), self.gap.length());
        let room = self.zeros.as_mut().map_or(size, |zeros| match held {
            None => zeros.begin(turn.meter.position() + gap, size),
            Some(end) => zeros.resume(end),
        });
        let next = self.ask(room, turn)?;
        if let (Next::Data(count), Some(zeros)) = (next, &mut self.zeros) {
            zeros.filled(count);
        }
        Ok(next)
    }

    /// Asks the source for data behind the pending data, as far as `room`.
    #[inline(always)]
    fn ask(&mut self, room: usize, turn: &mut Turn) -> Result<Next> {
        let buffer = self.pool.room(room);
        let most = buffer.len();
        let next = turn.source.next(buffer);
        self.pool.asked(&next, room, turn);
        let next = next?;
        if let Next::Data(count) = next {
            self.pool.filled(turn.came(count, most)?);
        }
        Ok(next)
    }

    /// Reads more behind the pending data, unless the next section is not data.
    fn pull_more(&mut self, room: usize, turn: &mut Turn) -> Result<Done> {
        let settled = match self.ask(room, turn) {
            Ok(Next::Data(_)) => false,
            Ok(Next::Hole(_) | Next::Keep(_) | Next::End) => true,
            Err(error) if error.would_block() => true,
            Err(error) => return Err(error),
        };
        if let (true, Some(zeros)) = (settled, &mut self.zeros) {
            zeros.settle();
        }
        Ok(Done::Worked(0))
    }

    /// Handles the report of the source. `None` if it can be pushed now.
    #[inline]
    fn came(&mut self, next: Next, turn: &mut Turn) -> Result<Option<Done>> {
        let place = self.place(turn);
        match next {
            Next::Data(_) => Ok(None),
            Next::Hole(length) => {
                Error::check_end(Operation::Read, Side::Source, place, length)?;
                turn.source.consume(length);
                self.gap.join_hole(length, self.zeros.is_some(), turn);
                Ok(None)
            }
            Next::Keep(length) => {
                Error::check_end(Operation::Read, Side::Source, place, length)?;
                if !self.gap.is_empty() {
                    // The source reports it again after the gap was made.
                    self.gap.close();
                    return Ok(None);
                }
                self.keep(length, turn).map(Some)
            }
            Next::End => Ok(Some(Done::AtEnd)),
        }
    }

    fn keep(&mut self, length: u64, turn: &mut Turn) -> Result<Done> {
        if !self.kinds.keeps {
            return Err(Error::Because {
                operation: Operation::Keep,
                side: Side::Source,
                offset: turn.meter.position(),
                errno: libc::EPROTO,
                why: "the source reported a kept section, but had not declared that it may",
            });
        }
        let kept = turn.sink.keep(length)?;
        let kept = turn.taken(Operation::Keep, kept, length)?;
        turn.source.consume(kept);
        turn.moved(Part::Keep, kept)?;
        Ok(Done::Worked(STEP_COST))
    }
}

/// Whether both ends can also move without requests in flight.
fn has_other_ways(turn: &mut Turn) -> bool {
    let ends = [turn.source.addressed(), turn.sink.addressed()];
    ends.into_iter().flatten().all(|end| end.has_other_ways())
}
