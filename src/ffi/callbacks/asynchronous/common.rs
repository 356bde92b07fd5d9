//! The part of a table of requests that sources and sinks share.

use super::super::answers::Site;
use super::super::party::{Ending, Party};
use super::super::tables::{SPARSESTREAM_WITH_HOLES, SPARSESTREAM_WITH_KEEPS};
use super::requests::Requests;
use crate::end::{Ask, Geometry, Reply, Request};
use crate::error::{Allowed, Bound, Error, Operation, Result, Rule, Side};
use crate::ffi::async_ops::{
    SPARSESTREAM_ASYNC_FAST_ZERO, SPARSESTREAM_ASYNC_GROWS, SPARSESTREAM_ASYNC_READS,
    sparsestream_async_info, sparsestream_async_ops, sparsestream_async_options,
};
use crate::ffi::guard::{self, signed};
use crate::ffi::options::SPARSESTREAM_KNOWN_ZERO;
use crate::ffi::{opaque, sized};
use crate::sys::memory::Slab;
use libc::c_void;
use std::collections::VecDeque;

/// The part that sources and sinks share.
pub(super) struct Common {
    pub(super) ops: sparsestream_async_ops,
    pub(super) party: Party,
    side: Side,
    pub(super) flags: u64,
    /// The offsets, in the end, of the first byte of the stream and of its current position.
    pub(super) start: u64,
    pub(super) at: u64,
    pub(super) length: u64,
    pub(super) info: Option<sparsestream_async_info>,
    requests: Requests,
    /// Requests that failed before they were submitted.
    pub(super) refused: VecDeque<Reply>,
}

/// The most requests under way.
const DEPTH: u32 = 256;

