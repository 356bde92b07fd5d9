//! A sink that sends frames.

use super::digest::Digest;
use super::frame::{
    ANSWERS, Accept, CHECKSUM, DIGEST, End, Failure, HEADER, Header, Hello, Kind, MAX_OFFSET,
    Malformed, RESTART, RESUME, Reason, UNKNOWN, VERSION,
};
use super::inbox::{Inbox, LEAST_ROOM};
use super::milliseconds;
use super::outbox::Outbox;
use super::sequence::Refused;
use crate::end::{
    Attempt, Description, End as AnEnd, Extent, Fetch, Held, HoleWay, Lend, Made, Peer, Plan, Sink,
    SinkInfo, SinkWays,
};
use crate::error::{Error, Operation, Result, Side};
use crate::sys::{Fd, Sys};
use crate::wait::Waiting;
use std::time::{Duration, Instant};

/// Data in one frame that is written: enough to make the header nothing, little enough to keep what
/// a socket did not take of it.
const PAYLOAD: usize = 256 << 10;

/// Data in one frame that is sent from where it lies.
const FETCHED_PAYLOAD: u32 = 1 << 20;

/// Data in one frame, one-way: a receiver cannot ask for less.
const ONE_WAY_PAYLOAD: u32 = 128 << 10;

/// Frames are gathered until so much waits.
const GATHER: usize = 256 << 10;

/// Data up to this is gathered too; what is longer goes to the descriptor without being copied.
const SMALL: usize = 16 << 10;

/// Room for what is gathered, a frame behind it, and the frames that end a stream.
const OUTBOX: usize = GATHER + PAYLOAD + 1024;

/// So much is sent at most before it is looked whether the receiver has said something.
const LISTEN: u64 = 16 << 20;

/// So many answers, and reads for them, are taken in one call.
const ANSWERS_AT_ONCE: usize = 1024;

const DEFAULT_CHECKPOINT: u64 = 64 << 20;

/// How a stream is sent.
#[derive(Debug, Clone, Copy, Default)]
pub struct WriterOptions {
    /// What is told of it beforehand.
    pub description: Description,
    /// Each payload has its checksum.
    pub checksum: bool,
    /// A digest of the whole is sent.
    pub digest: bool,
    /// The receiver may offer to go on from what it holds.
    pub resume: bool,
    /// If its offer cannot be met, all is sent from the start.
    pub restart: bool,
    /// The digest is sent after so many bytes; 0 stands for the default.
    pub checkpoint_interval: u64,
    /// A KEEPALIVE is sent after so much silence; zero means never.
    pub keepalive: Duration,
}

/// Frames as a sink. Constant memory; writing never waits.
#[derive(Debug)]
pub struct Writer {
    outbox: Outbox,
    answers: Option<Inbox>,
    /// Both are one descriptor.
    one: bool,
    restart: bool,
    interval: u64,
    keepalive: Duration,
    hello: Hello,
    state: State,
    features: u64,
    max_payload: u32,
    /// Data of the last frame that is still to come: it is sent from where it lies.
    owed: u32,
    /// Bytes that were taken, from the start of the stream.
    at: u64,
    counts: End,
    digest: Digest,
    /// The last CHECKPOINT.
    checkpoint: u64,
    /// When it was last looked for an answer.
    heard: u64,
    /// When it last sent something.
    said: Instant,
    durable: Option<u64>,
    /// Answers that showed that the receiver is there.
    signs: u64,
}

#[derive(Debug, Clone, Copy)]
enum State {
    New,
    /// HELLO is sent; ACCEPT comes.
    Greeting,
    /// The receiver holds something. What that is was not compared with the source yet.
    Offered(Offer),
    Open,
    /// END is sent; STATUS comes.
    Ending,
    Finished,
    Failed(Error),
}

#[derive(Debug, Clone, Copy)]
struct Offer {
    length: u64,
    digest: u64,
    restart: bool,
}

