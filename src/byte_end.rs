//! One end of a stream of bytes: a pipe, a socket, a character device.

use crate::error::{Error, Operation, Result, Side};
use crate::pipe::Pipe;
use crate::source::Extent;
use crate::sys::{self, Fd, FileKind, Sys, Way};
use crate::wait::{Waiting, blocks};

/// A descriptor that is read or written as it comes, from its position on. Neither ever waits, and
/// writing raises no SIGPIPE. It is never owned here.
#[derive(Debug)]
pub struct ByteEnd {
    fd: Fd,
    kind: FileKind,
    way: Way,
    /// It is a socket whose own calls are allowed.
    messages: bool,
    /// What a send from a file failed with. If it was the socket's own failure, it is told no more.
    suspect: Option<i32>,
}

impl ByteEnd {
    /// The end that this descriptor is, which was found to be of this kind.
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

    /// Reads what is there, into one buffer and what is more into the next. 0 means the end.
    pub fn read(&mut self, first: &mut [u8], second: &mut [u8]) -> Sys<usize> {
        if self.messages {
            match sys::recv(self.fd, first, second) {
                Err(errno) if sys::is_refusal(errno) => self.messages = false,
                answer => return answer,
            }
        }
        self.in_best_way(|fd, way| sys::read(fd, first, second, way))
    }

    /// Writes what goes of one buffer and then of the next. Never 0.
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

    /// Sends what goes of a part of a file, without a copy. 0 means that this is not the way, or that
    /// it failed: the same data is then written, which tells whose failure it was.
    pub fn send_from(&mut self, extent: &Extent) -> Sys<u64> {
        let Extent { fd, offset, length } = *extent;
        let answer = match self.kind {
            _ if length == 0 || !self.sends_from_files() => return Ok(0),
            FileKind::Pipe => sys::splice_to_pipe(fd, offset, self.fd, length),
            _ => sys::sendfile(fd, offset, self.fd, length),
        };
        match answer {
            Err(errno @ (libc::EAGAIN | libc::EINTR)) => Err(errno),
            Err(errno) => {
                self.suspect = Some(errno);
                Ok(0)
            }
            sent => sent,
        }
    }

    /// Whether what it took of a file is its own, and not the file's pages, which may change before
    /// they are read.
    #[must_use]
    pub fn copies(&self) -> bool {
        self.kind == FileKind::Regular
    }

    /// Gives what is there to a pipe, without a copy, at most so many bytes. 0 means the end, `None`
    /// that this is not the way.
    pub fn feed(&mut self, pipe: &mut Pipe, most: u64) -> Sys<Option<u64>> {
        // splice(2) has no flag for one call that must not wait for anything but a pipe.
        if !matches!(self.kind, FileKind::Pipe | FileKind::Regular) && blocks(self.fd) {
            return Ok(None);
        }
        match pipe.fill(self.fd, None, most) {
            Ok(count) => Ok(Some(count)),
            // Of these none is a socket's own failure, which would be told no more.
            Err(
                libc::EINVAL
                | libc::EOPNOTSUPP
                | libc::ENOSYS
                | libc::ENOMEM
                | libc::EPERM
                | libc::EACCES,
            ) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Whether [`ByteEnd::send_from`] may be the way.
    #[must_use]
    pub fn sends_from_files(&self) -> bool {
        // sendfile(2) has no flag for one call that must not wait. splice(2) into a pipe has one, but
        // afterwards the pipe knows no RWF_NOWAIT, and a blocking one takes little at a time.
        self.kind == FileKind::Regular || !blocks(self.fd)
    }

    /// What it waits for when it is not ready.
    #[must_use]
    pub fn waiting(&self, events: i16) -> Waiting {
        Waiting::Descriptor { fd: self.fd, events, blocking: blocks(self.fd) }
    }

    /// Makes a call in the best way that the descriptor knows, and remembers it.
    fn in_best_way<T>(&mut self, mut make: impl FnMut(Fd, Way) -> Sys<T>) -> Sys<T> {
        loop {
            match (make(self.fd, self.way), self.way.lesser()) {
                (Err(errno), Some(lesser)) if sys::is_refusal(errno) => self.way = lesser,
                (answer, _) => return answer,
            }
        }
    }
}
