//! The state tables of docs/wire-format.md, all types in all states.

use super::receiver::Held;
use super::*;

type Make<T> = fn() -> T;

/// An entry of a table of states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cell {
    Taken,
    /// EPROTO.
    No,
    /// The peer's own failure.
    Failure,
}

fn cell(result: Result<(), Error>) -> Cell {
    match result {
        Ok(()) => Cell::Taken,
        Err(error) if error.is_peers() => Cell::Failure,
        Err(error) => {
            assert_eq!(error.errno(), libc::EPROTO, "{error}");
            Cell::No
        }
    }
}

fn held() -> receiver::Config {
    let held = Held { length: 4096, transfer_id: [0; 16], identity: [0; 32] };
    receiver::Config { held: Some(held), ..receiving() }
}

fn proving() -> Receiver {
    let mut receiver = Receiver::new(&held()).unwrap();
    let hello = hello(ANSWERS | DIGEST, RESUME);
    give(&mut receiver, &frame_of(Kind::Hello, 0, &hello)).unwrap();
    assert_eq!(receiver.stage(), receiver::Stage::Proving(4096));
    receiver
}

fn offered() -> Receiver {
    let mut receiver = proving();
    let mut digest = Digest::default();
    digest.hole(4096);
    receiver.proven(digest).unwrap();
    assert_eq!(kinds(&said(&mut receiver)), [Kind::Accept]);
    receiver
}

fn ended() -> Receiver {
    let mut receiver = open_receiver(ANSWERS);
    give(&mut receiver, &bare(Kind::Hole, 0, LENGTH)).unwrap();
    assert!(receiver.pass(LENGTH));
    let end = End { hole_bytes: LENGTH, ..End::default() };
    give(&mut receiver, &with_body(Kind::End, LENGTH, &end.encode())).unwrap();
    receiver
}

#[test]
fn every_type_in_every_state_of_a_receiver() {
    use Cell::{Failure, No, Taken};
    let short = hello(ANSWERS | DIGEST | KEEP, 0);
    let states: [(&str, Make<Receiver>, u64); 5] = [
        ("waiting", || Receiver::new(&receiving()).unwrap(), 0),
        ("examining", proving, 0),
        ("offered", offered, 4096),
        ("open", || open_receiver(ANSWERS | DIGEST | KEEP), 0),
        ("ending", ended, LENGTH),
    ];
    let table: [(Kind, [Cell; 5]); 13] = [
        (Kind::Hello, [Taken, No, No, No, No]),
        (Kind::Begin, [No, No, Taken, No, No]),
        (Kind::Data, [No, No, No, Taken, No]),
        (Kind::Hole, [No, No, No, Taken, No]),
        (Kind::Keep, [No, No, No, Taken, No]),
        (Kind::Checkpoint, [No, No, No, Taken, No]),
        (Kind::Keepalive, [No, Taken, Taken, Taken, No]),
        // It is in place, and comes too early for this stream.
        (Kind::End, [No, No, No, No, No]),
        (Kind::Error, [Failure, Failure, Failure, Failure, No]),
        (Kind::Ignored, [No, Taken, Taken, Taken, No]),
        (Kind::Accept, [No; 5]),
        (Kind::Ack, [No; 5]),
        (Kind::Status, [No; 5]),
    ];
    for (kind, row) in table {
        for ((name, make, at), expected) in states.iter().zip(row) {
            let mut receiver = make();
            let found = cell(give(&mut receiver, &frame_of(kind, *at, &short)));
            assert_eq!(found, expected, "{kind:?} while {name}");
            // A refusal is answered wherever a HELLO was understood.
            let answers = kinds(&said(&mut receiver));
            let answered = answers.last() == Some(&Kind::Error);
            assert_eq!(answered, found == No && *name != "waiting", "{kind:?} while {name}");
        }
    }
}

fn comparing() -> Sender {
    let mut sender = Sender::new(&sending(hello(ANSWERS | DIGEST, RESUME))).unwrap();
    sender.greet();
    sent(&mut sender);
    let offer = Accept { resume_offset: 4096, ..accept(ANSWERS | DIGEST | RESUME) };
    tell(&mut sender, &with_body(Kind::Accept, 0, &offer.encode())).unwrap();
    sender
}

fn ending() -> Sender {
    let mut sender = open_sender(0);
    sender.hole(LENGTH).unwrap();
    sender.end().unwrap();
    sent(&mut sender);
    sender
}

