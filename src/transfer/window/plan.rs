//! Plans what comes next of the source, as far as there is memory.

use super::piece::{Piece, State};
use super::{Realigns, Window};
use crate::end::Next;
use crate::error::{Error, Operation, Result, Side};
use crate::section::Kind;
use crate::trace::Event;
use crate::transfer::turn::Turn;

impl Window {
    /// Plans what comes next, as far as there is memory. Returns whether anything was.
    pub(super) fn plan(&mut self, turn: &mut Turn) -> Result<bool> {
        let mut any = false;
        // A stream is read here and now: what has come of it is written before more is read.
        let enough = match self.from {
            Some(_) => u64::MAX,
            None => self.queue.planned().saturating_add(self.grid.piece()),
        };
        while !self.source_ended && !self.queue.is_full() && self.queue.planned() < enough {
            let more =
                if self.from.is_some() { self.plan_read(turn) } else { self.plan_stream(turn) };
            match more {
                Ok(true) => any = true,
                Ok(false) => break,
                Err(error) if error.would_block() => {
                    self.stalled.source = Some(error);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(any)
    }

    /// Asks an addressable source for what comes next. Returns whether it was planned.
    fn plan_read(&mut self, turn: &mut Turn) -> Result<bool> {
        let look = turn.source.look()?;
        let length = match (look.kind, look.length) {
            (Kind::End, _) => {
                self.source_ended = true;
                return Ok(true);
            }
            (_, Some(0) | None) => return Err(Error::Internal),
            (_, Some(length)) => length,
        };
        if look.kind != Kind::Data {
            return self.plan_section(look.kind, length, turn);
        }
        let Some(from) = &self.from else { return Err(Error::Internal) };
        let length = length.min(from.most(self.queue.planned())).min(self.to_cut());
        if from.is_full() || !self.queue.has_slab(length) {
            return Ok(false);
        }
        let Some(allowed) = self.allowance(turn) else { return Ok(false) };
        let length = length.min(allowed);
        self.reach(Kind::Data, length, turn)?;
        let (Some(slab), Some(from)) = (self.queue.take_slab(length), &self.from) else {
            return Ok(false);
        };
        let mut piece = Piece::data(self.queue.planned(), length, State::Reading);
        let request = from.read(&mut piece, slab, self.queue.token(self.queue.len()));
        self.queue.push(piece);
        turn.pace.spend(length, turn.now);
        turn.source.consume(length);
        self.submit(Side::Source, request, turn)?;
        Ok(true)
    }

    /// Reads what comes next of a stream into the piece that is being filled. Returns whether anything came.
    fn plan_stream(&mut self, turn: &mut Turn) -> Result<bool> {
        if self.queue.back().is_none_or(|piece| piece.state != State::Filling) {
            let room = self.to_cut();
            let Some(slab) = self.queue.take_slab(room) else { return Ok(false) };
            let mut piece = Piece::data(self.queue.planned(), 0, State::Filling);
            piece.room = room;
            piece.skew = self.to.as_ref().map_or(0, |to| to.skew(piece.from));
            piece.slab = Some(slab);
            self.queue.push(piece);
        }
        let Some(allowed) = self.allowance(turn) else { return Ok(false) };
        let Some(Piece { slab: Some(slab), skew, length, room, .. }) = self.queue.back_mut() else {
            return Err(Error::Internal);
        };
        let start = *skew + *length as usize;
        let most = (*room - *length).min(allowed) as usize;
        let next = turn.source.next(&mut slab.bytes_mut()[start..start + most])?;
        match next {
            Next::Data(count) => {
                let count = turn.came(count, most)? as u64;
                turn.pace.spend(count, turn.now);
                turn.progressed();
                let full = *length + count == *room;
                self.queue.grew(count);
                self.reach(Kind::Data, 0, turn)?;
                if full {
                    self.loaded(self.queue.len() - 1, turn);
                }
            }
            Next::Hole(length) => {
                self.close(turn);
                return self.plan_section(Kind::Hole, length, turn);
            }
            Next::Keep(length) => {
                self.close(turn);
                return self.plan_section(Kind::Keep, length, turn);
            }
            Next::End => {
                self.close(turn);
                self.source_ended = true;
            }
        }
        Ok(true)
    }

    /// Nothing more comes into the piece that is being filled.
    fn close(&mut self, turn: &mut Turn) {
        match self.queue.back() {
            Some(piece) if piece.state == State::Filling && piece.length == 0 => {
                self.queue.drop_last();
            }
            Some(piece) if piece.state == State::Filling => {
                self.loaded(self.queue.len() - 1, turn);
            }
            _ => {}
        }
    }

    /// A hole or a kept section comes next. Returns whether it was planned.
    fn plan_section(&mut self, kind: Kind, length: u64, turn: &mut Turn) -> Result<bool> {
        if i64::try_from(self.queue.planned().saturating_add(length)).is_err() {
            return Err(Error::at(
                Operation::Read,
                Side::Source,
                self.queue.planned(),
                libc::EOVERFLOW,
            ));
        }
        if kind == Kind::Keep && !self.kinds.keeps {
            return Err(Error::Because {
                operation: Operation::Keep,
                side: Side::Source,
                offset: self.queue.planned(),
                errno: libc::EPROTO,
                why: "the source reported a kept section, but had not declared that it may",
            });
        }
        if kind == Kind::Hole && !self.kinds.holes {
            return self.plan_zeros(length, turn);
        }
        self.reach(kind, length, turn)?;
        turn.source.consume(length);
        self.queue.push(Piece::section(kind, self.queue.planned(), length));
        if kind == Kind::Hole {
            self.sweep_hole();
        }
        Ok(true)
    }

    /// Plans zeros for a part of a hole that is not made.
    fn plan_zeros(&mut self, length: u64, turn: &mut Turn) -> Result<bool> {
        let Some(allowed) = self.allowance(turn) else { return Ok(false) };
        let length = length.min(self.to_cut()).min(allowed);
        self.reach(Kind::Hole, length, turn)?;
        let Some(mut slab) = self.queue.take_slab(length) else { return Ok(false) };
        slab.bytes_mut().fill(0);
        let mut piece = Piece::data(self.queue.planned(), length, State::Loaded);
        piece.skew = self.to.as_ref().map_or(0, |to| to.skew(piece.from));
        piece.slab = Some(slab);
        self.queue.push(piece);
        turn.pace.spend(length, turn.now);
        turn.source.consume(length);
        Ok(true)
    }

    /// Whether the sink takes what is planned, and `more`.
    fn reach(&self, kind: Kind, more: u64, turn: &mut Turn) -> Result<()> {
        match (&self.to, turn.sink.addressed()) {
            (Some(to), Some(end)) => end.reach(kind, to.offset(self.queue.planned() + more)),
            _ => Ok(()),
        }
    }

    /// Bytes from what is planned to the end of its piece.
    fn to_cut(&self) -> u64 {
        self.grid.to_cut(self.queue.planned())
    }

    fn allowance(&mut self, turn: &Turn) -> Option<u64> {
        match turn.pace.allowance(turn.now) {
            Ok(allowed) => Some(allowed),
            Err(when) => {
                self.stalled.rate = Some(when);
                None
            }
        }
    }

    /// All of a piece is in its slab.
    pub(super) fn loaded(&mut self, index: usize, turn: &mut Turn) {
        let held = self.sweeps.read(self.queue.token(index));
        self.queue.enter(index, if held { State::Held } else { State::Loaded });
        let piece = &mut self.queue[index];
        let differ = self.to.as_ref().map_or(0, |to| to.place(piece));
        if differ > 0 && self.realigns == Realigns::NotYet {
            self.realigns = Realigns::Traced;
            turn.trace(Event::Realigned(differ));
        }
        if self.grid.detects() {
            piece.look_for_zeros(self.grid);
        }
    }
}
