//! The caller's callback tables as sources and sinks.

use super::guard::signed;
use super::options::{self, Sized0, sparsestream_stats, sparsestream_transfer_options};
use super::sections::sparsestream_section;
use super::sources::SPARSESTREAM_AT_HOLE;
use crate::end::{
    End, HoleWay, Look, Made, Next, Plan, Sink, SinkInfo, SinkWays, Source, SourceInfo, SourceWays,
};
use crate::error::{Error, Operation, Result, Side};
use crate::life::Life;
use crate::section::{Kind, Section};
use crate::sink;
use crate::sys::Sys;
use crate::transfer::{Observe, Stats};
use crate::wait::Waiting;
use libc::{c_int, c_void};
use std::mem::offset_of;

/// A source made of the caller's functions.
///
/// Each takes the `opaque` that the table was handed in with and returns 0 (`read`: a count), or a
/// negative errno. -EAGAIN means not ready: the same call is made again later. -EINTR means the
/// same at once. They run on the thread that drives the source; they must not throw, longjmp, or
/// use the handle they serve.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct sparsestream_source_ops {
    /// `sizeof(sparsestream_source_ops)`.
    pub size: u64,
    /// Called exactly once with the opaque, when the handle is freed or when its construction
    /// fails. May be NULL.
    pub free: Option<unsafe extern "C" fn(opaque: *mut c_void)>,
    /// Is the source in data or in a hole, and for how many bytes? At the end: false and 0.
    /// NULL, with `skip` NULL too: the source cannot tell, everything is data.
    pub in_data: Option<
        unsafe extern "C" fn(opaque: *mut c_void, in_data: *mut bool, length: *mut i64) -> c_int,
    >,
    /// Reads at most `length` bytes of data and moves on by them. Returns the count, which may be
    /// short; 0 at the end. Required.
    pub read: Option<
        unsafe extern "C" fn(opaque: *mut c_void, buffer: *mut c_void, length: usize) -> i64,
    >,
    /// Moves on by `length` bytes, all of them in one hole. Required with `in_data`.
    pub skip: Option<unsafe extern "C" fn(opaque: *mut c_void, length: i64) -> c_int>,
}

/// A sink made of the caller's functions; what is said of `sparsestream_source_ops` holds here too.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct sparsestream_sink_ops {
    /// `sizeof(sparsestream_sink_ops)`.
    pub size: u64,
    /// Called exactly once with the opaque, when the handle is freed or when its construction
    /// fails. May be NULL.
    pub free: Option<unsafe extern "C" fn(opaque: *mut c_void)>,
    /// Takes at most `length` bytes of data. Returns the count, which may be short; 0 is an error.
    /// Required.
    pub write: Option<
        unsafe extern "C" fn(opaque: *mut c_void, buffer: *const c_void, length: usize) -> i64,
    >,
    /// Takes a hole of `length` bytes, all of it: what lies there must read zero afterwards. NULL:
    /// holes are handed to `write` as zeros.
    pub hole: Option<unsafe extern "C" fn(opaque: *mut c_void, length: i64) -> c_int>,
}

