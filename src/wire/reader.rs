//! A source that receives frames.

use super::digest::Digest;
use super::frame::{
    self, ANSWERS, Accept, CHECKSUM, DIGEST, End, FEATURES, Failure, HEADER, Header, Hello, Kind,
    MAX_OFFSET, MAX_PAYLOAD, MIN_PAYLOAD, Malformed, RESTART, RESUME, Reason, UNKNOWN, VERSION,
};
use super::inbox::Inbox;
use super::outbox::Outbox;
use super::sequence::{Limits, Refused, Sequence};
use crate::end::{
    Attempt, Description, End as AnEnd, Extent, Feed, Introduced, Introduction, Lent, Look, Next,
    Peer, Source, SourceInfo, SourceWays,
};
use crate::error::{Error, Operation, Result, Side};
use crate::pipe::Pipe;
use crate::section;
use crate::sys::{Fd, Sys};
use crate::wait::Waiting;
use std::time::Instant;

/// What one read takes at most beside the caller's buffer.
const INBOX: usize = 256 << 10;

/// Room for every answer that can be due at one time: ACCEPT, ACK, STATUS or ERROR.
const OUTBOX: usize = 1024;

/// So many frames without data or a hole are taken in one call: a sender that sends nothing else
/// must not keep the caller from its other work. `EINTR` has it call again.
const FRAMES_AT_ONCE: usize = 1024;

/// How a stream is received.
#[derive(Debug, Clone, Copy)]
pub struct ReaderOptions {
    /// The most bytes that the stream may have.
    pub max_size: u64,
    /// The most bytes of data in one frame.
    pub max_payload: u32,
    /// Payload checksums are asked for.
    pub checksum: bool,
    /// The digest is asked for.
    pub digest: bool,
    /// What is held from before.
    pub held: Option<Held>,
    /// What cannot be gone on with is received from its start.
    pub restart: bool,
}

impl Default for ReaderOptions {
    fn default() -> Self {
        ReaderOptions {
            max_size: MAX_OFFSET,
            max_payload: MAX_PAYLOAD,
            checksum: false,
            digest: false,
            held: None,
            restart: false,
        }
    }
}

/// What a receiver holds of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Bytes from the stream's start that are on the medium.
    pub length: u64,
    /// Their digest.
    pub digest: u64,
    /// The transfer that brought them; zeros for any.
    pub transfer_id: [u8; 16],
    /// The source that they are of; zeros for any.
    pub identity: [u8; 32],
}

/// Frames as a source. Constant memory; reading never waits.
#[derive(Debug)]
pub struct Reader {
    inbox: Inbox,
    outbox: Option<Outbox>,
    /// A HELLO has come whose sender waits for answers.
    heard: bool,
    options: ReaderOptions,
    state: State,
    hello: Option<Hello>,
    features: u64,
    sequence: Option<Sequence>,
    /// Bytes that were handed out, from the start of the stream.
    at: u64,
    piece: Piece,
    /// Data is being fed to a pipe: of what comes only frame heads are read, one at a time.
    feeds: bool,
    digest: Option<Digest>,
    /// What is durable and was not told yet.
    durable: Option<u64>,
    /// Frames that said no more than that the sender is there.
    signs: u64,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// HELLO comes.
    Greeting,
    /// An offer is made; BEGIN comes.
    Offered,
    Open,
    /// END has come.
    Ended,
    /// STATUS is on its way.
    Finishing,
    Finished,
    Failed(Error),
}

/// What is left of the frame that is handed out.
#[derive(Debug, Clone, Copy)]
enum Piece {
    None,
    Data { left: u32, checksum: u32, expected: Option<u32> },
    Hole { left: u64 },
}

