//! The state tables of docs/wire-format.md, all types in all states, as they stand there.

use super::receiver::{Held, Piece};
use super::*;
use crate::wire::tests::document;
use std::collections::BTreeSet;
use std::time::Instant;

/// The effect of a frame on a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    /// Refused with EPROTO.
    Refused,
    /// The peer's own failure.
    Failure,
    /// There is a piece to be passed on.
    Passed,
    /// It counts as a sign of life.
    Sign,
    /// As much is durable.
    Noted,
    /// Nothing has changed.
    Nothing,
    /// It is in another state.
    To(&'static str),
}

fn refusal(error: &Error) -> Seen {
    if error.is_peers() {
        return Seen::Failure;
    }
    assert_eq!(error.errno(), libc::EPROTO, "{error}");
    Seen::Refused
}

/// A cell of a table, where these features are in force.
fn meaning(cell: &str, features: u64) -> Vec<Seen> {
    if let Some((effect, condition)) = cell.split_once(" if ") {
        let feature = match condition {
            "KEEP is in force, else -" => KEEP,
            "DIGEST is in force, else -" => DIGEST,
            other => panic!("a condition that is not known: {other}"),
        };
        return meaning(if features & feature != 0 { effect } else { "-" }, features);
    }
    match cell {
        "-" => vec![Seen::Refused],
        "failure" => vec![Seen::Failure],
        "passed on" => vec![Seen::Passed],
        "a sign of life" | "ignored" => vec![Seen::Sign],
        "noted" | "noted, up to what was sent" => vec![Seen::Noted],
        "compared" => vec![Seen::Nothing],
        "success" => vec![Seen::To("ended")],
        // Without held bytes there is nothing to examine.
        "to *examining*" => vec![Seen::To("examining"), Seen::To("open")],
        "to *open*" => vec![Seen::To("open")],
        "to *ending*" => vec![Seen::To("ending")],
        "to *open* or *comparing*" => vec![Seen::To("open"), Seen::To("comparing")],
        other => panic!("an effect that is not known: {other}"),
    }
}

fn of_receiver(stage: receiver::Stage) -> &'static str {
    match stage {
        receiver::Stage::Waiting => "waiting",
        receiver::Stage::Proving(_) => "examining",
        receiver::Stage::Offered(_) => "offered",
        receiver::Stage::Open => "open",
        receiver::Stage::Ended => "ending",
        receiver::Stage::Finished | receiver::Stage::Failed => "ended",
    }
}

fn of_sender(stage: sender::Stage) -> &'static str {
    match stage {
        sender::Stage::New => "new",
        sender::Stage::Greeting => "greeting",
        sender::Stage::Comparing(_) => "comparing",
        sender::Stage::Open => "open",
        sender::Stage::Ending => "ending",
        sender::Stage::Finished | sender::Stage::Failed => "ended",
    }
}

const HELD: u64 = 4096;
const SIGN: Duration = Duration::from_secs(1);

/// A stream of unknown length: it may end anywhere.
fn endless(required: u64) -> Hello {
    let resume = if required & (ANSWERS | DIGEST | KEEP) == ANSWERS | DIGEST { RESUME } else { 0 };
    Hello { length: UNKNOWN, ..hello(required, resume) }
}

fn root_of(zeros: u64) -> [u8; 32] {
    let mut digest = Digest::default();
    digest.hole(zeros);
    digest.root()
}

/// A frame of this type that is right in this place, if it may stand there at all. `other`: an ACCEPT makes
/// an offer.
fn frame_at(number: u8, at: u64, required: u64, other: bool) -> Vec<u8> {
    let digest = if required & DIGEST != 0 { root_of(at) } else { [0; 32] };
    let Some(kind) = KINDS.into_iter().find(|kind| *kind as u8 == number && number < 128) else {
        // An offset without a meaning is allowed in those that are to be ignored only.
        let mut bytes = bare(Kind::Ignored, if number < 128 { 0 } else { u64::MAX }, 0);
        bytes[3] = number;
        let checksum = crc32c::crc32c(&bytes[..HEADER - 4]);
        bytes[HEADER - 4..].copy_from_slice(&checksum.to_le_bytes());
        return bytes;
    };
    match kind {
        Kind::Hello => with_body(kind, 0, &endless(required).encode()),
        Kind::Accept if other => {
            let resume_digest = root_of(HELD);
            let offer = accept(required | RESUME);
            let offer = Accept { resume_offset: HELD, resume_digest, ..offer };
            with_body(kind, 0, &offer.encode())
        }
        Kind::End => with_body(kind, at, &End { digest, ..End::default() }.encode()),
        Kind::Status | Kind::Checkpoint => with_body(kind, at, &digest),
        Kind::Accept
        | Kind::Begin
        | Kind::Data
        | Kind::Hole
        | Kind::Ack
        | Kind::Keepalive
        | Kind::Error
        | Kind::Keep
        | Kind::Ignored => frame_of(kind, at, &endless(required)),
    }
}