impl Writer {
    /// Sends to `to`, and hears answers on `from` if there is one; the same twice for a socket.
    /// Both must stay open for as long as this lives.
    pub fn new(to: Fd, from: Option<Fd>, options: &WriterOptions) -> Result<Self> {
        let Description { length, source_size, source_offset, data_bytes, transfer_id, identity } =
            options.description;
        if options.resume && from.is_none() {
            let why = "asks to resume, which needs a way back";
            return Err(Error::argument("options.flags", why, libc::EINVAL));
        }
        let mut required =
            if options.checksum { CHECKSUM } else { 0 } | if options.digest { DIGEST } else { 0 };
        let mut optional = 0;
        if from.is_some() {
            required |= ANSWERS;
            optional = (CHECKSUM | DIGEST) & !required;
            if options.resume {
                optional |= RESUME;
            }
        }
        let max_payload = if from.is_some() { FETCHED_PAYLOAD } else { ONE_WAY_PAYLOAD };
        let hello = Hello {
            version: VERSION,
            least_version: VERSION,
            max_payload,
            required,
            optional,
            length: length.unwrap_or(UNKNOWN),
            source_size: source_size.unwrap_or(UNKNOWN),
            source_offset,
            data_bytes: data_bytes.unwrap_or(UNKNOWN),
            transfer_id,
            identity,
            keepalive_ms: milliseconds(options.keepalive),
        };
        if Hello::decode(&hello.encode()).is_err() {
            let why = "tells of sizes that contradict each other";
            return Err(Error::argument("options", why, libc::EINVAL));
        }
        let side = Side::Sink;
        Ok(Writer {
            outbox: Outbox::new(to, OUTBOX, side)?,
            answers: from.map(|from| Inbox::new(from, LEAST_ROOM, side)).transpose()?,
            one: from == Some(to),
            restart: options.restart,
            interval: match options.checkpoint_interval {
                0 => DEFAULT_CHECKPOINT,
                bytes => bytes,
            },
            keepalive: options.keepalive,
            hello,
            state: State::New,
            features: required,
            max_payload,
            owed: 0,
            at: 0,
            counts: End::default(),
            digest: Digest::default(),
            checkpoint: 0,
            heard: 0,
            said: Instant::now(),
            durable: None,
            signs: 0,
        })
    }

    fn error(&self, operation: Operation, errno: i32) -> Error {
        Error::at(operation, Side::Sink, self.at, errno)
    }

    fn because(&self, refused: Refused) -> Error {
        let Refused { why, errno } = refused;
        let operation = match self.state {
            State::New | State::Greeting | State::Offered(_) => Operation::Open,
            _ => Operation::Finish,
        };
        Error::Because { operation, side: Side::Sink, offset: self.at, errno, why }
    }

    /// Does something, and keeps its failure: what is broken stays so.
    fn lasting<T>(&mut self, body: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if let State::Failed(error) = self.state {
            return Err(error);
        }
        let result = body(self);
        match &result {
            Err(error) if error.would_block() || error.interrupted() => {}
            Err(error) if error.is_peers() => {
                // It knows.
                self.state = State::Failed(*error);
            }
            Err(error) => self.fail(*error),
            Ok(_) => {}
        }
        result
    }

    /// Ends it with a failure, of which the receiver is told as well as can be without waiting.
    fn fail(&mut self, error: Error) {
        let begun = !matches!(self.state, State::New);
        self.state = State::Failed(error);
        if !begun {
            return;
        }
        if self.owed > 0 {
            // Whatever completed the frame would be data there, and perhaps made durable. That
            // nothing follows is what the receiver is told.
            let _ = self.outbox.flush();
            return;
        }
        let (header, failure) = Failure::encode(&error);
        // Its failure would hide the one that it tells of.
        if self.outbox.has_room(HEADER + failure.body().len()) || self.outbox.flush().is_ok() {
            self.outbox.push(&header);
            self.outbox.push(failure.body());
            let _ = self.outbox.flush();
        }
    }

    /// What became of sending. When it did not go, the receiver may have said why.
    fn sent<T>(&mut self, operation: Operation, result: Sys<T>) -> Result<T> {
        match result {
            Ok(value) => {
                if !self.keepalive.is_zero() {
                    self.said = Instant::now();
                }
                Ok(value)
            }
            Err(errno) => {
                if errno != libc::EINTR {
                    match self.hear() {
                        Err(error) if error.is_peers() => return Err(error),
                        Err(error) if errno == libc::EAGAIN => return Err(error),
                        _ => {}
                    }
                }
                Err(self.error(operation, errno))
            }
        }
    }

