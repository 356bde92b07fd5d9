//! The caller's stream as a source.

use super::party::{Ending, Party};
use super::source::{Described, describe, report_durable};
use super::tables::{SPARSESTREAM_WITH_HOLES, SPARSESTREAM_WITH_KEEPS, sparsestream_stream_ops};
use crate::end::{End, Look, Next, Peer, Source, SourceInfo, SourceWays};
use crate::error::{Bound, Error, Operation, Result, Rule, Side};
use crate::ffi::guard;
use crate::ffi::opaque;
use crate::ffi::sources::{SPARSESTREAM_AT_HOLE, SPARSESTREAM_AT_KEEP};
use crate::section::Kind;
use crate::wait::Waiting;
use libc::c_void;
use std::time::Instant;

static HOLES: Rule =
    Rule::new("the result of recv", Bound::Only("another one, because the table has no recv_hole"));
static KEEPS: Rule =
    Rule::new("the result of recv", Bound::Only("another one, because the table has no recv_keep"));

/// The next section of a stream, as far as it is known.
#[derive(Debug, Clone, Copy)]
enum Coming {
    Unknown,
    /// A hole, whose length was not received yet.
    Hole,
    /// A kept section, whose length was not received yet.
    Keep,
    /// A hole or a kept section, and the bytes left of it.
    Section(Kind, u64),
    End,
}

/// The caller's stream as a source.
pub struct StreamSource {
    ops: sparsestream_stream_ops,
    party: Party,
    described: Option<Described>,
    coming: Coming,
}

impl StreamSource {
    /// Takes over `stream`, even if it fails.
    ///
    /// # Safety
    /// `ops` is null or a table of its size whose functions may be called with `stream` for as long as
    /// this lives.
    pub unsafe fn new(ops: *const sparsestream_stream_ops, stream: *mut c_void) -> Result<Self> {
        // SAFETY: as promised.
        let (ops, opaque) = unsafe { opaque::table(ops, stream) }?;
        guard::flags(ops.flags, SPARSESTREAM_WITH_KEEPS, "ops.flags")?;
        if ops.recv.is_none() {
            return Err(Error::null("ops.recv"));
        }
        let ending = Ending { finish: ops.finish, abort: ops.abort, wait: ops.wait };
        let party = Party::new(opaque, Side::Source, ending);
        Ok(StreamSource { ops, party, described: None, coming: Coming::Unknown })
    }

    /// Receives the length of the section that comes next.
    fn receive(&mut self, kind: Kind) -> Result<()> {
        let site = self.party.touch(Operation::Skip)?;
        let (receive, at, rule) = match kind {
            Kind::Keep => (self.ops.recv_keep, SPARSESTREAM_AT_KEEP, &KEEPS),
            _ => (self.ops.recv_hole, SPARSESTREAM_AT_HOLE, &HOLES),
        };
        let receive = receive.ok_or_else(|| site.broken(rule, at, 0))?;
        let mut length = 0;
        let pointer = self.party.pointer();
        // SAFETY: the caller promised that its functions may be called with its stream.
        site.done(|| unsafe { receive(pointer, &raw mut length) })?;
        self.coming = Coming::Section(kind, site.length(length)?);
        Ok(())
    }

    /// Receives the length of a section, if it is a hole or a kept section whose length is not known yet.
    fn learn(&mut self) -> Result<()> {
        match self.coming {
            Coming::Hole => self.receive(Kind::Hole),
            Coming::Keep => self.receive(Kind::Keep),
            Coming::Unknown | Coming::Section(..) | Coming::End => Ok(()),
        }
    }

    /// The next section, which is known not to be data.
    fn known(&mut self) -> Result<Next> {
        self.party.touch(Operation::Read)?;
        self.learn()?;
        Ok(match self.coming {
            Coming::Section(Kind::Keep, length) => Next::Keep(length),
            Coming::Section(_, length) => Next::Hole(length),
            Coming::Unknown | Coming::Hole | Coming::Keep | Coming::End => Next::End,
        })
    }
}

impl Source for StreamSource {
    fn open(&mut self) -> Result<SourceInfo> {
        if let Some(described) = self.described {
            self.party.touch(Operation::Open)?;
            return Ok(described.info);
        }
        let holes = if self.ops.recv_hole.is_some() { SPARSESTREAM_WITH_HOLES } else { 0 };
        let described = describe(&mut self.party, self.ops.describe, holes | self.ops.flags)?;
        self.described = Some(described);
        Ok(described.info)
    }

    fn next(&mut self, buffer: &mut [u8]) -> Result<Next> {
        if !matches!(self.coming, Coming::Unknown) {
            return self.known();
        }
        let site = self.party.touch(Operation::Read)?;
        let recv = self.ops.recv.ok_or_else(|| Error::null("ops.recv"))?;
        let most = match usize::try_from(self.ops.preferred) {
            Ok(preferred) if preferred != 0 => preferred.min(buffer.len()),
            _ => buffer.len(),
        };
        let (pointer, start) = (self.party.pointer(), buffer.as_mut_ptr());
        // SAFETY: the caller promised that its functions may be called with its stream; `most` bytes of the
        // buffer are writable.
        let answer = site.answer(|| unsafe { recv(pointer, start.cast(), most) });
        match answer {
            SPARSESTREAM_AT_HOLE => self.coming = Coming::Hole,
            SPARSESTREAM_AT_KEEP => self.coming = Coming::Keep,
            _ => match site.check(answer, most as u64)? {
                0 => self.coming = Coming::End,
                count => {
                    self.party.offset += count;
                    return Ok(Next::Data(count as usize));
                }
            },
        }
        self.known()
    }

    /// The stream is not read for this: an unknown section is taken for data.
    fn look(&mut self) -> Result<Look> {
        self.party.touch(Operation::Map)?;
        self.learn()?;
        Ok(match self.coming {
            Coming::Section(kind, length) => Look { kind, length: Some(length) },
            Coming::End => Look { kind: Kind::End, length: Some(0) },
            Coming::Unknown | Coming::Hole | Coming::Keep => {
                Look { kind: Kind::Data, length: None }
            }
        })
    }

    fn consume(&mut self, length: u64) {
        if let Coming::Section(kind, left) = self.coming {
            self.party.offset += length;
            self.coming = match left.checked_sub(length) {
                Some(left) if left > 0 => Coming::Section(kind, left),
                _ => Coming::Unknown,
            };
        }
    }
}

impl SourceWays for StreamSource {
    fn holds_buffer(&self) -> bool {
        true
    }
}

impl End for StreamSource {
    fn finish(&mut self) -> Result<()> {
        self.party.finish()
    }

    fn abort(&mut self, error: &Error) {
        self.party.abort(error);
    }

    fn waiting(&self) -> Waiting {
        self.party.waiting()
    }

    fn peer(&mut self) -> Option<&mut dyn Peer> {
        if self.ops.durable.is_some() { Some(self) } else { None }
    }
}

impl Peer for StreamSource {
    fn signs(&self) -> u64 {
        0
    }

    fn flush(&mut self, _now: Instant) -> Result<()> {
        Ok(())
    }

    fn flush_by(&self) -> Option<Instant> {
        None
    }

    fn durable(&mut self, offset: u64) {
        report_durable(&self.party, self.ops.durable, offset);
    }
}
