//! Several requests in flight between two ends of which at least one answers to offsets.
//!
//! ```text
//!     plan:    a section of the source becomes pieces; data gets a slab and is read
//!     output:  a piece that is loaded is written from the same slab, run by run
//!     retire:  pieces leave in the order of the stream
//! ```
//!
//! Between two addressable ends pieces are read and written in any order. A stream at either side keeps
//! the order. The position of the transfer is the lowest unfinished offset, because pieces leave in order.
//!
//! A sink with a block gets whole blocks. Where a piece begins or ends within a block, that part of it goes
//! through the one block of [`tail`], in the order of the stream. So each block is written by one
//! request, and no two requests ever touch the same one.

mod piece;
mod port;
mod tail;

use super::meter::Part;
use super::options::Options;
use super::turn::{Done, STEP_COST, Several, Turn};
use crate::end::{Addressable, Ask, HoleWay, Next, Reply, Request};
use crate::error::{Error, Operation, Result, Side};
use crate::section::Kind;
use crate::sys::memory::Slab;
use crate::trace::Way;
use crate::wait::{Waiting, Watch};
use piece::{Piece, Run, State};
use port::{Port, Rest};
use std::collections::VecDeque;
use std::time::Instant;
use tail::{Tail, Todo};

/// Holes and kept sections need no slab, but the list of pieces has an end.
const PIECES_PER_SLAB: usize = 16;

/// The token of the request for the block that is filled in part.
const TAIL: u64 = u64::MAX;

/// Whether holes are made, and whether kept sections were declared.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kinds {
    pub(super) holes: bool,
    pub(super) keeps: bool,
}

/// The pool, and what is on its way.
#[derive(Debug)]
pub(super) struct Window {
    from: Option<Port>,
    to: Option<Port>,
    kinds: Kinds,
    slabs: Vec<Slab>,
    pieces: VecDeque<Piece>,
    /// The most of them.
    most: usize,
    /// The token of the first piece.
    first: u64,
    /// The stream was planned up to here.
    planned: u64,
    /// Pieces end on multiples of `grid`, counted from `phase` before the start of the stream.
    grid: u64,
    phase: u64,
    /// Blocks of zeros that are looked for; 0 if none are.
    unit: u64,
    tail: Option<Tail>,
    replies: VecDeque<Reply>,
    /// Zeros and holes that a stream has not been given yet, and how many of them came as data.
    gap: (u64, u64),
    source_ended: bool,
    stalled: Stalled,
}

/// Why nothing more was planned or pushed in this step.
#[derive(Debug, Default)]
struct Stalled {
    source: Option<Error>,
    sink: Option<Error>,
    rate: Option<Instant>,
}

impl Window {
    /// A window between two ends; an errno if there cannot be one. The stream is at the meter's position.
    pub(super) fn new(options: &Options, kinds: Kinds, turn: &mut Turn) -> Result<Self> {
        let begun = turn.meter.position();
        let from = Port::of(turn.source.addressed(), Side::Source, begun)?;
        let to = Port::of(turn.sink.addressed(), Side::Sink, begun)?;
        let ports = || from.iter().chain(&to);
        let unit = if options.detect_zeroes && kinds.holes { options.zero_block.into() } else { 0 };
        let grain = ports().map(Port::block).max().unwrap_or(1);
        let block = to.as_ref().map_or(1, Port::block);
        let unit = if unit == 0 { 0 } else { block.max(unit) };
        let least = grain.max(unit).max(1);
        let most = ports().map(|port| port.geometry.request).min().unwrap_or(u64::MAX);
        let grid = options.request_size.min(most);
        let grid = (grid - grid % least).max(least);
        let depth = ports().map(|port| port.geometry.depth).max().unwrap_or(1);
        let depth = depth.min(options.depth as usize).max(1);
        let none = || Error::nowhere(Operation::Allocate, Side::None, libc::ENOMEM);
        // Room for a read that is rounded outward, and for data that moves to another place in its block.
        let length = usize::try_from(grid + 2 * grain).map_err(|_| none())?;
        let mut slabs = Slab::many(depth + 1, length).ok_or_else(none)?;
        let spare = slabs.pop().ok_or_else(none)?;
        for end in [turn.source.addressed(), turn.sink.addressed()].into_iter().flatten() {
            end.memory(&spare);
        }
        let mut pieces = VecDeque::new();
        pieces.try_reserve_exact(depth * PIECES_PER_SLAB).map_err(|_| none())?;
        let mut replies = VecDeque::new();
        replies.try_reserve_exact(2 * depth * PIECES_PER_SLAB).map_err(|_| none())?;
        let phase = to.as_ref().map_or(0, |to| to.phase());
        Ok(Window {
            tail: to.as_ref().filter(|to| to.block() > 1).map(|to| Tail::new(to, spare)),
            from,
            to,
            kinds,
            slabs,
            pieces,
            most: depth * PIECES_PER_SLAB,
            first: 0,
            planned: begun,
            grid,
            phase,
            unit,
            replies,
            gap: (0, 0),
            source_ended: false,
            stalled: Stalled::default(),
        })
    }

