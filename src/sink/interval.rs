//! When written data is to be made durable.

use std::time::{Duration, Instant};

/// It is also due this long after the last time, if anything moved: holes, or zeros on a device, are not
/// counted as data and may take long.
const TIME: Duration = Duration::from_secs(5);

/// An interval of at least this many bytes is exact. To cut the data into smaller pieces for a shorter one
/// would cost too much.
const EXACT: u64 = 64 << 10;

/// The interval between two times, in bytes of data and in time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Interval {
    /// Bytes of data; 0 for never.
    bytes: u64,
    /// Bytes of data since the last time.
    data: u64,
    /// Something moved since.
    moved: bool,
    /// The last time, or the first check.
    last: Option<Instant>,
}

impl Interval {
    pub(super) fn new(bytes: u64) -> Self {
        Interval { bytes, data: 0, moved: false, last: None }
    }

    /// Whether it is ever due.
    pub(super) fn is_set(&self) -> bool {
        self.bytes != 0
    }

    /// Data moved.
    pub(super) fn data(&mut self, bytes: u64) {
        self.data += bytes;
        self.moved = true;
    }

    /// A hole or kept bytes moved.
    pub(super) fn other(&mut self) {
        self.moved = true;
    }

    /// Bytes of data that may be written before it is due.
    pub(super) fn most(&self) -> u64 {
        if self.bytes < EXACT { u64::MAX } else { self.bytes.saturating_sub(self.data) }
    }

    /// Whether it is due. The clock is not read if it is never due.
    #[inline]
    pub(super) fn is_due(&mut self, now: impl FnOnce() -> Instant) -> bool {
        self.is_set() && self.moved && (self.data >= self.bytes || self.is_late(now()))
    }

    fn is_late(&mut self, now: Instant) -> bool {
        let last = *self.last.get_or_insert(now);
        now.saturating_duration_since(last) >= TIME
    }

    /// Everything is durable.
    pub(super) fn reached(&mut self, now: Instant) {
        *self = Interval { last: Some(now), ..Interval::new(self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn bytes_of_data_count_and_holes_do_not() {
        let now = Instant::now();
        let mut interval = Interval::new(1 << 20);
        for _ in 0..1000 {
            interval.other();
            assert!(!interval.is_due(|| now));
        }
        interval.data((1 << 20) - 1);
        assert!(!interval.is_due(|| now));
        assert_eq!(interval.most(), 1);
        interval.data(1);
        assert!(interval.is_due(|| now));
        interval.reached(now);
        assert!(!interval.is_due(|| now));
    }

    #[test]
    fn after_five_seconds_anything_counts_and_nothing_does_not() {
        let start = Instant::now();
        let mut interval = Interval::new(1 << 20);
        interval.other();
        assert!(!interval.is_due(|| start));
        assert!(!interval.is_due(|| start + 4 * SECOND));
        assert!(interval.is_due(|| start + 5 * SECOND));
        interval.reached(start + 5 * SECOND);
        assert!(!interval.is_due(|| start + 100 * SECOND));
        interval.data(1);
        assert!(interval.is_due(|| start + 100 * SECOND));
    }

    #[test]
    fn without_an_interval_nobody_looks_at_the_time() {
        let mut interval = Interval::new(0);
        interval.data(1 << 40);
        assert!(!interval.is_due(|| unreachable!("the time is not needed")));
        assert_eq!(interval.most(), u64::MAX);
    }
}
