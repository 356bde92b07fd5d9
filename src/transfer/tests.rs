use super::*;
use crate::end::*;
use crate::section::{Kind, Section};
use crate::sys::{self, Sys};
use crate::testing::{self, Random};
use crate::wait::Waiting;
use crate::zero::is_zero;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A section of a stream that is kept in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Data(Vec<u8>),
    Hole(u64),
    Keep(u64),
}

impl Piece {
    fn length(&self) -> u64 {
        match self {
            Piece::Data(bytes) => bytes.len() as u64,
            Piece::Hole(length) | Piece::Keep(length) => *length,
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Piece::Data(_) => Kind::Data,
            Piece::Hole(_) => Kind::Hole,
            Piece::Keep(_) => Kind::Keep,
        }
    }
}

/// The calls that the ends received, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Read,
    Write(usize),
    Hole(u64),
    Keep(u64),
    SinkFinish,
    SinkAbort(i32),
    SourceFinish,
    SourceAbort(i32),
}

/// Decides what an end does instead of its work.
type Fault = Box<dyn FnMut(Event) -> Answer + Send>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Work,
    /// At most this many bytes.
    Short(usize),
    Errno(i32),
    /// A count that is more than was asked for.
    TooMuch,
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<Event>>>);

impl Log {
    fn add(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }

    fn ends(&self) -> Vec<Event> {
        let mut events = self.0.lock().unwrap().clone();
        events.retain(|event| {
            !matches!(event, Event::Read | Event::Write(_) | Event::Hole(_) | Event::Keep(_))
        });
        events
    }
}

struct MemorySource {
    pieces: Vec<Piece>,
    /// The piece that it is in, and how far.
    at: (usize, u64),
    offset: u64,
    maps: bool,
    keeps: bool,
    total: Option<u64>,
    fault: Fault,
    log: Log,
}

struct MemorySink {
    pieces: Vec<Piece>,
    offset: u64,
    flushed: usize,
    makes: bool,
    keeps: bool,
    fault: Fault,
    log: Log,
}

fn answer(
    fault: &mut Fault,
    log: &Log,
    event: Event,
    (operation, side, offset): (Operation, Side, u64),
) -> Result<Answer> {
    match fault(event) {
        Answer::Errno(errno) => Err(Error::at(operation, side, offset, errno)),
        other => {
            log.add(event);
            Ok(other)
        }
    }
}

impl MemorySource {
    fn current(&self) -> Option<(&Piece, u64)> {
        self.pieces.get(self.at.0).map(|piece| (piece, self.at.1))
    }

    fn advance(&mut self, by: u64) {
        self.offset += by;
        self.at.1 += by;
        let length = self.pieces[self.at.0].length();
        assert!(self.at.1 <= length);
        if self.at.1 == length {
            self.at = (self.at.0 + 1, 0);
        }
    }
}

impl Source for MemorySource {
    fn open(&mut self) -> Result<SourceInfo> {
        let (reports_holes, keeps) = (self.maps, self.keeps);
        Ok(SourceInfo { total: self.total, reports_holes, keeps, start: 0 })
    }

    fn next(&mut self, buffer: &mut [u8]) -> Result<Next> {
        assert!(!buffer.is_empty());
        let site = (Operation::Read, Side::Source, self.offset);
        let answer = answer(&mut self.fault, &self.log, Event::Read, site)?;
        let (piece, at) = match self.current() {
            None => return Ok(Next::End),
            Some((Piece::Keep(length), at)) => return Ok(Next::Keep(length - at)),
            Some((Piece::Hole(length), at)) if self.maps => return Ok(Next::Hole(length - at)),
            Some((Piece::Hole(length), at)) => {
                let count = (length - at).min(buffer.len() as u64);
                buffer[..count as usize].fill(0);
                self.advance(count);
                return Ok(Next::Data(count as usize));
            }
            Some((Piece::Data(bytes), at)) => (bytes, at as usize),
        };
        let mut count = buffer.len().min(piece.len() - at);
        if let Answer::Short(most) = answer {
            count = count.min(most);
        }
        buffer[..count].copy_from_slice(&piece[at..at + count]);
        let claimed = if answer == Answer::TooMuch { buffer.len() + 1 } else { count };
        self.advance(count as u64);
        Ok(Next::Data(claimed))
    }

    fn look(&mut self) -> Result<Look> {
        Ok(match self.current() {
            None => Look { kind: Kind::End, length: Some(0) },
            Some((piece, at)) => Look { kind: piece.kind(), length: Some(piece.length() - at) },
        })
    }

    fn consume(&mut self, length: u64) {
        self.advance(length);
    }
}

impl SourceWays for MemorySource {}

impl End for MemorySource {
    fn finish(&mut self) -> Result<()> {
        let site = (Operation::Finish, Side::Source, self.offset);
        answer(&mut self.fault, &self.log, Event::SourceFinish, site).map(drop)
    }

    fn abort(&mut self, error: &Error) {
        self.log.add(Event::SourceAbort(error.errno()));
    }

    fn waiting(&self) -> Waiting {
        Waiting::Owner
    }
}

impl Sink for MemorySink {
    fn open(&mut self, _plan: &Plan) -> Result<SinkInfo> {
        Ok(SinkInfo { makes_holes: self.makes, keeps: self.keeps, ..SinkInfo::default() })
    }

    fn write(&mut self, buffer: &[u8]) -> Result<usize> {
        assert!(!buffer.is_empty());
        let site = (Operation::Write, Side::Sink, self.offset);
        let answer = answer(&mut self.fault, &self.log, Event::Write(buffer.len()), site)?;
        let count = match answer {
            Answer::Short(most) => buffer.len().min(most),
            Answer::TooMuch => return Ok(buffer.len() + 1),
            _ => buffer.len(),
        };
        self.offset += count as u64;
        match self.pieces.last_mut() {
            Some(Piece::Data(bytes)) => bytes.extend_from_slice(&buffer[..count]),
            _ => self.pieces.push(Piece::Data(buffer[..count].to_vec())),
        }
        Ok(count)
    }