/// The caller's stream: its own protocol, as seen by one end of a transfer.
///
/// As a sink `send`, `send_hole`, `finish` and `abort` are used, as a source `recv`, `recv_hole`,
/// `finish` and `abort`; the others may be NULL. Exactly one of `finish` and `abort` is called,
/// once, if the stream was used at all. What is said of `sparsestream_source_ops` holds here too.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct sparsestream_stream_ops {
    /// `sizeof(sparsestream_stream_ops)`.
    pub size: u64,
    /// Called exactly once with the stream, when the handle is freed or when its construction
    /// fails. May be NULL.
    pub free: Option<unsafe extern "C" fn(stream: *mut c_void)>,
    /// Sends at most `length` bytes of data. Returns the count, which may be short; 0 is an error.
    pub send: Option<
        unsafe extern "C" fn(stream: *mut c_void, buffer: *const c_void, length: usize) -> i64,
    >,
    /// Sends a hole of `length` bytes, all of it. NULL: holes are sent as zeros.
    pub send_hole: Option<unsafe extern "C" fn(stream: *mut c_void, length: i64) -> c_int>,
    /// Receives at most `length` bytes of data. Returns the count, which may be short; 0 at the end
    /// of the stream; `SPARSESTREAM_AT_HOLE` when a hole comes next. A stream that was cut off must
    /// return an error, not 0.
    pub recv: Option<
        unsafe extern "C" fn(stream: *mut c_void, buffer: *mut c_void, length: usize) -> i64,
    >,
    /// After `SPARSESTREAM_AT_HOLE`: takes the hole off the stream and gives its length, which must
    /// be more than 0. NULL: the stream has no holes.
    pub recv_hole: Option<unsafe extern "C" fn(stream: *mut c_void, length: *mut i64) -> c_int>,
    /// All was moved. For a sink: tell the peer, and return its answer, or -errno. For a source:
    /// the peer has said all, and it is safely stored; tell it so if the protocol has a word for
    /// it. Called again while it returns -EAGAIN; any other answer is final. May be NULL.
    pub finish: Option<unsafe extern "C" fn(stream: *mut c_void) -> c_int>,
    /// The transfer failed with `error`, a positive errno: tell the peer, as well as can be done
    /// without waiting. May be NULL.
    pub abort: Option<unsafe extern "C" fn(stream: *mut c_void, error: c_int)>,
}

// SAFETY: repr(C), u64 size first, nullable function pointers.
unsafe impl Sized0 for sparsestream_source_ops {
    const LEAST: usize = offset_of!(Self, in_data);
}
// SAFETY: repr(C), u64 size first, nullable function pointers.
unsafe impl Sized0 for sparsestream_sink_ops {
    const LEAST: usize = offset_of!(Self, write);
}
// SAFETY: repr(C), u64 size first, nullable function pointers.
unsafe impl Sized0 for sparsestream_stream_ops {
    const LEAST: usize = offset_of!(Self, send);
}

pub(super) type Free = unsafe extern "C" fn(*mut c_void);

/// The caller's opaque pointer. Its `free` is called when this is dropped, and so exactly once.
pub(super) struct Opaque {
    pointer: *mut c_void,
    free: Option<Free>,
}

// SAFETY: handles may be used by one thread after the other, as the header says, and the caller's functions
// and their opaque with them.
unsafe impl Send for Opaque {}

impl Opaque {
    pub(super) fn pointer(&self) -> *mut c_void {
        self.pointer
    }
}

/// The words that the callback which has just failed attached to this errno.
pub(super) fn words(_errno: i32) -> Option<crate::error::Text> {
    None
}

impl Drop for Opaque {
    fn drop(&mut self) {
        if let Some(free) = self.free {
            // SAFETY: the caller promised that its functions may be called with its opaque.
            unsafe { free(self.pointer) };
        }
    }
}

/// Reads a table and takes over its opaque, also when the table cannot be used; unless it is none,
/// by its size.
///
/// # Safety
/// `ops` is null or a table of its size whose functions may be called with `opaque`.
pub(super) unsafe fn take<T: Sized0>(
    ops: *const T,
    opaque: *mut c_void,
    free: impl FnOnce(&T) -> Option<Free>,
) -> Result<(T, Opaque)> {
    if ops.is_null() {
        return Err(Error::null("ops"));
    }
    // SAFETY: a table that begins with its size, by the caller's promise.
    unsafe { options::size_of_given(ops, "ops") }?;
    let mut head = T::default();
    // SAFETY: a table has at least LEAST bytes, which are the size and `free`.
    unsafe { std::ptr::copy_nonoverlapping(ops.cast::<u8>(), (&raw mut head).cast(), T::LEAST) };
    let opaque = Opaque { pointer: opaque, free: free(&head) };
    // SAFETY: as promised.
    let ops = unsafe { options::read(ops, "ops") }?;
    Ok((ops, opaque))
}

/// Where a callback is called, for its error.
#[derive(Clone, Copy)]
struct Site {
    operation: Operation,
    side: Side,
    offset: u64,
}

