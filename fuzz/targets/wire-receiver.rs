//! The receiving machine against frames that are right, nearly right or nonsense, cut anywhere. No
//! descriptor, no clock.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use sparsestream::digest::Digest;
use sparsestream::error::{Error, Operation, Side};
use sparsestream::wire::proto::body::{ANSWERS, DIGEST, End, Hello};
use sparsestream::wire::proto::codec::{MAX_OFFSET, UNKNOWN, VERSION};
use sparsestream::wire::proto::frame::{self, Frame, HEADER, Header, Kind};
use sparsestream::wire::proto::receiver::{Config, Held, Piece, Receiver, Stage};
use sparsestream::wire::proto::{Fault, Input};
use std::time::{Duration, Instant};

#[derive(Debug, Arbitrary)]
struct Story {
    hello: HelloInput,
    answers: bool,
    max_size: Option<u32>,
    max_payload: Option<u16>,
    held: Option<(u16, bool)>,
    restart: bool,
    checksum: bool,
    digest: bool,
    keep: bool,
    base: u8,
    frames: Vec<Say>,
    reads: Vec<u16>,
    chunks: Vec<u8>,
    ending: Ending,
}

#[derive(Debug, Arbitrary)]
struct HelloInput {
    left_out: bool,
    version: Option<(u16, u16)>,
    max_payload: Option<u32>,
    required: u8,
    optional: u8,
    sizes: Option<(u64, u64, u64, u64)>,
    length: u32,
    base: u8,
}

#[derive(Debug, Arbitrary)]
enum Say {
    Data { length: u16, value: u8, checksum: bool, at: Option<u64> },
    Hole { length: u64, at: Option<u64> },
    SmallHole { length: u16 },
    Keep { length: u16, at: Option<u64> },
    Begin { at: u16, value: u8 },
    Checkpoint { right: bool },
    Keepalive,
    Ignored { length: u8 },
    End { right: bool },
    Failure { bytes: [u8; 12] },
    Bare { kind: u8, length: u32, offset: u64, value: u64, checksum: u32 },
    Bytes { bytes: Vec<u8> },
    Flip { at: u16, bit: u8 },
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Ending {
    Finish,
    Abort,
    FinishAndAbort { sent: u8 },
}

const KINDS: [Kind; 13] = [
    Kind::Hello,
    Kind::Accept,
    Kind::Begin,
    Kind::Data,
    Kind::Hole,
    Kind::Checkpoint,
    Kind::Ack,
    Kind::Keepalive,
    Kind::End,
    Kind::Status,
    Kind::Error,
    Kind::Keep,
    Kind::Ignored,
];

/// Much data finds no more than little, and takes its time.
fn few(length: u16) -> u16 {
    if length > 60_000 { length % 6000 } else { length % 300 }
}

fn put(bytes: &mut Vec<u8>, header: Header, body: &[u8]) {
    bytes.extend_from_slice(&header.encode());
    bytes.extend_from_slice(body);
}

fn hello(h: &HelloInput) -> Hello {
    let (length, source_size, source_offset, data_bytes) =
        h.sizes.unwrap_or((u64::from(h.length), UNKNOWN, 0, UNKNOWN));
    let (version, least_version) = h.version.unwrap_or((VERSION, VERSION));
    Hello {
        version,
        least_version,
        max_payload: h.max_payload.unwrap_or(1 << 20),
        required: u64::from(h.required & 0x3f),
        optional: u64::from(h.optional),
        length,
        source_size,
        source_offset,
        data_bytes,
        transfer_id: [0; 16],
        identity: [0; 32],
        base: [h.base & 1; 32],
        keepalive_ms: 0,
    }
}

/// The content that a sender of these frames has sent.
struct Said {
    bytes: Vec<u8>,
    at: u64,
    digest: Digest,
    counts: End,
    digests: bool,
}

impl Said {
    fn frame(&mut self, kind: Kind, offset: u64, value: u64, body: &[u8]) {
        put(&mut self.bytes, Header::with_body(kind, offset, value, body), body);
    }