    fn hole(&mut self, length: u64) -> Result<Made> {
        let site = (Operation::Hole, Side::Sink, self.offset);
        let answer = answer(&mut self.fault, &self.log, Event::Hole(length), site)?;
        let way = HoleWay::Passed;
        let made = match answer {
            Answer::Short(most) => length.min(most as u64),
            Answer::TooMuch => return Ok(Made { length: length + 1, way }),
            _ => length,
        };
        self.offset += made;
        match self.pieces.last_mut() {
            Some(Piece::Hole(length)) => *length += made,
            _ => self.pieces.push(Piece::Hole(made)),
        }
        Ok(Made { length: made, way })
    }

    fn keep(&mut self, length: u64) -> Result<u64> {
        let site = (Operation::Keep, Side::Sink, self.offset);
        let answer = answer(&mut self.fault, &self.log, Event::Keep(length), site)?;
        let kept = match answer {
            Answer::Short(most) => length.min(most as u64),
            Answer::TooMuch => return Ok(length + 1),
            _ => length,
        };
        self.offset += kept;
        match self.pieces.last_mut() {
            Some(Piece::Keep(length)) => *length += kept,
            _ => self.pieces.push(Piece::Keep(kept)),
        }
        Ok(kept)
    }
}

impl SinkWays for MemorySink {}

impl Peer for MemorySink {
    fn signs(&self) -> u64 {
        0
    }

    fn flush(&mut self, _now: Instant) -> Result<()> {
        self.flushed += 1;
        Ok(())
    }

    fn flush_by(&self) -> Option<Instant> {
        None
    }
}

impl End for MemorySink {
    fn finish(&mut self) -> Result<()> {
        let site = (Operation::Finish, Side::Sink, self.offset);
        answer(&mut self.fault, &self.log, Event::SinkFinish, site).map(drop)
    }

    fn abort(&mut self, error: &Error) {
        self.log.add(Event::SinkAbort(error.errno()));
    }

    fn waiting(&self) -> Waiting {
        Waiting::Owner
    }

    fn peer(&mut self) -> Option<&mut dyn Peer> {
        Some(self)
    }
}

/// A stream between two ends in memory.
struct Stand {
    source: MemorySource,
    sink: MemorySink,
    log: Log,
}

impl Stand {
    fn new(pieces: &[Piece]) -> Self {
        let log = Log::default();
        let work = || Box::new(|_| Answer::Work);
        let pieces = pieces.to_vec();
        Stand {
            source: MemorySource {
                pieces,
                at: (0, 0),
                offset: 0,
                maps: true,
                keeps: true,
                total: None,
                fault: work(),
                log: log.clone(),
            },
            sink: MemorySink {
                pieces: Vec::new(),
                offset: 0,
                flushed: 0,
                makes: true,
                keeps: true,
                fault: work(),
                log: log.clone(),
            },
            log,
        }
    }

    /// Both ends ask one fault, in the order of their calls.
    fn with_fault(mut self, fault: impl FnMut(Event) -> Answer + Send + 'static) -> Self {
        let shared = Arc::new(Mutex::new(fault));
        let other = Arc::clone(&shared);
        self.source.fault = Box::new(move |event| (shared.lock().unwrap())(event));
        self.sink.fault = Box::new(move |event| (other.lock().unwrap())(event));
        self
    }

    fn run(&mut self, transfer: &mut Transfer) -> Result<Progress> {
        transfer.run(&mut self.source, &mut self.sink, &mut (), None, Patience::None)
    }

    /// Runs to the end, again and again while an end is not ready.
    fn run_out(&mut self, transfer: &mut Transfer) -> Result<()> {
        loop {
            match self.run(transfer) {
                Err(error) if error.would_block() => {}
                other => return other.map(drop),
            }
        }
    }
}

fn data(length: usize, seed: u8) -> Piece {
    Piece::Data((0..length).map(|at| (at % 250) as u8 ^ seed | 1).collect())
}

fn layout() -> Vec<Piece> {
    vec![
        data(9000, 3),
        Piece::Hole(70_000),
        data(1, 5),
        Piece::Hole(1),
        data(5000, 7),
        Piece::Hole(1 << 40),
    ]
}

fn small() -> Options {
    Options { buffer_size: 4096, ..Options::default() }
}

const FINISHED: [Event; 2] = [Event::SinkFinish, Event::SourceFinish];

#[test]
fn a_stream_comes_out_as_it_went_in() {
    let mut stand = Stand::new(&layout());
    let mut transfer = Transfer::new(&small()).unwrap();
    assert_eq!(stand.run(&mut transfer), Ok(Progress::Finished));
    assert_eq!(stand.sink.pieces, layout());
    assert_eq!(stand.log.ends(), FINISHED);
    let stats = transfer.stats();
    assert_eq!(
        (stats.data_bytes, stats.hole_bytes, stats.data_sections, stats.hole_sections),
        (14_001, 70_001 + (1 << 40), 3, 3)
    );
    assert_eq!(stats.position, stats.data_bytes + stats.hole_bytes);
    // It has ended: nothing is done twice.
    assert_eq!(stand.run(&mut transfer), Ok(Progress::Finished));
    assert_eq!(stand.log.ends(), FINISHED);
}

/// How many calls of the ends a whole transfer makes.
fn calls(pieces: &[Piece], options: &Options) -> usize {
    let count = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&count);
    let mut stand = Stand::new(pieces).with_fault(move |_| {
        *counted.lock().unwrap() += 1;
        Answer::Work
    });
    stand.run(&mut Transfer::new(options).unwrap()).unwrap();
    *count.lock().unwrap()
}

