//! The sender of a stream.
//!
//! | module | subject |
//! |---|---|
//! | this one | the conversation: its stages, the answers, the end |
//! | `frames` | the frames of the stream itself |
//! | `time` | CHECKPOINT and KEEPALIVE |

mod frames;
mod time;

use super::body::{
    self, ANSWERS, Accept, CHECKSUM, DIGEST, End, Hello, KEEP, RESTART, RESUME, Reason,
};
use super::codec::UNKNOWN;
use super::failure::Failure;
use super::frame::{self, Frame, HEADER, Header, Kind};
use super::queue::Queue;
use super::silence::Silence;
use super::unsent::Unsent;
use super::{Fault, Input, MISUSED, Refused, UNEXPECTED, broken, refused};
use crate::digest::{Digest, Hash, LENGTH};
use crate::error::{Bound, Error, Result, Rule};
use std::time::Duration;
use time::Checkpoint;

static LENGTH_OPTION: Rule = Rule::new("options.length", Bound::Exactly);
static ENDS: Rule = Rule::new("the end of the stream", Bound::Exactly);

/// Room that is kept for frames that the machine adds by itself: CHECKPOINT, KEEPALIVE, END, ERROR.
const RESERVE: usize = 512;

/// How a stream is sent.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// HELLO, with the features that are required and offered.
    pub hello: Hello,
    /// If a receiver's offer differs from the source, the stream starts again, if the receiver agrees.
    pub restart: bool,
    /// A CHECKPOINT is due after this many bytes of data.
    pub checkpoint_interval: u64,
    /// A KEEPALIVE is sent after this much silence; zero means never.
    pub keepalive: Duration,
    /// The most bytes of data in one frame, two-way, whatever the receiver allows.
    pub max_payload: u32,
    /// Bytes that can be queued.
    pub room: usize,
}

/// The receiver's offer to resume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// Bytes that it holds.
    pub length: u64,
    /// Their digest.
    pub digest: Hash,
    /// It accepts everything from the start instead.
    pub restart: bool,
}

/// The stage of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Nothing was sent.
    New,
    /// HELLO is sent. ACCEPT has not come.
    Greeting,
    /// The bytes that the receiver holds are to be compared: see [`Sender::agree`].
    Comparing(Offer),
    /// The stream is sent.
    Open,
    /// END is sent. STATUS has not come.
    Ending,
    /// STATUS has come, or nothing is expected.
    Finished,
    /// It failed.
    Failed,
}

/// A sender. It is given the stream and the answers.
#[derive(Debug)]
pub struct Sender {
    config: Config,
    stage: Stage,
    queue: Queue,
    features: u64,
    max_payload: u32,
    /// Payload of the last frame that was not added yet.
    owed: u32,
    /// Bytes that were taken, from the start of the stream.
    at: u64,
    counts: End,
    digest: Digest,
    checkpoint: Checkpoint,
    unsent: Unsent,
    durable: Option<u64>,
    signs: u64,
    silence: Silence,
}