    fn say(&mut self, say: &Say) {
        match say {
            Say::Data { length, value, checksum, at } => {
                let length = few(*length);
                let body = vec![*value; usize::from(length)];
                let mut header = Header::with_body(Kind::Data, at.unwrap_or(self.at), 0, &body);
                if !checksum {
                    header.checksum = 0;
                }
                put(&mut self.bytes, header, &body);
                if self.digests {
                    self.digest.data(&body);
                }
                self.at = self.at.wrapping_add(u64::from(length));
                self.counts.data_bytes += u64::from(length);
            }
            Say::Hole { length, at } => self.hole(*length, *at),
            Say::SmallHole { length } => self.hole(u64::from(*length), None),
            Say::Keep { length, at } => {
                let length = u64::from(*length);
                self.frame(Kind::Keep, at.unwrap_or(self.at), length, &[]);
                if self.digests {
                    self.digest.keep(length);
                }
                self.at = self.at.wrapping_add(length);
                self.counts.keep_bytes += length;
            }
            Say::Begin { at, value } => {
                self.at = u64::from(few(*at));
                self.frame(Kind::Begin, self.at, u64::from(*value), &[]);
                self.counts = End::default();
                self.digest = Digest::default();
                if self.digests {
                    self.digest.hole(self.at);
                }
            }
            Say::Checkpoint { right } => {
                let mut body = if self.digests { self.digest.root() } else { [0; 32] };
                body[0] ^= u8::from(!right);
                self.frame(Kind::Checkpoint, self.at, 0, &body);
            }
            Say::Keepalive => self.frame(Kind::Keepalive, self.at, 0, &[]),
            Say::Ignored { length } => {
                self.frame(Kind::Ignored, self.at, 0, &vec![7; usize::from(*length)]);
            }
            Say::End { right } => {
                let digest = if self.digests == *right { self.digest.root() } else { [0; 32] };
                let body = End { digest, ..self.counts }.encode();
                self.frame(Kind::End, self.at, 0, &body);
            }
            Say::Failure { bytes } => self.frame(Kind::Error, self.at, 1, bytes),
            Say::Bare { kind, length, offset, value, checksum } => {
                let kind = KINDS[usize::from(*kind) % KINDS.len()];
                let (length, offset, value, checksum) = (*length, *offset, *value, *checksum);
                put(&mut self.bytes, Header { kind, length, offset, value, checksum }, &[]);
            }
            Say::Bytes { bytes } => self.bytes.extend_from_slice(bytes),
            Say::Flip { at, bit } => {
                let length = self.bytes.len();
                if let Some(byte) = self.bytes.get_mut(usize::from(*at) % length.max(1)) {
                    *byte ^= 1 << (bit % 8);
                }
            }
        }
    }

    fn hole(&mut self, length: u64, at: Option<u64>) {
        self.frame(Kind::Hole, at.unwrap_or(self.at), length, &[]);
        if self.digests {
            self.digest.hole(length);
        }
        self.at = self.at.wrapping_add(length);
        self.counts.hole_bytes = self.counts.hole_bytes.wrapping_add(length);
    }
}

fn bytes(story: &Story) -> Vec<u8> {
    let hello = hello(&story.hello);
    let mut said = Said {
        bytes: Vec::with_capacity(2048),
        at: 0,
        digest: Digest::default(),
        counts: End::default(),
        // As the receiver decides.
        digests: hello.required & DIGEST != 0
            || hello.required & ANSWERS != 0
                && hello.optional & DIGEST != 0
                && (story.digest || story.held.is_some()),
    };
    if !story.hello.left_out {
        said.frame(Kind::Hello, 0, 0, &hello.encode());
    }
    for say in &story.frames {
        said.say(say);
        if said.bytes.len() > 60_000 {
            break;
        }
    }
    said.bytes
}

fn error_of(fault: Fault) -> Error {
    match fault {
        Fault::Peer(error) => error,
        Fault::Refused(refused) => refused.error(Operation::Read, Side::Source, 0),
    }
}

/// Everything that was answered, as whole frames, the last of which is the last.
fn check_answers(answers: &[u8], cut: bool) {
    let mut rest = answers;
    let mut last = false;
    while !rest.is_empty() {
        match frame::first(rest).expect("our own") {
            Frame::Whole(header, _) => {
                assert!(!last, "something follows the last frame");
                last = matches!(header.kind, Kind::Status | Kind::Error);
                rest = &rest[header.whole()..];
            }
            Frame::Incomplete(_) => {
                assert!(cut, "an answer is cut off");
                return;
            }
        }
    }
}

struct Run<'a> {
    receiver: Receiver,
    config: Config,
    zeros: bool,
    stream: &'a [u8],
    reads: std::iter::Cycle<std::slice::Iter<'a, u16>>,
    answers: Vec<u8>,
    now: Instant,
    at: Option<u64>,
    acknowledged: usize,
    /// The fewest bytes of data in one step.
    least: usize,
}