impl Common {
    /// # Safety
    /// `ops` is null or a table of its size whose functions may be called with `opaque` for as long as this
    /// lives; `options` is null or a struct of its size.
    pub(super) unsafe fn new(
        ops: *const sparsestream_async_ops,
        opaque: *mut c_void,
        options: *const sparsestream_async_options,
        side: Side,
        flags: u64,
    ) -> Result<Self> {
        // SAFETY: as promised.
        let (ops, opaque) = unsafe { opaque::table(ops, opaque) }?;
        // SAFETY: as promised.
        let options = unsafe { sized::read(options, "options") }?;
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
    pub(super) fn info(&mut self) -> Result<sparsestream_async_info> {
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
        checked(&info, site)?;
        info.depth = info.depth.min(DEPTH);
        let (offset, total) = (self.start, info.total as u64);
        let begins_beyond = offset > total && info.flags & SPARSESTREAM_ASYNC_GROWS == 0;
        if begins_beyond || offset > total && self.side == Side::Source {
            return Err(Error::value("options.offset", offset, Allowed::Most(total)));
        }
        self.requests = Requests::new(info.depth as usize)?;
        self.refused
            .try_reserve_exact(info.depth as usize)
            .map_err(|_| Error::nowhere(Operation::Allocate, Side::None, libc::ENOMEM))?;
        self.info = Some(info);
        Ok(info)
    }

    pub(super) fn has(&self, flag: u64) -> bool {
        self.info.is_some_and(|info| info.flags & flag != 0)
    }

    pub(super) fn geometry(&mut self, size: u64) -> Result<Geometry> {
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
            begin: info.begin_depth as usize,
            grows: info.flags & SPARSESTREAM_ASYNC_GROWS != 0,
            fast_zero: info.flags & SPARSESTREAM_ASYNC_FAST_ZERO != 0
                && info.flags & SPARSESTREAM_WITH_HOLES != 0
                && self.flags & SPARSESTREAM_KNOWN_ZERO == 0,
            reads: info.flags & SPARSESTREAM_ASYNC_READS != 0,
        })
    }

    pub(super) fn memory(&mut self, slab: &Slab) {
        let (start, length) = slab.region();
        if let Some(memory) = self.ops.memory {
            let pointer = self.party.pointer();
            // SAFETY: the caller promised that its functions may be called with its opaque. The result is
            // ignored: an end that cannot register memory works without that.
            let _ = unsafe { memory(pointer, start.cast(), length) };
        }
    }

    pub(super) fn submit(&mut self, request: Request) {
        if let Some(request) = self.requests.add(request) {
            self.refused.push_back(Reply { request, result: Err(libc::EBUSY.into()) });
        }
    }

    pub(super) fn advance(&mut self, replies: &mut VecDeque<Reply>) -> Result<()> {
        let mut site = self.party.site(Operation::Wait);
        site.offset = self.at;
        let pointer = self.party.pointer();
        if let Some(submit) = self.ops.submit {
            self.requests.submit(|request| {
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
        if !self.refused.is_empty() {
            replies.append(&mut self.refused);
        }
        self.requests.take_back(replies);
        match advanced {
            Err(error) if error.would_block() || error.interrupted() => Ok(()),
            other => other,
        }
    }

    /// The end has failed with this error, and so have all its requests.
    pub(super) fn abort(&mut self, error: &Error) {
        self.party.abort(error);
    }

    /// Takes back all requests that were answered. The others are never freed.
    pub(super) fn advance_after_abort(&mut self, replies: &mut VecDeque<Reply>) {
        let before = self.requests.under_way();
        replies.append(&mut self.refused);
        let known = replies.len();
        self.requests.take_back(replies);
        let lost = before - (replies.len() - known);
        self.requests.end();
        // The reply must be counted, even without memory to return.
        for _ in 0..lost {
            let request =
                Request { token: 0, ask: Ask::Flush, offset: 0, length: 0, memory: None, start: 0 };
            replies.push_back(Reply { request, result: Err(libc::ECANCELED.into()) });
        }
    }

    pub(super) fn unsupported<T>(&self, operation: Operation) -> Result<T> {
        Err(Error::Because {
            operation,
            side: self.side,
            offset: self.at,
            errno: libc::EOPNOTSUPP,
            why: "only a transfer can use an end with requests in flight",
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

static FLAGS: Rule = Rule::new("info.flags", Bound::Flags);
static TOTAL: Rule = Rule::new("info.total", Bound::Only("0 or more"));
static BLOCK: Rule = Rule::new("info.block", Bound::Only("a power of two from 1 to 65536"));
static MEMORY: Rule =
    Rule::new("info.memory", Bound::Only("a power of two that is at most info.block"));
static REQUEST: Rule = Rule::new("info.request_size", Bound::ZeroOrLeast);
static ZERO: Rule = Rule::new("info.zero_size", Bound::ZeroOrLeast);
static DEPTH_RULE: Rule = Rule::new("info.depth", Bound::Only("1 or more"));

/// Refuses impossible properties.
fn checked(info: &sparsestream_async_info, site: Site) -> Result<()> {
    let known = SPARSESTREAM_WITH_HOLES
        | SPARSESTREAM_WITH_KEEPS
        | SPARSESTREAM_ASYNC_FAST_ZERO
        | SPARSESTREAM_ASYNC_GROWS
        | SPARSESTREAM_ASYNC_READS;
    let block = i64::from(info.block);
    let least = |value: i64| value == 0 || value >= block;
    let two = |value: u32, most: u32| value.is_power_of_two() && value <= most;
    for (sound, rule, given, bound) in [
        (info.flags & !known == 0, &FLAGS, signed(info.flags), known),
        (info.total >= 0, &TOTAL, info.total, 0),
        (two(info.block, 65536), &BLOCK, block, 0),
        (two(info.memory, info.block), &MEMORY, info.memory.into(), 0),
        (least(info.request_size), &REQUEST, info.request_size, info.block.into()),
        (least(info.zero_size), &ZERO, info.zero_size, info.block.into()),
        (info.depth > 0, &DEPTH_RULE, info.depth.into(), 0),
    ] {
        if !sound {
            return Err(site.broken(rule, given, bound));
        }
    }
    Ok(())
}
