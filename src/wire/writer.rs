//! A sink that sends frames: the sending machine, over a transport.

mod sink;

use super::inbox::{Inbox, LEAST_ROOM};
use super::lasting::Lasting;
use super::milliseconds;
use super::proto::body::Hello;
use super::proto::codec::{UNKNOWN, VERSION};
use super::proto::frame::HEADER;
use super::proto::sender::{self, Config, Sender, Stage};
use super::proto::{Input, Refused, Why, refused};
use super::transport::{Link, Transport, Wants};
use crate::end::{Description, End, Peer};
use crate::error::{Allowed, Bound, Error, Operation, Result, Side};
use crate::sys::Sys;
use crate::wait::Waiting;
use std::time::{Duration, Instant};

/// Data in one frame that is written: enough that the header does not matter, and little enough to buffer
/// the part that a socket did not take.
const PAYLOAD: usize = 256 << 10;

/// Data in one frame that is sent from a file.
const FETCHED_PAYLOAD: u32 = 1 << 20;

/// Data in one frame, one-way: a receiver cannot ask for less.
const ONE_WAY_PAYLOAD: u32 = 128 << 10;

/// Frames are gathered until this many bytes are queued.
const GATHER: usize = 256 << 10;

/// The most bytes that are sent before the answers are read.
const LISTEN: u64 = 16 << 20;

/// The most answers that are taken in one call, and the most reads for them.
const ANSWERS_AT_ONCE: usize = 1024;

const DEFAULT_CHECKPOINT: u64 = 64 << 20;

/// How a stream is sent.
#[derive(Debug, Clone, Copy, Default)]
pub struct WriterOptions {
    /// The properties of the stream that are sent to the receiver in advance.
    pub description: Description,
    /// Each payload has its checksum.
    pub checksum: bool,
    /// A digest of the whole is sent.
    pub digest: bool,
    /// Parts may be kept, whether or not a transfer announces them.
    pub keep: bool,
    /// The receiver may offer to resume from what it holds.
    pub resume: bool,
    /// If its offer cannot be met, everything is sent from the start.
    pub restart: bool,
    /// The digest is sent after this many bytes of data; 0 stands for the default.
    pub checkpoint_interval: u64,
    /// A KEEPALIVE is sent after this much silence; zero means never.
    pub keepalive: Duration,
}

/// Frames as a sink. Constant memory; writing never waits.
#[derive(Debug)]
pub struct Writer {
    link: Link,
    inbox: Inbox,
    machine: Sender,
    failed: Option<Error>,
    /// The position of the stream when the answers were last read.
    heard: u64,
}

impl Writer {
    /// Sends to a transport, and reads answers from it if it can be read.
    pub fn new(transport: Box<dyn Transport>, options: &WriterOptions) -> Result<Self> {
        let two_way = transport.reads();
        if options.resume && !two_way {
            let why = "has SPARSESTREAM_WIRE_RESUME, which needs a way back from the receiver";
            return Err(Error::argument("options.flags", why, libc::EINVAL));
        }
        if !transport.writes() {
            return Err(Error::argument("transport", "cannot be written", libc::EINVAL));
        }
        if options.resume && options.keep {
            let why = "has SPARSESTREAM_WIRE_RESUME and SPARSESTREAM_WIRE_KEEP, but a stream with kept \
                       sections cannot be resumed";
            return Err(Error::argument("options.flags", why, libc::EOPNOTSUPP));
        }
        let hello = hello(options, two_way);
        hello.check().map_err(|refused| unfit(refused, 0))?;
        let config = Config {
            hello,
            restart: options.restart,
            checkpoint_interval: match options.checkpoint_interval {
                0 => DEFAULT_CHECKPOINT,
                bytes => bytes,
            },
            keepalive: options.keepalive,
            max_payload: FETCHED_PAYLOAD,
            room: GATHER + PAYLOAD + HEADER,
        };
        Ok(Writer {
            link: Link::new(transport),
            inbox: Inbox::new(LEAST_ROOM)?,
            machine: Sender::new(&config)?,
            failed: None,
            heard: 0,
        })
    }

    fn error(&mut self, operation: Operation, errno: i32) -> Error {
        self.link.error(operation, Side::Sink, self.machine.at(), errno)
    }

