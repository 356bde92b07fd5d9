use super::*;
use crate::end::{End, Lend, Lent, Look, Next, Peer, Plan, Sink, Source, SourceWays};
use crate::error::{Operation, Side};
use crate::section::Kind;
use crate::sys;
use crate::wait::Waiting;
use std::time::Duration;

const CAPACITY: u64 = 128 << 10;

fn ends() -> (Box<ChannelSink>, Box<ChannelSource>) {
    channel(CAPACITY).unwrap()
}

/// Whether the eventfd of an end can be read.
fn is_lit(end: &dyn End) -> bool {
    let Waiting::Descriptor { fd, events, blocking: true } = end.waiting() else {
        panic!("an end of a channel waits for a descriptor")
    };
    sys::poll(fd, events, Duration::ZERO).unwrap() != 0
}

fn wait_for(end: &dyn End) {
    let Waiting::Descriptor { fd, events, .. } = end.waiting() else { panic!() };
    assert_ne!(sys::poll(fd, events, Duration::from_secs(20)).unwrap(), 0, "nobody woke it");
}

/// Makes a call until it is ready.
fn steadily<T, E: End + ?Sized>(end: &mut E, mut call: impl FnMut(&mut E) -> Result<T>) -> Result<T>
where
    for<'a> &'a E: Into<&'a dyn End>,
{
    loop {
        match call(end) {
            Err(error) if error.would_block() => wait_for((&*end).into()),
            other => return other,
        }
    }
}

impl<'a> From<&'a ChannelSink> for &'a dyn End {
    fn from(end: &'a ChannelSink) -> Self {
        end
    }
}

impl<'a> From<&'a ChannelSource> for &'a dyn End {
    fn from(end: &'a ChannelSource) -> Self {
        end
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % most
    }
}

/// Sections with a byte for each piece of data; neighbours of one kind are merged.
#[derive(Debug, Default, PartialEq, Eq)]
struct Content(Vec<(Kind, u64, u64)>);

impl Content {
    fn add(&mut self, kind: Kind, length: u64, bytes: &[u8]) {
        let sum = bytes.iter().fold(0u64, |sum, byte| sum.wrapping_add(u64::from(*byte)));
        match self.0.last_mut() {
            Some(last) if last.0 == kind => {
                last.1 += length;
                last.2 = last.2.wrapping_add(sum);
            }
            _ => self.0.push((kind, length, sum)),
        }
    }
}

fn send(sink: &mut ChannelSink, seed: u64) -> Result<Content> {
    let (mut random, mut content) = (Random(seed), Content::default());
    let plan = Plan { total: Some(7), holes: true, keeps: true };
    sink.open(&plan)?;
    for _ in 0..400 {
        let most = if random.below(4) == 0 { 200_000 } else { 5000 };
        let length = 1 + random.below(most);
        match random.below(5) {
            0 => {
                steadily(sink, |sink| sink.hole(length))?;
                content.add(Kind::Hole, length, &[]);
            }
            1 => {
                steadily(sink, |sink| sink.keep(length))?;
                content.add(Kind::Keep, length, &[]);
            }
            2 => {
                let byte = random.below(256) as u8;
                let Some(room) = sink.room()? else { continue };
                let count = room.len().min(length as usize);
                room[..count].fill(byte);
                sink.committed(count);
                content.add(Kind::Data, count as u64, &vec![byte; count]);
            }
            _ => {
                let bytes = vec![random.below(256) as u8; length as usize];
                let mut sent = 0;
                while sent < bytes.len() {
                    sent += steadily(sink, |sink| sink.write(&bytes[sent..]))?;
                }
                content.add(Kind::Data, length, &bytes);
            }
        }
    }
    steadily(sink, |sink| sink.finish())?;
    Ok(content)
}

fn receive(source: &mut ChannelSource, seed: u64) -> Result<Content> {
    let (mut random, mut content) = (Random(seed), Content::default());
    let info = steadily(source, |source| source.open())?;
    assert_eq!((info.total, info.reports_holes, info.keeps), (Some(7), true, true));
    let mut buffer = vec![0; 100_000];
    loop {
        if random.below(3) == 0 {
            let length = steadily(source, |source| {
                let length = source.bytes()?.len();
                Ok(length)
            })?;
            let count = length.min(1 + random.below(50_000) as usize);
            if count > 0 {
                let bytes = source.bytes()?[..count].to_vec();
                content.add(Kind::Data, count as u64, &bytes);
                source.consume(count as u64);
            }
            continue;
        }
        let most = 1 + random.below(buffer.len() as u64) as usize;
        match steadily(source, |source| source.next(&mut buffer[..most]))? {
            Next::Data(count) => content.add(Kind::Data, count as u64, &buffer[..count]),
            Next::Hole(length) => {
                let length = 1 + random.below(length);
                source.consume(length);
                content.add(Kind::Hole, length, &[]);
            }
            Next::Keep(length) => {
                source.consume(length);
                content.add(Kind::Keep, length, &[]);
            }
            Next::End => break,
        }
    }
    steadily(source, |source| source.finish())?;
    Ok(content)
}

#[test]
fn everything_crosses_between_two_threads() {
    for seed in 0..20 {
        let (mut sink, mut source) = ends();
        let (sent, received) = std::thread::scope(|scope| {
            let sender = scope.spawn(move || send(&mut sink, seed));
            let receiver = scope.spawn(move || receive(&mut source, seed + 1000));
            (sender.join().unwrap(), receiver.join().unwrap())
        });
        assert_eq!(sent.unwrap(), received.unwrap(), "seed {seed}");
    }
}

