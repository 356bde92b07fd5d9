//! The one loop: a source is pulled, a sink is pushed.
//!
//! ```text
//!     New -> Open -> (Compare) -> Move -> Drain -> FinishSink -> FinishSource -> Ended
//!              |         |          |       |          |              |            ^
//!              +---------+----------+-------+----------+--------------+--- fail ---+
//! ```
//!
//! | module | subject |
//! |---|---|
//! | this one | runs steps until the budget is used, an end is not ready, or all is done |
//! | `options` | the options of the caller |
//! | `stages` | the stages, and one step of each |
//! | `flow` | moves the stream, piece by piece |
//! | `gap` | a hole that has come and was not made yet |
//! | `ladder` | the ways in which data moves, and which are given up |
//! | `window` | several requests in flight |
//! | `zeros` | finds zeros in data |
//! | `pool` | the memory |
//! | `compare` | the part that a resuming receiver holds |
//! | `pace` | rate, stall and idle limits; reads no clock |
//! | `meter` | statistics, sections, progress |
//! | `patience` | an end that is not ready |
//! | `observe` | the counts, sections and events that an observer receives |
//! | `control` | cancel and failure from outside, which wake a run that waits |
//! | `turn` | the ends, counters and time of one step |

mod compare;
mod control;
mod flow;
mod gap;
mod ladder;
mod meter;
mod observe;
mod options;
mod pace;
mod patience;
mod pool;
mod stages;
mod turn;
mod window;
mod zeros;

use crate::buffer::counted;
use crate::end::{Extent, Sink, Source};
use crate::error::{Error, Operation, Result, Side};
use crate::sys::Arc;
use crate::trace::{Event, Limit};
use crate::wait::Wait;
pub use control::Control;
use meter::Meter;
pub use observe::{Observe, Stats, Ways};
pub use options::{Options, Patience, Progress, Sparse};
use pace::Pace;
use stages::{Course, Stage, Step};
use std::time::Instant;
use turn::{STEP_COST, Turn};

/// The most bytes that one step moves, so that a cancel acts in time.
const STEP_MOST: u64 = 16 << 20;

/// A transfer. Its two ends are passed to each run.
#[derive(Debug)]
pub struct Transfer {
    course: Course,
    meter: Meter,
    pace: Pace,
    control: Arc<Control>,
    wait: Wait,
}

impl Transfer {
    /// A transfer that has not begun.
    pub fn new(options: &Options) -> Result<Self> {
        let options = options.checked()?;
        let now = Instant::now();
        Ok(Transfer {
            course: Course::new(options),
            meter: Meter::new(&options, now),
            pace: Pace::new(&options, now),
            control: counted(Control::default())?,
            wait: Wait::NOTHING,
        })
    }

    /// The switch that ends it from outside.
    #[must_use]
    pub fn control(&self) -> Arc<Control> {
        self.control.clone()
    }

