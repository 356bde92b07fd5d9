//! Both ends together, and each against what it must not believe.

mod ahead;
mod alive;
mod cut;
pub mod document;
mod ends;
mod examples;
mod hostile;
mod python;
mod random;
mod resume;

use super::reader::{Held, ReaderOptions};
use super::transport::Descriptors;
use super::writer::WriterOptions;
use super::{Reader, Writer};
use crate::end::{End as _, Introduced as _, Next, Peer as _, Plan, Sink, SinkInfo, Source};
use crate::error::{Error, Result, Side};
use crate::section::Section;
use crate::sink;
use crate::source;
use crate::sys::Fd;
use crate::transfer::{Options, Patience, Progress, Stats, Transfer};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

/// Numbers that look random and are the same in each run: xorshift64*.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// One below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

/// One end of a transfer, with all that it moves.
pub struct Moving<'a> {
    pub source: &'a mut dyn Source,
    pub sink: &'a mut dyn Sink,
    pub transfer: Transfer,
    pub budget: u64,
    pub result: Option<Result<()>>,
}

impl<'a> Moving<'a> {
    pub fn new(source: &'a mut dyn Source, sink: &'a mut dyn Sink) -> Self {
        let options = Options { buffer_size: 1 << 18, ..Options::default() };
        let transfer = Transfer::new(&options).unwrap();
        Moving { source, sink, transfer, budget: 1 << 20, result: None }
    }

    /// One that looks for zeros.
    pub fn detecting(source: &'a mut dyn Source, sink: &'a mut dyn Sink) -> Self {
        let options = Options { buffer_size: 1 << 18, detect_zeroes: true, ..Options::default() };
        let transfer = Transfer::new(&options).unwrap();
        Moving { transfer, ..Moving::new(source, sink) }
    }

    /// One that moves little at a time.
    pub fn small(source: &'a mut dyn Source, sink: &'a mut dyn Sink) -> Self {
        let options = Options { buffer_size: 1 << 15, ..Options::default() };
        let transfer = Transfer::new(&options).unwrap();
        Moving { transfer, budget: 1 << 15, ..Moving::new(source, sink) }
    }

    fn turn(&mut self) {
        if self.result.is_none() {
            let budget = Some(self.budget);
            let (source, sink) = (&mut *self.source, &mut *self.sink);
            match self.transfer.run(source, sink, &mut (), budget, Patience::None) {
                Ok(Progress::BudgetUsed) => {}
                Ok(Progress::Finished) => self.result = Some(Ok(())),
                Err(error) if error.would_block() => {}
                Err(error) => self.result = Some(Err(error)),
            }
        }
    }

    pub fn stats(&self) -> Stats {
        self.transfer.stats()
    }
}

/// The counts that both ends share: the ways in which data moves may differ.
pub fn counts(stats: Stats) -> Stats {
    Stats { ways: Default::default(), ..stats }
}

/// Runs a sender and a receiver by turns until both have ended.
pub fn run(sender: &mut Moving, receiver: &mut Moving) -> (Result<()>, Result<()>) {
    for _ in 0..1_000_000 {
        sender.turn();
        receiver.turn();
        if let (Some(sent), Some(received)) = (sender.result.clone(), receiver.result.clone()) {
            return (sent, received);
        }
    }
    panic!("it stands still: {:?} {:?}", sender.result, receiver.result);
}

pub fn socket() -> (UnixStream, UnixStream) {
    UnixStream::pair().unwrap()
}

pub fn from(file: &File) -> Box<dyn Source> {
    source::from_fd(file.as_raw_fd(), &source::Options::default()).unwrap()
}

pub fn to(file: &File) -> Box<dyn Sink> {
    sink::from_fd(file.as_raw_fd(), &sink::Options::default(), ()).unwrap()
}

/// Announces the length of a stream.
pub fn announce(writer: &mut Writer, total: u64) -> Result<SinkInfo> {
    writer.open(&Plan { total: Some(total), ..Plan::default() })
}

/// How much the receiver claims to hold.
pub fn offered(writer: &mut Writer) -> Result<u64> {
    writer.open(&Plan::default()).map(|info| info.held)
}

pub fn content(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

pub fn map(fd: Fd) -> Vec<Section> {
    let mut sections = Vec::new();
    crate::section::map(fd, 0, 0, |section| {
        sections.push(section);
        true
    })
    .unwrap();
    sections
}

/// A writer and a reader at the two ends of a socket.
pub fn wire(
    ends: &(UnixStream, UnixStream),
    writer: &WriterOptions,
    reader: &ReaderOptions,
) -> (Writer, Reader) {
    let (a, b) = (ends.0.as_raw_fd(), ends.1.as_raw_fd());
    (writer_on(a, Some(a), writer).unwrap(), reader_on(b, Some(b), reader).unwrap())
}

/// A writer to a descriptor, with answers from another.
pub fn writer_on(to: Fd, from: Option<Fd>, options: &WriterOptions) -> Result<Writer> {
    Writer::new(Box::new(Descriptors::new(from, Some(to), Side::Sink)?), options)
}

/// A reader from a descriptor, with answers to another.
pub fn reader_on(from: Fd, to: Option<Fd>, options: &ReaderOptions) -> Result<Reader> {
    Reader::new(Box::new(Descriptors::new(Some(from), to, Side::Source)?), options)
}

/// The first bytes of a file, as what a receiver holds of any source.
pub fn held(file: &File, length: u64) -> Held {
    let part = super::proto::receiver::Held { length, transfer_id: [0; 16], identity: [0; 32] };
    Held { fd: file.as_raw_fd(), offset: 0, part }
}

/// An error without its reason: operation, side, offset, errno.
pub fn fields(error: &Error) -> (crate::error::Operation, crate::error::Side, Option<u64>, i32) {
    (error.operation(), error.side(), error.offset(), error.errno())
}
