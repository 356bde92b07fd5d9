//! A walk along the map of a file.

use super::probe::{Belief, probe, reconsider};
use super::{Kind, Section};
use crate::error::{Error, Operation, Result, Side};
use crate::sys::Fd;
use crate::trace::{Event, MapEvent, Trail};

/// A walk along a file's map: one lseek(2) for each boundary.
///
/// It moves the file position, which its owner restores.
#[derive(Debug)]
pub struct Walk {
    fd: Fd,
    end: u64,
    /// The start of data in the last answer.
    data: Option<u64>,
    mapped: Option<bool>,
    belief: Belief,
    doubts: Doubts,
    without: Without,
}

/// The behaviour of a walk without a usable map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Without {
    /// Everything is data.
    Data,
    /// It fails: the holes are required.
    Failure,
}

/// Whether a map was seen to contradict itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubts {
    None,
    /// It has, and that was recorded.
    Recorded,
}

impl Walk {
    /// A walk over a file that ends at `end`.
    #[must_use]
    pub fn new(fd: Fd, end: u64) -> Self {
        Walk {
            fd,
            end,
            data: None,
            mapped: None,
            belief: Belief::Unasked,
            doubts: Doubts::None,
            without: Without::Data,
        }
    }

    /// Determines whether a hole at or behind `offset` will be believed, and returns that. From then on, a map
    /// that cannot be used is an error.
    #[cold]
    pub fn require(&mut self, offset: u64, trail: &mut Trail) -> Result<bool> {
        self.without = Without::Failure;
        if offset < self.end {
            self.belief.settle(self.fd, offset, trail)?;
        }
        Ok(self.belief != Belief::Never)
    }

    /// Whether the file system answered when it was asked for its map, and is believed; `None`
    /// before it was asked.
    #[must_use]
    pub fn mapped(&self) -> Option<bool> {
        self.mapped
    }

    /// Forgets the last answer about the next section.
    pub fn forget(&mut self) {
        self.data = None;
    }

    /// The section at `offset`, up to `end` at most. An end before `end` means that the file is shorter now.
    /// Facts about the map are recorded in the trail, once.
    #[inline(always)]
    pub fn at(&mut self, offset: u64, trail: &mut Trail) -> Result<Section> {
        if offset >= self.end {
            return Ok(Section::end(offset));
        }
        let known = self.data.take() == Some(offset);
        let first = match self.belief {
            Belief::Never => return self.without.section(offset, self.end),
            _ => probe(self.fd, offset, self.end, known, || self.doubts.record(trail)),
        };
        let section = match first {
            Ok(section) if self.belief.takes(section.kind) => section,
            first => {
                let answer = reconsider(self.fd, offset, self.end, first, &mut self.belief, trail)?;
                let Some(section) = answer else {
                    self.mapped = Some(false);
                    return self.without.section(offset, self.end);
                };
                section
            }
        };
        if self.mapped.is_none() {
            self.mapped = Some(true);
            trail.record(Event::Map(MapEvent::Asked, None));
        }
        let next = section.offset + section.length;
        if section.kind == Kind::Hole && next < self.end {
            self.data = Some(next);
        }
        Ok(section)
    }
}

impl Without {
    /// The answer from `offset` on if there is no map.
    #[cold]
    fn section(self, offset: u64, end: u64) -> Result<Section> {
        match self {
            Without::Data => Ok(Section::new(Kind::Data, offset, end - offset)),
            Without::Failure => Err(Error::Because {
                operation: Operation::Sparse,
                side: Side::Source,
                offset,
                errno: libc::EOPNOTSUPP,
                why: "the map of the file system cannot be used any longer",
            }),
        }
    }
}

impl Doubts {
    #[cold]
    fn record(&mut self, trail: &mut Trail) {
        if *self == Doubts::None {
            *self = Doubts::Recorded;
            trail.record(Event::Map(MapEvent::Distrusted, None));
        }
    }
}