impl Sender {
    /// A sender that has sent nothing. The HELLO must be one that a receiver can accept.
    pub fn new(config: &Config) -> Result<Self> {
        Ok(Sender {
            config: *config,
            stage: Stage::New,
            queue: Queue::new(config.room + RESERVE)?,
            features: config.hello.required,
            max_payload: config.hello.max_payload,
            owed: 0,
            at: 0,
            counts: End::default(),
            digest: Digest::default(),
            checkpoint: Checkpoint::default(),
            unsent: Unsent::default(),
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

    /// Bytes that were taken, from the start of the stream.
    #[must_use]
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Payload of the current frame that was not added yet.
    #[must_use]
    pub fn owed(&self) -> u32 {
        self.owed
    }

    /// HELLO.
    #[must_use]
    pub fn hello(&self) -> &Hello {
        &self.config.hello
    }

    /// Answers are expected.
    #[must_use]
    pub fn two_way(&self) -> bool {
        self.config.hello.required & ANSWERS != 0
    }

    /// Everything before this offset is durable at the receiver, if it has reported that.
    #[must_use]
    pub fn durable(&self) -> Option<u64> {
        self.durable
    }

    /// The number of answers that showed that the receiver is alive.
    #[must_use]
    pub fn signs(&self) -> u64 {
        self.signs
    }

    /// Whether payload must be passed to the machine, not only counted.
    #[must_use]
    pub fn sees_payload(&self) -> bool {
        self.features & (CHECKSUM | DIGEST) != 0
    }

    fn digests(&self) -> bool {
        self.features & DIGEST != 0
    }

    /// Completes HELLO before it is sent: the length, if it is known, and whether parts are kept.
    pub fn announce(
        &mut self,
        length: Option<u64>,
        keeps: bool,
    ) -> std::result::Result<(), Refused> {
        if self.stage != Stage::New {
            return Ok(());
        }
        let mut hello = self.config.hello;
        if keeps {
            hello.required |= KEEP;
        }
        if let Some(length) = length {
            if hello.length != UNKNOWN && hello.length != length {
                return Err(broken(&LENGTH_OPTION, libc::EINVAL, hello.length, length));
            }
            hello.length = length;
        }
        hello.check()?;
        self.config.hello = hello;
        self.features = hello.required;
        Ok(())
    }

    /// Adds HELLO.
    pub fn greet(&mut self) {
        if self.stage == Stage::New {
            let body = self.config.hello.encode();
            self.push_with_body(Kind::Hello, 0, &body);
            self.stage = if self.two_way() { Stage::Greeting } else { Stage::Open };
        }
    }

    /// Takes the answer at the start of these bytes.
    pub fn handle_input(&mut self, bytes: &[u8]) -> std::result::Result<Input, Fault> {
        match frame::first(bytes)? {
            Frame::Incomplete(need) => Ok(Input::Incomplete(need)),
            Frame::Whole(header, body) => {
                self.heed(&header, body)?;
                Ok(Input::Taken(header.whole()))
            }
        }
    }

    /// The state table. A frame that fails changes nothing.
    fn heed(&mut self, header: &Header, body: &[u8]) -> std::result::Result<(), Fault> {
        match (header.kind, self.stage) {
            (Kind::Error, Stage::Greeting | Stage::Comparing(_) | Stage::Open | Stage::Ending) => {
                Err(Fault::Peer(Failure::decode((header.offset, header.value), body)?))
            }
            (
                Kind::Keepalive | Kind::Ignored,
                Stage::Greeting | Stage::Comparing(_) | Stage::Open | Stage::Ending,
            ) => {
                self.signs += 1;
                Ok(())
            }
            (Kind::Accept, Stage::Greeting) => {
                let accept = Accept::decode(body, &self.config.hello)?;
                self.features = accept.features;
                self.max_payload = self.config.max_payload.min(accept.max_payload);
                self.stage = match accept.resume_offset {
                    0 => Stage::Open,
                    length => Stage::Comparing(Offer {
                        length,
                        digest: accept.resume_digest,
                        restart: accept.flags & RESTART != 0,
                    }),
                };
                Ok(())
            }
            (Kind::Ack, Stage::Open | Stage::Ending) => {
                let before = self.durable.is_some_and(|known| header.offset < known);
                if before || header.offset > self.sent() {
                    return Err(UNEXPECTED.into());
                }
                self.durable = Some(header.offset);
                self.signs += 1;
                Ok(())
            }
            (Kind::Status, Stage::Ending) if self.queue.waits() == 0 => {
                if header.offset != self.at || body::digest(body)? != self.root() {
                    let why = "the receiver reports another digest or length than was sent";
                    return Err(refused(why, libc::EBADMSG).into());
                }
                self.stage = Stage::Finished;
                Ok(())
            }
            _ => Err(UNEXPECTED.into()),
        }
    }

    /// The end of the part of the stream that was passed to the transport.
    fn sent(&self) -> u64 {
        if self.queue.waits() == 0 { self.at } else { self.unsent.start(self.queue.bytes()) }
    }

    /// Adds data of the source to the comparison.
    pub fn compare(&mut self, bytes: &[u8]) {
        if self.compared(bytes.len() as u64) {
            self.digest.data(bytes);
        }
    }

    /// Adds a hole of the source to the comparison.
    pub fn compare_hole(&mut self, length: u64) {
        if self.compared(length) {
            self.digest.hole(length);
        }
    }

    /// Returns whether the digest still matters: more than the offer covers is a difference, whatever it holds.
    fn compared(&mut self, length: u64) -> bool {
        self.at = self.at.saturating_add(length);
        let Stage::Comparing(offer) = self.stage else { return false };
        self.at <= offer.length
    }

    /// Answers the offer, once all the bytes that it covers were compared. Returns whether the stream resumes
    /// there; if not, it starts again.
    pub fn agree(&mut self) -> std::result::Result<bool, Refused> {
        let Stage::Comparing(offer) = self.stage else { return Err(MISUSED) };
        let same = self.at == offer.length && self.digest.root() == offer.digest;
        let reason = if same {
            Reason::None
        } else if self.config.restart && offer.restart {
            self.at = 0;
            self.digest = Digest::default();
            Reason::Content
        } else {
            return Err(refused(
                "the bytes that the receiver holds differ from the source",
                libc::ESTALE,
            ));
        };
        let header = Header::new(Kind::Begin, self.at, u64::from(reason.code()));
        self.queue.push(&header.encode());
        self.checkpoint.at = self.at;
        self.stage = Stage::Open;
        Ok(same)
    }

    /// Bytes that wait to be sent.
    #[must_use]
    pub fn waits(&self) -> usize {
        self.queue.waits()
    }

    /// The length at which the stream may end now: the announced length, but at least the end of the current
    /// frame.
    #[must_use]
    pub fn expected(&self) -> u64 {
        let promised = self.at + u64::from(self.owed);
        match self.config.hello.length {
            UNKNOWN => promised,
            announced => announced.max(promised),
        }
    }

    /// Adds END.
    pub fn end(&mut self) -> std::result::Result<(), Refused> {
        if self.stage != Stage::Open {
            return Err(MISUSED);
        }
        if self.at != self.expected() {
            return Err(broken(&ENDS, libc::ENODATA, self.at, self.expected()));
        }
        let end = End { digest: self.root(), ..self.counts };
        self.push_with_body(Kind::End, self.at, &end.encode());
        self.stage = Stage::Ending;
        Ok(())
    }

    fn root(&self) -> Hash {
        if self.digests() { self.digest.root() } else { [0; LENGTH] }
    }

    /// The receiver has failed: nothing more is sent.
    pub fn abandon(&mut self) {
        self.stage = Stage::Failed;
    }

    /// It failed with this error, which is reported to the receiver unless an ERROR cannot stand at this
    /// point of the stream.
    pub fn fail(&mut self, error: &Error) {
        let stage = std::mem::replace(&mut self.stage, Stage::Failed);
        match stage {
            Stage::New | Stage::Finished | Stage::Failed => return,
            // Nothing may follow END.
            Stage::Ending => {
                if !self.queue.pop(HEADER + End::SIZE) {
                    return;
                }
            }
            Stage::Greeting | Stage::Comparing(_) | Stage::Open => {}
        }
        // Within a frame, anything that is sent would be taken for its payload.
        if self.owed == 0 {
            let failure = Failure::encode(error);
            if self.queue.has_room(HEADER + failure.body().len()) {
                self.queue.push(&Header::of_failure(&failure).encode());
                self.queue.push(failure.body());
            }
        }
    }

    /// The bytes to be sent next.
    #[must_use]
    pub fn poll_transmit(&self) -> &[u8] {
        self.queue.bytes()
    }

    /// The transport was offered the first `count` of those bytes, was not ready, and insists on being offered the same
    /// ones at the same address.
    pub fn offered(&mut self, count: usize) {
        self.queue.pin(count);
    }

    /// This many of those bytes were sent.
    pub fn transmitted(&mut self, count: usize) {
        self.silence.broken(count);
        self.take(count);
        if self.stage == Stage::Ending && self.queue.waits() == 0 && !self.two_way() {
            self.stage = Stage::Finished;
        }
    }

    fn take(&mut self, count: usize) {
        if self.two_way() && count < self.queue.waits() {
            self.unsent.advance(self.queue.bytes(), count);
        } else {
            self.unsent = Unsent::default();
        }
        self.queue.take(count);
    }

    fn push_with_body(&mut self, kind: Kind, offset: u64, body: &[u8]) {
        self.queue.push(&Header::with_body(kind, offset, 0, body).encode());
        self.queue.push(body);
    }
}

/// The features that a sender requires and offers.
#[must_use]
pub fn features(
    two_way: bool,
    checksum: bool,
    digest: bool,
    keep: bool,
    resume: bool,
) -> (u64, u64) {
    let bit = |wanted, feature| if wanted { feature } else { 0 };
    let required =
        bit(checksum, CHECKSUM) | bit(digest, DIGEST) | bit(keep, KEEP) | bit(two_way, ANSWERS);
    let optional = if two_way { (CHECKSUM | DIGEST) & !required | bit(resume, RESUME) } else { 0 };
    (required, optional)
}
