//! The number of pieces that have memory at once.
//!
//! Many requests in flight help if replies take long. If not, they only move the data out of the processor's
//! caches and spread it over more threads of a server. So a transfer begins with few pieces, and doubles their
//! number as long as that makes it faster.
//!
//! A piece that many later ones have overtaken waits for a slow reply. It is not counted, so that it does not
//! delay the others.

use std::time::{Duration, Instant};

/// The number of pieces at the beginning, unless an end asks for another.
const FIRST: usize = 32;

/// A piece is overtaken when this many times the limit have begun after it.
const OVERTAKEN: u64 = 4;

/// The shortest time over which a rate is measured.
const LEAST: Duration = Duration::from_millis(1);

/// Rates that are measured after a step that did not help, before the next step; doubled each time.
const FIRST_PAUSE: u32 = 4;
const LONGEST_PAUSE: u32 = 64;

/// Whether a piece has memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    Nothing,
    Memory,
    /// Memory that is not counted: the piece was overtaken.
    Overtaken,
}

/// The use of the next rate.
#[derive(Debug)]
enum Trial {
    /// The first rates. The one with `cold` is not used: threads start, and memory is touched for the first time.
    Begun { cold: bool },
    /// The limit was doubled when the rate was `before`. One rate without an effect does not count, for the same reason:
    /// it is measured `again`.
    Doubled { before: u64, again: bool },
    /// Doubling did not help. It is tried again after this many rates, whose average is `usual`.
    Pause { left: u32, usual: u64 },
}

#[derive(Debug)]
pub(super) struct Room {
    /// The limit at the beginning, and the least.
    first: usize,
    limit: usize,
    /// The pieces that there is memory for.
    most: usize,
    /// The pieces that are counted.
    used: usize,
    trial: Trial,
    pause: u32,
    /// Since when, how many pieces have given their memory back, and whether any was refused memory.
    since: Option<Instant>,
    returned: usize,
    refused: bool,
}

impl Room {
    /// Memory for the most pieces, of which this many are used at the beginning.
    pub(super) fn new(most: usize, begin: Option<usize>) -> Self {
        let first = begin.unwrap_or(FIRST).min(most);
        Room {
            first,
            limit: first,
            most,
            used: 0,
            trial: Trial::Begun { cold: true },
            pause: FIRST_PAUSE,
            since: None,
            returned: 0,
            refused: false,
        }
    }

    /// Whether one more piece may begin.
    pub(super) fn admits(&mut self) -> bool {
        let admits = self.used < self.limit;
        self.refused |= !admits;
        admits
    }

    /// The number of later pieces after which a piece counts as overtaken.
    pub(super) fn behind(&self) -> u64 {
        self.limit as u64 * OVERTAKEN
    }

    /// A piece has begun.
    pub(super) fn took(&mut self, now: impl FnOnce() -> Instant) {
        self.used += 1;
        if self.since.is_none() {
            self.since = Some(now());
        }
    }

    /// A piece was overtaken.
    pub(super) fn overtaken(&mut self) {
        self.used -= 1;
    }

    /// A piece has returned its memory.
    pub(super) fn gave(&mut self, held: Holds, now: impl FnOnce() -> Instant) {
        match held {
            Holds::Nothing => return,
            Holds::Memory => self.used -= 1,
            Holds::Overtaken => {}
        }
        self.returned += 1;
        if self.most > self.first && self.returned >= self.limit {
            self.measure(now());
        }
    }

    fn measure(&mut self, now: Instant) {
        let took = self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        if took < LEAST {
            return;
        }
        let rate = self.returned as u64 * 1_000_000_000 / took.as_nanos().max(1) as u64;
        // If the limit was not reached, the rate does not depend on it.
        if self.refused {
            self.judge(rate);
        }
        self.start(now);
    }

    fn start(&mut self, now: Instant) {
        self.since = Some(now);
        self.returned = 0;
        self.refused = false;
    }

    /// Adapts the limit to a rate, in pieces a second.
    fn judge(&mut self, rate: u64) {
        match &mut self.trial {
            Trial::Begun { cold } if *cold => *cold = false,
            Trial::Begun { .. } => self.double(rate),
            // A quarter is more than rates vary by chance.
            Trial::Doubled { before, .. } if rate / 5 >= *before / 4 => {
                self.pause = FIRST_PAUSE;
                self.double(rate);
            }
            Trial::Doubled { again, .. } if *again => *again = false,
            Trial::Doubled { before, .. } => {
                let usual = *before;
                self.limit = (self.limit / 2).max(self.first);
                self.trial = Trial::Pause { left: self.pause, usual };
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            }
            Trial::Pause { left, usual } => {
                *usual = (3 * *usual + rate) / 4;
                match left.checked_sub(1) {
                    Some(fewer) => *left = fewer,
                    None => {
                        let usual = *usual;
                        self.double(usual);
                    }
                }
            }
        }
    }

