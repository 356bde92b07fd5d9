//! The one loop: a source is pulled, a sink is pushed.
//!
//! It is a state machine. Each step moves at most one piece; whatever an end answers, the piece is
//! kept until the sink has taken it, so that a step can be made again at any time.

use crate::buffer::Buffer;
use crate::error::{Error, Operation, Result, Side};
use crate::pipe::Pipe;
use crate::section::{Kind, Section};
use crate::sink::Sink;
use crate::source::{Ahead, Extent, Glimpse, Read, Source};
use crate::sys::{self, Sys};
use crate::wait::{Wait, Waiting, until_ready};
use crate::zero::is_zero;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What is asked of the holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sparse {
    /// Kept where both ends can.
    #[default]
    Auto,
    /// Both ends must be able to.
    Required,
    /// Written as zeros.
    Never,
}

/// How a transfer goes. Zero stands for the default of each number.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// What is asked of the holes.
    pub sparse: Sparse,
    /// Blocks of data that are all zeros become holes.
    pub detect_zeroes: bool,
    /// The size of such a block.
    pub zero_block: u32,
    /// The size of the buffer.
    pub buffer_size: u64,
    /// Progress is told after so many bytes.
    pub progress_bytes: u64,
    /// Progress is told after so many milliseconds.
    pub progress_ms: u64,
    /// It fails after so many milliseconds without progress and without a sign of a peer.
    pub stall_ms: u64,
    /// It fails after so many milliseconds without progress, whatever a peer shows.
    pub idle_ms: u64,
    /// The most bytes of data in a second.
    pub rate: u64,
}

/// What has been done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// How far the stream has come: bytes that the sink took, and those that it held already.
    pub position: u64,
    /// Bytes that there are in all, if known.
    pub total: Option<u64>,
    /// Of the bytes: those taken as data.
    pub data_bytes: u64,
    /// Of the bytes: those taken as holes.
    pub hole_bytes: u64,
    /// Sections of data begun.
    pub data_sections: u64,
    /// Holes begun.
    pub hole_sections: u64,
    /// Of the bytes taken as holes: those that came as data and were found to be zeros.
    pub zero_bytes: u64,
}

/// Is told how a transfer goes. An errno ends it.
pub trait Observe {
    /// So much has been done.
    fn progress(&mut self, stats: &Stats) -> Sys<()> {
        let _ = stats;
        Ok(())
    }

    /// The sink took all of this section.
    fn section(&mut self, section: Section) -> Sys<()> {
        let _ = section;
        Ok(())
    }
}

impl Observe for () {}

/// What a transfer waits for by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Nothing.
    None,
    /// Descriptors that their owner left in blocking mode, and time.
    Blocking,
    /// Any descriptor, and time.
    Any,
}

/// How far a run came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// To the end, with success.
    Finished,
    /// As far as its budget allowed.
    BudgetUsed,
}

/// A transfer that is under way. Its ends are handed in anew for each run.
#[derive(Debug)]
pub struct Transfer {
    options: Options,
    stage: Stage,
    makes_holes: bool,
    detects: bool,
    buffer: Buffer,
    /// Zero bytes at the buffer's start.
    zeros: usize,
    /// What of the buffer is still to be given to the sink.
    pending: Range<usize>,
    /// The part of it, from its start, that is known to be of one kind.
    run: Run,
    /// Bytes of hole to be made before it.
    gap: u64,
    /// Of the gap: zeros that were detected.
    detected: u64,
    /// The gap may still grow by zeros that are detected in what is read next.
    growing: bool,
    /// How much of the buffer is read into.
    room: usize,
    /// While zeros are looked for: bytes that come next and are no zeros.
    solid: u64,
    /// Such bytes are worth looking for: they can go uncopied.
    peeks: bool,
    /// How far what comes next is read to look for zeros in it.
    reach: u64,
    /// What is pending will not be read on behind: a block at its end is what it is.
    settled: bool,
    at_end: bool,
    /// The sink may fetch data where it lies.
    fetches: bool,
    /// Data may go through a pipe.
    pipes: bool,
    pipe: Option<Pipe>,
    /// An end may lend memory.
    lends: bool,
    /// What one step may move at most.
    step_most: u64,
    /// There is a budget, in which time counts too.
    timed: bool,
    stats: Stats,
    /// Where the sink's first byte is in the source's stream.
    begins: u64,
    /// Of what the sink took: bytes from its first on that it has said are durable.
    durable: u64,
    section: Option<Section>,
    told: Told,
    cancel: Arc<AtomicBool>,
    last_move: Instant,
    /// Signs of life that the peers of both ends have given, and when the last of them was seen.
    signs: (u64, Instant),
    free_at: Instant,
    wait: Wait,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    New,
    Begun,
    /// What the sink holds already is read and shown to it.
    Checking {
        held: u64,
    },
    Moving,
    FinishSink,
    FinishSource,
    Ended(Result<()>),
}

