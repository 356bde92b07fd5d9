//! The stream itself.

use super::receiver::Piece;
use super::*;
use crate::testing::Random;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Section {
    Data(Vec<u8>),
    Hole(u64),
    Keep(u64),
}

fn stream(random: &mut Random) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    for _ in 0..random.below(12) {
        let next = match random.below(3) {
            0 => {
                let most = [10, 20_000, 140_000][random.below(3) as usize];
                let length = 1 + random.below(most);
                Section::Data((0..length).map(|_| random.below(256) as u8).collect())
            }
            1 => {
                let bits = random.below(50);
                Section::Hole(1 + random.below(1 << bits))
            }
            _ => {
                let bits = random.below(50);
                Section::Keep(1 + random.below(1 << bits))
            }
        };
        match (sections.last_mut(), next) {
            (Some(Section::Data(all)), Section::Data(more)) => all.extend(more),
            (Some(Section::Hole(all)), Section::Hole(more)) => *all += more,
            (Some(Section::Keep(all)), Section::Keep(more)) => *all += more,
            (_, next) => sections.push(next),
        }
    }
    sections
}

/// Two machines and the bytes between them.
struct Between {
    sender: Sender,
    receiver: Receiver,
    there: Vec<u8>,
    back: Vec<u8>,
    came: Vec<Section>,
    /// Whether payload is shown.
    shown: bool,
}

impl Between {
    /// Moves some bytes from the sender, into the receiver, and back.
    fn turn(&mut self, random: &mut Random) {
        let most = [7, 100, 5000, 300_000][random.below(4) as usize] as usize;
        let bytes = self.sender.poll_transmit();
        let count = most.min(bytes.len());
        self.there.extend_from_slice(&bytes[..count]);
        self.sender.transmitted(count);
        self.receive();
        let bytes = self.receiver.poll_transmit();
        let count = most.min(bytes.len());
        self.back.extend_from_slice(&bytes[..count]);
        self.receiver.transmitted(count);
        while let Input::Taken(count) = self.sender.handle_input(&self.back).unwrap() {
            self.back.drain(..count);
        }
        if random.once_in(3) {
            // It is durable once it was passed on, and no earlier.
            self.receiver.durable(self.receiver.at());
        }
    }

    fn receive(&mut self) {
        loop {
            match self.receiver.piece() {
                Piece::None => match self.receiver.handle_input(&self.there).unwrap() {
                    Input::Taken(count) => drop(self.there.drain(..count)),
                    Input::Incomplete(need) => {
                        assert!(need > self.there.len());
                        return;
                    }
                },
                Piece::Data { left, .. } => {
                    let count = self.there.len().min(left as usize);
                    if count == 0 {
                        return;
                    }
                    let bytes: Vec<u8> = self.there.drain(..count).collect();
                    if self.shown || self.receiver.sees_payload() {
                        self.receiver.payload(&bytes).unwrap();
                    } else {
                        self.receiver.payload_passed(count as u32).unwrap();
                    }
                    match self.came.last_mut() {
                        Some(Section::Data(all)) => all.extend(bytes),
                        _ => self.came.push(Section::Data(bytes)),
                    }
                }
                Piece::Hole(left) => {
                    assert!(!self.receiver.pass(left + 1) && self.receiver.pass(left));
                    self.came.push(Section::Hole(left));
                }
                Piece::Keep(left) => {
                    assert!(self.receiver.pass(left.div_ceil(2)));
                    assert!(left == 1 || self.receiver.pass(left / 2));
                    self.came.push(Section::Keep(left));
                }
            }
            if self.receiver.stage() == receiver::Stage::Ended {
                return;
            }
        }
    }

    fn send_data(&mut self, bytes: &[u8], random: &mut Random) -> usize {
        let count = self.sender.fits(bytes.len() as u64).min(30_000) as usize;
        let payload = &bytes[..count];
        match random.below(4) {
            _ if !self.sender.has_room(HEADER + count) => return 0,
            0 => self.sender.data(payload).unwrap(),
            1 => {
                self.sender.lend(count).unwrap()[..count].copy_from_slice(payload);
                self.sender.placed(count);
            }
            2 if !self.sender.sees_payload() => {
                self.sender.owe(count as u32).unwrap();
                while self.sender.waits() > 0 {
                    self.turn(random);
                }
                let some = random.below(count as u64) as u32;
                self.there.extend_from_slice(&payload[..some as usize]);
                self.sender.payload_passed(some).unwrap();
                let most = random.below(2 * count as u64) as usize;
                let there = &mut self.there;
                let rest = &payload[some as usize..];
                let sent = self.sender.owed_through(rest, |queued, rest| {
                    assert!(queued.is_empty());
                    let count = most.min(rest.len());
                    there.extend_from_slice(&rest[..count]);
                    Ok(count)
                });
                assert_eq!(sent, Ok(Ok(())));
            }
            _ => {
                let most = random.below(100_000) as usize;
                let there = &mut self.there;
                let sent = self.sender.data_through(payload, |queued, payload| {
                    if most == 0 {
                        return Err(libc::EAGAIN);
                    }
                    let all = [queued, payload].concat();
                    let count = most.min(all.len());
                    there.extend_from_slice(&all[..count]);
                    Ok(count)
                });
                if sent.unwrap().is_err() {
                    return 0;
                }
            }
        }
        count
    }
}

