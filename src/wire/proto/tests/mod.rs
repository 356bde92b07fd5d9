//! The machines, driven by hand: no descriptor, no clock.

mod handshake;
mod states;
mod stream;
mod time;

use super::body::{ANSWERS, Accept, CHECKSUM, DIGEST, End, Hello, KEEP, RESUME, Reason};
use super::codec::{MAX_OFFSET, MAX_PAYLOAD, UNKNOWN, VERSION};
use super::failure::Failure;
use super::frame::{self, Frame, HEADER, Header, Kind};
use super::receiver::{self, Receiver};
use super::sender::{self, Sender};
use super::{Fault, Input};
use crate::digest::Digest;
use crate::error::{Error, Operation, Side};
use crate::testing;
use std::time::Duration;

const LENGTH: u64 = 1 << 20;

fn hello(required: u64, optional: u64) -> Hello {
    Hello { required, optional, length: LENGTH, ..testing::hello() }
}

fn accept(features: u64) -> Accept {
    Accept {
        version: VERSION,
        reason: Reason::None,
        max_payload: MAX_PAYLOAD,
        features,
        resume_offset: 0,
        resume_digest: [0; 32],
        flags: 0,
    }
}

fn receiving() -> receiver::Config {
    receiver::Config {
        answers: true,
        max_size: MAX_OFFSET,
        max_payload: MAX_PAYLOAD,
        checksum: false,
        digest: false,
        keep: true,
        base: [0; 32],
        held: None,
        restart: false,
        keepalive: Duration::ZERO,
    }
}

fn sending(hello: Hello) -> sender::Config {
    sender::Config {
        hello,
        restart: false,
        checkpoint_interval: 64 << 20,
        keepalive: Duration::ZERO,
        max_payload: 1 << 20,
        room: 64 << 10,
    }
}

fn with_body(kind: Kind, offset: u64, body: &[u8]) -> Vec<u8> {
    [&Header::with_body(kind, offset, 0, body).encode(), body].concat()
}

fn bare(kind: Kind, offset: u64, value: u64) -> Vec<u8> {
    Header::new(kind, offset, value).encode().to_vec()
}

fn data(offset: u64, payload: &[u8]) -> Vec<u8> {
    let header = Header { length: payload.len() as u32, ..Header::new(Kind::Data, offset, 0) };
    [&header.encode(), payload].concat()
}

/// A frame of this kind that is right wherever it may stand at all.
fn frame_of(kind: Kind, at: u64, hello: &Hello) -> Vec<u8> {
    match kind {
        Kind::Hello => with_body(kind, 0, &hello.encode()),
        Kind::Accept => with_body(kind, 0, &accept(hello.required).encode()),
        Kind::Begin | Kind::Ack | Kind::Keepalive => bare(kind, at, 0),
        Kind::Data => data(at, b"x"),
        Kind::Hole | Kind::Keep => bare(kind, at, 1),
        Kind::Checkpoint | Kind::Status => with_body(kind, at, &Digest::default().root()),
        Kind::End => with_body(kind, at, &End::default().encode()),
        Kind::Error => with_body(kind, 0, &[28, 0, 0, 0, 7, 2, 0, 0]),
        Kind::Ignored => bare(kind, u64::MAX, u64::MAX),
    }
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

/// The frames that these bytes are.
fn frames(mut bytes: &[u8]) -> Vec<(Header, Vec<u8>)> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let Ok(Frame::Whole(header, body)) = frame::first(bytes) else { panic!("cut off") };
        let payload = if header.kind == Kind::Data { header.length as usize } else { 0 };
        let whole = header.whole() + payload;
        all.push((header, if payload > 0 { bytes[HEADER..whole].to_vec() } else { body.to_vec() }));
        bytes = &bytes[whole..];
    }
    all
}

fn kinds(bytes: &[u8]) -> Vec<Kind> {
    frames(bytes).into_iter().map(|(header, _)| header.kind).collect()
}

/// The errno of a failure, as the driver of a machine reports it.
fn error_of(fault: Fault) -> Error {
    fault.error(Operation::Read, Side::Source, 0)
}

fn said(receiver: &mut Receiver) -> Vec<u8> {
    let bytes = receiver.poll_transmit().to_vec();
    receiver.transmitted(bytes.len());
    bytes
}

fn sent(sender: &mut Sender) -> Vec<u8> {
    let bytes = sender.poll_transmit().to_vec();
    sender.transmitted(bytes.len());
    bytes
}

/// Gives one frame, and the failure as its driver would.
fn give(receiver: &mut Receiver, bytes: &[u8]) -> Result<(), Error> {
    match receiver.handle_input(bytes) {
        Ok(Input::Taken(count)) => {
            assert_eq!(count, frame::first(bytes).map(whole).unwrap());
            Ok(())
        }
        Ok(Input::Incomplete(_)) => panic!("incomplete"),
        Err(fault) => {
            let error = error_of(fault);
            if error.is_peers() {
                receiver.abandon()
            } else {
                receiver.fail(&error)
            }
            Err(error)
        }
    }
}

fn answer(sender: &mut Sender, bytes: &[u8]) -> Result<(), Error> {
    match sender.handle_input(bytes) {
        Ok(Input::Taken(_)) => Ok(()),
        Ok(Input::Incomplete(_)) => panic!("incomplete"),
        Err(fault) => {
            let error = error_of(fault);
            if error.is_peers() {
                sender.abandon()
            } else {
                sender.fail(&error)
            }
            Err(error)
        }
    }
}

fn whole(frame: Frame<'_>) -> usize {
    match frame {
        Frame::Whole(header, _) => header.whole(),
        Frame::Incomplete(need) => need,
    }
}

/// The error that the last of these frames reports.
fn reported(bytes: &[u8]) -> Option<Error> {
    let (header, body) = frames(bytes).pop()?;
    (header.kind == Kind::Error)
        .then(|| Failure::decode((header.offset, header.value), &body).unwrap())
}

fn open_receiver(required: u64) -> Receiver {
    let mut receiver = Receiver::new(&receiving()).unwrap();
    give(&mut receiver, &frame_of(Kind::Hello, 0, &hello(required, 0))).unwrap();
    said(&mut receiver);
    receiver
}

fn open_sender(required: u64) -> Sender {
    let mut sender = Sender::new(&sending(hello(required | ANSWERS, 0))).unwrap();
    sender.greet();
    sent(&mut sender);
    answer(&mut sender, &with_body(Kind::Accept, 0, &accept(required | ANSWERS).encode())).unwrap();
    sender
}
