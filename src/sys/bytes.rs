//! Reads and writes in order, for pipes, sockets and character devices. They never wait and never raise SIGPIPE.

use super::{Call, Fd, Sys, call, errno, flags, poll, wide};
use libc::c_int;
use std::time::Duration;

/// The ways in which [`read()`] and [`write()`] avoid to wait and to raise SIGPIPE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// With flags of the call: RWF_NOWAIT, and RWF_NOSIGNAL (Linux 6.18) for a write.
    Flags,
    /// As `Flags`, with SIGPIPE blocked in the thread's signal mask.
    Mask,
    /// With poll(2) first, unless it has O_NONBLOCK. For descriptors without RWF_NOWAIT, such as a pipe on which
    /// splice(2) was used.
    Poll,
    /// A plain call, for a regular file, which is always ready.
    Plain,
}

impl Way {
    /// The next way, if the kernel does not support this one.
    #[must_use]
    pub fn lesser(self) -> Option<Self> {
        match self {
            Way::Flags => Some(Way::Mask),
            Way::Mask => Some(Way::Poll),
            Way::Poll | Way::Plain => None,
        }
    }
}

const RWF_NOSIGNAL: c_int = 0x100;

/// The most bytes that are written after poll(2): a pipe that is ready takes them without blocking.
const PIPE_BUF: usize = 4096;

/// Reads available bytes into the first buffer and then into the second, without waiting. `EOPNOTSUPP`: use the
/// next way.
pub fn read(fd: Fd, first: &mut [u8], second: &mut [u8], way: Way) -> Sys<usize> {
    if way == Way::Poll && poll(fd, libc::POLLIN, Duration::ZERO)? == 0 {
        return Err(libc::EAGAIN);
    }
    call(Call::Read, first.len() + second.len(), |length| {
        let pieces = two_pieces((first.as_mut_ptr(), first.len()), second.as_mut_ptr(), length);
        // SAFETY: two pieces of at most their buffers' writable bytes; -1 stands for the position.
        unsafe {
            match way {
                Way::Flags | Way::Mask => {
                    wide::preadv2(fd, pieces.as_ptr(), 2, -1, libc::RWF_NOWAIT)
                }
                Way::Poll | Way::Plain => libc::readv(fd, pieces.as_ptr(), 2),
            }
        }
    })
}

/// Writes as much as possible of the first buffer and then of the second, without waiting and without SIGPIPE.
/// `EOPNOTSUPP`: use the next way.
pub fn write(fd: Fd, first: &[u8], second: &[u8], way: Way) -> Sys<usize> {
    match way {
        Way::Flags => write_flags(fd, first, second, libc::RWF_NOWAIT | RWF_NOSIGNAL),
        Way::Mask => without_sigpipe(|| write_flags(fd, first, second, libc::RWF_NOWAIT)),
        Way::Poll if flags(fd)? & libc::O_NONBLOCK != 0 => {
            without_sigpipe(|| write_plain(fd, first, second))
        }
        Way::Poll => {
            if poll(fd, libc::POLLOUT, Duration::ZERO)? == 0 {
                return Err(libc::EAGAIN);
            }
            let first = &first[..first.len().min(PIPE_BUF)];
            let second = &second[..second.len().min(PIPE_BUF - first.len())];
            without_sigpipe(|| write_plain(fd, first, second))
        }
        Way::Plain => write_plain(fd, first, second),
    }
}

/// Two buffers as the pieces of one call that moves at most `length` bytes.
fn two_pieces(first: (*mut u8, usize), second: *mut u8, length: usize) -> [libc::iovec; 2] {
    let head = first.1.min(length);
    [
        libc::iovec { iov_base: first.0.cast(), iov_len: head },
        libc::iovec { iov_base: second.cast(), iov_len: length - head },
    ]
}

/// As [`two_pieces`], for buffers that the call only reads.
fn two_pieces_to_write(first: &[u8], second: &[u8], length: usize) -> [libc::iovec; 2] {
    two_pieces((first.as_ptr().cast_mut(), first.len()), second.as_ptr().cast_mut(), length)
}