/// The n-th call of all gives this answer.
fn at_call(n: usize, answer: Answer) -> impl FnMut(Event) -> Answer + Send {
    let mut call = 0;
    move |_| {
        call += 1;
        if call == n { answer } else { Answer::Work }
    }
}

#[test]
fn not_ready_at_any_call_loses_nothing() {
    for sparse in [Sparse::Auto, Sparse::Never] {
        let mut pieces = layout();
        if sparse == Sparse::Never {
            pieces.pop();
        }
        let options = Options { sparse, ..small() };
        let mut whole = Stand::new(&pieces);
        whole.run(&mut Transfer::new(&options).unwrap()).unwrap();
        let calls = calls(&pieces, &options);
        for errno in [libc::EAGAIN, libc::EINTR] {
            for n in 1.. {
                let mut stand = Stand::new(&pieces).with_fault(at_call(n, Answer::Errno(errno)));
                let mut transfer = Transfer::new(&options).unwrap();
                let first = stand.run(&mut transfer);
                match first {
                    Err(ref error) if errno == libc::EAGAIN => {
                        assert!(error.would_block());
                        assert!(transfer.under_way());
                        assert_eq!(stand.run(&mut transfer), Ok(Progress::Finished));
                    }
                    ref other => assert_eq!(*other, Ok(Progress::Finished)),
                }
                assert_eq!(stand.sink.pieces, whole.sink.pieces, "{errno} at call {n}");
                assert_eq!(stand.log.ends(), FINISHED);
                if first == Ok(Progress::Finished) && n > calls * 2 {
                    break;
                }
            }
        }
    }
}

#[test]
fn an_error_at_any_call_is_reported_and_both_ends_aborted_once() {
    let calls = calls(&layout(), &small());
    for n in 1..=calls {
        let mut stand = Stand::new(&layout()).with_fault(at_call(n, Answer::Errno(libc::EIO)));
        let mut transfer = Transfer::new(&small()).unwrap();
        let error = stand.run(&mut transfer).unwrap_err();
        assert_eq!(error.errno(), libc::EIO, "call {n}");
        assert_eq!(transfer.error(), Some(error.clone()));
        let aborted = [Event::SinkAbort(libc::EIO), Event::SourceAbort(libc::EIO)];
        let expected: &[Event] = if n == calls {
            // The last call is the source's finish: the sink is finished already.
            &[Event::SinkFinish, Event::SourceAbort(libc::EIO)]
        } else {
            &aborted
        };
        assert_eq!(stand.log.ends(), expected, "call {n}");
        assert_eq!(stand.run(&mut transfer), Err(error));
        assert_eq!(stand.log.ends(), expected, "run again after call {n}");
    }
}

#[test]
fn more_than_was_asked_for_is_refused_at_any_call() {
    let mut refused = 0;
    for n in 1..=calls(&layout(), &small()) {
        let mut stand = Stand::new(&layout()).with_fault(at_call(n, Answer::TooMuch));
        match stand.run(&mut Transfer::new(&small()).unwrap()) {
            Err(error) => {
                assert_eq!(error.errno(), libc::EPROTO);
                refused += 1;
            }
            Ok(_) => assert_eq!(stand.sink.pieces, layout()),
        }
    }
    assert!(refused > 8, "{refused}");
}

#[test]
fn any_layout_any_answers_same_stream() {
    for seed in 0..400 {
        let mut random = Random::new(seed);
        let mut pieces = Vec::new();
        for number in 0..random.below(12) {
            if number % 2 == seed % 2 {
                let mut bytes = match data(1 + random.below(20_000) as usize, seed as u8) {
                    Piece::Data(bytes) => bytes,
                    Piece::Hole(_) | Piece::Keep(_) => unreachable!(),
                };
                if random.once_in(2) {
                    let from = random.below(bytes.len() as u64) as usize;
                    bytes[from..].fill(0);
                }
                pieces.push(Piece::Data(bytes));
            } else {
                pieces.push(Piece::Hole(1 + random.below(100_000)));
            }
        }
        let detect_zeroes = random.once_in(2);
        let sparse = [Sparse::Auto, Sparse::Required, Sparse::Never][random.below(3) as usize];
        let buffer_size = 4096 + random.below(5000);
        let options =
            Options { sparse, detect_zeroes, buffer_size, zero_block: 512, ..Options::default() };
        let mut answers = random.clone();
        let mut stand = Stand::new(&pieces).with_fault(move |_| match answers.below(6) {
            0 => Answer::Errno(libc::EAGAIN),
            1 => Answer::Errno(libc::EINTR),
            2 => Answer::Short(1 + answers.below(3000) as usize),
            _ => Answer::Work,
        });
        stand.source.total = random.once_in(2).then(|| bytes_of(&pieces).len() as u64);
        let mut transfer = Transfer::new(&options).unwrap();
        let budget = random.once_in(2).then(|| 1 + random.below(9000));
        loop {
            let (source, sink) = (&mut stand.source, &mut stand.sink);
            match transfer.run(source, sink, &mut (), budget, Patience::None) {
                Ok(Progress::Finished) => break,
                Ok(Progress::BudgetUsed) => assert!(budget.is_some()),
                Err(error) => assert!(error.would_block(), "seed {seed}: {error}"),
            }
        }
        assert!(bytes_of(&stand.sink.pieces) == bytes_of(&pieces), "seed {seed}");
        if sparse == Sparse::Never {
            assert!(stand.sink.pieces.iter().all(|piece| matches!(piece, Piece::Data(_))));
            assert_eq!(transfer.stats().hole_sections, 0);
        } else if !detect_zeroes {
            assert_eq!(stand.sink.pieces, pieces, "seed {seed}");
        } else {
            assert_no_zero_blocks(&stand.sink.pieces, 512, seed);
        }
        assert_eq!(stand.log.ends(), FINISHED, "seed {seed}");
    }
}

