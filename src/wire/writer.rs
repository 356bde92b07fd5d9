//! A sink that sends frames: the sending machine, over a transport.

use super::inbox::{Inbox, LEAST_ROOM};
use super::milliseconds;
use super::proto::body::Hello;
use super::proto::frame::{HEADER, UNKNOWN, VERSION};
use super::proto::receiver::Input;
use super::proto::sender::{self, Config, Sender, Stage};
use super::proto::{Fault, Refused};
use super::transport::{Link, Transport, Wants};
use crate::end::{
    Attempt, Description, End, Extent, Fetch, Held, HoleWay, Lend, Made, Peer, Plan, Sink,
    SinkInfo, SinkWays,
};
use crate::error::{Error, Operation, Result, Side};
use crate::sys::Sys;
use crate::wait::Waiting;
use std::time::{Duration, Instant};

/// Data in one frame that is written: enough to make the header nothing, little enough to keep what
/// a socket did not take of it.
const PAYLOAD: usize = 256 << 10;

/// Data in one frame that is sent from a file.
const FETCHED_PAYLOAD: u32 = 1 << 20;

/// Data in one frame, one-way: a receiver cannot ask for less.
const ONE_WAY_PAYLOAD: u32 = 128 << 10;

/// Frames are gathered until this many bytes wait.
const GATHER: usize = 256 << 10;

/// Data up to this is gathered too; longer data goes to the transport without being copied.
const SMALL: usize = 16 << 10;

/// At most this much is sent before the answers are looked at.
const LISTEN: u64 = 16 << 20;

/// The most answers, and reads for them, that are taken in one call.
const ANSWERS_AT_ONCE: usize = 1024;

const DEFAULT_CHECKPOINT: u64 = 64 << 20;

/// How a stream is sent.
#[derive(Debug, Clone, Copy, Default)]
pub struct WriterOptions {
    /// The properties of the stream that the receiver is told beforehand.
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
    /// Where the stream was when the answers were last looked at.
    heard: u64,
}

impl Writer {
    /// Sends to a transport, and hears answers on it if it can be read.
    pub fn new(transport: Box<dyn Transport>, options: &WriterOptions) -> Result<Self> {
        let two_way = transport.reads();
        if options.resume && !two_way {
            let why = "has SPARSESTREAM_WIRE_RESUME, which needs a way back from the receiver";
            return Err(Error::argument("options.flags", why, libc::EINVAL));
        }
        if !transport.writes() {
            return Err(Error::argument("transport", "cannot be written", libc::EINVAL));
        }
        let hello = hello(options, two_way);
        hello.check().map_err(|malformed| {
            Error::argument("options", malformed.why(), invalid(malformed.errno()))
        })?;
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
        let Refused { why, errno } = refused;
        Error::Because { operation, side: Side::Sink, offset: self.machine.at(), errno, why }
    }

    /// Does something, and keeps its failure: what is broken stays so.
    fn lasting<T>(&mut self, body: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if let Some(error) = self.failed.clone() {
            return Err(error);
        }
        let result = body(self);
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

    /// Ends it with a failure, which the receiver is told as far as that goes without waiting.
    fn fail(&mut self, error: Error) {
        self.failed = Some(error.clone());
        self.machine.fail(&error);
        // Its failure would hide the one that it reports.
        let _ = self.send();
        self.link.close_now();
    }

    /// Sends everything that waits.
    fn send(&mut self) -> Sys<()> {
        while self.machine.waits() > 0 {
            let count = self.link.write(self.machine.poll_transmit(), &[])?;
            self.machine.transmitted(count);
        }
        Ok(())
    }

    /// The result of sending. When it failed, the receiver may have said why.
    fn sent<T>(&mut self, operation: Operation, result: Sys<T>) -> Result<T> {
        let errno = match result {
            Ok(value) => return Ok(value),
            Err(errno) => errno,
        };
        let error = self.error(operation, errno);
        if errno == libc::EINTR {
            return Err(error);
        }
        match self.hear() {
            Err(heard) if heard.is_peers() || errno == libc::EAGAIN => Err(heard),
            // A transport that failed may know the reason only when it is read.
            Err(heard @ Error::Said { .. }) if !matches!(error, Error::Said { .. }) => Err(heard),
            Ok(()) | Err(_) => Err(error),
        }
    }

    fn flush_all(&mut self, operation: Operation) -> Result<()> {
        if self.machine.waits() == 0 {
            return Ok(());
        }
        let result = self.send();
        self.sent(operation, result)
    }

    /// Takes the answers that are there, without waiting for any, and no more than a bounded number: a
    /// receiver that never stops must not keep the caller from its other work.
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
                    let why = "the receiver is gone without its last frame";
                    let refused = Refused { why, errno: libc::ECONNRESET };
                    return Err(self.because(operation, refused));
                }
                Ok(Input::Incomplete(_)) => match self.inbox.fill(&mut *self.link) {
                    Ok(()) | Err(libc::EINTR) => {}
                    Err(libc::EAGAIN) => return Ok(()),
                    Err(errno) => return Err(self.error(operation, errno)),
                },
                Err(Fault::Peer(error)) => return Err(error),
                Err(Fault::Refused(refused)) => return Err(self.because(operation, refused)),
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

