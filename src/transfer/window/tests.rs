use super::super::{Observe, Options, Patience, Progress, Sparse, Transfer};
use crate::end::*;
use crate::error::{Error, Operation, Result, Side};
use crate::section::{Kind, Section};
use crate::sys::inject::{self, Fault};
use crate::sys::{Call, Sys};
use crate::testing::Random;
use crate::trace::Event;
use crate::wait::Waiting;
use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

mod sweeps;

/// How an end in memory behaves.
#[derive(Clone, Debug)]
struct Habits {
    block: u64,
    memory: u64,
    request: u64,
    zero: u64,
    depth: usize,
    reads: bool,
    grows: bool,
    fast_zero: bool,
    /// Refuses a FAST ZERO.
    refuses: bool,
    /// Requests come back late, in any order, and short.
    unruly: bool,
    /// The first request is answered when nothing else is left to be.
    first_is_slow: bool,
    /// Requests are answered when they have been under way for a while.
    late: bool,
    /// The request that fails, by the order of submission, and its errno.
    fails: Option<(u64, i32)>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Blocks that a request under way touches.
    touched: Vec<(u64, u64)>,
    submitted: u64,
    asked: Vec<Ask>,
    most: usize,
    passed: u64,
    aborted: Option<i32>,
    finished: bool,
    cancelled: bool,
    /// Bytes that the content had after each write.
    reached: Vec<u64>,
    /// The requests that came before a slow first one was answered.
    before_first: u64,
}

/// The content of an end in memory, its sections, and the requests for it.
struct Memory {
    content: Arc<Mutex<Vec<u8>>>,
    seen: Arc<Mutex<Seen>>,
    sections: Vec<Section>,
    habits: Habits,
    random: Random,
    at: u64,
    place: u64,
    waiting: VecDeque<Request>,
    /// The requests that had come when it was last asked for answers.
    known: u64,
    /// How often nothing more had come.
    idle: u32,
    size: u64,
    keeps: bool,
}

impl Memory {
    fn new(content: Vec<u8>, at: u64, habits: &Habits, seed: u64) -> Self {
        Memory {
            size: content.len() as u64,
            content: Arc::new(Mutex::new(content)),
            seen: Arc::default(),
            sections: Vec::new(),
            habits: habits.clone(),
            random: Random::new(seed),
            at,
            place: 0,
            waiting: VecDeque::new(),
            known: 0,
            idle: 0,
            keeps: true,
        }
    }

    fn section(&self) -> Section {
        self.sections.iter().find(|section| section.offset + section.length > self.place).map_or(
            Section::end(self.place),
            |section| {
                let length = section.offset + section.length - self.place;
                Section::new(section.kind, self.place, length)
            },
        )
    }

    fn done(&mut self, request: &mut Request) -> Sys<u64> {
        let Habits { block, grows, refuses, .. } = self.habits;
        if refuses && request.ask == Ask::FastZero {
            return Err(libc::EOPNOTSUPP);
        }
        let most = if self.habits.unruly && self.random.once_in(4) {
            (self.random.below(request.length / block) + 1) * block
        } else {
            request.length
        };
        let mut content = self.content.lock().unwrap();
        let from = request.offset as usize;
        let end = from + most as usize;
        match request.ask {
            Ask::Read => {
                let end = end.min(content.len());
                if from >= end {
                    return Ok(0);
                }
                request.bytes_mut()[..end - from].copy_from_slice(&content[from..end]);
                return Ok((end - from) as u64);
            }
            Ask::Write => {
                if end > content.len() {
                    assert!(grows, "a write beyond a fixed end");
                    content.resize(end, 0);
                }
                content[from..end].copy_from_slice(&request.bytes()[..most as usize]);
                self.seen.lock().unwrap().reached.push(content.len() as u64);
            }
            Ask::Zero | Ask::FastZero => {
                let end = end.min(content.len());
                if from < end {
                    content[from..end].fill(0);
                }
            }
            Ask::Flush => {}
        }
        Ok(most)
    }
}

impl Addressable for Memory {
    fn describe(&mut self) -> Result<Geometry> {
        let Habits { block, memory, request, zero, depth, reads, grows, fast_zero, .. } =
            self.habits;
        let (at, size) = (self.at + self.place, self.size);
        Ok(Geometry {
            at,
            size,
            block,
            memory,
            request,
            zero,
            depth,
            begin: 0,
            grows,
            fast_zero,
            reads,
        })
    }

