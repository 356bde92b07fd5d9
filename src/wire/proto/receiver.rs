//! The receiver of a stream.

use super::body::{
    self, ANSWERS, Accept, CHECKSUM, DIGEST, End, Hello, KEEP, OPTIONAL, RESTART, RESUME, Reason,
};
use super::failure::Failure;
use super::frame::{self, Frame, HEADER, Header, Kind, MAX_OFFSET, Malformed, UNKNOWN, VERSION};
use super::queue::Queue;
use super::sequence::{Limits, Sequence};
use super::silence::Silence;
use super::{DAMAGED, Fault, MISUSED, Refused, UNEXPECTED, refused};
use crate::digest::{Digest, Hash, LENGTH};
use crate::error::{Error, Result};
use std::time::{Duration, Instant};

/// Room for all answers that can wait at one time: ACCEPT, KEEPALIVE, ACK, and STATUS or ERROR.
const ROOM: usize = 1024;

/// While it reads back what it holds, the receiver is never silent for longer.
const SIGN_WHILE_PROVING: Duration = Duration::from_secs(1);

/// How a stream is received.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// The sender can be answered.
    pub answers: bool,
    /// The most bytes that the stream may have.
    pub max_size: u64,
    /// The most bytes of data in one frame.
    pub max_payload: u32,
    /// Payload checksums are wanted.
    pub checksum: bool,
    /// The digest is wanted.
    pub digest: bool,
    /// The stream may have kept parts.
    pub keep: bool,
    /// The identity of the content that kept parts refer to; zeros for any.
    pub base: [u8; 32],
    /// An earlier transfer that may be resumed.
    pub held: Option<Held>,
    /// A transfer that cannot be resumed starts again.
    pub restart: bool,
    /// A KEEPALIVE is sent after this much silence; zero means only while proving, each second.
    pub keepalive: Duration,
}

/// The part of a stream that a receiver holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Bytes from the stream's start that are durable.
    pub length: u64,
    /// The transfer that brought them; zeros for any.
    pub transfer_id: [u8; 16],
    /// The source that they come from; zeros for any.
    pub identity: [u8; 32],
}

/// The stage of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// HELLO has not come.
    Waiting,
    /// HELLO has come. The digest of this many held bytes is needed for ACCEPT: see
    /// [`Receiver::proven`].
    Proving(u64),
    /// An offer is made. BEGIN has not come.
    Offered(u64),
    /// The stream comes.
    Open,
    /// END has come.
    Ended,
    /// STATUS waits to be sent, or is sent.
    Finished,
    /// It failed.
    Failed,
}

/// The rest of the frame that is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// Nothing.
    None,
    /// Data, which comes next.
    Data {
        /// Bytes left.
        left: u32,
        /// The checksum of those that were seen.
        checksum: u32,
        /// The checksum of all, if it is in force.
        expected: Option<u32>,
    },
    /// A hole.
    Hole(u64),
    /// Bytes to be kept.
    Keep(u64),
}

/// The nature of the bytes given to [`Receiver::handle_input`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// Not a complete frame. At least this many bytes are needed, those given included. Nothing was
    /// taken.
    Incomplete(usize),
    /// A frame of this many bytes was taken; what it changed is in [`Receiver::stage`] and
    /// [`Receiver::piece`].
    Taken(usize),
}

/// A receiver. It is given bytes, and says what to answer.
#[derive(Debug)]
pub struct Receiver {
    config: Config,
    stage: Stage,
    queue: Queue,
    hello: Option<Hello>,
    /// The sender understood a HELLO of its own to be two-way, and can be answered.
    answers: bool,
    features: u64,
    sequence: Option<Sequence>,
    /// Bytes that were passed on, from the start of the stream.
    at: u64,
    piece: Piece,
    digest: Option<Digest>,
    /// An offset that became durable, and was not reported yet.
    durable: Option<u64>,
    signs: u64,
    silence: Silence,
}

impl Receiver {
    /// One that has heard nothing.
    pub fn new(config: &Config) -> Result<Self> {
        let mut config = *config;
        config.held = config.held.filter(|held| held.length > 0);
        Ok(Receiver {
            config,
            stage: Stage::Waiting,
            queue: Queue::new(ROOM)?,
            hello: None,
            answers: false,
            features: 0,
            sequence: None,
            at: 0,
            piece: Piece::None,
            digest: None,
            durable: None,
            signs: 0,
            silence: Silence::default(),
        })
    }