#[test]
fn every_type_in_every_state_of_a_sender() {
    use Cell::{Failure, No, Taken};
    let greeting = || {
        let mut sender = Sender::new(&sending(hello(ANSWERS, 0))).unwrap();
        sender.greet();
        sent(&mut sender);
        sender
    };
    let states: [(&str, Make<Sender>, u64); 4] = [
        ("greeting", greeting, 0),
        ("comparing", comparing, 0),
        ("open", || open_sender(0), 0),
        ("ending", ending, LENGTH),
    ];
    for kind in KINDS {
        let row = match kind {
            Kind::Accept => [Taken, No, No, No],
            Kind::Ack => [No, No, Taken, Taken],
            Kind::Keepalive | Kind::Ignored => [Taken; 4],
            Kind::Status => [No, No, No, Taken],
            Kind::Error => [Failure; 4],
            Kind::Hello
            | Kind::Begin
            | Kind::Data
            | Kind::Hole
            | Kind::Keep
            | Kind::Checkpoint
            | Kind::End => [No; 4],
        };
        for ((name, make, at), expected) in states.iter().zip(row) {
            let mut sender = make();
            let bytes = match kind {
                Kind::Status => with_body(kind, *at, &[0; 32]),
                _ => frame_of(kind, *at, &hello(ANSWERS, 0)),
            };
            let found = cell(tell(&mut sender, &bytes));
            assert_eq!(found, expected, "{kind:?} while {name}");
            // Nothing follows END.
            let answers = kinds(&sent(&mut sender));
            let answered = answers.last() == Some(&Kind::Error);
            assert_eq!(answered, found == No && *name != "ending", "{kind:?} while {name}");
        }
    }
}

#[test]
fn an_unknown_type_below_128_is_an_error_and_one_above_is_not() {
    for number in (0..=255u8).filter(|number| *number == 0 || *number > 12) {
        let mut bytes = bare(Kind::Keepalive, 0, 0);
        bytes[3] = number;
        let checksum = crc32c::crc32c(&bytes[..HEADER - 4]);
        bytes[HEADER - 4..].copy_from_slice(&checksum.to_le_bytes());
        let ignored = number >= 128;
        let expected = if ignored { Cell::Taken } else { Cell::No };
        assert_eq!(cell(give(&mut open_receiver(ANSWERS), &bytes)), expected, "{number}");
        assert_eq!(cell(tell(&mut open_sender(0), &bytes)), expected, "{number}");
    }
}

#[test]
fn frames_of_features_that_are_not_in_force_are_refused() {
    for (kind, at) in [(Kind::Keep, 0), (Kind::Checkpoint, 0)] {
        let bytes = frame_of(kind, at, &hello(0, 0));
        assert_eq!(cell(give(&mut open_receiver(ANSWERS), &bytes)), Cell::No, "{kind:?}");
    }
    let checksummed = with_body(Kind::Data, 0, b"x");
    assert_eq!(cell(give(&mut open_receiver(ANSWERS), &checksummed)), Cell::No);
    let mut sender = open_sender(0);
    assert_eq!(sender.keep(1).unwrap_err().errno, libc::EPROTO);
}

#[test]
fn the_magic_is_checked_byte_by_byte() {
    let hello = frame_of(Kind::Hello, 0, &hello(ANSWERS, 0));
    for count in 0..hello.len() {
        let mut receiver = Receiver::new(&receiving()).unwrap();
        assert!(matches!(receiver.handle_input(&hello[..count]), Ok(Input::Incomplete(_))));
    }
    for wrong in [&b"G"[..], b"\xf5T", b"\xf5SQ", b"GET / HTTP/1.1\r\n\r\n"] {
        let mut receiver = Receiver::new(&receiving()).unwrap();
        assert_eq!(give(&mut receiver, wrong).unwrap_err().errno(), libc::EPROTO);
        assert!(said(&mut receiver).is_empty());
        assert_eq!(tell(&mut open_sender(0), wrong).unwrap_err().errno(), libc::EPROTO);
    }
}

#[test]
fn nothing_follows_a_last_frame_and_one_that_was_not_sent_is_taken_back() {
    let failure = Error::at(Operation::Sync, Side::Sink, 7, libc::ENOSPC);
    // STATUS waits as a whole, or a part of it is sent.
    let mut receiver = ended();
    receiver.finish().unwrap();
    receiver.fail(&failure);
    let answers = said(&mut receiver);
    assert_eq!(kinds(&answers), [Kind::Error]);
    assert_eq!(reported(&answers).unwrap().errno(), libc::ENOSPC);
    let mut receiver = ended();
    receiver.finish().unwrap();
    assert_eq!(receiver.poll_transmit().len(), HEADER + 32);
    receiver.transmitted(1);
    receiver.fail(&failure);
    assert_eq!(receiver.poll_transmit().len(), HEADER + 31);

    let mut sender = open_sender(0);
    sender.hole(LENGTH).unwrap();
    sender.end().unwrap();
    sender.fail(&failure);
    assert_eq!(kinds(&sent(&mut sender)), [Kind::Hole, Kind::Error]);
    let mut sender = ending();
    sender.fail(&failure);
    assert!(sent(&mut sender).is_empty());
}
