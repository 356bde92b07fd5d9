//! The counts, sections and events that an observer of a transfer receives.

use crate::end::HoleWay;
use crate::section::Section;
use crate::sys::Sys;
use crate::trace::{Event, Way};

/// The counters of the work done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// How far the stream has come: bytes that the sink took, and bytes that it held already.
    pub position: u64,
    /// Bytes of the whole stream, if known.
    pub total: Option<u64>,
    /// The bytes that were taken as data.
    pub data_bytes: u64,
    /// The bytes that were taken as holes.
    pub hole_bytes: u64,
    /// The bytes that were kept as they were.
    pub keep_bytes: u64,
    /// Sections of data begun.
    pub data_sections: u64,
    /// Holes begun.
    pub hole_sections: u64,
    /// Kept sections begun.
    pub keep_sections: u64,
    /// The part of the holes that came as data and was found to be zeros.
    pub zero_bytes: u64,
    /// How the bytes moved.
    pub ways: Ways,
}

/// Bytes by the way in which they moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ways {
    data: [u64; Way::ALL.len()],
    holes: [u64; HoleWay::ALL.len()],
}

impl Ways {
    /// Bytes of data that moved this way.
    #[must_use]
    pub fn data(&self, way: Way) -> u64 {
        self.data[way.index()]
    }

    /// Bytes of holes that were made this way.
    #[must_use]
    pub fn holes(&self, way: HoleWay) -> u64 {
        self.holes[way.index()]
    }

    pub(super) fn add_data(&mut self, way: Way, length: u64) {
        self.data[way.index()] += length;
    }

    pub(super) fn add_holes(&mut self, way: HoleWay, length: u64) {
        self.holes[way.index()] += length;
    }
}

/// Watches a transfer. An errno ends it.
pub trait Observe {
    /// The counts so far.
    fn progress(&mut self, stats: &Stats) -> Sys<()> {
        let _ = stats;
        Ok(())
    }

    /// The sink took all of this section.
    fn section(&mut self, section: Section) -> Sys<()> {
        let _ = section;
        Ok(())
    }

    /// Whether [`Observe::trace`] does anything.
    fn traces(&self) -> bool {
        false
    }

    /// A decision or an event at this position of the stream.
    fn trace(&mut self, position: u64, event: Event) {
        let _ = (position, event);
    }
}

impl Observe for () {}