    /// The stage.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// The piece that is to be passed on before the next frame is given.
    #[must_use]
    pub fn piece(&self) -> Piece {
        self.piece
    }

    /// Bytes that were passed on, from the start of the stream.
    #[must_use]
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Where the stream starts.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.sequence.map_or(0, |sequence| sequence.start())
    }

    /// HELLO, once it has come and was not refused.
    #[must_use]
    pub fn hello(&self) -> Option<&Hello> {
        self.hello.as_ref()
    }

    /// The features in force.
    #[must_use]
    pub fn features(&self) -> u64 {
        self.features
    }

    /// Frames that did no more than show that the sender is alive.
    #[must_use]
    pub fn signs(&self) -> u64 {
        self.signs
    }

    /// Whether the payload of DATA must be shown, and not only counted.
    #[must_use]
    pub fn sees_payload(&self) -> bool {
        self.digest.is_some() || self.features & CHECKSUM != 0
    }

    /// Takes the frame at the start of these bytes. Not to be called while a piece is left.
    pub fn handle_input(&mut self, bytes: &[u8]) -> std::result::Result<Input, Fault> {
        if self.piece != Piece::None {
            return Err(MISUSED.into());
        }
        match frame::first(bytes)? {
            Frame::Incomplete(need) => Ok(Input::Incomplete(need)),
            Frame::Whole(header, body) => {
                self.accept(&header, body)?;
                if self.stage == Stage::Ended && bytes.len() > header.whole() {
                    let why = "something follows the end of the stream";
                    return Err(refused(why, libc::EPROTO).into());
                }
                Ok(Input::Taken(header.whole()))
            }
        }
    }

    /// The state table. Nothing is done for a frame that fails.
    fn accept(&mut self, header: &Header, body: &[u8]) -> std::result::Result<(), Fault> {
        match (header.kind, self.stage) {
            (Kind::Error, Stage::Waiting | Stage::Proving(_) | Stage::Offered(_) | Stage::Open) => {
                Err(Fault::Peer(Failure::decode(header, body)?))
            }
            (
                Kind::Keepalive | Kind::Ignored,
                Stage::Proving(_) | Stage::Offered(_) | Stage::Open,
            ) => {
                self.signs += 1;
                Ok(())
            }
            (Kind::Hello, Stage::Waiting) => Ok(self.greet(body)?),
            (Kind::Begin, Stage::Offered(held)) => Ok(self.begin(header, held)?),
            (Kind::Data | Kind::Hole | Kind::Keep | Kind::Checkpoint | Kind::End, Stage::Open) => {
                Ok(self.flow(header, body)?)
            }
            (_, Stage::Waiting) => {
                Err(refused("a stream must begin with HELLO", libc::EPROTO).into())
            }
            _ => Err(UNEXPECTED.into()),
        }
    }

    fn greet(&mut self, body: &[u8]) -> std::result::Result<(), Refused> {
        let hello = Hello::parse(body)?;
        let two_way = hello.required & ANSWERS != 0;
        if two_way && !self.config.answers {
            let why = "the sender waits for answers, but nothing can be sent back";
            return Err(refused(why, libc::ENOTCONN));
        }
        // From here on a refusal is answered.
        self.answers = two_way;
        hello.check()?;
        self.check_keep(&hello)?;
        let limits = Limits { size: self.config.max_size, payload: self.config.max_payload };
        let sequence = Sequence::new(&hello, limits)?;
        let features = self.choose(&hello)?;
        let (offer, reason) = self.offer(&hello, features)?;
        self.features = features;
        self.digest = (features & DIGEST != 0).then(Digest::default);
        self.hello = Some(hello);
        self.sequence = Some(sequence);
        match offer {
            Some(held) => self.stage = Stage::Proving(held),
            None => self.answer(&hello, reason, 0, &[0; LENGTH]),
        }
        Ok(())
    }

    fn check_keep(&self, hello: &Hello) -> std::result::Result<(), Refused> {
        if hello.required & KEEP == 0 {
            return Ok(());
        }
        if !self.config.keep {
            let why = "the stream keeps parts of the target, which the receiver was not set up for";
            return Err(refused(why, libc::EOPNOTSUPP));
        }
        if self.config.base != [0; 32] && self.config.base != hello.base {
            return Err(refused("the stream is on top of another base", libc::ESTALE));
        }
        Ok(())
    }

    /// The features to be in force.
    fn choose(&self, hello: &Hello) -> std::result::Result<u64, Refused> {
        let mut features = hello.required;
        if self.answers {
            let wanted = if self.config.checksum { CHECKSUM } else { 0 }
                | if self.config.digest { DIGEST } else { 0 }
                | if self.config.held.is_some() { RESUME | DIGEST } else { 0 };
            features |= hello.optional & wanted & OPTIONAL;
        }
        for (wanted, feature, why) in [
            (self.config.checksum, CHECKSUM, "the sender gives no payload checksums"),
            (self.config.digest, DIGEST, "the sender gives no digest"),
        ] {
            if wanted && features & feature == 0 {
                return Err(refused(why, libc::EOPNOTSUPP));
            }
        }
        Ok(features)
    }

    /// The length to offer, or why there is no offer.
    fn offer(
        &self,
        hello: &Hello,
        features: u64,
    ) -> std::result::Result<(Option<u64>, Reason), Refused> {
        let Some(held) = self.config.held else { return Ok((None, Reason::None)) };
        let differs = |held: &[u8], told: &[u8]| held.iter().any(|byte| *byte != 0) && held != told;
        let (reason, why, errno) = if differs(&held.transfer_id, &hello.transfer_id)
            || differs(&held.identity, &hello.identity)
            || hello.length != UNKNOWN && held.length > hello.length
        {
            (Reason::Identity, "the source has changed", libc::ESTALE)
        } else if features & (RESUME | DIGEST) != RESUME | DIGEST {
            (Reason::Unable, "the sender cannot resume", libc::EOPNOTSUPP)
        } else {
            return Ok((Some(held.length), Reason::None));
        };
        if self.config.restart { Ok((None, reason)) } else { Err(refused(why, errno)) }
    }

    /// Answers HELLO, two-way.
    fn answer(&mut self, hello: &Hello, reason: Reason, offset: u64, digest: &Hash) {
        self.stage = if offset > 0 { Stage::Offered(offset) } else { Stage::Open };
        if !self.answers {
            return;
        }
        let accept = Accept {
            version: hello.version.min(VERSION),
            reason,
            max_payload: self.config.max_payload,
            features: self.features,
            resume_offset: offset,
            resume_digest: *digest,
            flags: if self.config.restart { RESTART } else { 0 },
        };
        self.push_with_body(Kind::Accept, 0, &accept.encode());
    }

    /// The digest of the held bytes, which [`Stage::Proving`] asked for: makes the offer.
    pub fn proven(&mut self, digest: Digest) -> std::result::Result<(), Refused> {
        match (self.stage, self.hello) {
            (Stage::Proving(held), Some(hello)) if digest.offset() == held => {
                if let Some(sequence) = &mut self.sequence {
                    sequence.resume(held);
                }
                self.answer(&hello, Reason::None, held, &digest.root());
                self.digest = Some(digest);
                Ok(())
            }
            _ => Err(MISUSED),
        }
    }

    /// The held bytes are not there any more. A receiver that may restart receives everything.
    pub fn unproven(&mut self) -> std::result::Result<(), Refused> {
        match (self.stage, self.hello) {
            (Stage::Proving(_), Some(hello)) if self.config.restart => {
                self.answer(&hello, Reason::Content, 0, &[0; LENGTH]);
                Ok(())
            }
            (Stage::Proving(_), _) => Err(refused("less is held than was recorded", libc::ENODATA)),
            _ => Err(MISUSED),
        }
    }

    fn begin(&mut self, header: &Header, held: u64) -> std::result::Result<(), Refused> {
        let reason = Reason::of_begin(header.value)?;
        match (header.offset, reason) {
            (offset, Reason::None) if offset == held => self.at = held,
            (_, Reason::None) => return Err(UNEXPECTED),
            (0, _) if self.config.restart => {
                if let Some(sequence) = &mut self.sequence {
                    sequence.resume(0);
                }
                self.digest = Some(Digest::default());
            }
            (0, _) => return Err(refused("what is held differs from the source", libc::ESTALE)),
            _ => return Err(UNEXPECTED),
        }
        self.stage = Stage::Open;
        Ok(())
    }

    /// A frame of the stream itself.
    fn flow(&mut self, header: &Header, body: &[u8]) -> std::result::Result<(), Refused> {
        let sequence = self.sequence.as_mut().ok_or(UNEXPECTED)?;
        match header.kind {
            Kind::Data => {
                if self.features & CHECKSUM == 0 && header.checksum != 0 {
                    return Err(Malformed::Unused.into());
                }
                sequence.data(header)?;
                let expected = (self.features & CHECKSUM != 0).then_some(header.checksum);
                self.piece = Piece::Data { left: header.length, checksum: 0, expected };
            }
            Kind::Hole => {
                sequence.hole(header)?;
                self.piece = Piece::Hole(header.value);
                if let Some(digest) = &mut self.digest {
                    digest.hole(header.value);
                }
            }
            Kind::Keep if self.features & KEEP != 0 => {
                sequence.keep(header)?;
                self.piece = Piece::Keep(header.value);
                if let Some(digest) = &mut self.digest {
                    digest.keep(header.value);
                }
            }
            Kind::Checkpoint => {
                sequence.here(header)?;
                let digest = self.digest.as_ref().ok_or(UNEXPECTED)?;
                if body::digest(body)? != digest.root() {
                    return Err(DAMAGED);
                }
            }
            Kind::End => {
                let end = End::decode(body)?;
                sequence.end(header, &end)?;
                if end.digest != self.root() {
                    return Err(DAMAGED);
                }
                self.stage = Stage::Ended;
            }
            _ => return Err(UNEXPECTED),
        }
        Ok(())
    }

    /// The digest of the whole, or zeros.
    fn root(&self) -> Hash {
        self.digest.as_ref().map_or([0; LENGTH], Digest::root)
    }

    /// Takes in payload of the DATA frame under way, which passes on. It is at most what is left.
    pub fn payload(&mut self, bytes: &[u8]) -> std::result::Result<(), Refused> {
        let Piece::Data { left, checksum, expected } = &mut self.piece else {
            return Err(MISUSED);
        };
        let rest = u32::try_from(bytes.len()).ok().and_then(|count| left.checked_sub(count));
        let rest = rest.ok_or(MISUSED)?;
        if let Some(expected) = expected {
            *checksum = crc32c::crc32c_append(*checksum, bytes);
            if rest == 0 && checksum != expected {
                return Err(Malformed::BodyChecksum.into());
            }
        }
        if let Some(digest) = &mut self.digest {
            digest.data(bytes);
        }
        self.pass_data(bytes.len() as u32);
        Ok(())
    }

    /// As [`Receiver::payload`], of bytes that nobody sees.
    pub fn payload_passed(&mut self, count: u32) -> std::result::Result<(), Refused> {
        match self.piece {
            Piece::Data { left, .. } if count <= left && !self.sees_payload() => {
                self.pass_data(count);
                Ok(())
            }
            Piece::None | Piece::Data { .. } | Piece::Hole(_) | Piece::Keep(_) => Err(MISUSED),
        }
    }

    fn pass_data(&mut self, count: u32) {
        if let Piece::Data { left, .. } = &mut self.piece {
            *left -= count;
            if *left == 0 {
                self.piece = Piece::None;
            }
        }
        self.at += u64::from(count);
    }

    /// Checks payload that is here before any of it is passed on, if it is all that is left of its
    /// frame.
    pub fn examine(&self, bytes: &[u8]) -> std::result::Result<(), Refused> {
        match self.piece {
            Piece::Data { left, checksum, expected: Some(expected) } => {
                match bytes.get(..left as usize) {
                    Some(rest) if crc32c::crc32c_append(checksum, rest) != expected => {
                        Err(Malformed::BodyChecksum.into())
                    }
                    Some(_) | None => Ok(()),
                }
            }
            Piece::None | Piece::Data { expected: None, .. } | Piece::Hole(_) | Piece::Keep(_) => {
                Ok(())
            }
        }
    }

    /// Passes on a part of the hole, or of the kept bytes, under way. Returns whether it was there.
    pub fn pass(&mut self, length: u64) -> bool {
        let (Piece::Hole(left) | Piece::Keep(left)) = &mut self.piece else { return false };
        if length > *left {
            return false;
        }
        *left -= length;
        if *left == 0 {
            self.piece = Piece::None;
        }
        self.at += length;
        true
    }

    /// Everything before this offset is durable.
    pub fn durable(&mut self, offset: u64) {
        if self.answers {
            self.durable = Some(offset);
        }
    }

    /// Everything is stored: makes STATUS, the last frame.
    pub fn finish(&mut self) -> std::result::Result<(), Refused> {
        match self.stage {
            Stage::Finished => Ok(()),
            Stage::Ended => {
                self.acknowledge();
                self.stage = Stage::Finished;
                if self.answers {
                    self.push_with_body(Kind::Status, self.at, &self.root());
                }
                Ok(())
            }
            Stage::Waiting | Stage::Proving(_) | Stage::Offered(_) | Stage::Open => {
                Err(refused("the stream was finished before its end", libc::EPROTO))
            }
            Stage::Failed => Err(MISUSED),
        }
    }

    /// The sender has failed: nothing more is said.
    pub fn abandon(&mut self) {
        self.stage = Stage::Failed;
    }

    /// It failed, by this error, which the sender is told.
    pub fn fail(&mut self, error: &Error) {
        let stage = std::mem::replace(&mut self.stage, Stage::Failed);
        let status = HEADER + LENGTH;
        match stage {
            Stage::Failed => return,
            // STATUS must not arrive if it was not sent yet, and nothing may follow it.
            Stage::Finished if self.queue.waits() >= status => self.queue.pop(status),
            Stage::Finished => return,
            Stage::Waiting | Stage::Proving(_) | Stage::Offered(_) | Stage::Open | Stage::Ended => {
            }
        }
        // Whatever is on the way back of something that is not a stream, a terminal perhaps, is told
        // nothing.
        if self.answers {
            let (header, failure) = Failure::encode(error);
            if self.queue.has_room(HEADER + failure.body().len()) {
                self.queue.push(&header);
                self.queue.push(failure.body());
            }
        }
    }

    /// The bytes to be sent next; none if nothing is to be said.
    pub fn poll_transmit(&mut self) -> &[u8] {
        if self.queue.waits() == 0 {
            // Offsets that came meanwhile are covered by the last.
            self.acknowledge();
        }
        self.queue.bytes()
    }

    /// Whether anything is to be sent.
    #[must_use]
    pub fn speaks(&self) -> bool {
        self.queue.waits() > 0 || self.durable.is_some() && self.may_acknowledge()
    }

    /// This many of those bytes were sent.
    pub fn transmitted(&mut self, count: usize) {
        self.silence.broken(count);
        self.queue.take(count);
    }

    fn may_acknowledge(&self) -> bool {
        matches!(self.stage, Stage::Open | Stage::Ended)
    }

    fn acknowledge(&mut self) {
        if !self.may_acknowledge() {
            return;
        }
        if let Some(durable) = self.durable.take() {
            let durable = durable.min(MAX_OFFSET);
            self.queue.push(&Header::new(Kind::Ack, durable, 0).encode());
        }
    }

    /// When to call [`Receiver::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.silence.ends(self.most_silence()?)
    }

    /// The time is `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        let Some(most) = self.most_silence() else { return };
        if self.silence.over(most, now) && self.queue.waits() == 0 {
            self.queue.push(&Header::new(Kind::Keepalive, self.at, 0).encode());
        }
    }

    fn most_silence(&self) -> Option<Duration> {
        let wanted = Some(self.config.keepalive).filter(|time| !time.is_zero());
        match self.stage {
            _ if !self.answers => None,
            Stage::Proving(_) => {
                Some(wanted.map_or(SIGN_WHILE_PROVING, |time| time.min(SIGN_WHILE_PROVING)))
            }
            Stage::Offered(_) | Stage::Open | Stage::Ended => wanted,
            Stage::Waiting | Stage::Finished | Stage::Failed => None,
        }
    }

    fn push_with_body(&mut self, kind: Kind, offset: u64, body: &[u8]) {
        self.queue.push(&Header::with_body(kind, offset, 0, body).encode());
        self.queue.push(body);
    }
}
