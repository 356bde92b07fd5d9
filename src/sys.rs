//! Every system call, each a small safe function. The only unsafe code outside `ffi`.
//!
//! Nothing is retried and nothing is decided here: each errno is returned, `EINTR` and `EAGAIN` included. All
//! calls go through one gate, `call`, where a test build can make any of them fail.
//!
//! | module | subject |
//! |---|---|
//! | this one | the gate |
//! | `inject` | failures that a test build makes |
//! | `facts` | the kind, size, identity and flags of a descriptor |
//! | `offsets` | reading and writing at offsets, the file position, the cache |
//! | `zeros` | zeros that are written without a buffer of them |
//! | `space` | holes and zeros in files and block devices |
//! | `bytes` | pipes, sockets and character devices |
//! | `passing` | data that moves within the kernel |
//! | `waiting` | descriptors to wait for, and time |
//! | `cancellation` | whether the thread can be cancelled |
//! | `allocate`, `arc`, [`memory`] | allocations that may fail; with several owners; memory whose parts have owners |
//! | [`uring`], [`no_uring`] | rings of io_uring, and machines without |

#![allow(unsafe_code)]

mod allocate;
mod arc;
mod bytes;
mod cancellation;
mod facts;
#[cfg(any(test, feature = "fault-injection"))]
pub mod inject;
pub mod memory;
// Compiled everywhere, so that it stays right.
#[allow(dead_code)]
pub mod no_uring;
mod offsets;
mod passing;
mod space;
// The machines that the crate io-uring knows, as in Cargo.toml.
#[cfg(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "riscv64",
    target_arch = "loongarch64",
    target_arch = "powerpc64"
))]
pub mod uring;
#[cfg(not(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "riscv64",
    target_arch = "loongarch64",
    target_arch = "powerpc64"
)))]
pub use no_uring as uring;
mod waiting;
mod zeros;

pub use allocate::*;
pub use arc::Arc;
pub use bytes::{Way, read, recv, send, write};
pub use cancellation::Cancellation;
pub use facts::*;
pub use offsets::*;
pub use passing::*;
pub use space::*;
pub use waiting::*;
pub use zeros::*;

use libc::c_int;

/// The result of a system call: its value, or the errno.
pub type Sys<T> = Result<T, i32>;

/// A file descriptor, owned by the caller.
pub type Fd = c_int;

/// The system calls, as the injector names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Call {
    Fstat,
    Fstatfs,
    Statx,
    Fcntl,
    Getsockopt,
    Getrlimit,
    Ioctl,
    Lseek,
    Pread,
    Fadvise,
    Pwrite,
    Read,
    Write,
    Recv,
    Send,
    CopyFileRange,
    Sendfile,
    Pipe,
    Eventfd,
    Splice,
    Fallocate,
    Ftruncate,
    Fsync,
    Fdatasync,
    SyncFileRange,
    Poll,
    Mmap,
    Madvise,
    UringSetup,
    UringEnter,
    UringResult,
}

/// Calls and types with offsets of 64 bits. On 32-bit machines glibc has them under names of their own.
mod wide {
    #[cfg(not(target_env = "gnu"))]
    pub use libc::{
        RLIM_INFINITY, fallocate, fstat, fstatfs, ftruncate, getrlimit, lseek, off_t,
        posix_fadvise, pread, preadv2, pwrite, pwritev, pwritev2, rlimit, sendfile, stat, statfs,
    };
    #[cfg(target_env = "gnu")]
    pub use libc::{
        RLIM64_INFINITY as RLIM_INFINITY, fallocate64 as fallocate, fstat64 as fstat,
        fstatfs64 as fstatfs, ftruncate64 as ftruncate, getrlimit64 as getrlimit, lseek64 as lseek,
        off64_t as off_t, posix_fadvise64 as posix_fadvise, pread64 as pread,
        preadv64v2 as preadv2, pwrite64 as pwrite, pwritev64 as pwritev, pwritev64v2 as pwritev2,
        rlimit64 as rlimit, sendfile64 as sendfile, stat64 as stat, statfs64 as statfs,
    };
}
use wide::off_t;

/// The gate: makes a system call that moves at most `length` bytes (0: that moves none) and turns
/// -1 into the errno.
#[inline]
fn call(name: Call, length: usize, make: impl FnOnce(usize) -> isize) -> Sys<usize> {
    #[cfg(any(test, feature = "fault-injection"))]
    let length = match inject::ask(name) {
        inject::Fault::None => length,
        inject::Fault::Errno(errno) => return Err(errno),
        inject::Fault::Short(most) => length.min(most),
    };
    #[cfg(not(any(test, feature = "fault-injection")))]
    let _ = name;
    match make(length) {
        -1 => Err(errno()),
        value => Ok(value as usize),
    }
}

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// Runs something that may change errno, and restores errno: a signal handler must not change it.
pub fn keep_errno(body: impl FnOnce()) {
    // SAFETY: the place belongs to this thread, and lives as long as that.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { *place };
    body();
    // SAFETY: as above.
    unsafe { *place = before };
}

/// Whether an errno means that the kernel does not know a call, or that a sandbox forbids it. Some launchers
/// return `EPERM` for every call that they do not know.
#[must_use]
pub fn is_refusal(errno: i32) -> bool {
    matches!(
        errno,
        libc::ENOSYS | libc::EPERM | libc::EACCES | libc::EINVAL | libc::EOPNOTSUPP | libc::ENOTTY
    )
}

/// Offsets that the kernel takes are signed.
fn offset(value: u64) -> Sys<off_t> {
    off_t::try_from(value).map_err(|_| libc::EOVERFLOW)
}

/// The system's text for an errno, in the thread's language: strerror_r(3).
pub fn words(errno: i32, buffer: &mut [u8; 96]) -> &str {
    // SAFETY: the buffer is writable for its length, and the result is ended by a NUL byte.
    unsafe { libc::strerror_r(errno, buffer.as_mut_ptr().cast(), buffer.len()) };
    let text = std::ffi::CStr::from_bytes_until_nul(buffer).unwrap_or_default();
    text.to_str().unwrap_or("error")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_any_number() {
        let mut buffer = [0; 96];
        assert_eq!(words(libc::ENOENT, &mut buffer), "No such file or directory");
        assert!(!words(i32::MIN, &mut buffer).is_empty());
    }
}
