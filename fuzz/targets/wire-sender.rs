//! The sending machine driven in any order, against answers that are right, wrong or nonsense: what it
//! sends is always a stream that a receiver takes. No descriptor, no clock.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use sparsestream::digest::Digest;
use sparsestream::error::{Error, Operation, Side};
use sparsestream::wire::proto::body::{Accept, Hello, Reason};
use sparsestream::wire::proto::codec::{MAX_OFFSET, MAX_PAYLOAD, UNKNOWN, VERSION};
use sparsestream::wire::proto::frame::{HEADER, Header, Kind};
use sparsestream::wire::proto::receiver::{self, Held, Piece, Receiver};
use sparsestream::wire::proto::sender::{self, Config, Sender, Stage};
use sparsestream::wire::proto::{Fault, Input};
use std::time::{Duration, Instant};

#[derive(Debug, Arbitrary)]
struct Story {
    two_way: bool,
    checksum: bool,
    digest: bool,
    keep: bool,
    resume: bool,
    restart: bool,
    interval: u16,
    keepalive: bool,
    total: Option<u32>,
    held: Option<(u16, u8, bool)>,
    receiver_digest: bool,
    operations: Vec<Operate>,
}

#[derive(Debug, Arbitrary)]
enum Operate {
    Data {
        length: u16,
        value: u8,
    },
    Through {
        length: u16,
        value: u8,
        most: Option<u16>,
    },
    Lend {
        length: u16,
        value: u8,
    },
    Owe {
        length: u16,
    },
    Pay {
        length: u16,
        most: Option<u16>,
    },
    Bypass {
        length: u16,
    },
    Zeros {
        length: u16,
    },
    Hole {
        length: u64,
    },
    SmallHole {
        length: u16,
    },
    Keep {
        length: u16,
    },
    Compare {
        length: u16,
        value: u8,
    },
    CompareHole {
        length: u16,
    },
    Agree,
    End,
    Fail,
    Time {
        milliseconds: u16,
    },
    /// The transport takes this much, or, for one value in eight, is not ready, and insists on being offered the same
    /// bytes again.
    Transmit {
        most: u16,
    },
    /// The receiver's own answers arrive.
    Answer,
    Ack {
        offset: u64,
    },
    Status {
        offset: u64,
    },
    Accept {
        features: u8,
        payload: u32,
        offset: u16,
        restart: bool,
    },
    Failure {
        bytes: [u8; 10],
    },
    Bytes {
        bytes: Vec<u8>,
    },
}

/// The other end: a machine that believes nothing.
struct Far {
    receiver: Receiver,
    there: Vec<u8>,
    held: (u64, u8),
    failed: bool,
    /// The last offset that arrived.
    at: u64,
}

impl Far {
    fn take(&mut self, bytes: &[u8]) {
        if self.failed {
            return;
        }
        self.there.extend_from_slice(bytes);
        let mut from = 0;
        loop {
            let here = &self.there[from..];
            match self.receiver.piece() {
                Piece::None => {
                    if let receiver::Stage::Proving(length) = self.receiver.stage() {
                        let mut digest = Digest::default();
                        digest.data(&vec![self.held.1; length as usize]);
                        self.receiver.proven(digest).expect("it was asked for");
                        continue;
                    }
                    match self.receiver.handle_input(here) {
                        Ok(Input::Taken(count)) => from += count,
                        Ok(Input::Incomplete(_)) => break,
                        Err(Fault::Peer(_)) => {
                            self.failed = true;
                            self.receiver.abandon();
                            break;
                        }
                        Err(Fault::Refused(refused)) => {
                            // All that two ends of this version may disagree about.
                            let agreed = [libc::ESTALE, libc::EOPNOTSUPP];
                            assert!(agreed.contains(&refused.errno), "{refused:?}");
                            self.failed = true;
                            let (operation, side) = (Operation::Read, Side::Source);
                            self.receiver.fail(&Error::nowhere(operation, side, refused.errno));
                            break;
                        }
                    }
                }
                Piece::Data { left, .. } => {
                    let count = here.len().min(left as usize);
                    if count == 0 {
                        break;
                    }
                    self.receiver.payload(&here[..count]).expect("it is what was sent");
                    from += count;
                }
                Piece::Hole(left) | Piece::Keep(left) => assert!(self.receiver.pass(left)),
            }
            self.at = self.receiver.at();
            if self.receiver.stage() == receiver::Stage::Ended {
                assert_eq!(from, self.there.len(), "something follows END");
                self.receiver.finish().expect("it has ended");
                break;
            }
        }
        self.there.drain(..from);
    }
}