impl Site {
    /// A callback's answer: 0 to `most`, or a negative errno.
    fn count(self, answer: i64, most: u64) -> Result<u64> {
        match u64::try_from(answer) {
            Ok(count) if count <= most => Ok(count),
            Ok(_) => Err(self.nonsense(answer)),
            Err(_) => Err(self.error(answer)),
        }
    }

    /// A callback's answer: 0, or a negative errno.
    fn done(self, answer: c_int) -> Result<()> {
        self.count(i64::from(answer), 0).map(drop)
    }

    fn error(self, answer: i64) -> Error {
        let Site { operation, side, offset } = self;
        errno(answer).map_or_else(
            || self.nonsense(answer),
            |errno| Error::at(operation, side, offset, errno),
        )
    }

    fn nonsense(self, answer: i64) -> Error {
        let Site { operation, side, offset } = self;
        Error::Nonsense { operation, side, offset, answer }
    }

    /// A length that a callback gave: the offset behind it must be one.
    fn length(self, length: i64) -> Result<u64> {
        u64::try_from(length)
            .ok()
            .filter(|length| i64::try_from(self.offset.saturating_add(*length)).is_ok())
            .ok_or_else(|| self.nonsense(length))
    }
}

/// The errno that a negative answer stands for.
fn errno(answer: i64) -> Option<i32> {
    (-4095..0).contains(&answer).then(|| -answer as i32)
}

/// The caller's functions as a source.
pub struct CallbackSource {
    ops: sparsestream_source_ops,
    opaque: Opaque,
    offset: u64,
    section: Option<Section>,
    /// Bytes of a hole that were passed and that the caller's `skip` was not called for yet.
    owed: u64,
    life: Life,
}

impl CallbackSource {
    /// Takes over `opaque`, also when it fails.
    ///
    /// # Safety
    /// `ops` is null or a table of its size whose functions may be called with `opaque` for as
    /// long as this lives.
    pub unsafe fn new(ops: *const sparsestream_source_ops, opaque: *mut c_void) -> Result<Self> {
        // SAFETY: as promised.
        let (ops, opaque) = unsafe { take(ops, opaque, |ops: &sparsestream_source_ops| ops.free) }?;
        if ops.read.is_none() {
            return Err(Error::null("ops.read"));
        }
        if ops.in_data.is_some() != ops.skip.is_some() {
            let why = "and ops.skip must both be there, or neither";
            return Err(Error::argument("ops.in_data", why, libc::EINVAL));
        }
        Ok(CallbackSource { ops, opaque, offset: 0, section: None, owed: 0, life: Life::Open })
    }

    fn site(&self, operation: Operation) -> Site {
        Site { operation, side: Side::Source, offset: self.offset }
    }

    fn advance(&mut self, by: u64) {
        self.offset += by;
        self.section = self.section.and_then(|section| {
            let length = section.length.checked_sub(by).filter(|left| *left > 0)?;
            Some(Section::new(section.kind, section.offset + by, length))
        });
    }
}

impl CallbackSource {
    /// The section that it is in.
    fn section(&mut self) -> Result<Section> {
        self.life.check(Operation::Map, Side::Source, self.offset)?;
        self.skip_owed()?;
        if let Some(section) = self.section {
            return Ok(section);
        }
        let site = self.site(Operation::Map);
        let ask = self.ops.in_data.ok_or_else(|| Error::null("ops.in_data"))?;
        let (mut in_data, mut length) = (0u8, 0);
        // SAFETY: the caller promised that its functions may be called with its opaque. A C bool
        // is one byte; what a broken caller leaves in it need not be 0 or 1.
        let answer =
            unsafe { ask(self.opaque.pointer, (&raw mut in_data).cast(), &raw mut length) };
        site.done(answer)?;
        let length = site.length(length)?;
        let section = match (in_data != 0, length) {
            (true, 0) => return Err(site.nonsense(0)),
            (false, 0) => return Ok(Section::end(self.offset)),
            (true, _) => Section::new(Kind::Data, self.offset, length),
            (false, _) => Section::new(Kind::Hole, self.offset, length),
        };
        self.section = Some(section);
        Ok(section)
    }