    /// Requests that are under way.
    pub(super) fn in_flight(&self) -> usize {
        self.from.iter().chain(&self.to).map(|port| port.in_flight).sum()
    }

    /// Does what can be done now.
    pub(super) fn step(&mut self, turn: &mut Turn) -> Result<Done> {
        self.stalled = Stalled::default();
        let mut worked = self.plan(turn)?;
        worked |= self.output(turn)?;
        worked |= self.collect(turn)?;
        let before = turn.meter.position();
        worked |= self.retire(turn)?;
        let moved = turn.meter.position() - before;
        if worked || moved > 0 {
            return Ok(Done::Worked(moved.min(turn.most).max(STEP_COST)));
        }
        // A known gap goes out before anybody waits for more.
        let waits = self.pieces.is_empty() || self.stalled.source.is_some();
        if self.gap.0 > 0 && waits && self.stalled.sink.is_none() {
            match self.push_gap(turn) {
                Ok(_) => return Ok(Done::Worked(STEP_COST)),
                Err(error) if error.would_block() => self.stalled.sink = Some(error),
                Err(error) => return Err(error),
            }
        }
        if self.source_ended && self.pieces.is_empty() && self.gap.0 == 0 {
            let under_way = self.in_flight();
            if self.leave_tail(turn)? && under_way == 0 {
                return Ok(Done::AtEnd);
            }
            if self.in_flight() > under_way {
                return Ok(Done::Worked(0));
            }
        }
        self.blocked(turn)
    }

    /// Nothing can be done before something comes.
    fn blocked(&mut self, turn: &mut Turn) -> Result<Done> {
        let mut watched = Watched::new();
        for (port, side) in [(&self.to, Side::Sink), (&self.from, Side::Source)] {
            if port.as_ref().is_some_and(|port| port.in_flight > 0) {
                watched.add(side, turn);
            }
        }
        if let (0, Some(when), None) = (self.in_flight(), self.stalled.rate, &self.stalled.sink) {
            return Ok(Done::TooEarly(when));
        }
        for error in [&self.stalled.source, &self.stalled.sink].into_iter().flatten() {
            watched.add(error.side(), turn);
        }
        let side = watched.side.unwrap_or(Side::None);
        turn.waits = watched.several();
        let known = self.stalled.source.is_some() || self.stalled.sink.is_some();
        let operation = if side == Side::Source { Operation::Read } else { Operation::Write };
        let waits = Error::at(operation, side, turn.meter.position(), libc::EAGAIN);
        if side == Side::None && !known { Err(Error::Internal) } else { Err(waits) }
    }

    /// Cancels what is under way, because the transfer has failed.
    pub(super) fn cancel(&mut self, error: &Error, turn: &mut Turn) {
        for end in [turn.source.addressed(), turn.sink.addressed()].into_iter().flatten() {
            end.cancel(error);
        }
    }

    /// Takes back what was cancelled. Returns whether all of it is back.
    pub(super) fn drain(&mut self, turn: &mut Turn) -> bool {
        for (port, end) in
            [(&mut self.from, turn.source.addressed()), (&mut self.to, turn.sink.addressed())]
        {
            let (Some(port), Some(end)) = (port, end) else { continue };
            if port.in_flight > 0 {
                // The failure that is reported is the first one.
                let _ = end.advance(&mut self.replies);
                port.in_flight -= self.replies.len().min(port.in_flight);
                self.replies.clear();
            }
        }
        if self.in_flight() > 0 {
            let mut watched = Watched::new();
            for (port, side) in [(&self.to, Side::Sink), (&self.from, Side::Source)] {
                if port.as_ref().is_some_and(|port| port.in_flight > 0) {
                    watched.add(side, turn);
                }
            }
            turn.waits = watched.several();
        }
        self.in_flight() == 0
    }

