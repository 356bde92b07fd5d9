//! A source that receives frames: the receiving machine, over a transport.

mod source;

use super::inbox::Inbox;
use super::lasting::Lasting;
use super::proof::Proof;
use super::proto::codec::{MAX_OFFSET, MAX_PAYLOAD, MIN_PAYLOAD, UNKNOWN};
use super::proto::receiver::{self, Config, Piece, Receiver, Stage};
use super::proto::{Input, Refused, refused};
use super::transport::{Link, Transport, Wants};
use crate::end::{End, Extent, Peer};
use crate::error::{Allowed, Error, Operation, Result, Side};
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
    /// Data of long frames is not read ahead, because it goes to a pipe or would be copied: only heads of frames
    /// are read, one at a time.
    heads_only: bool,
    /// Steps of the proof, which are signs of life of this end.
    steps: u64,
    /// The sender is sent signs of life.
    shows_life: bool,
}

impl Reader {
    /// Receives from a transport, and answers on it if it can be written.
    pub fn new(transport: Box<dyn Transport>, options: &ReaderOptions) -> Result<Self> {
        if !(MIN_PAYLOAD..=MAX_PAYLOAD).contains(&options.max_payload) {
            let allowed = Allowed::ZeroOr(MIN_PAYLOAD, MAX_PAYLOAD);
            return Err(Error::value("options.max_payload", options.max_payload, allowed));
        }
        let held = options.held.filter(|held| held.part.length > 0);
        let most = options.max_size.min(MAX_OFFSET);
        if let Some(length) = held.map(|held| held.part.length).filter(|length| *length > most) {
            return Err(Error::value("options.resume_offset", length, Allowed::Most(most)));
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
            heads_only: false,
            steps: 0,
            shows_life: !options.keepalive.is_zero(),
        })
    }

    fn error(&mut self, operation: Operation, errno: i32) -> Error {
        self.link.error(operation, Side::Source, self.machine.at(), errno)
    }

    fn because(&self, refused: Refused) -> Error {
        refused.error(Operation::Read, Side::Source, self.machine.at())
    }

    fn ended_early(&self) -> Error {
        let offset = self.machine.at();
        match self.machine.hello().map(|hello| hello.length) {
            Some(length) if length != UNKNOWN && offset < length => {
                Error::EndedEarly { offset, expected: length }
            }
            Some(_) | None => {
                self.because(refused("the stream was cut off before its end", libc::ENODATA))
            }
        }
    }

    /// Takes frames until there is something to pass on, or the end.
    #[inline(always)]
    fn advance(&mut self) -> Result<()> {
        if self.machine.passes() { Ok(()) } else { self.take_frames() }
    }

    fn take_frames(&mut self) -> Result<()> {
        for _ in 0..FRAMES_AT_ONCE {
            match self.machine.stage() {
                Stage::Ended | Stage::Finished => return Ok(()),
                Stage::Failed => return Err(self.failed.clone().unwrap_or(Error::Internal)),
                Stage::Open if self.machine.passes() => return Ok(()),
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
                    self.heads_only &= u64::from(left) >= Extent::LEAST;
                }
                Ok(())
            }
            Ok(Input::Incomplete(_)) if self.inbox.ended() => Err(self.ended_early()),
            Ok(Input::Incomplete(need)) => {
                let link = &mut *self.link;
                let filled = match self.heads_only {
                    true => self.inbox.fill_to(link, need),
                    false => self.inbox.fill(link),
                };
                filled.map_err(|errno| self.error(Operation::Read, errno))
            }
            Err(fault) => Err(fault.error(Operation::Read, Side::Source, self.machine.at())),
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

    /// Sends the answers that are due, as far as that goes without waiting.
    fn send_answers(&mut self) -> Sys<()> {
        while self.machine.speaks() {
            match self.link.write(self.machine.poll_transmit(), &[]) {
                Ok(count) => self.machine.transmitted(count),
                Err(errno) => {
                    self.machine.offered(self.link.insists());
                    return Err(errno);
                }
            }
        }
        Ok(())
    }

    /// As [`Reader::send_answers`], where it can wait. A sender that has gone shows when it is read
    /// from. A system that forbids answers does not, and would be asked for ever.
    #[inline]
    fn answer_if_ready(&mut self) {
        if self.shows_life || self.machine.speaks() {
            self.answer_now();
        }
    }

    fn answer_now(&mut self) {
        if self.shows_life {
            self.machine.handle_timeout(Instant::now());
        }
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

impl Lasting for Reader {
    fn failed(&mut self) -> &mut Option<Error> {
        &mut self.failed
    }

    fn abandon(&mut self) {
        self.machine.abandon();
        self.link.close_now();
    }

    fn report(&mut self, error: &Error) {
        self.machine.fail(error);
        // Its result is not awaited, and would hide the failure that it reports.
        let _ = self.send_answers();
        self.link.close_now();
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
                // Everything is stored, and that was reported.
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