impl Reader {
    /// Receives from `from`, and answers on `to` if there is one; the same twice for a socket.
    /// Both must stay open for as long as this lives.
    pub fn new(from: Fd, to: Option<Fd>, options: &ReaderOptions) -> Result<Self> {
        if !(MIN_PAYLOAD..=MAX_PAYLOAD).contains(&options.max_payload) {
            let why = "is not from 4096 to 4194304";
            return Err(Error::argument("options.max_payload", why, libc::EINVAL));
        }
        let held = options.held.filter(|held| held.length > 0);
        if held.is_some_and(|held| held.length > MAX_OFFSET) {
            let why = "lies beyond every stream";
            return Err(Error::argument("options.resume_offset", why, libc::EINVAL));
        }
        let side = Side::Source;
        Ok(Reader {
            inbox: Inbox::new(from, INBOX, side)?,
            outbox: to.map(|to| Outbox::new(to, OUTBOX, side)).transpose()?,
            heard: false,
            options: ReaderOptions { held, ..*options },
            state: State::Greeting,
            hello: None,
            features: 0,
            sequence: None,
            at: 0,
            piece: Piece::None,
            feeds: false,
            digest: None,
            durable: None,
            signs: 0,
        })
    }

    fn error(&self, operation: Operation, errno: i32) -> Error {
        Error::at(operation, Side::Source, self.at, errno)
    }

    fn because(&self, refused: Refused) -> Error {
        let Refused { why, errno } = refused;
        let (operation, side) = (Operation::Read, Side::Source);
        Error::Because { operation, side, offset: self.at, errno, why }
    }

