//! The time since something was sent.

use std::time::{Duration, Instant};

/// The time since something was sent. The clock is read only twice in the longest allowed silence.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Silence {
    /// The time of the last check.
    looked: Option<Instant>,
    /// Something was sent since.
    broken: bool,
}

impl Silence {
    /// This many bytes were sent.
    pub(super) fn broken(&mut self, count: usize) {
        self.broken |= count > 0;
    }

    /// The time of the next check, so that no silence lasts longer than `most`.
    pub(super) fn ends(&self, most: Duration) -> Option<Instant> {
        self.looked?.checked_add(most / 2)
    }

    /// Checks whether nothing was sent since the last check, half of `most` ago.
    pub(super) fn over(&mut self, most: Duration, now: Instant) -> bool {
        if self.looked.is_some() && self.ends(most).is_none_or(|ends| now < ends) {
            return false;
        }
        let over = self.looked.is_some() && !self.broken;
        (self.looked, self.broken) = (Some(now), false);
        over
    }
}
