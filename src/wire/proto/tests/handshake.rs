//! HELLO, ACCEPT and BEGIN: agreement, refusal, resuming.

use super::receiver::{Held, Stage};
use super::*;
use crate::wire::proto::body::RESTART;

/// A receiver's refusal of a HELLO, if any: its error, and whether it was reported to the sender.
fn refused(hello: &Hello, config: &receiver::Config) -> Option<(i32, bool)> {
    let mut receiver = Receiver::new(config).unwrap();
    let error = give(&mut receiver, &with_body(Kind::Hello, 0, &hello.encode())).err()?;
    let answers = said(&mut receiver);
    let answered = reported(&answers).map(|error| error.errno());
    if !answers.is_empty() {
        assert_eq!(answered, Some(error.errno()));
        assert_eq!(kinds(&answers).len(), 1);
    }
    Some((error.errno(), answered.is_some()))
}

type Change = fn(&mut Hello, &mut receiver::Config);
type ChangeAccept = fn(&mut Accept);

#[test]
fn every_refusal_of_a_two_way_hello_is_answered() {
    let held = Held { length: 4096, transfer_id: [1; 16], identity: [0; 32] };
    assert_eq!(held.length, 4096);
    let cases: [(&str, i32, Change); 22] = [
        ("version 0", libc::EPROTONOSUPPORT, |h, _| (h.version, h.least_version) = (0, 0)),
        ("a later version", libc::EPROTONOSUPPORT, |h, _| (h.version, h.least_version) = (9, 2)),
        ("versions upside down", libc::EPROTONOSUPPORT, |h, _| h.least_version = 2),
        ("an unknown feature", libc::EPROTONOSUPPORT, |h, _| h.required |= 1 << 63),
        ("resuming required", libc::EPROTO, |h, _| h.required |= RESUME | DIGEST),
        ("keep and resume", libc::EOPNOTSUPP, |h, _| {
            h.required |= KEEP | DIGEST;
            h.optional |= RESUME;
        }),
        ("no payload", libc::EPROTO, |h, _| h.max_payload = 0),
        ("too much payload", libc::EPROTO, |h, _| h.max_payload = MAX_PAYLOAD + 1),
        ("a length beyond every offset", libc::EPROTO, |h, _| h.length = MAX_OFFSET + 1),
        ("a range beyond the source", libc::EPROTO, |h, _| h.source_size = LENGTH - 1),
        ("a range that wraps", libc::EPROTO, |h, _| h.source_offset = u64::MAX - 5),
        ("more data than there is", libc::EPROTO, |h, _| h.data_bytes = LENGTH + 1),
        ("keep, and nothing to keep", libc::EOPNOTSUPP, |h, c| {
            h.required |= KEEP;
            c.keep = false;
        }),
        ("another base", libc::ESTALE, |h, c| {
            h.required |= KEEP;
            (h.base, c.base) = ([1; 32], [2; 32]);
        }),
        ("no base", libc::ESTALE, |h, c| {
            h.required |= KEEP;
            c.base = [2; 32];
        }),
        ("too long", libc::EFBIG, |_, c| c.max_size = LENGTH - 1),
        ("no checksums", libc::EOPNOTSUPP, |_, c| c.checksum = true),
        ("no digest", libc::EOPNOTSUPP, |_, c| c.digest = true),
        ("another transfer", libc::ESTALE, |h, c| {
            (h.required, h.optional) = (ANSWERS | DIGEST, RESUME);
            c.held = Some(Held { length: 4096, transfer_id: [1; 16], identity: [0; 32] });
        }),
        ("another identity", libc::ESTALE, |h, c| {
            (h.required, h.optional) = (ANSWERS | DIGEST, RESUME);
            c.held = Some(Held { length: 4096, transfer_id: [0; 16], identity: [1; 32] });
        }),
        ("another size", libc::ESTALE, |h, c| {
            (h.required, h.optional) = (ANSWERS | DIGEST, RESUME);
            c.held = Some(Held { length: LENGTH + 1, transfer_id: [0; 16], identity: [0; 32] });
        }),
        ("a sender that cannot resume", libc::EOPNOTSUPP, |_, c| {
            c.held = Some(Held { length: 4096, transfer_id: [0; 16], identity: [0; 32] });
        }),
    ];
    for (name, errno, change) in cases {
        let (mut hello, mut config) = (hello(ANSWERS, 0), receiving());
        change(&mut hello, &mut config);
        assert_eq!(refused(&hello, &config), Some((errno, true)), "{name}");
        // One-way it is not reported.
        hello.required &= !ANSWERS;
        assert_eq!(refused(&hello, &config), Some((errno, false)), "{name}, one-way");
    }
    let config = receiver::Config { answers: false, ..receiving() };
    assert_eq!(refused(&hello(ANSWERS, 0), &config), Some((libc::ENOTCONN, false)));
    assert_eq!(refused(&hello(ANSWERS, 0), &receiving()), None);
}

