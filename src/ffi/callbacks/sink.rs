//! The caller's table as a sink.

use super::answers::Site;
use super::party::{Ending, Party, cut};
use super::source::{FLAGS, MEMORY, both};
use super::tables::{
    SPARSESTREAM_WITH_HOLES, SPARSESTREAM_WITH_KEEPS, sparsestream_plan, sparsestream_sink_info,
    sparsestream_sink_ops, sparsestream_stream_ops,
};
use crate::end::{End, HoleWay, Lend, Made, Plan, Sink, SinkInfo, SinkWays};
use crate::error::{Error, Operation, Result, Side};
use crate::ffi::guard::{self, signed};
use crate::ffi::opaque::{self, Opaque};
use crate::sys;
use crate::wait::Waiting;
use libc::c_void;

/// The capabilities of a sink, asked once.
#[derive(Clone, Copy)]
struct Announced {
    info: SinkInfo,
    least: u64,
    preferred: u64,
}

/// The caller's functions as a sink.
pub struct TableSink {
    ops: sparsestream_sink_ops,
    party: Party,
    announced: Option<Announced>,
    /// The most bytes of data in one call; 0 for no limit.
    most: u64,
    /// The length of a write that was not ready. It is repeated with the same length.
    unanswered: Option<usize>,
}

impl TableSink {
    /// Takes over `opaque`, even if it fails.
    ///
    /// # Safety
    /// `ops` is null or a table of its size whose functions may be called with `opaque` for as long as
    /// this lives.
    pub unsafe fn new(ops: *const sparsestream_sink_ops, opaque: *mut c_void) -> Result<Self> {
        // SAFETY: as promised.
        let (ops, opaque) = unsafe { opaque::table(ops, opaque) }?;
        if ops.write.is_none() {
            return Err(Error::null("ops.write"));
        }
        both(ops.lend.is_some(), ops.committed.is_some(), "ops.lend and ops.committed")?;
        Ok(TableSink::of(ops, opaque, 0))
    }

    /// Takes over `stream`, even if it fails.
    ///
    /// # Safety
    /// As [`TableSink::new`].
    pub unsafe fn to_stream(
        ops: *const sparsestream_stream_ops,
        stream: *mut c_void,
    ) -> Result<Self> {
        // SAFETY: as promised.
        let (ops, opaque) = unsafe { opaque::table(ops, stream) }?;
        guard::flags(ops.flags, SPARSESTREAM_WITH_KEEPS, "ops.flags")?;
        if ops.send.is_none() {
            return Err(Error::null("ops.send"));
        }
        let most = ops.preferred;
        let ops = sparsestream_sink_ops {
            write: ops.send,
            hole: ops.send_hole,
            keep: ops.send_keep,
            announce: ops.announce,
            finish: ops.finish,
            abort: ops.abort,
            wait: ops.wait,
            ..sparsestream_sink_ops::default()
        };
        Ok(TableSink::of(ops, opaque, most))
    }

    fn of(ops: sparsestream_sink_ops, opaque: Opaque, most: u64) -> Self {
        let ending = Ending { finish: ops.finish, abort: ops.abort, wait: ops.wait };
        let party = Party::new(opaque, Side::Sink, ending);
        TableSink { ops, party, announced: None, most, unanswered: None }
    }

    fn announce(&mut self, plan: &Plan) -> Result<Announced> {
        let site = self.party.touch(Operation::Open)?;
        let flag = |set: bool, flag| if set { flag } else { 0 };
        let able = flag(self.ops.hole.is_some(), SPARSESTREAM_WITH_HOLES)
            | flag(self.ops.keep.is_some(), SPARSESTREAM_WITH_KEEPS);
        let mut info = sparsestream_sink_info {
            size: size_of::<sparsestream_sink_info>() as u64,
            flags: able,
            ..sparsestream_sink_info::default()
        };
        if let Some(announce) = self.ops.announce {
            let plan = sparsestream_plan {
                size: size_of::<sparsestream_plan>() as u64,
                flags: flag(plan.holes, SPARSESTREAM_WITH_HOLES)
                    | flag(plan.keeps, SPARSESTREAM_WITH_KEEPS),
                total: plan.total.map_or(-1, signed),
            };
            let pointer = self.party.pointer();
            // SAFETY: the caller promised that its functions may be called with its opaque.
            site.done(|| unsafe { announce(pointer, &raw const plan, &raw mut info) })?;
        }
        // The table has no function for the others.
        if info.flags & !able != 0 {
            return Err(site.broken(&FLAGS, signed(info.flags), able));
        }
        Ok(Announced {
            info: SinkInfo {
                makes_holes: info.flags & SPARSESTREAM_WITH_HOLES != 0,
                keeps: info.flags & SPARSESTREAM_WITH_KEEPS != 0,
                held: 0,
                durable: self.ops.durable.is_some(),
            },
            least: info.least_block.into(),
            preferred: info.preferred_block.into(),
        })
    }

    /// The place of a call that moves `length` bytes.
    fn touch(&mut self, operation: Operation, length: u64) -> Result<Site> {
        let site = self.party.touch(operation)?;
        Error::check_end(operation, Side::Sink, site.offset, length)?;
        Ok(site)
    }