    fn ended_early(&self) -> Error {
        match self.hello {
            Some(Hello { length, .. }) if length != UNKNOWN && self.at < length => {
                Error::EndedEarly { offset: self.at, expected: length }
            }
            _ => self.because(Refused {
                why: "the stream was cut off before its end",
                errno: libc::ENODATA,
            }),
        }
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

    /// Ends it with a failure, of which the sender is told as well as can be without waiting.
    fn fail(&mut self, error: Error) {
        self.state = State::Failed(error);
        // What is on the way back of a stream that is none, a terminal perhaps, is told nothing.
        if let Some(outbox) = self.outbox.as_mut().filter(|_| self.heard) {
            let (header, failure) = Failure::encode(&error);
            if outbox.has_room(HEADER + failure.body().len()) {
                outbox.push(&header);
                outbox.push(failure.body());
            }
            // Nobody waits for it, and its failure would hide the one that it tells of.
            let _ = outbox.flush();
        }
    }

    /// The next frame, which is taken off by who uses it.
    fn next(&mut self) -> Result<Header> {
        loop {
            match self.inbox.frame() {
                Ok(Some(header)) => return Ok(header),
                Ok(None) if self.inbox.ended() => return Err(self.ended_early()),
                Ok(None) => {}
                Err(malformed) => return Err(self.because(malformed.into())),
            }
            let result = if self.feeds { self.inbox.fill_frame() } else { self.inbox.fill() };
            result.map_err(|errno| self.error(Operation::Read, errno))?;
        }
    }

    /// Takes frames until there is something to hand out, or the end.
    fn advance(&mut self) -> Result<()> {
        for _ in 0..FRAMES_AT_ONCE {
            match self.state {
                State::Failed(error) => return Err(error),
                State::Ended | State::Finishing | State::Finished => return Ok(()),
                State::Open if !matches!(self.piece, Piece::None) => return Ok(()),
                State::Greeting | State::Offered | State::Open => {}
            }
            let header = self.next()?;
            let taken = HEADER + if header.kind == Kind::Data { 0 } else { header.length as usize };
            self.accept(&header)?;
            self.inbox.take(taken);
            if matches!(self.state, State::Ended) && !self.inbox.bytes().is_empty() {
                let why = "something follows the end of the stream";
                return Err(self.because(Refused { why, errno: libc::EPROTO }));
            }
        }
        Err(self.error(Operation::Read, libc::EINTR))
    }

    /// What a frame does. Nothing of it is done if it fails.
    fn accept(&mut self, header: &Header) -> Result<()> {
        match (header.kind, self.state) {
            (Kind::Ignored | Kind::Keepalive, State::Offered | State::Open) => {
                self.signs += 1;
                Ok(())
            }
            (Kind::Error, _) => {
                let error = Failure::decode(header, self.inbox.body(header));
                Err(error.unwrap_or_else(|malformed| self.because(malformed.into())))
            }
            (Kind::Hello, State::Greeting) => self.greet(header),
            (Kind::Begin, State::Offered) => self.begin(header),
            (_, State::Open) => {
                let result = self.flow(header);
                result.map_err(|refused| self.because(refused))
            }
            (_, State::Greeting) => {
                let why = "a stream must begin with HELLO";
                Err(self.because(Refused { why, errno: libc::EPROTO }))
            }
            _ => Err(self.because(UNEXPECTED)),
        }
    }

    fn greet(&mut self, header: &Header) -> Result<()> {
        let refuse = |reader: &Self, why, errno| Err(reader.because(Refused { why, errno }));
        let hello = Hello::decode(self.inbox.body(header))
            .map_err(|malformed| self.because(malformed.into()))?;
        let two_way = hello.required & ANSWERS != 0;
        if two_way && self.outbox.is_none() {
            let why = "the sender waits for answers, and there is no way back";
            return refuse(self, why, libc::ENOTCONN);
        }
        self.heard = two_way;
        if !two_way {
            // Nobody listens on the other side.
            self.outbox = None;
        }
        let limits = Limits { size: self.options.max_size, payload: self.options.max_payload };
        let mut sequence =
            Sequence::new(&hello, limits).map_err(|refused| self.because(refused))?;
        let mut features = hello.required;
        if two_way {
            let wanted = if self.options.checksum { CHECKSUM } else { 0 }
                | if self.options.digest { DIGEST } else { 0 }
                | if self.options.held.is_some() { RESUME | DIGEST } else { 0 };
            features |= hello.optional & wanted & FEATURES;
        }
        for (wanted, feature, why) in [
            (self.options.checksum, CHECKSUM, "the sender gives no payload checksums"),
            (self.options.digest, DIGEST, "the sender gives no digest"),
        ] {
            if wanted && features & feature == 0 {
                return refuse(self, why, libc::EOPNOTSUPP);
            }
        }
        let (offer, reason) = match self.options.held {
            None => (None, Reason::None),
            Some(held) => {
                let differs =
                    |held: &[u8], told: &[u8]| held.iter().any(|byte| *byte != 0) && held != told;
                if differs(&held.transfer_id, &hello.transfer_id)
                    || differs(&held.identity, &hello.identity)
                    || hello.length != UNKNOWN && held.length > hello.length
                {
                    (None, Reason::Identity)
                } else if features & (RESUME | DIGEST) != RESUME | DIGEST {
                    (None, Reason::Unable)
                } else {
                    (Some(held), Reason::None)
                }
            }
        };
        if !self.options.restart {
            match reason {
                Reason::None => {}
                Reason::Unable => {
                    return refuse(self, "the sender cannot resume", libc::EOPNOTSUPP);
                }
                _ => {
                    let why = "the source has changed";
                    return refuse(self, why, libc::ESTALE);
                }
            }
        }
        if two_way {
            let accept = Accept {
                version: hello.version.min(VERSION),
                reason,
                max_payload: self.options.max_payload,
                features,
                resume_offset: offer.map_or(0, |held| held.length),
                resume_digest: offer.map_or(0, |held| held.digest),
                flags: if self.options.restart { RESTART } else { 0 },
            };
            let body = accept.encode();
            let header = Header::with_body(Kind::Accept, 0, 0, &body).encode();
            if let Some(outbox) = &mut self.outbox {
                outbox.push(&header);
                outbox.push(&body);
            }
        }
        if let Some(held) = offer {
            sequence.resume(held.length);
        }
        self.digest = (features & DIGEST != 0).then(Digest::default);
        self.features = features;
        self.hello = Some(hello);
        self.sequence = Some(sequence);
        self.state = if offer.is_some() { State::Offered } else { State::Open };
        Ok(())
    }

    fn begin(&mut self, header: &Header) -> Result<()> {
        let reason =
            Reason::of_begin(header.value).map_err(|malformed| self.because(malformed.into()))?;
        let (Some(sequence), Some(held)) = (&mut self.sequence, self.options.held) else {
            return Err(Error::Internal);
        };
        match (header.offset, reason) {
            (offset, Reason::None) if offset == held.length => {
                self.digest = Some(Digest::resumed(held.digest));
                self.at = held.length;
            }
            (0, Reason::None) => return Err(self.because(UNEXPECTED)),
            (0, _) if self.options.restart => sequence.resume(0),
            (0, _) => {
                let why = "what is held is not what the source has";
                return Err(self.because(Refused { why, errno: libc::ESTALE }));
            }
            _ => return Err(self.because(UNEXPECTED)),
        }
        self.state = State::Open;
        Ok(())
    }

    /// A frame of the stream itself.
    fn flow(&mut self, header: &Header) -> std::result::Result<(), Refused> {
        let sequence = self.sequence.as_mut().ok_or(UNEXPECTED)?;
        match header.kind {
            Kind::Data => {
                sequence.data(header)?;
                let expected = if self.features & CHECKSUM != 0 {
                    Some(header.checksum)
                } else if header.checksum == 0 {
                    None
                } else {
                    return Err(Malformed::Unused.into());
                };
                self.piece = Piece::Data { left: header.length, checksum: 0, expected };
                self.feeds &= u64::from(header.length) >= Extent::LEAST;
            }
            Kind::Hole => {
                sequence.hole(header)?;
                if let Some(digest) = &mut self.digest {
                    digest.hole(header.value);
                }
                self.piece = Piece::Hole { left: header.value };
            }
            Kind::Checkpoint => {
                sequence.here(header)?;
                let digest = self.digest.ok_or(UNEXPECTED)?;
                if digest.value() != header.value {
                    return Err(DAMAGED);
                }
            }
            Kind::End => {
                let end = End::decode(self.inbox.body(header))?;
                sequence.end(header, &end)?;
                if self.digest.map_or(0, Digest::value) != header.value {
                    return Err(DAMAGED);
                }
                self.state = State::Ended;
            }
            _ => return Err(UNEXPECTED),
        }
        Ok(())
    }

    /// Counts data of the frame under way as handed out, once it was seen.
    fn hand_out(&mut self, count: u32) {
        if let Piece::Data { left, .. } = &mut self.piece {
            *left -= count;
            if *left == 0 {
                self.piece = Piece::None;
            }
        }
        self.at += u64::from(count);
    }

    fn read_data(&mut self, buffer: &mut [u8], left: u32) -> Result<usize> {
        let most = buffer.len().min(left as usize);
        let held = self.inbox.bytes();
        if !held.is_empty() {
            let count = most.min(held.len());
            buffer[..count].copy_from_slice(&held[..count]);
            return match self.take_held(count) {
                true => Ok(count),
                false => Err(self.because(Malformed::BodyChecksum.into())),
            };
        }
        let count = self
            .inbox
            .read_through(&mut buffer[..most])
            .map_err(|errno| self.error(Operation::Read, errno))?;
        if count == 0 {
            return Err(self.ended_early());
        }
        if !see(&mut self.digest, &mut self.piece, &buffer[..count]) {
            return Err(self.because(Malformed::BodyChecksum.into()));
        }
        self.hand_out(count as u32);
        Ok(count)
    }

    /// Sends what answers are due, as far as that goes without waiting.
    fn answer(&mut self) -> Sys<()> {
        let Some(outbox) = &mut self.outbox else { return Ok(()) };
        if outbox.waits() == 0 {
            // What is due meanwhile is told by the last of them alone.
            if let Some(durable) = self.durable.take() {
                outbox.push(&Header::new(Kind::Ack, durable, 0).encode());
            }
        }
        outbox.flush()
    }

    /// As [`Reader::answer`], where it can wait. A sender that is gone shows when it is read from.
    fn answer_if_ready(&mut self) {
        let _ = self.answer();
    }
}

/// Takes data into the digest and its frame's checksum, and says whether that is right as far as is
/// known.
fn see(digest: &mut Option<Digest>, piece: &mut Piece, bytes: &[u8]) -> bool {
    if let Some(digest) = digest {
        digest.data(bytes);
    }
    match piece {
        Piece::Data { left, checksum, expected: Some(expected) } => {
            *checksum = crc32c::crc32c_append(*checksum, bytes);
            *left as usize != bytes.len() || checksum == expected
        }
        _ => true,
    }
}

const UNEXPECTED: Refused = Refused { why: "a frame out of place", errno: libc::EPROTO };
const DAMAGED: Refused = Refused { why: "the digest of what came is wrong", errno: libc::EBADMSG };

impl Source for Reader {
    fn open(&mut self) -> Result<SourceInfo> {
        self.greeted()?;
        let total = self.hello.map(|hello| hello.length).filter(|length| *length != UNKNOWN);
        Ok(SourceInfo { total, tells_holes: true, keeps: false, start: self.start() })
    }