#[test]
fn an_unreadable_stream_is_not_answered() {
    let good = with_body(Kind::Hello, 0, &hello(ANSWERS, 0).encode());
    for (at, errno) in [(9, libc::EBADMSG), (60, libc::EBADMSG), (0, libc::EPROTO)] {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        let mut receiver = Receiver::new(&receiving()).unwrap();
        assert_eq!(give(&mut receiver, &bytes).unwrap_err().errno(), errno);
        assert!(said(&mut receiver).is_empty());
    }
}

#[test]
fn a_hello_of_a_later_version_is_understood() {
    let mut later = hello(ANSWERS, !ANSWERS);
    later.version = 7;
    let body = [&later.encode()[..], b"fields to come"].concat();
    let mut receiver = Receiver::new(&receiver::Config { checksum: true, ..receiving() }).unwrap();
    give(&mut receiver, &with_body(Kind::Hello, 0, &body)).unwrap();
    let answers = frames(&said(&mut receiver));
    let accept = Accept::decode(&answers[0].1, &later).unwrap();
    assert_eq!((accept.version, accept.features), (VERSION, ANSWERS | CHECKSUM));
}

#[test]
fn every_hostile_accept_is_refused() {
    let cases: [(&str, i32, ChangeAccept); 9] = [
        ("version 0", libc::EPROTONOSUPPORT, |a| a.version = 0),
        ("version 2", libc::EPROTONOSUPPORT, |a| a.version = 2),
        ("a feature that was not offered", libc::EPROTONOSUPPORT, |a| a.features |= CHECKSUM),
        ("kept parts", libc::EPROTONOSUPPORT, |a| a.features |= KEEP),
        ("no answers after all", libc::EPROTONOSUPPORT, |a| a.features &= !ANSWERS),
        ("a payload too small", libc::EPROTO, |a| a.max_payload = 4095),
        ("a payload too large", libc::EPROTO, |a| a.max_payload = u32::MAX),
        ("an offer beyond the length", libc::EPROTO, |a| a.resume_offset = LENGTH + 1),
        ("an offer without resuming", libc::EPROTO, |a| {
            (a.features, a.resume_offset) = (ANSWERS | DIGEST, 4);
        }),
    ];
    for (name, errno, change) in cases {
        let mut sender = Sender::new(&sending(hello(ANSWERS | DIGEST, RESUME))).unwrap();
        sender.greet();
        sent(&mut sender);
        let mut accept = accept(ANSWERS | DIGEST | RESUME);
        change(&mut accept);
        let error = answer(&mut sender, &with_body(Kind::Accept, 0, &accept.encode())).unwrap_err();
        assert_eq!(error.errno(), errno, "{name}");
        assert_eq!(reported(&sent(&mut sender)).unwrap().errno(), errno, "{name}");
    }
}

/// A sender of "held" and more, and a receiver that holds some bytes, until BEGIN or a failure.
fn resumed(content: &[u8], restart: (bool, bool)) -> Result<(Sender, Receiver), Error> {
    let mut config = sending(hello(ANSWERS | DIGEST, RESUME));
    config.restart = restart.0;
    let mut sender = Sender::new(&config).unwrap();
    let held = Held { length: 4, transfer_id: [0; 16], identity: [0; 32] };
    let config = receiver::Config { held: Some(held), restart: restart.1, ..receiving() };
    let mut receiver = Receiver::new(&config).unwrap();
    sender.greet();
    give(&mut receiver, &sent(&mut sender))?;
    assert_eq!(receiver.stage(), Stage::Proving(4));
    assert!(said(&mut receiver).is_empty());
    // A digest of something else than what is held is a mistake.
    assert!(receiver.proven(Digest::default()).is_err());
    let mut digest = Digest::default();
    digest.data(content);
    receiver.proven(digest).unwrap();
    answer(&mut sender, &said(&mut receiver))?;
    sender.compare(b"held");
    if let Err(refused) = sender.agree() {
        sender.fail(&error_of(refused.into()));
    }
    give(&mut receiver, &sent(&mut sender))?;
    Ok((sender, receiver))
}