    fn flush_all(&mut self, operation: Operation) -> Result<()> {
        if self.outbox.waits() == 0 {
            return Ok(());
        }
        let result = self.outbox.flush();
        self.sent(operation, result)
    }

    /// Takes what answers there are, without waiting for any, and no more than a bounded number: a
    /// receiver that never stops must not keep the caller from its other work.
    fn hear(&mut self) -> Result<()> {
        for _ in 0..ANSWERS_AT_ONCE {
            let Some(inbox) = &mut self.answers else { return Ok(()) };
            match inbox.frame() {
                Ok(Some(header)) => {
                    self.heed(&header)?;
                    if let Some(inbox) = &mut self.answers {
                        inbox.take(HEADER + header.length as usize);
                    }
                    continue;
                }
                Ok(None) => {}
                Err(malformed) => return Err(self.because(malformed.into())),
            }
            if !inbox.ended() {
                match inbox.fill() {
                    Ok(()) | Err(libc::EINTR) => continue,
                    Err(libc::EAGAIN) => return Ok(()),
                    Err(errno) => return Err(self.error(Operation::Finish, errno)),
                }
            }
            if matches!(self.state, State::Finished) {
                return Ok(());
            }
            let why = "the receiver is gone without its last word";
            return Err(self.because(Refused { why, errno: libc::ECONNRESET }));
        }
        Ok(())
    }

    /// What an answer does.
    fn heed(&mut self, header: &Header) -> Result<()> {
        let body = self.answers.as_ref().map_or(&[][..], |inbox| inbox.body(header));
        let refused = |malformed: Malformed| self.because(malformed.into());
        match (header.kind, self.state) {
            (Kind::Error, _) => Err(Failure::decode(header, body).unwrap_or_else(refused)),
            (Kind::Accept, State::Greeting) => {
                let accept = Accept::decode(body, &self.hello).map_err(refused)?;
                self.features = accept.features;
                self.max_payload = FETCHED_PAYLOAD.min(accept.max_payload);
                self.state = match accept.resume_offset {
                    0 => State::Open,
                    length => State::Offered(Offer {
                        length,
                        digest: accept.resume_digest,
                        restart: accept.flags & RESTART != 0,
                    }),
                };
                Ok(())
            }
            (Kind::Keepalive | Kind::Ignored, State::Offered(_) | State::Open | State::Ending) => {
                self.signs += 1;
                Ok(())
            }
            (Kind::Ack, State::Open | State::Ending) => {
                if header.offset > self.at
                    || self.durable.is_some_and(|known| header.offset < known)
                {
                    return Err(self.because(UNEXPECTED));
                }
                self.durable = Some(header.offset);
                self.signs += 1;
                Ok(())
            }
            (Kind::Status, State::Ending) => {
                let digest = if self.digests() { self.digest.value() } else { 0 };
                if header.offset != self.at || header.value != digest {
                    return Err(self.because(DISAGREES));
                }
                self.state = State::Finished;
                Ok(())
            }
            _ => Err(self.because(UNEXPECTED)),
        }
    }

    /// Waits, by EAGAIN, for what the receiver must say next.
    fn listen(&mut self, operation: Operation) -> Result<()> {
        self.flush_all(operation)?;
        self.hear()
    }

    /// Says HELLO and hears the answer.
    fn greet(&mut self) -> Result<()> {
        if matches!(self.state, State::New) {
            let body = self.hello.encode();
            self.outbox.push(&Header::with_body(Kind::Hello, 0, 0, &body).encode());
            self.outbox.push(&body);
            self.state = if self.answers.is_some() { State::Greeting } else { State::Open };
        }
        if matches!(self.state, State::Greeting) {
            self.listen(Operation::Open)?;
            if matches!(self.state, State::Greeting) {
                return Err(self.error(Operation::Open, libc::EAGAIN));
            }
        }
        Ok(())
    }

    /// Comes to where the stream can be sent.
    #[cold]
    fn open(&mut self, operation: Operation) -> Result<()> {
        self.greet()?;
        match self.state {
            State::Open => Ok(()),
            State::Failed(error) => Err(error),
            State::Offered(_) => {
                let why = "what the receiver holds was not compared";
                Err(self.because(Refused { why, errno: libc::EINVAL }))
            }
            _ => Err(self.error(operation, libc::ESHUTDOWN)),
        }
    }

