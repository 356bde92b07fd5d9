//! Random streams, cut anywhere, by ends that are never quite ready.

use super::*;
use crate::sys::Call;
use crate::sys::inject::{self, Fault};
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Data(Vec<u8>),
    Hole(u64),
}

fn stream(random: &mut Random) -> Vec<Piece> {
    (0..random.below(12))
        .map(|_| {
            if random.below(2) == 0 {
                let most = [10, 20_000, 300_000][random.below(3) as usize];
                let length = 1 + random.below(most) as usize;
                Piece::Data(random.bytes(length))
            } else {
                let most = 1 << random.below(50);
                Piece::Hole(1 + random.below(most))
            }
        })
        .collect()
}

/// Neighbours of one kind as one.
fn merged(pieces: Vec<Piece>) -> Vec<Piece> {
    let mut whole: Vec<Piece> = Vec::new();
    for piece in pieces {
        match (whole.last_mut(), piece) {
            (Some(Piece::Data(all)), Piece::Data(more)) => all.extend(more),
            (Some(Piece::Hole(all)), Piece::Hole(more)) => *all += more,
            (_, piece) => whole.push(piece),
        }
    }
    whole
}

fn later<T>(result: Result<T>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) if error.would_block() || error.interrupted() => None,
        Err(error) => panic!("{error}"),
    }
}

/// Drives both ends through a stream, and returns what comes out.
fn through(pieces: &[Piece], mut writer: Writer, mut reader: Reader) -> Vec<Piece> {
    let (mut next, mut done, mut sent) = (0, 0, false);
    let (mut came, mut ended, mut received) = (Vec::new(), false, false);
    let mut buffer = vec![0; 100_000];
    for _ in 0..10_000_000 {
        match pieces.get(next) {
            Some(Piece::Data(bytes)) => {
                if let Some(count) = later(writer.write(&bytes[done..])) {
                    done += count;
                    if done == bytes.len() {
                        (next, done) = (next + 1, 0);
                    }
                }
            }
            Some(Piece::Hole(length)) => {
                if let Some(made) = later(writer.hole(*length)) {
                    assert_eq!(made.length, *length);
                    next += 1;
                }
            }
            None if !sent => sent = later(writer.finish()).is_some(),
            None => {}
        }
        if !ended {
            match later(reader.next(&mut buffer)) {
                Some(Next::Data(count)) => came.push(Piece::Data(buffer[..count].to_vec())),
                Some(Next::Hole(length)) => {
                    reader.consume(length);
                    came.push(Piece::Hole(length));
                }
                Some(Next::Keep(_)) => unreachable!("nothing is kept"),
                Some(Next::End) => ended = true,
                None => {}
            }
        } else if !received {
            received = later(reader.finish()).is_some();
        }
        if sent && received {
            return came;
        }
    }
    panic!("it stands still");
}

fn options(random: &mut Random) -> WriterOptions {
    WriterOptions {
        checksum: random.below(2) == 0,
        digest: random.below(2) == 0,
        checkpoint_interval: 1 + random.below(100_000),
        keepalive: Duration::from_nanos(random.below(2)),
        ..WriterOptions::default()
    }
}

#[test]
fn random_streams_come_whole_through_ends_that_falter() {
    for seed in 0..120 {
        let mut random = Random::new(seed);
        let pieces = stream(&mut random);
        let two_way = random.below(2) == 0;
        let ends = socket();
        let (a, b) = (ends.0.as_raw_fd(), ends.1.as_raw_fd());
        let pipe = crate::sys::blocking_pipe();
        let (from, to) = if two_way { (b, a) } else { (pipe.0.as_raw_fd(), pipe.1.as_raw_fd()) };
        let writer = writer_on(to, two_way.then_some(a), &options(&mut random)).unwrap();
        let reader = reader_on(from, two_way.then_some(b), &ReaderOptions::default()).unwrap();
        let given = pieces.clone();
        let mut faults = Random::new(seed + 1_000_000);
        let came = inject::with(
            move |call| match call {
                Call::Send | Call::Recv | Call::Read | Call::Write => match faults.below(6) {
                    0 => Fault::Errno(libc::EAGAIN),
                    1 => Fault::Errno(libc::EINTR),
                    2 => Fault::Short(1 + faults.below(40) as usize),
                    3 => Fault::Short(1 + faults.below(5000) as usize),
                    _ => Fault::None,
                },
                _ => Fault::None,
            },
            move || through(&given, writer, reader),
        );
        assert!(merged(came) == merged(pieces), "seed {seed}");
    }
}

/// Every stream with one byte changed is refused, or means the same.
#[test]
fn no_changed_byte_goes_unnoticed() {
    let (a, mut b) = socket();
    let every = WriterOptions { checksum: true, digest: true, ..WriterOptions::default() };
    let mut writer = writer_on(a.as_raw_fd(), None, &every).unwrap();
    writer.write(b"some data").unwrap();
    writer.hole(70_000).unwrap();
    writer.write(b"more").unwrap();
    writer.finish().unwrap();
    drop(writer);
    drop(a);
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut b, &mut bytes).unwrap();
    for at in 0..bytes.len() {
        for bit in [0x01, 0x80] {
            let mut changed = bytes.clone();
            changed[at] ^= bit;
            let (mut a, b) = socket();
            std::io::Write::write_all(&mut a, &changed).unwrap();
            drop(a);
            let mut reader = reader_on(b.as_raw_fd(), None, &ReaderOptions::default()).unwrap();
            let result = loop {
                match reader.next(&mut [0; 100]) {
                    Ok(Next::Data(_)) => {}
                    Ok(Next::Hole(length)) => {
                        reader.consume(length);
                    }
                    Ok(Next::Keep(_)) => unreachable!("nothing is kept"),
                    Ok(Next::End) => break Ok(()),
                    Err(error) => break Err(error.errno()),
                }
            };
            assert!(
                [Err(libc::EBADMSG), Err(libc::EPROTO)].contains(&result),
                "byte {at}: {result:?}"
            );
        }
    }
}
