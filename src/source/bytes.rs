//! A pipe, a socket or a character device. All of it is data.

use super::{Options, range_end};
use crate::byte_end::{ByteEnd, Coming};
use crate::end::{End, Look, Next, Source, SourceInfo, SourceWays};
use crate::error::{Error, Operation, Result, Side};
use crate::life::Life;
use crate::section::Kind;
use crate::sys::{Fd, FileKind};
use crate::wait::Waiting;

/// A descriptor that is read as it comes. Reading never waits.
#[derive(Debug)]
pub struct ByteSource {
    from: ByteEnd,
    offset: u64,
    end: Option<u64>,
    /// It may end before `left` bytes were read.
    at_most: bool,
    ended: bool,
    life: Life,
}

impl ByteSource {
    pub(super) fn new(fd: Fd, kind: FileKind, options: &Options) -> Result<Self> {
        if options.offset != 0 {
            let (name, value) = ("options.offset", options.offset);
            return Err(Error::Unseekable { side: Side::Source, name, value });
        }
        let from = ByteEnd::new(fd, kind, Side::Source)?;
        let end = match options.length {
            0 => None,
            length => Some(range_end(0, length)?),
        };
        let at_most = options.at_most;
        Ok(ByteSource { from, offset: 0, end, at_most, ended: false, life: Life::Open })
    }
}

impl Source for ByteSource {
    fn open(&mut self) -> Result<SourceInfo> {
        let total = self.end.filter(|_| !self.at_most);
        Ok(SourceInfo { total, ..SourceInfo::default() })
    }

    fn next(&mut self, buffer: &mut [u8]) -> Result<Next> {
        self.life.check(Operation::Read, Side::Source, self.offset)?;
        let left = self.end.map_or(u64::MAX, |end| end - self.offset);
        if left == 0 || self.ended {
            return Ok(Next::End);
        }
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self
            .from
            .read(&mut buffer[..most], &mut [])
            .map_err(|errno| Error::at(Operation::Read, Side::Source, self.offset, errno))?;
        match (count, self.end) {
            (0, Some(expected)) if !self.at_most => {
                Err(Error::EndedEarly { offset: self.offset, expected })
            }
            (0, _) => {
                self.ended = true;
                Ok(Next::End)
            }
            _ => {
                self.offset += count as u64;
                Ok(Next::Data(count))
            }
        }
    }

    /// Whether data is left is known only once there is something to read.
    fn look(&mut self) -> Result<Look> {
        self.life.check(Operation::Map, Side::Source, self.offset)?;
        let left = self.end.map(|end| end - self.offset);
        if left == Some(0) || self.ended {
            return Ok(Look { kind: Kind::End, length: Some(0) });
        }
        let error = |errno| Error::at(Operation::Map, Side::Source, self.offset, errno);
        match self.from.look().map_err(error)? {
            Coming::Nothing => Err(error(libc::EAGAIN)),
            // The read reports it, as an early end if it is one.
            Coming::End if left.is_none() || self.at_most => {
                Ok(Look { kind: Kind::End, length: Some(0) })
            }
            Coming::End | Coming::Bytes => {
                Ok(Look { kind: Kind::Data, length: left.filter(|_| !self.at_most) })
            }
        }
    }

    fn consume(&mut self, _length: u64) {}
}

impl SourceWays for ByteSource {}

impl End for ByteSource {
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
