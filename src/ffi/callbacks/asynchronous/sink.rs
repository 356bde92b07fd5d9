//! The caller's table of requests as a sink.

use super::super::tables::SPARSESTREAM_WITH_HOLES;
use super::common::Common;
use crate::end::{
    Addressable, Ask, End, Geometry, HoleWay, Made, Plan, Reply, Request, Sink, SinkInfo, SinkWays,
};
use crate::error::{Bound, Error, Operation, Result, Rule, Side};
use crate::ffi::async_ops::{
    SPARSESTREAM_ASYNC_GROWS, SPARSESTREAM_ASYNC_READS, sparsestream_async_ops,
    sparsestream_async_options,
};
use crate::ffi::guard::signed;
use crate::ffi::options::{SPARSESTREAM_KNOWN_ZERO, SPARSESTREAM_SYNC, SPARSESTREAM_TRUNCATE};
use crate::section::Kind;
use crate::sys::memory::Slab;
use crate::wait::Waiting;
use libc::c_void;
use std::collections::VecDeque;

static END: Rule = Rule::new("the end of the bytes", Bound::Most);
static KEPT: Rule = Rule::new("the end of the kept section", Bound::Most);

/// The phase of the end of a sink.
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
    /// Takes over `opaque`, even if it fails.
    ///
    /// # Safety
    /// As [`super::AsyncSource::new`].
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

    /// The offset of the first byte that may not be written, and the errno for it.
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

    /// Makes room for the reply to the FLUSH.
    fn reserve(&mut self) -> Result<()> {
        let none = |_| Error::nowhere(Operation::Allocate, Side::None, libc::ENOMEM);
        self.replies.try_reserve(1).map_err(none)
    }

    fn flush(&mut self) -> Result<()> {
        if self.last == Last::Flush {
            self.reserve()?;
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
            Some(Reply { result: Err(why), .. }) => {
                Err(why.at(Operation::Sync, Side::Sink, self.common.at))
            }
        }
    }
}

impl Sink for AsyncSink {
    fn open(&mut self, plan: &Plan) -> Result<SinkInfo> {
        let info = self.common.info()?;
        // Before a byte moves.
        self.reserve()?;
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
            return Err(END.broken(
                (Operation::Write, Side::Sink, limit),
                errno,
                signed(end),
                limit,
            ));
        }
        let total = self.common.info.map_or(0, |info| info.total as u64);
        if kind == Kind::Keep && end > total {
            let place = (Operation::Keep, Side::Sink, self.common.at);
            return Err(KEPT.broken(place, libc::ENODATA, signed(end), total));
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

    fn has_other_ways(&self) -> bool {
        false
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
        // A sink of an empty stream was not asked yet.
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
