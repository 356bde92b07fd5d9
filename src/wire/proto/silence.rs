//! How long nothing was sent.

use std::time::{Duration, Instant};

/// How long nothing was sent. It needs the time only twice in the longest allowed silence.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Silence {
    /// The time of the last look.
    looked: Option<Instant>,
    /// Something was sent since.
    broken: bool,
}

impl Silence {
    /// This many bytes were sent.
    pub(super) fn broken(&mut self, count: usize) {
        self.broken |= count > 0;
    }

    /// When to look again, so that a silence of at most `most` is kept.
    pub(super) fn ends(&self, most: Duration) -> Option<Instant> {
        self.looked?.checked_add(most / 2)
    }

    /// Looks. Whether nothing was sent since the last look, half of `most` ago.
    pub(super) fn over(&mut self, most: Duration, now: Instant) -> bool {
        if self.looked.is_some() && self.ends(most).is_none_or(|ends| now < ends) {
            return false;
        }
        let over = self.looked.is_some() && !self.broken;
        (self.looked, self.broken) = (Some(now), false);
        over
    }
}
