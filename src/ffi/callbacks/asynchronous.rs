//! The caller's table of requests as a source and as a sink.

use super::party::{Ending, Party};
use super::requests::Requests;
use super::tables::{SPARSESTREAM_WITH_HOLES, SPARSESTREAM_WITH_KEEPS};
use crate::end::{
    Addressable, Ask, End, Geometry, HoleWay, Look, Made, Next, Plan, Reply, Request, Sink,
    SinkInfo, SinkWays, Source, SourceInfo, SourceWays,
};
use crate::error::{Error, Operation, Result, Side};
use crate::ffi::async_ops::{
    SPARSESTREAM_ASYNC_GROWS, SPARSESTREAM_ASYNC_READS, sparsestream_async_info,
    sparsestream_async_ops, sparsestream_async_options,
};
use crate::ffi::guard::{self, signed};
use crate::ffi::opaque;
use crate::ffi::options::{
    self, SPARSESTREAM_AT_MOST, SPARSESTREAM_IGNORE_MAP, SPARSESTREAM_KNOWN_ZERO,
    SPARSESTREAM_SYNC, SPARSESTREAM_TRUNCATE,
};
use crate::ffi::sections::{self, sparsestream_section};
use crate::section::Kind;
use crate::sys::memory::Slab;
use crate::wait::Waiting;
use libc::c_void;
use std::collections::VecDeque;

/// The part that is the same at both ends.
struct Common {
    ops: sparsestream_async_ops,
    party: Party,
    side: Side,
    flags: u64,
    /// The first byte of the stream in the end, and how far the stream has come there.
    start: u64,
    at: u64,
    length: u64,
    info: Option<sparsestream_async_info>,
    requests: Requests,
    /// Requests that failed before they were handed out.
    refused: VecDeque<Reply>,
}

/// The most requests under way.
const DEPTH: u32 = 256;

impl Common {
    /// # Safety
    /// `ops` is null or a table of its size whose functions may be called with `opaque` for as long as this
    /// lives; `options` is null or a struct of its size.
    unsafe fn new(
        ops: *const sparsestream_async_ops,
        opaque: *mut c_void,
        options: *const sparsestream_async_options,
        side: Side,
        flags: u64,
    ) -> Result<Self> {
        // SAFETY: as promised.
        let (ops, opaque) = unsafe { opaque::table(ops, opaque) }?;
        // SAFETY: as promised.
        let options = unsafe { options::read(options, "options") }?;
        guard::flags(options.flags, flags, "options.flags")?;
        guard::callback(ops.describe, "ops.describe")?;
        guard::callback(ops.submit, "ops.submit")?;
        let start = guard::unsigned(options.offset, "options.offset")?;
        let ending = Ending { finish: ops.finish, abort: ops.abort, wait: ops.wait };
        Ok(Common {
            ops,
            party: Party::new(opaque, side, ending),
            side,
            flags: options.flags,
            start,
            at: start,
            length: guard::unsigned(options.length, "options.length")?,
            info: None,
            requests: Requests::new(0)?,
            refused: VecDeque::new(),
        })
    }

    /// The properties of the end, asked once.
    fn info(&mut self) -> Result<sparsestream_async_info> {
        let site = self.party.touch(Operation::Open)?;
        if let Some(info) = self.info {
            return Ok(info);
        }
        let mut info = sparsestream_async_info {
            size: size_of::<sparsestream_async_info>() as u64,
            total: -1,
            block: 1,
            memory: 1,
            depth: 16,
            ..sparsestream_async_info::default()
        };
        let describe = self.ops.describe.ok_or_else(|| Error::null("ops.describe"))?;
        let pointer = self.party.pointer();
        // SAFETY: the caller promised that its functions may be called with its opaque.
        site.done(|| unsafe { describe(pointer, &raw mut info) })?;
        let known = SPARSESTREAM_WITH_HOLES
            | SPARSESTREAM_WITH_KEEPS
            | SPARSESTREAM_ASYNC_GROWS
            | SPARSESTREAM_ASYNC_READS;
        let least = |value: i64| value == 0 || value >= i64::from(info.block);
        if info.flags & !known != 0 {
            return Err(site.nonsense(signed(info.flags)));
        }
        if info.total < 0 {
            return Err(site.nonsense(info.total));
        }
        if !info.block.is_power_of_two() || info.block > 65536 {
            return Err(site.nonsense(info.block.into()));
        }
        if !info.memory.is_power_of_two() || info.memory > info.block {
            return Err(site.nonsense(info.memory.into()));
        }
        if !least(info.request_size) || !least(info.zero_size) {
            return Err(site.nonsense(info.request_size.min(info.zero_size)));
        }
        if info.depth == 0 {
            return Err(site.nonsense(0));
        }
        info.depth = info.depth.min(DEPTH);
        let (offset, total) = (self.start, info.total as u64);
        let begins_beyond = offset > total && info.flags & SPARSESTREAM_ASYNC_GROWS == 0;
        if begins_beyond || offset > total && self.side == Side::Source {
            let why = "starts beyond the end";
            return Err(Error::argument("options.offset", why, libc::EINVAL));
        }
        self.requests = Requests::new(info.depth as usize)?;
        self.refused
            .try_reserve_exact(info.depth as usize)
            .map_err(|_| Error::nowhere(Operation::Allocate, Side::None, libc::ENOMEM))?;
        self.info = Some(info);
        Ok(info)
    }