#[derive(Debug, Clone, Copy)]
struct Run {
    to: usize,
    zero: bool,
}

/// When progress was last told.
#[derive(Debug, Clone, Copy)]
struct Told {
    position: u64,
    time: Instant,
}

/// What one step came to.
enum Step {
    /// Work of about so many bytes.
    Worked(u64),
    Finished,
    /// The rate allows no more before this time.
    TooEarly(Instant),
}

/// What a hole, or any step that moves no data, counts in a budget.
const STEP_COST: u64 = 4096;
/// What a microsecond of making a hole counts at least: zeroing a device may take its time.
const ZEROING_COST: u64 = 64;

const DEFAULT_BUFFER: u64 = 1 << 20;
const BUFFER_SIZES: std::ops::RangeInclusive<u64> = 4096..=64 << 20;
const DEFAULT_ZERO_BLOCK: u32 = 65536;
const ZERO_BLOCKS: std::ops::RangeInclusive<u32> = 512..=1 << 20;

/// More than this is fetched in several steps, so that a cancel acts in time.
const FETCH_MOST: u64 = 16 << 20;

/// The longest wait before a cancel is looked for.
const GLANCE: Duration = Duration::from_millis(50);

/// How far a transfer may be ahead of its rate.
const BURST: Duration = Duration::from_millis(100);

impl Transfer {
    /// A transfer that has not begun.
    pub fn new(options: &Options) -> Result<Self> {
        let mut options = *options;
        if options.buffer_size == 0 {
            options.buffer_size = DEFAULT_BUFFER;
        }
        if !BUFFER_SIZES.contains(&options.buffer_size) {
            let why = "is not from 4096 to 67108864";
            return Err(Error::argument("options.buffer_size", why, libc::EINVAL));
        }
        if options.zero_block == 0 {
            options.zero_block = DEFAULT_ZERO_BLOCK;
        }
        if !ZERO_BLOCKS.contains(&options.zero_block) || !options.zero_block.is_power_of_two() {
            let why = "is no power of two from 512 to 1048576";
            return Err(Error::argument("options.zero_block", why, libc::EINVAL));
        }
        if options.detect_zeroes {
            options.buffer_size = options.buffer_size.max(options.zero_block.into());
        }
        let now = Instant::now();
        Ok(Transfer {
            options,
            stage: Stage::New,
            makes_holes: false,
            detects: false,
            buffer: Buffer::default(),
            zeros: 0,
            pending: 0..0,
            run: Run { to: 0, zero: false },
            gap: 0,
            detected: 0,
            growing: false,
            room: 0,
            solid: 0,
            peeks: false,
            reach: u64::MAX,
            settled: true,
            at_end: false,
            fetches: false,
            pipes: false,
            pipe: None,
            lends: false,
            step_most: u64::MAX,
            timed: false,
            stats: Stats::default(),
            begins: 0,
            durable: 0,
            section: None,
            told: Told { position: 0, time: now },
            cancel: Arc::new(AtomicBool::new(false)),
            last_move: now,
            signs: (0, now),
            free_at: now,
            wait: Wait::NOTHING,
        })
    }