    fn submit(&mut self, request: Request) {
        let Habits { block, memory, depth, .. } = self.habits;
        let mut seen = self.seen.lock().unwrap();
        assert!(request.offset % block == 0 && request.length % block == 0, "{request:?}");
        let most = match request.ask {
            Ask::Zero | Ask::FastZero => self.habits.zero,
            Ask::Read | Ask::Write | Ask::Flush => self.habits.request.max(block),
        };
        assert!(request.length > 0 && request.length <= most, "{request:?}");
        if matches!(request.ask, Ask::Read | Ask::Write) {
            let address = request.memory.as_ref().unwrap().start().addr() + request.start;
            assert!(address as u64 % memory == 0, "{request:?}");
        }
        let range = (request.offset, request.offset + request.length);
        for other in &seen.touched {
            assert!(
                range.1 <= other.0 || other.1 <= range.0 || request.ask == Ask::Read,
                "two requests for one block"
            );
        }
        seen.touched.push(range);
        seen.submitted += 1;
        seen.asked.push(request.ask);
        self.waiting.push_back(request);
        seen.most = seen.most.max(self.waiting.len());
        assert!(self.waiting.len() <= depth, "more than the end has said");
    }

    fn advance(&mut self, replies: &mut VecDeque<Reply>) -> Result<()> {
        if self.habits.unruly && self.random.once_in(2) {
            return Ok(());
        }
        let new = std::mem::replace(&mut self.known, self.seen.lock().unwrap().submitted);
        if self.habits.late && new != self.known {
            return Ok(());
        }
        while !self.waiting.is_empty() {
            if self.habits.unruly && self.random.once_in(3) {
                return Ok(());
            }
            let nth = match self.habits {
                Habits { unruly: true, .. } => self.random.below(self.waiting.len() as u64),
                Habits { first_is_slow: true, .. } => self.waiting.len() as u64 - 1,
                _ => 0,
            };
            if self.habits.first_is_slow && self.waiting.len() == 1 {
                let mut seen = self.seen.lock().unwrap();
                let submitted = seen.submitted;
                let more = std::mem::replace(&mut seen.before_first, submitted) != submitted;
                self.idle = if more { 0 } else { self.idle + 1 };
                if self.idle < 20 {
                    return Ok(());
                }
                self.habits.first_is_slow = false;
            }
            let mut request = self.waiting.remove(nth as usize).unwrap();
            let range = (request.offset, request.offset + request.length);
            let result = {
                let mut seen = self.seen.lock().unwrap();
                let place = seen.touched.iter().position(|touched| *touched == range).unwrap();
                seen.touched.remove(place);
                match &mut self.habits.fails {
                    Some((0, errno)) => Some(Err(*errno)),
                    Some((left, _)) => {
                        *left -= 1;
                        None
                    }
                    None => None,
                }
            };
            let result = match result {
                Some(failed) => {
                    self.habits.fails = None;
                    failed
                }
                None => self.done(&mut request),
            };
            replies.push_back(Reply { request, result: result.map_err(Failure::from) });
        }
        Ok(())
    }

    fn passed(&mut self, length: u64, _written: bool) -> Result<()> {
        self.seen.lock().unwrap().passed += length;
        Ok(())
    }

    fn cancel(&mut self, _error: &Error) {
        self.seen.lock().unwrap().cancelled = true;
    }
}

impl End for Memory {
    fn finish(&mut self) -> Result<()> {
        assert!(self.waiting.is_empty());
        self.seen.lock().unwrap().finished = true;
        Ok(())
    }

    fn abort(&mut self, error: &Error) {
        self.waiting.clear();
        self.seen.lock().unwrap().aborted = Some(error.errno());
    }

    fn waiting(&self) -> Waiting {
        Waiting::Owner
    }
}

impl Source for Memory {
    fn open(&mut self) -> Result<SourceInfo> {
        let total = self.sections.iter().map(|section| section.length).sum();
        Ok(SourceInfo { total: Some(total), reports_holes: true, keeps: self.keeps, start: 0 })
    }