impl Run<'_> {
    fn transmit(&mut self) {
        let bytes = self.receiver.poll_transmit();
        self.answers.extend_from_slice(bytes);
        let count = bytes.len();
        self.receiver.transmitted(count);
        assert!(!self.receiver.speaks());
    }

    fn fail(&mut self, fault: impl Into<Fault>) -> Option<i32> {
        let error = error_of(fault.into());
        assert!(error.errno() > 0);
        if error.is_peers() {
            self.receiver.abandon()
        } else {
            self.receiver.fail(&error)
        }
        Some(error.errno())
    }

    // A digest has a place of its own on the stack, which the other steps need not clear.
    #[inline(never)]
    fn prove(&mut self, length: u64) {
        self.now += Duration::from_millis(700);
        self.receiver.handle_timeout(self.now);
        let mut digest = Digest::default();
        if self.zeros {
            digest.hole(length);
        } else {
            digest.data(&vec![1; length as usize]);
        }
        self.receiver.proven(digest).expect("it was asked for");
    }

    /// One step on what is there. `None` if more must come, or an errno that ends it, or 0.
    fn step(&mut self, there: usize) -> Option<Option<i32>> {
        let here = &self.stream[..there];
        match self.receiver.piece() {
            Piece::None => {
                if let Stage::Proving(length) = self.receiver.stage() {
                    self.prove(length);
                    return Some(None);
                }
                match self.receiver.handle_input(here) {
                    Ok(Input::Incomplete(need)) => {
                        assert!(need > here.len());
                        return None;
                    }
                    Ok(Input::Taken(count)) => {
                        assert!(count >= HEADER);
                        self.stream = &self.stream[count..];
                        return Some(None);
                    }
                    Err(fault) => return Some(self.fail(fault)),
                }
            }
            Piece::Data { left, .. } => {
                assert!(left > 0);
                let most =
                    self.reads.next().map_or(4096, |most| 1 + usize::from(*most)).max(self.least);
                let count = most.min(here.len()).min(left as usize);
                if count == 0 {
                    return None;
                }
                let last = count == left as usize;
                // Not at each step of a long frame: it reads all that is left.
                let examined = if last || here.len() < left as usize {
                    self.receiver.examine(here)
                } else {
                    Ok(())
                };
                if self.receiver.sees_payload() {
                    if let Err(refused) = self.receiver.payload(&here[..count]) {
                        return Some(self.fail(refused));
                    }
                    assert_eq!(examined, Ok(()));
                } else {
                    assert!(self.receiver.payload_passed(left + 1).is_err());
                    self.receiver.payload_passed(count as u32).expect("it is there");
                }
                self.stream = &self.stream[count..];
                self.moved(count as u64);
            }
            Piece::Hole(left) | Piece::Keep(left) => {
                assert!(!self.receiver.pass(left + 1));
                assert!(self.receiver.pass(left.div_ceil(2)));
                assert!(left == 1 || self.receiver.pass(left / 2));
                self.moved(left);
            }
        }
        Some(None)
    }

    fn moved(&mut self, count: u64) {
        let at = self.at.unwrap_or(self.receiver.start()) + count;
        self.at = Some(at);
        assert_eq!(self.receiver.at(), at);
        assert!(at <= self.config.max_size, "beyond the limit");
        let total = self.receiver.hello().expect("it came").length;
        assert!(total == UNKNOWN || at <= total, "beyond the announcement");
        if self.acknowledged < 16 {
            self.acknowledged += 1;
            self.receiver.durable(at);
        }
    }
}