#[test]
fn no_more_than_the_capacity_is_held() {
    let (mut sink, mut source) = ends();
    let piece = [7; 10_000];
    let mut held = 0;
    let error = loop {
        match sink.write(&piece) {
            Ok(count) => held += count as u64,
            Err(error) => break error,
        }
    };
    assert!(error.would_block());
    assert_eq!(held, CAPACITY);
    assert!(!is_lit(&*sink));
    let mut holes = 0;
    let mut buffer = [0; 10_000];
    while held > 0 {
        match source.next(&mut buffer).unwrap() {
            Next::Data(count) => held -= count as u64,
            other => panic!("{other:?}"),
        }
    }
    assert!(is_lit(&*sink));
    // Neither are sections that take no memory without bound.
    let error = loop {
        let one = if holes % 2 == 0 {
            sink.hole(5).map(|made| made.length)
        } else {
            sink.write(b"x").map(|count| count as u64)
        };
        match one {
            Ok(_) => holes += 1,
            Err(error) => break error,
        }
    };
    assert!(error.would_block());
    assert!(holes < 600, "{holes}");
}

#[test]
fn an_eventfd_can_be_read_exactly_while_its_end_is_ready() {
    let (mut sink, mut source) = ends();
    assert!(is_lit(&*sink) && !is_lit(&*source));
    assert!(source.open().unwrap_err().would_block());
    sink.open(&Plan { total: Some(5), ..Plan::default() }).unwrap();
    assert!(is_lit(&*source));
    assert_eq!(source.open().unwrap().total, Some(5));
    assert!(!is_lit(&*source), "what was announced is known");
    assert!(source.look().unwrap_err().would_block());
    assert_eq!(sink.write(b"hello").unwrap(), 5);
    assert!(is_lit(&*source));
    assert_eq!(source.look().unwrap(), Look { kind: Kind::Data, length: None });
    assert!(is_lit(&*source), "a look takes nothing");
    assert_eq!(source.next(&mut [0; 3]).unwrap(), Next::Data(3));
    assert!(is_lit(&*source));
    assert_eq!(source.next(&mut [0; 3]).unwrap(), Next::Data(2));
    assert!(!is_lit(&*source));
    assert!(sink.finish().unwrap_err().would_block());
    assert!(!is_lit(&*sink) && is_lit(&*source));
    assert_eq!(source.next(&mut [0; 3]).unwrap(), Next::End);
    assert!(!is_lit(&*sink), "it is not stored yet");
    source.finish().unwrap();
    assert!(is_lit(&*sink));
    sink.finish().unwrap();
    sink.finish().unwrap();
}

#[test]
fn a_failure_of_either_side_is_the_failure_of_the_other() {
    let error = Error::at(Operation::Write, Side::Sink, 4096, libc::ENOSPC);
    let (mut sink, mut source) = ends();
    sink.write(b"x").unwrap();
    source.abort(&error);
    assert!(is_lit(&*sink));
    let got = sink.write(b"y").unwrap_err();
    assert!(got.is_peers());
    assert_eq!((got.errno(), got.operation()), (libc::ENOSPC, Operation::Write));
    assert_eq!((got.side(), got.offset()), (Side::Sink, Some(4096)));
    assert!(got.to_string().contains("No space left"), "{got}");
    assert_eq!(sink.finish().unwrap_err(), got);

    let (mut sink, mut source) = ends();
    sink.write(b"x").unwrap();
    sink.abort(&error);
    sink.abort(&Error::null("x"));
    assert!(is_lit(&*source));
    let got = source.next(&mut [0; 3]).unwrap_err();
    assert_eq!((got.errno(), got.is_peers()), (libc::ENOSPC, true));
    assert_eq!(source.open().unwrap_err(), got);
    assert_eq!(sink.write(b"x").unwrap_err().errno(), libc::ESHUTDOWN);
}

#[test]
fn an_end_that_is_freed_unfinished_fails_the_other() {
    let (mut sink, source) = ends();
    sink.write(b"x").unwrap();
    drop(source);
    assert!(is_lit(&*sink));
    assert_eq!(sink.write(b"x").unwrap_err().errno(), libc::ECANCELED);
    let (sink, mut source) = ends();
    drop(sink);
    assert_eq!(source.open().unwrap_err().errno(), libc::ECANCELED);
    // Also when all was sent, and it is not known that it was stored.
    let (mut sink, source) = ends();
    assert!(sink.finish().unwrap_err().would_block());
    drop(source);
    assert_eq!(sink.finish().unwrap_err().errno(), libc::ECANCELED);
    // Not what was finished.
    let (mut sink, mut source) = ends();
    assert!(sink.finish().unwrap_err().would_block());
    source.finish().unwrap();
    drop(source);
    sink.finish().unwrap();
}

#[test]
fn kept_sections_must_be_announced() {
    let (mut sink, _source) = ends();
    assert_eq!(sink.keep(5).unwrap_err().errno(), libc::EPROTO);
}

#[test]
fn durable_offsets_cross_back() {
    let (sink, mut source) = ends();
    assert_eq!(sink.durable(), None);
    source.durable(0);
    assert_eq!(sink.durable(), Some(0));
    source.peer().unwrap().durable(4096);
    assert_eq!(sink.durable(), Some(4096));
    assert!(source.lent().is_some());
}

#[test]
fn capacities_are_checked() {
    for capacity in [1, CAPACITY - 1, (64 << 20) + 1] {
        assert_eq!(channel(capacity).unwrap_err().errno(), libc::EINVAL);
    }
    assert!(channel(0).is_ok());
}
