//! Frames that no honest sender sends. Each ends in a clear error, with nothing extended.

use super::*;
use crate::sys::Call;
use crate::sys::inject::{self, Fault};
use crate::testing;
use crate::wire::proto::body::{
    ANSWERS, Accept, CHECKSUM, DIGEST, End, Hello, KEEP, RESUME, Reason,
};
use crate::wire::proto::codec::{MAX_OFFSET, MAX_PAYLOAD, UNKNOWN, VERSION};
use crate::wire::proto::frame::{HEADER, Header, Kind};
use std::io::Write as _;
use std::time::Instant;

const LENGTH: u64 = 1 << 20;

fn hello() -> Hello {
    Hello { length: LENGTH, ..testing::hello() }
}

fn greeting(hello: &Hello) -> Vec<u8> {
    with_body(Kind::Hello, 0, 0, &hello.encode())
}

fn with_body(kind: Kind, offset: u64, value: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = Header::with_body(kind, offset, value, body).encode().to_vec();
    bytes.extend_from_slice(body);
    bytes
}

fn bare(kind: Kind, offset: u64, value: u64) -> Vec<u8> {
    Header::new(kind, offset, value).encode().to_vec()
}

fn data(offset: u64, bytes: &[u8]) -> Vec<u8> {
    let header = Header { length: bytes.len() as u32, ..Header::new(Kind::Data, offset, 0) };
    let mut frame = header.encode().to_vec();
    frame.extend_from_slice(bytes);
    frame
}

fn end(offset: u64, data_bytes: u64, hole_bytes: u64) -> Vec<u8> {
    let end = End { data_bytes, hole_bytes, ..End::default() };
    with_body(Kind::End, offset, 0, &end.encode())
}

/// A header whose bytes were changed, with a checksum that is right again.
fn changed(mut frame: Vec<u8>, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    change(&mut frame);
    let checksum = crc32c::crc32c(&frame[..HEADER - 4]);
    frame[HEADER - 4..HEADER].copy_from_slice(&checksum.to_le_bytes());
    frame
}

fn after_hello(frames: &[Vec<u8>]) -> Vec<u8> {
    [greeting(&hello()), frames.concat()].concat()
}

/// The error with which a receiver meets these bytes, and the size of its file.
fn received(bytes: &[u8], options: &ReaderOptions) -> (Error, u64) {
    let (mut a, b) = socket();
    a.write_all(bytes).unwrap();
    a.shutdown(std::net::Shutdown::Write).unwrap();
    let copy = testing::file();
    let mut reader = reader_on(b.as_raw_fd(), Some(b.as_raw_fd()), options).unwrap();
    let mut sink = to(&copy);
    let mut receiver = Moving::new(&mut reader, sink.as_mut());
    for _ in 0..100 {
        receiver.turn();
    }
    let error = receiver.result.expect("it has ended").expect_err("it is refused");
    (error, copy.metadata().unwrap().len())
}

