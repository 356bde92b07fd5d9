//! The decisions of a transfer and of its ends, as events.
//!
//! The loop reports its own events at once. An end keeps its events in a [`Trail`], which the loop
//! empties after each step if somebody traces. Without a trace nothing is reported, and an end records
//! only when it changes its mind, which is rare.

use crate::error::Side;

/// The stage that a transfer enters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum StageName {
    /// Both ends are examined and the plan is checked.
    Open = 1,
    /// The part that the sink holds already is compared.
    Compare = 2,
    /// Sections are moved.
    Move = 3,
    /// Requests under way are waited for.
    Drain = 4,
    /// The sink is finished.
    FinishSink = 5,
    /// The source is finished.
    FinishSource = 6,
    /// All succeeded.
    Finished = 7,
    /// It failed.
    Failed = 8,
}

/// A way in which data moves, from the best to the one that always works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i32)]
pub enum Way {
    /// The sink fetches it from the source's file: copy_file_range(2) or sendfile(2).
    Fetch = 1,
    /// Through a pipe: splice(2).
    Splice = 2,
    /// Several requests under way between ends that answer to offsets.
    Window = 3,
    /// From or into memory that an end lends.
    Lend = 4,
    /// Through the transfer's own buffer.
    Copy = 5,
}

impl Way {
    /// All of them, in the order in which they are tried.
    pub const ALL: [Way; 5] = [Way::Fetch, Way::Splice, Way::Window, Way::Lend, Way::Copy];

    /// Its place in [`Way::ALL`].
    #[must_use]
    pub fn index(self) -> usize {
        self as usize - 1
    }
}

/// How a hole was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum HoleWay {
    /// Handed on, as a hole, to a peer or to the caller's functions.
    Passed = 1,
    /// Beyond the end of a file, whose size grows over it.
    Extended = 2,
    /// The caller has promised that the target reads zero there.
    KnownZero = 3,
    /// fallocate(2) with PUNCH_HOLE.
    Punched = 4,
    /// fallocate(2) with ZERO_RANGE.
    ZeroRange = 5,
    /// BLKZEROOUT of a block device.
    ZeroOut = 6,
    /// Zeros were written.
    Written = 7,
}

impl HoleWay {
    /// All of them.
    pub const ALL: [HoleWay; 7] = [
        HoleWay::Passed,
        HoleWay::Extended,
        HoleWay::KnownZero,
        HoleWay::Punched,
        HoleWay::ZeroRange,
        HoleWay::ZeroOut,
        HoleWay::Written,
    ];

    /// Its place in [`HoleWay::ALL`].
    #[must_use]
    pub fn index(self) -> usize {
        self as usize - 1
    }
}

/// An event in the use of a file's map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum MapEvent {
    /// The file system answers.
    Asked = 1,
    /// The file system has no map: everything is data.
    Refused = 2,
    /// An answer contradicts itself: treated as data.
    Distrusted = 3,
    /// Dirty pages were written back before an answer was believed.
    Flushed = 4,
}

/// A limit that delayed a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Limit {
    /// The budget of one call.
    Budget = 1,
    /// The rate.
    Rate = 2,
    /// The stall limit.
    Stall = 3,
    /// The idle limit.
    Idle = 4,
}

/// A decision, or something that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A stage was entered.
    Stage(StageName),
    /// From here on data moves this way.
    WayChosen(Way),
    /// A way was given up, with its errno if there was one. Data goes the next way from here on.
    WayDeclined {
        /// The way that was given up.
        way: Way,
        /// The reason, if the system gave one.
        errno: Option<i32>,
        /// The way that is tried next.
        next: Way,
    },
    /// From here on holes are made this way.
    HoleChosen(HoleWay),
    /// A way to make holes was given up.
    HoleDeclined {
        /// The way that was given up.
        way: HoleWay,
        /// The reason, if the system gave one.
        errno: Option<i32>,
        /// The way that is tried next.
        next: HoleWay,
    },
    /// The map of the source.
    Map(MapEvent, Option<i32>),
    /// The disk was asked to read this many bytes ahead in one step, more than in any step before.
    LookAhead(u64),
    /// Requests for a file are made by io_uring(7); or one after the other, if it was refused with this
    /// errno.
    Ring(Option<i32>),
    /// Data is moved in memory before it is written, because the offsets of both ends differ by this many bytes
    /// within a block.
    Realigned(u64),
    /// An end is not ready.
    Waits(Side),
    /// An end of a wire gave a sign of life while nothing moved.
    Alive,
    /// Everything before this offset of the stream is on the medium.
    Checkpoint(u64),
    /// A limit delays the transfer.
    Limit(Limit),
    /// This many events of an end were not kept.
    Lost(u64),
}

/// The most events that an end keeps until they are taken.
const KEPT: usize = 8;

/// The events of one end that were not taken yet. When it is full the newest are dropped and counted.
#[derive(Debug, Clone, Default)]
pub struct Trail {
    kept: [Option<Event>; KEPT],
    count: usize,
    lost: u64,
}

impl Trail {
    /// Records an event.
    pub fn record(&mut self, event: Event) {
        match self.kept.get_mut(self.count) {
            Some(place) => {
                *place = Some(event);
                self.count += 1;
            }
            None => self.lost += 1,
        }
    }

    /// Takes everything that was recorded. The last event has the number of events that did not fit, if any.
    pub fn take(&mut self) -> impl Iterator<Item = Event> + use<> {
        self.count = 0;
        let lost = std::mem::take(&mut self.lost);
        let kept = std::mem::take(&mut self.kept).into_iter().flatten();
        kept.chain((lost > 0).then_some(Event::Lost(lost)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_trail_counts_what_it_drops() {
        let mut trail = Trail::default();
        for bytes in 0..KEPT as u64 + 3 {
            trail.record(Event::LookAhead(bytes));
        }
        let events: Vec<_> = trail.take().collect();
        assert_eq!(events.len(), KEPT + 1);
        assert_eq!((events[0], events[KEPT]), (Event::LookAhead(0), Event::Lost(3)));
        assert_eq!(trail.take().count(), 0);
    }
}