    fn next(&mut self, _buffer: &mut [u8]) -> Result<Next> {
        panic!("an addressable end is not read in the plain way")
    }

    fn look(&mut self) -> Result<Look> {
        if self.habits.unruly && self.random.once_in(5) {
            return Err(Error::at(Operation::Map, Side::Source, self.place, libc::EAGAIN));
        }
        let section = self.section();
        Ok(Look { kind: section.kind, length: Some(section.length) })
    }

    fn consume(&mut self, length: u64) {
        assert!(length <= self.section().length);
        self.place += length;
    }
}

impl SourceWays for Memory {
    fn addressed(&mut self) -> Option<&mut dyn Addressable> {
        Some(self)
    }
}

impl Sink for Memory {
    fn open(&mut self, _plan: &Plan) -> Result<SinkInfo> {
        Ok(SinkInfo { makes_holes: true, keeps: true, held: 0, durable: false })
    }

    fn write(&mut self, _buffer: &[u8]) -> Result<usize> {
        panic!("an addressable end is not written in the plain way")
    }

    fn hole(&mut self, _length: u64) -> Result<Made> {
        panic!("an addressable end is not written in the plain way")
    }

    fn keep(&mut self, _length: u64) -> Result<u64> {
        panic!("an addressable end is not written in the plain way")
    }
}

impl SinkWays for Memory {
    fn addressed(&mut self) -> Option<&mut dyn Addressable> {
        Some(self)
    }
}

type Given = Vec<(Kind, Vec<u8>)>;

/// A stream: what comes of it, or goes into it, in order.
struct Stream {
    bytes: Vec<u8>,
    sections: Vec<Section>,
    place: u64,
    random: Random,
    /// It is always ready, and gives all that is asked for.
    eager: bool,
    /// The end whose requests are counted when this one is written, and the counts.
    beside: Option<Arc<Mutex<Seen>>>,
    counts: Vec<usize>,
    /// The sections that it was given: kind and bytes, joined.
    given: Arc<Mutex<Given>>,
}

impl Stream {
    fn new(bytes: Vec<u8>, sections: Vec<Section>, seed: u64) -> Self {
        let (random, given) = (Random::new(seed), Arc::default());
        let (beside, counts) = (None, Vec::new());
        Stream { bytes, sections, place: 0, random, eager: false, beside, counts, given }
    }

    fn give(&mut self, kind: Kind, bytes: Vec<u8>) {
        let mut given = self.given.lock().unwrap();
        match given.last_mut() {
            Some((last, all)) if *last == kind => all.extend(bytes),
            _ => given.push((kind, bytes)),
        }
    }

    fn not_ready(&mut self, side: Side) -> Result<()> {
        if !self.eager && self.random.once_in(4) {
            return Err(Error::at(Operation::Read, side, self.place, libc::EAGAIN));
        }
        Ok(())
    }
}

impl End for Stream {
    fn finish(&mut self) -> Result<()> {
        Ok(())
    }

    fn abort(&mut self, _error: &Error) {}

    fn waiting(&self) -> Waiting {
        Waiting::Owner
    }
}

impl Source for Stream {
    fn open(&mut self) -> Result<SourceInfo> {
        Ok(SourceInfo { total: None, reports_holes: true, keeps: true, start: 0 })
    }

    fn next(&mut self, buffer: &mut [u8]) -> Result<Next> {
        self.not_ready(Side::Source)?;
        let Some(section) =
            self.sections.iter().find(|section| section.offset + section.length > self.place)
        else {
            return Ok(Next::End);
        };
        let left = section.offset + section.length - self.place;
        match section.kind {
            Kind::Hole => Ok(Next::Hole(left)),
            Kind::Keep => Ok(Next::Keep(left)),
            Kind::End => Ok(Next::End),
            Kind::Data => {
                let count = left.min(buffer.len() as u64);
                let count = if self.eager { count } else { self.random.below(count) + 1 };
                let at = self.place as usize;
                buffer[..count as usize].copy_from_slice(&self.bytes[at..at + count as usize]);
                self.place += count;
                Ok(Next::Data(count as usize))
            }
        }
    }

    fn look(&mut self) -> Result<Look> {
        panic!("a stream is not looked at")
    }