#[test]
fn an_offer_is_proof_or_is_refused() {
    let (mut sender, mut receiver) = resumed(b"held", (false, false)).unwrap();
    assert_eq!((receiver.at(), receiver.start(), sender.at()), (4, 4, 4));
    // The digest covers what was held.
    sender.hole(LENGTH - 4).unwrap();
    sender.end().unwrap();
    let bytes = sent(&mut sender);
    give(&mut receiver, &bytes[..HEADER]).unwrap();
    assert!(receiver.pass(LENGTH - 4));
    give(&mut receiver, &bytes[HEADER..]).unwrap();
    receiver.finish().unwrap();
    answer(&mut sender, &said(&mut receiver)).unwrap();
    assert_eq!(sender.stage(), sender::Stage::Finished);

    let error = resumed(b"hold", (false, false)).unwrap_err();
    assert_eq!((error.errno(), error.is_peers()), (libc::ESTALE, true));
    for restart in [(true, false), (false, true)] {
        assert_eq!(resumed(b"hold", restart).unwrap_err().errno(), libc::ESTALE);
    }
    let (sender, receiver) = resumed(b"hold", (true, true)).unwrap();
    assert_eq!((receiver.at(), receiver.start(), sender.at()), (0, 0, 0));
}

#[test]
fn a_comparison_of_more_than_was_offered_is_a_difference() {
    let hello = hello(ANSWERS | DIGEST, RESUME);
    let mut held = Digest::default();
    held.hole(LENGTH);
    let offer = Accept {
        resume_offset: LENGTH,
        resume_digest: held.root(),
        flags: RESTART,
        ..accept(ANSWERS | DIGEST | RESUME)
    };
    for more in [1, u64::MAX - LENGTH, u64::MAX] {
        let config = sender::Config { restart: true, ..sending(hello) };
        let mut sender = Sender::new(&config).unwrap();
        sender.greet();
        answer(&mut sender, &with_body(Kind::Accept, 0, &offer.encode())).unwrap();
        sender.compare_hole(LENGTH);
        sender.compare_hole(more);
        assert_eq!(sender.fits(1), 0);
        sender.compare(b"more");
        assert!(!sender.agree().unwrap());
        assert_eq!((sender.at(), sender.fits(1)), (0, 1));
    }
}

#[test]
fn an_offer_is_answered_by_begin_alone() {
    let held = Held { length: 4096, transfer_id: [0; 16], identity: [0; 32] };
    let config = receiver::Config { held: Some(held), ..receiving() };
    for (frame, errno) in [
        (bare(Kind::Begin, 4095, 0), libc::EPROTO),
        (bare(Kind::Begin, 0, 0), libc::EPROTO),
        (bare(Kind::Begin, 4096, 3), libc::EPROTO),
        (bare(Kind::Begin, 0, u64::MAX), libc::EPROTO),
        (bare(Kind::Begin, 0, 3), libc::ESTALE),
        (data(4096, b"x"), libc::EPROTO),
    ] {
        let mut receiver = Receiver::new(&config).unwrap();
        let hello = hello(ANSWERS | DIGEST, RESUME);
        give(&mut receiver, &with_body(Kind::Hello, 0, &hello.encode())).unwrap();
        let mut digest = Digest::default();
        digest.hole(4096);
        receiver.proven(digest).unwrap();
        assert_eq!(give(&mut receiver, &frame).unwrap_err().errno(), errno);
    }
}

#[test]
fn a_receiver_that_may_restart_says_why_it_offers_nothing() {
    for (optional, identity, reason) in
        [(RESUME, [1; 32], Reason::Identity), (0, [0; 32], Reason::Unable)]
    {
        let held = Held { length: 4096, transfer_id: [0; 16], identity };
        let config = receiver::Config { held: Some(held), restart: true, ..receiving() };
        let mut receiver = Receiver::new(&config).unwrap();
        let hello = hello(ANSWERS | DIGEST, optional);
        give(&mut receiver, &with_body(Kind::Hello, 0, &hello.encode())).unwrap();
        assert_eq!(receiver.stage(), Stage::Open);
        let accept = Accept::decode(&frames(&said(&mut receiver))[0].1, &hello).unwrap();
        assert_eq!((accept.reason, accept.resume_offset), (reason, 0));
        assert_eq!(accept.flags, RESTART);
    }
}