/// A receiver in this state, and where its stream is. `None`: this stream has no such state.
fn receiver_in(state: &str, required: u64) -> Option<(Receiver, u64)> {
    let resumable = endless(required).optional & RESUME != 0;
    let part = Held { length: HELD, transfer_id: [0; 16], identity: [0; 32] };
    let offers = matches!(state, "waiting" | "examining" | "offered") && resumable;
    let held = offers.then_some(part);
    let mut receiver =
        Receiver::new(&receiver::Config { held, keepalive: SIGN, ..receiving() }).unwrap();
    if state == "waiting" {
        return Some((receiver, 0));
    }
    give(&mut receiver, &frame_at(Kind::Hello as u8, 0, required, false)).unwrap();
    if state == "offered" && offers {
        let mut digest = Digest::default();
        digest.hole(HELD);
        receiver.proven(digest).unwrap();
    }
    if state == "ending" {
        give(&mut receiver, &frame_at(Kind::End as u8, 0, required, false)).unwrap();
    }
    said(&mut receiver);
    let at = if state == "offered" { HELD } else { 0 };
    (of_receiver(receiver.stage()) == state).then_some((receiver, at))
}

fn sender_in(state: &str, required: u64) -> Option<(Sender, u64)> {
    let mut sender =
        Sender::new(&sender::Config { keepalive: SIGN, ..sending(endless(required)) }).unwrap();
    sender.greet();
    let comparing = state == "comparing" && sender.hello().optional & RESUME != 0;
    if state != "greeting" {
        let accept = frame_at(Kind::Accept as u8, 0, required, comparing);
        answer(&mut sender, &accept).unwrap();
    }
    if state == "ending" {
        sender.end().unwrap();
    }
    sent(&mut sender);
    (of_sender(sender.stage()) == state).then_some((sender, 0))
}

/// All combinations of features that change which frames may come.
fn combinations() -> impl Iterator<Item = u64> {
    [0, DIGEST, KEEP, DIGEST | KEEP].into_iter().flat_map(|some| [some, some | ANSWERS])
}

#[test]
fn every_type_in_every_state_of_a_receiver() {
    let table = document::received("### The receiver");
    assert_eq!(table.states, ["waiting", "examining", "offered", "open", "ending"]);
    let mut found = BTreeSet::new();
    for required in combinations() {
        for (column, state) in table.states.iter().enumerate() {
            for (number, row) in &table.effects {
                let Some((mut receiver, at)) = receiver_in(state, required) else { continue };
                found.insert((state.clone(), required & ANSWERS));
                let (signs, before) = (receiver.signs(), receiver.stage());
                let given = give(&mut receiver, &frame_at(*number, at, required, false));
                let seen = match &given {
                    Err(error) => refusal(error),
                    Ok(()) if receiver.piece() != Piece::None => Seen::Passed,
                    Ok(()) if receiver.signs() == signs + 1 => Seen::Sign,
                    Ok(()) if receiver.stage() == before => Seen::Nothing,
                    Ok(()) => Seen::To(of_receiver(receiver.stage())),
                };
                let allowed = meaning(&row[column], required);
                let name = format!("type {number} while {state}, features {required:#x}");
                assert!(allowed.contains(&seen), "{name}: {seen:?}, not {allowed:?}");
                assert_eq!(
                    receiver.stage() == before,
                    matches!(seen, Seen::Passed | Seen::Sign | Seen::Nothing),
                    "{name}"
                );
                // A refusal is answered wherever a HELLO was understood.
                let answers = kinds(&said(&mut receiver));
                let answered = answers.last() == Some(&Kind::Error);
                let answers = required & ANSWERS != 0 && state != "waiting";
                assert_eq!(answered, seen == Seen::Refused && answers, "{name}");
            }
        }
    }
    // Two-way all states, one-way those without an answer.
    assert_eq!(found.len(), 5 + 3, "{found:?}");
}

