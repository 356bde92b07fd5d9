//! How many pieces have memory at once.
//!
//! Many requests in flight help if replies take long. If not, they only move the data out of the processor's
//! caches and spread it over more threads of a server. So a transfer begins with few pieces. It doubles their number
//! while a piece takes hardly longer than one alone, since then it waits for the other end and not for other pieces;
//! and later from time to time, to see whether that makes the transfer faster. It halves their number while that does
//! not make it slower.
//!
//! Pieces are counted in units of [`UNIT`] bytes. A short piece leaves the caches as they are, so there may be more of
//! short ones than of long ones.
//!
//! A piece that many later ones have overtaken waits for a slow reply. It is not counted, so that it does not
//! delay the others.

use std::time::{Duration, Instant};

/// A piece counts as one for each of these bytes, and as one at least.
const UNIT: u64 = 32 << 10;

/// The number of pieces of full length at the beginning, unless an end asks for another.
const FIRST: usize = 32;

/// A piece is overtaken when this many times the limit has begun after it.
const OVERTAKEN: u64 = 4;

/// The shortest time over which a rate is measured: more than a process's turn on a busy processor.
const LEAST: Duration = Duration::from_millis(8);

/// Pieces wait for one another if each takes this many times as long as one alone.
const QUEUED: u128 = 2;

/// Rates that are measured before the next trial; after each one that did not help, twice as many.
const FIRST_PAUSE: u32 = 4;
const LONGEST_PAUSE: u32 = 64;

/// The units of a piece of this length.
pub(super) fn units(length: u64) -> usize {
    length.div_ceil(UNIT).max(1) as usize
}

/// Whether a piece has memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    Nothing,
    /// Since then.
    Memory(Instant),
    /// Memory that is not counted: the piece was overtaken.
    Overtaken,
}

/// The use of the next rate.
#[derive(Debug)]
enum Trial {
    /// The limit is still the first one. Rates rise by themselves at first, because threads start and memory is touched
    /// for the first time, so they are compared with the `last` one.
    Begun { last: u64 },
    /// The limit was doubled when the rate was `before`. Rates rise at first for the same reason, so the effect is judged
    /// when a rate is not above the `last` one. The limit was `limit` before.
    Doubled { before: u64, last: u64, limit: usize },
    /// The limit was halved when the rate was `before`. The first rate does not count, because it has the pieces that
    /// are too many and come to an end: they are `draining`.
    Halved { before: u64, draining: bool },
    /// The limit is neither too low nor too high. The next trial is after this many rates, whose average is `usual`.
    Pause { left: u32, usual: u64 },
}

/// The next trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Double,
    Halve,
}

/// A quarter is more than rates vary by chance.
fn faster(rate: u64, before: u64) -> bool {
    rate / 5 >= before / 4
}

fn as_fast(rate: u64, before: u64) -> bool {
    rate / 9 >= before / 10
}

/// All numbers of pieces are in units.
#[derive(Debug)]
pub(super) struct Room {
    /// The limit at the beginning, and the least.
    first: usize,
    limit: usize,
    /// As many as there is memory for.
    most: usize,
    /// Those that are counted.
    used: usize,
    /// The shortest time that a piece had memory. It waited for hardly any other.
    alone: Duration,
    trial: Trial,
    next: Next,
    pause: u32,
    /// Since when, how many have given their memory back, and whether any was refused memory.
    since: Option<Instant>,
    returned: usize,
    refused: bool,
}

