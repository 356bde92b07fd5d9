//! A source that receives frames: the receiving machine, over a transport.

use super::inbox::Inbox;
use super::proof::Proof;
use super::proto::body::{ANSWERS, CHECKSUM, DIGEST, KEEP};
use super::proto::frame::{MAX_OFFSET, MAX_PAYLOAD, MIN_PAYLOAD, UNKNOWN};
use super::proto::receiver::{self, Config, Input, Piece, Receiver, Stage};
use super::proto::{Fault, Refused};
use super::transport::{Link, Transport, Wants};
use crate::end::{
    Attempt, Description, End, Extent, Feed, Introduced, Introduction, Lent, Look, Next, Peer,
    Source, SourceInfo, SourceWays,
};
use crate::error::{Allowed, Error, Operation, Result, Side};
use crate::pipe::Pipe;
use crate::section;
use crate::sys::{self, Fd, Sys};
use crate::wait::Waiting;
use std::time::{Duration, Instant};

/// The most bytes of one read, beside the caller's buffer.
const INBOX: usize = 256 << 10;

/// The most frames without data that are taken in one call: a sender that sends nothing else must not
/// keep the caller from its other work. `EINTR` has it call again.
const FRAMES_AT_ONCE: usize = 1024;

/// How a stream is received.
#[derive(Debug, Clone, Copy)]
pub struct ReaderOptions {
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
    /// A sign of life is sent after this much silence; zero for never but while proving.
    pub keepalive: Duration,
}

impl Default for ReaderOptions {
    fn default() -> Self {
        ReaderOptions {
            max_size: MAX_OFFSET,
            max_payload: MAX_PAYLOAD,
            checksum: false,
            digest: false,
            keep: false,
            base: [0; 32],
            held: None,
            restart: false,
            keepalive: Duration::ZERO,
        }
    }
}

/// The part of a stream that a receiver holds, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The file or the block device.
    pub fd: Fd,
    /// The offset in it of the stream's first byte.
    pub offset: u64,
    /// Which bytes, and where they come from.
    pub part: receiver::Held,
}

/// Frames as a source. Constant memory; reading never waits.
#[derive(Debug)]
pub struct Reader {
    link: Link,
    inbox: Inbox,
    machine: Receiver,
    held: Option<Held>,
    proof: Option<Proof>,
    failed: Option<Error>,
    /// Data is being fed to a pipe: only heads of frames are read, one at a time.
    feeds: bool,
    /// Steps of the proof, which are signs of life of this end.
    steps: u64,
}

impl Reader {
    /// Receives from a transport, and answers on it if it can be written.
    pub fn new(transport: Box<dyn Transport>, options: &ReaderOptions) -> Result<Self> {
        if !(MIN_PAYLOAD..=MAX_PAYLOAD).contains(&options.max_payload) {
            let allowed = Allowed::ZeroOr(MIN_PAYLOAD, MAX_PAYLOAD);
            return Err(Error::value("options.max_payload", options.max_payload, allowed));
        }
        let held = options.held.filter(|held| held.part.length > 0);
        if let Some(length) =
            held.map(|held| held.part.length).filter(|length| *length > MAX_OFFSET)
        {
            return Err(Error::value("options.resume_offset", length, Allowed::Most(MAX_OFFSET)));
        }
        if !transport.reads() {
            return Err(Error::argument("transport", "cannot be read", libc::EINVAL));
        }
        let config = Config {
            answers: transport.writes(),
            max_size: options.max_size,
            max_payload: options.max_payload,
            checksum: options.checksum,
            digest: options.digest,
            keep: options.keep,
            base: options.base,
            held: held.map(|held| held.part),
            restart: options.restart,
            keepalive: options.keepalive,
        };
        Ok(Reader {
            link: Link::new(transport),
            inbox: Inbox::new(INBOX)?,
            machine: Receiver::new(&config)?,
            held,
            proof: None,
            failed: None,
            feeds: false,
            steps: 0,
        })
    }

    fn error(&mut self, operation: Operation, errno: i32) -> Error {
        self.link.error(operation, Side::Source, self.machine.at(), errno)
    }

    fn because(&self, refused: Refused) -> Error {
        let Refused { why, errno } = refused;
        let (operation, side) = (Operation::Read, Side::Source);
        Error::Because { operation, side, offset: self.machine.at(), errno, why }
    }

    fn ended_early(&self) -> Error {
        let offset = self.machine.at();
        match self.machine.hello().map(|hello| hello.length) {
            Some(length) if length != UNKNOWN && offset < length => {
                Error::EndedEarly { offset, expected: length }
            }
            Some(_) | None => self.because(Refused {
                why: "the stream was cut off before its end",
                errno: libc::ENODATA,
            }),
        }
    }

