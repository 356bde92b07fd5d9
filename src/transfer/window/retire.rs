//! Lets pieces go in the order of the stream.

use super::piece::{Run, State};
use super::port::Port;
use super::tail::Todo;
use super::{Gap, Window};
use crate::end::HoleWay;
use crate::error::{Error, Operation, Result, Side};
use crate::section::Kind;
use crate::sys::memory::Slab;
use crate::trace::Way;
use crate::transfer::meter::Part;
use crate::transfer::turn::Turn;
use std::time::Instant;

impl Window {
    /// Lets the pieces go that are first and done. Returns whether anything was done.
    pub(super) fn retire(&mut self, turn: &mut Turn) -> Result<bool> {
        let mut any = false;
        // To write to a stream takes time, in which the source is to have requests.
        let enough = match self.to {
            Some(_) => u64::MAX,
            None => turn.meter.position().saturating_add(self.grid.piece()),
        };
        while turn.meter.position() < enough {
            let Some(piece) = self.queue.front() else { break };
            let done = match (&self.to, piece.state) {
                (Some(_), State::Done) => self.retire_written(turn)?,
                (None, State::Loaded) => match self.push_front(turn) {
                    Err(error) if error.would_block() => {
                        self.stalled.sink = Some(error);
                        return Ok(any);
                    }
                    other => other?,
                },
                (_, State::Short) => return Err(self.ended_early()),
                (
                    _,
                    State::Filling
                    | State::Reading
                    | State::Held
                    | State::Loaded
                    | State::Writing
                    | State::Done,
                ) => break,
            };
            if !done {
                return Ok(any);
            }
            any = true;
        }
        Ok(any)
    }

    /// The source has ended within the first piece.
    fn ended_early(&self) -> Error {
        let (Some(from), Some(piece)) = (&self.from, self.queue.front()) else {
            return Error::Internal;
        };
        let offset = from.offset(piece.from) + piece.cursor;
        let expected = from.geometry.size.max(from.offset(piece.from + piece.length));
        Error::EndedEarly { offset, expected }
    }

    /// Accounts for the first piece, which was written but for the parts of blocks. Returns whether it was
    /// removed.
    fn retire_written(&mut self, turn: &mut Turn) -> Result<bool> {
        let Some(to) = &self.to else { return Err(Error::Internal) };
        let (start, end) = to.middle(&self.queue[0]);
        if !self.fill_tail(start, turn)? {
            return Ok(false);
        }
        // The block before it has to be stored before the sink moves past it.
        if start < end && self.queue[0].retired < end && !self.leave_tail(turn)? {
            return Ok(false);
        }
        while self.queue[0].retired < end {
            let piece = &self.queue[0];
            let run = piece.run(piece.retired, end, self.grid);
            let from_data = piece.kind == Kind::Data;
            let (part, written) = match run {
                Run::Data(_) => (Part::Data(Way::Window), true),
                Run::Zeros(length) => {
                    (Part::Hole(piece.hole_way, if from_data { length } else { 0 }), false)
                }
                Run::Keep(_) => (Part::Keep, false),
            };
            if let Some(end) = turn.sink.addressed() {
                end.passed(run.length(), written)?;
            }
            self.queue[0].retired += run.length();
            turn.moved(part, run.length())?;
        }
        let length = self.queue[0].length;
        if !self.fill_tail(length, turn)? {
            return Ok(false);
        }
        self.queue.pop();
        Ok(true)
    }

    /// Puts the first piece, as far as `end`, into the block that is filled in part. Returns whether all of
    /// that was done.
    fn fill_tail(&mut self, end: u64, turn: &mut Turn) -> Result<bool> {
        while self.queue[0].retired < end {
            let (Some(to), Some(tail)) = (&self.to, &mut self.tail) else {
                return Err(Error::Internal);
            };
            if to.is_full() {
                return Ok(false);
            }
            let piece = &mut self.queue[0];
            let offset = to.offset(piece.from + piece.retired);
            match tail.put(piece, offset, end) {
                Todo::Wait => return Ok(false),
                Todo::Ask(request) => {
                    self.submit(Side::Sink, request, turn)?;
                    return Ok(false);
                }
                Todo::Left(stored) => self.tail_stored(stored, turn)?,
                Todo::Refuse(error) => return Err(error),
                Todo::Took(count) => {
                    piece.retired += count;
                    let part = match piece.kind {
                        Kind::Data => Part::Data(Way::Window),
                        Kind::Keep => Part::Keep,
                        Kind::Hole | Kind::End => Part::Hole(HoleWay::Written, 0),
                    };
                    turn.moved(part, count)?;
                }
            }
        }
        Ok(true)
    }

    /// Writes the block that is filled in part, or leaves it. Returns whether that is done.
    pub(super) fn leave_tail(&mut self, turn: &mut Turn) -> Result<bool> {
        let Some(tail) = &mut self.tail else { return Ok(true) };
        if self.to.as_ref().is_some_and(Port::is_full) {
            return Ok(false);
        }
        match tail.settle() {
            Todo::Wait | Todo::Took(_) => Ok(false),
            Todo::Refuse(error) => Err(error),
            Todo::Left(stored) => self.tail_stored(stored, turn).map(|()| true),
            Todo::Ask(request) => self.submit(Side::Sink, request, turn).map(|()| false),
        }
    }

    /// The sink moves past what the block has taken, once that was written.
    pub(super) fn tail_stored(
        &mut self,
        stored: Option<(u64, bool)>,
        turn: &mut Turn,
    ) -> Result<()> {
        match (stored, turn.sink.addressed()) {
            (Some((length, written)), Some(end)) if length > 0 => end.passed(length, written),
            _ => Ok(()),
        }
    }

    /// Gives a stream the next run of the first piece. Returns whether anything was done.
    fn push_front(&mut self, turn: &mut Turn) -> Result<bool> {
        let piece = &self.queue[0];
        let length = piece.length;
        let run = piece.run(piece.cursor, length, self.grid);
        match run {
            Run::Zeros(count) => {
                let zeros = if piece.kind == Kind::Data { count } else { 0 };
                self.gap.length += count;
                self.gap.zeros += zeros;
                self.queue[0].cursor += count;
            }
            _ if self.gap.length > 0 => return self.push_gap(turn),
            Run::Keep(count) => {
                let kept = turn.sink.keep(count)?;
                let kept = turn.taken(Operation::Keep, kept, count)?;
                self.queue[0].cursor += kept;
                turn.moved(Part::Keep, kept)?;
            }
            Run::Data(count) => {
                let start = piece.skew + piece.cursor as usize;
                let bytes = piece.slab.as_ref().map(Slab::bytes).unwrap_or_default();
                let taken = turn.sink.write(&bytes[start..start + count as usize])? as u64;
                // A write to a stream may take long.
                self.queue.set_time(Instant::now());
                let taken = turn.taken(Operation::Write, taken, count)?;
                self.queue[0].cursor += taken;
                turn.moved(Part::Data(Way::Window), taken)?;
            }
        }
        if self.queue[0].cursor == length {
            self.queue.pop();
        }
        Ok(true)
    }

    pub(super) fn push_gap(&mut self, turn: &mut Turn) -> Result<bool> {
        let Gap { length, zeros } = self.gap;
        let made = turn.sink.hole(length)?;
        let count = turn.taken(Operation::Hole, made.length, length)?;
        let came_as_data = zeros.min(count);
        self.gap = Gap { length: length - count, zeros: zeros - came_as_data };
        turn.moved(Part::Hole(made.way, came_as_data), count)?;
        Ok(true)
    }
}