fn bytes_of(pieces: &[Piece]) -> Vec<u8> {
    let mut all = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Data(bytes) => all.extend_from_slice(bytes),
            Piece::Hole(length) | Piece::Keep(length) => {
                all.resize(all.len() + *length as usize, 0);
            }
        }
    }
    all
}

/// Every whole aligned block of zeros has become a hole.
fn assert_no_zero_blocks(pieces: &[Piece], block: usize, seed: u64) {
    let mut place = 0;
    for piece in pieces {
        match piece {
            Piece::Hole(length) | Piece::Keep(length) => place += *length as usize,
            Piece::Data(bytes) => {
                let first = place.next_multiple_of(block) - place;
                for whole in bytes.get(first..).unwrap_or_default().chunks_exact(block) {
                    assert!(!is_zero(whole), "seed {seed}");
                }
                place += bytes.len();
            }
        }
    }
}

#[test]
fn zeros_are_found_to_the_block() {
    let mut bytes = vec![1; 3 * 65536 + 100];
    bytes[65536..2 * 65536].fill(0);
    bytes[3 * 65536..].fill(0);
    let mut stand = Stand::new(&[Piece::Data(bytes), Piece::Hole(50)]);
    let options = Options { detect_zeroes: true, ..Options::default() };
    let mut transfer = Transfer::new(&options).unwrap();
    stand.run(&mut transfer).unwrap();
    let ones = || Piece::Data(vec![1; 65536]);
    assert_eq!(stand.sink.pieces, [ones(), Piece::Hole(65536), ones(), Piece::Hole(150)]);
    assert_eq!(transfer.stats().zero_bytes, 65536 + 100);
    assert_eq!(transfer.stats().hole_sections, 2);
}

#[test]
fn zeros_that_are_only_read_use_up_a_budget() {
    let length = 10 << 20;
    let mut stand = Stand::new(&[Piece::Data(vec![0; length])]);
    let options = Options { detect_zeroes: true, buffer_size: 1 << 16, ..Options::default() };
    let mut transfer = Transfer::new(&options).unwrap();
    let mut runs = 0;
    loop {
        let (source, sink) = (&mut stand.source, &mut stand.sink);
        let before = source.offset;
        let progress = transfer.run(source, sink, &mut (), Some(1 << 18), Patience::None);
        assert!(source.offset - before <= 1 << 18);
        if progress == Ok(Progress::Finished) {
            break;
        }
        assert_eq!(progress, Ok(Progress::BudgetUsed));
        runs += 1;
    }
    assert!(runs >= length >> 18, "{runs}");
    assert_eq!(stand.sink.pieces, [Piece::Hole(length as u64)]);
}

#[test]
fn zeros_that_are_only_read_are_progress() {
    let mut stand = Stand::new(&[data(9000, 1), Piece::Data(vec![0; 1 << 20])]).with_fault({
        let mut late = true;
        move |event| match event {
            Event::Read => {
                std::thread::sleep(Duration::from_millis(10));
                Answer::Work
            }
            // Ready only when it is asked once more.
            Event::Hole(_) if std::mem::take(&mut late) => Answer::Errno(libc::EAGAIN),
            _ => Answer::Work,
        }
    });
    let options = Options {
        detect_zeroes: true,
        zero_block: 4096,
        buffer_size: 1 << 16,
        stall_ms: 100,
        ..Options::default()
    };
    let mut transfer = Transfer::new(&options).unwrap();
    assert_eq!(stand.run_out(&mut transfer), Ok(()));
    // Data that was written before the zeros did not wait for their end.
    assert!(stand.sink.flushed > 10, "{}", stand.sink.flushed);
}

/// A sink that fetches some of what lies in a file, until it will no more.
struct FetchingSink {
    inner: MemorySink,
    random: Random,
    fetched: u64,
}

impl Sink for FetchingSink {
    fn open(&mut self, plan: &Plan) -> Result<SinkInfo> {
        self.inner.open(plan)
    }

    fn write(&mut self, buffer: &[u8]) -> Result<usize> {
        self.inner.write(buffer)
    }

    fn hole(&mut self, length: u64) -> Result<Made> {
        self.inner.hole(length)
    }

    fn keep(&mut self, length: u64) -> Result<u64> {
        self.inner.keep(length)
    }
}

impl SinkWays for FetchingSink {
    fn fetch(&mut self) -> Option<&mut dyn Fetch> {
        Some(self)
    }
}

impl Fetch for FetchingSink {
    fn fetch_extent(&mut self, extent: &Extent) -> Result<Attempt> {
        match self.random.below(50) {
            0 => return Ok(Attempt::Declined(None)),
            1 => {
                return Err(Error::at(
                    Operation::Write,
                    Side::Sink,
                    self.inner.offset,
                    libc::EAGAIN,
                ));
            }
            _ => {}
        }
        let most = if self.random.once_in(3) { 1 + self.random.below(100_000) } else { u64::MAX };
        let mut bytes = vec![0; extent.length.min(most) as usize];
        assert_eq!(sys::pread(extent.fd, &mut bytes, extent.offset), Ok(bytes.len()));
        let taken = self.inner.write(&bytes)?;
        self.fetched += taken as u64;
        Ok(Attempt::Moved(taken as u64))
    }
}

impl End for FetchingSink {
    fn finish(&mut self) -> Result<()> {
        self.inner.finish()
    }

    fn abort(&mut self, error: &Error) {
        self.inner.abort(error);
    }

    fn waiting(&self) -> Waiting {
        self.inner.waiting()
    }
}

