//! A pipe, a socket or a character device: all data, as it comes.

use super::{Options, Read, Source, range_end};
use crate::error::{Error, Operation, Result, Side};
use crate::section::{Kind, Section};
use crate::sys::{self, Fd, FileKind, Way};
use crate::wait::{Waiting, blocks, in_best_way};

/// A descriptor that is read as it comes. Reading never waits.
#[derive(Debug)]
pub struct ByteSource {
    fd: Fd,
    socket: bool,
    way: Way,
    offset: u64,
    end: Option<u64>,
}

impl ByteSource {
    pub(super) fn new(fd: Fd, kind: FileKind, options: &Options) -> Result<Self> {
        let error = |errno| Error::nowhere(Operation::Open, Side::Source, errno);
        if options.offset != 0 {
            return Err(error(libc::ESPIPE));
        }
        let socket = kind == FileKind::Socket;
        if socket && sys::socket_type(fd).map_err(error)? != libc::SOCK_STREAM {
            return Err(error(libc::EPROTOTYPE));
        }
        let end = match options.length {
            0 => None,
            length => Some(range_end(0, length)?),
        };
        Ok(ByteSource { fd, socket, way: Way::Flags, offset: 0, end })
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
        match self.end {
            Some(end) if end == self.offset => Ok(Section::end(end)),
            Some(end) => Ok(Section::new(Kind::Data, self.offset, end - self.offset)),
            None => Err(Error::at(Operation::Map, Side::Source, self.offset, libc::EOPNOTSUPP)),
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<Read> {
        let left = self.end.map_or(u64::MAX, |end| end - self.offset);
        if left == 0 {
            return Ok(Read::End);
        }
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = &mut buffer[..most];
        let count = if self.socket {
            sys::recv(self.fd, buffer)
        } else {
            in_best_way(&mut self.way, |way| sys::read(self.fd, buffer, way))
        }
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
        Ok(())
    }

    fn abort(&mut self, _errno: i32) {}

    fn waiting(&self) -> Waiting {
        Waiting::Descriptor { fd: self.fd, events: libc::POLLIN, blocking: blocks(self.fd) }
    }
}