    /// Makes ready to send something of so many bytes.
    fn ready(&mut self, operation: Operation, room: usize) -> Result<()> {
        if !matches!(self.state, State::Open) {
            self.open(operation)?;
        }
        if self.outbox.waits() >= GATHER || !self.outbox.has_room(room + HEADER) {
            self.flush_all(operation)?;
        }
        if self.answers.is_some() && self.at - self.heard >= LISTEN {
            self.heard = self.at;
            self.hear()?;
        }
        if self.digests() && self.at - self.checkpoint >= self.interval {
            let header = Header::new(Kind::Checkpoint, self.at, self.digest.value());
            self.outbox.push(&header.encode());
            self.checkpoint = self.at;
        }
        Ok(())
    }

    fn digests(&self) -> bool {
        self.features & DIGEST != 0
    }

    /// How much of so many bytes is within what was announced.
    fn most(&self, length: u64) -> u64 {
        length.min(self.hello.length.min(MAX_OFFSET) - self.at)
    }

    /// Data of the frame under way was sent.
    fn paid(&mut self, count: u32) {
        self.owed -= count;
        self.count(count as usize);
    }

    /// Data was taken.
    fn count(&mut self, bytes: usize) {
        self.at += bytes as u64;
        self.counts.data_bytes += bytes as u64;
    }

    /// What goes before this payload.
    fn data_header(&self, payload: &[u8]) -> [u8; HEADER] {
        if self.features & CHECKSUM != 0 {
            Header::with_body(Kind::Data, self.at, 0, payload)
        } else {
            let length = payload.len() as u32;
            Header { length, ..Header::new(Kind::Data, self.at, 0) }
        }
        .encode()
    }

    fn refuse_beyond(&self, operation: Operation, length: u64) -> Result<()> {
        let (most, errno) = match self.hello.length {
            UNKNOWN => (MAX_OFFSET, libc::EOVERFLOW),
            announced => (announced, libc::EFBIG),
        };
        match self.at.checked_add(length) {
            Some(end) if end <= most => Ok(()),
            _ => Err(self.error(operation, errno)),
        }
    }
}

const UNEXPECTED: Refused = Refused { why: "an answer out of place", errno: libc::EPROTO };
const DISAGREES: Refused =
    Refused { why: "the receiver has stored something else", errno: libc::EBADMSG };

impl Sink for Writer {
    fn open(&mut self, plan: &Plan) -> Result<SinkInfo> {
        if plan.keeps {
            return Ok(SinkInfo { makes_holes: true, ..SinkInfo::default() });
        }
        if let Some(total) = plan.total {
            self.announce(total)?;
        }
        let held = self.lasting(|writer| {
            writer.greet()?;
            Ok(match writer.state {
                State::Offered(offer) => offer.length,
                _ => 0,
            })
        })?;
        let durable = self.answers.is_some();
        Ok(SinkInfo { makes_holes: true, keeps: false, held, durable })
    }

    fn write(&mut self, buffer: &[u8]) -> Result<usize> {
        self.lasting(|writer| {
            let operation = Operation::Write;
            writer.refuse_beyond(operation, 1)?;
            if writer.owed > 0 {
                let payload = &buffer[..buffer.len().min(writer.owed as usize).min(PAYLOAD)];
                writer.ready(operation, payload.len())?;
                let result = writer.outbox.push_through(&[], payload);
                writer.sent(operation, result)?;
                writer.paid(payload.len() as u32);
                return Ok(payload.len());
            }
            let expected = writer.most(buffer.len() as u64).min(PAYLOAD as u64) as usize;
            writer.ready(operation, HEADER + expected)?;
            let payload = &buffer[..expected.min(writer.max_payload as usize)];
            let header = writer.data_header(payload);
            if payload.len() <= SMALL {
                writer.outbox.push(&header);
                writer.outbox.push(payload);
            } else {
                let result = writer.outbox.push_through(&header, payload);
                writer.sent(operation, result)?;
            }
            if writer.digests() {
                writer.digest.data(payload);
            }
            writer.count(payload.len());
            Ok(payload.len())
        })
    }