/// `bytes`, of which each aligned block that is all zeros is a hole; the last block may be short.
fn detected(bytes: &[u8], block: usize) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for part in bytes.chunks(block) {
        match (is_zero(part), pieces.last_mut()) {
            (true, Some(Piece::Hole(length))) => *length += part.len() as u64,
            (true, _) => pieces.push(Piece::Hole(part.len() as u64)),
            (false, Some(Piece::Data(bytes))) => bytes.extend_from_slice(part),
            (false, _) => pieces.push(Piece::Data(part.to_vec())),
        }
    }
    pieces
}

/// Blocks of several kinds: zeros, data, data first, data last.
fn random_blocks(random: &mut Random, block: usize) -> Vec<u8> {
    let mut bytes = vec![0; block * random.below(40) as usize + random.below(3000) as usize];
    let mut kind = 0;
    for part in bytes.chunks_mut(block) {
        if random.once_in(4) {
            kind = random.below(4);
        }
        let middle = random.below(part.len() as u64) as usize;
        let data = match kind {
            0 => continue,
            1 => 0..part.len(),
            2 => 0..middle,
            _ => middle..part.len(),
        };
        part[data].fill(1 + random.below(255) as u8);
    }
    bytes
}

#[test]
fn zeros_are_found_in_a_file_of_which_data_is_fetched() {
    let mut fetched = 0;
    for seed in 0..150 {
        let mut random = Random::new(seed);
        let block = 65536 << random.below(2);
        let bytes = random_blocks(&mut random, block);
        let file = testing::file();
        file.write_all_at(&bytes, 0).unwrap();
        let mut source = crate::source::from_fd(file.as_raw_fd(), &Default::default()).unwrap();
        let mut sink =
            FetchingSink { inner: Stand::new(&[]).sink, random: random.clone(), fetched: 0 };
        let buffer_size = block as u64 * (1 + random.below(16)) + random.below(2) * 4096;
        let options = Options {
            detect_zeroes: true,
            zero_block: block as u32,
            buffer_size,
            ..Options::default()
        };
        let mut transfer = Transfer::new(&options).unwrap();
        let budget = random.once_in(2).then(|| 1 + random.below(1 << 20));
        loop {
            match transfer.run(source.as_mut(), &mut sink, &mut (), budget, Patience::None) {
                Ok(Progress::Finished) => break,
                Ok(Progress::BudgetUsed) => assert!(budget.is_some()),
                Err(error) => assert!(error.would_block(), "seed {seed}: {error}"),
            }
        }
        assert!(sink.inner.pieces == detected(&bytes, block), "seed {seed}");
        assert_eq!(transfer.stats().zero_bytes, transfer.stats().hole_bytes, "seed {seed}");
        fetched += sink.fetched;
    }
    assert!(fetched > 10 << 20, "{fetched}");
}

#[test]
fn zeros_are_found_whatever_the_counts() {
    for most in [1, 100, 511, 513, 3000] {
        let mut bytes = vec![1; 8192];
        bytes[1000..2000].fill(0);
        bytes[4096..6000].fill(0);
        let mut stand = Stand::new(&[Piece::Data(bytes)]).with_fault(move |event| match event {
            Event::Read => Answer::Short(most),
            _ => Answer::Work,
        });
        let options = Options { detect_zeroes: true, zero_block: 512, ..small() };
        stand.run(&mut Transfer::new(&options).unwrap()).unwrap();
        let holes: Vec<u64> = stand.sink.pieces.iter().filter_map(hole).collect();
        assert_eq!(holes, [512, 3 * 512], "at most {most} in one read");
    }
}

fn hole(piece: &Piece) -> Option<u64> {
    match piece {
        Piece::Hole(length) => Some(*length),
        Piece::Data(_) | Piece::Keep(_) => None,
    }
}

#[test]
fn the_sparse_request_is_met_or_refused_before_a_byte_moves() {
    for sparse in [Sparse::Auto, Sparse::Required, Sparse::Never] {
        for (maps, makes) in [(true, true), (true, false), (false, true), (false, false)] {
            let mut stand = Stand::new(&[data(10, 1), Piece::Hole(5000)]);
            (stand.source.maps, stand.sink.makes) = (maps, makes);
            let options = Options { sparse, ..small() };
            let result = stand.run(&mut Transfer::new(&options).unwrap());
            if sparse == Sparse::Required && !(maps && makes) {
                let error = result.unwrap_err();
                let side = if maps { Side::Sink } else { Side::Source };
                assert_eq!((error.errno(), error.side()), (libc::EOPNOTSUPP, side));
                let errno = libc::EOPNOTSUPP;
                let events = [Event::SinkAbort(errno), Event::SourceAbort(errno)];
                assert_eq!(*stand.log.0.lock().unwrap(), events);
                continue;
            }
            assert_eq!(result, Ok(Progress::Finished));
            let holes = stand.sink.pieces.iter().filter(|piece| matches!(piece, Piece::Hole(_)));
            let expected = sparse != Sparse::Never && maps && makes;
            assert_eq!(holes.count(), usize::from(expected), "{sparse:?} {maps} {makes}");
            assert_eq!(bytes_of(&stand.sink.pieces).len(), 5010);
        }
    }
}

#[test]
fn a_budget_bounds_a_run() {
    let mut stand = Stand::new(&[data(100_000, 1), Piece::Hole(10), data(10, 1)]);
    let mut transfer = Transfer::new(&small()).unwrap();
    let mut runs = 0;
    loop {
        let before = transfer.stats().position;
        let (source, sink) = (&mut stand.source, &mut stand.sink);
        let progress = transfer.run(source, sink, &mut (), Some(10_000), Patience::None).unwrap();
        let moved = transfer.stats().position - before;
        assert!(moved < 10_000 + 4096, "{moved}");
        if progress == Progress::Finished {
            break;
        }
        runs += 1;
    }
    assert!((7..=12).contains(&runs), "{runs}");
}

