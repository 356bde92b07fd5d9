//! The section of a file that a source is in, and the file position that finding it moves.

use crate::error::Result;
use crate::section::{Kind, Position, Section, Walk};
use crate::sys::Fd;
use crate::trace::Trail;

/// The map of a file, one section at a time.
#[derive(Debug)]
pub(super) struct Map {
    fd: Fd,
    reports_holes: bool,
    /// None if everything is taken to be data.
    walk: Option<Walk>,
    section: Option<Section>,
    /// Where the file position was before the walk moved it.
    position: Option<Position>,
}

impl Map {
    /// A map that was not asked yet. `walk`: where a file with a map ends.
    pub(super) fn new(fd: Fd, walk: Option<u64>, reports_holes: bool) -> Self {
        let walk = walk.map(|end| Walk::new(fd, end));
        Map { fd, reports_holes, walk, section: None, position: None }
    }

    /// Whether holes are reported, as far as is known.
    pub(super) fn reports_holes(&self) -> bool {
        let refused = self.walk.as_ref().is_some_and(|walk| walk.mapped() == Some(false));
        self.reports_holes && !refused
    }

    /// The section that the source is in, if it is known.
    #[inline]
    pub(super) fn section(&self) -> Option<Section> {
        self.section
    }

    /// Asks for the section at `offset`, which is before `end`.
    #[inline(always)]
    pub(super) fn ask(&mut self, offset: u64, end: u64, trail: &mut Trail) -> Result<Section> {
        let section = match &mut self.walk {
            None => Section::new(Kind::Data, offset, end - offset),
            Some(walk) => {
                if self.position.is_none() {
                    self.position = Some(Position::save(self.fd)?);
                }
                walk.at(offset, trail)?
            }
        };
        if section.kind != Kind::End {
            self.section = Some(section);
        }
        Ok(section)
    }

    /// The source has moved on.
    #[inline]
    pub(super) fn advance(&mut self, by: u64) {
        match &mut self.section {
            Some(section) if section.length > by => {
                section.offset += by;
                section.length -= by;
            }
            section => *section = None,
        }
    }

    /// Forgets the answers about this section and the next: they may not hold any more.
    pub(super) fn forget(&mut self) {
        self.section = None;
        if let Some(walk) = &mut self.walk {
            walk.forget();
        }
    }

    /// Whether holes are reported from `offset` to the end.
    pub(super) fn require(&mut self, offset: u64, trail: &mut Trail) -> Result<bool> {
        match &mut self.walk {
            Some(walk) => walk.require(offset, trail),
            // Generated content has no holes to miss.
            None => Ok(self.reports_holes),
        }
    }

    /// Puts the file position back.
    pub(super) fn restore(&mut self) -> Result<()> {
        let Some(position) = &self.position else { return Ok(()) };
        position.restore()?;
        self.position = None;
        Ok(())
    }
}
