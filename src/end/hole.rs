//! A hole that a sink has made.

pub use crate::trace::HoleWay;

/// A hole, or the first part of one, that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// Its length, at least one byte. One call makes one bounded step.
    pub length: u64,
    /// The way in which it was made.
    pub way: HoleWay,
}