    /// Passes a piece to the caller's function, which may take a part of it.
    fn send(&mut self, piece: &[u8]) -> Result<usize> {
        let site = self.touch(Operation::Write, piece.len() as u64)?;
        let write = self.ops.write.ok_or_else(|| Error::null("ops.write"))?;
        let mut length = piece.len();
        if self.most != 0 {
            length = usize::try_from(self.most).map_or(length, |most| length.min(most));
        }
        let preferred = self.announced.map_or(0, |announced| announced.preferred);
        length = cut(site.offset, length, preferred);
        length = self.unanswered.map_or(length, |unanswered| length.min(unanswered));
        let pointer = self.party.pointer();
        // SAFETY: the caller promised that its functions may be called with its opaque; the piece is
        // readable for the length.
        let answer =
            site.some(length as u64, || unsafe { write(pointer, piece.as_ptr().cast(), length) });
        self.unanswered = match &answer {
            Err(error) if error.would_block() => Some(length),
            _ => None,
        };
        let count = answer?;
        self.party.offset += count;
        Ok(count as usize)
    }

    /// The part at the start of a hole that is not a whole block, and must be written.
    fn ragged(&self, length: u64) -> u64 {
        let least = self.announced.map_or(0, |announced| announced.least);
        if least < 2 {
            return 0;
        }
        let into_block = self.party.offset % least;
        let head = if into_block == 0 { 0 } else { least - into_block };
        if head == 0 && length >= least {
            0
        } else if head == 0 {
            length
        } else {
            head.min(length)
        }
    }
}

impl Sink for TableSink {
    fn open(&mut self, plan: &Plan) -> Result<SinkInfo> {
        if let Some(announced) = self.announced {
            self.party.touch(Operation::Open)?;
            return Ok(announced.info);
        }
        let announced = self.announce(plan)?;
        self.announced = Some(announced);
        Ok(announced.info)
    }

    fn write(&mut self, buffer: &[u8]) -> Result<usize> {
        self.send(buffer)
    }

    fn hole(&mut self, length: u64) -> Result<Made> {
        let site = self.touch(Operation::Hole, length)?;
        let hole = self.ops.hole.ok_or_else(|| site.error(libc::EOPNOTSUPP))?;
        let ragged = self.ragged(length);
        if ragged > 0 {
            let piece = usize::try_from(ragged)
                .map_or(sys::zeros().len(), |most| most.min(sys::zeros().len()));
            let length = self.send(&sys::zeros()[..piece])? as u64;
            return Ok(Made { length, way: HoleWay::Written });
        }
        let least = self.announced.map_or(1, |announced| announced.least.max(1));
        let whole = length - length % least;
        let pointer = self.party.pointer();
        // SAFETY: the caller promised that its functions may be called with its opaque.
        let length = site.some(whole, || unsafe { hole(pointer, signed(whole)) })?;
        self.party.offset += length;
        Ok(Made { length, way: HoleWay::Passed })
    }

    fn keep(&mut self, length: u64) -> Result<u64> {
        let site = self.touch(Operation::Keep, length)?;
        let keep = self.ops.keep.ok_or_else(|| site.error(libc::EOPNOTSUPP))?;
        let pointer = self.party.pointer();
        // SAFETY: the caller promised that its functions may be called with its opaque.
        let length = site.some(length, || unsafe { keep(pointer, signed(length)) })?;
        self.party.offset += length;
        Ok(length)
    }

    fn durable(&self) -> Option<u64> {
        let durable = self.ops.durable?;
        // SAFETY: the caller promised that its functions may be called with its opaque.
        let answer = unsafe { durable(self.party.pointer()) };
        // No more can be durable than was written.
        u64::try_from(answer).ok().filter(|bytes| *bytes <= self.party.offset)
    }
}

impl SinkWays for TableSink {
    fn lend(&mut self) -> Option<&mut dyn Lend> {
        if self.ops.lend.is_some() { Some(self) } else { None }
    }
}

impl Lend for TableSink {
    fn room(&mut self) -> Result<Option<&mut [u8]>> {
        let site = self.party.touch(Operation::Write)?;
        let Some(lend) = self.ops.lend.filter(|_| self.unanswered.is_none()) else {
            return Ok(None);
        };
        let mut memory: *mut c_void = std::ptr::null_mut();
        let pointer = self.party.pointer();
        // SAFETY: the caller promised that its functions may be called with its opaque.
        let length = site.count(isize::MAX as u64, || unsafe { lend(pointer, &raw mut memory) })?;
        if length == 0 {
            return Ok(None);
        }
        if memory.is_null() {
            return Err(site.broken(&MEMORY, signed(length), 0));
        }
        // SAFETY: not null, and the caller promises that its memory is writable for the length that it
        // answered until another of its functions is called.
        Ok(Some(unsafe { std::slice::from_raw_parts_mut(memory.cast(), length as usize) }))
    }

    fn committed(&mut self, count: usize) {
        if let Some(committed) = self.ops.committed {
            // SAFETY: the caller promised that its functions may be called with its opaque.
            unsafe { committed(self.party.pointer(), count) };
        }
        self.party.offset += count as u64;
    }
}

impl End for TableSink {
    fn finish(&mut self) -> Result<()> {
        self.party.finish()
    }

    fn abort(&mut self, error: &Error) {
        self.party.abort(error);
    }

    fn waiting(&self) -> Waiting {
        self.party.waiting()
    }
}