struct Run {
    sender: Sender,
    far: Far,
    back: Vec<u8>,
    now: Instant,
    honest: bool,
    failed: bool,
    /// The bytes that the transport insists on, and where they are.
    insists: (Vec<u8>, *const u8),
}

impl Run {
    fn tell(&mut self, bytes: &[u8]) {
        self.back.extend_from_slice(bytes);
        let mut from = 0;
        while !self.failed && self.sender.stage() != Stage::Finished {
            match self.sender.handle_input(&self.back[from..]) {
                Ok(Input::Taken(count)) => from += count,
                Ok(Input::Incomplete(_)) => break,
                Err(Fault::Peer(_)) => {
                    self.failed = true;
                    self.sender.abandon();
                }
                Err(Fault::Refused(refused)) => {
                    assert!(!self.honest, "{refused:?} of an honest answer");
                    self.fail(&Error::nowhere(Operation::Finish, Side::Sink, refused.errno));
                }
            }
            assert!(self.failed || self.sender.durable().is_none_or(|at| at <= self.sender.at()));
        }
        self.back.drain(..from);
    }

    fn fail(&mut self, error: &Error) {
        self.failed = true;
        self.sender.fail(error);
    }

    fn transmit(&mut self, most: usize) {
        let bytes = self.sender.poll_transmit();
        let count = bytes.len().min(most);
        self.far.take(&bytes[..count]);
        self.sender.transmitted(count);
        if count > 0 {
            self.insists.0.clear();
        }
    }

    /// The transport takes nothing. Until it does, more bytes may follow those that it was offered.
    fn offer(&mut self, most: usize) {
        let bytes = self.sender.poll_transmit();
        let (insists, at) = &mut self.insists;
        if insists.is_empty() {
            *insists = bytes[..bytes.len().min(most)].to_vec();
            *at = bytes.as_ptr();
        }
        self.sender.offered(insists.len());
    }

    fn check_offer(&self) {
        let (insists, at) = &self.insists;
        let bytes = self.sender.poll_transmit();
        assert!(insists.is_empty() || bytes.starts_with(insists) && bytes.as_ptr() == *at);
    }