    /// Its counters so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.meter.stats()
    }

    /// The events that it waits for, after a run that was not ready.
    #[must_use]
    pub fn wait(&self) -> Wait {
        self.wait
    }

    /// The error that ended it, if it failed.
    #[must_use]
    pub fn error(&self) -> Option<Error> {
        self.ended().and_then(Result::err)
    }

    /// Whether it was run and has not ended, so that its ends were not finished or aborted yet.
    #[must_use]
    pub fn under_way(&self) -> bool {
        !matches!(self.course.stage(), Stage::New | Stage::Ended(_))
    }

    fn ended(&self) -> Option<Result<()>> {
        if let Stage::Ended(result) = self.course.stage() { Some(result.clone()) } else { None }
    }

    /// Runs for about `budget` bytes of work, or to the end.
    ///
    /// An error that would block does not end it: run it again when the wait of [`Transfer::wait`] is over.
    /// Any other has ended it, and was reported to both ends.
    pub fn run(
        &mut self,
        source: &mut dyn Source,
        sink: &mut dyn Sink,
        observer: &mut dyn Observe,
        budget: Option<u64>,
        patience: Patience,
    ) -> Result<Progress> {
        if let Some(result) = self.ended() {
            return result.map(|()| Progress::Finished);
        }
        let now = Instant::now();
        if matches!(self.course.stage(), Stage::New) {
            self.pace.progress(now);
            self.course.enter(Stage::Open, 0, observer);
        }
        let mut turn = Turn {
            wait: Wait::NOTHING,
            traces: observer.traces(),
            ticks: self.pace.needs_time() || self.meter.needs_time(),
            timed: budget.is_some(),
            most: 0,
            now,
            source: &mut *source,
            sink: &mut *sink,
            observer: &mut *observer,
            meter: &mut self.meter,
            pace: &mut self.pace,
            control: &self.control,
            waits: None,
        };
        let mut result = match self.course.stopped_by() {
            Some(error) => Err(error),
            None => drive(&mut self.course, &mut turn, budget, patience),
        };
        if let Err(error) = result {
            let over = !error.would_block();
            let draining = over && self.course.stop(&error, &mut turn);
            let error =
                if draining { drain(&mut self.course, error, &mut turn, patience) } else { error };
            result = Err(error);
        }
        self.wait = turn.wait;
        match result {
            Ok(Progress::Finished) => {
                self.course.enter(Stage::Ended(Ok(())), self.meter.position(), observer);
                Ok(Progress::Finished)
            }
            Ok(Progress::BudgetUsed) => Ok(Progress::BudgetUsed),
            Err(error) if error.would_block() => Err(error),
            Err(error) => Err(self.fail(error, source, sink, observer)),
        }
    }

    /// Ends it with an error, and reports that to each end once. Returns the error that ended it.
    pub fn fail(
        &mut self,
        error: Error,
        source: &mut dyn Source,
        sink: &mut dyn Sink,
        observer: &mut dyn Observe,
    ) -> Error {
        if let Some(result) = self.ended() {
            return result.err().unwrap_or(error);
        }
        if !matches!(self.course.stage(), Stage::FinishSource(_)) {
            sink.abort(&error);
        }
        source.abort(&error);
        self.course.enter(Stage::Ended(Err(error.clone())), self.meter.position(), observer);
        self.wait = Wait::NOTHING;
        error
    }

    /// The error of a transfer that was cancelled.
    #[must_use]
    pub fn cancelled(&self) -> Error {
        cancelled(self.meter.position())
    }
}

/// Makes steps until all is done, the budget is used, or the caller must wait: then the error would block.
fn drive(
    course: &mut Course,
    turn: &mut Turn,
    budget: Option<u64>,
    patience: Patience,
) -> Result<Progress> {
    let mut left = budget.unwrap_or(u64::MAX);
    loop {
        if turn.ticks {
            turn.now = Instant::now();
        }
        turn.most = left.clamp(Extent::LEAST, STEP_MOST);
        let stopped = turn.control.pulled() && course.may_be_stopped();
        let result = if stopped { Err(stop(turn)) } else { course.step(turn) };
        course.report_durable(turn);
        turn.trace_ends();
        match result {
            Ok(Step::Worked(bytes)) => left = left.saturating_sub(bytes),
            Ok(Step::TooEarly(when)) => turn.wait_until(when, patience)?,
            Ok(Step::Finished) => return Ok(Progress::Finished),
            Err(error) if error.interrupted() => {
                left = left.saturating_sub(STEP_COST);
                turn.is_in_time(error.side())?;
            }
            Err(error) if error.would_block() && turn.control.pulled() => {
                return Err(stop(turn));
            }
            Err(error) if error.would_block() => turn.wait_for_end(error, patience)?,
            Err(error) => return Err(error),
        }
        if left == 0 && budget.is_some() {
            turn.trace(Event::Limit(Limit::Budget));
            return Ok(Progress::BudgetUsed);
        }
    }
}

/// Waits until all requests of a transfer that has failed are back. Returns the error that ended it, or one that
/// would block.
#[cold]
fn drain(course: &mut Course, error: Error, turn: &mut Turn, patience: Patience) -> Error {
    while course.stop(&error, turn) {
        if let Err(waits) = turn.wait_for_requests(patience) {
            return waits;
        }
    }
    error
}

/// The error of a transfer that was ended from outside.
fn stop(turn: &Turn) -> Error {
    turn.control.reason().unwrap_or_else(|| cancelled(turn.meter.position()))
}

fn cancelled(position: u64) -> Error {
    Error::at(Operation::Wait, Side::None, position, libc::ECANCELED)
}

#[cfg(test)]
mod tests;
