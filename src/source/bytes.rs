//! A pipe, a socket or a character device: all data, as it comes.

use super::{Options, Read, Source, range_end};
use crate::byte_end::ByteEnd;
use crate::error::{Error, Operation, Result, Side};
use crate::life::Life;
use crate::section::{Kind, Section};
use crate::sys::{Fd, FileKind};
use crate::wait::Waiting;

/// A descriptor that is read as it comes. Reading never waits.
#[derive(Debug)]
pub struct ByteSource {
    from: ByteEnd,
    offset: u64,
    end: Option<u64>,
    life: Life,
}

impl ByteSource {
    pub(super) fn new(fd: Fd, kind: FileKind, options: &Options) -> Result<Self> {
        if options.offset != 0 {
            return Err(Error::nowhere(Operation::Open, Side::Source, libc::ESPIPE));
        }
        let from = ByteEnd::new(fd, kind, Side::Source)?;
        let end = match options.length {
            0 => None,
            length => Some(range_end(0, length)?),
        };
        Ok(ByteSource { from, offset: 0, end, life: Life::Open })
    }
}

impl Source for ByteSource {
    fn tells_holes(&mut self) -> Result<bool> {
        Ok(false)
    }

    fn total(&self) -> Option<u64> {
        self.end
    }

    fn section(&mut self) -> Result<Section> {
        self.life.check(Operation::Map, Side::Source, self.offset)?;
        match self.end {
            Some(end) if end == self.offset => Ok(Section::end(end)),
            Some(end) => Ok(Section::new(Kind::Data, self.offset, end - self.offset)),
            None => Err(Error::at(Operation::Map, Side::Source, self.offset, libc::EOPNOTSUPP)),
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<Read> {
        self.life.check(Operation::Read, Side::Source, self.offset)?;
        let left = self.end.map_or(u64::MAX, |end| end - self.offset);
        if left == 0 {
            return Ok(Read::End);
        }
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self
            .from
            .read(&mut buffer[..most], &mut [])
            .map_err(|errno| Error::at(Operation::Read, Side::Source, self.offset, errno))?;
        match (count, self.end) {
            (0, Some(expected)) => Err(Error::EndedEarly { offset: self.offset, expected }),
            (0, None) => Ok(Read::End),
            _ => {
                self.offset += count as u64;
                Ok(Read::Data(count))
            }
        }
    }

    fn skip(&mut self, length: u64) -> Result<()> {
        if length == 0 {
            return Ok(());
        }
        Err(Error::at(Operation::Skip, Side::Source, self.offset, libc::ESPIPE))
    }

    fn finish(&mut self) -> Result<()> {
        self.life = Life::Finished;
        Ok(())
    }

    fn abort(&mut self, _error: &Error) {
        self.life.abort();
    }

    fn waiting(&self) -> Waiting {
        self.from.waiting(libc::POLLIN)
    }
}