fuzz_target!(|story: Story| {
    let stream = bytes(&story);
    let config = Config {
        answers: story.answers,
        max_size: story.max_size.map_or(MAX_OFFSET, u64::from),
        max_payload: story.max_payload.map_or(4 << 20, |most| 4096 + u32::from(most)),
        checksum: story.checksum,
        digest: story.digest,
        keep: story.keep,
        base: [story.base & 1; 32],
        held: story.held.map(|(length, _)| Held {
            length: few(length).into(),
            transfer_id: [0; 16],
            identity: [0; 32],
        }),
        restart: story.restart,
        keepalive: Duration::ZERO,
    };
    let mut run = Run {
        receiver: Receiver::new(&config).expect("there is memory"),
        config,
        zeros: story.held.is_some_and(|(_, zeros)| zeros),
        stream: &stream,
        reads: story.reads.iter().cycle(),
        answers: Vec::with_capacity(512),
        now: Instant::now(),
        at: None,
        acknowledged: 0,
        // A long stream byte by byte finds nothing that a short one does not.
        least: stream.len() / 50,
    };
    let mut chunks = story.chunks.iter().cycle();
    let least = run.least;
    let mut there = 0usize;
    let failed = loop {
        let before = run.stream.len();
        match run.step(there) {
            Some(Some(errno)) => break Some(errno),
            Some(None) => there -= before - run.stream.len(),
            None if there == run.stream.len() => break Some(0),
            None => {
                let chunk =
                    chunks.next().map_or(60_000, |chunk| 1 + usize::from(*chunk) * 16).max(least);
                there = run.stream.len().min(there + chunk);
            }
        }
        run.transmit();
        if run.receiver.stage() == Stage::Ended {
            break None;
        }
    };
    let failure = Error::at(Operation::Sync, Side::Sink, 1, libc::EIO);
    let mut cut = false;
    match (failed, story.ending) {
        (Some(_), _) => {
            assert!(run.receiver.finish().is_err());
            run.receiver.fail(&failure);
        }
        (None, Ending::Finish) => {
            let hello = run.receiver.hello().expect("it came");
            assert!(hello.length == UNKNOWN || hello.length == run.receiver.at());
            run.receiver.finish().expect("it has ended");
            assert_eq!(run.receiver.finish(), Ok(()));
        }
        (None, Ending::Abort) => {
            run.receiver.fail(&failure);
            assert!(run.receiver.finish().is_err());
        }
        (None, Ending::FinishAndAbort { sent }) => {
            run.receiver.finish().expect("it has ended");
            let bytes = run.receiver.poll_transmit();
            let count = usize::from(sent % 128).min(bytes.len());
            if sent < 128 {
                run.answers.extend_from_slice(&bytes[..count]);
                run.receiver.transmitted(count);
                cut = true;
                run.receiver.fail(&failure);
            } else {
                // The transport is not ready, and insists on being offered the same bytes again.
                let (insists, at) = (bytes[..count].to_vec(), bytes.as_ptr());
                run.receiver.offered(count);
                run.receiver.fail(&failure);
                let bytes = run.receiver.poll_transmit();
                assert!(bytes.starts_with(&insists) && bytes.as_ptr() == at);
            }
        }
    }
    run.transmit();
    check_answers(&run.answers, cut);
});
