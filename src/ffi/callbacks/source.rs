//! The caller's table as a source.

use super::party::{Ending, Party, cut};
use super::tables::{
    SPARSESTREAM_WITH_HOLES, SPARSESTREAM_WITH_KEEPS, sparsestream_source_info,
    sparsestream_source_ops,
};
use crate::end::{End, Lent, Look, Next, Peer, Rewind, Source, SourceInfo, SourceWays};
use crate::error::{Bound, Error, Operation, Result, Rule, Side};
use crate::ffi::guard::{self, signed};
use crate::ffi::opaque;
use crate::ffi::sections::{self, sparsestream_section};
use crate::section::Kind;
use crate::wait::Waiting;
use libc::{c_int, c_void};
use std::time::Instant;

type Describe = unsafe extern "C" fn(*mut c_void, *mut sparsestream_source_info) -> c_int;

/// The properties of a caller's source, which is asked once.
#[derive(Clone, Copy)]
pub struct Described {
    /// The facts for the transfer.
    pub info: SourceInfo,
    /// Reads are shortened to end at a multiple of this.
    pub preferred: u64,
}

pub(super) static FLAGS: Rule = Rule::new("info.flags", Bound::Flags);
static RESERVED: Rule = Rule::new("info.reserved", Bound::Exactly);
static TOTAL: Rule = Rule::new("info.total", Bound::Only("-1 or more"));
pub(super) static MEMORY: Rule =
    Rule::new("the length of memory at NULL that the callback lends", Bound::Exactly);

/// Asks for the properties of a source; `flags` are those of its table.
pub fn describe(party: &mut Party, describe: Option<Describe>, flags: u64) -> Result<Described> {
    let site = party.touch(Operation::Open)?;
    let mut info = sparsestream_source_info {
        size: size_of::<sparsestream_source_info>() as u64,
        flags,
        total: -1,
        ..sparsestream_source_info::default()
    };
    if let Some(describe) = describe {
        let pointer = party.pointer();
        // SAFETY: the caller promised that its functions may be called with its opaque.
        site.done(|| unsafe { describe(pointer, &raw mut info) })?;
    }
    // The table has no function for the others.
    let able = flags | SPARSESTREAM_WITH_KEEPS;
    if info.flags & !able != 0 {
        return Err(site.broken(&FLAGS, signed(info.flags), able));
    }
    if info.total < -1 {
        return Err(site.broken(&TOTAL, info.total, 0));
    }
    if info.reserved != 0 {
        return Err(site.broken(&RESERVED, info.reserved.into(), 0));
    }
    Ok(Described {
        info: SourceInfo {
            total: u64::try_from(info.total).ok(),
            reports_holes: info.flags & SPARSESTREAM_WITH_HOLES != 0,
            keeps: info.flags & SPARSESTREAM_WITH_KEEPS != 0,
            start: 0,
        },
        preferred: info.preferred_block.into(),
    })
}

/// The section that a source is in.
#[derive(Debug, Clone, Copy)]
struct Current {
    kind: Kind,
    /// Bytes to its end, if known.
    left: Option<u64>,
}

/// The caller's functions as a source.
pub struct TableSource {
    ops: sparsestream_source_ops,
    party: Party,
    described: Option<Described>,
    section: Option<Current>,
    /// Bytes that the stream has passed, for which `skip` was not called yet.
    owed: u64,
    /// The next data is in the memory that was lent.
    lending: bool,
}

impl TableSource {
    /// Takes over `opaque`, even if it fails.
    ///
    /// # Safety
    /// `ops` is null or a table of its size whose functions may be called with `opaque` for as
    /// long as this lives.
    pub unsafe fn new(ops: *const sparsestream_source_ops, opaque: *mut c_void) -> Result<Self> {
        // SAFETY: as promised.
        let (ops, opaque) = unsafe { opaque::table(ops, opaque) }?;
        guard::flags(ops.flags, SPARSESTREAM_WITH_KEEPS, "ops.flags")?;
        if ops.read.is_none() {
            return Err(Error::null("ops.read"));
        }
        both(ops.section.is_some(), ops.skip.is_some(), "ops.section and ops.skip")?;
        both(ops.lent.is_some(), ops.took.is_some(), "ops.lent and ops.took")?;
        if ops.flags & SPARSESTREAM_WITH_KEEPS != 0 && ops.section.is_none() {
            let why = "has SPARSESTREAM_WITH_KEEPS, which needs ops.section";
            return Err(Error::argument("ops.flags", why, libc::EINVAL));
        }
        let ending = Ending { finish: ops.finish, abort: ops.abort, wait: ops.wait };
        Ok(TableSource {
            ops,
            party: Party::new(opaque, Side::Source, ending),
            described: None,
            section: None,
            owed: 0,
            lending: false,
        })
    }