    fn hole(&mut self, length: u64) -> Result<Made> {
        self.lasting(|writer| {
            writer.refuse_beyond(Operation::Hole, length)?;
            if writer.owed > 0 {
                // What was data when its frame began has become a hole.
                let count = length.min(writer.owed.into()).min(SMALL as u64);
                writer.ready(Operation::Hole, count as usize)?;
                writer.outbox.push_zeros(count as usize);
                writer.paid(count as u32);
                return Ok(Made { length: count, way: HoleWay::Written });
            }
            writer.ready(Operation::Hole, HEADER)?;
            writer.outbox.push(&Header::new(Kind::Hole, writer.at, length).encode());
            if writer.digests() {
                writer.digest.hole(length);
            }
            writer.at += length;
            writer.counts.hole_bytes += length;
            Ok(Made { length, way: HoleWay::Passed })
        })
    }

    fn keep(&mut self, _length: u64) -> Result<u64> {
        Err(self.error(Operation::Keep, libc::EOPNOTSUPP))
    }

    fn durable(&self) -> Option<u64> {
        self.durable
    }
}

impl SinkWays for Writer {
    fn fetch(&mut self) -> Option<&mut dyn Fetch> {
        // One-way nobody reports when the file may change again.
        let lasts = self.answers.is_some() || self.outbox.copies();
        if self.features & (CHECKSUM | DIGEST) == 0 && lasts { Some(self) } else { None }
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
            writer.ready(operation, 0)?;
            if !writer.fetches() {
                return Ok(Attempt::Declined(None));
            }
            if writer.owed == 0 {
                let length = writer.most(extent.length).min(writer.max_payload.into()) as u32;
                let header = Header { length, ..Header::new(Kind::Data, writer.at, 0) };
                writer.outbox.push(&header.encode());
                writer.owed = length;
            }
            let most = extent.length.min(writer.owed.into());
            writer.flush_all(operation)?;
            let result = writer.outbox.send_from(&Extent { length: most, ..*extent });
            let attempt = writer.sent(operation, result)?;
            if let Attempt::Moved(count) = attempt {
                writer.paid(count as u32);
            }
            Ok(attempt)
        })
    }
}

impl Lend for Writer {
    fn room(&mut self) -> Result<Option<&mut [u8]>> {
        let most = self.lasting(|writer| {
            let most = writer.most(PAYLOAD as u64) as usize;
            // Whether more than was announced comes is not known yet.
            if writer.owed > 0 || most == 0 {
                return Ok(0);
            }
            writer.ready(Operation::Write, HEADER + most)?;
            Ok(most.min(writer.max_payload as usize))
        })?;
        Ok((most > 0).then(|| self.outbox.lend(most)))
    }

    fn committed(&mut self, count: usize) {
        let header = self.data_header(self.outbox.lent(count));
        if self.digests() {
            self.digest.data(self.outbox.lent(count));
        }
        self.outbox.keep(&header, count);
        self.count(count);
    }
}

impl Held for Writer {
    fn check(&mut self, buffer: &[u8]) {
        self.digest.data(buffer);
        self.at += buffer.len() as u64;
        // A receiver that waits for a long comparison is sent a sign of life. A failure shows when the
        // first frame is sent.
        let _ = self.flush(Instant::now());
    }

    fn check_hole(&mut self, length: u64) {
        self.digest.hole(length);
        self.at += length;
    }

    fn agrees(&mut self) -> Result<bool> {
        self.lasting(|writer| {
            let State::Offered(offer) = writer.state else { return Ok(true) };
            if writer.outbox.waits() > 0 {
                writer.flush_all(Operation::Open)?;
            }
            let same = writer.at == offer.length && writer.digest.value() == offer.digest;
            let reason = if same {
                Reason::None
            } else if writer.restart && offer.restart {
                writer.at = 0;
                writer.digest = Digest::default();
                Reason::Content
            } else {
                let why = "what the receiver holds is not what the source has";
                return Err(writer.because(Refused { why, errno: libc::ESTALE }));
            };
            let header = Header::new(Kind::Begin, writer.at, u64::from(reason.code()));
            writer.outbox.push(&header.encode());
            (writer.checkpoint, writer.heard) = (writer.at, writer.at);
            writer.state = State::Open;
            Ok(same)
        })
    }
}

