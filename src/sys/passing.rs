//! Calls that move data within the kernel, and the pipes and eventfds of this library.

use super::bytes::without_sigpipe;
use super::{Call, Fd, Sys, call, errno, offset, wide};
use libc::c_int;
use std::os::fd::{FromRawFd, OwnedFd};

/// Copies within the kernel, or shares the blocks: copy_file_range(2). It fills holes.
pub fn copy_file_range(from: Fd, at: u64, to: Fd, to_at: u64, length: u64) -> Sys<u64> {
    let (mut at, mut to_at) = (offset(at)?, offset(to_at)?);
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    call(Call::CopyFileRange, length, |length| {
        // SAFETY: both offsets are live and writable.
        unsafe { libc::copy_file_range(from, &raw mut at, to, &raw mut to_at, length, 0) }
    })
    .map(|count| count as u64)
}

// From linux/fs.h: _IOW(0x94, 13, struct file_clone_range), of 32 bytes.
const FICLONERANGE: libc::Ioctl = {
    let direction = if cfg!(any(
        target_arch = "powerpc",
        target_arch = "powerpc64",
        target_arch = "mips",
        target_arch = "mips64",
        target_arch = "sparc64"
    )) {
        4 << 29
    } else {
        1 << 30
    };
    direction | (32 << 16) | 0x940d
};

/// Shares blocks between files of one file system: ioctl(2) FICLONERANGE. It copies nothing.
pub fn clone_range(from: Fd, at: u64, to: Fd, to_at: u64, length: u64) -> Sys<()> {
    // struct file_clone_range of linux/fs.h.
    #[repr(C)]
    struct Range {
        from: i64,
        at: u64,
        length: u64,
        to_at: u64,
    }
    let range = Range { from: from.into(), at, length, to_at };
    // SAFETY: FICLONERANGE reads a whole struct file_clone_range.
    call(Call::Ioctl, 0, |_| unsafe { libc::ioctl(to, FICLONERANGE, &raw const range) } as isize)
        .map(drop)
}

/// Sends from a file without a copy, and without raising SIGPIPE: sendfile(2). It waits unless `to`
/// is in non-blocking mode.
pub fn sendfile(from: Fd, at: u64, to: Fd, length: u64) -> Sys<u64> {
    let mut at = offset(at)?;
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    without_sigpipe(|| {
        call(Call::Sendfile, length, |length| {
            // SAFETY: the offset is live and writable.
            unsafe { wide::sendfile(to, from, &raw mut at, length) }
        })
    })
    .map(|count| count as u64)
}

/// A pipe with O_NONBLOCK and O_CLOEXEC, as its read end and its write end: pipe2(2).
pub fn pipe() -> Sys<(OwnedFd, OwnedFd)> {
    let mut ends = [-1; 2];
    call(Call::Pipe, 0, |_| {
        // SAFETY: room for the two descriptors.
        unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) as isize }
    })?;
    // SAFETY: both were just opened, and have no other owner.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

/// An eventfd that is not set. It is never descriptor 0, 1 or 2, or the output of the process would set it.
pub fn eventfd() -> Sys<OwnedFd> {
    let open = |_| {
        // SAFETY: no memory is passed.
        unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) as isize }
    };
    let fd = call(Call::Eventfd, 0, open)? as Fd;
    // SAFETY: it was just opened, and has no other owner.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    if fd > libc::STDERR_FILENO {
        return Ok(owned);
    }
    let least = libc::STDERR_FILENO + 1;
    // SAFETY: no memory is passed.
    let again = |_| unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, least) as isize };
    let fd = call(Call::Fcntl, 0, again)? as Fd;
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets an eventfd, so that it is readable, or resets it. Neither can fail, because the counter is 0 or 1. So
/// the gate, which could make them fail in a test, is not used.
pub fn set_eventfd(fd: Fd, on: bool) {
    let mut value: u64 = 1;
    let size = size_of::<u64>();
    loop {
        // SAFETY: eight bytes, readable and writable.
        let count = unsafe {
            if on {
                libc::write(fd, (&raw const value).cast(), size)
            } else {
                libc::read(fd, (&raw mut value).cast(), size)
            }
        };
        if count >= 0 || errno() != libc::EINTR {
            return;
        }
    }
}

/// A pipe whose ends block, for tests: std has one since Rust 1.87.
#[cfg(any(test, feature = "fault-injection"))]
#[must_use]
pub fn blocking_pipe() -> (std::fs::File, std::fs::File) {
    use std::os::fd::AsRawFd;
    let (read, write) = pipe().expect("a pipe can be made");
    for end in [read.as_raw_fd(), write.as_raw_fd()] {
        // SAFETY: no memory is passed.
        assert_eq!(unsafe { libc::fcntl(end, libc::F_SETFL, 0) }, 0);
    }
    (read.into(), write.into())
}

/// Makes a pipe hold this many bytes if it may, and returns how many it holds: fcntl(2).
pub fn set_pipe_size(fd: Fd, bytes: c_int) -> Sys<usize> {
    // SAFETY: no memory is passed.
    call(Call::Fcntl, 0, |_| unsafe { libc::fcntl(fd, libc::F_SETPIPE_SZ, bytes) } as isize)
        .or_else(|_| {
            // SAFETY: no memory is passed.
            call(Call::Fcntl, 0, |_| unsafe { libc::fcntl(fd, libc::F_GETPIPE_SZ) } as isize)
        })
}

/// As [`splice`], from a file to a pipe of another reader: without raising SIGPIPE.
pub fn splice_to_pipe(from: Fd, at: u64, to: Fd, length: u64) -> Sys<u64> {
    without_sigpipe(|| splice(from, Some(at), to, None, length).map(|count| count as usize))
        .map(|count| count as u64)
}

/// Moves pages between a pipe and a file, a socket or another pipe: splice(2). It never waits for a pipe, and
/// for a socket only in blocking mode.
pub fn splice(from: Fd, at: Option<u64>, to: Fd, to_at: Option<u64>, length: u64) -> Sys<u64> {
    let mut at = at.map(offset).transpose()?;
    let mut to_at = to_at.map(offset).transpose()?;
    let pointer =
        |at: &mut Option<wide::off_t>| at.as_mut().map_or(std::ptr::null_mut(), |at| &raw mut *at);
    let (at, to_at) = (pointer(&mut at), pointer(&mut to_at));
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    call(Call::Splice, length, |length| {
        let flags = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;
        // SAFETY: both offsets are null, or live and writable.
        unsafe { libc::splice(from, at, to, to_at, length, flags) }
    })
    .map(|count| count as u64)
}