    /// Sends HELLO and hears the answer.
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

    /// Comes to where the stream can be sent.
    #[cold]
    fn reach_stream(&mut self, operation: Operation) -> Result<()> {
        self.greet()?;
        match self.machine.stage() {
            Stage::Open => Ok(()),
            Stage::Comparing(_) => {
                let why = "what the receiver holds was not compared";
                Err(self.because(operation, Refused { why, errno: libc::EINVAL }))
            }
            Stage::New | Stage::Greeting | Stage::Ending | Stage::Finished | Stage::Failed => {
                Err(self.error(operation, libc::ESHUTDOWN))
            }
        }
    }

    /// Makes ready to send a frame of this many bytes.
    fn ready(&mut self, operation: Operation, room: usize) -> Result<()> {
        if self.machine.stage() != Stage::Open {
            self.reach_stream(operation)?;
        }
        let fits = if self.link.steady() {
            self.machine.waits() == 0 || self.machine.has_room_behind(room)
        } else {
            self.machine.has_room(room)
        };
        if self.machine.waits() >= GATHER || !fits {
            self.flush_all(operation)?;
        }
        if self.machine.at() - self.heard >= LISTEN {
            self.heard = self.machine.at();
            self.hear()?;
        }
        Ok(())
    }

    fn refuse_beyond(&self, operation: Operation, length: u64) -> Result<()> {
        self.machine.check(length).map_err(|refused| self.because(operation, refused))
    }

    /// The result of a request to the machine.
    fn agreed<T>(
        &self,
        operation: Operation,
        result: std::result::Result<T, Refused>,
    ) -> Result<T> {
        result.map_err(|refused| self.because(operation, refused))
    }

    /// Sends data of the frame under way that is not in a file any more.
    fn write_owed(&mut self, buffer: &[u8]) -> Result<usize> {
        let operation = Operation::Write;
        let most = (self.machine.owed() as usize).min(PAYLOAD);
        let payload = &buffer[..buffer.len().min(most)];
        self.ready(operation, payload.len())?;
        let link = &mut self.link;
        let sent = self.machine.owed_through(payload, |queued, rest| link.write(queued, rest));
        let sent = self.agreed(operation, sent)?;
        self.sent(operation, sent)?;
        Ok(payload.len())
    }

