//! The stages of a transfer, and one step of each.

use super::compare::{self, Compared};
use super::flow::Flow;
use super::observe::Observe;
use super::options::{Options, Sparse};
use super::turn::{Done, STEP_COST, Turn};
use crate::end::{Plan, SinkInfo, SourceInfo};
use crate::error::{Error, Operation, Result, Side};
use crate::trace::{Event, StageName};
use std::time::Instant;

/// The stage of a transfer.
#[derive(Debug)]
pub(super) enum Stage {
    New,
    Open,
    /// This many bytes that the sink holds are still to be compared.
    Compare(Flow, u64),
    Move(Flow),
    /// The source has ended. The data in flight is moved.
    Drain(Flow),
    /// It has failed with this error, and requests are under way.
    Stop(Flow, Error),
    FinishSink(Memory),
    FinishSource(Memory),
    Ended(Result<()>),
}

/// The memory that data was moved in. Ends may have registered it, so it stays until both are finished.
#[derive(Debug)]
pub(super) struct Memory {
    _flow: Flow,
}

/// The result of one step of any stage.
pub(super) enum Step {
    /// Work of about this many bytes.
    Worked(u64),
    /// The rate allows nothing before this time.
    TooEarly(Instant),
    /// All is done.
    Finished,
}

impl Stage {
    fn name(&self) -> StageName {
        match self {
            Stage::New | Stage::Open => StageName::Open,
            Stage::Compare(..) => StageName::Compare,
            Stage::Move(_) => StageName::Move,
            Stage::Drain(_) | Stage::Stop(..) => StageName::Drain,
            Stage::FinishSink(_) => StageName::FinishSink,
            Stage::FinishSource(_) => StageName::FinishSource,
            Stage::Ended(Ok(())) => StageName::Finished,
            Stage::Ended(Err(_)) => StageName::Failed,
        }
    }
}

/// The stage of a transfer, with the data in flight.
#[derive(Debug)]
pub(super) struct Course {
    options: Options,
    stage: Stage,
    durable: Durable,
}

/// The part of the stream that the sink has made durable.
#[derive(Debug, Clone, Copy, Default)]
struct Durable {
    /// The sink reports durable data.
    known: bool,
    /// The offset of the sink's first byte in the source's stream.
    begins: u64,
    /// Bytes from there on that are durable.
    length: u64,
}

impl Course {
    pub(super) fn new(options: Options) -> Self {
        Course { options, stage: Stage::New, durable: Durable::default() }
    }

    pub(super) fn stage(&self) -> &Stage {
        &self.stage
    }

    /// Whether a cancel still has an effect: once the sink is finished, everything is stored.
    pub(super) fn may_be_stopped(&self) -> bool {
        !matches!(self.stage, Stage::FinishSource(_))
    }

    pub(super) fn enter(&mut self, stage: Stage, position: u64, observer: &mut dyn Observe) {
        if observer.traces() {
            observer.trace(position, Event::Stage(stage.name()));
        }
        self.stage = stage;
    }

    fn next(&mut self, stage: Stage, turn: &mut Turn) {
        // Decisions of the ends are traced in the stage in which they were made.
        turn.trace_ends();
        self.enter(stage, turn.meter.position(), turn.observer);
    }

    /// Makes one step. A step that fails can be made again.
    #[inline]
    pub(super) fn step(&mut self, turn: &mut Turn) -> Result<Step> {
        match &mut self.stage {
            Stage::Move(flow) => match flow.step(turn)? {
                Done::Worked(bytes) => Ok(Step::Worked(bytes)),
                Done::TooEarly(when) => Ok(Step::TooEarly(when)),
                Done::AtEnd => {
                    self.drain_flow(turn);
                    Ok(Step::Worked(0))
                }
            },
            Stage::Drain(flow) => match flow.drain(turn)? {
                Some(Done::Worked(bytes)) => Ok(Step::Worked(bytes)),
                Some(Done::TooEarly(when)) => Ok(Step::TooEarly(when)),
                Some(Done::AtEnd) => Err(Error::Internal),
                None => self.drained(turn),
            },
            Stage::New
            | Stage::Open
            | Stage::Compare(..)
            | Stage::Stop(..)
            | Stage::FinishSink(_)
            | Stage::FinishSource(_)
            | Stage::Ended(_) => self.step_beside(turn),
        }
    }

    /// A step of a stage in which nothing moves.
    #[cold]
    fn step_beside(&mut self, turn: &mut Turn) -> Result<Step> {
        match &self.stage {
            Stage::New | Stage::Open => self.open(turn),
            Stage::Compare(..) => self.compare(turn),
            Stage::Move(_) | Stage::Drain(_) | Stage::Stop(..) => Err(Error::Internal),
            Stage::FinishSink(_) => {
                turn.sink.finish()?;
                if let Stage::FinishSink(memory) = std::mem::replace(&mut self.stage, Stage::Open) {
                    self.next(Stage::FinishSource(memory), turn);
                }
                Ok(Step::Worked(STEP_COST))
            }
            Stage::FinishSource(Memory { .. }) => {
                turn.source.finish()?;
                Ok(Step::Finished)
            }
            Stage::Ended(result) => result.clone().map(|()| Step::Finished),
        }
    }