    /// Does something, and keeps its failure: what is broken stays so.
    fn lasting<T>(&mut self, body: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if let Some(error) = self.failed.clone() {
            return Err(error);
        }
        let result = body(self);
        if let Some(error) = self.failed.clone() {
            // It shows in the midst of something else that answers cannot be sent.
            return Err(error);
        }
        if let Err(error) = &result {
            if error.is_peers() {
                // It knows.
                self.failed = Some(error.clone());
                self.machine.abandon();
                self.link.close_now();
            } else if !error.would_block() && !error.interrupted() {
                self.fail(error.clone());
            }
        }
        result
    }

    /// Ends it with a failure, which the sender is told as far as that goes without waiting.
    fn fail(&mut self, error: Error) {
        self.failed = Some(error.clone());
        self.machine.fail(&error);
        // Nobody waits for it, and its failure would hide the one that it reports.
        let _ = self.send_answers();
        self.link.close_now();
    }

    /// Takes frames until there is something to pass on, or the end.
    fn advance(&mut self) -> Result<()> {
        for _ in 0..FRAMES_AT_ONCE {
            match self.machine.stage() {
                Stage::Ended | Stage::Finished => return Ok(()),
                Stage::Failed => return Err(self.failed.clone().unwrap_or(Error::Internal)),
                Stage::Open if self.machine.piece() != Piece::None => return Ok(()),
                Stage::Open => self.take_frame()?,
                Stage::Waiting | Stage::Offered(_) | Stage::Proving(_) => self.shake_hands()?,
            }
        }
        Err(self.error(Operation::Read, libc::EINTR))
    }

    /// Takes one frame, or what there is of it.
    fn take_frame(&mut self) -> Result<()> {
        match self.machine.handle_input(self.inbox.bytes()) {
            Ok(Input::Taken(count)) => {
                self.inbox.take(count);
                if let Piece::Data { left, .. } = self.machine.piece() {
                    self.feeds &= u64::from(left) >= Extent::LEAST;
                }
                Ok(())
            }
            Ok(Input::Incomplete(_)) if self.inbox.ended() => Err(self.ended_early()),
            Ok(Input::Incomplete(need)) => {
                let link = &mut *self.link;
                let filled =
                    if self.feeds { self.inbox.fill_to(link, need) } else { self.inbox.fill(link) };
                filled.map_err(|errno| self.error(Operation::Read, errno))
            }
            Err(Fault::Peer(error)) => Err(error),
            Err(Fault::Refused(refused)) => Err(self.because(refused)),
        }
    }

    /// A step before the stream: a frame, or a part of the proof of what is held.
    #[cold]
    fn shake_hands(&mut self) -> Result<()> {
        if let Stage::Proving(length) = self.machine.stage() {
            return self.prove(length);
        }
        // Before anything is waited for: the sender may wait for it.
        self.answer_if_ready();
        self.take_frame()?;
        self.answer_if_ready();
        Ok(())
    }

    /// A step of the proof. `EINTR` if there is more to do.
    fn prove(&mut self, length: u64) -> Result<()> {
        self.steps += 1;
        self.machine.handle_timeout(Instant::now());
        self.answer_if_ready();
        let Some(held) = self.held else { return Err(Error::Internal) };
        let step = match &mut self.proof {
            Some(proof) => proof.step(),
            None => Proof::new(held.fd, held.offset, length).and_then(|mut proof| {
                let step = proof.step();
                self.proof = Some(proof);
                step
            }),
        };
        let answered = match step {
            Ok(None) => None,
            Ok(Some(digest)) => Some(self.machine.proven(digest)),
            Err(error) if error.errno() == libc::ENODATA => Some(self.machine.unproven()),
            Err(error) => return Err(error),
        };
        if let Some(answered) = answered {
            self.proof = None;
            answered.map_err(|refused| self.because(refused))?;
            self.answer_if_ready();
            return Ok(());
        }
        // A sender that has gone is noticed now, and not a terabyte later.
        match self.take_frame() {
            Err(error) if !error.would_block() && !error.interrupted() => Err(error),
            Ok(()) | Err(_) => Err(self.error(Operation::Read, libc::EINTR)),
        }
    }

    fn read_data(&mut self, buffer: &mut [u8], left: u32) -> Result<usize> {
        let most = buffer.len().min(left as usize);
        let held = self.inbox.bytes();
        let count = most.min(held.len());
        if count > 0 {
            buffer[..count].copy_from_slice(&held[..count]);
            self.take_held(count)?;
            return Ok(count);
        }
        let count = self
            .inbox
            .read_through(&mut *self.link, &mut buffer[..most])
            .map_err(|errno| self.error(Operation::Read, errno))?;
        if count == 0 {
            return Err(self.ended_early());
        }
        self.machine.payload(&buffer[..count]).map_err(|refused| self.because(refused))?;
        Ok(count)
    }