    fn consume(&mut self, length: u64) {
        self.place += length;
    }
}

impl SourceWays for Stream {}

impl Sink for Stream {
    fn open(&mut self, _plan: &Plan) -> Result<SinkInfo> {
        Ok(SinkInfo { makes_holes: true, keeps: true, held: 0, durable: false })
    }

    fn write(&mut self, buffer: &[u8]) -> Result<usize> {
        self.not_ready(Side::Sink)?;
        if let Some(seen) = &self.beside {
            self.counts.push(seen.lock().unwrap().touched.len());
        }
        let count = self.random.below(buffer.len() as u64) as usize + 1;
        self.give(Kind::Data, buffer[..count].to_vec());
        Ok(count)
    }

    fn hole(&mut self, length: u64) -> Result<Made> {
        self.not_ready(Side::Sink)?;
        let length = self.random.below(length) + 1;
        self.give(Kind::Hole, vec![0; length as usize]);
        Ok(Made { length, way: HoleWay::Passed })
    }

    fn keep(&mut self, length: u64) -> Result<u64> {
        self.not_ready(Side::Sink)?;
        let length = self.random.below(length) + 1;
        self.give(Kind::Keep, vec![0xcc; length as usize]);
        Ok(length)
    }
}

impl SinkWays for Stream {}

/// Sections of random kinds and lengths, and the bytes of a stream that has them.
fn stream(random: &mut Random, most: u64, keeps: bool) -> (Vec<Section>, Vec<u8>) {
    let (mut sections, mut bytes) = (Vec::new(), Vec::new());
    let mut last = Kind::End;
    for _ in 0..random.below(30) + 1 {
        let kind = match random.below(if keeps { 4 } else { 3 }) {
            0 | 1 => Kind::Data,
            2 => Kind::Hole,
            _ => Kind::Keep,
        };
        if kind == last {
            continue;
        }
        last = kind;
        let length = match random.below(3) {
            0 => (random.below(most / 512) + 1) * 512,
            1 => (random.below(most / 4096 + 1) + 1) * 4096,
            _ => random.below(most) + 1,
        };
        sections.push(Section::new(kind, bytes.len() as u64, length));
        let zeros = random.once_in(3);
        for _ in 0..length {
            let zero = kind != Kind::Data || zeros && bytes.len() % 8192 < 5000;
            bytes.push(if zero { 0 } else { random.below(255) as u8 + 1 });
        }
    }
    (sections, bytes)
}

#[derive(Default)]
struct Watcher {
    sections: Vec<Section>,
    position: u64,
    events: Vec<Event>,
}

impl Observe for Watcher {
    fn section(&mut self, section: Section) -> Sys<()> {
        assert_eq!(section.offset, self.position);
        self.position += section.length;
        self.sections.push(section);
        Ok(())
    }

    fn traces(&self) -> bool {
        true
    }

    fn trace(&mut self, _position: u64, event: Event) {
        self.events.push(event);
    }
}

/// Runs to the end, however often it is not ready. Fails if it stands still.
fn run(
    transfer: &mut Transfer,
    source: &mut dyn Source,
    sink: &mut dyn Sink,
    watcher: &mut Watcher,
) -> Result<()> {
    for _ in 0..1_000_000 {
        match transfer.run(source, sink, watcher, None, Patience::Any) {
            Ok(Progress::Finished) => return Ok(()),
            Ok(Progress::BudgetUsed) => {}
            Err(error) if error.would_block() => {}
            Err(error) => return Err(error),
        }
    }
    let state = format!("{transfer:?}");
    panic!("it stands still: {}", &state[state.find("window: Some").unwrap_or(0)..])
}

fn habits(random: &mut Random) -> Habits {
    let block = [1, 512, 4096][random.below(3) as usize];
    Habits {
        block,
        memory: if random.once_in(2) { block } else { 1 },
        request: [8192, 16384, 1 << 20][random.below(3) as usize],
        zero: [8192, 65536, 1 << 40][random.below(3) as usize],
        depth: random.below(9) as usize + 1,
        reads: true,
        grows: random.once_in(2),
        fast_zero: random.once_in(2),
        refuses: random.once_in(6),
        unruly: random.below(4) > 0,
        first_is_slow: false,
        late: false,
        fails: None,
    }
}