    fn has(&self, flag: u64) -> bool {
        self.info.is_some_and(|info| info.flags & flag != 0)
    }

    fn geometry(&mut self, size: u64) -> Result<Geometry> {
        let info = self.info()?;
        let limit = |value: i64| if value == 0 { i64::MAX as u64 } else { value as u64 };
        Ok(Geometry {
            at: self.at,
            size,
            block: info.block.into(),
            memory: info.memory.into(),
            request: limit(info.request_size),
            zero: limit(info.zero_size),
            depth: info.depth as usize,
            grows: info.flags & SPARSESTREAM_ASYNC_GROWS != 0,
            reads: info.flags & SPARSESTREAM_ASYNC_READS != 0,
        })
    }

    fn memory(&mut self, slab: &Slab) {
        let (start, length) = slab.region();
        if let Some(memory) = self.ops.memory {
            let pointer = self.party.pointer();
            // SAFETY: the caller promised that its functions may be called with its opaque.
            // Whoever cannot register memory can do without.
            let _ = unsafe { memory(pointer, start.cast(), length) };
        }
    }

    fn submit(&mut self, request: Request) {
        if let Some(request) = self.requests.add(request) {
            self.refused.push_back(Reply { request, result: Err(libc::EBUSY) });
        }
    }

    fn advance(&mut self, replies: &mut VecDeque<Reply>) -> Result<()> {
        let site = self.party.site(Operation::Wait);
        let pointer = self.party.pointer();
        if let Some(submit) = self.ops.submit {
            self.requests.hand_out(|request| {
                // SAFETY: the caller promised that its functions may be called with its opaque; the request
                // stays where it is until it is answered.
                unsafe { submit(pointer, request) }
            });
        }
        let advanced = match self.ops.advance {
            // SAFETY: the caller promised that its functions may be called with its opaque.
            Some(advance) => site.done(|| unsafe { advance(pointer) }),
            None => Ok(()),
        };
        replies.append(&mut self.refused);
        self.requests.take_back(replies);
        match advanced {
            Err(error) if error.would_block() || error.interrupted() => Ok(()),
            other => other,
        }
    }

    /// The end is over with this error, and everything that was asked of it too.
    fn abort(&mut self, error: &Error) {
        self.party.abort(error);
    }

    /// Every request that was answered comes back; the others never do.
    fn advance_after_abort(&mut self, replies: &mut VecDeque<Reply>) {
        let before = self.requests.under_way();
        replies.append(&mut self.refused);
        let known = replies.len();
        self.requests.take_back(replies);
        let lost = before - (replies.len() - known);
        self.requests.end();
        // The count must come out right, though there is no memory to hand back.
        for _ in 0..lost {
            let request =
                Request { token: 0, ask: Ask::Flush, offset: 0, length: 0, memory: None, start: 0 };
            replies.push_back(Reply { request, result: Err(libc::ECANCELED) });
        }
    }

    fn unsupported<T>(&self, operation: Operation) -> Result<T> {
        Err(Error::Because {
            operation,
            side: self.side,
            offset: self.at,
            errno: libc::EOPNOTSUPP,
            why: "an end of requests is used by a transfer only",
        })
    }
}