    /// Calls the caller's `skip` for the bytes that were passed, in one bounded step, before the next call, where
    /// a failure can be reported.
    fn skip_owed(&mut self) -> Result<()> {
        if self.owed == 0 {
            return Ok(());
        }
        let mut site = self.party.touch(Operation::Skip)?;
        site.offset -= self.owed;
        let skip = self.ops.skip.ok_or_else(|| Error::null("ops.skip"))?;
        let (pointer, owed) = (self.party.pointer(), self.owed);
        // SAFETY: the caller promised that its functions may be called with its opaque.
        self.owed -= site.some(owed, || unsafe { skip(pointer, signed(owed)) })?;
        // Bytes are left. A cancel may come in between.
        if self.owed == 0 { Ok(()) } else { Err(site.error(libc::EINTR)) }
    }

    /// The section that comes next.
    fn current(&mut self) -> Result<Current> {
        self.lending = false;
        self.skip_owed()?;
        if let Some(section) = self.section {
            return Ok(section);
        }
        let site = self.party.touch(Operation::Map)?;
        let Some(ask) = self.ops.section else {
            return Ok(Current { kind: Kind::Data, left: None });
        };
        let mut section = sparsestream_section {
            size: size_of::<sparsestream_section>() as u64,
            offset: signed(site.offset),
            length: 0,
            kind: sections::SPARSESTREAM_END,
            reserved: 0,
        };
        let pointer = self.party.pointer();
        // SAFETY: the caller promised that its functions may be called with its opaque.
        site.done(|| unsafe { ask(pointer, &raw mut section) })?;
        let kind = site.kind(&section)?;
        let left = match (kind, section.length) {
            (Kind::End, _) => Some(0),
            (Kind::Data, -1) => None,
            (_, length) => Some(site.length(length)?),
        };
        let section = Current { kind, left };
        self.section = Some(section);
        Ok(section)
    }

    fn advance(&mut self, by: u64) {
        self.party.offset += by;
        self.section = self.section.and_then(|section| {
            let left = section.left?.checked_sub(by).filter(|left| *left > 0)?;
            Some(Current { left: Some(left), ..section })
        });
    }

    /// The bytes of data that are left; `None` if that is not known.
    fn data_left(&mut self) -> Result<std::result::Result<Option<u64>, Next>> {
        let Current { kind, left } = self.current()?;
        let length = left.unwrap_or_default();
        Ok(match kind {
            Kind::Data => Ok(left),
            Kind::End => Err(Next::End),
            Kind::Hole => Err(Next::Hole(length)),
            Kind::Keep => Err(Next::Keep(length)),
        })
    }
}

impl Source for TableSource {
    fn open(&mut self) -> Result<SourceInfo> {
        if let Some(described) = self.described {
            self.party.touch(Operation::Open)?;
            return Ok(described.info);
        }
        let holes = if self.ops.section.is_some() { SPARSESTREAM_WITH_HOLES } else { 0 };
        let described = describe(&mut self.party, self.ops.describe, holes | self.ops.flags)?;
        self.described = Some(described);
        Ok(described.info)
    }