fn options(random: &mut Random) -> Options {
    Options {
        sparse: if random.once_in(6) { Sparse::Never } else { Sparse::Auto },
        detect_zeroes: random.once_in(2),
        zero_block: [512, 4096, 8192][random.below(3) as usize],
        depth: random.below(8) as u32 + 1,
        request_size: [4096, 16384, 65536][random.below(3) as usize],
        ..Options::default()
    }
}

/// A sink in memory over old content, and the content that it must have in the end.
fn target(random: &mut Random, bytes: &[u8], sections: &[Section]) -> (Memory, Vec<u8>) {
    let mut habits = habits(random);
    let mut old = vec![0; random.below(300_000) as usize];
    old.iter_mut().for_each(|byte| *byte = random.below(255) as u8 + 1);
    if !habits.grows {
        let whole = (bytes.len() + 10_000).next_multiple_of(habits.block as usize);
        old.resize(whole.max(old.len().next_multiple_of(habits.block as usize)), 0xdd);
    }
    let keeps = sections.iter().filter(|section| section.kind == Kind::Keep);
    let kept = keeps.map(|section| section.offset + section.length).max().unwrap_or(0);
    let at = match habits.grows {
        true => random.below(old.len() as u64 + 1),
        false => random.below(10_000),
    };
    let at = if random.once_in(2) { at - at % 4096 } else { at };
    old.resize(old.len().max((at + kept) as usize), 0xdd);
    if random.once_in(4) {
        habits.grows = false;
        let whole = (at as usize + bytes.len() + 1).next_multiple_of(habits.block as usize);
        old.resize(whole.max(old.len().next_multiple_of(habits.block as usize)), 0xee);
    }
    let mut expected = old.clone();
    expected.resize(expected.len().max(at as usize + bytes.len()), 0);
    for section in sections {
        let range = section.offset as usize..(section.offset + section.length) as usize;
        if section.kind != Kind::Keep {
            expected[at as usize + range.start..at as usize + range.end]
                .copy_from_slice(&bytes[range]);
        }
    }
    let sink = Memory::new(old, at, &habits, random.below(1 << 40));
    (sink, expected)
}

/// Compares, but for zeros at the end, which the finish of a real end sees to.
fn same(found: &[u8], expected: &[u8], what: &str) {
    let mut found = found.to_vec();
    assert!(found.len() <= expected.len().next_multiple_of(4096), "{what}");
    found.resize(expected.len().max(found.len()), 0);
    let place = found.iter().zip(expected).position(|(one, other)| one != other);
    assert!(place.is_none(), "{what}: they differ at {place:?}");
    assert!(found[expected.len()..].iter().all(|byte| *byte == 0), "{what}");
}

#[test]
fn any_stream_between_addressable_ends_arrives_in_any_order() {
    for seed in 0..600 {
        let mut random = Random::new(seed);
        let (sections, bytes) = stream(&mut random, 60_000, true);
        let from = habits(&mut random);
        let start = random.below(10_000);
        let mut content = vec![0xaa; start as usize];
        content.extend_from_slice(&bytes);
        let mut source = Memory::new(content, start, &from, seed);
        source.sections = sections.clone();
        let (mut sink, expected) = target(&mut random, &bytes, &sections);
        let mut watcher = Watcher::default();
        let options = options(&mut random);
        let mut transfer = Transfer::new(&options).unwrap();
        run(&mut transfer, &mut source, &mut sink, &mut watcher)
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        same(&sink.content.lock().unwrap(), &expected, &format!("seed {seed}"));
        assert_eq!(watcher.position, bytes.len() as u64, "seed {seed}");
        assert_eq!(sink.seen.lock().unwrap().passed, bytes.len() as u64, "seed {seed}");
        assert_eq!(transfer.stats().position, bytes.len() as u64);
        if !options.detect_zeroes && options.sparse == Sparse::Auto {
            assert_eq!(watcher.sections, sections, "seed {seed}");
        }
    }
}