#[test]
fn every_hostile_stream_is_refused_and_extends_nothing() {
    let h = hello();
    let of = |change: fn(&mut Hello)| {
        let mut hello = h;
        change(&mut hello);
        greeting(&hello)
    };
    let flow = after_hello;
    let huge = MAX_OFFSET;
    let body_of = |kind, length: usize| with_body(kind, 0, 0, &vec![0; length]);
    // Name, bytes, errno. Unless stated otherwise, the file stays empty.
    let cases: Vec<(&str, Vec<u8>, i32)> = vec![
        // Before HELLO.
        ("nothing at all", vec![], libc::ENODATA),
        ("one byte", vec![0xf5], libc::ENODATA),
        ("text of another protocol", vec![b'G'; 64], libc::EPROTO),
        ("zeros", vec![0; 64], libc::EPROTO),
        ("a hole of 16 TiB and no HELLO", bare(Kind::Hole, 0, 16 << 40), libc::EPROTO),
        ("data and no HELLO", data(0, b"data"), libc::EPROTO),
        ("END and no HELLO", end(0, 0, 0), libc::EPROTO),
        ("BEGIN and no HELLO", bare(Kind::Begin, 0, 0), libc::EPROTO),
        ("KEEPALIVE and no HELLO", bare(Kind::Keepalive, 0, 0), libc::EPROTO),
        ("an ignored frame and no HELLO", bare(Kind::Ignored, 0, 0), libc::EPROTO),
        // HELLO itself.
        ("half of HELLO", greeting(&h)[..100].to_vec(), libc::ENODATA),
        (
            "HELLO with a flipped header",
            {
                let mut bytes = greeting(&h);
                bytes[9] ^= 1;
                bytes
            },
            libc::EBADMSG,
        ),
        (
            "HELLO with a flipped body",
            {
                let mut bytes = greeting(&h);
                bytes[60] ^= 1;
                bytes
            },
            libc::EBADMSG,
        ),
        ("HELLO too short", body_of(Kind::Hello, 143), libc::EPROTO),
        ("HELLO too long", body_of(Kind::Hello, 4097), libc::EPROTO),
        ("HELLO that claims 4 GiB", changed(greeting(&h), |b| b[4..8].fill(0xff)), libc::EPROTO),
        ("HELLO at an offset", changed(greeting(&h), |b| b[8] = 1), libc::EPROTO),
        ("HELLO with a value", changed(greeting(&h), |b| b[16] = 1), libc::EPROTO),
        ("version 0", of(|h| (h.version, h.least_version) = (0, 0)), libc::EPROTONOSUPPORT),
        ("a version to come", of(|h| (h.version, h.least_version) = (9, 2)), libc::EPROTONOSUPPORT),
        (
            "versions upside down",
            of(|h| (h.version, h.least_version) = (1, 2)),
            libc::EPROTONOSUPPORT,
        ),
        ("a feature that nobody knows", of(|h| h.required = 1 << 63), libc::EPROTONOSUPPORT),
        ("no payload", of(|h| h.max_payload = 0), libc::EPROTO),
        ("a payload beyond every limit", of(|h| h.max_payload = MAX_PAYLOAD + 1), libc::EPROTO),
        ("a length beyond every offset", of(|h| h.length = MAX_OFFSET + 1), libc::EPROTO),
        ("a range beyond the source", of(|h| h.source_size = LENGTH - 1), libc::EPROTO),
        ("a range that wraps", of(|h| h.source_offset = u64::MAX - 5), libc::EPROTO),
        ("more data than there is", of(|h| h.data_bytes = LENGTH + 1), libc::EPROTO),
        ("HELLO twice", flow(&[greeting(&h)]), libc::EPROTO),
        // Frames out of place.
        ("BEGIN without an offer", flow(&[bare(Kind::Begin, 0, 0)]), libc::EPROTO),
        ("ACCEPT from a sender", flow(&[body_of(Kind::Accept, 64)]), libc::EPROTO),
        ("ACK from a sender", flow(&[bare(Kind::Ack, 0, 0)]), libc::EPROTO),
        ("STATUS from a sender", flow(&[body_of(Kind::Status, 32)]), libc::EPROTO),
        ("CHECKPOINT without a digest", flow(&[body_of(Kind::Checkpoint, 32)]), libc::EPROTO),
        ("CHECKPOINT too short", flow(&[body_of(Kind::Checkpoint, 31)]), libc::EPROTO),
        ("KEEP that is not in force", flow(&[bare(Kind::Keep, 0, 1)]), libc::EPROTO),
        ("KEEP that the receiver did not ask for", of(|h| h.required = KEEP), libc::EOPNOTSUPP),
        ("resuming required", of(|h| h.required = RESUME), libc::EPROTO),
        (
            "a type that nobody knows",
            flow(&[changed(bare(Kind::Keepalive, 0, 0), |b| b[3] = 77)]),
            libc::EPROTO,
        ),
        ("type 0", flow(&[changed(bare(Kind::Keepalive, 0, 0), |b| b[3] = 0)]), libc::EPROTO),
        ("an ignored frame too long", flow(&[body_of(Kind::Ignored, 4097)]), libc::EPROTO),
        (
            "an ignored frame cut off",
            flow(&[with_body(Kind::Ignored, 0, 0, &[0; 100])[..80].to_vec()]),
            libc::ENODATA,
        ),
        ("KEEPALIVE with a body", flow(&[body_of(Kind::Keepalive, 4)]), libc::EPROTO),
        // Data.
        ("data of length zero", flow(&[data(0, b"")]), libc::EPROTO),
        ("data that starts late", flow(&[data(1, b"data")]), libc::EPROTO),
        ("data far beyond", flow(&[data(huge - 4, b"data")]), libc::EPROTO),
        ("data that wraps", flow(&[data(u64::MAX - 1, b"data")]), libc::EPROTO),
        (
            "data beyond the announced length",
            flow(&[bare(Kind::Hole, 0, LENGTH), data(LENGTH, b"x")]),
            libc::EPROTO,
        ),
        (
            "a payload of 4 MiB and a byte",
            flow(&[changed(data(0, b"x"), |b| {
                b[4..8].copy_from_slice(&(MAX_PAYLOAD + 1).to_le_bytes())
            })]),
            libc::EMSGSIZE,
        ),
        (
            "a payload of 4 GiB",
            flow(&[changed(data(0, b"x"), |b| b[4..8].fill(0xff))]),
            libc::EMSGSIZE,
        ),
        (
            "data with a checksum that is not in force",
            flow(&[with_body(Kind::Data, 0, 0, b"data")]),
            libc::EPROTO,
        ),
        ("data with a value", flow(&[changed(data(0, b"x"), |b| b[16] = 1)]), libc::EPROTO),
        (
            "more data in a frame than HELLO said",
            [of(|h| h.max_payload = 3), data(0, b"data")].concat(),
            libc::EMSGSIZE,
        ),
        // Holes.
        ("a hole of length zero", flow(&[bare(Kind::Hole, 0, 0)]), libc::EPROTO),
        ("a hole that starts late", flow(&[bare(Kind::Hole, 4096, 4096)]), libc::EPROTO),
        ("a hole of 16 TiB in 1 MiB", flow(&[bare(Kind::Hole, 0, 16 << 40)]), libc::EPROTO),
        ("a hole that wraps", flow(&[bare(Kind::Hole, 0, u64::MAX)]), libc::EPROTO),
        ("a hole to 2^63", flow(&[bare(Kind::Hole, 0, huge + 1)]), libc::EPROTO),
        (
            "two holes, together too long",
            flow(&[bare(Kind::Hole, 0, LENGTH), bare(Kind::Hole, LENGTH, 1)]),
            libc::EPROTO,
        ),
        ("a hole twice", flow(&[bare(Kind::Hole, 0, 9), bare(Kind::Hole, 0, 9)]), libc::EPROTO),
        ("a hole with a body", flow(&[body_of(Kind::Hole, 4)]), libc::EPROTO),
        (
            "a hole of 16 TiB of unknown length, beyond the limit",
            [of(|h| h.length = UNKNOWN), bare(Kind::Hole, 0, 16 << 40)].concat(),
            libc::EFBIG,
        ),
        ("an announced length beyond the limit", of(|h| h.length = 1 << 40), libc::EFBIG),
        // The end.
        ("END too early", flow(&[end(0, 0, 0)]), libc::EPROTO),
        ("END elsewhere", flow(&[end(LENGTH, 0, LENGTH)]), libc::EPROTO),
        (
            "END that counts wrong",
            flow(&[bare(Kind::Hole, 0, LENGTH), end(LENGTH, LENGTH, 0)]),
            libc::EPROTO,
        ),
        (
            "END with a digest that is not in force",
            flow(&[
                bare(Kind::Hole, 0, LENGTH),
                with_body(
                    Kind::End,
                    LENGTH,
                    0,
                    &End { hole_bytes: LENGTH, digest: [7; 32], ..End::default() }.encode(),
                ),
            ]),
            libc::EBADMSG,
        ),
        ("END too short", flow(&[body_of(Kind::End, 55)]), libc::EPROTO),
        (
            "something after END",
            flow(&[
                bare(Kind::Hole, 0, LENGTH),
                end(LENGTH, 0, LENGTH),
                bare(Kind::Keepalive, 0, 0),
            ]),
            libc::EPROTO,
        ),
        ("no END", flow(&[bare(Kind::Hole, 0, LENGTH)]), libc::ENODATA),
        // ERROR.
        ("ERROR with nothing", flow(&[body_of(Kind::Error, 7)]), libc::EPROTO),
        (
            "ERROR with more text than it has",
            flow(&[with_body(Kind::Error, 0, 0, &[28, 0, 0, 0, 7, 2, 200, 0, b'x'])]),
            libc::EPROTO,
        ),
        (
            "ERROR with too much text",
            flow(&[with_body(
                Kind::Error,
                0,
                0,
                &[&[28, 0, 0, 0, 7, 2, 0, 1], &[b'x'; 256][..]].concat(),
            )]),
            libc::EPROTO,
        ),
        ("ERROR of errno 0", flow(&[with_body(Kind::Error, 0, 0, &[0; 8])]), libc::EIO),
        (
            "ERROR that would be waited for",
            flow(&[with_body(Kind::Error, 0, 0, &[11, 0, 0, 0, 0, 0, 0, 0])]),
            libc::EIO,
        ),
        (
            "ERROR with escape sequences",
            flow(&[with_body(Kind::Error, 0, 0, b"\x1c\0\0\0\xff\xff\x04\0\x1b[2J")]),
            libc::ENOSPC,
        ),
    ];
    assert!(cases.len() >= 40);
    let mut names: Vec<&str> = cases.iter().map(|case| case.0).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), cases.len(), "each has its own name");
    let options = ReaderOptions { max_size: 1 << 30, ..ReaderOptions::default() };
    for (name, bytes, errno) in &cases {
        let (error, size) = received(bytes, &options);
        assert_eq!(error.errno(), *errno, "{name}: {error}");
        assert_eq!(size, 0, "{name}");
        let text = error.to_string();
        assert!(!text.contains('\x1b') && text.len() > 6, "{name}: {text}");
    }
}

