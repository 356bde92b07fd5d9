//! The examples of docs/wire-format.md are what this writes.
//!
//! With `SPARSESTREAM_WRITE_EXAMPLES` set they are written there instead of being compared.

use super::*;
use crate::end::{Description, Held as _};
use crate::error::Operation;
use crate::testing;
use std::fmt::Write as _;
use std::io::Read as _;
use std::os::unix::net::UnixStream;

const HOLE: u64 = 1 << 20;
const LENGTH: u64 = HOLE + 7;

fn sender(two_way: bool) -> WriterOptions {
    let mut identity = [0; 32];
    identity[..8].copy_from_slice(b"identity");
    WriterOptions {
        description: Description {
            length: Some(LENGTH),
            source_size: Some(LENGTH),
            source_offset: 0,
            data_bytes: Some(7),
            transfer_id: *b"example transfer",
            identity,
            base: [0; 32],
        },
        checksum: two_way,
        digest: two_way,
        ..WriterOptions::default()
    }
}

/// Takes the bytes that wait at this end.
fn taken(end: &mut UnixStream) -> Vec<u8> {
    end.set_nonblocking(true).unwrap();
    let mut bytes = vec![0; 65536];
    let count = end.read(&mut bytes).unwrap();
    bytes.truncate(count);
    bytes
}

/// A line of 16 bytes each, a blank line before each frame but the first.
fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut at = 0;
    while at < bytes.len() {
        let length = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap()) as usize;
        let frame = &bytes[at..at + 32 + length];
        if at > 0 {
            text.push('\n');
        }
        for (line, piece) in frame.chunks(16).enumerate() {
            write!(text, "{:08x} ", at + line * 16).unwrap();
            for byte in piece {
                write!(text, " {byte:02x}").unwrap();
            }
            text.push('\n');
        }
        at += frame.len();
    }
    text
}

/// Two ends of a sender's and a receiver's conversation, with somebody in between who listens.
struct Between {
    sender: (UnixStream, UnixStream),
    receiver: (UnixStream, UnixStream),
    said: Vec<u8>,
    answered: Vec<u8>,
}

impl Between {
    fn new() -> Self {
        let (sender, receiver) = (socket(), socket());
        Between { sender, receiver, said: Vec::new(), answered: Vec::new() }
    }

    fn ends(&self, writer: &WriterOptions, reader: &ReaderOptions) -> (Writer, Reader) {
        let (a, b) = (self.sender.0.as_raw_fd(), self.receiver.0.as_raw_fd());
        (writer_on(a, Some(a), writer).unwrap(), reader_on(b, Some(b), reader).unwrap())
    }

    fn pass(&mut self) {
        use std::io::Write as _;
        let said = taken(&mut self.sender.1);
        self.receiver.1.write_all(&said).unwrap();
        self.said.extend(said);
    }

    fn pass_back(&mut self) {
        use std::io::Write as _;
        let answered = taken(&mut self.receiver.1);
        self.sender.1.write_all(&answered).unwrap();
        self.answered.extend(answered);
    }
}

fn read_out(reader: &mut Reader) {
    loop {
        match reader.next(&mut [0; 100]).unwrap() {
            Next::Data(_) => {}
            Next::Hole(length) => {
                reader.consume(length);
            }
            Next::Keep(_) => unreachable!("nothing is kept"),
            Next::End => return,
        }
    }
}

fn finish(between: &mut Between, writer: &mut Writer, reader: &mut Reader) {
    assert!(writer.finish().unwrap_err().would_block());
    between.pass();
    read_out(reader);
    reader.durable(LENGTH);
    reader.finish().unwrap();
    between.pass_back();
    writer.finish().unwrap();
}

fn one_way() -> Vec<u8> {
    let (a, mut b) = socket();
    let mut writer = writer_on(a.as_raw_fd(), None, &sender(false)).unwrap();
    writer.write(b"data").unwrap();
    writer.hole(HOLE).unwrap();
    writer.write(b"end").unwrap();
    writer.finish().unwrap();
    taken(&mut b)
}