#[test]
fn random_streams_come_whole_however_they_are_cut() {
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let sections = stream(&mut random);
        let features = [0, CHECKSUM, DIGEST, CHECKSUM | DIGEST][random.below(4) as usize];
        let mut hello = hello(ANSWERS | KEEP | features, 0);
        hello.length = UNKNOWN;
        let config =
            sender::Config { checkpoint_interval: 1 + random.below(100_000), ..sending(hello) };
        let mut between = Between {
            sender: Sender::new(&config).unwrap(),
            receiver: Receiver::new(&receiving()).unwrap(),
            there: Vec::new(),
            back: Vec::new(),
            came: Vec::new(),
            shown: random.once_in(2),
        };
        between.sender.greet();
        while between.sender.stage() != sender::Stage::Open {
            between.turn(&mut random);
        }
        for section in &sections {
            match section {
                Section::Data(bytes) => {
                    let mut done = 0;
                    while done < bytes.len() {
                        done += between.send_data(&bytes[done..], &mut random);
                        if random.once_in(2) {
                            between.turn(&mut random);
                        }
                    }
                }
                Section::Hole(length) => between.sender.hole(*length).unwrap(),
                Section::Keep(length) => between.sender.keep(*length).unwrap(),
            }
            if random.once_in(2) {
                between.turn(&mut random);
            }
        }
        between.sender.end().unwrap();
        for _ in 0..1_000_000 {
            between.turn(&mut random);
            if between.receiver.stage() == receiver::Stage::Ended {
                between.receiver.finish().unwrap();
            }
            if between.sender.stage() == sender::Stage::Finished {
                break;
            }
        }
        assert_eq!(between.sender.stage(), sender::Stage::Finished, "seed {seed}");
        assert!(between.came == sections, "seed {seed}");
    }
}

/// An ACK is checked against what was handed to the transport, byte by byte.
#[test]
fn bytes_that_were_not_sent_cannot_be_acknowledged() {
    // Offset of the first byte of the stream that is not sent, by count of sent bytes.
    let build = || {
        let mut sender = open_sender(0);
        sender.data(b"data").unwrap();
        sender.hole(1000).unwrap();
        sender.data(b"more").unwrap();
        sender.hole(LENGTH - 1008).unwrap();
        sender.end().unwrap();
        sender
    };
    let whole = build().poll_transmit().len();
    let expected = |count: usize| match count {
        0..=32 => 0,
        33..=36 => count as u64 - 32,
        37..68 => 4,
        68..=100 => 1004,
        101..=104 => 1004 + count as u64 - 100,
        105..136 => 1008,
        _ => LENGTH,
    };
    for step in [1, 2, 5, 31, 32, 33, 50, 1000] {
        let mut sender = build();
        let mut count = 0;
        while count < whole {
            let status = with_body(Kind::Status, LENGTH, &[0; 32]);
            assert!(sender.handle_input(&status).is_err(), "{count} of {whole}");
            let sent = expected(count);
            let beyond = sender.handle_input(&bare(Kind::Ack, sent + 1, 0));
            assert!(beyond.is_err(), "{count} sent, {sent} in steps of {step}");
            let here = sender.handle_input(&bare(Kind::Ack, sent, 0));
            assert_eq!(here, Ok(Input::Taken(HEADER)), "{count} sent, {sent} in steps of {step}");
            let some = step.min(whole - count);
            sender.transmitted(some);
            count += some;
        }
        answer(&mut sender, &with_body(Kind::Status, LENGTH, &[0; 32])).unwrap();
        assert_eq!(sender.stage(), sender::Stage::Finished);
    }
}

#[test]
fn an_unsent_payload_beside_the_queue_cannot_be_acknowledged() {
    for taken in [1, 31, 32, 33, 40, 131] {
        let mut sender = open_sender(0);
        sender.data_through(&[b'x'; 100], |_, _| Ok(taken)).unwrap().unwrap();
        let at = taken.saturating_sub(HEADER) as u64;
        assert!(sender.handle_input(&bare(Kind::Ack, at + 1, 0)).is_err(), "{taken}");
        sender.handle_input(&bare(Kind::Ack, at, 0)).unwrap();
        sender.transmitted(1);
        let at = (taken + 1).saturating_sub(HEADER) as u64;
        assert!(sender.handle_input(&bare(Kind::Ack, at + 1, 0)).is_err(), "{taken}");
        sender.handle_input(&bare(Kind::Ack, at, 0)).unwrap();
    }
    let mut sender = open_sender(0);
    sender.owe(100).unwrap();
    sent(&mut sender);
    sender.payload_passed(10).unwrap();
    sender.handle_input(&bare(Kind::Ack, 10, 0)).unwrap();
    sender.owed_zeros(20).unwrap();
    sender.owed_zeros(20).unwrap();
    assert!(sender.handle_input(&bare(Kind::Ack, 11, 0)).is_err());
    sender.transmitted(25);
    sender.handle_input(&bare(Kind::Ack, 35, 0)).unwrap();
    assert!(sender.handle_input(&bare(Kind::Ack, 36, 0)).is_err());
    sent(&mut sender);
    sender.handle_input(&bare(Kind::Ack, 50, 0)).unwrap();
    // It never goes back.
    assert!(sender.handle_input(&bare(Kind::Ack, 49, 0)).is_err());
}

