//! A writer driven in any order, against a receiver that answers right, wrong or nonsense: what it
//! sends is always a stream that may be.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use sparsestream::error::{Error, Operation, Side};
use sparsestream::sink::Sink;
use sparsestream::source::Description;
use sparsestream::wire::digest::Digest;
use sparsestream::wire::frame::{
    ANSWERS, Accept, CHECKSUM, DIGEST, End, HEADER, Header, Hello, Kind, MAX_OFFSET, RESTART,
    RESUME, Reason, VERSION,
};
use sparsestream::wire::sequence::{Limits, Sequence};
use sparsestream::wire::writer::{Writer, WriterOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

#[derive(Debug, Arbitrary)]
struct Input {
    two_way: bool,
    checksum: bool,
    digest: bool,
    resume: bool,
    restart: bool,
    interval: u16,
    total: Option<u32>,
    sizes: Option<(u64, u64, u64)>,
    accept: Answer,
    operations: Vec<Operate>,
}

#[derive(Debug, Arbitrary)]
enum Operate {
    Write {
        length: u32,
        value: u8,
    },
    Hole {
        length: u64,
    },
    SmallHole {
        length: u16,
    },
    Flush,
    Held,
    Check {
        length: u16,
        value: u8,
    },
    Agrees,
    Finish,
    Abort,
    /// The receiver reads so much.
    Drain {
        most: u16,
    },
    Answer(Answer),
}

#[derive(Debug, Arbitrary)]
enum Answer {
    Accept { features: u8, payload: u32, offset: u16, digest: Option<u64>, restart: bool },
    Right,
    Ack { offset: u64 },
    Status { right: bool },
    Keepalive,
    Failure { bytes: [u8; 10] },
    Bytes { bytes: Vec<u8> },
    Close,
}

/// A receiver that believes nothing.
#[derive(Default)]
struct Receiver {
    bytes: Vec<u8>,
    hello: Option<Hello>,
    sequence: Option<Sequence>,
    digest: Digest,
    features: u64,
    ended: bool,
    failed: bool,
}

impl Receiver {
    fn drain(&mut self, far: &mut UnixStream, most: usize) {
        let mut buffer = vec![0; most];
        while let Ok(count) = far.read(&mut buffer) {
            if count == 0 {
                break;
            }
            self.bytes.extend_from_slice(&buffer[..count]);
        }
        let mut at = 0;
        while let Some(head) = self.bytes[at..].first_chunk::<HEADER>() {
            let header = Header::decode(head).expect("a writer's own frame");
            let from = at + HEADER;
            let Some(body) = self.bytes.get(from..from + header.length as usize) else { break };
            at = from + body.len();
            let body = body.to_vec();
            self.take(&header, &body);
        }
        self.bytes.drain(..at);
    }

    fn take(&mut self, header: &Header, body: &[u8]) {
        assert!(!self.failed && (!self.ended || header.kind == Kind::Error), "{header:?}");
        if header.kind != Kind::Data {
            header.check(body).expect("a writer's own body");
        }
        if header.kind == Kind::Error {
            self.failed = true;
            return;
        }
        let Some(sequence) = &mut self.sequence else {
            assert_eq!(header.kind, Kind::Hello);
            let hello = Hello::decode(body).expect("a writer's own HELLO");
            let limits = Limits { size: MAX_OFFSET, payload: 4 << 20 };
            self.sequence = Some(Sequence::new(&hello, limits).expect("it is within them"));
            self.features = hello.required;
            self.hello = Some(hello);
            return;
        };
        match header.kind {
            Kind::Data => {
                sequence.data(header).expect("in its place");
                if header.checksum != 0 {
                    header.check(body).expect("a writer's own checksum");
                }
                self.digest.data(body);
            }
            Kind::Hole => {
                sequence.hole(header).expect("in its place");
                self.digest.hole(header.value);
            }
            Kind::Begin => sequence.resume(header.offset),
            Kind::Checkpoint => sequence.here(header).expect("in its place"),
            Kind::Keepalive => {}
            Kind::End => {
                let end = End::decode(body).expect("a writer's own END");
                sequence.end(header, &end).expect("it counts right");
                if header.value != 0 && sequence.start() == 0 {
                    assert_eq!(header.value, self.digest.value());
                }
                self.ended = true;
            }
            other => panic!("{other:?} from a sender"),
        }
    }

    fn answer(&self, answer: &Answer, far: &mut UnixStream) {
        let mut bytes = Vec::new();
        let mut put = |header: Header, body: &[u8]| {
            bytes.extend_from_slice(&header.encode());
            bytes.extend_from_slice(body);
        };
        let accept = |features, max_payload, offset: u64, digest, flags| Accept {
            version: VERSION,
            reason: Reason::None,
            max_payload,
            features,
            resume_offset: offset,
            resume_digest: digest,
            flags,
        };
        match answer {
            Answer::Accept { features, payload, offset, digest, restart } => {
                let flags = if *restart { RESTART } else { 0 };
                let mut of_zeros = Digest::default();
                of_zeros.hole(u64::from(*offset));
                let digest = digest.unwrap_or(of_zeros.value());
                // Most of them are such as may be.
                let wanted = u64::from(*features);
                let told = self.hello.filter(|_| features & 0x80 == 0);
                let features =
                    told.map_or(wanted, |hello| hello.required | hello.optional & wanted);
                let payload = payload % (5 << 20);
                let body = accept(features, payload, u64::from(*offset), digest, flags).encode();
                put(Header::with_body(Kind::Accept, 0, 0, &body), &body);
            }
            Answer::Right => {
                let body = accept(self.features, 4 << 20, 0, 0, 0).encode();
                put(Header::with_body(Kind::Accept, 0, 0, &body), &body);
            }
            Answer::Ack { offset } => put(Header::new(Kind::Ack, *offset, 0), &[]),
            Answer::Status { right } => {
                let at = self.sequence.map_or(0, |sequence| sequence.at());
                let digest = if self.features & DIGEST != 0 { self.digest.value() } else { 0 };
                put(Header::new(Kind::Status, at + u64::from(!right), digest), &[]);
            }
            Answer::Keepalive => put(Header::new(Kind::Keepalive, 0, 0), &[]),
            Answer::Failure { bytes } => put(Header::with_body(Kind::Error, 0, 0, bytes), bytes),
            Answer::Bytes { bytes: raw } => bytes.extend_from_slice(raw),
            Answer::Close => {
                let _ = far.shutdown(std::net::Shutdown::Write);
            }
        }
        let _ = far.write(&bytes);
    }
}

fuzz_target!(|input: Input| {
    let (mut far, near) = UnixStream::pair().expect("a socket");
    far.set_nonblocking(true).expect("a socket");
    let mut description = Description::default();
    if let Some((size, offset, data)) = input.sizes {
        description.source_size = Some(size);
        description.source_offset = offset;
        description.data_bytes = Some(data);
    }
    let options = WriterOptions {
        description,
        checksum: input.checksum,
        digest: input.digest,
        resume: input.resume && input.two_way,
        restart: input.restart,
        checkpoint_interval: input.interval.into(),
        // At once, or never.
        keepalive: Duration::from_nanos(u64::from(input.interval % 2)),
    };
    let fd = near.as_raw_fd();
    let Ok(mut writer) = Writer::new(fd, input.two_way.then_some(fd), &options) else { return };
    if let Some(total) = input.total {
        if writer.announce(total.into()).is_err() {
            return;
        }
    }
    let mut receiver = Receiver::default();
    let _ = writer.held();
    receiver.drain(&mut far, 4096);
    receiver.answer(&input.accept, &mut far);
    let mut failed = None;
    let mut finished = false;
    for operation in input.operations.iter().take(64) {
        let outcome = match operation {
            Operate::Write { length, value } => {
                let buffer = vec![*value; 1 + (*length as usize % 400_000)];
                writer.write(&buffer).map(|count| assert!(count > 0 && count <= buffer.len()))
            }
            Operate::Hole { length } => {
                let length = (*length).max(1);
                writer.hole(length).map(|made| assert!(made > 0 && made <= length))
            }
            Operate::SmallHole { length } => writer.hole(u64::from(*length) + 1).map(drop),
            Operate::Flush => writer.flush(),
            Operate::Held => writer.held().map(|held| {
                // As a transfer would: all of it, and no more.
                if held > 0 {
                    writer.check_hole(held);
                }
            }),
            Operate::Check { length, value } => {
                if writer.held().is_ok_and(|held| held > 0) {
                    writer.check(&vec![*value; usize::from(*length)]);
                }
                Ok(())
            }
            Operate::Agrees => writer.agrees().map(drop),
            Operate::Finish => writer.finish().map(|()| finished = true),
            Operate::Abort => {
                writer.abort(&Error::at(Operation::Read, Side::Source, 0, libc::EIO));
                Ok(())
            }
            Operate::Drain { most } => {
                receiver.drain(&mut far, usize::from(*most) + 1);
                Ok(())
            }
            Operate::Answer(answer) => {
                receiver.answer(answer, &mut far);
                Ok(())
            }
        };
        match outcome {
            Ok(()) => {}
            Err(error) if error.would_block() || error.interrupted() => {}
            Err(error) => {
                failed.get_or_insert(error.errno());
            }
        }
    }
    if finished && failed.is_none() {
        receiver.drain(&mut far, 4096);
        assert!(receiver.ended, "it is finished before its END");
    }
    drop(writer);
    receiver.drain(&mut far, 65_536);
    let known = ANSWERS | CHECKSUM | DIGEST | RESUME;
    assert!(receiver.hello.is_none_or(|hello| (hello.required | hello.optional) & !known == 0));
});