    fn operate(&mut self, operate: &Operate) {
        let open = self.sender.stage() == Stage::Open;
        let whole = |length: u16| usize::from(length % 2000);
        match operate {
            Operate::Data { length, value } => self.data(whole(*length), *value, open),
            Operate::Through { length, value, most } => {
                let count = self.sender.fits(whole(*length) as u64) as usize;
                if count > 0 && self.sender.has_room(HEADER + count) {
                    let (payload, far) = (vec![*value; count], &mut self.far);
                    let most = most.map(usize::from);
                    let waits = self.sender.waits();
                    let insists = &mut self.insists.0;
                    let sent = self.sender.data_through(&payload, |queued, payload| {
                        let most = most.ok_or(libc::EAGAIN)?;
                        let all = [queued, payload].concat();
                        let count = most.min(all.len());
                        assert!(all.starts_with(insists));
                        if count > 0 {
                            insists.clear();
                        }
                        far.take(&all[..count]);
                        Ok(count)
                    });
                    if let Ok(Err(errno)) = sent {
                        assert!(errno == libc::EAGAIN && self.sender.waits() <= waits + 64);
                    }
                }
            }
            Operate::Lend { length, value } => {
                let count = self.sender.fits(whole(*length) as u64) as usize;
                if count > 0 && self.sender.has_room(HEADER + count) {
                    if let Some(place) = self.sender.lend(count) {
                        place[..count].fill(*value);
                        self.sender.placed(count);
                    }
                }
            }
            Operate::Owe { length } => {
                if self.sender.has_room(HEADER) {
                    let _ = self.sender.owe(u32::from(*length));
                }
            }
            Operate::Pay { length, most } => self.pay(whole(*length), most.map(usize::from)),
            Operate::Bypass { length } => {
                let count = u32::from(*length).min(self.sender.owed());
                if self.sender.waits() == 0 && count > 0 && !self.failed {
                    self.far.take(&vec![3; count as usize]);
                    self.sender.payload_passed(count).expect("it is owed");
                }
            }
            Operate::Zeros { length } => {
                let count = u32::from(*length).min(self.sender.owed());
                if self.sender.has_room(count as usize) {
                    self.sender.owed_zeros(count).expect("it is owed");
                }
            }
            Operate::Hole { length } => self.hole(*length),
            Operate::SmallHole { length } => self.hole(u64::from(*length)),
            Operate::Keep { length } => {
                if *length > 0 && self.sender.has_room(HEADER) {
                    let _ = self.sender.keep(u64::from(*length));
                }
            }
            Operate::Compare { length, value } => {
                if matches!(self.sender.stage(), Stage::Comparing(_)) {
                    self.sender.compare(&vec![*value; whole(*length)]);
                }
            }
            Operate::CompareHole { length } => {
                if matches!(self.sender.stage(), Stage::Comparing(_)) {
                    // One in eight is longer than any stream.
                    let stretch = if length % 8 == 7 { 62 } else { 0 };
                    self.sender.compare_hole(u64::from(*length) << stretch);
                }
            }
            Operate::Agree => self.agree(),
            Operate::End => {
                if self.sender.has_room(0) {
                    let _ = self.sender.end();
                }
            }
            Operate::Fail => self.fail(&Error::at(Operation::Read, Side::Source, 5, libc::EIO)),
            Operate::Time { milliseconds } => {
                self.now += Duration::from_millis(u64::from(*milliseconds));
                self.sender.handle_timeout(self.now);
                assert!(self.sender.poll_timeout().is_none_or(|due| due > self.now));
            }
            Operate::Transmit { most } if most % 8 == 7 => self.offer(usize::from(*most)),
            Operate::Transmit { most } => self.transmit(usize::from(*most)),
            Operate::Answer
            | Operate::Ack { .. }
            | Operate::Status { .. }
            | Operate::Accept { .. }
            | Operate::Failure { .. }
            | Operate::Bytes { .. } => self.answer(operate),
        }
    }

    fn data(&mut self, length: usize, value: u8, open: bool) {
        let count = self.sender.fits(length as u64) as usize;
        if count > 0 && self.sender.has_room(HEADER + count) {
            let taken = self.sender.data(&vec![value; count]);
            assert_eq!(taken.is_ok(), open && self.sender.owed() == 0);
        }
    }

    fn pay(&mut self, length: usize, most: Option<usize>) {
        let count = length.min(self.sender.owed() as usize);
        if count == 0 || self.failed || !self.sender.has_room(count) {
            return;
        }
        let (far, insists) = (&mut self.far, &mut self.insists.0);
        let sent = self.sender.owed_through(&vec![9; count], |queued, payload| {
            let most = most.ok_or(libc::EAGAIN)?;
            let all = [queued, payload].concat();
            let count = most.min(all.len());
            assert!(all.starts_with(insists));
            if count > 0 {
                insists.clear();
            }
            far.take(&all[..count]);
            Ok(count)
        });
        assert_eq!(sent.expect("it is owed").is_ok(), most.is_some());
    }

    fn hole(&mut self, length: u64) {
        if length > 0 && self.sender.has_room(HEADER) {
            let fits = self
                .sender
                .at()
                .checked_add(length)
                .is_some_and(|end| end <= MAX_OFFSET && end <= self.sender.hello().length);
            let made = self.sender.hole(length);
            assert!(fits || made.is_err());
        }
    }

    fn agree(&mut self) {
        let Stage::Comparing(offer) = self.sender.stage() else { return };
        match self.sender.agree() {
            Ok(true) => assert_eq!(self.sender.at(), offer.length),
            Ok(false) => assert_eq!(self.sender.at(), 0),
            Err(refused) => {
                assert_eq!(refused.errno, libc::ESTALE);
                self.fail(&Error::nowhere(Operation::Open, Side::Sink, refused.errno));
            }
        }
    }