impl Peer for Writer {
    fn signs(&self) -> u64 {
        self.signs
    }

    fn flush(&mut self, now: Instant) -> Result<()> {
        self.lasting(|writer| {
            if writer.flush_by().is_some_and(|due| due <= now) {
                // While it is compared the stream is still at its start.
                let at = if matches!(writer.state, State::Open) { writer.at } else { 0 };
                writer.outbox.push(&Header::new(Kind::Keepalive, at, 0).encode());
            }
            writer.flush_all(Operation::Write)
        })
    }

    fn flush_by(&self) -> Option<Instant> {
        // What waits to go out is a sign of life itself.
        (matches!(self.state, State::Open | State::Offered(_))
            && !self.keepalive.is_zero()
            && self.outbox.waits() == 0
            && self.owed == 0)
            .then(|| self.said.checked_add(self.keepalive))
            .flatten()
    }
}

impl AnEnd for Writer {
    fn finish(&mut self) -> Result<()> {
        self.lasting(|writer| {
            let operation = Operation::Finish;
            if matches!(writer.state, State::Finished) {
                return Ok(());
            }
            if !matches!(writer.state, State::Ending) {
                let end = writer.counts.encode();
                writer.ready(operation, 2 * HEADER + end.len())?;
                let announced = Some(writer.hello.length).filter(|length| *length != UNKNOWN);
                let promised = writer.at + u64::from(writer.owed);
                let expected = announced.unwrap_or(promised).max(promised);
                if writer.at != expected {
                    return Err(Error::EndedEarly { offset: writer.at, expected });
                }
                let digest = if writer.digests() { writer.digest.value() } else { 0 };
                let header = Header::with_body(Kind::End, writer.at, digest, &end);
                writer.outbox.push(&header.encode());
                writer.outbox.push(&end);
                writer.state = State::Ending;
            }
            writer.flush_all(operation)?;
            if writer.answers.is_none() {
                writer.state = State::Finished;
                return Ok(());
            }
            writer.hear()?;
            if matches!(writer.state, State::Finished) {
                return Ok(());
            }
            Err(writer.error(operation, libc::EAGAIN))
        })
    }

    fn abort(&mut self, error: &Error) {
        if !matches!(self.state, State::Finished | State::Failed(_)) {
            self.fail(*error);
        }
    }

    fn waiting(&self) -> Waiting {
        match (&self.answers, self.outbox.waiting()) {
            (Some(inbox), _) if self.outbox.waits() == 0 && self.hears() => inbox.waiting(),
            (Some(_), Waiting::Descriptor { fd, blocking, .. }) if self.one => {
                Waiting::Descriptor { fd, events: libc::POLLOUT | libc::POLLIN, blocking }
            }
            (_, waiting) => waiting,
        }
    }

    fn peer(&mut self) -> Option<&mut dyn Peer> {
        Some(self)
    }
}

impl Writer {
    /// Takes the length of the stream into HELLO, if that was not sent yet.
    fn announce(&mut self, total: u64) -> Result<()> {
        if !matches!(self.state, State::New) {
            return Ok(());
        }
        if total > MAX_OFFSET {
            return Err(self.error(Operation::Write, libc::EOVERFLOW));
        }
        let hello = Hello { length: total, ..self.hello };
        let told = self.hello.length;
        if told != UNKNOWN && told != total || Hello::decode(&hello.encode()).is_err() {
            let why = "is not the length of what is sent";
            return Err(Error::argument("options.length", why, libc::EINVAL));
        }
        self.hello = hello;
        Ok(())
    }

    fn fetches(&self) -> bool {
        self.features & (CHECKSUM | DIGEST) == 0
            && (self.owed > 0 || self.outbox.sends_from_files())
    }

    /// Whether an answer is what it waits for.
    fn hears(&self) -> bool {
        matches!(self.state, State::Greeting | State::Ending)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !matches!(self.state, State::New) {
            let (operation, side) = (Operation::None, Side::None);
            self.abort(&Error::nowhere(operation, side, libc::ECANCELED));
        }
    }
}