    /// Passes on data that has come in, and finds damage as far as it shows.
    fn take_held(&mut self, count: usize) -> Result<()> {
        let bytes = self.inbox.bytes().get(..count).ok_or(Error::Internal)?;
        let seen = self.machine.payload(bytes);
        self.inbox.take(count);
        seen.map_err(|refused| self.because(refused))
    }

    /// Sends the answers that are due, as far as that goes without waiting.
    fn send_answers(&mut self) -> Sys<()> {
        while self.machine.speaks() {
            let count = self.link.write(self.machine.poll_transmit(), &[])?;
            self.machine.transmitted(count);
        }
        Ok(())
    }

    /// As [`Reader::send_answers`], where it can wait. A sender that has gone shows when it is read
    /// from. A system that forbids answers does not, and would be asked for ever.
    #[inline]
    fn answer_if_ready(&mut self) {
        if self.machine.speaks() {
            self.answer_now();
        }
    }

    fn answer_now(&mut self) {
        match self.send_answers() {
            Err(errno) if sys::is_refusal(errno) => {
                self.failed = Some(self.error(Operation::Write, errno));
                self.machine.abandon();
            }
            Ok(()) | Err(_) => {}
        }
    }

    /// Receives HELLO, and everything that comes before the stream.
    fn greeted(&mut self) -> Result<()> {
        self.lasting(|reader| {
            for _ in 0..FRAMES_AT_ONCE {
                match reader.machine.stage() {
                    Stage::Waiting | Stage::Proving(_) | Stage::Offered(_) => {
                        reader.shake_hands()?
                    }
                    Stage::Open | Stage::Ended | Stage::Finished => return Ok(()),
                    Stage::Failed => return Err(reader.failed.clone().unwrap_or(Error::Internal)),
                }
            }
            Err(reader.error(Operation::Read, libc::EINTR))
        })
    }
}

impl Source for Reader {
    fn open(&mut self) -> Result<SourceInfo> {
        self.greeted()?;
        let total = self.machine.hello().map(|hello| hello.length);
        Ok(SourceInfo {
            total: total.filter(|length| *length != UNKNOWN),
            tells_holes: true,
            keeps: self.machine.features() & KEEP != 0,
            start: self.machine.start(),
        })
    }

    fn next(&mut self, buffer: &mut [u8]) -> Result<Next> {
        self.answer_if_ready();
        self.lasting(|reader| {
            reader.advance()?;
            match reader.machine.piece() {
                Piece::None => Ok(Next::End),
                Piece::Hole(left) => Ok(Next::Hole(left)),
                Piece::Keep(left) => Ok(Next::Keep(left)),
                Piece::Data { left, .. } => reader.read_data(buffer, left).map(Next::Data),
            }
        })
    }

    fn look(&mut self) -> Result<Look> {
        self.answer_if_ready();
        self.lasting(|reader| {
            reader.advance()?;
            let (kind, length) = match reader.machine.piece() {
                Piece::None => (section::Kind::End, 0),
                Piece::Hole(left) => (section::Kind::Hole, left),
                Piece::Keep(left) => (section::Kind::Keep, left),
                Piece::Data { left, .. } => (section::Kind::Data, left.into()),
            };
            Ok(Look { kind, length: Some(length) })
        })
    }

    fn consume(&mut self, length: u64) {
        match self.machine.piece() {
            Piece::None => {}
            Piece::Hole(left) | Piece::Keep(left) => {
                self.machine.pass(length.min(left));
            }
            Piece::Data { .. } => {
                // Damage that shows now is reported by the next call.
                if let Err(error) = self.take_held(length as usize) {
                    self.fail(error);
                }
            }
        }
    }
}

impl SourceWays for Reader {
    fn feed(&mut self) -> Option<&mut dyn Feed> {
        // Whoever checks the data must see it.
        let may = !self.machine.sees_payload() && self.link.plain_input().is_some();
        if may { Some(self) } else { None }
    }

    fn lent(&mut self) -> Option<&mut dyn Lent> {
        Some(self)
    }

    fn introduced(&mut self) -> Option<&mut dyn Introduced> {
        Some(self)
    }
}

