//! A reader against frames that are right, nearly right, or nothing of the kind, cut anywhere.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use sparsestream::error::{Error, Operation, Side};
use sparsestream::source::{Read, Source};
use sparsestream::wait::Waiting;
use sparsestream::wire::digest::Digest;
use sparsestream::wire::frame::{
    DIGEST, End, HEADER, Header, Hello, Kind, MAX_OFFSET, UNKNOWN, VERSION,
};
use sparsestream::wire::reader::{Held, Reader, ReaderOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

#[derive(Debug, Arbitrary)]
struct Input {
    hello: HelloInput,
    answers: bool,
    max_size: Option<u32>,
    max_payload: Option<u16>,
    held: Option<(u16, u64, bool)>,
    restart: bool,
    checksum: bool,
    digest: bool,
    frames: Vec<Frame>,
    reads: Vec<u16>,
    chunks: Vec<u8>,
    abort: bool,
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
}

#[derive(Debug, Arbitrary)]
enum Frame {
    Data { length: u16, value: u8, checksum: bool, at: Option<u64> },
    Hole { length: u64, at: Option<u64> },
    SmallHole { length: u16 },
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

fn kind(number: u8) -> Kind {
    [
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
        Kind::Ignored,
    ][usize::from(number) % 12]
}

fn put(bytes: &mut Vec<u8>, header: Header, body: &[u8]) {
    bytes.extend_from_slice(&header.encode());
    bytes.extend_from_slice(body);
}

/// The bytes that a sender of these frames would write.
fn bytes(input: &Input) -> Vec<u8> {
    let mut bytes = Vec::new();
    let h = &input.hello;
    let (length, source_size, source_offset, data_bytes) =
        h.sizes.unwrap_or((u64::from(h.length), UNKNOWN, 0, UNKNOWN));
    let (version, least_version) = h.version.unwrap_or((VERSION, VERSION));
    let hello = Hello {
        version,
        least_version,
        max_payload: h.max_payload.unwrap_or(1 << 20),
        required: u64::from(h.required & 0x1f),
        optional: u64::from(h.optional),
        length,
        source_size,
        source_offset,
        data_bytes,
        transfer_id: [0; 16],
        identity: [0; 32],
        keepalive_ms: 0,
    };
    if !h.left_out {
        let body = hello.encode();
        put(&mut bytes, Header::with_body(Kind::Hello, 0, 0, &body), &body);
    }
    let (mut at, mut digest, mut counts) = (0u64, Digest::default(), End::default());
    for frame in &input.frames {
        match frame {
            Frame::Data { length, value, checksum, at: elsewhere } => {
                let body = vec![*value; usize::from(*length)];
                let mut header = Header::with_body(Kind::Data, elsewhere.unwrap_or(at), 0, &body);
                if !checksum {
                    header.checksum = 0;
                }
                put(&mut bytes, header, &body);
                digest.data(&body);
                at = at.wrapping_add(u64::from(*length));
                counts.data_bytes = counts.data_bytes.wrapping_add(u64::from(*length));
            }
            Frame::Hole { .. } | Frame::SmallHole { .. } => {
                let (length, elsewhere) = match frame {
                    Frame::Hole { length, at } => (*length, *at),
                    Frame::SmallHole { length } => (u64::from(*length), None),
                    _ => unreachable!(),
                };
                put(&mut bytes, Header::new(Kind::Hole, elsewhere.unwrap_or(at), length), &[]);
                digest.hole(length);
                at = at.wrapping_add(length);
                counts.hole_bytes = counts.hole_bytes.wrapping_add(length);
            }
            Frame::Begin { at: to, value } => {
                at = u64::from(*to);
                put(&mut bytes, Header::new(Kind::Begin, at, u64::from(*value)), &[]);
                counts = End::default();
            }
            Frame::Checkpoint { right } => {
                let value = digest.value().wrapping_add(u64::from(!right));
                put(&mut bytes, Header::new(Kind::Checkpoint, at, value), &[]);
            }
            Frame::Keepalive => put(&mut bytes, Header::new(Kind::Keepalive, at, 0), &[]),
            Frame::Ignored { length } => {
                let body = vec![7; usize::from(*length)];
                put(&mut bytes, Header::with_body(Kind::Ignored, at, 0, &body), &body);
            }
            Frame::End { right } => {
                let body = counts.encode();
                let used = hello.required & DIGEST != 0;
                let value = if used == *right { digest.value() } else { 0 };
                put(&mut bytes, Header::with_body(Kind::End, at, value, &body), &body);
            }
            Frame::Failure { bytes: body } => {
                put(&mut bytes, Header::with_body(Kind::Error, at, 1, body), body);
            }
            Frame::Bare { kind: number, length, offset, value, checksum } => {
                let (length, offset) = (*length, *offset);
                let header = Header {
                    kind: kind(*number),
                    length,
                    offset,
                    value: *value,
                    checksum: *checksum,
                };
                put(&mut bytes, header, &[]);
            }
            Frame::Bytes { bytes: raw } => bytes.extend_from_slice(raw),
            Frame::Flip { at, bit } => {
                let length = bytes.len();
                if let Some(byte) = bytes.get_mut(usize::from(*at) % length.max(1)) {
                    *byte ^= 1 << (bit % 8);
                }
            }
        }
        if bytes.len() > 60_000 {
            break;
        }
    }
    bytes
}

fuzz_target!(|input: Input| {
    let stream = bytes(&input);
    let (mut far, near) = UnixStream::pair().expect("a socket");
    far.set_nonblocking(true).expect("a socket");
    let options = ReaderOptions {
        max_size: input.max_size.map_or(MAX_OFFSET, u64::from),
        max_payload: input.max_payload.map_or(4 << 20, |most| 4096 + u32::from(most)),
        checksum: input.checksum,
        digest: input.digest,
        held: input.held.map(|(length, digest, zeros)| {
            let mut of_zeros = Digest::default();
            of_zeros.hole(length.into());
            let digest = if zeros { of_zeros.value() } else { digest };
            Held { length: length.into(), digest, transfer_id: [0; 16], identity: [0; 32] }
        }),
        restart: input.restart,
    };
    let fd = near.as_raw_fd();
    let mut reader = Reader::new(fd, input.answers.then_some(fd), &options).expect("it is open");
    let mut reads = input.reads.iter().cycle();
    let mut chunks = input.chunks.iter().cycle();
    let (mut at, mut sent, mut handed) = (None, 0, 0u64);
    let mut result = None;
    let mut acknowledged = 0;
    assert_eq!(reader.tells_holes(), Ok(true));
    // A long stream byte by byte finds nothing that a short one does not, and takes seconds.
    let least = stream.len() / 2000;
    // Each turn takes a byte at least, or shows that none is left.
    while result.is_none() {
        if sent == stream.len() {
            far.shutdown(std::net::Shutdown::Write).expect("a socket");
        }
        let chunk = chunks.next().map_or(60_000, |chunk| 1 + usize::from(*chunk) * 16).max(least);
        let to = stream.len().min(sent + chunk);
        far.write_all(&stream[sent..to]).expect("there is room");
        let ended = sent == stream.len();
        sent = to;
        loop {
            let most = reads.next().map_or(4096, |most| 1 + usize::from(*most)).max(least);
            let mut buffer = vec![0; most];
            let outcome = reader.prepare().and_then(|()| reader.read(&mut buffer));
            let begun = reader.start();
            let reached = match outcome {
                Ok(Read::Data(count)) => {
                    assert!(count > 0 && count <= most);
                    count as u64
                }
                Ok(Read::AtHole) => {
                    let section = reader.section().expect("at a hole");
                    assert!(section.length > 0);
                    assert_eq!(section.offset, at.unwrap_or(begun));
                    let part = section.length.div_ceil(2);
                    assert!(reader.skip(section.length + 1).is_err());
                    reader.skip(part).expect("within the hole");
                    if part < section.length {
                        assert_eq!(reader.read(&mut buffer), Ok(Read::AtHole));
                        reader.skip(section.length - part).expect("the rest of it");
                    }
                    section.length
                }
                Ok(Read::End) => {
                    result = Some(Ok(()));
                    break;
                }
                Err(error) if error.would_block() => {
                    assert!(!ended, "it waits for nothing");
                    let there =
                        matches!(reader.waiting(), Waiting::Descriptor { fd: on, .. } if on == fd);
                    assert!(there, "it waits for what cannot come");
                    break;
                }
                Err(error) => {
                    result = Some(Err(error));
                    break;
                }
            };
            handed += reached;
            at = Some(at.unwrap_or(begun) + reached);
            if let Ok(section) = reader.section() {
                assert_eq!(Some(section.offset), at);
            }
            // So few that there is room for them, though nobody reads them yet.
            if acknowledged < 16 && input.abort != input.restart {
                acknowledged += 1;
                reader.stored(at.unwrap_or_default());
            }
            let told = reader.told().expect("it was heard").expect("it is a wire");
            assert_eq!((told.start, told.description.length), (begun, reader.total()));
            assert!(!told.answers || input.answers);
            assert!((told.checksum || !input.checksum) && (told.digest || !input.digest));
            assert!(at <= Some(options.max_size), "beyond the limit");
            assert!(
                reader.total().is_none_or(|total| at <= Some(total)),
                "beyond the announcement"
            );
        }
    }
    match result.expect("it has ended") {
        Ok(()) => {
            assert!(reader.total().is_none_or(|total| reader.start() + handed == total));
            if input.abort {
                reader.abort(&Error::at(Operation::Sync, Side::Sink, 1, libc::EIO));
                assert!(reader.finish().is_err());
            } else {
                reader.finish().expect("there is room for the last word");
                assert_eq!(reader.finish(), Ok(()));
            }
        }
        Err(error) => {
            assert!(error.errno() > 0);
            assert_eq!(reader.read(&mut [0; 9]).map_err(|again| again.errno()), Err(error.errno()));
            assert!(reader.finish().is_err());
        }
    }
    drop(reader);
    // What was answered is whole frames, the last of which says how it went.
    let mut answers = Vec::new();
    let _ = far.read_to_end(&mut answers);
    let mut rest = &answers[..];
    while let Some(head) = rest.first_chunk::<HEADER>() {
        let header = Header::decode(head).expect("our own");
        rest = &rest[HEADER + header.length as usize..];
    }
    assert!(rest.is_empty());
});