    /// Has the caller's source move past what was passed of a hole. It is done before the next call, where it
    /// may fail without harm.
    fn skip_owed(&mut self) -> Result<()> {
        if self.owed == 0 {
            return Ok(());
        }
        let site = self.site(Operation::Skip);
        let site = Site { offset: site.offset - self.owed, ..site };
        let skip = self.ops.skip.ok_or_else(|| Error::null("ops.skip"))?;
        // SAFETY: the caller promised that its functions may be called with its opaque.
        site.done(unsafe { skip(self.opaque.pointer, signed(self.owed)) })?;
        self.owed = 0;
        Ok(())
    }
}

impl Source for CallbackSource {
    fn open(&mut self) -> Result<SourceInfo> {
        Ok(SourceInfo { tells_holes: self.ops.in_data.is_some(), ..SourceInfo::default() })
    }

    fn next(&mut self, buffer: &mut [u8]) -> Result<Next> {
        self.life.check(Operation::Read, Side::Source, self.offset)?;
        let mut most = buffer.len() as u64;
        if self.ops.in_data.is_some() {
            let section = self.section()?;
            match section.kind {
                Kind::End => return Ok(Next::End),
                Kind::Hole => return Ok(Next::Hole(section.length)),
                Kind::Keep => return Ok(Next::Keep(section.length)),
                Kind::Data => most = most.min(section.length),
            }
        }
        let site = self.site(Operation::Read);
        let read = self.ops.read.ok_or_else(|| Error::null("ops.read"))?;
        // SAFETY: as above; `most` bytes of the buffer are writable.
        let answer =
            unsafe { read(self.opaque.pointer, buffer.as_mut_ptr().cast(), most as usize) };
        let count = site.count(answer, most)?;
        match (count, self.section) {
            (0, None) => Ok(Next::End),
            (0, Some(section)) => {
                let expected = section.offset + section.length;
                Err(Error::EndedEarly { offset: self.offset, expected })
            }
            _ => {
                self.advance(count);
                Ok(Next::Data(count as usize))
            }
        }
    }

    fn look(&mut self) -> Result<Look> {
        if self.ops.in_data.is_none() {
            self.life.check(Operation::Map, Side::Source, self.offset)?;
            return Ok(Look { kind: Kind::Data, length: None });
        }
        let section = self.section()?;
        Ok(Look { kind: section.kind, length: Some(section.length) })
    }

    fn consume(&mut self, length: u64) {
        self.owed += length;
        self.advance(length);
    }
}

impl SourceWays for CallbackSource {}

impl End for CallbackSource {
    fn finish(&mut self) -> Result<()> {
        if self.life == Life::Open {
            self.skip_owed()?;
        }
        self.life = Life::Finished;
        Ok(())
    }

    fn abort(&mut self, _error: &Error) {
        self.life.abort();
    }

    fn waiting(&self) -> Waiting {
        Waiting::Owner
    }
}

/// The caller's functions as a sink.
pub struct CallbackSink {
    ops: sparsestream_sink_ops,
    opaque: Opaque,
    offset: u64,
    life: Life,
}

impl CallbackSink {
    /// Takes over `opaque`, also when it fails.
    ///
    /// # Safety
    /// As [`CallbackSource::new`].
    pub unsafe fn new(ops: *const sparsestream_sink_ops, opaque: *mut c_void) -> Result<Self> {
        // SAFETY: as promised.
        let (ops, opaque) = unsafe { take(ops, opaque, |ops: &sparsestream_sink_ops| ops.free) }?;
        if ops.write.is_none() {
            return Err(Error::null("ops.write"));
        }
        Ok(CallbackSink { ops, opaque, offset: 0, life: Life::Open })
    }

    fn site(&self, operation: Operation) -> Site {
        Site { operation, side: Side::Sink, offset: self.offset }
    }
}

impl Sink for CallbackSink {
    fn open(&mut self, _plan: &Plan) -> Result<SinkInfo> {
        Ok(SinkInfo { makes_holes: self.ops.hole.is_some(), ..SinkInfo::default() })
    }

