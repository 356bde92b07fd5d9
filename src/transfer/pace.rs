//! The rate of a transfer, and its limits for late ends. The time is passed in: no clock is read.

use super::options::Options;
use crate::trace;
use std::time::{Duration, Instant};

/// How far a transfer may be ahead of its rate.
const BURST: Duration = Duration::from_millis(100);

/// The fewest bytes that a rate allows at once.
const LEAST: u64 = 4096;

/// A limit of time, if there is one.
#[derive(Debug, Clone, Copy)]
struct Limit(Option<Duration>);

impl Limit {
    fn of(ms: u64) -> Self {
        Limit((ms != 0).then(|| Duration::from_millis(ms)))
    }
}

/// An end is too late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Late {
    /// The limit that it has passed.
    pub(super) which: trace::Limit,
    pub(super) waited_ms: u64,
}

/// Rate, stall limit and idle limit.
#[derive(Debug)]
pub(super) struct Pace {
    /// Bytes of data in a second; 0 means without limit.
    rate: u64,
    stall: Limit,
    idle: Limit,
    /// The time at which data may move again.
    free_at: Instant,
    /// The time at which something last moved.
    last_move: Instant,
    /// Signs of life that the peers of both ends have given, and when the last of them was seen.
    signs: (u64, Instant),
}

impl Pace {
    pub(super) fn new(options: &Options, now: Instant) -> Self {
        Pace {
            rate: options.rate,
            stall: Limit::of(options.stall_ms),
            idle: Limit::of(options.idle_ms),
            free_at: now,
            last_move: now,
            signs: (0, now),
        }
    }

    /// Whether it needs to be given the time of each step.
    pub(super) fn needs_time(&self) -> bool {
        self.rate != 0 || self.stall.0.is_some() || self.idle.0.is_some()
    }

    /// Bytes of data that the rate allows now, or the time from which on it allows some.
    #[inline]
    pub(super) fn allowance(&self, now: Instant) -> std::result::Result<u64, Instant> {
        if self.rate == 0 {
            return Ok(u64::MAX);
        }
        if self.free_at > now {
            return Err(self.free_at);
        }
        let burst = u128::from(self.rate) * BURST.as_millis() / 1000;
        Ok(u64::try_from(burst).unwrap_or(u64::MAX).max(LEAST))
    }

    /// Data moved.
    #[inline]
    pub(super) fn spend(&mut self, bytes: u64, now: Instant) {
        if self.rate != 0 {
            let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate);
            let time = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
            let base = self.free_at.max(now);
            self.free_at = base.checked_add(time).unwrap_or(base);
        }
    }

    /// There was progress.
    #[inline]
    pub(super) fn progress(&mut self, now: Instant) {
        self.last_move = now;
    }

    /// The peers have given this many signs of life so far. Returns whether any are new.
    pub(super) fn see_signs(&mut self, signs: u64, now: Instant) -> bool {
        let new = signs != self.signs.0;
        if new {
            self.signs = (signs, now);
        }
        new
    }

    /// The time that is left to a late end, if there is a limit.
    pub(super) fn time_left(&self, now: Instant) -> std::result::Result<Option<Duration>, Late> {
        let alive = self.last_move.max(self.signs.1);
        let limits = [
            (trace::Limit::Stall, self.stall, alive),
            (trace::Limit::Idle, self.idle, self.last_move),
        ];
        let mut left = None;
        for (which, limit, since) in limits {
            let Some(limit) = limit.0 else { continue };
            let waited = now.saturating_duration_since(since);
            if waited >= limit {
                let waited_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
                return Err(Late { which, waited_ms });
            }
            left = sooner(left, Some(limit - waited));
        }
        Ok(left)
    }
}

/// The shorter of two times, where `None` means for ever.
pub(super) fn sooner(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    one.into_iter().chain(other).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn pace(options: Options) -> (Pace, Instant) {
        let now = Instant::now();
        (Pace::new(&options, now), now)
    }

    #[test]
    fn a_rate_is_kept_over_any_time() {
        let (mut pace, begun) = pace(Options { rate: 1_000_000, ..Options::default() });
        let (mut now, mut moved) = (begun, 0);
        while moved < 10_000_000 {
            match pace.allowance(now) {
                Ok(most) => {
                    assert_eq!(most, 100_000);
                    pace.spend(most, now);
                    moved += most;
                }
                Err(when) => {
                    assert!(when > now);
                    now = when;
                }
            }
        }
        let took = now - begun;
        assert!((9900 * MS..=10_100 * MS).contains(&took), "{took:?}");
    }

    #[test]
    fn time_that_was_not_used_is_not_saved_up() {
        let (mut pace, begun) = pace(Options { rate: 1_000_000, ..Options::default() });
        let late = begun + Duration::from_secs(100);
        pace.spend(100_000, late);
        assert_eq!(pace.allowance(late), Err(late + 100 * MS));
    }

    #[test]
    fn a_tiny_rate_still_moves_and_a_huge_one_does_not_overflow() {
        let (tiny, now) = pace(Options { rate: 1, ..Options::default() });
        assert_eq!(tiny.allowance(now), Ok(LEAST));
        let (mut huge, now) = pace(Options { rate: u64::MAX, ..Options::default() });
        assert!(huge.allowance(now).is_ok());
        huge.spend(u64::MAX, now);
        let (mut slow, now) = pace(Options { rate: 1, ..Options::default() });
        slow.spend(u64::MAX, now);
        slow.spend(u64::MAX, now);
        assert!(slow.allowance(now).is_err());
    }

    #[test]
    fn a_sign_of_life_extends_the_stall_limit_and_not_the_idle_limit() {
        let options = Options { stall_ms: 100, idle_ms: 250, ..Options::default() };
        let (mut pace, begun) = pace(options);
        let left = |pace: &Pace, ms: u32| pace.time_left(begun + ms * MS);
        assert_eq!(left(&pace, 40), Ok(Some(60 * MS)));
        let late = |which, waited_ms| Err(Late { which, waited_ms });
        assert_eq!(left(&pace, 100), late(trace::Limit::Stall, 100));
        assert!(pace.see_signs(1, begun + 90 * MS));
        assert_eq!(left(&pace, 100), Ok(Some(90 * MS)));
        // The same count is not a new sign.
        assert!(!pace.see_signs(1, begun + 180 * MS));
        assert!(left(&pace, 190).is_err());
        assert!(pace.see_signs(2, begun + 180 * MS));
        assert_eq!(left(&pace, 190), Ok(Some(60 * MS)));
        assert_eq!(left(&pace, 250), late(trace::Limit::Idle, 250));
        pace.progress(begun + 240 * MS);
        assert_eq!(left(&pace, 250), Ok(Some(90 * MS)));
    }

    #[test]
    fn without_limits_nobody_is_late() {
        let (pace, begun) = pace(Options::default());
        assert!(!pace.needs_time());
        let year = Duration::from_secs(365 * 86400);
        assert_eq!(pace.time_left(begun + year), Ok(None));
        assert_eq!(pace.allowance(begun), Ok(u64::MAX));
    }
}