    fn answer(&mut self, operate: &Operate) {
        let with_body = |kind, offset, value, body: &[u8]| {
            [&Header::with_body(kind, offset, value, body).encode(), body].concat()
        };
        let bytes = match operate {
            Operate::Answer => {
                let bytes = self.far.receiver.poll_transmit().to_vec();
                self.far.receiver.transmitted(bytes.len());
                self.far.receiver.durable(self.far.at);
                return self.tell(&bytes);
            }
            Operate::Ack { offset } => Header::new(Kind::Ack, *offset, 0).encode().to_vec(),
            Operate::Status { offset } => with_body(Kind::Status, *offset, 0, &[0; 32]),
            Operate::Accept { features, payload, offset, restart } => {
                let accept = Accept {
                    version: VERSION,
                    reason: Reason::None,
                    max_payload: *payload,
                    features: u64::from(*features),
                    resume_offset: u64::from(*offset),
                    resume_digest: [0; 32],
                    flags: u32::from(*restart),
                };
                with_body(Kind::Accept, 0, 0, &accept.encode())
            }
            Operate::Failure { bytes } => with_body(Kind::Error, 0, 1, bytes),
            Operate::Bytes { bytes } => bytes.clone(),
            _ => unreachable!(),
        };
        if self.sender.two_way() {
            // From here on the far machine and this one may disagree.
            (self.honest, self.far.failed) = (false, true);
            self.tell(&bytes);
        }
    }
}

fn hello(story: &Story) -> Hello {
    let (required, optional) = sender::features(
        story.two_way,
        story.checksum,
        story.digest,
        story.keep,
        story.resume && !story.keep,
    );
    Hello {
        version: VERSION,
        least_version: VERSION,
        max_payload: 1 << 20,
        required,
        optional,
        length: UNKNOWN,
        source_size: UNKNOWN,
        source_offset: 0,
        data_bytes: UNKNOWN,
        transfer_id: [0; 16],
        identity: [0; 32],
        base: [0; 32],
        keepalive_ms: 0,
    }
}

fuzz_target!(|story: Story| {
    let config = Config {
        hello: hello(&story),
        restart: story.restart,
        checkpoint_interval: 1 + u64::from(story.interval),
        keepalive: Duration::from_millis(if story.keepalive { 10 } else { 0 }),
        max_payload: 10_000,
        room: 64 << 10,
    };
    let mut sender = Sender::new(&config).expect("there is memory");
    sender.announce(story.total.map(u64::from), story.keep).expect("it fits");
    let held = story.held.unwrap_or_default();
    let far = receiver::Config {
        answers: true,
        max_size: MAX_OFFSET,
        max_payload: MAX_PAYLOAD,
        checksum: false,
        digest: story.receiver_digest && story.two_way,
        keep: true,
        base: [0; 32],
        held: story.held.map(|(length, _, _)| Held {
            length: u64::from(length % 2000),
            transfer_id: [0; 16],
            identity: [0; 32],
        }),
        restart: held.2,
        keepalive: Duration::ZERO,
    };
    let now = Instant::now();
    let mut run = Run {
        sender,
        far: Far {
            receiver: Receiver::new(&far).expect("there is memory"),
            there: Vec::new(),
            held: ((held.0 % 2000).into(), held.1),
            failed: false,
            at: 0,
        },
        back: Vec::new(),
        now,
        honest: true,
        failed: false,
        insists: (Vec::new(), std::ptr::null()),
    };
    run.sender.greet();
    run.sender.handle_timeout(now);
    for operate in &story.operations {
        run.operate(operate);
        run.check_offer();
        if run.failed || run.sender.stage() == Stage::Finished {
            break;
        }
    }
    while run.sender.waits() > 0 {
        run.transmit(usize::MAX);
    }
    // One-way the refusal of the stream is not reported.
    if run.sender.stage() == Stage::Finished && run.honest && run.sender.two_way() {
        assert_eq!(run.far.receiver.at(), run.sender.at());
        assert_eq!(run.far.receiver.stage(), receiver::Stage::Finished);
    }
});