    fn write(&mut self, buffer: &[u8]) -> Result<usize> {
        self.life.check(Operation::Write, Side::Sink, self.offset)?;
        let site = self.site(Operation::Write);
        let write = self.ops.write.ok_or_else(|| Error::null("ops.write"))?;
        // SAFETY: the caller promised that its functions may be called with its opaque; the
        // buffer is readable for its length.
        let answer = unsafe { write(self.opaque.pointer, buffer.as_ptr().cast(), buffer.len()) };
        let count = at_least_one(site, site.count(answer, buffer.len() as u64)?)?;
        self.offset += count;
        Ok(count as usize)
    }

    fn hole(&mut self, length: u64) -> Result<Made> {
        self.life.check(Operation::Hole, Side::Sink, self.offset)?;
        let site = self.site(Operation::Hole);
        let hole = self.ops.hole.ok_or_else(|| site.error(-i64::from(libc::EOPNOTSUPP)))?;
        // SAFETY: as above.
        site.done(unsafe { hole(self.opaque.pointer, signed(length)) })?;
        self.offset += length;
        Ok(Made { length, way: HoleWay::Passed })
    }

    fn keep(&mut self, _length: u64) -> Result<u64> {
        Err(self.site(Operation::Keep).error(-i64::from(libc::EOPNOTSUPP)))
    }
}

impl SinkWays for CallbackSink {}

impl End for CallbackSink {
    fn finish(&mut self) -> Result<()> {
        self.life = Life::Finished;
        Ok(())
    }

    fn abort(&mut self, _error: &Error) {
        self.life.abort();
    }

    fn waiting(&self) -> Waiting {
        Waiting::Owner
    }
}

fn at_least_one(site: Site, count: u64) -> Result<u64> {
    if count == 0 { Err(site.nonsense(0)) } else { Ok(count) }
}

/// The caller's stream, whichever end it is: it is ended once, by finish or by abort.
struct Stream {
    ops: sparsestream_stream_ops,
    opaque: Opaque,
    offset: u64,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Unused,
    Used,
    Finished,
    Failed,
}

impl Stream {
    /// # Safety
    /// As [`CallbackSource::new`].
    unsafe fn new(ops: *const sparsestream_stream_ops, stream: *mut c_void) -> Result<Self> {
        // SAFETY: as promised.
        let (ops, opaque) = unsafe { take(ops, stream, |ops: &sparsestream_stream_ops| ops.free) }?;
        Ok(Stream { ops, opaque, offset: 0, state: State::Unused })
    }

    /// Is called before each use.
    fn touch(&mut self, site: Site) -> Result<()> {
        match self.state {
            State::Unused | State::Used => {
                self.state = State::Used;
                Ok(())
            }
            State::Finished | State::Failed => Err(site.error(-i64::from(libc::ESHUTDOWN))),
        }
    }

    fn finish(&mut self, site: Site) -> Result<()> {
        if self.state == State::Finished {
            return Ok(());
        }
        self.touch(site)?;
        let answer = self.ops.finish.map_or(0, |finish| {
            // SAFETY: the caller promised that its functions may be called with its stream.
            unsafe { finish(self.opaque.pointer) }
        });
        let result = site.done(answer);
        self.state = match &result {
            Ok(()) => State::Finished,
            Err(error) if error.would_block() || error.interrupted() => State::Used,
            Err(_) => State::Failed,
        };
        result
    }

    fn abort(&mut self, errno: i32) {
        if matches!(self.state, State::Finished | State::Failed) {
            return;
        }
        self.state = State::Failed;
        if let Some(abort) = self.ops.abort {
            // SAFETY: the caller promised that its functions may be called with its stream.
            unsafe { abort(self.opaque.pointer, errno) };
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.state == State::Used {
            self.abort(libc::ECANCELED);
        }
    }
}

/// The caller's stream as a source.
pub struct StreamSource {
    stream: Stream,
    coming: Coming,
}

/// What is known of what comes next on a stream.
#[derive(Clone, Copy)]
enum Coming {
    Unknown,
    /// A hole, whose length was not received yet.
    Hole,
    HoleOf(u64),
    End,
}

impl StreamSource {
    /// Takes over `stream`, also when it fails.
    ///
    /// # Safety
    /// As [`CallbackSource::new`].
    pub unsafe fn new(ops: *const sparsestream_stream_ops, stream: *mut c_void) -> Result<Self> {
        // SAFETY: as promised.
        let stream = unsafe { Stream::new(ops, stream) }?;
        if stream.ops.recv.is_none() {
            return Err(Error::null("ops.recv"));
        }
        Ok(StreamSource { stream, coming: Coming::Unknown })
    }