    fn next(&mut self, buffer: &mut [u8]) -> Result<Next> {
        self.answer_if_ready();
        self.lasting(|reader| {
            reader.advance()?;
            match reader.piece {
                Piece::None => Ok(Next::End),
                Piece::Hole { left } => Ok(Next::Hole(left)),
                Piece::Data { left, .. } => reader.read_data(buffer, left).map(Next::Data),
            }
        })
    }

    fn look(&mut self) -> Result<Look> {
        self.answer_if_ready();
        self.lasting(|reader| {
            reader.advance()?;
            Ok(match reader.piece {
                Piece::None => Look { kind: section::Kind::End, length: Some(0) },
                Piece::Hole { left } => Look { kind: section::Kind::Hole, length: Some(left) },
                Piece::Data { left, .. } => {
                    Look { kind: section::Kind::Data, length: Some(left.into()) }
                }
            })
        })
    }

    fn consume(&mut self, length: u64) {
        match &mut self.piece {
            Piece::None => {}
            Piece::Hole { left } => {
                *left = left.saturating_sub(length);
                if *left == 0 {
                    self.piece = Piece::None;
                }
                self.at += length;
            }
            Piece::Data { .. } => {
                // Damage that shows now is reported by the next call.
                if !self.take_held(length as usize) {
                    let error = self.because(Malformed::BodyChecksum.into());
                    self.fail(error);
                }
            }
        }
    }
}

impl SourceWays for Reader {
    fn feed(&mut self) -> Option<&mut dyn Feed> {
        // Whoever checks the data must see it.
        if self.digest.is_some() || self.features & CHECKSUM != 0 { None } else { Some(self) }
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
        let Some(hello) = self.hello else { return Err(Error::Internal) };
        Ok(Introduction {
            description: Description {
                length: known(hello.length),
                source_size: known(hello.source_size),
                source_offset: hello.source_offset,
                data_bytes: known(hello.data_bytes),
                transfer_id: hello.transfer_id,
                identity: hello.identity,
            },
            answers: self.features & ANSWERS != 0,
            checksum: self.features & CHECKSUM != 0,
            digest: self.features & DIGEST != 0,
            start: self.start(),
        })
    }
}

impl Feed for Reader {
    fn feedable(&mut self) -> Result<u64> {
        self.answer_if_ready();
        self.lasting(|reader| {
            reader.advance()?;
            Ok(match reader.piece {
                // Reading the rest of a frame that was fed would take what is behind it too.
                Piece::Data { left, .. }
                    if reader.inbox.bytes().is_empty()
                        && (reader.feeds || u64::from(left) >= Extent::LEAST) =>
                {
                    left.into()
                }
                Piece::Data { .. } | Piece::Hole { .. } | Piece::None => 0,
            })
        })
    }

