//! The number of pieces that have memory at once.
//!
//! Many requests in flight help if replies take long. If not, they only move the data out of the processor's
//! caches and spread it over more threads of a server. So a transfer begins with few pieces. It doubles their number
//! while a piece takes hardly longer than one alone, since then it waits for the other end and not for other pieces;
//! and later from time to time, to see whether that makes the transfer faster. It halves their number while that does
//! not make it slower.
//!
//! A piece that many later ones have overtaken waits for a slow reply. It is not counted, so that it does not
//! delay the others.

use std::time::{Duration, Instant};

/// The number of pieces at the beginning, unless an end asks for another.
const FIRST: usize = 32;

/// A piece is overtaken when this many times the limit have begun after it.
const OVERTAKEN: u64 = 4;

/// The shortest time over which a rate is measured: more than a process's turn on a busy processor.
const LEAST: Duration = Duration::from_millis(4);

/// Pieces wait for one another if each takes this many times as long as one alone.
const QUEUED: u128 = 2;

/// Rates that are measured before the next doubling; twice as many after each one that did not help.
const FIRST_PAUSE: u32 = 16;
const LONGEST_PAUSE: u32 = 64;

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
    /// The limit was doubled when the rate was `before`. Rates without an effect are compared with the `last` one, for
    /// the same reason.
    Doubled { before: u64, last: u64 },
    /// The limit was halved when the rate was `before`. The first rate does not count, because it has the pieces that
    /// are too many and come to an end: they are `draining`.
    Halved { before: u64, draining: bool },
    /// The limit is neither too low nor too high. It is doubled again after this many rates, whose average is `usual`.
    Pause { left: u32, usual: u64 },
}

/// A quarter is more than rates vary by chance.
fn faster(rate: u64, before: u64) -> bool {
    rate / 5 >= before / 4
}

fn as_fast(rate: u64, before: u64) -> bool {
    rate / 9 >= before / 10
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
    /// The shortest time that a piece had memory. It waited for hardly any other.
    alone: Duration,
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
            alone: Duration::MAX,
            trial: Trial::Begun { last: 0 },
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

    /// A piece has begun. Returns what it holds.
    pub(super) fn took(&mut self, now: Instant) -> Holds {
        self.used += 1;
        self.since.get_or_insert(now);
        Holds::Memory(now)
    }

    /// A piece was overtaken.
    pub(super) fn overtaken(&mut self) {
        self.used -= 1;
    }

    /// A piece to which nothing came has returned its memory.
    pub(super) fn dropped(&mut self, held: Holds) {
        match held {
            Holds::Nothing | Holds::Overtaken => {}
            Holds::Memory(_) => self.used -= 1,
        }
    }

    /// A piece has returned its memory.
    pub(super) fn gave(&mut self, held: Holds, now: Instant) {
        let since = match held {
            Holds::Nothing => return,
            Holds::Memory(since) => Some(since),
            Holds::Overtaken => None,
        };
        self.dropped(held);
        self.returned += 1;
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

    /// Adapts the limit to a rate, in pieces a second.
    fn judge(&mut self, rate: u64) {
        let queued = self.is_queued(rate);
        match &mut self.trial {
            Trial::Begun { .. } | Trial::Doubled { .. } if !queued => {
                self.pause = FIRST_PAUSE;
                self.double(rate);
            }
            Trial::Begun { last } if faster(rate, *last) => *last = rate,
            Trial::Begun { .. } => self.rest(rate),
            Trial::Doubled { before, .. } if faster(rate, *before) => {
                self.pause = FIRST_PAUSE;
                self.rest(rate);
            }
            Trial::Doubled { last, .. } if faster(rate, *last) => *last = rate,
            Trial::Doubled { .. } => self.halve(rate),
            Trial::Halved { draining, .. } if *draining => *draining = false,
            Trial::Halved { before, .. } if as_fast(rate, *before) => self.halve(rate),
            Trial::Halved { before, .. } => {
                let usual = *before;
                self.limit = (self.limit * 2).min(self.most);
                self.rest(usual);
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

    /// Whether the pieces wait for one another, so that more of them would only wait longer.
    fn is_queued(&self, rate: u64) -> bool {
        let each = u128::from(self.limit as u64 * 1_000_000_000 / rate.max(1));
        each > self.alone.as_nanos() * QUEUED
    }

    fn double(&mut self, rate: u64) {
        if self.limit == self.most {
            self.trial = Trial::Pause { left: LONGEST_PAUSE, usual: rate };
        } else {
            self.limit = (self.limit * 2).min(self.most);
            self.trial = Trial::Doubled { before: rate, last: 0 };
        }
    }

    fn halve(&mut self, rate: u64) {
        if self.limit == self.first {
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
                room: Room::new(256, begin),
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
                    self.waiting.push_back((self.room.took(self.now), self.answered));
                }
                let (held, at) =
                    self.waiting.pop_front().expect("a piece is admitted if none waits");
                self.now = self.now.max(at);
                self.room.gave(held, self.now);
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
        server.room.trial = Trial::Doubled { before: 6000, last: 6000 };
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
        let mut room = Room::new(256, None);
        while room.admits() {
            room.took(Instant::now());
        }
        assert!(!room.admits());
        room.overtaken();
        assert!(room.admits());
        room.took(Instant::now());
        room.gave(Holds::Overtaken, Instant::now());
        assert!(!room.admits());
    }

    #[test]
    fn little_memory_is_used_whole() {
        let mut room = Room::new(3, None);
        let mut held = Holds::Nothing;
        for _ in 0..3 {
            assert!(room.admits());
            held = room.took(Instant::now());
        }
        assert!(!room.admits());
        room.gave(held, Instant::now());
        assert!(room.admits());
    }
}