#[test]
fn a_cancel_acts_before_the_next_step_and_is_final() {
    for n in 1..calls(&layout(), &small()) {
        let mut transfer = Transfer::new(&small()).unwrap();
        let control = transfer.control();
        let mut call = 0;
        let mut stand = Stand::new(&layout()).with_fault(move |event| {
            call += 1;
            if call == n && event != Event::SinkFinish {
                control.cancel();
            }
            Answer::Work
        });
        let result = stand.run_out(&mut transfer);
        let last = *stand.log.0.lock().unwrap().last().unwrap();
        if last == Event::SourceFinish {
            assert_eq!(result, Ok(()));
            continue;
        }
        assert_eq!(result.unwrap_err().errno(), libc::ECANCELED, "call {n}");
        let events = [Event::SinkAbort(libc::ECANCELED), Event::SourceAbort(libc::ECANCELED)];
        assert_eq!(stand.log.ends(), events);
    }
}

#[derive(Default)]
struct Watcher {
    seen: Vec<Stats>,
    sections: Vec<(Kind, u64, u64)>,
    stop_at: Option<usize>,
}

impl Observe for Watcher {
    fn progress(&mut self, stats: &Stats) -> Sys<()> {
        self.seen.push(*stats);
        if self.stop_at == Some(self.seen.len()) { Err(libc::EDQUOT) } else { Ok(()) }
    }

    fn section(&mut self, section: Section) -> Sys<()> {
        self.sections.push((section.kind, section.offset, section.length));
        Ok(())
    }
}

#[test]
fn progress_and_sections_are_reported() {
    let mut stand = Stand::new(&layout());
    let mut watcher = Watcher::default();
    let options = Options { progress_bytes: 4000, ..small() };
    let mut transfer = Transfer::new(&options).unwrap();
    let (source, sink) = (&mut stand.source, &mut stand.sink);
    transfer.run(source, sink, &mut watcher, None, Patience::None).unwrap();
    let mut at = 0;
    let expected: Vec<_> = layout()
        .iter()
        .map(|piece| {
            let (kind, length) = (piece.kind(), piece.length());
            at += length;
            (kind, at - length, length)
        })
        .collect();
    assert_eq!(watcher.sections, expected);
    assert!(watcher.seen.len() >= 4);
    assert!(watcher.seen.is_sorted_by_key(|stats| stats.position));
    assert_eq!(watcher.seen.last(), Some(&transfer.stats()));
}

#[test]
fn progress_can_end_it() {
    let mut stand = Stand::new(&layout());
    let mut watcher = Watcher { stop_at: Some(1), ..Watcher::default() };
    let mut transfer = Transfer::new(&small()).unwrap();
    let (source, sink) = (&mut stand.source, &mut stand.sink);
    let error = transfer.run(source, sink, &mut watcher, None, Patience::None).unwrap_err();
    assert_eq!((error.errno(), error.operation()), (libc::EDQUOT, Operation::Progress));
    let events = [Event::SinkAbort(libc::EDQUOT), Event::SourceAbort(libc::EDQUOT)];
    assert_eq!(stand.log.ends(), events);
}

#[test]
fn who_is_late_is_named() {
    type Which = fn(Event) -> bool;
    let not_ready = |which: Which| {
        move |event| if which(event) { Answer::Errno(libc::EAGAIN) } else { Answer::Work }
    };
    let cases: [(Which, Side); 2] = [
        (|event| event == Event::Read, Side::Source),
        (|event| matches!(event, Event::Write(_)), Side::Sink),
    ];
    for (which, side) in cases {
        let mut stand = Stand::new(&layout()).with_fault(not_ready(which));
        let mut transfer = Transfer::new(&Options { stall_ms: 20, ..small() }).unwrap();
        assert!(stand.run(&mut transfer).unwrap_err().would_block());
        let wait = transfer.wait();
        assert_eq!((wait.side, wait.watch.descriptors().len()), (side, 0));
        assert!(wait.watch.timeout.unwrap() <= Duration::from_millis(20));
        std::thread::sleep(Duration::from_millis(25));
        let error = stand.run(&mut transfer).unwrap_err();
        assert_eq!((error.errno(), error.side()), (libc::ETIMEDOUT, side));
        assert_eq!(transfer.error(), Some(error));
    }
}

#[test]
fn a_rate_is_kept_without_sleeping() {
    let mut stand = Stand::new(&[data(60_000, 1)]);
    let mut transfer = Transfer::new(&Options { rate: 200_000, ..small() }).unwrap();
    let begun = Instant::now();
    let mut waits = 0;
    loop {
        match stand.run(&mut transfer) {
            Ok(_) => break,
            Err(error) => {
                assert!(error.would_block());
                let wait = transfer.wait();
                assert_eq!((wait.side, wait.watch.descriptors().len()), (Side::None, 0));
                std::thread::sleep(wait.watch.timeout.unwrap());
                waits += 1;
            }
        }
    }
    assert!(begun.elapsed() >= Duration::from_millis(250), "{:?}", begun.elapsed());
    assert!(waits >= 10, "{waits}");
}

#[test]
fn a_hole_that_ends_beyond_every_offset_is_refused() {
    let mut stand = Stand::new(&[data(1, 1), Piece::Hole(i64::MAX as u64)]);
    let error = stand.run(&mut Transfer::new(&small()).unwrap()).unwrap_err();
    assert_eq!((error.errno(), error.side()), (libc::EOVERFLOW, Side::Source));
}

#[test]
fn options_are_checked() {
    for options in [
        Options { buffer_size: 4095, ..Options::default() },
        Options { buffer_size: (64 << 20) + 1, ..Options::default() },
        Options { zero_block: 256, ..Options::default() },
        Options { zero_block: 1000, ..Options::default() },
        Options { zero_block: 1 << 21, ..Options::default() },
    ] {
        assert_eq!(Transfer::new(&options).unwrap_err().errno(), libc::EINVAL, "{options:?}");
    }
}