#[test]
fn any_stream_into_an_addressable_sink_arrives() {
    for seed in 1000..1400 {
        let mut random = Random::new(seed);
        let (sections, bytes) = stream(&mut random, 60_000, true);
        let mut source = Stream::new(bytes.clone(), sections.clone(), seed);
        let (mut sink, expected) = target(&mut random, &bytes, &sections);
        let mut watcher = Watcher::default();
        let options = options(&mut random);
        let mut transfer = Transfer::new(&options).unwrap();
        run(&mut transfer, &mut source, &mut sink, &mut watcher)
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        same(&sink.content.lock().unwrap(), &expected, &format!("seed {seed}"));
        assert_eq!(watcher.position, bytes.len() as u64);
        assert_eq!(sink.seen.lock().unwrap().passed, bytes.len() as u64);
    }
}

#[test]
fn any_stream_out_of_an_addressable_source_keeps_its_order() {
    for seed in 2000..2400 {
        let mut random = Random::new(seed);
        let (sections, bytes) = stream(&mut random, 60_000, true);
        let from = habits(&mut random);
        let start = random.below(10_000);
        let mut content = vec![0xaa; start as usize];
        content.extend_from_slice(&bytes);
        let mut source = Memory::new(content, start, &from, seed);
        source.sections = sections.clone();
        let mut sink = Stream::new(Vec::new(), Vec::new(), seed + 1);
        let mut watcher = Watcher::default();
        let options = options(&mut random);
        let mut transfer = Transfer::new(&options).unwrap();
        run(&mut transfer, &mut source, &mut sink, &mut watcher)
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let given = sink.given.lock().unwrap();
        let mut place = 0;
        for (kind, part) in given.iter() {
            match kind {
                Kind::Keep => {}
                _ => assert!(*part == bytes[place..place + part.len()], "seed {seed} at {place}"),
            }
            place += part.len();
        }
        assert_eq!(place, bytes.len());
        if !options.detect_zeroes && options.sparse == Sparse::Auto {
            let kinds: Vec<_> =
                given.iter().map(|(kind, part)| (*kind, part.len() as u64)).collect();
            let sections: Vec<_> = sections.iter().map(|part| (part.kind, part.length)).collect();
            assert_eq!(kinds, sections, "seed {seed}");
        }
    }
}

fn two_ends(seed: u64, grows: bool) -> (Memory, Memory, Vec<u8>) {
    let mut random = Random::new(seed);
    let habits = Habits {
        block: 512,
        memory: 512,
        request: 4096,
        zero: 1 << 40,
        depth: 8,
        reads: true,
        grows,
        fast_zero: true,
        refuses: false,
        unruly: true,
        first_is_slow: false,
        late: false,
        fails: None,
    };
    let bytes: Vec<u8> = (0..200_000).map(|_| random.below(255) as u8 + 1).collect();
    let mut source = Memory::new(bytes.clone(), 0, &habits, seed);
    source.sections = vec![Section::new(Kind::Data, 0, bytes.len() as u64)];
    let old = if grows { Vec::new() } else { vec![0; 200_704] };
    (source, Memory::new(old, 0, &habits, seed + 1), bytes)
}

/// The bytes by which the offsets of both ends differ in a block, as the trace says.
fn moved_in_memory(from: u64, to: u64) -> Vec<u64> {
    let (mut source, mut sink, bytes) = two_ends(7, false);
    source.at = from;
    sink.at = to;
    let length = bytes.len() as u64 - from;
    source.sections = vec![
        Section::new(Kind::Data, 0, 9000),
        Section::new(Kind::Hole, 9000, 700),
        Section::new(Kind::Data, 9700, length - 9700),
    ];
    sink.content.lock().unwrap().resize(250_368, 0);
    sink.size = 250_368;
    let mut watcher = Watcher::default();
    run(&mut Transfer::new(&small()).unwrap(), &mut source, &mut sink, &mut watcher).unwrap();
    let moved = |event: &Event| match event {
        Event::Realigned(bytes) => Some(*bytes),
        _ => None,
    };
    watcher.events.iter().filter_map(moved).collect()
}

#[test]
fn data_that_is_moved_in_memory_is_traced_once() {
    assert_eq!(moved_in_memory(100, 0), [100]);
    assert_eq!(moved_in_memory(100, 700), [88]);
    assert_eq!(moved_in_memory(0, 0), []);
    // At the same place in a block, though not at the start of one.
    assert_eq!(moved_in_memory(100, 612), []);
}