fn two_way() -> Between {
    let mut between = Between::new();
    let (mut writer, mut reader) = between.ends(&sender(true), &ReaderOptions::default());
    assert!(offered(&mut writer).unwrap_err().would_block());
    between.pass();
    reader.open().unwrap();
    between.pass_back();
    writer.write(b"data").unwrap();
    writer.hole(HOLE).unwrap();
    writer.write(b"end").unwrap();
    finish(&mut between, &mut writer, &mut reader);
    between
}

fn resumed() -> Between {
    let copy = testing::file();
    copy.write_all_at(b"data", 0).unwrap();
    let held = held(&copy, 4);
    let mut between = Between::new();
    let (mut writer, mut reader) = between.ends(
        &WriterOptions { resume: true, ..sender(true) },
        &ReaderOptions { held: Some(held), ..ReaderOptions::default() },
    );
    assert!(offered(&mut writer).unwrap_err().would_block());
    between.pass();
    assert!(reader.open().unwrap_err().would_block());
    between.pass_back();
    assert_eq!(offered(&mut writer), Ok(4));
    writer.check(b"data");
    assert_eq!(writer.agrees(), Ok(true));
    between.said.clear();
    writer.hole(HOLE).unwrap();
    writer.write(b"end").unwrap();
    finish(&mut between, &mut writer, &mut reader);
    // ACCEPT alone.
    between.answered.truncate(32 + 64);
    between
}

/// An increment, written to a pipe.
fn keep() -> Vec<u8> {
    let (a, mut b) = socket();
    let description = Description {
        length: Some(65_536 + 3 + 4096),
        base: *b"identity of the full image......",
        ..Description::default()
    };
    let options =
        WriterOptions { description, digest: true, keep: true, ..WriterOptions::default() };
    let mut writer = writer_on(a.as_raw_fd(), None, &options).unwrap();
    writer.keep(65_536).unwrap();
    writer.write(b"new").unwrap();
    writer.keep(4096).unwrap();
    writer.finish().unwrap();
    taken(&mut b)
}

/// The answer of a receiver that was given another base.
fn refusal() -> Vec<u8> {
    let mut between = Between::new();
    let writer = WriterOptions { keep: true, ..sender(true) };
    let reader = ReaderOptions { keep: true, base: [1; 32], ..ReaderOptions::default() };
    let (mut writer, mut reader) = between.ends(&writer, &reader);
    assert!(offered(&mut writer).unwrap_err().would_block());
    between.pass();
    assert_eq!(reader.open().unwrap_err().errno(), libc::ESTALE);
    between.pass_back();
    between.answered
}

fn failure() -> Vec<u8> {
    let mut between = Between::new();
    let (mut writer, mut reader) = between.ends(&sender(true), &ReaderOptions::default());
    assert!(offered(&mut writer).unwrap_err().would_block());
    between.pass();
    reader.open().unwrap();
    between.pass_back();
    between.answered.clear();
    reader.abort(&Error::at(Operation::Write, Side::Sink, HOLE + 4, libc::ENOSPC));
    between.pass_back();
    between.answered
}

#[test]
fn the_examples_of_the_document_are_what_is_written() {
    let (two_way, resumed) = (two_way(), resumed());
    let mut text = document::text();
    let examples = [
        ("one-way", one_way()),
        ("sender", two_way.said),
        ("receiver", two_way.answered),
        ("offer", resumed.answered),
        ("resumed", resumed.said),
        ("failure", failure()),
        ("keep", keep()),
        ("refusal", refusal()),
    ];
    let write = std::env::var_os("SPARSESTREAM_WRITE_EXAMPLES").is_some();
    for (name, bytes) in examples {
        let mark = format!("<!-- example: {name} -->\n");
        let start = text.find(&mark).unwrap_or_else(|| panic!("no example {name}")) + mark.len();
        let end = start + text[start..].find("<!-- end -->").unwrap();
        let expected = format!("```\n{}```\n", hex(&bytes));
        if write {
            text.replace_range(start..end, &expected);
        } else {
            assert_eq!(&text[start..end], expected, "{name}");
        }
    }
    if write {
        std::fs::write(document::PATH, text).unwrap();
    }
}