    fn because(&self, operation: Operation, refused: Refused) -> Error {
        refused.error(operation, Side::Sink, self.machine.at())
    }

    /// Sends everything that is queued.
    fn send(&mut self) -> Sys<()> {
        while self.machine.waits() > 0 {
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

    /// The result of sending.
    #[inline(always)]
    fn sent<T>(&mut self, operation: Operation, result: Sys<T>) -> Result<T> {
        match result {
            Ok(value) => Ok(value),
            Err(errno) => Err(self.unsent(operation, errno)),
        }
    }

    /// The error of a failure to send. The receiver may have sent the reason.
    #[cold]
    fn unsent(&mut self, operation: Operation, errno: i32) -> Error {
        let error = self.error(operation, errno);
        if errno == libc::EINTR {
            return error;
        }
        match self.hear() {
            Err(heard) if heard.is_peers() || errno == libc::EAGAIN => heard,
            // A transport may report the details of its failure only when it is read.
            Err(heard @ Error::Said { .. }) if !matches!(error, Error::Said { .. }) => heard,
            Ok(()) | Err(_) => error,
        }
    }

    #[inline(never)]
    fn flush_all(&mut self, operation: Operation) -> Result<()> {
        if self.machine.waits() == 0 {
            return Ok(());
        }
        let result = self.send();
        self.sent(operation, result)
    }

    /// Takes the answers that have come, without waiting, up to a limit: a receiver that never stops must not
    /// keep the caller from its other work.
    #[inline(never)]
    fn hear(&mut self) -> Result<()> {
        if !self.machine.two_way() {
            return Ok(());
        }
        for _ in 0..ANSWERS_AT_ONCE {
            let operation = self.listens_for();
            if self.machine.stage() == Stage::Finished {
                return Ok(());
            }
            match self.machine.handle_input(self.inbox.bytes()) {
                Ok(Input::Taken(count)) => self.inbox.take(count),
                Ok(Input::Incomplete(_)) if self.inbox.ended() => {
                    let why = "the receiver closed the connection before it reported a result";
                    return Err(self.because(operation, refused(why, libc::ECONNRESET)));
                }
                Ok(Input::Incomplete(_)) => match self.inbox.fill(&mut *self.link) {
                    Ok(()) | Err(libc::EINTR) => {}
                    Err(libc::EAGAIN) => return Ok(()),
                    Err(errno) => return Err(self.error(operation, errno)),
                },
                Err(fault) => return Err(fault.error(operation, Side::Sink, self.machine.at())),
            }
        }
        Ok(())
    }

    /// The operation that an answer belongs to.
    fn listens_for(&self) -> Operation {
        match self.machine.stage() {
            Stage::New | Stage::Greeting | Stage::Comparing(_) => Operation::Open,
            Stage::Open | Stage::Ending | Stage::Finished | Stage::Failed => Operation::Finish,
        }
    }

    /// Sends HELLO and reads the answer.
    fn greet(&mut self) -> Result<()> {
        if self.machine.stage() == Stage::New {
            self.machine.greet();
            self.machine.handle_timeout(Instant::now());
        }
        if self.machine.stage() == Stage::Greeting {
            self.flush_all(Operation::Open)?;
            self.hear()?;
            if self.machine.stage() == Stage::Greeting {
                return Err(self.error(Operation::Open, libc::EAGAIN));
            }
        }
        Ok(())
    }

    /// Continues the conversation until the stream can be sent.
    #[cold]
    fn reach_stream(&mut self, operation: Operation) -> Result<()> {
        self.greet()?;
        match self.machine.stage() {
            Stage::Open => Ok(()),
            Stage::Comparing(_) => {
                let why = "the bytes that the receiver holds were not compared";
                Err(self.because(operation, refused(why, libc::EINVAL)))
            }
            Stage::New | Stage::Greeting | Stage::Ending | Stage::Finished | Stage::Failed => {
                Err(self.error(operation, libc::ESHUTDOWN))
            }
        }
    }

    /// Prepares to send a frame of this many bytes.
    #[inline]
    fn ready(&mut self, operation: Operation, room: usize) -> Result<()> {
        if self.machine.stage() != Stage::Open {
            self.reach_stream(operation)?;
        }
        if self.machine.waits() >= GATHER || !self.machine.has_room(room) {
            self.flush_all(operation)?;
        }
        if self.machine.at() - self.heard >= LISTEN {
            self.heard = self.machine.at();
            self.hear()?;
        }
        Ok(())
    }

    /// The result of a request to the machine.
    fn agreed<T>(
        &self,
        operation: Operation,
        result: std::result::Result<T, Refused>,
    ) -> Result<T> {
        result.map_err(|refused| self.because(operation, refused))
    }
}

fn hello(options: &WriterOptions, two_way: bool) -> Hello {
    let Description { length, source_size, source_offset, data_bytes, transfer_id, identity, base } =
        options.description;
    let WriterOptions { checksum, digest, keep, resume, .. } = *options;
    let (required, optional) = sender::features(two_way, checksum, digest, keep, resume);
    Hello {
        version: VERSION,
        least_version: VERSION,
        max_payload: if two_way { FETCHED_PAYLOAD } else { ONE_WAY_PAYLOAD },
        required,
        optional,
        length: length.unwrap_or(UNKNOWN),
        source_size: source_size.unwrap_or(UNKNOWN),
        source_offset,
        data_bytes: data_bytes.unwrap_or(UNKNOWN),
        transfer_id,
        identity,
        base,
        keepalive_ms: milliseconds(options.keepalive),
    }
}

/// The error of options that cannot be used for this stream.
fn unfit(refused: Refused, offset: u64) -> Error {
    match refused.why {
        Why::Words(_) => refused.error(Operation::Open, Side::Sink, offset),
        Why::Number { rule, given, bound } => {
            let exactly = rule.bound == Bound::Exactly;
            let allowed = if exactly { Allowed::Exactly(bound) } else { Allowed::Most(bound) };
            Error::value(rule.name, given, allowed)
        }
    }
}

impl Lasting for Writer {
    fn failed(&mut self) -> &mut Option<Error> {
        &mut self.failed
    }

    fn abandon(&mut self) {
        self.machine.abandon();
        self.link.close_now();
    }

    fn report(&mut self, error: &Error) {
        self.machine.fail(error);
        // The failure that is being sent is the one to report.
        let _ = self.send();
        self.link.close_now();
    }
}

impl Peer for Writer {
    fn signs(&self) -> u64 {
        self.machine.signs()
    }

    fn flush(&mut self, now: Instant) -> Result<()> {
        self.lasting(|writer| {
            writer.machine.handle_timeout(now);
            writer.flush_all(Operation::Write)
        })
    }

    fn flush_by(&self) -> Option<Instant> {
        self.machine.poll_timeout()
    }
}

impl End for Writer {
    fn finish(&mut self) -> Result<()> {
        self.lasting(|writer| {
            let operation = Operation::Finish;
            if !matches!(writer.machine.stage(), Stage::Ending | Stage::Finished) {
                writer.ready(operation, 0)?;
                let (offset, expected) = (writer.machine.at(), writer.machine.expected());
                if offset != expected {
                    return Err(Error::EndedEarly { offset, expected });
                }
                let ended = writer.machine.end();
                writer.agreed(operation, ended)?;
            }
            writer.flush_all(operation)?;
            writer.hear()?;
            if writer.machine.stage() != Stage::Finished {
                return Err(writer.error(operation, libc::EAGAIN));
            }
            match writer.link.close() {
                Err(errno) if !writer.machine.two_way() => Err(writer.error(operation, errno)),
                Err(errno @ (libc::EAGAIN | libc::EINTR)) => Err(writer.error(operation, errno)),
                // The receiver has reported that everything is stored.
                Ok(()) | Err(_) => Ok(()),
            }
        })
    }

    fn abort(&mut self, error: &Error) {
        if self.failed.is_none() && self.machine.stage() != Stage::Finished {
            self.fail(error.clone());
        }
    }

    fn waiting(&self) -> Waiting {
        let wants = match self.machine.stage() {
            Stage::Greeting | Stage::Ending if self.machine.waits() == 0 => Wants::Input,
            _ if self.machine.two_way() => Wants::Both,
            _ => Wants::Output,
        };
        self.link.waiting(wants)
    }

    fn peer(&mut self) -> Option<&mut dyn Peer> {
        Some(self)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.machine.stage() != Stage::New {
            let (operation, side) = (Operation::None, Side::None);
            self.abort(&Error::nowhere(operation, side, libc::ECANCELED));
        }
    }
}