fn small() -> Options {
    Options { request_size: 4096, depth: 8, ..Options::default() }
}

#[test]
fn a_slow_request_does_not_hold_up_the_short_ones_behind_it() {
    let (mut source, _, bytes) = two_ends(1, false);
    source.habits.unruly = false;
    source.habits.first_is_slow = true;
    let mut sink = Stream::new(Vec::new(), Vec::new(), 2);
    let mut watcher = Watcher::default();
    run(&mut Transfer::new(&small()).unwrap(), &mut source, &mut sink, &mut watcher).unwrap();
    let seen = source.seen.lock().unwrap();
    assert!(seen.before_first >= 16 && seen.most <= 8, "{seen:?}");
    assert!(sink.given.lock().unwrap()[0].1 == bytes);
}

#[test]
fn the_next_requests_are_made_before_a_stream_is_written() {
    let (mut source, _, bytes) = two_ends(1, false);
    source.habits.unruly = false;
    source.habits.late = true;
    let mut sink = Stream::new(Vec::new(), Vec::new(), 2);
    sink.beside = Some(Arc::clone(&source.seen));
    let mut watcher = Watcher::default();
    run(&mut Transfer::new(&small()).unwrap(), &mut source, &mut sink, &mut watcher).unwrap();
    assert_eq!(sink.counts[0], 8, "{:?}", sink.counts);
    assert!(sink.given.lock().unwrap()[0].1 == bytes);
}

#[test]
fn the_first_bytes_of_a_stream_are_written_before_all_memory_is_full() {
    let (_, mut sink, bytes) = two_ends(1, false);
    let sections = vec![Section::new(Kind::Data, 0, bytes.len() as u64)];
    let mut source = Stream::new(bytes, sections, 1);
    source.eager = true;
    let mut transfer = Transfer::new(&small()).unwrap();
    while sink.seen.lock().unwrap().submitted == 0 {
        let _ = transfer.run(&mut source, &mut sink, &mut (), Some(1), Patience::None);
    }
    assert!(source.place <= 2 * 4096, "{}", source.place);
}

/// How often memory was to have huge pages while a stream of this length moved between ends that ask for this alignment.
fn advice_for(length: usize, alignment: u64) -> u32 {
    let (mut source, mut sink, _) = two_ends(1, true);
    for end in [&mut source, &mut sink] {
        end.habits.request = 256 << 10;
        end.habits.memory = alignment;
        end.habits.unruly = false;
    }
    *source.content.lock().unwrap() = vec![1; length];
    source.size = length as u64;
    source.sections = vec![Section::new(Kind::Data, 0, length as u64)];
    let advice = Rc::new(Cell::new(0));
    let seen = Rc::clone(&advice);
    let count = move |call| {
        seen.set(seen.get() + u32::from(call == Call::Madvise));
        Fault::None
    };
    let options = Options { request_size: 256 << 10, depth: 8, ..Options::default() };
    let mut transfer = Transfer::new(&options).unwrap();
    inject::with(count, || run(&mut transfer, &mut source, &mut sink, &mut Watcher::default()))
        .unwrap();
    assert_eq!(sink.content.lock().unwrap().len(), length);
    advice.get()
}

#[test]
fn only_a_stream_that_fills_the_memory_of_a_device_has_huge_pages() {
    assert_eq!(advice_for(1 << 20, 512), 0);
    assert_eq!(advice_for(8 << 20, 1), 0);
    assert_eq!(advice_for(8 << 20, 512), 1);
}

#[test]
fn the_depth_is_used_and_kept() {
    let (mut source, mut sink, _) = two_ends(1, false);
    run(&mut Transfer::new(&small()).unwrap(), &mut source, &mut sink, &mut Watcher::default())
        .unwrap();
    assert!(source.seen.lock().unwrap().most > 4);
    assert!(sink.seen.lock().unwrap().most > 2);
}