    fn next(&mut self, buffer: &mut [u8]) -> Result<Next> {
        let left = match self.data_left()? {
            Ok(left) => left,
            Err(next) => return Ok(next),
        };
        let site = self.party.touch(Operation::Read)?;
        let most = left.and_then(|left| usize::try_from(left).ok()).unwrap_or(usize::MAX);
        let preferred = self.described.map_or(0, |described| described.preferred);
        let most = cut(site.offset, buffer.len().min(most), preferred);
        let read = self.ops.read.ok_or_else(|| Error::null("ops.read"))?;
        let (pointer, start) = (self.party.pointer(), buffer.as_mut_ptr());
        // SAFETY: the caller promised that its functions may be called with its opaque; `most` bytes of the
        // buffer are writable.
        let count = site.count(most as u64, || unsafe { read(pointer, start.cast(), most) })?;
        match (count, left) {
            (0, None) => {
                // The function is not called again.
                self.section = Some(Current { kind: Kind::End, left: Some(0) });
                Ok(Next::End)
            }
            (0, Some(left)) => {
                Err(Error::EndedEarly { offset: site.offset, expected: site.offset + left })
            }
            _ => {
                self.advance(count);
                Ok(Next::Data(count as usize))
            }
        }
    }

    fn look(&mut self) -> Result<Look> {
        let Current { kind, left } = self.current()?;
        Ok(Look { kind, length: left })
    }

    fn consume(&mut self, length: u64) {
        if self.lending {
            self.lending = false;
            if let Some(took) = self.ops.took {
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                // SAFETY: the caller promised that its functions may be called with its opaque.
                unsafe { took(self.party.pointer(), length) };
            }
        } else {
            self.owed += length;
        }
        self.advance(length);
    }
}

impl SourceWays for TableSource {
    fn lent(&mut self) -> Option<&mut dyn Lent> {
        if self.ops.lent.is_some() { Some(self) } else { None }
    }

    fn rewind(&mut self) -> Option<&mut dyn Rewind> {
        if self.ops.rewind.is_some() { Some(self) } else { None }
    }

    fn holds_buffer(&self) -> bool {
        true
    }
}

impl Lent for TableSource {
    fn bytes(&mut self) -> Result<&[u8]> {
        let Ok(left) = self.data_left()? else { return Ok(&[]) };
        let site = self.party.touch(Operation::Read)?;
        let Some(lent) = self.ops.lent else { return Ok(&[]) };
        let mut memory = std::ptr::null();
        let pointer = self.party.pointer();
        // SAFETY: the caller promised that its functions may be called with its opaque.
        let length = site.count(isize::MAX as u64, || unsafe { lent(pointer, &raw mut memory) })?;
        if length == 0 {
            return Ok(&[]);
        }
        if memory.is_null() {
            return Err(site.broken(&MEMORY, signed(length), 0));
        }
        self.lending = true;
        let length = left.map_or(length, |left| length.min(left)) as usize;
        // SAFETY: not null, and the caller promises that its memory is readable for the length that it
        // answered until all of it was taken.
        Ok(unsafe { std::slice::from_raw_parts(memory.cast(), length) })
    }
}

impl Rewind for TableSource {
    fn to_start(&mut self) -> Result<()> {
        let site = self.party.touch(Operation::Seek)?;
        let rewind = self.ops.rewind.ok_or_else(|| site.error(libc::ESPIPE))?;
        let pointer = self.party.pointer();
        // SAFETY: the caller promised that its functions may be called with its opaque.
        site.done(|| unsafe { rewind(pointer) })?;
        self.party.offset = 0;
        self.section = None;
        self.owed = 0;
        self.lending = false;
        Ok(())
    }
}