fn write_flags(fd: Fd, first: &[u8], second: &[u8], flags: c_int) -> Sys<usize> {
    call(Call::Write, first.len() + second.len(), |length| {
        let pieces = two_pieces_to_write(first, second, length);
        // SAFETY: two pieces of at most their buffers' readable bytes; -1 stands for the position.
        unsafe { wide::pwritev2(fd, pieces.as_ptr(), 2, -1, flags) }
    })
}

fn write_plain(fd: Fd, first: &[u8], second: &[u8]) -> Sys<usize> {
    call(Call::Write, first.len() + second.len(), |length| {
        let pieces = two_pieces_to_write(first, second, length);
        // SAFETY: two pieces of at most their buffers' readable bytes.
        unsafe { libc::writev(fd, pieces.as_ptr(), 2) }
    })
}

/// Makes a write with SIGPIPE blocked in this thread, and removes the one that it raised. One that was pending
/// before stays pending.
pub(super) fn without_sigpipe(write: impl FnOnce() -> Sys<usize>) -> Sys<usize> {
    // SAFETY: a sigset_t is plain data that sigemptyset initialises.
    let mut sigpipe: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    let mut pending: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    let mut mask: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: all sets are whole and live; the calls fail only for a signal that does not exist.
    let was_pending = unsafe {
        libc::sigemptyset(&raw mut sigpipe);
        libc::sigaddset(&raw mut sigpipe, libc::SIGPIPE);
        libc::sigpending(&raw mut pending);
        let failed = libc::pthread_sigmask(libc::SIG_BLOCK, &raw const sigpipe, &raw mut mask);
        if failed != 0 {
            return Err(failed);
        }
        libc::sigismember(&raw const pending, libc::SIGPIPE) == 1
    };
    let result = write();
    // SAFETY: as above; the timeout is a whole timespec.
    unsafe {
        if result == Err(libc::EPIPE) && !was_pending {
            let none = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            while libc::sigtimedwait(&raw const sigpipe, std::ptr::null_mut(), &raw const none)
                == -1
                && errno() == libc::EINTR
            {}
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const mask, std::ptr::null_mut());
    }
    result
}

/// recvmsg(2) of available bytes into two buffers, the first one first, without waiting.
pub fn recv(fd: Fd, first: &mut [u8], second: &mut [u8]) -> Sys<usize> {
    call(Call::Recv, first.len() + second.len(), |length| {
        let mut pieces = two_pieces((first.as_mut_ptr(), first.len()), second.as_mut_ptr(), length);
        let mut message = message(&mut pieces);
        // SAFETY: two pieces of at most their buffers' writable bytes, and nothing else.
        unsafe { libc::recvmsg(fd, &raw mut message, libc::MSG_DONTWAIT) }
    })
}

/// sendmsg(2) of as much as possible of two buffers, the first one first, without waiting and without SIGPIPE.
pub fn send(fd: Fd, first: &[u8], second: &[u8]) -> Sys<usize> {
    call(Call::Send, first.len() + second.len(), |length| {
        let mut pieces = two_pieces_to_write(first, second, length);
        let message = message(&mut pieces);
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: two pieces of at most their buffers' readable bytes, and nothing else.
        unsafe { libc::sendmsg(fd, &raw const message, flags) }
    })
}

/// A message of two pieces, without address or control data.
fn message(pieces: &mut [libc::iovec; 2]) -> libc::msghdr {
    // SAFETY: a msghdr is plain data, whose zero stands for nothing.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = pieces.as_mut_ptr();
    message.msg_iovlen = 2;
    message
}

#[cfg(test)]
mod tests {
    use super::super::blocking_pipe;
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_closed_pipe_is_an_errno_in_every_way() {
        for way in [Way::Flags, Way::Mask, Way::Poll] {
            let (reader, writer) = blocking_pipe();
            drop(reader);
            match write(writer.as_raw_fd(), b"x", b"y", way) {
                Err(libc::EPIPE) => {}
                Err(libc::EOPNOTSUPP) if way == Way::Flags => {}
                other => panic!("{way:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn an_empty_pipe_does_not_block_in_any_way() {
        let (reader, _writer) = blocking_pipe();
        for way in [Way::Flags, Way::Mask, Way::Poll] {
            assert_eq!(
                read(reader.as_raw_fd(), &mut [0], &mut [0], way),
                Err(libc::EAGAIN),
                "{way:?}"
            );
        }
    }
}
