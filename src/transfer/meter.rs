//! Counts what has moved: statistics, sections, progress.

use super::observe::{Observe, Stats};
use super::options::Options;
use crate::end::HoleWay;
use crate::error::{Error, Operation, Result, Side};
use crate::section::{Kind, Section};
use crate::trace::Way;
use std::time::{Duration, Instant};

/// A part of the stream that the sink took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Data, and how it moved.
    Data(Way),
    /// A hole, how it was made, and the bytes of it that came as data.
    Hole(HoleWay, u64),
    /// Bytes that stay as they are.
    Keep,
}

impl Part {
    fn kind(self) -> Kind {
        match self {
            Part::Data(_) => Kind::Data,
            Part::Hole(..) => Kind::Hole,
            Part::Keep => Kind::Keep,
        }
    }
}

/// Progress as it was last reported.
#[derive(Debug, Clone, Copy)]
struct Reported {
    position: u64,
    time: Instant,
}

/// The largest offset.
const MAX_POSITION: u64 = i64::MAX as u64;

/// Counts, and reports to an observer.
#[derive(Debug)]
pub(super) struct Meter {
    stats: Stats,
    /// The section that the sink is in.
    section: Option<Section>,
    /// The position that the stream must not pass.
    most: u64,
    reported: Reported,
    /// Progress is reported before the end.
    reports: bool,
    every_bytes: u64,
    every: Option<Duration>,
}

impl Meter {
    pub(super) fn new(options: &Options, now: Instant) -> Self {
        Meter {
            stats: Stats::default(),
            section: None,
            most: MAX_POSITION,
            reported: Reported { position: 0, time: now },
            reports: options.progress_bytes != 0 || options.progress_ms != 0,
            every_bytes: options.progress_bytes,
            every: (options.progress_ms != 0).then(|| Duration::from_millis(options.progress_ms)),
        }
    }

    pub(super) fn stats(&self) -> Stats {
        self.stats
    }

    pub(super) fn position(&self) -> u64 {
        self.stats.position
    }

    /// Whether it needs to be given the time.
    pub(super) fn needs_time(&self) -> bool {
        self.every.is_some()
    }

    /// The stream begins, or begins again, at this position.
    pub(super) fn begin(&mut self, position: u64, total: Option<u64>, now: Instant) {
        self.stats.position = position;
        self.stats.total = total;
        self.most = total.unwrap_or(MAX_POSITION);
        self.reported = Reported { position, time: now };
    }

    /// The sink already holds this many more bytes.
    pub(super) fn compared(&mut self, length: u64) {
        self.stats.position += length;
    }

    /// The sink took this.
    #[inline(always)]
    pub(super) fn moved(
        &mut self,
        part: Part,
        length: u64,
        now: Instant,
        observer: &mut dyn Observe,
    ) -> Result<()> {
        let (kind, offset) = (part.kind(), self.stats.position);
        let begins = self.section.is_none_or(|section| section.kind != kind);
        let stats = &mut self.stats;
        stats.position += length;
        match part {
            Part::Data(way) => {
                stats.data_bytes += length;
                stats.data_sections += u64::from(begins);
                stats.ways.add_data(way, length);
            }
            Part::Hole(way, zeros) => {
                stats.hole_bytes += length;
                stats.hole_sections += u64::from(begins);
                stats.zero_bytes += zeros;
                stats.ways.add_holes(way, length);
            }
            Part::Keep => {
                stats.keep_bytes += length;
                stats.keep_sections += u64::from(begins);
            }
        }
        if begins {
            if let Some(whole) = self.section.replace(Section::new(kind, offset, length)) {
                self.report_section(whole, observer)?;
            }
        } else if let Some(section) = &mut self.section {
            section.length += length;
        }
        if self.stats.position > self.most {
            return Err(self.too_long());
        }
        if self.reports && self.is_report_due(now) { self.report(now, observer) } else { Ok(()) }
    }

    #[cold]
    fn too_long(&self) -> Error {
        let (errno, why) = match self.stats.total {
            Some(_) => (libc::EPROTO, "the source is longer than it reported"),
            None => (libc::EOVERFLOW, "the source ends beyond the largest offset"),
        };
        let (operation, side) = (Operation::Read, Side::Source);
        Error::Because { operation, side, offset: self.most, errno, why }
    }

    #[cold]
    fn is_report_due(&self, now: Instant) -> bool {
        let Reported { position, time } = self.reported;
        self.every_bytes != 0 && self.stats.position - position >= self.every_bytes
            || self.every.is_some_and(|every| now.saturating_duration_since(time) >= every)
    }

    /// The stream has ended: reports the last section and the final counts.
    pub(super) fn end(&mut self, now: Instant, observer: &mut dyn Observe) -> Result<()> {
        let offset = self.stats.position;
        if let Some(expected) = self.stats.total.filter(|total| *total > offset) {
            return Err(Error::EndedEarly { offset, expected });
        }
        if let Some(last) = self.section.take() {
            self.report_section(last, observer)?;
        }
        self.report(now, observer)
    }

    fn report_section(&self, whole: Section, observer: &mut dyn Observe) -> Result<()> {
        observer.section(whole).map_err(|errno| self.stopped(errno))
    }

    fn report(&mut self, now: Instant, observer: &mut dyn Observe) -> Result<()> {
        self.reported = Reported { position: self.stats.position, time: now };
        observer.progress(&self.stats).map_err(|errno| self.stopped(errno))
    }

    /// An observer ended the transfer. That is final, whatever errno it returned.
    fn stopped(&self, errno: i32) -> Error {
        Error::Because {
            operation: Operation::Progress,
            side: Side::None,
            offset: self.stats.position,
            errno,
            why: "the callback ended the transfer",
        }
    }
}