/// A stream with sections to keep among the others.
fn incremental() -> Vec<Piece> {
    vec![
        Piece::Keep(5000),
        data(9000, 3),
        Piece::Keep(1 << 41),
        Piece::Hole(70_000),
        Piece::Keep(1),
        data(1, 5),
    ]
}

#[test]
fn kept_sections_are_passed_on_and_counted() {
    for sparse in [Sparse::Auto, Sparse::Required] {
        let mut stand = Stand::new(&incremental());
        let mut watcher = Watcher::default();
        let mut transfer = Transfer::new(&Options { sparse, ..small() }).unwrap();
        let (source, sink) = (&mut stand.source, &mut stand.sink);
        transfer.run(source, sink, &mut watcher, None, Patience::None).unwrap();
        assert_eq!(stand.sink.pieces, incremental());
        let stats = transfer.stats();
        assert_eq!((stats.keep_bytes, stats.keep_sections), (5001 + (1 << 41), 3));
        assert_eq!(stats.position, stats.keep_bytes + stats.data_bytes + stats.hole_bytes);
        let kinds: Vec<_> = watcher.sections.iter().map(|(kind, ..)| *kind).collect();
        let expected: Vec<_> = incremental().iter().map(Piece::kind).collect();
        assert_eq!(kinds, expected);
    }
}

#[test]
fn kept_sections_survive_every_answer_of_the_ends() {
    for errno in [libc::EAGAIN, libc::EINTR] {
        for n in 1..40 {
            let mut stand = Stand::new(&incremental()).with_fault(at_call(n, Answer::Errno(errno)));
            stand.run_out(&mut Transfer::new(&small()).unwrap()).unwrap();
            assert_eq!(stand.sink.pieces, incremental(), "{errno} at call {n}");
        }
    }
    let mut stand = Stand::new(&incremental()).with_fault(|event| match event {
        Event::Keep(_) => Answer::Short(1 << 40),
        _ => Answer::Work,
    });
    stand.run(&mut Transfer::new(&small()).unwrap()).unwrap();
    assert_eq!(stand.sink.pieces, incremental());
}

#[test]
fn a_sink_that_cannot_keep_is_refused_before_a_byte_moves() {
    let mut stand = Stand::new(&incremental());
    stand.sink.keeps = false;
    let error = stand.run(&mut Transfer::new(&small()).unwrap()).unwrap_err();
    let found = (error.errno(), error.side(), error.operation());
    assert_eq!(found, (libc::EOPNOTSUPP, Side::Sink, Operation::Keep));
    let events = [Event::SinkAbort(libc::EOPNOTSUPP), Event::SourceAbort(libc::EOPNOTSUPP)];
    assert_eq!(*stand.log.0.lock().unwrap(), events);
}

#[test]
fn an_undeclared_kept_section_is_a_fault_of_the_source() {
    let mut stand = Stand::new(&[data(10, 1), Piece::Keep(5)]);
    stand.source.keeps = false;
    let error = stand.run(&mut Transfer::new(&small()).unwrap()).unwrap_err();
    let found = (error.errno(), error.side(), error.offset());
    assert_eq!(found, (libc::EPROTO, Side::Source, Some(10)));
}

#[test]
fn a_kept_section_ends_a_block_of_zeros_as_a_hole_does() {
    let pieces = [Piece::Data(vec![0; 100]), Piece::Keep(1000), Piece::Data(vec![0; 3000])];
    let mut stand = Stand::new(&pieces);
    let options = Options { detect_zeroes: true, zero_block: 512, ..small() };
    stand.run(&mut Transfer::new(&options).unwrap()).unwrap();
    assert_eq!(stand.sink.pieces, [Piece::Hole(100), Piece::Keep(1000), Piece::Hole(3000)]);
}

#[test]
fn a_kept_section_is_one_step_of_a_budget_and_free_of_the_rate() {
    let pieces: Vec<_> = (0..20).map(|_| Piece::Keep(1 << 30)).collect();
    let mut stand = Stand::new(&pieces);
    let mut transfer = Transfer::new(&Options { rate: 1, ..small() }).unwrap();
    let mut runs = 1;
    loop {
        let (source, sink) = (&mut stand.source, &mut stand.sink);
        match transfer.run(source, sink, &mut (), Some(2 * STEP_COST), Patience::None).unwrap() {
            Progress::BudgetUsed => runs += 1,
            Progress::Finished => break,
        }
    }
    assert!((10..=12).contains(&runs), "{runs}");
}

#[test]
fn a_failure_from_outside_is_the_result() {
    let mut stand = Stand::new(&layout());
    let mut transfer = Transfer::new(&small()).unwrap();
    let error = Error::at(Operation::Read, Side::Source, 7, libc::ECONNRESET);
    transfer.control().fail(error.clone());
    transfer.control().fail(Error::at(Operation::Read, Side::Source, 8, libc::EIO));
    assert_eq!(stand.run(&mut transfer), Err(error));
    let events = [Event::SinkAbort(libc::ECONNRESET), Event::SourceAbort(libc::ECONNRESET)];
    assert_eq!(stand.log.ends(), events);
}

#[derive(Default)]
struct Tracer(Vec<(u64, crate::trace::Event)>);

impl Observe for Tracer {
    fn traces(&self) -> bool {
        true
    }

    fn trace(&mut self, position: u64, event: crate::trace::Event) {
        self.0.push((position, event));
    }
}

