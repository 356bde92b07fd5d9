//! A pipe, a socket or a character device: it takes bytes, and no holes.

use super::{Options, Sink};
use crate::error::{Error, Operation, Result, Side};
use crate::source::Extent;
use crate::sys::{self, Fd, FileKind, Way};
use crate::wait::{Waiting, blocks, in_best_way};

/// A descriptor that is written as it comes. Writing never waits and never raises SIGPIPE.
#[derive(Debug)]
pub struct ByteSink {
    fd: Fd,
    socket: bool,
    way: Way,
    offset: u64,
    limit: u64,
}

impl ByteSink {
    pub(super) fn new(fd: Fd, kind: FileKind, options: &Options) -> Result<Self> {
        let error = |errno| Error::nowhere(Operation::Open, Side::Sink, errno);
        // Nothing here can be made durable: to take the wish would be to claim it.
        if options.offset != 0 || options.sync || options.sync_interval != 0 {
            return Err(error(libc::ESPIPE));
        }
        let socket = kind == FileKind::Socket;
        if socket && sys::socket_type(fd).map_err(error)? != libc::SOCK_STREAM {
            return Err(error(libc::EPROTOTYPE));
        }
        let limit = if options.length == 0 { u64::MAX } else { options.length };
        Ok(ByteSink { fd, socket, way: Way::Flags, offset: 0, limit })
    }

    fn error(&self, operation: Operation, errno: i32) -> Error {
        Error::at(operation, Side::Sink, self.offset, errno)
    }
}

impl Sink for ByteSink {
    fn makes_holes(&mut self) -> Result<bool> {
        Ok(false)
    }

    fn announce(&mut self, total: u64) -> Result<()> {
        if total > self.limit { Err(self.error(Operation::Write, libc::EFBIG)) } else { Ok(()) }
    }

    fn write(&mut self, buffer: &[u8]) -> Result<usize> {
        let left = usize::try_from(self.limit - self.offset).unwrap_or(usize::MAX);
        if left == 0 {
            return Err(self.error(Operation::Write, libc::EFBIG));
        }
        let buffer = &buffer[..left.min(buffer.len())];
        let count = if self.socket {
            sys::send(self.fd, buffer)
        } else {
            in_best_way(&mut self.way, |way| sys::write(self.fd, buffer, way))
        }
        .map_err(|errno| self.error(Operation::Write, errno))?;
        if count == 0 {
            return Err(self.error(Operation::Write, libc::EIO));
        }
        self.offset += count as u64;
        Ok(count)
    }

    fn fetch(&mut self, extent: &Extent) -> Result<Option<u64>> {
        // sendfile(2) has no flag for one call that must not wait.
        let most = if blocks(self.fd) { 0 } else { extent.length.min(self.limit - self.offset) };
        let answer = match most {
            0 => Ok(0),
            _ => sys::sendfile(extent.fd, extent.offset, self.fd, most),
        };
        match answer {
            Ok(0) => Ok(None),
            Ok(count) => {
                self.offset += count;
                Ok(Some(count))
            }
            Err(errno @ (libc::EINTR | libc::EAGAIN)) => Err(self.error(Operation::Write, errno)),
            Err(_) => Ok(None),
        }
    }

    fn hole(&mut self, _length: u64) -> Result<u64> {
        Err(self.error(Operation::Hole, libc::EOPNOTSUPP))
    }

    fn finish(&mut self) -> Result<()> {
        Ok(())
    }

    fn abort(&mut self, _errno: i32) {}

    fn waiting(&self) -> Waiting {
        Waiting::Descriptor { fd: self.fd, events: libc::POLLOUT, blocking: blocks(self.fd) }
    }
}