    /// What cancels it, from anywhere, when it is set.
    #[must_use]
    pub fn canceller(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.cancel)
    }

    /// What it has done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// What it waits for, after a run that was not ready.
    #[must_use]
    pub fn wait(&self) -> Wait {
        self.wait
    }

    /// What ended it, if it failed.
    #[must_use]
    pub fn error(&self) -> Option<Error> {
        match self.stage {
            Stage::Ended(result) => result.err(),
            _ => None,
        }
    }

    /// Whether it was run and has not ended, so that its ends are still owed a finish or an abort.
    #[must_use]
    pub fn under_way(&self) -> bool {
        !matches!(self.stage, Stage::New | Stage::Ended(_))
    }

    /// Goes on, for about `budget` bytes of work or to the end.
    ///
    /// An error that would block is no end: run it again when [`Transfer::wait`] says so. Any
    /// other has ended it, and both ends were told.
    pub fn run(
        &mut self,
        source: &mut dyn Source,
        sink: &mut dyn Sink,
        observer: &mut dyn Observe,
        budget: Option<u64>,
        patience: Patience,
    ) -> Result<Progress> {
        if let Stage::Ended(result) = self.stage {
            return result.map(|()| Progress::Finished);
        }
        if self.stage == Stage::New {
            self.stage = Stage::Begun;
            self.last_move = Instant::now();
            self.told.time = self.last_move;
        }
        self.wait = Wait::NOTHING;
        self.timed = budget.is_some();
        let mut left = budget.unwrap_or(u64::MAX);
        loop {
            self.step_most = left.clamp(Ahead::LEAST, FETCH_MOST);
            let step = self.step(source, sink, observer);
            self.pass_on_durable(source, sink);
            let worked = match step {
                Ok(Step::Finished) => {
                    self.stage = Stage::Ended(Ok(()));
                    self.pipe = None;
                    return Ok(Progress::Finished);
                }
                Ok(Step::Worked(bytes)) => bytes,
                Ok(Step::TooEarly(when)) => {
                    let result = flushed(sink)
                        .and_then(|_| self.wait_for_time(when, sink.flush_by(), patience));
                    match result {
                        Ok(()) => 0,
                        Err(error) if error.would_block() => return Err(error),
                        Err(error) => return Err(self.fail(error, source, sink)),
                    }
                }
                Err(error) if error.interrupted() => {
                    self.see_signs(source, sink);
                    // A peer that never stops saying nothing is never waited for.
                    match self.time_left(error.side()) {
                        Ok(_) => STEP_COST,
                        Err(error) => return Err(self.fail(error, source, sink)),
                    }
                }
                Err(error) if error.would_block() => {
                    match self.wait_for_end(error, source, sink, patience) {
                        Ok(()) => 0,
                        Err(error) if error.would_block() => return Err(error),
                        Err(error) => return Err(self.fail(error, source, sink)),
                    }
                }
                Err(error) => return Err(self.fail(error, source, sink)),
            };
            left = left.saturating_sub(worked);
            if left == 0 && budget.is_some() {
                return Ok(Progress::BudgetUsed);
            }
        }
    }

    /// Ends it with an error: tells both ends, each once.
    pub fn fail(&mut self, error: Error, source: &mut dyn Source, sink: &mut dyn Sink) -> Error {
        if let Stage::Ended(result) = self.stage {
            return result.err().unwrap_or(error);
        }
        if self.stage != Stage::FinishSource {
            sink.abort(&error);
        }
        source.abort(&error);
        self.stage = Stage::Ended(Err(error));
        self.pipe = None;
        self.wait = Wait::NOTHING;
        error
    }

    /// The error of a transfer that was cancelled.
    #[must_use]
    pub fn cancelled(&self) -> Error {
        Error::at(Operation::Wait, Side::None, self.stats.position, libc::ECANCELED)
    }

    fn step(
        &mut self,
        source: &mut dyn Source,
        sink: &mut dyn Sink,
        observer: &mut dyn Observe,
    ) -> Result<Step> {
        if self.stage != Stage::FinishSource && self.cancel.load(Ordering::Relaxed) {
            return Err(self.cancelled());
        }
        match self.stage {
            Stage::New | Stage::Begun => {
                self.stage = self.begin(source, sink)?;
                Ok(Step::Worked(0))
            }
            Stage::Checking { held } => self.check_one(held, source, sink),
            Stage::Moving => self.move_one(source, sink, observer),
            Stage::FinishSink => {
                sink.finish()?;
                self.stage = Stage::FinishSource;
                Ok(Step::Worked(STEP_COST))
            }
            Stage::FinishSource => {
                source.finish()?;
                Ok(Step::Finished)
            }
            Stage::Ended(result) => result.map(|()| Step::Finished),
        }
    }

    /// Everything that can be refused is refused here, before a byte moves.
    fn begin(&mut self, source: &mut dyn Source, sink: &mut dyn Sink) -> Result<Stage> {
        source.prepare()?;
        self.makes_holes = match self.options.sparse {
            Sparse::Never => false,
            Sparse::Auto => sink.makes_holes()?,
            Sparse::Required => {
                for (side, able, why) in [
                    (Side::Source, source.tells_holes()?, "cannot tell its holes"),
                    (Side::Sink, sink.makes_holes()?, "cannot make holes"),
                ] {
                    if !able {
                        let (operation, offset) = (Operation::Sparse, 0);
                        let errno = libc::EOPNOTSUPP;
                        return Err(Error::Because { operation, side, offset, errno, why });
                    }
                }
                true
            }
        };
        self.detects = self.options.detect_zeroes && self.makes_holes;
        // What a pipe carries is copied at its end, and no cheaper than from memory.
        self.pipes = !self.detects && sink.drains();
        self.lends = !self.detects && (source.lends() || sink.lends());
        self.stats.total = source.total();
        self.begins = source.start();
        self.stats.position = self.begins;
        self.told.position = self.stats.position;
        if let Some(total) = self.stats.total {
            sink.announce(total.saturating_sub(self.stats.position))?;
        }
        let held = sink.held()?;
        // What is fetched may share its blocks with the source, and a later write then needs new ones.
        self.fetches = self.options.sparse != Sparse::Never && sink.fetches();
        self.peeks =
            self.detects && self.fetches && u64::from(self.options.zero_block) >= Ahead::LEAST;
        let size = usize::try_from(self.options.buffer_size).unwrap_or(usize::MAX);
        self.buffer = Buffer::new(size)?;
        self.zeros = size;
        Ok(if held == 0 { Stage::Moving } else { Stage::Checking { held } })
    }

    /// Shows the sink one piece of what it holds, or goes on to what it does not.
    fn check_one(
        &mut self,
        held: u64,
        source: &mut dyn Source,
        sink: &mut dyn Sink,
    ) -> Result<Step> {
        let left = held.saturating_sub(self.stats.position - self.begins);
        if left == 0 {
            if !sink.agrees()? {
                source.rewind()?;
                self.stats.position = self.begins;
            }
            self.told.position = self.stats.position;
            self.stage = Stage::Moving;
            return Ok(Step::Worked(0));
        }
        let buffer = self.buffer.bytes_mut();
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        self.zeros = 0;
        let (count, cost) = match source.read(&mut buffer[..most])? {
            Read::Data(count) if count == 0 || count > most => {
                return Err(Error::Nonsense {
                    operation: Operation::Read,
                    side: Side::Source,
                    offset: self.stats.position,
                    answer: i64::try_from(count).unwrap_or(i64::MAX),
                });
            }
            Read::Data(count) => {
                sink.check(&self.buffer.bytes()[..count]);
                (count as u64, count as u64)
            }
            Read::AtHole => {
                let length = source.section()?.length.min(left);
                source.skip(length)?;
                sink.check_hole(length);
                (length, STEP_COST)
            }
            Read::End => {
                let offset = self.stats.position;
                return Err(Error::EndedEarly { offset, expected: self.begins + held });
            }
        };
        self.stats.position += count;
        // To read is to make progress, though nothing is moved.
        self.last_move = Instant::now();
        Ok(Step::Worked(cost))
    }

    fn move_one(
        &mut self,
        source: &mut dyn Source,
        sink: &mut dyn Sink,
        observer: &mut dyn Observe,
    ) -> Result<Step> {
        // Most steps begin with nothing to push: to see that here costs less than to call.
        let idle = self.pending.is_empty()
            && self.gap == 0
            && self.pipe.is_none()
            && !self.peeks
            && !self.at_end;
        if !idle && let Some(step) = self.push(source, sink, observer)? {
            return Ok(step);
        }
        if let Some(step) = self.take_in(source, sink, observer)? {
            return Ok(step);
        }
        // In the same step: most of what is pulled can be pushed at once.
        Ok(self.push(source, sink, observer)?.unwrap_or(Step::Worked(0)))
    }

    /// Gives the sink one piece of what was taken in, or does what must come before that. `None` if
    /// something must be taken in first.
    #[inline]
    fn push(
        &mut self,
        source: &mut dyn Source,
        sink: &mut dyn Sink,
        observer: &mut dyn Observe,
    ) -> Result<Option<Step>> {
        if !self.pending.is_empty() {
            if self.run.to <= self.pending.start {
                if self.wants_more() {
                    return self.pull_more(source).map(Some);
                }
                self.classify();
            }
            if self.run.zero {
                let length = (self.run.to - self.pending.start) as u64;
                self.gap += length;
                self.detected += length;
                self.growing = true;
                self.pending.start = self.run.to;
                if self.options.stall_ms != 0 || self.options.idle_ms != 0 {
                    // To read is to make progress, though nothing is moved.
                    self.last_move = Instant::now();
                }
                // To read it was work, though it becomes a hole.
                return Ok(Some(Step::Worked(length)));
            }
            if self.gap > 0 {
                return self.push_gap(sink, observer).map(Some);
            }
            return self.push_data(sink, observer).map(Some);
        }
        if self.pipe.as_ref().is_some_and(|pipe| pipe.held() > 0) {
            return self.push_piped(sink, observer).map(Some);
        }
        // A gap that cannot grow goes out before anything is asked.
        if self.peeks && self.solid == 0 && !self.at_end && (self.gap == 0 || self.growing) {
            self.peek(source)?;
        }
        if self.gap > 0 && (self.at_end || !self.growing) {
            return self.push_gap(sink, observer).map(Some);
        }
        if self.at_end {
            let last = self.section.take();
            self.tell_section(last, observer)?;
            self.tell(observer)?;
            self.stage = Stage::FinishSink;
            return Ok(Some(Step::Worked(0)));
        }
        Ok(None)
    }

    /// Moves what comes next if that goes without taking it in. `None` if it was taken in, or if the
    /// gap must go out first.
    fn take_in(
        &mut self,
        source: &mut dyn Source,
        sink: &mut dyn Sink,
        observer: &mut dyn Observe,
    ) -> Result<Option<Step>> {
        if (self.fetches || self.pipes)
            && self.gap == 0
            && (!self.detects || self.solid > 0)
            && let Some(step) = self.move_uncopied(source, sink, observer)?
        {
            return Ok(Some(step));
        }
        if self.lends
            && self.gap == 0
            && let Some(step) = self.move_lent(source, sink, observer)?
        {
            return Ok(Some(step));
        }
        if self.gap > 0 {
            // There may be much to read before anything is moved: nobody shall wait for what is kept
            // back, nor for a sign of life.
            flushed(sink)?;
        }
        match self.pull(source) {
            Err(error) if error.would_block() && self.gap > 0 => {
                // What is known goes out before anybody waits.
                self.growing = false;
                Ok(None)
            }
            other => other.map(|()| None),
        }
    }

    /// Looks how much of what comes next is surely no block of zeros, and can go uncopied, or may be,
    /// and must be read.
    fn peek(&mut self, source: &mut dyn Source) -> Result<()> {
        let block = u64::from(self.options.zero_block);
        let place = self.stats.position + self.gap;
        let room = self.buffer.bytes().len() as u64;
        let most = room - (place + room) % block;
        let glimpse = source.peek(most, block - place % block, block)?;
        self.reach = u64::MAX;
        match glimpse {
            // Less is not worth it, as elsewhere.
            Some(Glimpse { solid: true, length }) if length >= Ahead::LEAST => {
                self.solid = length.min(most);
                // The gap goes out before it.
                self.growing = false;
            }
            Some(Glimpse { solid: false, length }) => self.reach = length,
            _ => {}
        }
        Ok(())
    }

    /// Moves the data that comes next without a copy through memory, if both ends can and it is
    /// worth it.
    fn move_uncopied(
        &mut self,
        source: &mut dyn Source,
        sink: &mut dyn Sink,
        observer: &mut dyn Observe,
    ) -> Result<Option<Step>> {
        let ahead = source.ahead()?;
        let length = match ahead {
            Ahead::Stored(Extent { length, .. }) if length >= Ahead::LEAST => length,
            Ahead::Fed(length) => length,
            _ => return Ok(None),
        };
        let length = if self.detects { length.min(self.solid) } else { length };
        let most = match self.allowance() {
            Ok(most) => length.min(most as u64).min(self.step_most),
            Err(when) => return Ok(Some(Step::TooEarly(when))),
        };
        if let Ahead::Stored(extent) = ahead
            && self.fetches
        {
            if let Some(count) = sink.fetch(&Extent { length: most, ..extent })? {
                let taken = self.taken(Operation::Write, count, most)?;
                source.skip(taken)?;
                self.solid = self.solid.saturating_sub(taken);
                self.spend(taken);
                self.moved(Kind::Data, taken, observer)?;
                return Ok(Some(Step::Worked(taken)));
            }
            // What it was, a refusal or an error, shows when the same data goes another way.
            self.fetches = false;
            self.peeks = false;
        }
        if self.pipes {
            if self.pipe.is_none() {
                self.pipe = Pipe::new();
            }
            if let Some(pipe) = &mut self.pipe {
                let most = most.min(pipe.room());
                if source.feed(pipe, most)?.is_some() {
                    return Ok(Some(Step::Worked(0)));
                }
            }
            self.pipes = false;
            self.pipe = None;
        }
        Ok(None)
    }

    /// Moves data from memory that the source lends, or into memory that the sink lends, if either
    /// does: one copy less.
    fn move_lent(
        &mut self,
        source: &mut dyn Source,
        sink: &mut dyn Sink,
        observer: &mut dyn Observe,
    ) -> Result<Option<Step>> {
        // Where it allows none now, a hole or the end may still come: what is read then is kept.
        let allowed = self.allowance();
        let most = self.buffer.bytes().len();
        let lent = source.lent()?;
        let taken = if !lent.is_empty() {
            let most = match allowed {
                Ok(allowed) => most.min(allowed),
                Err(when) => return Ok(Some(Step::TooEarly(when))),
            };
            let piece = &lent[..lent.len().min(most)];
            let count = sink.write(piece)? as u64;
            let taken = self.taken(Operation::Write, count, piece.len() as u64)?;
            source.take(taken as usize)?;
            taken
        } else if let Ok(allowed) = allowed
            && let Some(room) = sink.lend()?
        {
            let most = room.len().min(most).min(allowed);
            match source.read(&mut room[..most])? {
                Read::Data(count) => {
                    self.check_count(count, most)?;
                    sink.keep(count)?;
                    count as u64
                }
                other => {
                    self.pulled(other, source)?;
                    return Ok(Some(Step::Worked(0)));
                }
            }
        } else {
            return Ok(None);
        };
        self.spend(taken);
        self.moved(Kind::Data, taken, observer)?;
        Ok(Some(Step::Worked(taken)))
    }

    /// Gives the sink what is in the pipe.
    fn push_piped(&mut self, sink: &mut dyn Sink, observer: &mut dyn Observe) -> Result<Step> {
        let Some(pipe) = &mut self.pipe else { return Err(Error::Internal) };
        let held = pipe.held();
        if self.pipes
            && let Some(count) = sink.drain(pipe)?
        {
            let taken = self.taken(Operation::Write, count, held)?;
            self.spend(taken);
            self.moved(Kind::Data, taken, observer)?;
            return Ok(Step::Worked(taken));
        }
        // What it was shows when the same data is written.
        self.pipes = false;
        self.zeros = 0;
        let read = pipe.read(self.buffer.bytes_mut()).and_then(|count| match count {
            0 => Err(libc::EIO),
            count => Ok(count),
        });
        let count = read.map_err(|errno| {
            let errno = if errno == libc::EAGAIN { libc::EIO } else { errno };
            Error::at(Operation::Read, Side::Source, self.stats.position, errno)
        })?;
        self.pending = 0..count;
        self.run = Run { to: count, zero: false };
        self.settled = true;
        Ok(Step::Worked(0))
    }

    fn pull(&mut self, source: &mut dyn Source) -> Result<()> {
        self.pending = 0..0;
        self.run.to = 0;
        self.settled = !self.detects;
        self.room = self.buffer.bytes().len();
        if self.detects {
            // A full read ends where a block does, and before what need not be read.
            let block = u64::from(self.options.zero_block);
            let place = self.stats.position + self.gap;
            let end = place + self.room as u64;
            let reach = place.saturating_add(self.reach).checked_next_multiple_of(block);
            let end = reach.unwrap_or(end).min(end - end % block);
            self.room = (end - place) as usize;
        }
        let read = self.read(source)?;
        // A part of a block that is none of zeros is data, whatever it looks like.
        let solid = std::mem::take(&mut self.solid);
        self.run.to = self.pending.end.min(usize::try_from(solid).unwrap_or(usize::MAX));
        self.run.zero = false;
        self.pulled(read, source)
    }

    /// What came of a read, besides data.
    fn pulled(&mut self, read: Read, source: &mut dyn Source) -> Result<()> {
        match read {
            Read::Data(_) => {}
            Read::AtHole => {
                let length = source.section()?.length;
                source.skip(length)?;
                self.gap = self.gap.saturating_add(length);
                self.growing = false;
            }
            Read::End => self.at_end = true,
        }
        let reached = self.stats.position.saturating_add(self.gap);
        if i64::try_from(reached.saturating_add(self.pending.len() as u64)).is_err() {
            let position = self.stats.position;
            return Err(Error::at(Operation::Read, Side::Source, position, libc::EOVERFLOW));
        }
        Ok(())
    }

    /// Whether zeros are looked for and the first block that is pending has not come in whole: what
    /// one read happens to give is no block.
    fn wants_more(&self) -> bool {
        let block = u64::from(self.options.zero_block);
        let place = self.stats.position + self.gap;
        let whole = block - place % block;
        !self.settled && (self.pending.len() as u64) < whole && self.pending.end < self.room
    }

    /// Reads on behind what is pending, unless something else than data comes next.
    fn pull_more(&mut self, source: &mut dyn Source) -> Result<Step> {
        match self.read(source) {
            Ok(Read::Data(_)) => {}
            Ok(Read::AtHole | Read::End) => self.settled = true,
            Err(error) if error.would_block() => self.settled = true,
            Err(error) => return Err(error),
        }
        Ok(Step::Worked(0))
    }

    /// Reads into the buffer behind what is pending.
    fn read(&mut self, source: &mut dyn Source) -> Result<Read> {
        let from = self.pending.end;
        self.zeros = self.zeros.min(from);
        let read = source.read(&mut self.buffer.bytes_mut()[from..self.room])?;
        if let Read::Data(count) = read {
            self.check_count(count, self.room - from)?;
            self.pending.end += count;
        }
        Ok(read)
    }

    /// What a source says that it read, checked.
    fn check_count(&self, count: usize, most: usize) -> Result<()> {
        if count == 0 || count > most {
            return Err(Error::Nonsense {
                operation: Operation::Read,
                side: Side::Source,
                offset: self.stats.position + self.gap + self.pending.len() as u64,
                answer: i64::try_from(count).unwrap_or(i64::MAX),
            });
        }
        Ok(())
    }

    /// Finds how much of what is pending is data, or zeros, from its start.
    fn classify(&mut self) {
        let Range { start, end } = self.pending;
        self.run = Run { to: end, zero: false };
        if !self.detects {
            return;
        }
        let block = u64::from(self.options.zero_block);
        let mut place = self.stats.position + self.gap;
        let bytes = self.buffer.bytes();
        let mut at = start;
        let mut first = None;
        while at < end {
            let whole = block - place % block;
            let left = whole.min((end - at) as u64);
            if left < whole && !self.settled && at > start {
                break;
            }
            let to = at + left as usize;
            let zero = is_zero(&bytes[at..to]);
            if *first.get_or_insert(zero) != zero {
                break;
            }
            at = to;
            place += left;
        }
        self.run = Run { to: at, zero: first == Some(true) };
    }

    fn push_data(&mut self, sink: &mut dyn Sink, observer: &mut dyn Observe) -> Result<Step> {
        let most = match self.allowance() {
            Ok(most) => most,
            Err(when) => return Ok(Step::TooEarly(when)),
        };
        let to = self.run.to.min(self.pending.start.saturating_add(most));
        let piece = &self.buffer.bytes()[self.pending.start..to];
        let length = piece.len();
        let taken = self.taken(Operation::Write, sink.write(piece)? as u64, length as u64)?;
        self.pending.start += taken as usize;
        self.spend(taken);
        self.moved(Kind::Data, taken, observer)?;
        Ok(Step::Worked(taken))
    }

    fn push_gap(&mut self, sink: &mut dyn Sink, observer: &mut dyn Observe) -> Result<Step> {
        if self.makes_holes {
            let begun = self.timed.then(Instant::now);
            let made = self.taken(Operation::Hole, sink.hole(self.gap)?, self.gap)?;
            let took = begun.map_or(0, |begun| begun.elapsed().as_micros());
            let took = u64::try_from(took).unwrap_or(u64::MAX);
            self.gap -= made;
            // Detected zeros come first in the count; within one gap nobody sees the difference.
            let detected = self.detected.min(made);
            self.detected -= detected;
            self.stats.zero_bytes += detected;
            self.moved(Kind::Hole, made, observer)?;
            return Ok(Step::Worked(STEP_COST.max(took.saturating_mul(ZEROING_COST))));
        }
        let most = match self.allowance() {
            Ok(most) => most,
            Err(when) => return Ok(Step::TooEarly(when)),
        };
        let wanted = usize::try_from(self.gap).unwrap_or(usize::MAX);
        let length = wanted.min(most).min(self.buffer.bytes().len());
        if self.zeros < length {
            // Nothing is pending here: without holes to make, no zeros are detected.
            self.buffer.bytes_mut()[self.zeros..length].fill(0);
            self.zeros = length;
        }
        let taken = sink.write(&self.buffer.bytes()[..length])? as u64;
        let taken = self.taken(Operation::Write, taken, length as u64)?;
        self.gap -= taken;
        self.spend(taken);
        self.moved(Kind::Data, taken, observer)?;
        Ok(Step::Worked(taken))
    }

    /// What a sink says that it took, checked.
    fn taken(&self, operation: Operation, taken: u64, most: u64) -> Result<u64> {
        if taken == 0 || taken > most {
            return Err(Error::Nonsense {
                operation,
                side: Side::Sink,
                offset: self.stats.position,
                answer: i64::try_from(taken).unwrap_or(i64::MAX),
            });
        }
        Ok(taken)
    }

    /// Tells the source what the sink has made durable, so that a peer can be told.
    fn pass_on_durable(&mut self, source: &mut dyn Source, sink: &dyn Sink) {
        if let Some(durable) = sink.durable()
            && durable > self.durable
        {
            self.durable = durable;
            self.last_move = Instant::now();
            source.stored(self.begins + durable);
        }
    }

    fn moved(&mut self, kind: Kind, length: u64, observer: &mut dyn Observe) -> Result<()> {
        let offset = self.stats.position;
        self.stats.position += length;
        match kind {
            Kind::Hole => self.stats.hole_bytes += length,
            _ => self.stats.data_bytes += length,
        }
        let whole = match &mut self.section {
            Some(section) if section.kind == kind => {
                section.length += length;
                None
            }
            other => {
                match kind {
                    Kind::Hole => self.stats.hole_sections += 1,
                    _ => self.stats.data_sections += 1,
                }
                other.replace(Section::new(kind, offset, length))
            }
        };
        self.tell_section(whole, observer)?;
        if self.options.stall_ms != 0 || self.options.idle_ms != 0 {
            self.last_move = Instant::now();
        }
        let Options { progress_bytes: bytes, progress_ms: ms, .. } = self.options;
        if bytes != 0 && self.stats.position - self.told.position >= bytes
            || ms != 0 && self.told.time.elapsed() >= Duration::from_millis(ms)
        {
            self.tell(observer)?;
        }
        Ok(())
    }

    fn tell_section(&self, whole: Option<Section>, observer: &mut dyn Observe) -> Result<()> {
        whole.map_or(Ok(()), |section| {
            observer.section(section).map_err(|errno| self.stopped(errno))
        })
    }

    fn tell(&mut self, observer: &mut dyn Observe) -> Result<()> {
        self.told = Told { position: self.stats.position, time: Instant::now() };
        observer.progress(&self.stats).map_err(|errno| self.stopped(errno))
    }

    /// An observer ended it. That is final, whatever errno it gave.
    fn stopped(&self, errno: i32) -> Error {
        Error::Because {
            operation: Operation::Progress,
            side: Side::None,
            offset: self.stats.position,
            errno,
            why: "the callback ended the transfer",
        }
    }

    /// How many bytes the rate allows now, or from when on it allows any.
    fn allowance(&self) -> std::result::Result<usize, Instant> {
        if self.options.rate == 0 {
            return Ok(usize::MAX);
        }
        if self.free_at > Instant::now() {
            return Err(self.free_at);
        }
        let burst = u128::from(self.options.rate) * BURST.as_millis() / 1000;
        Ok(usize::try_from(burst).unwrap_or(usize::MAX).max(STEP_COST as usize))
    }

    fn spend(&mut self, bytes: u64) {
        if self.options.rate != 0 {
            let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(self.options.rate);
            let time = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
            self.free_at = self.free_at.max(Instant::now()) + time;
        }
    }

    fn see_signs(&mut self, source: &dyn Source, sink: &dyn Sink) {
        let signs = source.signs().wrapping_add(sink.signs());
        if signs != self.signs.0 {
            self.signs = (signs, Instant::now());
        }
    }

    /// How long this side may still be late, if there is a limit.
    fn time_left(&self, side: Side) -> Result<Option<Duration>> {
        let Options { stall_ms, idle_ms, .. } = self.options;
        let alive = self.last_move.max(self.signs.1);
        let mut left = None;
        for (limit_ms, since) in [(stall_ms, alive), (idle_ms, self.last_move)] {
            if limit_ms == 0 {
                continue;
            }
            let (limit, waited) = (Duration::from_millis(limit_ms), since.elapsed());
            if waited >= limit {
                let waited_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
                return Err(Error::Late { side, offset: self.stats.position, waited_ms });
            }
            left = sooner(left, Some(limit - waited));
        }
        Ok(left)
    }

    fn wait_for_time(
        &mut self,
        when: Instant,
        flush_by: Option<Instant>,
        patience: Patience,
    ) -> Result<()> {
        let now = Instant::now();
        self.last_move = now;
        let left = flush_by.map_or(when, |due| when.min(due)).saturating_duration_since(now);
        if patience == Patience::None {
            self.wait = Wait { side: Side::None, fd: None, events: 0, timeout: Some(left) };
            let position = self.stats.position;
            return Err(Error::at(Operation::Wait, Side::None, position, libc::EAGAIN));
        }
        rest(-1, 0, left)
    }

    fn wait_for_end(
        &mut self,
        error: Error,
        source: &dyn Source,
        sink: &mut dyn Sink,
        patience: Patience,
    ) -> Result<()> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(self.cancelled());
        }
        let mut side = error.side();
        if side == Side::Source && !flushed(sink)? {
            // What the sink keeps back is due before anything new.
            side = Side::Sink;
        }
        let waiting = match side {
            Side::Source => source.waiting(),
            Side::Sink => sink.waiting(),
            Side::None => Waiting::Owner,
        };
        self.see_signs(source, sink);
        let flush_in = sink.flush_by().map(|due| due.saturating_duration_since(Instant::now()));
        let timeout = sooner(self.time_left(side)?, flush_in);
        match waiting {
            Waiting::Descriptor { fd, events, blocking }
                if patience == Patience::Any || blocking && patience == Patience::Blocking =>
            {
                rest(fd, events, timeout.unwrap_or(GLANCE))
            }
            Waiting::Descriptor { fd, events, .. } => {
                self.wait = Wait { side, fd: Some(fd), events, timeout };
                Err(error)
            }
            Waiting::Owner => {
                self.wait = Wait { side, fd: None, events: 0, timeout };
                Err(error)
            }
        }
    }
}

/// Whether nothing is kept back any more.
fn flushed(sink: &mut dyn Sink) -> Result<bool> {
    match sink.flush() {
        Ok(()) => Ok(true),
        Err(error) if error.would_block() || error.interrupted() => Ok(false),
        Err(error) => Err(error),
    }
}

/// The shorter of two times, where none means for ever.
fn sooner(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    one.into_iter().chain(other).min()
}

/// Waits, but not so long that a cancel is seen late.
fn rest(fd: sys::Fd, events: i16, time: Duration) -> Result<()> {
    until_ready(fd, events, time.min(GLANCE))
        .map_err(|errno| Error::nowhere(Operation::Wait, Side::None, errno))
}

#[cfg(test)]
mod tests;