impl Drop for Common {
    fn drop(&mut self) {
        if self.requests.under_way() > 0 {
            self.party.abort(&Error::nowhere(Operation::None, Side::None, libc::ECANCELED));
        }
        self.requests.end();
    }
}

/// The caller's table as a source.
pub struct AsyncSource {
    common: Common,
    /// Where it ends.
    end: u64,
    section: Option<(Kind, u64)>,
    cancelled: bool,
}

impl AsyncSource {
    /// Takes over `opaque`, also when it fails.
    ///
    /// # Safety
    /// `ops` is null or a table of its size whose functions may be called with `opaque` for as long as this
    /// lives; `options` is null or a struct of its size.
    pub unsafe fn new(
        ops: *const sparsestream_async_ops,
        opaque: *mut c_void,
        options: *const sparsestream_async_options,
    ) -> Result<Self> {
        let flags = SPARSESTREAM_IGNORE_MAP | SPARSESTREAM_AT_MOST;
        // SAFETY: as promised.
        let common = unsafe { Common::new(ops, opaque, options, Side::Source, flags) }?;
        Ok(AsyncSource { common, end: 0, section: None, cancelled: false })
    }

    fn current(&mut self) -> Result<(Kind, u64)> {
        let common = &mut self.common;
        let mut site = common.party.touch(Operation::Map)?;
        site.offset = common.at;
        if let Some(section) = self.section {
            return Ok(section);
        }
        let left = self.end - common.at;
        if left == 0 {
            return Ok((Kind::End, 0));
        }
        let map = common.ops.section.filter(|_| common.flags & SPARSESTREAM_IGNORE_MAP == 0);
        let Some(ask) = map else { return Ok((Kind::Data, left)) };
        let mut section = sparsestream_section {
            size: size_of::<sparsestream_section>() as u64,
            offset: signed(common.at),
            ..sparsestream_section::default()
        };
        let pointer = common.party.pointer();
        // SAFETY: the caller promised that its functions may be called with its opaque.
        site.done(|| unsafe { ask(pointer, &raw mut section) })?;
        let kind = sections::kind(section.kind).ok_or(site.nonsense(section.kind.into()))?;
        if kind == Kind::End {
            return Err(Error::EndedEarly { offset: common.at, expected: self.end });
        }
        let length = site.length(section.length)?.min(left);
        self.section = Some((kind, length));
        Ok((kind, length))
    }
}

impl Source for AsyncSource {
    fn open(&mut self) -> Result<SourceInfo> {
        let info = self.common.info()?;
        let Common { start, length, flags, .. } = self.common;
        let (total, mapped) = (info.total as u64, flags & SPARSESTREAM_IGNORE_MAP == 0);
        self.end = match length {
            0 => total,
            length => start.saturating_add(length),
        };
        if self.end > total {
            if flags & SPARSESTREAM_AT_MOST == 0 {
                return Err(Error::EndedEarly { offset: total, expected: self.end });
            }
            self.end = total;
        }
        let has_map = self.common.ops.section.is_some();
        if info.flags & (SPARSESTREAM_WITH_HOLES | SPARSESTREAM_WITH_KEEPS) != 0 && !has_map {
            return Err(Error::null("ops.section"));
        }
        Ok(SourceInfo {
            total: Some(self.end - start),
            tells_holes: mapped && info.flags & SPARSESTREAM_WITH_HOLES != 0,
            keeps: mapped && info.flags & SPARSESTREAM_WITH_KEEPS != 0,
            start: 0,
        })
    }

    fn next(&mut self, _buffer: &mut [u8]) -> Result<Next> {
        self.common.unsupported(Operation::Read)
    }

    fn look(&mut self) -> Result<Look> {
        if self.common.info.is_none() {
            self.open()?;
        }
        let (kind, length) = self.current()?;
        Ok(Look { kind, length: Some(length) })
    }

    fn consume(&mut self, length: u64) {
        self.common.at += length;
        self.section = self.section.and_then(|(kind, left)| {
            left.checked_sub(length).filter(|left| *left > 0).map(|left| (kind, left))
        });
    }
}

impl SourceWays for AsyncSource {
    fn addressed(&mut self) -> Option<&mut dyn Addressable> {
        Some(self)
    }
}

impl Addressable for AsyncSource {
    fn describe(&mut self) -> Result<Geometry> {
        let size = self.common.info()?.total as u64;
        self.common.geometry(size)
    }