    /// Takes in what is done. Returns whether anything was.
    fn collect(&mut self, turn: &mut Turn) -> Result<bool> {
        let mut any = false;
        for side in [Side::Source, Side::Sink] {
            if self.port(side).is_none_or(|port| port.in_flight == 0) {
                continue;
            }
            let Some(end) = addressed(side, turn) else { return Err(Error::Internal) };
            end.advance(&mut self.replies)?;
            any |= !self.replies.is_empty();
            while let Some(reply) = self.replies.pop_front() {
                if let Some(port) = self.port(side) {
                    port.in_flight -= 1;
                }
                if let Err(error) = self.take_in(side, reply, turn) {
                    // The others are back too.
                    let others = self.replies.len();
                    self.replies.clear();
                    if let Some(port) = self.port(side) {
                        port.in_flight -= others;
                    }
                    return Err(error);
                }
            }
        }
        if any {
            turn.progressed();
        }
        Ok(any)
    }

    fn port(&mut self, side: Side) -> Option<&mut Port> {
        if side == Side::Source { self.from.as_mut() } else { self.to.as_mut() }
    }

    fn submit(&mut self, side: Side, request: Request, turn: &mut Turn) -> Result<()> {
        let Some(port) = self.port(side) else { return Err(Error::Internal) };
        port.in_flight += 1;
        let Some(end) = addressed(side, turn) else { return Err(Error::Internal) };
        end.submit(request);
        Ok(())
    }

    fn take_in(&mut self, side: Side, reply: Reply, turn: &mut Turn) -> Result<()> {
        let Reply { request, result } = reply;
        let result = result.map_err(|errno| failure(side, &request, errno));
        if request.token == TAIL {
            let Some(tail) = &mut self.tail else { return Err(Error::Internal) };
            let stored = tail.take_in(request, result)?;
            return self.tail_stored(stored, turn);
        }
        let index = usize::try_from(request.token - self.first).unwrap_or(usize::MAX);
        let Some(piece) = self.pieces.get_mut(index) else { return Err(Error::Internal) };
        let count = result?;
        if count > request.length {
            let (operation, offset) = (operation(request.ask), request.offset);
            let answer = i64::try_from(count).unwrap_or(i64::MAX);
            return Err(Error::Nonsense { operation, side, offset, answer });
        }
        match request.ask {
            Ask::Read => {
                let Some(from) = &self.from else { return Err(Error::Internal) };
                match from.rest_of_read(piece, request, count) {
                    Rest::Nothing => self.loaded(index),
                    Rest::Of(rest) => return self.submit(Side::Source, rest, turn),
                    Rest::Ended => piece.state = State::Short,
                }
                Ok(())
            }
            Ask::Write | Ask::Zero => {
                let written = request.ask == Ask::Write;
                if let Some(to) = &self.to {
                    if count == 0 {
                        return Err(failure(side, &request, libc::EIO));
                    }
                    // A part of a block is done again, with the rest of it.
                    piece.cursor += count - count % to.block();
                }
                if let (false, Some(end)) = (written, turn.sink.addressed()) {
                    piece.hole_way = end.zero_way();
                }
                if request.memory.is_some() {
                    piece.slab = request.memory;
                }
                piece.state = State::Loaded;
                Ok(())
            }
            Ask::Flush => Err(Error::Internal),
        }
    }

    /// All of a piece is in its slab.
    fn loaded(&mut self, index: usize) {
        let Some(piece) = self.pieces.get_mut(index) else { return };
        piece.state = State::Loaded;
        if let Some(to) = &self.to {
            to.place(piece);
        }
        if self.unit > 0 {
            piece.look_for_zeros(self.unit, self.phase);
        }
    }

