//! A hole that has come and was not made yet.
//!
//! Adjacent holes and zeros are one gap. It stays open while the next section may extend it. Then it is pushed
//! as a hole, or as zeros if no hole is made.

use super::ladder::Ladder;
use super::meter::Part;
use super::options::Options;
use super::pool::Pool;
use super::turn::{Done, STEP_COST, Turn};
use crate::buffer::Buffer;
use crate::end::{HoleWay, Look};
use crate::error::{Operation, Result};
use crate::section::Kind;
use crate::trace::{Event, Way};
use std::time::Instant;

/// A microsecond spent on making a hole counts as at least this many bytes of the budget: to zero a device
/// may take long.
const ZEROING_COST: u64 = 64;

/// The gap, and the form in which gaps are pushed.
#[derive(Debug)]
pub(super) struct Gap {
    length: u64,
    /// The part of it that came as data and is zeros.
    zeros: u64,
    /// The next section may still extend it.
    open: bool,
    /// The form of the gap, once a part of it was pushed.
    form: Option<Form>,
    /// Holes are made. If not, every gap is written.
    holes: bool,
    short: Option<Short>,
    /// How the last hole was made.
    way: Option<HoleWay>,
}

/// The form in which a gap is pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Hole,
    /// It is too short for a hole.
    Zeros,
}

/// The treatment of holes that are too short to be made.
#[derive(Debug)]
struct Short {
    /// The length of the shortest that is made.
    least: u64,
    /// The zeros that are written for them. The pool may hold the data that follows.
    zeros: Buffer,
}

impl Short {
    const MOST: u64 = 64 << 10;

    fn new(least: u64) -> Result<Self> {
        let size = usize::try_from(least.min(Self::MOST)).unwrap_or(usize::MAX);
        Ok(Short { least, zeros: Buffer::new(size)? })
    }
}

impl Gap {
    /// No gap yet. `holes`: holes are made.
    pub(super) fn new(options: &Options, holes: bool) -> Result<Self> {
        let short =
            if holes && options.min_hole > 1 { Some(Short::new(options.min_hole)?) } else { None };
        Ok(Gap { length: 0, zeros: 0, open: false, form: None, holes, short, way: None })
    }

    #[inline]
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The next section may still extend it.
    #[inline]
    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// It is pushed before anything else is pulled.
    pub(super) fn close(&mut self) {
        self.open = false;
    }

    /// Adds zeros that came as data.
    pub(super) fn join_zeros(&mut self, count: u64) {
        self.length += count;
        self.zeros += count;
        self.open = true;
    }

    /// Adds a hole. `detects`: data that follows may be zeros.
    #[inline]
    pub(super) fn join_hole(&mut self, length: u64, detects: bool, turn: &mut Turn) {
        self.length += length;
        self.open = self.short.is_some() && self.may_grow(detects, turn);
    }

    /// Whether it is too short for a hole, and the next section may change that.
    #[cold]
    fn may_grow(&self, detects: bool, turn: &mut Turn) -> bool {
        let Some(short) = &self.short else { return false };
        if self.length >= short.least {
            return false;
        }
        match turn.source.look() {
            Ok(Look { kind: Kind::Hole, .. }) => true,
            Ok(Look { kind: Kind::Data, .. }) => detects,
            // The next call reports a failure if it is one.
            Ok(Look { kind: Kind::Keep | Kind::End, .. }) | Err(_) => false,
        }
    }

    /// Makes a hole of the first part, or writes zeros. The zeros may be the pool's.
    pub(super) fn push(
        &mut self,
        pool: &mut Pool,
        ladder: &mut Ladder,
        turn: &mut Turn,
    ) -> Result<Done> {
        if !self.holes || self.is_short() {
            return self.write(pool, ladder, turn);
        }
        let begun = turn.timed.then(Instant::now);
        let made = turn.sink.hole(self.length)?;
        let length = turn.taken(Operation::Hole, made.length, self.length)?;
        let took = begun.map_or(0, |begun| begun.elapsed().as_micros());
        let took = u64::try_from(took).unwrap_or(u64::MAX);
        let zeros = self.take(length);
        self.choose(made.way, turn);
        turn.moved(Part::Hole(made.way, zeros), length)?;
        Ok(Done::Worked(STEP_COST.max(took.saturating_mul(ZEROING_COST))))
    }

    /// Holes are made in this way from here on.
    #[inline]
    fn choose(&mut self, way: HoleWay, turn: &mut Turn) {
        if self.way != Some(way) {
            self.way = Some(way);
            turn.trace_ends();
            turn.trace(Event::HoleChosen(way));
        }
    }

    /// Whether it is written as zeros because it is too short for a hole. The rest of a gap becomes
    /// whatever its first part became.
    #[inline]
    fn is_short(&mut self) -> bool {
        let Some(short) = &self.short else { return false };
        let form = if self.length < short.least { Form::Zeros } else { Form::Hole };
        *self.form.get_or_insert(form) == Form::Zeros
    }

    /// Writes zeros instead of a hole.
    fn write(&mut self, pool: &mut Pool, ladder: &mut Ladder, turn: &mut Turn) -> Result<Done> {
        let most = match turn.pace.allowance(turn.now) {
            Ok(allowed) => self.length.min(allowed),
            Err(when) => return Ok(Done::TooEarly(when)),
        };
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let piece = match &self.short {
            Some(short) => &short.zeros.bytes()[..most.min(short.zeros.bytes().len())],
            // The pool is empty here: zeros are not looked for.
            None => pool.zeros(most),
        };
        let length = piece.len() as u64;
        let taken = turn.sink.write(piece)? as u64;
        let taken = turn.taken(Operation::Write, taken, length)?;
        if !self.holes {
            self.choose(HoleWay::Written, turn);
        }
        self.take(taken);
        ladder.moved(Way::Copy, taken, turn)
    }

    /// The sink took the first `length` bytes. Returns the number of those that came as data. They are
    /// counted first: within one gap this makes no difference.
    fn take(&mut self, length: u64) -> u64 {
        let zeros = self.zeros.min(length);
        self.length -= length;
        self.zeros -= zeros;
        if self.length == 0 {
            self.form = None;
        }
        zeros
    }
}