    fn feed_pipe(&mut self, pipe: &mut Pipe, most: u64) -> Result<Attempt> {
        self.lasting(|reader| {
            let fed = reader.inbox.feed(pipe, most);
            let attempt = fed.map_err(|errno| reader.error(Operation::Read, errno))?;
            if let Attempt::Moved(count) = attempt {
                if count == 0 {
                    return Err(reader.ended_early());
                }
                reader.feeds = true;
                reader.hand_out(count as u32);
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
            // A frame that is here as a whole is looked at before any of it is handed out.
            let Piece::Data { left, checksum, expected: Some(expected) } = reader.piece else {
                return Ok(());
            };
            match reader.inbox.bytes().get(..left as usize) {
                Some(rest) if crc32c::crc32c_append(checksum, rest) != expected => {
                    Err(reader.because(Malformed::BodyChecksum.into()))
                }
                _ => Ok(()),
            }
        })?;
        let Piece::Data { left, .. } = self.piece else { return Ok(&[]) };
        let held = self.inbox.bytes();
        Ok(&held[..held.len().min(left as usize)])
    }
}

impl Peer for Reader {
    fn signs(&self) -> u64 {
        self.signs
    }

    fn flush(&mut self, _now: Instant) -> Result<()> {
        self.answer_if_ready();
        Ok(())
    }