    /// Plans what comes next, as far as there is memory. Returns whether anything was.
    fn plan(&mut self, turn: &mut Turn) -> Result<bool> {
        let mut any = false;
        while !self.source_ended && self.pieces.len() < self.most {
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
        if self.slabs.is_empty() || from.is_full() {
            return Ok(false);
        }
        let most = from.most(self.planned).min(self.to_grid());
        let Some(allowed) = self.allowance(turn) else { return Ok(false) };
        let length = length.min(most).min(allowed);
        self.reach(Kind::Data, length, turn)?;
        let (Some(slab), Some(from)) = (self.slabs.pop(), &self.from) else { return Ok(false) };
        let mut piece = Piece::data(self.planned, length, State::Busy);
        let request = from.read(&mut piece, slab, self.first + self.pieces.len() as u64);
        self.push(piece);
        turn.pace.spend(length, turn.now);
        turn.source.consume(length);
        self.submit(Side::Source, request, turn)?;
        Ok(true)
    }

    /// Reads what comes next of a stream into the piece that is being filled. Returns whether anything came.
    fn plan_stream(&mut self, turn: &mut Turn) -> Result<bool> {
        if self.pieces.back().is_none_or(|piece| piece.state != State::Filling) {
            let Some(slab) = self.slabs.pop() else { return Ok(false) };
            let mut piece = Piece::data(self.planned, 0, State::Filling);
            piece.room = self.to_grid();
            piece.skew = self.to.as_ref().map_or(0, |to| to.skew(piece.from));
            piece.slab = Some(slab);
            self.push(piece);
        }
        let Some(allowed) = self.allowance(turn) else { return Ok(false) };
        let Some(Piece { slab: Some(slab), skew, length, room, .. }) = self.pieces.back_mut()
        else {
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
                *length += count;
                let full = *length == *room;
                self.planned += count;
                self.reach(Kind::Data, 0, turn)?;
                if full {
                    self.loaded(self.pieces.len() - 1);
                }
            }
            Next::Hole(length) => {
                self.close();
                return self.plan_section(Kind::Hole, length, turn);
            }
            Next::Keep(length) => {
                self.close();
                return self.plan_section(Kind::Keep, length, turn);
            }
            Next::End => {
                self.close();
                self.source_ended = true;
            }
        }
        Ok(true)
    }

    /// Nothing more comes into the piece that is being filled.
    fn close(&mut self) {
        match self.pieces.back_mut() {
            Some(piece) if piece.state == State::Filling && piece.length == 0 => {
                self.slabs.extend(piece.slab.take());
                self.pieces.pop_back();
            }
            Some(piece) if piece.state == State::Filling => self.loaded(self.pieces.len() - 1),
            _ => {}
        }
    }

    /// A hole or a kept section comes next. Returns whether it was planned.
    fn plan_section(&mut self, kind: Kind, length: u64, turn: &mut Turn) -> Result<bool> {
        if i64::try_from(self.planned.saturating_add(length)).is_err() {
            return Err(Error::at(Operation::Read, Side::Source, self.planned, libc::EOVERFLOW));
        }
        if kind == Kind::Keep && !self.kinds.keeps {
            return Err(Error::Because {
                operation: Operation::Keep,
                side: Side::Source,
                offset: self.planned,
                errno: libc::EPROTO,
                why: "the source did not declare that it keeps sections",
            });
        }
        if kind == Kind::Hole && !self.kinds.holes {
            return self.plan_zeros(length, turn);
        }
        self.reach(kind, length, turn)?;
        turn.source.consume(length);
        self.push(Piece::section(kind, self.planned, length));
        Ok(true)
    }

    /// Plans zeros for a part of a hole that is not made.
    fn plan_zeros(&mut self, length: u64, turn: &mut Turn) -> Result<bool> {
        let Some(allowed) = self.allowance(turn) else { return Ok(false) };
        let length = length.min(self.to_grid()).min(allowed);
        self.reach(Kind::Hole, length, turn)?;
        let Some(mut slab) = self.slabs.pop() else { return Ok(false) };
        slab.bytes_mut().fill(0);
        let mut piece = Piece::data(self.planned, length, State::Loaded);
        piece.skew = self.to.as_ref().map_or(0, |to| to.skew(piece.from));
        piece.slab = Some(slab);
        self.push(piece);
        turn.pace.spend(length, turn.now);
        turn.source.consume(length);
        Ok(true)
    }

    fn push(&mut self, piece: Piece) {
        self.planned += piece.length;
        self.pieces.push_back(piece);
    }

    /// Whether the sink takes what is planned, and `more`.
    fn reach(&self, kind: Kind, more: u64, turn: &mut Turn) -> Result<()> {
        match (&self.to, turn.sink.addressed()) {
            (Some(to), Some(end)) => end.reach(kind, to.offset(self.planned + more)),
            _ => Ok(()),
        }
    }