impl Room {
    /// Memory for the most pieces of this length, of which some are used at the beginning.
    pub(super) fn new(most: usize, begin: Option<usize>, length: u64) -> Self {
        let first = begin.unwrap_or(FIRST).min(most) * units(length);
        let most = most * units(length);
        Room {
            first,
            limit: first,
            most,
            used: 0,
            alone: Duration::MAX,
            trial: Trial::Begun { last: 0 },
            next: Next::Double,
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

    /// How many pieces may have memory at once.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// How much must have begun after a piece that counts as overtaken.
    pub(super) fn behind(&self) -> u64 {
        self.limit as u64 * OVERTAKEN
    }

    /// A piece has begun. Returns what it holds.
    pub(super) fn took(&mut self, units: usize, now: Instant) -> Holds {
        self.used += units;
        self.since.get_or_insert(now);
        Holds::Memory(now)
    }

    /// A piece was overtaken.
    pub(super) fn overtaken(&mut self, units: usize) {
        self.used -= units;
    }

    /// A piece to which nothing came has returned its memory.
    pub(super) fn dropped(&mut self, held: Holds, units: usize) {
        match held {
            Holds::Nothing | Holds::Overtaken => {}
            Holds::Memory(_) => self.used -= units,
        }
    }

    /// A piece has returned its memory.
    pub(super) fn gave(&mut self, held: Holds, units: usize, now: Instant) {
        let since = match held {
            Holds::Nothing => return,
            Holds::Memory(since) => Some(since),
            Holds::Overtaken => None,
        };
        self.dropped(held, units);
        self.returned += units;
        if self.most == self.first {
            return;
        }
        // One that came and went within a step did not wait for a reply.
        let held = since.map(|since| now.saturating_duration_since(since));
        if let Some(held) = held.filter(|held| !held.is_zero()) {
            self.alone = self.alone.min(held);
        }
        if self.returned >= self.limit {
            self.measure(now);
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

    /// Adapts the limit to a rate, in units a second.
    fn judge(&mut self, rate: u64) {
        let queued = self.is_queued(rate);
        match &mut self.trial {
            Trial::Begun { .. } if !queued => self.double(rate),
            Trial::Doubled { before, .. } if !queued && faster(rate, *before) => {
                self.pause = FIRST_PAUSE;
                self.double(rate);
            }
            Trial::Begun { last } if faster(rate, *last) => *last = rate,
            Trial::Begun { .. } => self.rest(rate),
            Trial::Doubled { last, .. } if faster(rate, *last) => *last = rate,
            Trial::Doubled { before, last, limit } => {
                // The first one suffers from memory that is touched for the first time.
                let (before, rate, limit) = (*before, rate.max(*last), *limit);
                if faster(rate, before) {
                    self.pause = FIRST_PAUSE;
                    self.rest(rate);
                } else {
                    self.limit = limit;
                    self.next = Next::Halve;
                    self.rest(before);
                }
            }
            Trial::Halved { draining, .. } if *draining => *draining = false,
            Trial::Halved { before, .. } if as_fast(rate, *before) => self.halve(rate),
            Trial::Halved { before, .. } => {
                let usual = *before;
                self.limit = (self.limit * 2).min(self.most);
                self.next = Next::Double;
                self.rest(usual);
            }
            Trial::Pause { left, usual } => {
                *usual = (3 * *usual + rate) / 4;
                match left.checked_sub(1) {
                    Some(fewer) => *left = fewer,
                    None => self.try_next(),
                }
            }
        }
    }

    fn try_next(&mut self) {
        let Trial::Pause { usual, .. } = self.trial else { return };
        match self.next {
            Next::Halve if self.limit > self.first => self.halve(usual),
            Next::Double | Next::Halve if self.limit < self.most => self.double(usual),
            Next::Double | Next::Halve => self.halve(usual),
        }
    }

    /// Whether the pieces wait for one another, so that more of them would only wait longer.
    fn is_queued(&self, rate: u64) -> bool {
        let each = u128::from(self.limit as u64 * 1_000_000_000 / rate.max(1));
        each > self.alone.as_nanos() * QUEUED
    }

    fn double(&mut self, rate: u64) {
        if self.limit == self.most {
            self.next = Next::Halve;
            self.pause = LONGEST_PAUSE;
            self.rest(rate);
        } else {
            let limit = self.limit;
            self.limit = (limit * 2).min(self.most);
            self.trial = Trial::Doubled { before: rate, last: 0, limit };
        }
    }

    fn halve(&mut self, rate: u64) {
        if self.limit == self.first {
            self.next = Next::Double;
            self.rest(rate);
        } else {
            self.limit = (self.limit / 2).max(self.first);
            self.trial = Trial::Halved { before: rate, draining: true };
        }
    }

    fn rest(&mut self, usual: u64) {
        self.trial = Trial::Pause { left: self.pause, usual };
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// A server that answers after a time, and at a rate, and the pieces that wait for it.
    struct Server {
        room: Room,
        begun: Instant,
        now: Instant,
        waiting: VecDeque<(Holds, Instant)>,
        answered: Instant,
        /// How long it takes to touch the memory of a piece for the first time, and of how many it was touched.
        cold: Duration,
        touched: usize,
    }

    impl Server {
        fn new(begin: Option<usize>) -> Self {
            let now = Instant::now();
            let (cold, touched) = (Duration::ZERO, 0);
            Server {
                room: Room::new(256, begin, 1),
                begun: now,
                now,
                waiting: VecDeque::new(),
                answered: now,
                cold,
                touched,
            }
        }

        fn ms(&self) -> u64 {
            (self.now - self.begun).as_millis() as u64
        }

        /// Runs for a time, with answers after `latency` microseconds, at most `rate` of them a second. Returns the limit.
        fn run(&mut self, ms: u64, latency: u64, rate: u64) -> usize {
            let end = self.now + Duration::from_millis(ms);
            let each = Duration::from_nanos(1_000_000_000 / rate);
            while self.now < end {
                while self.room.admits() {
                    if self.touched < self.waiting.len() + 1 {
                        self.touched += 1;
                        self.now += self.cold;
                    }
                    self.answered =
                        (self.now + Duration::from_micros(latency)).max(self.answered + each);
                    self.waiting.push_back((self.room.took(1, self.now), self.answered));
                }
                let (held, at) =
                    self.waiting.pop_front().expect("a piece is admitted if none waits");
                self.now = self.now.max(at);
                self.room.gave(held, 1, self.now);
            }
            self.room.limit
        }
    }

    #[test]
    fn few_pieces_are_enough_where_more_are_not_faster() {
        let limit = Server::new(None).run(1000, 200, 4000);
        assert!(limit <= 2 * FIRST, "{limit}");
    }

    #[test]
    fn an_end_may_begin_with_fewer() {
        let mut server = Server::new(Some(4));
        assert_eq!(server.run(1, 1000, 4000), 4);
        let limit = server.run(1000, 1000, 4000);
        assert!((4..=8).contains(&limit), "{limit}");
        assert_eq!(server.run(20000, 20000, 100_000), 256);
    }

    #[test]
    fn long_answers_have_as_many_as_there_is_memory_for() {
        assert_eq!(Server::new(None).run(300, 20000, 100_000), 256);
    }

    #[test]
    fn answers_that_become_long_later_are_noticed() {
        let mut server = Server::new(None);
        server.run(2000, 200, 4000);
        assert_eq!(server.run(20000, 20000, 100_000), 256);
    }

    /// The rates of a near server whose threads and memory are cold at first.
    #[test]
    fn a_slow_beginning_is_not_taken_for_an_effect_of_more_pieces() {
        let mut server = Server::new(None);
        server.run(16, 200, 2000);
        let limit = server.run(1000, 200, 6000);
        assert!(limit <= 2 * FIRST, "{limit}");
    }

    /// Threads of a near server that start one after another make it faster, as more pieces would.
    #[test]
    fn pieces_that_wait_for_one_another_do_not_become_more() {
        let mut server = Server::new(Some(8));
        let mut grown = 0;
        while server.ms() < 40 {
            grown = grown.max(server.run(1, 200, 2000 + 100 * server.ms()));
        }
        assert_eq!(grown, 8);
    }

    #[test]
    fn too_many_pieces_become_fewer() {
        let mut server = Server::new(Some(8));
        server.room.limit = 256;
        server.room.trial = Trial::Doubled { before: 6000, last: 6000, limit: 128 };
        let limit = server.run(1000, 200, 6000);
        assert!(limit <= 16, "{limit}");
    }

    #[test]
    fn memory_that_is_touched_for_the_first_time_does_not_end_the_growth() {
        let mut server = Server::new(Some(8));
        server.cold = Duration::from_micros(500);
        assert_eq!(server.run(700, 20000, 100_000), 256);
    }

    #[test]
    fn a_full_link_ends_the_growth() {
        // 2 ms for each, and 16,000 a second at most: 32 in flight fill it.
        let limit = Server::new(None).run(200, 2000, 16000);
        assert!((32..=64).contains(&limit), "{limit}");
    }

    /// The link is full with 64 pieces in flight.
    #[test]
    fn as_many_pieces_stay_as_a_full_link_needs() {
        let mut server = Server::new(Some(8));
        server.run(300, 4000, 16000);
        let mut fewest = usize::MAX;
        while server.ms() < 1000 {
            fewest = fewest.min(server.run(1, 4000, 16000));
        }
        assert!(
            fewest >= 32 && (64..=128).contains(&server.room.limit),
            "{fewest} {}",
            server.room.limit
        );
    }

    /// A first answer out of a cache does not keep the others few.
    #[test]
    fn one_quick_answer_does_not_end_the_growth_for_ever() {
        let mut server = Server::new(Some(8));
        server.room.alone = Duration::from_micros(100);
        assert_eq!(server.run(5000, 20000, 100_000), 256);
    }

    #[test]
    fn a_piece_that_was_overtaken_makes_room() {
        let mut room = Room::new(256, None, 1);
        while room.admits() {
            room.took(1, Instant::now());
        }
        assert!(!room.admits());
        room.overtaken(1);
        assert!(room.admits());
        room.took(1, Instant::now());
        room.gave(Holds::Overtaken, 1, Instant::now());
        assert!(!room.admits());
    }

    #[test]
    fn little_memory_is_used_whole() {
        let mut room = Room::new(3, None, 1);
        let mut held = Holds::Nothing;
        for _ in 0..3 {
            assert!(room.admits());
            held = room.took(1, Instant::now());
        }
        assert!(!room.admits());
        room.gave(held, 1, Instant::now());
        assert!(room.admits());
    }
}
