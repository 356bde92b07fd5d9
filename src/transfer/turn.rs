//! One step of a transfer: its ends, counters and time.

use super::control::Control;
use super::meter::{Meter, Part};
use super::observe::Observe;
use super::pace::Pace;
use crate::end::{Sink, Source};
use crate::error::{Bound, Error, Operation, Result, Rule, Side};
use crate::sys::Arc;
use crate::trace::Event;
use crate::wait::{Wait, Watch};
use std::time::Instant;

/// A hole, or any step that moves no data, counts as this many bytes in a budget.
pub(super) const STEP_COST: u64 = 4096;

/// The result of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Done {
    /// Work of about this many bytes.
    Worked(u64),
    /// The source has ended.
    AtEnd,
    /// The rate allows nothing before this time.
    TooEarly(Instant),
}

/// Everything that a step works with.
pub(super) struct Turn<'a> {
    pub(super) source: &'a mut dyn Source,
    pub(super) sink: &'a mut dyn Sink,
    pub(super) observer: &'a mut dyn Observe,
    pub(super) meter: &'a mut Meter,
    pub(super) pace: &'a mut Pace,
    pub(super) control: &'a Arc<Control>,
    /// The time of this step.
    pub(super) now: Instant,
    /// The exact time is needed. If not, `now` is the time at which the run began.
    pub(super) ticks: bool,
    /// The most bytes that one step may move.
    pub(super) most: u64,
    /// There is a budget, in which time counts too.
    pub(super) timed: bool,
    /// Events are traced.
    pub(super) traces: bool,
    /// The events that the caller must wait for, once a step has failed with an error that would block.
    pub(super) wait: Wait,
    /// The events that an `EAGAIN` of several ends at once waits for.
    pub(super) waits: Option<Several>,
}

/// Several ends that are waited for at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Several {
    /// Their descriptors.
    pub(super) watch: Watch,
    /// All of their owners expect a caller to wait.
    pub(super) blocking: bool,
}

impl Turn<'_> {
    /// The sink took this. Inline, because the caller knows the kind of the part.
    #[inline(always)]
    pub(super) fn moved(&mut self, part: Part, length: u64) -> Result<()> {
        self.progressed();
        self.meter.moved(part, length, self.now, self.observer)
    }

    /// There was progress. The step may have taken long.
    #[inline]
    pub(super) fn progressed(&mut self) {
        if self.ticks {
            self.now = Instant::now();
            self.pace.progress(self.now);
        }
    }

    /// Reports an event, if events are traced.
    pub(super) fn trace(&mut self, event: Event) {
        if self.traces {
            self.observer.trace(self.meter.position(), event);
        }
    }

    /// Reports the decisions of both ends, if events are traced.
    #[inline]
    pub(super) fn trace_ends(&mut self) {
        if self.traces {
            self.trace_trails();
        }
    }

    #[cold]
    fn trace_trails(&mut self) {
        let position = self.meter.position();
        for trail in [self.source.trail(), self.sink.trail()].into_iter().flatten() {
            for event in trail.take() {
                self.observer.trace(position, event);
            }
        }
    }

    /// The count that the sink returned, checked.
    #[inline]
    pub(super) fn taken(&self, operation: Operation, count: u64, most: u64) -> Result<u64> {
        checked(operation, count, most, self.meter.position())
    }

    /// The count that the source returned, checked.
    #[inline]
    pub(super) fn came(&self, count: usize, most: usize) -> Result<usize> {
        if count == 0 || count > most {
            let place = (Operation::Read, Side::Source, self.meter.position());
            return Err(wrong_count(place, count as u64, most as u64));
        }
        Ok(count)
    }
}

/// A count that a sink returned, checked: at least one, and not more than it was given.
#[inline]
pub(super) fn checked(operation: Operation, count: u64, most: u64, offset: u64) -> Result<u64> {
    if count == 0 || count > most {
        return Err(wrong_count((operation, Side::Sink, offset), count, most));
    }
    Ok(count)
}

static COUNT: Rule = Rule::new("the number of bytes that the end reported", Bound::FromOne);

/// The error for a count that an end cannot have moved.
#[cold]
pub(super) fn wrong_count(place: (Operation, Side, u64), count: u64, most: u64) -> Error {
    let given = i64::try_from(count).unwrap_or(i64::MAX);
    COUNT.broken(place, libc::EPROTO, given, most)
}