#[test]
fn the_first_failure_has_its_own_offset_and_everything_comes_back_before_the_abort() {
    for seed in 0..100 {
        for side in [Side::Source, Side::Sink] {
            let (mut source, mut sink, _) = two_ends(seed, seed % 2 == 0);
            let nth = seed % 45;
            let end = if side == Side::Source { &mut source } else { &mut sink };
            end.habits.fails = Some((nth, libc::EIO));
            let mut transfer = Transfer::new(&small()).unwrap();
            let error = run(&mut transfer, &mut source, &mut sink, &mut Watcher::default());
            let error = error.unwrap_err();
            assert_eq!((error.errno(), error.side()), (libc::EIO, side));
            assert!(error.offset().unwrap() % 512 == 0 && error.offset().unwrap() < 200_000);
            for end in [&source, &sink] {
                let seen = end.seen.lock().unwrap();
                assert_eq!((seen.aborted, seen.touched.len()), (Some(libc::EIO), 0));
                assert!(end.waiting.is_empty() && !seen.finished);
            }
            assert_eq!(transfer.error().unwrap().errno(), libc::EIO);
        }
    }
}

#[test]
fn a_cancel_waits_for_every_request_and_asks_for_nothing_more() {
    for seed in 0..50 {
        let (mut source, mut sink, _) = two_ends(seed, false);
        let mut transfer = Transfer::new(&small()).unwrap();
        let control = transfer.control();
        for _ in 0..seed % 20 + 1 {
            let _ = transfer.run(&mut source, &mut sink, &mut (), Some(4096), Patience::None);
        }
        control.cancel();
        let before = source.seen.lock().unwrap().submitted + sink.seen.lock().unwrap().submitted;
        let error = run(&mut transfer, &mut source, &mut sink, &mut Watcher::default());
        assert_eq!(error.unwrap_err().errno(), libc::ECANCELED);
        let after = source.seen.lock().unwrap().submitted + sink.seen.lock().unwrap().submitted;
        assert_eq!(before, after);
        for end in [&source, &sink] {
            assert_eq!(end.seen.lock().unwrap().touched.len(), 0);
            assert_eq!(end.seen.lock().unwrap().aborted, Some(libc::ECANCELED));
        }
    }
}

#[test]
fn a_target_that_grows_has_its_last_byte_only_when_all_before_it_is_done() {
    for seed in 0..100 {
        let (mut source, mut sink, bytes) = two_ends(seed, true);
        run(&mut Transfer::new(&small()).unwrap(), &mut source, &mut sink, &mut Watcher::default())
            .unwrap();
        let reached = &sink.seen.lock().unwrap().reached;
        let size = |at: usize| reached[at];
        let first = (0..reached.len()).position(|at| size(at) >= bytes.len() as u64).unwrap();
        // Only the last block, which may come in parts.
        assert!(reached.len() - first <= 8, "seed {seed}: {first} of {}", reached.len());
    }
}

#[test]
fn a_sink_that_cannot_be_read_is_written_as_long_as_no_block_is_cut() {
    let (mut source, mut sink, bytes) = two_ends(3, false);
    sink.habits.reads = false;
    let error =
        run(&mut Transfer::new(&small()).unwrap(), &mut source, &mut sink, &mut Watcher::default())
            .unwrap_err();
    assert!(matches!(error, Error::Unaligned { block: 512, .. }), "{error}");
    let (mut source, mut sink, _) = two_ends(3, false);
    sink.habits.reads = false;
    let whole = bytes.len() as u64 / 512 * 512;
    source.sections = vec![
        Section::new(Kind::Data, 0, 1000),
        Section::new(Kind::Hole, 1000, 3000),
        Section::new(Kind::Data, 4000, whole - 4000),
    ];
    run(&mut Transfer::new(&small()).unwrap(), &mut source, &mut sink, &mut Watcher::default())
        .unwrap();
    let content = sink.content.lock().unwrap();
    assert!(content[..1000] == bytes[..1000] && content[1000..4000].iter().all(|byte| *byte == 0));
    assert!(content[4000..whole as usize] == bytes[4000..whole as usize]);
}

#[test]
fn a_source_that_ends_early_is_reported_with_both_offsets() {
    let (mut source, mut sink, bytes) = two_ends(5, false);
    source.sections = vec![Section::new(Kind::Data, 0, bytes.len() as u64 + 5000)];
    let error =
        run(&mut Transfer::new(&small()).unwrap(), &mut source, &mut sink, &mut Watcher::default())
            .unwrap_err();
    assert!(matches!(error, Error::EndedEarly { offset: 200_000, .. }), "{error}");
}
