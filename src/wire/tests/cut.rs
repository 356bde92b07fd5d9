//! The connection ends: its effect in every state, as docs/wire-format.md has it.

use super::*;
use crate::end::Held as _;
use crate::testing;
use crate::wire::proto::body::{ANSWERS, Accept, DIGEST, RESUME, Reason};
use crate::wire::proto::codec::{MAX_PAYLOAD, VERSION};
use crate::wire::proto::frame::{Header, Kind};
use std::io::Write as _;

/// More than a step reads back.
const HELD: u64 = 200;

fn with_body(kind: Kind, body: &[u8]) -> Vec<u8> {
    [&Header::with_body(kind, 0, 0, body).encode(), body].concat()
}

/// The receiver's result when it is in this state and nothing more comes.
fn receiver_cut_while(state: &str) -> Result<()> {
    let ends = socket();
    let copy = testing::sparse(&[testing::Piece::Data(HELD)]);
    let held = matches!(state, "examining" | "offered").then(|| held(&copy, HELD * testing::BLOCK));
    let writer = WriterOptions { digest: true, resume: true, ..WriterOptions::default() };
    let reader = ReaderOptions { held, ..ReaderOptions::default() };
    let (mut writer, mut reader) = wire(&ends, &writer, &reader);
    let opened = |reader: &mut Reader| reader.open().map_err(|error| error.errno()).map(drop);
    if state != "waiting" {
        assert!(offered(&mut writer).unwrap_err().would_block());
    }
    match state {
        "waiting" => assert_eq!(opened(&mut reader), Err(libc::EAGAIN)),
        "examining" => assert_eq!(opened(&mut reader), Err(libc::EINTR)),
        "offered" => while opened(&mut reader) != Err(libc::EAGAIN) {},
        "open" => assert_eq!(opened(&mut reader), Ok(())),
        "ending" => {
            assert_eq!(opened(&mut reader), Ok(()));
            assert!(writer.finish().unwrap_err().would_block());
            assert_eq!(reader.next(&mut [0]), Ok(Next::End));
        }
        other => panic!("a state that is not known: {other}"),
    }
    ends.0.shutdown(std::net::Shutdown::Write).unwrap();
    if state == "ending" {
        reader.finish()?;
        return writer.finish();
    }
    for _ in 0..1000 {
        match reader.open().and_then(|_| reader.next(&mut [0])) {
            Err(error) if error.would_block() || error.interrupted() => {}
            other => return other.map(|next| panic!("{next:?}")),
        }
    }
    panic!("it waits for ever")
}

#[test]
fn a_receiver_whose_connection_ends_has_the_error_of_its_table() {
    let table = document::received("### The receiver");
    for (state, effect) in table.states.iter().zip(&table.end) {
        let result = receiver_cut_while(state).map_err(|error| error.errno());
        match effect.as_str() {
            "ENODATA" => assert_eq!(result, Err(libc::ENODATA), "{state}"),
            "nothing: STATUS is sent if it can be" => assert_eq!(result, Ok(()), "{state}"),
            other => panic!("an effect that is not known: {other}"),
        }
    }
}

/// All is stored, but its sender cannot know that.
#[test]
fn a_receiver_that_cannot_send_status_has_the_error_of_its_transport() {
    let ends = socket();
    let (mut writer, mut reader) =
        wire(&ends, &WriterOptions::default(), &ReaderOptions::default());
    assert!(offered(&mut writer).unwrap_err().would_block());
    assert!(reader.open().is_ok());
    assert!(writer.finish().unwrap_err().would_block());
    assert_eq!(reader.next(&mut [0]), Ok(Next::End));
    drop((writer, ends.0));
    assert_eq!(reader.finish().unwrap_err().errno(), libc::EPIPE);
}

/// The sender's result when it is in this state and no more answers come.
fn sender_cut_while(state: &str) -> Result<()> {
    let (a, mut b) = socket();
    let fd = a.as_raw_fd();
    let options = WriterOptions { digest: true, resume: true, ..WriterOptions::default() };
    let mut writer = writer_on(fd, Some(fd), &options).unwrap();
    assert!(offered(&mut writer).unwrap_err().would_block());
    let held = if state == "comparing" { 4096 } else { 0 };
    if state != "greeting" {
        let mut digest = crate::digest::Digest::default();
        digest.hole(held);
        let accept = Accept {
            version: VERSION,
            reason: Reason::None,
            max_payload: MAX_PAYLOAD,
            features: ANSWERS | DIGEST | RESUME,
            resume_offset: held,
            resume_digest: digest.root(),
            flags: 0,
        };
        b.write_all(&with_body(Kind::Accept, &accept.encode())).unwrap();
        assert_eq!(offered(&mut writer), Ok(held));
    }
    if state == "ending" {
        assert!(writer.finish().unwrap_err().would_block());
    }
    b.shutdown(std::net::Shutdown::Write).unwrap();
    if state == "comparing" {
        writer.check_hole(held);
        writer.agrees()?;
    }
    writer.finish()
}

#[test]
fn a_sender_whose_connection_ends_has_the_error_of_its_table() {
    let table = document::received("### The sender, two-way");
    for (state, effect) in table.states.iter().zip(&table.end) {
        assert_eq!(effect, "ECONNRESET", "{state}");
        let error = sender_cut_while(state).unwrap_err();
        assert_eq!((error.errno(), error.is_peers()), (libc::ECONNRESET, false), "{state}");
    }
}