impl Introduced for Reader {
    fn introduction(&mut self) -> Result<Introduction> {
        self.greeted()?;
        let known = |size: u64| (size != UNKNOWN).then_some(size);
        let Some(hello) = self.machine.hello() else { return Err(Error::Internal) };
        let features = self.machine.features();
        Ok(Introduction {
            description: Description {
                length: known(hello.length),
                source_size: known(hello.source_size),
                source_offset: hello.source_offset,
                data_bytes: known(hello.data_bytes),
                transfer_id: hello.transfer_id,
                identity: hello.identity,
                base: hello.base,
            },
            answers: features & ANSWERS != 0,
            checksum: features & CHECKSUM != 0,
            digest: features & DIGEST != 0,
            keeps: features & KEEP != 0,
            start: self.machine.start(),
        })
    }
}

impl Feed for Reader {
    fn feedable(&mut self) -> Result<u64> {
        self.answer_if_ready();
        self.lasting(|reader| {
            reader.advance()?;
            Ok(match reader.machine.piece() {
                // Reading the rest of a frame that was fed would take what is behind it too.
                Piece::Data { left, .. }
                    if reader.inbox.bytes().is_empty()
                        && (reader.feeds || u64::from(left) >= Extent::LEAST) =>
                {
                    left.into()
                }
                Piece::Data { .. } | Piece::Hole(_) | Piece::Keep(_) | Piece::None => 0,
            })
        })
    }

    fn feed_pipe(&mut self, pipe: &mut Pipe, most: u64) -> Result<Attempt> {
        self.lasting(|reader| {
            let Some(input) = reader.link.plain_input() else {
                return Ok(Attempt::Declined(None));
            };
            let fed = input.feed(pipe, most);
            let attempt = fed.map_err(|errno| reader.error(Operation::Read, errno))?;
            if let Attempt::Moved(count) = attempt {
                if count == 0 {
                    reader.inbox.end();
                    return Err(reader.ended_early());
                }
                reader.feeds = true;
                let count = u32::try_from(count).map_err(|_| Error::Internal)?;
                let passed = reader.machine.payload_passed(count);
                passed.map_err(|refused| reader.because(refused))?;
            }
            Ok(attempt)
        })
    }
}

impl Lent for Reader {
    fn bytes(&mut self) -> Result<&[u8]> {
        self.answer_if_ready();
        self.lasting(|reader| {
            reader.advance()?;
            // A frame that is here as a whole is checked before any of it is passed on.
            let examined = reader.machine.examine(reader.inbox.bytes());
            examined.map_err(|refused| reader.because(refused))
        })?;
        let Piece::Data { left, .. } = self.machine.piece() else { return Ok(&[]) };
        let held = self.inbox.bytes();
        Ok(&held[..held.len().min(left as usize)])
    }
}

impl Peer for Reader {
    fn signs(&self) -> u64 {
        self.machine.signs() + self.steps
    }

    fn flush(&mut self, now: Instant) -> Result<()> {
        self.machine.handle_timeout(now);
        self.answer_if_ready();
        Ok(())
    }

    fn flush_by(&self) -> Option<Instant> {
        self.machine.poll_timeout()
    }

    fn durable(&mut self, offset: u64) {
        self.machine.durable(offset);
        self.answer_if_ready();
    }
}

impl End for Reader {
    fn finish(&mut self) -> Result<()> {
        self.lasting(|reader| {
            reader.machine.finish().map_err(|refused| reader.because(refused))?;
            reader.send_answers().map_err(|errno| reader.error(Operation::Finish, errno))?;
            match reader.link.close() {
                // Everything is stored, and has been said.
                Ok(()) => Ok(()),
                Err(errno @ (libc::EAGAIN | libc::EINTR)) => {
                    Err(reader.error(Operation::Finish, errno))
                }
                Err(_) => Ok(()),
            }
        })
    }

    fn abort(&mut self, error: &Error) {
        let sent = self.machine.stage() == Stage::Finished && !self.machine.speaks();
        if self.failed.is_none() && !sent {
            self.fail(error.clone());
        }
    }

    fn waiting(&self) -> Waiting {
        let speaks = self.machine.speaks();
        let wants = match self.machine.stage() {
            Stage::Ended | Stage::Finished => Wants::Output,
            // Nothing comes before ACCEPT has been sent.
            Stage::Offered(_) | Stage::Proving(_) if speaks => Wants::Output,
            Stage::Open if speaks && self.machine.at() == self.machine.start() => Wants::Both,
            Stage::Waiting
            | Stage::Proving(_)
            | Stage::Offered(_)
            | Stage::Open
            | Stage::Failed => Wants::Input,
        };
        self.link.waiting(wants)
    }

    fn peer(&mut self) -> Option<&mut dyn Peer> {
        Some(self)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if self.machine.hello().is_some() {
            let (operation, side) = (Operation::None, Side::None);
            self.abort(&Error::nowhere(operation, side, libc::ECANCELED));
        }
    }
}