#[test]
fn damaged_data_is_an_error_by_checksum_and_by_digest() {
    let mut hello = hello();
    hello.length = 8;
    for (feature, frames) in [
        (CHECKSUM, {
            let mut frame = with_body(Kind::Data, 0, 0, b"8 bytes.");
            frame[HEADER + 3] ^= 1;
            frame
        }),
        (DIGEST, [data(0, b"8 bytes."), end(8, 8, 0)].concat()),
        (DIGEST, [data(0, b"8 bytes."), with_body(Kind::Checkpoint, 8, 0, &[5; 32])].concat()),
    ] {
        hello.required = feature;
        let bytes = [greeting(&hello), frames].concat();
        let (error, _) = received(&bytes, &ReaderOptions::default());
        assert_eq!(error.errno(), libc::EBADMSG);
    }
}

#[test]
fn the_receivers_own_payload_limit_holds() {
    let options = ReaderOptions { max_payload: 4096, ..ReaderOptions::default() };
    let (error, size) = received(&after_hello(&[data(0, &[1; 4097])]), &options);
    assert_eq!((error.errno(), size), (libc::EMSGSIZE, 0));
    let options = ReaderOptions { max_payload: 4095, ..ReaderOptions::default() };
    assert_eq!(reader_on(0, None, &options).unwrap_err().errno(), libc::EINVAL);
}