    fn double(&mut self, rate: u64) {
        if self.limit == self.most {
            self.trial = Trial::Pause { left: LONGEST_PAUSE, usual: rate };
        } else {
            self.limit = (self.limit * 2).min(self.most);
            self.trial = Trial::Doubled { before: rate, again: true };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs pieces for a time, of which those in flight are answered at a rate. Returns the limit at the end.
    fn run(room: &mut Room, now: &mut Instant, ms: u64, rate: impl Fn(usize) -> u64) -> usize {
        let end = *now + Duration::from_millis(ms);
        while *now < end {
            while room.admits() {
                room.took(|| *now);
            }
            *now += Duration::from_nanos(1_000_000_000 / rate(room.used));
            room.gave(Holds::Memory, || *now);
        }
        room.limit
    }

    #[test]
    fn few_pieces_are_enough_where_more_are_not_faster() {
        let (mut room, mut now) = (Room::new(256, None), Instant::now());
        let limit = run(&mut room, &mut now, 1000, |_| 4000);
        assert!(limit <= 2 * FIRST, "{limit}");
    }

    #[test]
    fn an_end_may_begin_with_fewer() {
        let (mut room, mut now) = (Room::new(256, Some(4)), Instant::now());
        assert_eq!(run(&mut room, &mut now, 1, |_| 1000), 4);
        let limit = run(&mut room, &mut now, 1000, |_| 4000);
        assert!((4..=8).contains(&limit), "{limit}");
        let limit = run(&mut room, &mut now, 20000, |held| held as u64 * 50);
        assert_eq!(limit, 256);
    }

    #[test]
    fn long_answers_have_as_many_as_there_is_memory_for() {
        let (mut room, mut now) = (Room::new(256, None), Instant::now());
        // 20 ms for each.
        let limit = run(&mut room, &mut now, 300, |held| held as u64 * 50);
        assert_eq!(limit, 256);
    }

    #[test]
    fn answers_that_become_long_later_are_noticed() {
        let (mut room, mut now) = (Room::new(256, None), Instant::now());
        run(&mut room, &mut now, 2000, |_| 4000);
        let limit = run(&mut room, &mut now, 20000, |held| held as u64 * 50);
        assert_eq!(limit, 256);
    }

    /// The rates of a near server whose threads and memory are cold at first.
    #[test]
    fn a_slow_beginning_is_not_taken_for_an_effect_of_more_pieces() {
        let (mut room, mut now) = (Room::new(256, None), Instant::now());
        let mut fill = |ms, rate| run(&mut room, &mut now, ms, |_| rate);
        fill(16, 2000);
        let limit = fill(1000, 6000);
        assert!(limit <= 2 * FIRST, "{limit}");
    }

    /// Each doubling begins with memory that was never touched: one slow rate.
    #[test]
    fn one_slow_rate_does_not_end_the_growth() {
        let (mut room, mut now) = (Room::new(256, None), Instant::now());
        let (mut begun, mut seen) = (now, 0);
        for _ in 0..250 {
            if room.limit != seen {
                (seen, begun) = (room.limit, now);
            }
            let cold = now - begun < Duration::from_millis(room.limit as u64 / 2);
            run(&mut room, &mut now, 1, |held| if cold { 2000 } else { held as u64 * 150 });
        }
        assert_eq!(room.limit, 256);
    }

    #[test]
    fn a_full_link_ends_the_growth() {
        let (mut room, mut now) = (Room::new(256, None), Instant::now());
        // 2 ms for each, and 16,000 a second at most: 32 in flight fill it.
        let limit = run(&mut room, &mut now, 200, |held| (held as u64 * 500).min(16000));
        assert!((32..=64).contains(&limit), "{limit}");
    }

    #[test]
    fn a_piece_that_was_overtaken_makes_room() {
        let mut room = Room::new(256, None);
        while room.admits() {
            room.took(Instant::now);
        }
        assert!(!room.admits());
        room.overtaken();
        assert!(room.admits());
        room.took(Instant::now);
        room.gave(Holds::Overtaken, Instant::now);
        assert!(!room.admits());
    }

    #[test]
    fn little_memory_is_used_whole() {
        let mut room = Room::new(3, None);
        for _ in 0..3 {
            assert!(room.admits());
            room.took(Instant::now);
        }
        assert!(!room.admits());
        room.gave(Holds::Memory, || unreachable!());
        assert!(room.admits());
    }
}