    /// The error that has ended it, while requests are under way.
    pub(super) fn stopped_by(&self) -> Option<Error> {
        if let Stage::Stop(_, error) = &self.stage { Some(error.clone()) } else { None }
    }

    /// It has failed with this error: cancels all requests. Returns whether some are still under way.
    #[cold]
    pub(super) fn stop(&mut self, error: &Error, turn: &mut Turn) -> bool {
        match std::mem::replace(&mut self.stage, Stage::Open) {
            Stage::Move(flow) | Stage::Drain(flow) if flow.has_requests() => {
                self.next(Stage::Stop(flow, error.clone()), turn);
                if let Stage::Stop(flow, _) = &mut self.stage {
                    flow.cancel_requests(error, turn);
                }
            }
            other => self.stage = other,
        }
        match &mut self.stage {
            Stage::Stop(flow, _) => !flow.take_requests(turn),
            _ => false,
        }
    }

    #[cold]
    fn drained(&mut self, turn: &mut Turn) -> Result<Step> {
        turn.meter.end(turn.now, turn.observer)?;
        if let Stage::Drain(flow) = std::mem::replace(&mut self.stage, Stage::Open) {
            self.next(Stage::FinishSink(Memory { _flow: flow }), turn);
        }
        Ok(Step::Worked(0))
    }

    #[cold]
    fn drain_flow(&mut self, turn: &mut Turn) {
        if let Stage::Move(flow) = std::mem::replace(&mut self.stage, Stage::Open) {
            self.next(Stage::Drain(flow), turn);
        }
    }

    /// Opens both ends. Everything that can be refused in advance is refused here, before a byte moves.
    fn open(&mut self, turn: &mut Turn) -> Result<Step> {
        let from = turn.source.open()?;
        let Options { sparse, .. } = self.options;
        if sparse == Sparse::Required && !(from.reports_holes && require_map(turn)?) {
            return Err(unable(
                Side::Source,
                Operation::Sparse,
                "cannot report holes, which are required",
            ));
        }
        let begins = from.start;
        let plan = Plan {
            total: from.total.map(|total| total.saturating_sub(begins)),
            holes: sparse != Sparse::Never,
            keeps: from.keeps,
        };
        let to = turn.sink.open(&plan)?;
        if sparse == Sparse::Required && !to.makes_holes {
            return Err(unable(
                Side::Sink,
                Operation::Sparse,
                "cannot make holes, which are required",
            ));
        }
        if from.keeps && !to.keeps {
            return Err(unable(
                Side::Sink,
                Operation::Keep,
                "cannot keep bytes as they are, which the source may need",
            ));
        }
        let flow = self.flow(&from, &to, turn)?;
        self.durable = Durable { known: to.durable, begins, length: 0 };
        turn.meter.begin(begins, from.total, turn.now);
        let stage = if to.held == 0 { Stage::Move(flow) } else { Stage::Compare(flow, to.held) };
        self.next(stage, turn);
        Ok(Step::Worked(0))
    }

    fn flow(&self, from: &SourceInfo, to: &SinkInfo, turn: &mut Turn) -> Result<Flow> {
        let holes = self.options.sparse != Sparse::Never && to.makes_holes;
        Flow::new(&self.options, turn.source, turn.sink, holes, from.keeps)
    }

    fn compare(&mut self, turn: &mut Turn) -> Result<Step> {
        let Stage::Compare(flow, left) = &mut self.stage else { return Err(Error::Internal) };
        let before = turn.meter.position();
        let same = match compare::step(*left, flow.pool(), turn)? {
            Compared::Worked(cost) => {
                *left = left.saturating_sub(turn.meter.position() - before);
                return Ok(Step::Worked(cost));
            }
            Compared::Same => true,
            Compared::Differs => false,
        };
        if let Stage::Compare(flow, _) = std::mem::replace(&mut self.stage, Stage::Open) {
            let position = if same { before } else { self.durable.begins };
            turn.meter.begin(position, turn.meter.stats().total, turn.now);
            self.next(Stage::Move(flow), turn);
        }
        Ok(Step::Worked(0))
    }

    /// Reports to the source's peer what the sink has made durable since the last time.
    #[inline]
    pub(super) fn report_durable(&mut self, turn: &mut Turn) {
        if self.durable.known {
            self.durable.report(turn);
        }
    }
}

impl Durable {
    #[inline(never)]
    fn report(&mut self, turn: &mut Turn) {
        let Some(length) = turn.sink.durable().filter(|length| *length > self.length) else {
            return;
        };
        self.length = length;
        let offset = self.begins + length;
        turn.progressed();
        turn.trace(Event::Checkpoint(offset));
        if let Some(peer) = turn.source.peer() {
            peer.durable(offset);
        }
    }
}

/// Whether a source that reports its holes will do so to its end.
#[cold]
fn require_map(turn: &mut Turn) -> Result<bool> {
    turn.source.mapped().map_or(Ok(true), |mapped| mapped.require())
}

fn unable(side: Side, operation: Operation, why: &'static str) -> Error {
    Error::Because { operation, side, offset: 0, errno: libc::EOPNOTSUPP, why }
}