#[test]
fn every_type_in_every_state_of_a_sender() {
    let table = document::received("### The sender, two-way");
    assert_eq!(table.states, ["greeting", "comparing", "open", "ending"]);
    let mut found = BTreeSet::new();
    for required in combinations().filter(|required| required & ANSWERS != 0) {
        for (column, state) in table.states.iter().enumerate() {
            for (number, row) in &table.effects {
                for other in [false, true] {
                    let Some((mut sender, at)) = sender_in(state, required) else { continue };
                    let resumable = sender.hello().optional & RESUME != 0;
                    found.insert(state.clone());
                    let (signs, before) = (sender.signs(), sender.stage());
                    let frame = frame_at(*number, at, required, other && resumable);
                    let seen = match answer(&mut sender, &frame) {
                        Err(error) => refusal(&error),
                        Ok(()) if sender.durable() == Some(at) => Seen::Noted,
                        Ok(()) if sender.signs() == signs + 1 => Seen::Sign,
                        Ok(()) if sender.stage() == before => Seen::Nothing,
                        Ok(()) => Seen::To(of_sender(sender.stage())),
                    };
                    let allowed = meaning(&row[column], required);
                    let name = format!("type {number} while {state}, features {required:#x}");
                    assert!(allowed.contains(&seen), "{name}: {seen:?}, not {allowed:?}");
                    // Nothing follows END.
                    let answers = kinds(&sent(&mut sender));
                    let answered = answers.last() == Some(&Kind::Error);
                    assert_eq!(answered, seen == Seen::Refused && state != "ending", "{name}");
                }
            }
        }
    }
    assert_eq!(found.len(), 4, "{found:?}");
}

