//! Finds the data and the holes of a descriptor.
//!
//! The map of a file system is a hint: it may be outdated before it is used, and it may be wrong. Each answer
//! makes progress. A range is a hole only if the file system reported it without contradicting itself, and
//! its map covers the page cache.
//!
//! | module | subject |
//! |---|---|
//! | this one | a section |
//! | `query` | questions that leave the file position as it was |
//! | `walk` | a walk along the map |
//! | `probe` | one question to the map, and whether its answer is believed |
//! | `medium` | whether a descriptor has offsets, and a map |
//! | `position` | the file position, saved and restored |
//! | `signals` | calls that a signal may interrupt |

mod medium;
mod position;
mod probe;
mod query;
mod signals;
mod walk;

pub use medium::{Readable, Seekable, readable};
pub use position::Position;
pub use query::{holes_supported, map, section_at};
pub use signals::steadily;
pub use walk::Walk;

/// The kind of a section. As wide as its neighbours in a [`Section`], so that one is copied in whole words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Kind {
    /// The end.
    End,
    /// Stored bytes.
    Data,
    /// A hole: it reads as zeros and is not stored.
    Hole,
    /// Bytes that the receiver keeps as they are. A file never has such a section.
    Keep,
}

/// A run of bytes of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section {
    /// Its kind.
    pub kind: Kind,
    /// Its first byte.
    pub offset: u64,
    /// Bytes in it; 0 only at the end.
    pub length: u64,
}

impl Section {
    /// A section.
    #[must_use]
    pub fn new(kind: Kind, offset: u64, length: u64) -> Self {
        Section { kind, offset, length }
    }

    /// The end, at `offset`.
    #[must_use]
    pub fn end(offset: u64) -> Self {
        Section::new(Kind::End, offset, 0)
    }
}