    fn memory(&mut self, slab: &Slab) {
        self.common.memory(slab);
    }

    fn submit(&mut self, request: Request) {
        self.common.submit(request);
    }

    fn advance(&mut self, replies: &mut VecDeque<Reply>) -> Result<()> {
        if self.cancelled {
            self.common.advance_after_abort(replies);
            return Ok(());
        }
        self.common.advance(replies)
    }

    fn cancel(&mut self, error: &Error) {
        self.cancelled = true;
        self.common.abort(error);
    }
}

impl End for AsyncSource {
    fn finish(&mut self) -> Result<()> {
        self.common.party.finish()
    }

    fn abort(&mut self, error: &Error) {
        self.common.abort(error);
    }

    fn waiting(&self) -> Waiting {
        self.common.party.waiting()
    }
}

/// How far the end of a sink has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Last {
    SetSize,
    Flush,
    Flushing,
    Finish,
}

/// The caller's table as a sink.
pub struct AsyncSink {
    common: Common,
    last: Last,
    replies: VecDeque<Reply>,
    zero_way: HoleWay,
    cancelled: bool,
}

impl AsyncSink {
    /// Takes over `opaque`, also when it fails.
    ///
    /// # Safety
    /// As [`AsyncSource::new`].
    pub unsafe fn new(
        ops: *const sparsestream_async_ops,
        opaque: *mut c_void,
        options: *const sparsestream_async_options,
    ) -> Result<Self> {
        let flags = SPARSESTREAM_SYNC | SPARSESTREAM_TRUNCATE | SPARSESTREAM_KNOWN_ZERO;
        // SAFETY: as promised.
        let common = unsafe { Common::new(ops, opaque, options, Side::Sink, flags) }?;
        Ok(AsyncSink {
            common,
            last: Last::SetSize,
            replies: VecDeque::new(),
            zero_way: HoleWay::Passed,
            cancelled: false,
        })
    }

    /// The first byte that may not be written, and the errno that says so.
    fn limit(&self) -> (u64, i32) {
        let total = self.common.info.map_or(0, |info| info.total as u64);
        let fixed = !self.common.has(SPARSESTREAM_ASYNC_GROWS);
        let limit = if fixed { (total, libc::ENOSPC) } else { (i64::MAX as u64, libc::EFBIG) };
        let length = self.common.length;
        let end = self.common.start.saturating_add(length);
        if length != 0 && end < limit.0 { (end, libc::EFBIG) } else { limit }
    }

    fn set_size(&mut self) -> Result<()> {
        let Some(set_size) = self.common.ops.set_size else { return Ok(()) };
        if !self.common.has(SPARSESTREAM_ASYNC_GROWS) {
            return Ok(());
        }
        let old = self.common.info.map_or(0, |info| info.total as u64);
        let cut = self.common.flags & SPARSESTREAM_TRUNCATE != 0;
        let size = if cut { self.common.at } else { self.common.at.max(old) };
        let mut site = self.common.party.touch(Operation::Truncate)?;
        site.offset = size;
        let pointer = self.common.party.pointer();
        // SAFETY: the caller promised that its functions may be called with its opaque.
        site.done(|| unsafe { set_size(pointer, signed(size)) })
    }

    fn flush(&mut self) -> Result<()> {
        if self.last == Last::Flush {
            let request =
                Request { token: 0, ask: Ask::Flush, offset: 0, length: 0, memory: None, start: 0 };
            self.common.submit(request);
            self.last = Last::Flushing;
        }
        let mut replies = std::mem::take(&mut self.replies);
        let advanced = self.common.advance(&mut replies);
        self.replies = replies;
        advanced?;
        let mut site = self.common.party.touch(Operation::Sync)?;
        site.offset = self.common.at;
        match self.replies.pop_front() {
            None => Err(site.error(libc::EAGAIN)),
            Some(Reply { result: Ok(_), .. }) => Ok(()),
            Some(Reply { result: Err(errno), .. }) => Err(Error::Because {
                operation: Operation::Sync,
                side: Side::Sink,
                offset: self.common.at,
                errno,
                why: "the flush failed",
            }),
        }
    }
}