/// The types that a machine in this state sends, whatever it is asked for.
fn sends<T>(make: impl Fn() -> T, requests: &[fn(&mut T)], said: fn(&mut T) -> Vec<u8>) -> Vec<u8> {
    let mut all: Vec<u8> = requests
        .iter()
        .flat_map(|request| {
            let mut machine = make();
            request(&mut machine);
            kinds(&said(&mut machine)).into_iter().map(|kind| kind as u8)
        })
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn failure() -> Error {
    Error::at(Operation::Sync, Side::None, 7, libc::ENOSPC)
}

/// An hour passes.
fn times() -> [Instant; 2] {
    let now = Instant::now();
    [now, now + Duration::from_secs(3600)]
}

#[test]
fn a_receiver_sends_what_its_table_allows_and_nothing_else() {
    let requests: [fn(&mut Receiver); 5] = [
        |receiver| times().into_iter().for_each(|now| receiver.handle_timeout(now)),
        |receiver| receiver.fail(&failure()),
        |receiver| receiver.durable(0),
        |receiver| {
            let mut digest = Digest::default();
            digest.hole(HELD);
            let _ = receiver.proven(digest);
        },
        |receiver| {
            let _ = receiver.finish();
        },
    ];
    let table = document::may_send("### The receiver");
    assert_eq!(table.len(), 6);
    for (state, allowed) in table {
        let make = || match state.as_str() {
            "ended" => {
                let mut receiver = receiver_in("ending", ANSWERS | DIGEST).unwrap().0;
                receiver.finish().unwrap();
                said(&mut receiver);
                receiver
            }
            state => receiver_in(state, ANSWERS | DIGEST).unwrap().0,
        };
        assert_eq!(sends(make, &requests, said), allowed, "{state}");
    }
}

#[test]
fn a_sender_sends_what_its_table_allows_and_nothing_else() {
    let requests: [fn(&mut Sender); 10] = [
        |sender| times().into_iter().for_each(|now| sender.handle_timeout(now)),
        |sender| sender.fail(&failure()),
        |sender| {
            sender.compare_hole(HELD);
            let _ = sender.agree();
        },
        |sender| {
            let _ = sender.data(b"x");
        },
        |sender| {
            let _ = sender.data_through(b"x", |_, _| Ok(0));
        },
        |sender| {
            if sender.lend(1).is_some() {
                sender.placed(1);
            }
        },
        |sender| {
            let _ = sender.hole(1);
        },
        |sender| {
            let _ = sender.keep(1);
        },
        |sender| {
            let _ = sender.hole(1);
            times().into_iter().for_each(|now| sender.handle_timeout(now));
        },
        |sender| {
            let _ = sender.end();
        },
    ];
    let table = document::may_send("### The sender, two-way");
    assert_eq!(table.len(), 5);
    for (state, allowed) in table {
        let make = || match state.as_str() {
            "ended" => {
                let (mut sender, at) = sender_in("ending", ANSWERS | DIGEST).unwrap();
                answer(&mut sender, &with_body(Kind::Status, at, &root_of(at))).unwrap();
                sender
            }
            "comparing" => sender_in("comparing", ANSWERS | DIGEST).unwrap().0,
            state => sender_in(state, ANSWERS | DIGEST | KEEP).unwrap().0,
        };
        assert_eq!(sends(make, &requests, sent), allowed, "{state}");
    }
}

fn ended() -> Receiver {
    let mut receiver = open_receiver(ANSWERS);
    give(&mut receiver, &bare(Kind::Hole, 0, LENGTH)).unwrap();
    assert!(receiver.pass(LENGTH));
    let end = End { hole_bytes: LENGTH, ..End::default() };
    give(&mut receiver, &with_body(Kind::End, LENGTH, &end.encode())).unwrap();
    receiver
}

fn ending() -> Sender {
    let mut sender = open_sender(0);
    sender.hole(LENGTH).unwrap();
    sender.end().unwrap();
    sent(&mut sender);
    sender
}

#[test]
fn frames_of_features_that_are_not_in_force_are_refused() {
    for (kind, at) in [(Kind::Keep, 0), (Kind::Checkpoint, 0)] {
        let bytes = frame_of(kind, at, &hello(0, 0));
        let error = give(&mut open_receiver(ANSWERS), &bytes).unwrap_err();
        assert_eq!(refusal(&error), Seen::Refused, "{kind:?}");
    }
    let checksummed = with_body(Kind::Data, 0, b"x");
    let error = give(&mut open_receiver(ANSWERS), &checksummed).unwrap_err();
    assert_eq!(refusal(&error), Seen::Refused);
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
        assert_eq!(answer(&mut open_sender(0), wrong).unwrap_err().errno(), libc::EPROTO);
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

#[test]
fn a_last_frame_that_the_transport_insists_on_is_not_taken_back() {
    let failure = Error::at(Operation::Sync, Side::Sink, 7, libc::ENOSPC);
    for offered in [0, 1, HEADER + 32] {
        let mut receiver = ended();
        receiver.finish().unwrap();
        let before = receiver.poll_transmit().to_vec();
        receiver.offered(offered);
        receiver.fail(&failure);
        let kept = receiver.poll_transmit() == before;
        assert_eq!(kept, offered > 0, "{offered}");
        assert!(kept || kinds(&said(&mut receiver)) == [Kind::Error]);
    }
    for offered in [0, HEADER, HEADER + 1, 1000] {
        let mut sender = open_sender(0);
        sender.hole(LENGTH).unwrap();
        sender.end().unwrap();
        sender.offered(offered);
        sender.fail(&failure);
        let last = if offered > HEADER { Kind::End } else { Kind::Error };
        assert_eq!(kinds(&sent(&mut sender)), [Kind::Hole, last], "{offered}");
    }
}

#[test]
fn bytes_that_the_transport_insists_on_stay_where_they_are() {
    let mut sender = open_sender(0);
    let mut most = 0;
    while sender.has_room(HEADER + 4096) {
        sender.data(&[1; 4096]).unwrap();
        most += 1;
    }
    sender.transmitted(HEADER + 4096 + 10);
    let at = sender.poll_transmit().as_ptr();
    sender.offered(5);
    // There is room only if they move.
    assert!(!sender.has_room(HEADER + 4096), "{most} frames");
    sender.fail(&Error::at(Operation::Read, Side::Source, 7, libc::EIO));
    assert_eq!(sender.poll_transmit().as_ptr(), at);
    let mut sender_free = open_sender(0);
    for _ in 0..most {
        sender_free.data(&[1; 4096]).unwrap();
    }
    sender_free.transmitted(HEADER + 4096 + 10);
    sender_free.offered(5);
    sender_free.transmitted(1);
    assert!(sender_free.has_room(HEADER + 4096));
}