impl End for TableSource {
    fn finish(&mut self) -> Result<()> {
        if !self.party.is_finished() {
            self.skip_owed()?;
        }
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

impl Peer for TableSource {
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

/// Reports the durable offset to the caller's function, if there is one.
pub fn report_durable(
    party: &Party,
    durable: Option<unsafe extern "C" fn(*mut c_void, i64)>,
    offset: u64,
) {
    if let Some(durable) = durable {
        // SAFETY: the caller promised that its functions may be called with its opaque.
        unsafe { durable(party.pointer(), signed(offset)) };
    }
}

/// Refuses a table with only one of two functions.
pub fn both(one: bool, other: bool, names: &'static str) -> Result<()> {
    if one == other {
        return Ok(());
    }
    Err(Error::argument(names, "must both be set, or neither of them", libc::EINVAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A source of four bytes, a hole of five, and four bytes; it moves at most three at a time.
    #[derive(Default)]
    struct Sample {
        at: i64,
        skips: u32,
        rewinds: u32,
        tired: bool,
    }

    unsafe extern "C" fn section(opaque: *mut c_void, section: *mut sparsestream_section) -> c_int {
        // SAFETY: the table is used with a sample only; the struct is the library's.
        let (sample, section) = unsafe { (&*opaque.cast::<Sample>(), &mut *section) };
        assert_eq!(section.offset, sample.at);
        (section.kind, section.length) = match sample.at {
            at @ 0..4 => (sections::SPARSESTREAM_DATA, 4 - at),
            at @ 4..9 => (sections::SPARSESTREAM_HOLE, 9 - at),
            at @ 9..13 => (sections::SPARSESTREAM_DATA, 13 - at),
            _ => (sections::SPARSESTREAM_END, 0),
        };
        0
    }

    unsafe extern "C" fn read(opaque: *mut c_void, _: *mut c_void, length: usize) -> i64 {
        // SAFETY: as above.
        let sample = unsafe { &mut *opaque.cast::<Sample>() };
        let count = (length as i64).min(3);
        sample.at += count;
        count
    }

    unsafe extern "C" fn skip(opaque: *mut c_void, length: i64) -> i64 {
        // SAFETY: as above.
        let sample = unsafe { &mut *opaque.cast::<Sample>() };
        sample.skips += 1;
        sample.tired = !sample.tired;
        if sample.tired {
            return -i64::from(libc::EAGAIN);
        }
        let count = length.min(3);
        sample.at += count;
        count
    }

    unsafe extern "C" fn rewind(opaque: *mut c_void) -> c_int {
        // SAFETY: as above.
        let sample = unsafe { &mut *opaque.cast::<Sample>() };
        sample.at = 0;
        sample.rewinds += 1;
        0
    }

    fn source(sample: &mut Sample) -> TableSource {
        let ops = sparsestream_source_ops {
            size: size_of::<sparsestream_source_ops>() as u64,
            section: Some(section),
            read: Some(read),
            skip: Some(skip),
            rewind: Some(rewind),
            ..sparsestream_source_ops::default()
        };
        // SAFETY: a whole table, whose functions are used with the sample, which lives longer.
        unsafe { TableSource::new(&raw const ops, (&raw mut *sample).cast()) }.unwrap()
    }

    /// Everything that comes, as letters.
    fn everything(source: &mut TableSource) -> String {
        let mut text = String::new();
        let mut buffer = [0; 16];
        loop {
            match source.next(&mut buffer) {
                Err(error) if error.would_block() || error.interrupted() => {}
                Err(error) => panic!("{error}"),
                Ok(Next::Data(count)) => text.push_str(&"d".repeat(count)),
                Ok(Next::Hole(length)) => {
                    text.push_str(&"h".repeat(length as usize));
                    source.consume(length);
                }
                Ok(Next::Keep(_)) => panic!("none was declared"),
                Ok(Next::End) => return text,
            }
        }
    }

    #[test]
    fn a_hole_is_skipped_in_parts_before_the_next_call() {
        let mut sample = Sample::default();
        let mut source = source(&mut sample);
        assert_eq!(everything(&mut source), "ddddhhhhhdddd");
        source.finish().unwrap();
        drop(source);
        // Twice not ready, and twice a part.
        assert_eq!((sample.at, sample.skips), (13, 4));
    }

    #[test]
    fn a_source_that_goes_back_to_its_start_gives_everything_again() {
        let mut sample = Sample::default();
        let mut source = source(&mut sample);
        let mut buffer = [0; 16];
        assert_eq!(source.next(&mut buffer).unwrap(), Next::Data(3));
        assert_eq!(source.next(&mut buffer).unwrap(), Next::Data(1));
        assert_eq!(source.next(&mut buffer).unwrap(), Next::Hole(5));
        source.consume(5);
        source.rewind().unwrap().to_start().unwrap();
        assert_eq!(everything(&mut source), "ddddhhhhhdddd");
        drop(source);
        assert_eq!(sample.rewinds, 1);
    }
}