impl Sink for AsyncSink {
    fn open(&mut self, plan: &Plan) -> Result<SinkInfo> {
        let info = self.common.info()?;
        let (limit, errno) = self.limit();
        let Common { at, .. } = self.common;
        let room = limit.saturating_sub(at);
        let has = |flag| info.flags & flag != 0;
        match plan.total {
            Some(total) if total > room => {
                return Err(Error::TooLong { offset: at, total, room, errno });
            }
            _ => {}
        }
        let block = u64::from(info.block);
        let cut = |offset: u64| offset % block != 0 && offset - offset % block < info.total as u64;
        let end = plan.total.map(|total| at + total).filter(|end| *end < info.total as u64);
        if !has(SPARSESTREAM_ASYNC_READS) {
            let mut edges = [Some(at), end].into_iter().flatten();
            if let Some(offset) = edges.find(|offset| cut(*offset)) {
                let why = "the rest of the block must be kept, and the sink cannot be read";
                let (operation, side) = (Operation::Open, Side::Sink);
                return Err(Error::Unaligned { operation, side, offset, block, why });
            }
        }
        let keeps = block == 1 || has(SPARSESTREAM_ASYNC_READS);
        let makes_holes = plan.holes
            && (has(SPARSESTREAM_WITH_HOLES)
                || has(SPARSESTREAM_ASYNC_GROWS) && at >= info.total as u64);
        Ok(SinkInfo { makes_holes, keeps, held: 0, durable: false })
    }

    fn write(&mut self, _buffer: &[u8]) -> Result<usize> {
        self.common.unsupported(Operation::Write)
    }

    fn hole(&mut self, _length: u64) -> Result<Made> {
        self.common.unsupported(Operation::Hole)
    }

    fn keep(&mut self, _length: u64) -> Result<u64> {
        self.common.unsupported(Operation::Keep)
    }
}

impl SinkWays for AsyncSink {
    fn addressed(&mut self) -> Option<&mut dyn Addressable> {
        Some(self)
    }
}

impl Addressable for AsyncSink {
    fn describe(&mut self) -> Result<Geometry> {
        let size = self.common.info()?.total as u64;
        self.common.geometry(size)
    }

    fn memory(&mut self, slab: &Slab) {
        self.common.memory(slab);
    }

    fn reach(&mut self, kind: Kind, end: u64) -> Result<()> {
        let (limit, errno) = self.limit();
        if end > limit {
            return Err(Error::at(Operation::Write, Side::Sink, limit, errno));
        }
        let total = self.common.info.map_or(0, |info| info.total as u64);
        if kind == Kind::Keep && end > total {
            return Err(Error::Because {
                operation: Operation::Keep,
                side: Side::Sink,
                offset: self.common.at,
                errno: libc::ENODATA,
                why: "the section to keep ends beyond the end",
            });
        }
        Ok(())
    }

    fn submit(&mut self, request: Request) {
        if request.ask == Ask::Zero && self.common.flags & SPARSESTREAM_KNOWN_ZERO != 0 {
            self.zero_way = HoleWay::KnownZero;
            let result = Ok(request.length);
            self.common.refused.push_back(Reply { request, result });
            return;
        }
        self.common.submit(request);
    }

    fn advance(&mut self, replies: &mut VecDeque<Reply>) -> Result<()> {
        if self.cancelled {
            self.common.advance_after_abort(replies);
            return Ok(());
        }
        self.common.advance(replies)
    }

    fn passed(&mut self, length: u64, _written: bool) -> Result<()> {
        self.common.at += length;
        Ok(())
    }

    fn zero_way(&self) -> HoleWay {
        self.zero_way
    }

    fn cancel(&mut self, error: &Error) {
        self.cancelled = true;
        self.common.abort(error);
    }
}

impl End for AsyncSink {
    fn finish(&mut self) -> Result<()> {
        if self.common.party.is_finished() {
            return Ok(());
        }
        // A sink that a stream of no bytes went to was never asked.
        self.common.info()?;
        if self.last == Last::SetSize {
            self.set_size()?;
            let sync = self.common.flags & SPARSESTREAM_SYNC != 0;
            self.last = if sync { Last::Flush } else { Last::Finish };
        }
        if self.last < Last::Finish {
            self.flush()?;
            self.last = Last::Finish;
        }
        self.common.party.finish()
    }

    fn abort(&mut self, error: &Error) {
        self.common.abort(error);
    }

    fn waiting(&self) -> Waiting {
        self.common.party.waiting()
    }
}
