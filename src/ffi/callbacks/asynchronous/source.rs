//! The caller's table of requests as a source.

use super::super::tables::{SPARSESTREAM_WITH_HOLES, SPARSESTREAM_WITH_KEEPS};
use super::common::Common;
use crate::end::{
    Addressable, End, Geometry, Look, Next, Reply, Request, Source, SourceInfo, SourceWays,
};
use crate::error::{Error, Operation, Result, Side};
use crate::ffi::async_ops::{sparsestream_async_ops, sparsestream_async_options};
use crate::ffi::guard::signed;
use crate::ffi::options::{SPARSESTREAM_AT_MOST, SPARSESTREAM_IGNORE_MAP};
use crate::ffi::sections::sparsestream_section;
use crate::section::Kind;
use crate::sys::memory::Slab;
use crate::wait::Waiting;
use libc::c_void;
use std::collections::VecDeque;

/// The caller's table as a source.
pub struct AsyncSource {
    common: Common,
    /// The offset of its end.
    end: u64,
    section: Option<(Kind, u64)>,
    cancelled: bool,
}

impl AsyncSource {
    /// Takes over `opaque`, even if it fails.
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
        let kind = site.kind(&section)?;
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
            reports_holes: mapped && info.flags & SPARSESTREAM_WITH_HOLES != 0,
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

    fn has_other_ways(&self) -> bool {
        false
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