    fn flush_by(&self) -> Option<Instant> {
        None
    }

    fn durable(&mut self, offset: u64) {
        self.durable = Some(offset);
        self.answer_if_ready();
    }
}

impl AnEnd for Reader {
    fn finish(&mut self) -> Result<()> {
        self.lasting(|reader| {
            match reader.state {
                State::Finished => return Ok(()),
                State::Finishing => {}
                State::Ended => {
                    let digest = reader.digest.map_or(0, Digest::value);
                    let status = Header::new(Kind::Status, reader.at, digest).encode();
                    reader.answer().map_err(|errno| reader.error(Operation::Finish, errno))?;
                    if let Some(outbox) = &mut reader.outbox {
                        outbox.push(&status);
                    }
                    reader.state = State::Finishing;
                }
                _ => {
                    let why = "the stream was finished before its end";
                    return Err(reader.because(Refused { why, errno: libc::EPROTO }));
                }
            }
            reader.answer().map_err(|errno| reader.error(Operation::Finish, errno))?;
            reader.state = State::Finished;
            Ok(())
        })
    }

    fn abort(&mut self, error: &Error) {
        if !matches!(self.state, State::Finished | State::Failed(_)) {
            self.fail(*error);
        }
    }

    fn waiting(&self) -> Waiting {
        match (&self.outbox, self.state) {
            (Some(outbox), State::Ended | State::Finishing) => outbox.waiting(),
            // ACCEPT has not gone out: nothing comes before it has.
            (Some(outbox), State::Offered) if outbox.waits() > 0 => outbox.waiting(),
            (Some(outbox), _) if outbox.waits() > 0 && self.at == self.start() => outbox.waiting(),
            _ => self.inbox.waiting(),
        }
    }

    fn peer(&mut self) -> Option<&mut dyn Peer> {
        Some(self)
    }
}

impl Reader {
    /// Hears HELLO, and what follows it before the stream.
    fn greeted(&mut self) -> Result<()> {
        self.lasting(|reader| {
            for _ in 0..FRAMES_AT_ONCE {
                if !matches!(reader.state, State::Greeting | State::Offered) {
                    return Ok(());
                }
                let result = reader.next().and_then(|header| {
                    reader.accept(&header)?;
                    reader.inbox.take(HEADER + header.length as usize);
                    Ok(())
                });
                reader.answer_if_ready();
                result?;
            }
            Err(reader.error(Operation::Read, libc::EINTR))
        })
    }

    fn start(&self) -> u64 {
        self.sequence.map_or(0, |sequence| sequence.start())
    }

    /// Hands out data that has come in. Returns whether it is undamaged, as far as that is known.
    fn take_held(&mut self, count: usize) -> bool {
        let Some(bytes) = self.inbox.bytes().get(..count) else { return false };
        let whole = see(&mut self.digest, &mut self.piece, bytes);
        self.inbox.take(count);
        self.hand_out(count as u32);
        whole
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if self.hello.is_some() {
            let (operation, side) = (Operation::None, Side::None);
            self.abort(&Error::nowhere(operation, side, libc::ECANCELED));
        }
    }
}

// The least that a receiver may take is what a sender counts on.
const _: () = assert!(frame::MIN_PAYLOAD as usize <= frame::MAX_BODY);
