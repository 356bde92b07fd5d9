//! The receiver of a stream.
//!
//! | module | subject |
//! |---|---|
//! | this one | the conversation: its stages, the frames, the answers |
//! | `greeting` | from HELLO to the first frame of the stream |
//! | `pieces` | the piece of the frame under way |

mod greeting;
mod pieces;

use super::body::{self, CHECKSUM, End, Hello, KEEP};
use super::codec::{MAX_OFFSET, Malformed};
use super::failure::Failure;
use super::frame::{self, Frame, HEADER, Header, Kind};
use super::queue::Queue;
use super::sequence::Sequence;
use super::silence::Silence;
use super::{DAMAGED, Fault, Input, MISUSED, Refused, UNEXPECTED, refused};
use crate::digest::{Digest, Hash, LENGTH};
use crate::error::{Error, Result};
use std::time::{Duration, Instant};

/// Room for all answers that can wait at one time: ACCEPT, KEEPALIVE, ACK, and STATUS or ERROR.
const ROOM: usize = 1024;

/// The longest silence of a receiver that reads back the bytes that it holds.
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

/// The rest of the current frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// Nothing.
    None,
    /// Data, which comes next.
    Data {
        /// Bytes left.
        left: u32,
        /// The checksum of the bytes that were seen.
        checksum: u32,
        /// The checksum of the whole payload, if the feature is in force.
        expected: Option<u32>,
    },
    /// A hole.
    Hole(u64),
    /// Bytes to be kept.
    Keep(u64),
}

/// A receiver. It is given bytes, and returns the answers.
#[derive(Debug)]
pub struct Receiver {
    config: Config,
    stage: Stage,
    queue: Queue,
    hello: Option<Hello>,
    /// HELLO was two-way: the sender can be answered.
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
    /// A receiver that waits for HELLO.
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

    /// Whether a piece is left, in an open stream.
    #[inline]
    #[must_use]
    pub fn passes(&self) -> bool {
        matches!(self.stage, Stage::Open) && !matches!(self.piece, Piece::None)
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

    /// HELLO, once it has come as a whole, even if it was refused then.
    #[must_use]
    pub fn hello(&self) -> Option<&Hello> {
        self.hello.as_ref()
    }

    /// The features in force.
    #[must_use]
    pub fn features(&self) -> u64 {
        self.features
    }

    /// The number of frames that only showed that the sender is alive.
    #[must_use]
    pub fn signs(&self) -> u64 {
        self.signs
    }

    /// Whether the payload of DATA must be passed to the machine, not only counted.
    #[must_use]
    pub fn sees_payload(&self) -> bool {
        self.digest.is_some() || self.features & CHECKSUM != 0
    }

    /// Takes the frame at the start of these bytes. Not to be called while a piece is left.
    pub fn handle_input(&mut self, bytes: &[u8]) -> std::result::Result<Input, Fault> {
        if !matches!(self.piece, Piece::None) {
            return Err(MISUSED.into());
        }
        match frame::first(bytes)? {
            Frame::Incomplete(need) => Ok(Input::Incomplete(need)),
            Frame::Whole(header, body) => {
                self.accept(&header, body)?;
                if self.stage == Stage::Ended && bytes.len() > header.whole() {
                    let why = "bytes follow the end of the stream";
                    return Err(refused(why, libc::EPROTO).into());
                }
                Ok(Input::Taken(header.whole()))
            }
        }
    }

    /// The state table. A frame that fails changes nothing.
    fn accept(&mut self, header: &Header, body: &[u8]) -> std::result::Result<(), Fault> {
        match (header.kind, self.stage) {
            (Kind::Error, Stage::Waiting | Stage::Proving(_) | Stage::Offered(_) | Stage::Open) => {
                Err(Fault::Peer(Failure::decode((header.offset, header.value), body)?))
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

    /// The sender has failed: nothing more is sent.
    pub fn abandon(&mut self) {
        self.stage = Stage::Failed;
    }

    /// It failed with this error, which is reported to the sender.
    pub fn fail(&mut self, error: &Error) {
        let stage = std::mem::replace(&mut self.stage, Stage::Failed);
        match stage {
            Stage::Failed => return,
            // STATUS must not arrive if it was not offered to the transport yet, and nothing may follow it.
            Stage::Finished => {
                if !self.queue.pop(HEADER + LENGTH) {
                    return;
                }
            }
            Stage::Waiting | Stage::Proving(_) | Stage::Offered(_) | Stage::Open | Stage::Ended => {
            }
        }
        // If the input is not a stream, the output may be anything, such as a terminal: nothing is sent.
        if self.answers {
            let failure = Failure::encode(error);
            if self.queue.has_room(HEADER + failure.body().len()) {
                self.queue.push(&Header::of_failure(&failure).encode());
                self.queue.push(failure.body());
            }
        }
    }

    /// The bytes to be sent next; none if there is nothing to send.
    pub fn poll_transmit(&mut self) -> &[u8] {
        if self.queue.waits() == 0 {
            // The latest offset covers those before it.
            self.acknowledge();
        }
        self.queue.bytes()
    }

    /// Whether anything is to be sent.
    #[must_use]
    pub fn speaks(&self) -> bool {
        self.queue.waits() > 0 || self.durable.is_some() && self.may_acknowledge()
    }

    /// The transport was offered the first `count` of those bytes, was not ready, and insists on being offered the same
    /// ones at the same address.
    pub fn offered(&mut self, count: usize) {
        self.queue.pin(count);
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