    /// Bytes from what is planned to the next multiple of the grid.
    fn to_grid(&self) -> u64 {
        self.grid - (self.planned + self.phase) % self.grid
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

    /// Asks an addressable sink to write what is loaded. Returns whether anything was asked or done.
    fn output(&mut self, turn: &mut Turn) -> Result<bool> {
        let mut any = false;
        for index in 0..self.pieces.len() {
            let Some(to) = &self.to else { return Ok(false) };
            if to.is_full() {
                break;
            }
            if self.pieces[index].state == State::Loaded {
                any |= self.output_piece(index, turn)?;
            }
        }
        Ok(any)
    }

    /// Asks for the next run of a piece. Returns whether anything was asked or done.
    fn output_piece(&mut self, index: usize, turn: &mut Turn) -> Result<bool> {
        let (Some(to), last) = (&self.to, index + 1 == self.pieces.len()) else {
            return Err(Error::Internal);
        };
        let piece = &mut self.pieces[index];
        let (start, end) = to.middle(piece);
        piece.cursor = piece.cursor.max(start);
        while piece.cursor < end {
            let run = piece.run(piece.cursor, end, self.unit, self.phase);
            let offset = to.offset(piece.from + piece.cursor);
            let token = self.first + index as u64;
            let request = match run {
                Run::Keep(length) => {
                    piece.cursor += length;
                    continue;
                }
                // Nothing is there to be zeroed.
                Run::Zeros(length) if to.geometry.grows && offset >= to.geometry.size => {
                    piece.hole_way = HoleWay::Extended;
                    piece.cursor += length;
                    continue;
                }
                Run::Zeros(length) => {
                    let mut length = length.min(to.geometry.zero);
                    if to.geometry.grows {
                        length = length.min(to.up(to.geometry.size) - offset);
                    }
                    Request { token, ask: Ask::Zero, offset, length, memory: None, start: 0 }
                }
                Run::Data(length) => {
                    // A write that may be the last comes when all before it is done: a copy that is killed
                    // never has its final size.
                    let grown = to.geometry.grows && offset + length > to.geometry.size;
                    if grown && last && index > 0 {
                        return Ok(false);
                    }
                    let (start, memory) = (piece.skew + piece.cursor as usize, piece.slab.take());
                    Request { token, ask: Ask::Write, offset, length, memory, start }
                }
            };
            piece.state = State::Busy;
            self.submit(Side::Sink, request, turn)?;
            return Ok(true);
        }
        piece.state = State::Done;
        // Unless a part of it goes through the block that is filled in part, its memory does not wait for
        // slow pieces before it.
        if (start, end) == (0, piece.length) {
            self.slabs.extend(piece.slab.take());
        }
        Ok(true)
    }

    /// Lets the pieces go that are first and done. Returns whether anything was done.
    fn retire(&mut self, turn: &mut Turn) -> Result<bool> {
        let mut any = false;
        while let Some(piece) = self.pieces.front() {
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
                (_, State::Busy | State::Filling | State::Loaded | State::Done) => break,
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
        let (Some(from), Some(piece)) = (&self.from, self.pieces.front()) else {
            return Error::Internal;
        };
        let offset = from.offset(piece.from) + piece.cursor;
        let expected = from.geometry.size.max(from.offset(piece.from + piece.length));
        Error::EndedEarly { offset, expected }
    }

    fn pop(&mut self) {
        if let Some(mut piece) = self.pieces.pop_front() {
            self.first += 1;
            self.slabs.extend(piece.slab.take());
        }
    }

    /// Accounts for the first piece, which was written but for the parts of blocks. Returns whether it is gone.
    fn retire_written(&mut self, turn: &mut Turn) -> Result<bool> {
        let Some(to) = &self.to else { return Err(Error::Internal) };
        let (start, end) = to.middle(&self.pieces[0]);
        if !self.fill_tail(start, turn)? {
            return Ok(false);
        }
        // The block before it has to be stored before the sink moves past it.
        if start < end && self.pieces[0].retired < end && !self.leave_tail(turn)? {
            return Ok(false);
        }
        while self.pieces[0].retired < end {
            let piece = &self.pieces[0];
            let run = piece.run(piece.retired, end, self.unit, self.phase);
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
            self.pieces[0].retired += run.length();
            turn.moved(part, run.length())?;
        }
        let length = self.pieces[0].length;
        if !self.fill_tail(length, turn)? {
            return Ok(false);
        }
        self.pop();
        Ok(true)
    }

    /// Puts the first piece, as far as `end`, into the block that is filled in part. Returns whether all of
    /// that was done.
    fn fill_tail(&mut self, end: u64, turn: &mut Turn) -> Result<bool> {
        while self.pieces[0].retired < end {
            let (Some(to), Some(tail)) = (&self.to, &mut self.tail) else {
                return Err(Error::Internal);
            };
            if to.is_full() {
                return Ok(false);
            }
            let piece = &mut self.pieces[0];
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
    fn leave_tail(&mut self, turn: &mut Turn) -> Result<bool> {
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
    fn tail_stored(&mut self, stored: Option<(u64, bool)>, turn: &mut Turn) -> Result<()> {
        match (stored, turn.sink.addressed()) {
            (Some((length, written)), Some(end)) if length > 0 => end.passed(length, written),
            _ => Ok(()),
        }
    }

    /// Gives a stream the next run of the first piece. Returns whether anything was done.
    fn push_front(&mut self, turn: &mut Turn) -> Result<bool> {
        let piece = &self.pieces[0];
        let length = piece.length;
        let run = piece.run(piece.cursor, length, self.unit, self.phase);
        match run {
            Run::Zeros(count) => {
                let zeros = if piece.kind == Kind::Data { count } else { 0 };
                self.gap = (self.gap.0 + count, self.gap.1 + zeros);
                self.pieces[0].cursor += count;
            }
            _ if self.gap.0 > 0 => return self.push_gap(turn),
            Run::Keep(count) => {
                let kept = turn.sink.keep(count)?;
                let kept = turn.taken(Operation::Keep, kept, count)?;
                self.pieces[0].cursor += kept;
                turn.moved(Part::Keep, kept)?;
            }
            Run::Data(count) => {
                let start = piece.skew + piece.cursor as usize;
                let bytes = piece.slab.as_ref().map(Slab::bytes).unwrap_or_default();
                let taken = turn.sink.write(&bytes[start..start + count as usize])? as u64;
                let taken = turn.taken(Operation::Write, taken, count)?;
                self.pieces[0].cursor += taken;
                turn.moved(Part::Data(Way::Window), taken)?;
            }
        }
        if self.pieces[0].cursor == length {
            self.pop();
        }
        Ok(true)
    }

    fn push_gap(&mut self, turn: &mut Turn) -> Result<bool> {
        let (length, zeros) = self.gap;
        let made = turn.sink.hole(length)?;
        let count = turn.taken(Operation::Hole, made.length, length)?;
        let came_as_data = zeros.min(count);
        self.gap = (length - count, zeros - came_as_data);
        turn.moved(Part::Hole(made.way, came_as_data), count)?;
        Ok(true)
    }
}

fn addressed<'a>(side: Side, turn: &'a mut Turn) -> Option<&'a mut dyn Addressable> {
    if side == Side::Source { turn.source.addressed() } else { turn.sink.addressed() }
}

fn operation(ask: Ask) -> Operation {
    match ask {
        Ask::Read => Operation::Read,
        Ask::Write => Operation::Write,
        Ask::Zero => Operation::Hole,
        Ask::Flush => Operation::Sync,
    }
}

/// The error of a request, with its own offset.
fn failure(side: Side, request: &Request, errno: i32) -> Error {
    let (operation, offset) = (operation(request.ask), request.offset);
    if errno == libc::EAGAIN {
        let why = "the request was answered with EAGAIN";
        return Error::Because { operation, side, offset, errno: libc::EIO, why };
    }
    Error::at(operation, side, offset, errno)
}

/// The events to wait for.
struct Watched {
    side: Option<Side>,
    watch: Watch,
    blocking: bool,
}

impl Watched {
    fn new() -> Self {
        Watched { side: None, watch: Watch::NOTHING, blocking: true }
    }

    fn add(&mut self, side: Side, turn: &Turn) {
        self.side.get_or_insert(side);
        let waiting =
            if side == Side::Source { turn.source.waiting() } else { turn.sink.waiting() };
        match waiting {
            Waiting::Owner => {}
            Waiting::Descriptor { fd, events, blocking } => {
                self.watch.add(crate::wait::Watched { fd, events });
                self.blocking &= blocking;
            }
            Waiting::Watch(watch) => {
                self.watch = self.watch.within(watch.timeout);
                for watched in watch.descriptors() {
                    self.watch.add(*watched);
                }
            }
        }
    }

    /// `None` if only the owners know.
    fn several(&self) -> Option<Several> {
        let known = !self.watch.descriptors().is_empty() || self.watch.timeout.is_some();
        known.then_some(Several { watch: self.watch, blocking: self.blocking })
    }
}

#[cfg(test)]
mod tests;
