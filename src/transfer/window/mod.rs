//! Several requests in flight between two ends of which at least one answers to offsets.
//!
//! ```text
//!     plan:    a section of the source becomes pieces; data gets a slab and is read
//!     sweep:   several holes are zeroed at once, where the sink does that quickly
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
//!
//! | module | subject |
//! |---|---|
//! | this one | one step of all of it |
//! | `plan`, `sweep`, `output`, `retire` | as above |
//! | `exchange` | requests that go out, and replies that come back |
//! | `queue`, `piece` | the pieces and their memory |
//! | `room` | how many pieces have memory at once |
//! | `grid` | where the stream is cut into pieces |
//! | `port` | one addressable end |
//! | `tail` | the block of a sink that is filled in part |
//! | `watched` | the events that are waited for |

mod exchange;
mod grid;
mod output;
mod piece;
mod plan;
mod port;
mod queue;
mod retire;
mod room;
mod sweep;
mod tail;
mod watched;

use super::options::Options;
use super::turn::{Done, STEP_COST, Turn};
use crate::end::Reply;
use crate::error::{Error, Operation, Result, Side};
use crate::sys::memory::{Pages, Slab};
use grid::Grid;
use port::Port;
use queue::{Memory, PIECES_PER_SLAB, Queue};
use std::collections::VecDeque;
use std::time::Instant;
use sweep::Sweeps;
use tail::Tail;
use watched::Watched;

/// The most bytes of a short piece.
const SHORT: u64 = 64 << 10;

/// The most short pieces, so that a great depth does not take much more memory than was asked for.
const MOST_SHORT: usize = 16;

/// Whether holes are made, and whether kept sections were declared.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kinds {
    pub(super) holes: bool,
    pub(super) keeps: bool,
}

/// The pieces that are on their way between two ends.
#[derive(Debug)]
pub(super) struct Window {
    from: Option<Port>,
    to: Option<Port>,
    kinds: Kinds,
    grid: Grid,
    queue: Queue,
    sweeps: Sweeps,
    tail: Option<Tail>,
    replies: VecDeque<Reply>,
    gap: Gap,
    source_ended: bool,
    stalled: Stalled,
    realigns: Realigns,
}

/// Whether data was moved in memory to fit the blocks of the sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Realigns {
    NotYet,
    Traced,
}

/// Zeros and holes that a stream has not been given yet.
#[derive(Debug, Default)]
struct Gap {
    length: u64,
    /// The part of it that came as data.
    zeros: u64,
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
        let most = options.depth as usize;
        let from = Port::of(turn.source.addressed(), Side::Source, begun, most)?;
        let to = Port::of(turn.sink.addressed(), Side::Sink, begun, most)?;
        let ports = || from.iter().chain(&to);
        let geometry = |port: &Option<Port>| port.as_ref().map(|port| port.geometry);
        let phase = to.as_ref().map_or(0, Port::phase);
        let grid = Grid::new(options, kinds, geometry(&from), geometry(&to), phase);
        let grain = ports().map(Port::block).max().unwrap_or(1);
        let depth = ports().map(|port| port.geometry.depth).max().unwrap_or(1);
        let begin = ports().filter_map(Port::begin).min();
        let none = || Error::nowhere(Operation::Allocate, Side::None, libc::ENOMEM);
        // A stream takes pieces in order, and a slow one delays those behind it. Short ones take little memory, so
        // that there may be more of them than requests.
        let more = if to.is_none() { depth.min(MOST_SHORT) } else { 0 };
        let short_most = grid.piece().min(SHORT);
        // Room for a read that is rounded outward, and for data that moves to another place in its block.
        let length = |piece: u64| usize::try_from(piece + 2 * grain).map_err(|_| none());
        let kinds_of_memory = [(depth + 1, length(grid.piece())?), (more, length(short_most)?)];
        let left = turn.meter.stats().total.map(|total| total.saturating_sub(begun));
        // A device takes the memory of an end that asks for alignment. Others copy it, and huge pages are of no use. A
        // short stream does not use all of the memory, and a huge page costs much where it must first be had.
        let to_device = ports().any(|port| port.geometry.memory > 1);
        let pages = |memory: usize| {
            let fills = left.is_none_or(|left| left >= memory as u64);
            if to_device && fills { Pages::Huge } else { Pages::Small }
        };
        let [mut slabs, short] = Slab::of_lengths(kinds_of_memory, pages).ok_or_else(none)?;
        let spare = slabs.pop().ok_or_else(none)?;
        let sweeps = from.is_some()
            && kinds.holes
            && to.as_ref().is_some_and(|to| to.geometry.fast_zero && !to.geometry.grows);
        let sweeps = Sweeps::new(sweeps, slabs.len() + short.len()).ok_or_else(none)?;
        let memory = Memory { slabs, short, short_most, most: grid.piece() };
        let mut replies = VecDeque::new();
        replies.try_reserve_exact(2 * depth * PIECES_PER_SLAB).map_err(|_| none())?;
        Ok(Window {
            tail: to.as_ref().filter(|to| to.block() > 1).map(|to| Tail::new(to, spare)),
            from,
            to,
            kinds,
            grid,
            queue: Queue::new(memory, begin, begun).ok_or_else(none)?,
            sweeps,
            replies,
            gap: Gap::default(),
            source_ended: false,
            stalled: Stalled::default(),
            realigns: Realigns::NotYet,
        })
    }

    /// Shows the memory to both ends, which may register it. From here on it stays where it is.
    pub(super) fn show_memory(&self, turn: &mut Turn) {
        let Some(slab) = self.queue.any_slab() else { return };
        for end in [turn.source.addressed(), turn.sink.addressed()].into_iter().flatten() {
            end.memory(slab);
        }
    }

    /// Does what can be done now.
    pub(super) fn step(&mut self, turn: &mut Turn) -> Result<Done> {
        self.stalled = Stalled::default();
        // The next reads are submitted before loaded data is passed on, which may take long.
        let mut worked = self.collect(turn)?;
        self.queue.set_time(Instant::now());
        let mut asked = self.plan(turn)?;
        asked |= self.sweep(turn)?;
        asked |= self.output(turn)?;
        if asked {
            worked = true;
            self.collect(turn)?;
        }
        let before = turn.meter.position();
        worked |= self.retire(turn)?;
        let moved = turn.meter.position() - before;
        if worked || moved > 0 {
            return Ok(Done::Worked(moved.min(turn.most).max(STEP_COST)));
        }
        // A known gap goes out before anybody waits for more.
        let waits = self.queue.is_empty() || self.stalled.source.is_some();
        if self.gap.length > 0 && waits && self.stalled.sink.is_none() {
            match self.push_gap(turn) {
                Ok(_) => return Ok(Done::Worked(STEP_COST)),
                Err(error) if error.would_block() => self.stalled.sink = Some(error),
                Err(error) => return Err(error),
            }
        }
        if self.source_ended && self.queue.is_empty() && self.gap.length == 0 {
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
}

#[cfg(test)]
mod tests;
