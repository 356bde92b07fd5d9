//! One end of a stream of bytes: a pipe, a socket, a character device.

use crate::end::{Attempt, Extent};
use crate::error::{Error, Operation, Result, Side};
use crate::pipe::Pipe;
use crate::sys::{self, Fd, FileKind, Sys, Way};
use crate::wait::{Waiting, blocks};
use std::time::Duration;

/// The result that a read would give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coming {
    /// It is not ready.
    Nothing,
    /// Bytes, as far as can be known, or an error.
    Bytes,
    /// The end.
    End,
}

/// A descriptor that is read or written in order. Calls never wait, and writes raise no SIGPIPE. The caller
/// owns it.
#[derive(Debug)]
pub struct ByteEnd {
    fd: Fd,
    kind: FileKind,
    way: Way,
    /// It is a socket, and recvmsg(2) and sendmsg(2) are allowed.
    messages: bool,
    /// The errno with which a send from a file failed. If it was the socket's own failure, it is not reported
    /// again.
    suspect: Option<i32>,
}

impl ByteEnd {
    /// The end for a descriptor of this kind.
    pub fn new(fd: Fd, kind: FileKind, side: Side) -> Result<Self> {
        let error = |errno| Error::nowhere(Operation::Open, side, errno);
        if kind == FileKind::Socket && sys::socket_type(fd).map_err(error)? != libc::SOCK_STREAM {
            return Err(error(libc::EPROTOTYPE));
        }
        let way = if kind == FileKind::Regular { Way::Plain } else { Way::Flags };
        Ok(ByteEnd { fd, kind, way, messages: kind == FileKind::Socket, suspect: None })
    }

    /// Examines a descriptor that is to be read (`Side::Source`) or written (`Side::Sink`). A
    /// regular file is one too: it holds a stream that is read later.
    pub fn open(fd: Fd, side: Side) -> Result<Self> {
        let error = |errno| Error::nowhere(Operation::Open, side, errno);
        let kind = sys::stat(fd).map_err(error)?.kind;
        let flags = sys::flags(fd).map_err(error)?;
        let wrong = if side == Side::Source { libc::O_WRONLY } else { libc::O_RDONLY };
        if flags & libc::O_ACCMODE == wrong || flags & libc::O_PATH == libc::O_PATH {
            return Err(error(libc::EBADF));
        }
        match kind {
            FileKind::Directory => Err(error(libc::EISDIR)),
            FileKind::Other | FileKind::Block => Err(error(libc::ESPIPE)),
            _ => ByteEnd::new(fd, kind, side),
        }
    }

    /// Reads available bytes into the first buffer, and the rest into the second. 0 means the end.
    pub fn read(&mut self, first: &mut [u8], second: &mut [u8]) -> Sys<usize> {
        if self.messages {
            match sys::recv(self.fd, first, second) {
                Err(errno) if sys::is_refusal(errno) => self.messages = false,
                answer => return answer,
            }
        }
        self.in_best_way(|fd, way| sys::read(fd, first, second, way))
    }

    /// The result that a read would give, found without reading.
    pub fn look(&self) -> Sys<Coming> {
        let events = match sys::poll(self.fd, libc::POLLIN | libc::POLLRDHUP, Duration::ZERO) {
            // If poll(2) is forbidden, nothing is known.
            Err(errno) if sys::is_refusal(errno) => return Ok(Coming::Bytes),
            events => events?,
        };
        if events & libc::POLLNVAL != 0 {
            return Err(libc::EBADF);
        }
        let ended = events & (libc::POLLRDHUP | libc::POLLHUP) != 0;
        Ok(match events {
            0 => Coming::Nothing,
            // Both may be set: the remaining bytes come before the end.
            _ if ended && sys::readable_bytes(self.fd) == Ok(0) => Coming::End,
            _ => Coming::Bytes,
        })
    }

    /// Writes as much as possible of the first buffer and then of the second. Never 0.
    pub fn write(&mut self, first: &[u8], second: &[u8]) -> Sys<usize> {
        let count =
            if self.messages { sys::send(self.fd, first, second) } else { Err(libc::ENOSYS) };
        let count = match count {
            Err(errno) if sys::is_refusal(errno) => {
                self.messages = false;
                self.in_best_way(|fd, way| sys::write(fd, first, second, way))
            }
            count => count,
        };
        let count = count.map_err(|errno| match (errno, self.suspect) {
            (libc::EPIPE, Some(suspect)) => suspect,
            _ => errno,
        })?;
        self.suspect = None;
        if count == 0 { Err(libc::EIO) } else { Ok(count) }
    }

    /// Sends some bytes of a range of a file, without a copy.
    pub fn send_from(&mut self, extent: &Extent) -> Sys<Attempt> {
        let Extent { fd, offset, length } = *extent;
        let answer = match self.kind {
            _ if length == 0 || !self.sends_from_files() => return Ok(Attempt::Declined(None)),
            FileKind::Pipe => sys::splice_to_pipe(fd, offset, self.fd, length),
            _ => sys::sendfile(fd, offset, self.fd, length),
        };
        match answer {
            Ok(0) => Ok(Attempt::Declined(None)),
            Ok(count) => Ok(Attempt::Moved(count)),
            Err(errno @ (libc::EAGAIN | libc::EINTR)) => Err(errno),
            Err(errno) => {
                self.suspect = Some(errno);
                Ok(Attempt::Declined(Some(errno)))
            }
        }
    }

    /// Whether it copies data of a file. If not, it may hold pages of the file, which can change before they are
    /// read.
    #[must_use]
    pub fn copies(&self) -> bool {
        self.kind == FileKind::Regular
    }

    /// Moves at most this many available bytes into a pipe, without a copy. `Moved(0)` means the end.
    pub fn feed(&mut self, pipe: &mut Pipe, most: u64) -> Sys<Attempt> {
        // The flag of splice(2) for one call that must not wait applies to pipes only.
        if !matches!(self.kind, FileKind::Pipe | FileKind::Regular) && blocks(self.fd) {
            return Ok(Attempt::Declined(None));
        }
        match pipe.fill(self.fd, None, most) {
            Ok(count) => Ok(Attempt::Moved(count)),
            // None of these is a socket's own failure, which would be reported only once.
            Err(
                errno @ (libc::EINVAL
                | libc::EOPNOTSUPP
                | libc::ENOSYS
                | libc::ENOMEM
                | libc::EPERM
                | libc::EACCES),
            ) => Ok(Attempt::Declined(Some(errno))),
            Err(errno) => Err(errno),
        }
    }

    /// Whether [`ByteEnd::send_from`] is worth trying.
    #[must_use]
    pub fn sends_from_files(&self) -> bool {
        // sendfile(2) has no flag for one call that must not wait. splice(2) into a pipe has one, but
        // afterwards the pipe knows no RWF_NOWAIT, and a blocking one takes little at a time.
        self.kind == FileKind::Regular || !blocks(self.fd)
    }

    /// The events that it waits for when it is not ready.
    #[must_use]
    pub fn waiting(&self, events: i16) -> Waiting {
        Waiting::Descriptor { fd: self.fd, events, blocking: blocks(self.fd) }
    }

    /// Makes a call in the best way that works with the descriptor, and remembers the way.
    fn in_best_way<T>(&mut self, mut make: impl FnMut(Fd, Way) -> Sys<T>) -> Sys<T> {
        loop {
            match (make(self.fd, self.way), self.way.lesser()) {
                (Err(errno), Some(lesser)) if sys::is_refusal(errno) => self.way = lesser,
                (answer, _) => return answer,
            }
        }
    }
}