    fn may_fetch(&mut self) -> bool {
        let two_way = self.machine.two_way();
        if self.machine.sees_payload() {
            return false;
        }
        // One-way nobody reports when the file may change again.
        self.link.plain_output().is_some_and(|output| two_way || output.copies())
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

/// The errno of options that cannot be used: EINVAL, unless it is a combination that is not
/// supported.
fn invalid(errno: i32) -> i32 {
    if errno == libc::EOPNOTSUPP { errno } else { libc::EINVAL }
}

impl Sink for Writer {
    fn open(&mut self, plan: &Plan) -> Result<SinkInfo> {
        let held = self.lasting(|writer| {
            let announced = writer.machine.announce(plan.total, plan.keeps);
            announced.map_err(|Refused { why, errno }| {
                Error::argument("options.length", why, invalid(errno))
            })?;
            writer.greet()?;
            Ok(match writer.machine.stage() {
                Stage::Comparing(offer) => offer.length,
                _ => 0,
            })
        })?;
        let durable = self.machine.two_way();
        Ok(SinkInfo { makes_holes: true, keeps: true, held, durable })
    }

    fn write(&mut self, buffer: &[u8]) -> Result<usize> {
        self.lasting(|writer| {
            let operation = Operation::Write;
            writer.refuse_beyond(operation, 1)?;
            if writer.machine.owed() > 0 {
                return writer.write_owed(buffer);
            }
            writer.ready(operation, HEADER + buffer.len().min(PAYLOAD))?;
            let most = writer.machine.fits(buffer.len() as u64) as usize;
            let payload = &buffer[..most.min(PAYLOAD)];
            if payload.len() <= SMALL || writer.link.steady() {
                let taken = writer.machine.data(payload);
                writer.agreed(operation, taken)?;
            } else {
                let link = &mut writer.link;
                let sent =
                    writer.machine.data_through(payload, |queued, rest| link.write(queued, rest));
                let sent = writer.agreed(operation, sent)?;
                writer.sent(operation, sent)?;
            }
            Ok(payload.len())
        })
    }

    fn hole(&mut self, length: u64) -> Result<Made> {
        self.lasting(|writer| {
            let operation = Operation::Hole;
            writer.refuse_beyond(operation, length)?;
            let owed = writer.machine.owed();
            if owed > 0 {
                // A range that was data when its frame began has become a hole.
                let count = length.min(owed.into()).min(SMALL as u64);
                writer.ready(operation, count as usize)?;
                let made = writer.machine.owed_zeros(count as u32);
                writer.agreed(operation, made)?;
                return Ok(Made { length: count, way: HoleWay::Written });
            }
            writer.ready(operation, HEADER)?;
            let made = writer.machine.hole(length);
            writer.agreed(operation, made)?;
            Ok(Made { length, way: HoleWay::Passed })
        })
    }

    fn keep(&mut self, length: u64) -> Result<u64> {
        self.lasting(|writer| {
            let operation = Operation::Keep;
            writer.refuse_beyond(operation, length)?;
            writer.ready(operation, HEADER)?;
            let kept = writer.machine.keep(length);
            writer.agreed(operation, kept)?;
            Ok(length)
        })
    }

    fn durable(&self) -> Option<u64> {
        self.machine.durable()
    }
}

impl SinkWays for Writer {
    fn fetch(&mut self) -> Option<&mut dyn Fetch> {
        if self.may_fetch() { Some(self) } else { None }
    }

    fn lend(&mut self) -> Option<&mut dyn Lend> {
        Some(self)
    }

    fn held(&mut self) -> Option<&mut dyn Held> {
        Some(self)
    }
}

impl Fetch for Writer {
    fn fetch_extent(&mut self, extent: &Extent) -> Result<Attempt> {
        self.lasting(|writer| {
            let operation = Operation::Write;
            writer.refuse_beyond(operation, 1)?;
            writer.ready(operation, HEADER)?;
            if !writer.may_fetch() {
                return Ok(Attempt::Declined(None));
            }
            if writer.machine.owed() == 0 {
                let able =
                    writer.link.plain_output().is_some_and(|output| output.sends_from_files());
                if !able {
                    return Ok(Attempt::Declined(None));
                }
                let length = writer.machine.fits(extent.length);
                let owed = writer.machine.owe(length);
                writer.agreed(operation, owed)?;
            }
            let length = extent.length.min(writer.machine.owed().into());
            writer.flush_all(operation)?;
            let Some(output) = writer.link.plain_output() else {
                return Ok(Attempt::Declined(None));
            };
            let result = output.send_from(&Extent { length, ..*extent });
            let attempt = writer.sent(operation, result)?;
            if let Attempt::Moved(count) = attempt {
                let passed = writer.machine.payload_passed(count as u32);
                writer.agreed(operation, passed)?;
            }
            Ok(attempt)
        })
    }
}

impl Lend for Writer {
    fn room(&mut self) -> Result<Option<&mut [u8]>> {
        let most = self.lasting(|writer| {
            if writer.machine.owed() > 0 {
                return Ok(0);
            }
            writer.ready(Operation::Write, HEADER + PAYLOAD)?;
            // Whether more than was announced comes is not known yet: there may be no room.
            Ok(writer.machine.fits(PAYLOAD as u64) as usize)
        })?;
        Ok(if most > 0 { self.machine.lend(most) } else { None })
    }

    fn committed(&mut self, count: usize) {
        self.machine.placed(count);
    }
}

impl Held for Writer {
    fn check(&mut self, buffer: &[u8]) {
        self.machine.compare(buffer);
        // A receiver that waits for a long comparison is sent a sign of life. A failure shows when the
        // first frame is sent.
        let _ = self.flush(Instant::now());
    }

    fn check_hole(&mut self, length: u64) {
        self.machine.compare_hole(length);
    }

    fn agrees(&mut self) -> Result<bool> {
        self.lasting(|writer| {
            if !matches!(writer.machine.stage(), Stage::Comparing(_)) {
                return Ok(true);
            }
            writer.flush_all(Operation::Open)?;
            let same = writer.machine.agree();
            let same = writer.agreed(Operation::Open, same)?;
            writer.heard = writer.machine.at();
            Ok(same)
        })
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
                // The receiver has said that everything is stored.
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