/// A frame cannot be completed, or left, by anything but its payload.
#[test]
fn a_frame_under_way_takes_nothing_else() {
    let mut sender = open_sender(0);
    sender.owe(100).unwrap();
    assert!(sender.hole(1).is_err() && sender.data(b"x").is_err() && sender.end().is_err());
    assert!(sender.owed_zeros(101).is_err());
    let failure = Error::at(Operation::Read, Side::Source, 0, libc::EIO);
    let before = sender.waits();
    sender.fail(&failure);
    assert_eq!(sender.waits(), before);
}

#[test]
fn no_changed_byte_goes_unnoticed() {
    let mut hello = hello(CHECKSUM | DIGEST | KEEP, 0);
    hello.length = UNKNOWN;
    let mut sender = Sender::new(&sending(hello)).unwrap();
    sender.greet();
    sender.data(b"some data").unwrap();
    sender.hole(70_000).unwrap();
    sender.keep(5).unwrap();
    sender.data(b"more").unwrap();
    sender.end().unwrap();
    let bytes = sent(&mut sender);
    let outcome = |bytes: &[u8]| {
        let mut receiver = Receiver::new(&receiving()).unwrap();
        let mut rest = bytes;
        loop {
            match receiver.piece() {
                Piece::None => match receiver.handle_input(rest) {
                    Ok(Input::Taken(count)) => rest = &rest[count..],
                    Ok(Input::Incomplete(_)) => return Err(libc::ENODATA),
                    Err(fault) => return Err(error_of(fault).errno()),
                },
                Piece::Data { left, .. } => {
                    let Some((payload, after)) = rest.split_at_checked(left as usize) else {
                        return Err(libc::ENODATA);
                    };
                    receiver.payload(payload).map_err(|refused| refused.errno)?;
                    rest = after;
                }
                Piece::Hole(left) | Piece::Keep(left) => assert!(receiver.pass(left)),
            }
            if receiver.stage() == receiver::Stage::Ended {
                return Ok(());
            }
        }
    };
    assert_eq!(outcome(&bytes), Ok(()));
    for at in 0..bytes.len() {
        for bit in [0x01, 0x80] {
            let mut changed = bytes.clone();
            changed[at] ^= bit;
            let result = outcome(&changed);
            assert!(
                [Err(libc::EBADMSG), Err(libc::EPROTO)].contains(&result),
                "byte {at}: {result:?}"
            );
        }
    }
}

#[test]
fn limits_hold_before_anything_is_passed_on() {
    let frame = |kind, offset, value| bare(kind, offset, value);
    let cases: Vec<(&str, Vec<u8>, i32)> = vec![
        ("data that starts late", data(1, b"data"), libc::EPROTO),
        ("data that wraps", data(u64::MAX - 1, b"data"), libc::EPROTO),
        ("a hole that starts late", frame(Kind::Hole, 4096, 4096), libc::EPROTO),
        ("a hole of 16 TiB in 1 MiB", frame(Kind::Hole, 0, 16 << 40), libc::EPROTO),
        ("a hole that wraps", frame(Kind::Hole, 0, u64::MAX), libc::EPROTO),
        ("a hole to 2^63", frame(Kind::Hole, 0, MAX_OFFSET + 1), libc::EPROTO),
        ("a hole of length zero", frame(Kind::Hole, 0, 0), libc::EPROTO),
        ("a keep that starts late", frame(Kind::Keep, 4096, 4096), libc::EPROTO),
        ("a keep of 16 TiB in 1 MiB", frame(Kind::Keep, 0, 16 << 40), libc::EPROTO),
        ("a keep that wraps", frame(Kind::Keep, 0, u64::MAX), libc::EPROTO),
        ("a keep of length zero", frame(Kind::Keep, 0, 0), libc::EPROTO),
        ("a keep with a body", with_body(Kind::Keep, 0, b"body"), libc::EPROTO),
        ("data of length zero", data(0, b""), libc::EPROTO),
    ];
    for (name, bytes, errno) in cases {
        let mut receiver = open_receiver(ANSWERS | KEEP);
        assert_eq!(give(&mut receiver, &bytes).unwrap_err().errno(), errno, "{name}");
        assert_eq!(receiver.piece(), Piece::None, "{name}");
    }
    let mut receiver =
        Receiver::new(&receiver::Config { max_size: 1 << 30, ..receiving() }).unwrap();
    let unknown = Hello { length: UNKNOWN, ..hello(KEEP, 0) };
    give(&mut receiver, &with_body(Kind::Hello, 0, &unknown.encode())).unwrap();
    let error = give(&mut receiver, &bare(Kind::Keep, 0, (1 << 30) + 1)).unwrap_err();
    assert_eq!(error.errno(), libc::EFBIG);
}