#[test]
fn a_receiver_holds_no_more_than_it_accepts() {
    let held = held(&testing::file(), 5);
    for (max_size, fits) in [(4, false), (5, true)] {
        let options = ReaderOptions { max_size, held: Some(held), ..ReaderOptions::default() };
        let (_far, near) = socket();
        let made = reader_on(near.as_raw_fd(), None, &options).map(drop);
        let expected = if fits { Ok(()) } else { Err(libc::EINVAL) };
        assert_eq!(made.map_err(|error| error.errno()), expected, "{max_size}");
    }
}

#[test]
fn a_receiver_has_the_checks_that_it_wants() {
    for options in [
        ReaderOptions { checksum: true, ..ReaderOptions::default() },
        ReaderOptions { digest: true, ..ReaderOptions::default() },
        ReaderOptions { held: Some(held(&testing::file(), 5)), ..ReaderOptions::default() },
    ] {
        let (error, _) = received(&greeting(&hello()), &options);
        assert_eq!(error.errno(), libc::EOPNOTSUPP);
    }
}

/// Empty frames cannot keep an end busy for ever.
#[test]
fn a_flood_of_nothing_leaves_time_for_other_work() {
    let flood = bare(Kind::Keepalive, 0, 0).repeat(1500);
    let (mut a, b) = socket();
    a.write_all(&after_hello(std::slice::from_ref(&flood))).unwrap();
    let mut reader =
        reader_on(b.as_raw_fd(), Some(b.as_raw_fd()), &ReaderOptions::default()).unwrap();
    assert!(reader.next(&mut [0]).unwrap_err().interrupted());
    assert!(reader.next(&mut [0]).unwrap_err().would_block());
    a.write_all(&data(0, b"x")).unwrap();
    assert_eq!(reader.next(&mut [0]), Ok(Next::Data(1)));

    let (a, mut b) = socket();
    let mut writer =
        writer_on(a.as_raw_fd(), Some(a.as_raw_fd()), &WriterOptions::default()).unwrap();
    let accept = Accept {
        version: VERSION,
        reason: Reason::None,
        max_payload: MAX_PAYLOAD,
        features: ANSWERS,
        resume_offset: 0,
        resume_digest: [0; 32],
        flags: 0,
    };
    b.write_all(&with_body(Kind::Accept, 0, 0, &accept.encode())).unwrap();
    assert_eq!(offered(&mut writer), Ok(0));
    b.write_all(&flood).unwrap();
    assert!(writer.finish().unwrap_err().would_block());
    b.write_all(&with_body(Kind::Status, 0, 0, &[0; 32])).unwrap();
    assert!((0..3).any(|_| writer.finish().is_ok()));
}