    fn site(&self, operation: Operation) -> Site {
        Site { operation, side: Side::Source, offset: self.stream.offset }
    }
}

impl StreamSource {
    /// Receives the length of the hole that comes next.
    fn recv_hole(&mut self) -> Result<Next> {
        let site = self.site(Operation::Skip);
        let recv_hole =
            self.stream.ops.recv_hole.ok_or_else(|| site.nonsense(SPARSESTREAM_AT_HOLE))?;
        self.stream.touch(site)?;
        let mut length = 0;
        // SAFETY: the caller promised that its functions may be called with its stream.
        site.done(unsafe { recv_hole(self.stream.opaque.pointer, &raw mut length) })?;
        let length = at_least_one(site, site.length(length)?)?;
        self.coming = Coming::HoleOf(length);
        Ok(Next::Hole(length))
    }
}

impl Source for StreamSource {
    fn open(&mut self) -> Result<SourceInfo> {
        Ok(SourceInfo { tells_holes: self.stream.ops.recv_hole.is_some(), ..SourceInfo::default() })
    }

    fn next(&mut self, buffer: &mut [u8]) -> Result<Next> {
        match self.coming {
            Coming::Hole => return self.recv_hole(),
            Coming::HoleOf(length) => return Ok(Next::Hole(length)),
            Coming::End => return Ok(Next::End),
            Coming::Unknown => {}
        }
        let site = self.site(Operation::Read);
        let recv = self.stream.ops.recv.ok_or_else(|| Error::null("ops.recv"))?;
        self.stream.touch(site)?;
        // SAFETY: as above; the buffer is writable for its length.
        let answer =
            unsafe { recv(self.stream.opaque.pointer, buffer.as_mut_ptr().cast(), buffer.len()) };
        if answer == SPARSESTREAM_AT_HOLE {
            self.coming = Coming::Hole;
            return self.recv_hole();
        }
        let count = site.count(answer, buffer.len() as u64)?;
        if count == 0 {
            self.coming = Coming::End;
            return Ok(Next::End);
        }
        self.stream.offset += count;
        Ok(Next::Data(count as usize))
    }

    fn look(&mut self) -> Result<Look> {
        if let Coming::Hole = self.coming {
            self.recv_hole()?;
        }
        Ok(match self.coming {
            Coming::HoleOf(length) => Look { kind: Kind::Hole, length: Some(length) },
            Coming::End => Look { kind: Kind::End, length: Some(0) },
            Coming::Unknown | Coming::Hole => Look { kind: Kind::Data, length: None },
        })
    }

    fn consume(&mut self, length: u64) {
        if let Coming::HoleOf(left) = self.coming {
            self.stream.offset += length;
            self.coming = match left.checked_sub(length) {
                Some(left) if left > 0 => Coming::HoleOf(left),
                _ => Coming::Unknown,
            };
        }
    }
}

impl SourceWays for StreamSource {}

impl End for StreamSource {
    fn finish(&mut self) -> Result<()> {
        let site = self.site(Operation::Finish);
        self.stream.finish(site)
    }

    fn abort(&mut self, error: &Error) {
        self.stream.abort(error.errno());
    }

    fn waiting(&self) -> Waiting {
        Waiting::Owner
    }
}

/// The caller's stream as a sink.
pub struct StreamSink {
    stream: Stream,
}

impl StreamSink {
    /// Takes over `stream`, also when it fails.
    ///
    /// # Safety
    /// As [`CallbackSource::new`].
    pub unsafe fn new(ops: *const sparsestream_stream_ops, stream: *mut c_void) -> Result<Self> {
        // SAFETY: as promised.
        let stream = unsafe { Stream::new(ops, stream) }?;
        if stream.ops.send.is_none() {
            return Err(Error::null("ops.send"));
        }
        Ok(StreamSink { stream })
    }