#[test]
fn stages_ways_and_fallbacks_are_traced() {
    use crate::trace::{Event as Traced, StageName, Way};
    let file = testing::file();
    file.write_all_at(&[1; 1 << 20], 0).unwrap();
    let mut source = crate::source::from_fd(file.as_raw_fd(), &Default::default()).unwrap();
    let target = testing::file();
    let mut sink = crate::sink::from_fd(target.as_raw_fd(), &Default::default(), ()).unwrap();
    let mut transfer = Transfer::new(&Options::default()).unwrap();
    let mut tracer = Tracer::default();
    let refuse = |call| match call {
        sys::Call::CopyFileRange | sys::Call::Splice => sys::inject::Fault::Errno(libc::EXDEV),
        _ => sys::inject::Fault::None,
    };
    sys::inject::with(refuse, || {
        transfer.run(source.as_mut(), sink.as_mut(), &mut tracer, None, Patience::None).unwrap();
    });
    let events: Vec<_> = tracer.0.iter().map(|(_, event)| *event).collect();
    let stages: Vec<_> = events
        .iter()
        .filter_map(|event| if let Traced::Stage(name) = event { Some(*name) } else { None })
        .collect();
    let expected = [
        StageName::Open,
        StageName::Move,
        StageName::Drain,
        StageName::FinishSink,
        StageName::FinishSource,
        StageName::Finished,
    ];
    assert_eq!(stages, expected);
    let errno = Some(libc::EXDEV);
    assert!(events.contains(&Traced::WayDeclined { way: Way::Splice, errno, next: Way::Copy }));
    assert!(events.contains(&Traced::WayChosen(Way::Copy)));
    assert_eq!(transfer.stats().ways.data(Way::Copy), 1 << 20);
    assert_eq!(tracer.0.last().unwrap().0, 1 << 20);
}

/// The pieces that arrive of these where holes have a least length.
fn with_least(pieces: &[Piece], options: Options, min_hole: u64) -> (Vec<Piece>, Stats) {
    let mut stand = Stand::new(pieces);
    let mut transfer = Transfer::new(&Options { min_hole, ..options }).unwrap();
    stand.run(&mut transfer).unwrap();
    (stand.sink.pieces, transfer.stats())
}

#[test]
fn a_hole_that_is_too_short_is_written_as_zeros() {
    let pieces = [data(5000, 1), Piece::Hole(8191), data(100, 2), Piece::Hole(8192)];
    let (found, stats) = with_least(&pieces, small(), 8192);
    let first = Piece::Data(bytes_of(&pieces[..3]));
    assert_eq!(found, [first, Piece::Hole(8192)]);
    assert_eq!((stats.data_bytes, stats.hole_bytes, stats.hole_sections), (13_291, 8192, 1));
    assert_eq!(with_least(&pieces, small(), 8191).0, pieces);
    let (found, stats) = with_least(&pieces, small(), i64::MAX as u64);
    assert_eq!(found, [Piece::Data(bytes_of(&pieces))]);
    assert_eq!(stats.hole_bytes, 0);
}

#[test]
fn zeros_that_are_found_and_too_few_for_a_hole_are_data() {
    let options = Options { detect_zeroes: true, zero_block: 512, ..small() };
    let zeros = |length| Piece::Data(vec![0; length]);
    let pieces = [data(512, 1), zeros(1024), data(512, 2), zeros(1536), data(512, 3)];
    let merged = Piece::Data(bytes_of(&pieces[..3]));
    let (found, stats) = with_least(&pieces, options, 1536);
    assert_eq!(found, [merged, Piece::Hole(1536), data(512, 3)]);
    assert_eq!((stats.zero_bytes, stats.hole_bytes), (1536, 1536));
}

#[test]
fn neighbouring_holes_and_zeros_count_as_one() {
    let options = Options { detect_zeroes: true, zero_block: 512, ..small() };
    let zeros = Piece::Data(vec![0; 1024]);
    let pieces = [data(512, 1), Piece::Hole(512), zeros, Piece::Hole(512), data(512, 2)];
    let expected = [data(512, 1), Piece::Hole(2048), data(512, 2)];
    assert_eq!(with_least(&pieces, options, 2048).0, expected);
    let all = [Piece::Data(bytes_of(&pieces))];
    assert_eq!(with_least(&pieces, options, 2049).0, all);
    let parts = [data(512, 1), Piece::Hole(512), Piece::Hole(1536), data(512, 2)];
    assert_eq!(with_least(&parts, small(), 2048).0, expected);
}

#[test]
fn any_layout_any_answers_any_least_hole_same_bytes() {
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let mut pieces = Vec::new();
        for _ in 0..random.below(12) {
            match random.below(3) {
                0 => pieces.push(Piece::Hole(1 + random.below(20_000))),
                1 => pieces.push(Piece::Data(vec![0; 1 + random.below(9000) as usize])),
                _ => pieces.push(data(1 + random.below(9000) as usize, seed as u8)),
            }
        }
        let (detect_zeroes, min_hole) = (random.once_in(2), 1 + random.below(30_000));
        let buffer_size = 4096 + random.below(5000);
        let options =
            Options { detect_zeroes, min_hole, buffer_size, zero_block: 512, ..Options::default() };
        let mut answers = random.clone();
        let calm = random.once_in(2);
        let mut stand = Stand::new(&pieces).with_fault(move |_| match answers.below(6) {
            0 if !calm => Answer::Errno(libc::EAGAIN),
            1 => Answer::Errno(libc::EINTR),
            2 => Answer::Short(1 + answers.below(3000) as usize),
            _ => Answer::Work,
        });
        let mut transfer = Transfer::new(&options).unwrap();
        stand.run_out(&mut transfer).unwrap();
        assert!(bytes_of(&stand.sink.pieces) == bytes_of(&pieces), "seed {seed}");
        for piece in &stand.sink.pieces {
            assert!(!matches!(piece, Piece::Hole(length) if *length < min_hole), "seed {seed}");
        }
    }
}