/// Frames of 32 bytes cannot make a receiver sync its disk over and over.
#[test]
fn a_thousand_holes_cause_no_flood_of_syncs() {
    let mut hello = hello();
    hello.length = 1000 * (64 << 20);
    let holes: Vec<u8> =
        (0..1000).flat_map(|at| bare(Kind::Hole, at * (64 << 20), 64 << 20)).collect();
    let bytes = [greeting(&hello), holes, end(hello.length, 0, hello.length)].concat();
    let (mut a, b) = socket();
    a.write_all(&bytes).unwrap();
    let copy = testing::file();
    let mut reader =
        reader_on(b.as_raw_fd(), Some(b.as_raw_fd()), &ReaderOptions::default()).unwrap();
    let options = sink::Options { sync_interval: 64 << 20, ..sink::Options::default() };
    let mut sink = sink::from_fd(copy.as_raw_fd(), &options, ()).unwrap();
    let mut receiver = Moving::new(&mut reader, sink.as_mut());
    let syncs = std::rc::Rc::new(std::cell::Cell::new(0));
    let seen = std::rc::Rc::clone(&syncs);
    inject::with(
        move |call| {
            seen.set(seen.get() + usize::from(matches!(call, Call::Fsync)));
            Fault::None
        },
        || {
            for _ in 0..1000 {
                receiver.turn();
            }
        },
    );
    assert_eq!(receiver.result, Some(Ok(())));
    assert_eq!(syncs.get(), 1);
}

/// A receiver that reads nothing and reports that all is stored is not believed.
#[test]
fn success_is_not_believed_before_everything_was_sent() {
    for last in [with_body(Kind::Status, 4 << 20, 0, &[0; 32]), bare(Kind::Ack, 4 << 20, 0)] {
        let (a, mut b) = socket();
        a.set_nonblocking(true).unwrap();
        let mut writer =
            writer_on(a.as_raw_fd(), Some(a.as_raw_fd()), &WriterOptions::default()).unwrap();
        assert!(announce(&mut writer, 4 << 20).unwrap_err().would_block());
        let accept = Accept {
            version: VERSION,
            reason: Reason::None,
            max_payload: MAX_PAYLOAD,
            features: ANSWERS,
            resume_offset: 0,
            resume_digest: [0; 32],
            flags: 0,
        };
        b.write_all(&with_body(Kind::Accept, 0, 0, &accept.encode())).unwrap();
        assert_eq!(announce(&mut writer, 4 << 20).unwrap().held, 0);
        // The socket takes a part of it, and the writer keeps the rest.
        let data = vec![7; 4 << 20];
        let mut taken = 0;
        while taken < data.len() {
            match writer.write(&data[taken..]) {
                Ok(count) => taken += count,
                Err(error) if error.would_block() => break,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(taken < data.len());
        b.write_all(&last).unwrap();
        let error = writer.flush(Instant::now());
        assert_eq!(error.unwrap_err().errno(), libc::EPROTO);
    }
}

/// The name that only looks like a frame is refused with its first byte.
#[test]
fn eighteen_bytes_of_another_protocol_are_refused_at_once() {
    let (mut a, b) = socket();
    a.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut reader =
        reader_on(b.as_raw_fd(), Some(b.as_raw_fd()), &ReaderOptions::default()).unwrap();
    assert_eq!(reader.open().unwrap_err().errno(), libc::EPROTO);
    // Nothing is sent to a peer that is not a sender.
    a.set_nonblocking(true).unwrap();
    assert!(std::io::Read::read(&mut a, &mut [0; 8]).is_err());
}

/// All 255 bytes of a peer's words arrive, before HELLO is answered too.
#[test]
fn a_peers_words_are_kept_whole() {
    let words = format!("disk: full: {}: ", "x".repeat(255 - 14));
    assert_eq!(words.len(), 255);
    let mut body = vec![28, 0, 0, 0, 7, 2, 255, 0];
    body.extend_from_slice(words.as_bytes());
    let (a, mut b) = socket();
    let mut writer =
        writer_on(a.as_raw_fd(), Some(a.as_raw_fd()), &WriterOptions::default()).unwrap();
    assert!(offered(&mut writer).unwrap_err().would_block());
    b.write_all(&with_body(Kind::Error, 0, 0, &body)).unwrap();
    let error = offered(&mut writer).unwrap_err();
    assert_eq!(error.to_string(), format!("peer: {words}"));
    assert_eq!(error.errno(), libc::ENOSPC);
}