    fn site(&self, operation: Operation) -> Site {
        Site { operation, side: Side::Sink, offset: self.stream.offset }
    }
}

impl Sink for StreamSink {
    fn open(&mut self, _plan: &Plan) -> Result<SinkInfo> {
        Ok(SinkInfo { makes_holes: self.stream.ops.send_hole.is_some(), ..SinkInfo::default() })
    }

    fn write(&mut self, buffer: &[u8]) -> Result<usize> {
        let site = self.site(Operation::Write);
        let send = self.stream.ops.send.ok_or_else(|| Error::null("ops.send"))?;
        self.stream.touch(site)?;
        // SAFETY: the caller promised that its functions may be called with its stream; the
        // buffer is readable for its length.
        let answer =
            unsafe { send(self.stream.opaque.pointer, buffer.as_ptr().cast(), buffer.len()) };
        let count = at_least_one(site, site.count(answer, buffer.len() as u64)?)?;
        self.stream.offset += count;
        Ok(count as usize)
    }

    fn hole(&mut self, length: u64) -> Result<Made> {
        let site = self.site(Operation::Hole);
        let send_hole =
            self.stream.ops.send_hole.ok_or_else(|| site.error(-i64::from(libc::EOPNOTSUPP)))?;
        self.stream.touch(site)?;
        // SAFETY: as above.
        site.done(unsafe { send_hole(self.stream.opaque.pointer, signed(length)) })?;
        self.stream.offset += length;
        Ok(Made { length, way: HoleWay::Passed })
    }

    fn keep(&mut self, _length: u64) -> Result<u64> {
        Err(self.site(Operation::Keep).error(-i64::from(libc::EOPNOTSUPP)))
    }
}

impl SinkWays for StreamSink {}

impl End for StreamSink {
    fn finish(&mut self) -> Result<()> {
        let site = self.site(Operation::Finish);
        self.stream.finish(site)
    }

    fn abort(&mut self, error: &Error) {
        self.stream.abort(error.errno());
    }

    fn waiting(&self) -> Waiting {
        Waiting::Owner
    }
}

/// A callback that only may stop things: 0 or more goes on.
fn go_on(answer: c_int) -> Sys<()> {
    if answer >= 0 { Ok(()) } else { Err(errno(i64::from(answer)).unwrap_or(libc::EPROTO)) }
}

/// The caller's progress and section callbacks.
pub struct Observer {
    options: sparsestream_transfer_options,
}

impl Observer {
    /// Those of these options.
    pub fn new(options: &sparsestream_transfer_options) -> Self {
        Observer { options: *options }
    }
}

impl Observe for Observer {
    fn progress(&mut self, stats: &Stats) -> Sys<()> {
        self.options.progress.map_or(Ok(()), |progress| {
            let stats = sparsestream_stats::from(*stats);
            // SAFETY: the caller promised that its callback may be called with its opaque.
            go_on(unsafe { progress(self.options.opaque, &raw const stats) })
        })
    }

    fn section(&mut self, section: Section) -> Sys<()> {
        self.options.section.map_or(Ok(()), |callback| {
            let section = sparsestream_section::from(section);
            // SAFETY: as above.
            go_on(unsafe { callback(self.options.opaque, &raw const section) })
        })
    }
}

/// The caller's checkpoint callback.
#[derive(Debug)]
pub struct Checkpoint {
    reached: Option<unsafe extern "C" fn(*mut c_void, i64) -> c_int>,
    opaque: *mut c_void,
}

// SAFETY: as for `Opaque`.
unsafe impl Send for Checkpoint {}

impl Checkpoint {
    /// This callback, if there is one.
    pub fn new(
        reached: Option<unsafe extern "C" fn(*mut c_void, i64) -> c_int>,
        opaque: *mut c_void,
    ) -> Self {
        Checkpoint { reached, opaque }
    }
}

impl sink::Checkpoint for Checkpoint {
    fn reached(&mut self, durable: u64) -> Sys<()> {
        self.reached.map_or(Ok(()), |reached| {
            // SAFETY: the caller promised that its callback may be called with its opaque.
            go_on(unsafe { reached(self.opaque, signed(durable)) })
        })
    }
}
