//! Every system call, each a small safe function. The only unsafe code outside `ffi`.
//!
//! Nothing is retried and nothing is decided here: an errno is handed back as it came, `EINTR`
//! and `EAGAIN` included. All calls go through one gate, `call`, where a test build can make
//! any of them fail.

#![allow(unsafe_code)]

mod bytes;
pub mod memory;
// Compiled everywhere, so that it stays right.
#[allow(dead_code)]
pub mod no_uring;
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

pub use bytes::{Way, read, recv, send, write};
pub use passing::*;
pub use space::*;

use libc::{c_int, c_void};
use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd};
use std::time::Duration;

/// The result of a system call: its value, or the errno.
pub type Sys<T> = Result<T, i32>;

/// A file descriptor. It is never owned here.
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
    Poll,
    UringSetup,
    UringEnter,
    UringResult,
}

/// The changes that a test build may make to a system call before it is made.
#[cfg(any(test, feature = "fault-injection"))]
pub mod inject {
    use super::Call;
    use std::cell::RefCell;

    /// The injector's decision on one call.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Fault {
        /// Make the call as it is.
        None,
        /// Do not make it: answer this errno.
        Errno(i32),
        /// Make it with at most this many bytes.
        Short(usize),
    }

    type Injector = Box<dyn FnMut(Call) -> Fault>;

    thread_local! {
        static INJECTOR: RefCell<Option<Injector>> = const { RefCell::new(None) };
    }

    /// Runs `body` with `injector` asked before each system call of this thread.
    pub fn with<T>(injector: impl FnMut(Call) -> Fault + 'static, body: impl FnOnce() -> T) -> T {
        struct Reset;
        impl Drop for Reset {
            fn drop(&mut self) {
                INJECTOR.set(None);
            }
        }
        INJECTOR.set(Some(Box::new(injector)));
        let _reset = Reset;
        body()
    }

    pub(super) fn ask(call: Call) -> Fault {
        INJECTOR.with_borrow_mut(|injector| injector.as_mut().map_or(Fault::None, |ask| ask(call)))
    }
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

/// Whether an errno means that the system does not know a call, or a sandbox does not allow it. Some
/// launchers answer `EPERM` for all that they do not know.
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

/// The kind of file that a descriptor refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file, a memfd too.
    Regular,
    /// A block device.
    Block,
    /// A pipe or FIFO.
    Pipe,
    /// A socket.
    Socket,
    /// A character device.
    Character,
    /// A directory.
    Directory,
    /// Anything else: an epoll or eventfd descriptor, a symbolic link.
    Other,
}

/// The facts that fstat(2) tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// The kind of file.
    pub kind: FileKind,
    /// Bytes; 0 for what has no size, a block device too.
    pub size: u64,
    /// Whether any block is allocated.
    pub allocated: bool,
}

/// fstat(2).
#[inline]
pub fn stat(fd: Fd) -> Sys<Stat> {
    let mut stat = std::mem::MaybeUninit::<wide::stat>::uninit();
    // SAFETY: the buffer is a whole struct stat.
    call(Call::Fstat, 0, |_| unsafe { wide::fstat(fd, stat.as_mut_ptr()) } as isize)?;
    let stat = stat.as_ptr();
    // SAFETY: a call that succeeded has filled these members; of reserved ones nobody says so.
    let (mode, size, blocks) = unsafe { ((*stat).st_mode, (*stat).st_size, (*stat).st_blocks) };
    let kind = match mode & libc::S_IFMT {
        libc::S_IFREG => FileKind::Regular,
        kind => special_kind(kind),
    };
    Ok(Stat { kind, size: size.max(0) as u64, allocated: blocks > 0 })
}

#[cold]
fn special_kind(kind: libc::mode_t) -> FileKind {
    match kind {
        libc::S_IFBLK => FileKind::Block,
        libc::S_IFIFO => FileKind::Pipe,
        libc::S_IFSOCK => FileKind::Socket,
        libc::S_IFCHR => FileKind::Character,
        libc::S_IFDIR => FileKind::Directory,
        _ => FileKind::Other,
    }
}

/// The numbers that tell a file or a device from others, and from itself at another time: the device, the
/// inode, the size and the time of the last modification in nanoseconds. Of a block device, which has
/// no such time and no size here: the device's own number, and zeros.
#[allow(clippy::unnecessary_cast, reason = "the types differ between machines")]
pub fn identity(fd: Fd) -> Sys<[u64; 4]> {
    let mut stat = std::mem::MaybeUninit::<wide::stat>::zeroed();
    // SAFETY: the buffer is a whole struct stat.
    call(Call::Fstat, 0, |_| unsafe { wide::fstat(fd, stat.as_mut_ptr()) } as isize)?;
    // SAFETY: zeroed, and filled by a call that succeeded.
    let stat = unsafe { stat.assume_init() };
    if stat.st_mode & libc::S_IFMT == libc::S_IFBLK {
        return Ok([stat.st_rdev as u64, 0, 0, 0]);
    }
    let time =
        (stat.st_mtime as u64).wrapping_mul(1_000_000_000).wrapping_add(stat.st_mtime_nsec as u64);
    Ok([stat.st_dev as u64, stat.st_ino as u64, stat.st_size as u64, time])
}

/// The size of a file, by fstat(2).
pub fn size(fd: Fd) -> Sys<u64> {
    stat(fd).map(|stat| stat.size)
}

/// The magic number of the file system that a file is on: fstatfs(2).
pub fn file_system(fd: Fd) -> Sys<u64> {
    let mut found = std::mem::MaybeUninit::<wide::statfs>::zeroed();
    // SAFETY: the buffer is a whole struct statfs.
    call(Call::Fstatfs, 0, |_| unsafe { wide::fstatfs(fd, found.as_mut_ptr()) } as isize)?;
    // SAFETY: zeroed, and filled by a call that succeeded.
    let kind = unsafe { found.assume_init() }.f_type;
    Ok(kind as u64 & 0xffff_ffff)
}

/// The alignment that direct I/O on a file needs, of memory and of offsets: statx(2) STATX_DIOALIGN. Both
/// are 0 where a file has no direct I/O. `ENODATA` where the kernel or the file system does not report it.
pub fn direct_alignment(fd: Fd) -> Sys<(u32, u32)> {
    let mut found = MaybeUninit::<libc::statx>::zeroed();
    call(Call::Statx, 0, |_| {
        // SAFETY: an empty path, and a buffer that is a whole struct statx.
        unsafe {
            libc::statx(
                fd,
                c"".as_ptr(),
                libc::AT_EMPTY_PATH,
                libc::STATX_DIOALIGN,
                found.as_mut_ptr(),
            ) as isize
        }
    })?;
    // SAFETY: zeroed, and filled by a call that succeeded.
    let found = unsafe { found.assume_init() };
    if found.stx_mask & libc::STATX_DIOALIGN == 0 {
        return Err(libc::ENODATA);
    }
    Ok((found.stx_dio_mem_align, found.stx_dio_offset_align))
}

/// The flags of an open descriptor: fcntl(2) F_GETFL.
pub fn flags(fd: Fd) -> Sys<c_int> {
    // SAFETY: no memory is passed.
    call(Call::Fcntl, 0, |_| unsafe { libc::fcntl(fd, libc::F_GETFL) } as isize)
        .map(|flags| flags as c_int)
}

/// The seals of a memfd, 0 for what cannot be sealed or does not tell: fcntl(2) F_GET_SEALS.
pub fn seals(fd: Fd) -> c_int {
    // SAFETY: no memory is passed.
    call(Call::Fcntl, 0, |_| unsafe { libc::fcntl(fd, libc::F_GET_SEALS) } as isize)
        .map_or(0, |seals| seals as c_int)
}

/// A socket's type: SOCK_STREAM and the like.
pub fn socket_type(fd: Fd) -> Sys<c_int> {
    let mut value: c_int = 0;
    let mut length = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: value and its length are valid for the call.
    call(Call::Getsockopt, 0, |_| unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_TYPE,
            (&raw mut value).cast::<c_void>(),
            &raw mut length,
        )
    } as isize)?;
    Ok(value)
}

/// The largest offset that this process may write to: RLIMIT_FSIZE.
pub fn file_size_limit() -> Sys<u64> {
    let mut limit = wide::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the buffer is a whole struct rlimit.
    call(Call::Getrlimit, 0, |_| unsafe { wide::getrlimit(libc::RLIMIT_FSIZE, &raw mut limit) }
        as isize)?;
    Ok(if limit.rlim_cur == wide::RLIM_INFINITY { i64::MAX as u64 } else { limit.rlim_cur })
}

/// The file position: lseek(2) SEEK_CUR.
pub fn position(fd: Fd) -> Sys<u64> {
    seek(fd, 0, libc::SEEK_CUR)
}

/// Sets the file position: lseek(2) SEEK_SET.
pub fn set_position(fd: Fd, to: u64) -> Sys<()> {
    seek(fd, to, libc::SEEK_SET).map(drop)
}

/// Sets the file position to the end, and returns it: lseek(2) SEEK_END.
pub fn seek_end(fd: Fd) -> Sys<u64> {
    seek(fd, 0, libc::SEEK_END)
}

/// The start of the next data at or after `from`: lseek(2) SEEK_DATA. Moves the position.
pub fn seek_data(fd: Fd, from: u64) -> Sys<u64> {
    seek(fd, from, libc::SEEK_DATA)
}

/// The start of the next hole at or after `from`: lseek(2) SEEK_HOLE. Moves the position.
pub fn seek_hole(fd: Fd, from: u64) -> Sys<u64> {
    seek(fd, from, libc::SEEK_HOLE)
}

fn seek(fd: Fd, to: u64, whence: c_int) -> Sys<u64> {
    let to = offset(to)?;
    let mut position = 0;
    call(Call::Lseek, 0, |_| {
        // SAFETY: no memory is passed.
        position = unsafe { wide::lseek(fd, to, whence) };
        // It may not fit into what the gate returns.
        position.min(0) as isize
    })?;
    Ok(position as u64)
}

/// pread(2).
pub fn pread(fd: Fd, buffer: &mut [u8], from: u64) -> Sys<usize> {
    let from = offset(from)?;
    call(Call::Pread, buffer.len(), |length| {
        // SAFETY: at most buffer.len() bytes are written to the buffer.
        unsafe { wide::pread(fd, buffer.as_mut_ptr().cast(), length, from) }
    })
}

/// Reads the part of a range that can be read without waiting for a disk: preadv2(2) with RWF_NOWAIT.
pub fn pread_nowait(fd: Fd, buffer: &mut [u8], from: u64) -> Sys<usize> {
    let from = offset(from)?;
    call(Call::Pread, buffer.len(), |length| {
        let piece = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: length };
        // SAFETY: one piece of at most buffer.len() writable bytes.
        unsafe { wide::preadv2(fd, &raw const piece, 1, from, libc::RWF_NOWAIT) }
    })
}

/// Has a range read into the cache, mostly without waiting for it: posix_fadvise(2) WILLNEED.
pub fn will_need(fd: Fd, from: u64, length: u64) -> Sys<()> {
    advise(fd, from, length, libc::POSIX_FADV_WILLNEED)
}

fn advise(fd: Fd, from: u64, length: u64, advice: c_int) -> Sys<()> {
    let (from, length) = (offset(from)?, offset(length)?);
    // SAFETY: no memory is passed.
    match call(Call::Fadvise, 0, |_| unsafe { wide::posix_fadvise(fd, from, length, advice) }
        as isize)?
    {
        0 => Ok(()),
        // It returns the errno itself.
        errno => Err(errno as i32),
    }
}

/// Drops what the cache holds of a range, as far as it is on the medium: posix_fadvise(2) DONTNEED.
pub fn forget(fd: Fd, from: u64, length: u64) -> Sys<()> {
    advise(fd, from, length, libc::POSIX_FADV_DONTNEED)
}

/// pwrite(2).
pub fn pwrite(fd: Fd, buffer: &[u8], to: u64) -> Sys<usize> {
    let to = offset(to)?;
    call(Call::Pwrite, buffer.len(), |length| {
        // SAFETY: at most buffer.len() bytes are read from the buffer.
        unsafe { wide::pwrite(fd, buffer.as_ptr().cast(), length, to) }
    })
}

/// As [`pread`], of whole blocks: a test build does not cut what is asked for, which would be another
/// failure, but what comes back.
pub fn pread_blocks(fd: Fd, buffer: &mut [u8], from: u64) -> Sys<usize> {
    let from = offset(from)?;
    let length = buffer.len();
    call(Call::Pread, length, |most| {
        // SAFETY: at most buffer.len() bytes are written to the buffer.
        unsafe { libc::pread64(fd, buffer.as_mut_ptr().cast(), length, from) }.min(most as isize)
    })
}

/// As [`pwrite`], of whole blocks; see [`pread_blocks`].
pub fn pwrite_blocks(fd: Fd, buffer: &[u8], to: u64) -> Sys<usize> {
    let to = offset(to)?;
    let length = buffer.len();
    call(Call::Pwrite, length, |most| {
        // SAFETY: at most buffer.len() bytes are read from the buffer.
        unsafe { libc::pwrite64(fd, buffer.as_ptr().cast(), length, to) }.min(most as isize)
    })
}

/// Bytes of zeros that one call of [`pwrite_zeros`] writes at most.
pub const ZEROS_AT_ONCE: u64 = (ZERO_BYTES * ZERO_PIECES) as u64;

const ZERO_PIECES: usize = 16;
const ZERO_BYTES: usize = 64 << 10;

/// In a cell they are memory that is zero from the start; a constant would be 64 KiB of the library's file.
#[repr(align(4096))]
struct Zeros(UnsafeCell<[u8; ZERO_BYTES]>);
// SAFETY: nobody writes to it.
unsafe impl Sync for Zeros {}
static ZEROS: Zeros = Zeros(UnsafeCell::new([0; ZERO_BYTES]));

/// 64 KiB of zeros.
pub fn zeros() -> &'static [u8; ZERO_BYTES] {
    // SAFETY: nobody writes to it.
    unsafe { &*ZEROS.0.get() }
}

/// Writes zeros: pwritev(2) of the same zeros many times, so that no buffer of them is kept.
pub fn pwrite_zeros(fd: Fd, length: u64, to: u64) -> Sys<usize> {
    let to = offset(to)?;
    let most = length.min(ZEROS_AT_ONCE) as usize;
    call(Call::Pwrite, most, |most| {
        let zeros = zeros();
        let mut pieces =
            [libc::iovec { iov_base: zeros.as_ptr() as *mut c_void, iov_len: zeros.len() };
                ZERO_PIECES];
        let count = most.div_ceil(zeros.len()).max(1);
        if let Some(last) = pieces.get_mut(count - 1) {
            last.iov_len = most - (count - 1) * zeros.len();
        }
        // SAFETY: count <= ZERO_PIECES pieces, each within the zeros, which pwritev only reads.
        unsafe { wide::pwritev(fd, pieces.as_ptr(), count as c_int, to) }
    })
}

/// Bytes that are zero and take no memory before they are touched; `None` if there is no memory.
#[must_use]
pub fn zeroed(length: usize) -> Option<Vec<u8>> {
    let layout = std::alloc::Layout::array::<u8>(length.max(1)).ok()?;
    // SAFETY: the layout has a size that is not 0.
    let start = unsafe { std::alloc::alloc_zeroed(layout) };
    if start.is_null() {
        return None;
    }
    // SAFETY: from the global allocator, with the layout of a vector of this capacity, and all of
    // it initialised.
    Some(unsafe { Vec::from_raw_parts(start, length, length.max(1)) })
}

/// A value in memory of its own; `None` if there is no memory, where `Box::new` would end the process.
pub fn boxed<T>(value: T) -> Option<Box<T>> {
    let mut room: Vec<UnsafeCell<MaybeUninit<T>>> = Vec::new();
    room.try_reserve_exact(1).ok()?;
    room.push(UnsafeCell::new(MaybeUninit::new(value)));
    let raw = Box::into_raw(room.into_boxed_slice());
    // SAFETY: the slice has one element, whose layout is T's, and it is initialised.
    Some(unsafe { Box::from_raw(raw.cast::<T>()) })
}

/// ftruncate(2).
pub fn truncate(fd: Fd, size: u64) -> Sys<()> {
    let size = offset(size)?;
    // SAFETY: no memory is passed.
    call(Call::Ftruncate, 0, |_| unsafe { wide::ftruncate(fd, size) } as isize).map(drop)
}

/// fsync(2).
pub fn sync(fd: Fd) -> Sys<()> {
    // SAFETY: no memory is passed.
    call(Call::Fsync, 0, |_| unsafe { libc::fsync(fd) } as isize).map(drop)
}

/// Writes back what is only in the cache: fdatasync(2). A descriptor that is only open for reading
/// will do.
pub fn sync_data(fd: Fd) -> Sys<()> {
    // SAFETY: no memory is passed.
    call(Call::Fdatasync, 0, |_| unsafe { libc::fdatasync(fd) } as isize).map(drop)
}

// _IOWR('f', 11, struct fiemap), whose 32 bytes go both ways: the same number on every machine.
const FIEMAP: libc::Ioctl = (3 << 30) | (32 << 16) | 0x660b;

/// Whether the extents of a file can be listed: ioctl(2) FS_IOC_FIEMAP, which counts those at one
/// byte.
pub fn lists_extents(fd: Fd, at: u64) -> bool {
    // struct fiemap of linux/fiemap.h, without room for extents.
    #[repr(C)]
    struct Fiemap {
        start: u64,
        length: u64,
        flags: u32,
        mapped_extents: u32,
        extent_count: u32,
        reserved: u32,
    }
    let mut request =
        Fiemap { start: at, length: 1, flags: 0, mapped_extents: 0, extent_count: 0, reserved: 0 };
    // SAFETY: FS_IOC_FIEMAP reads and writes a whole struct fiemap, and no extent where there is
    // room for none.
    call(Call::Ioctl, 0, |_| unsafe { libc::ioctl(fd, FIEMAP, &raw mut request) } as isize).is_ok()
}

/// Waits until the descriptor has one of `events`, or an error, or the time is over: poll(2).
/// Returns the events, 0 when the time is over.
pub fn poll(fd: Fd, events: i16, time: Duration) -> Sys<i16> {
    let mut entry = libc::pollfd { fd, events, revents: 0 };
    // SAFETY: one whole pollfd.
    call(Call::Poll, 0, |_| unsafe { libc::poll(&raw mut entry, 1, milliseconds(time)) } as isize)?;
    Ok(entry.revents)
}

/// Milliseconds for poll(2), rounded up: to come back early is to come back twice.
fn milliseconds(time: Duration) -> c_int {
    c_int::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(c_int::MAX)
}

/// Sleeps: nanosleep(2). A signal ends it early.
pub fn sleep(time: Duration) {
    let time = libc::timespec {
        tv_sec: libc::time_t::try_from(time.as_secs()).unwrap_or(libc::time_t::MAX),
        // Less than a second in nanoseconds fits.
        tv_nsec: time.subsec_nanos() as libc::c_long,
    };
    // SAFETY: a whole timespec, and nowhere to put the rest.
    unsafe { libc::nanosleep(&raw const time, std::ptr::null_mut()) };
}

/// Waits until one of the descriptors has one of its events, or an error, or the time is over: poll(2).
pub fn poll_any(watched: &[crate::wait::Watched], time: Duration) -> Sys<()> {
    let mut entries = [libc::pollfd { fd: -1, events: 0, revents: 0 }; crate::wait::Watch::MOST];
    for (entry, watched) in entries.iter_mut().zip(watched) {
        *entry = libc::pollfd { fd: watched.fd, events: watched.events, revents: 0 };
    }
    let count = watched.len().min(entries.len());
    // SAFETY: that many whole pollfds.
    let mut wait =
        || unsafe { libc::poll(entries.as_mut_ptr(), count as libc::nfds_t, milliseconds(time)) };
    call(Call::Poll, 0, |_| wait() as isize)?;
    Ok(())
}

/// An errno in the system's words, in the thread's language: strerror_r(3).
pub fn words(errno: i32, buffer: &mut [u8; 96]) -> &str {
    // SAFETY: the buffer is writable for its length, and the result is ended by a NUL byte.
    unsafe { libc::strerror_r(errno, buffer.as_mut_ptr().cast(), buffer.len()) };
    let text = std::ffi::CStr::from_bytes_until_nul(buffer).unwrap_or_default();
    text.to_str().unwrap_or("error")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn zeros_of_any_length() {
        let file = crate::testing::file();
        let fd = file.as_raw_fd();
        for length in [1, 4095, 4096, 4097, 10_000, ZEROS_AT_ONCE - 1, ZEROS_AT_ONCE] {
            truncate(fd, 0).unwrap();
            assert_eq!(pwrite_zeros(fd, length, 3), Ok(length as usize));
            assert_eq!(size(fd), Ok(3 + length));
        }
        assert_eq!(pwrite_zeros(fd, u64::MAX, 0), Ok(ZEROS_AT_ONCE as usize));
    }

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

    #[test]
    fn words_of_any_number() {
        let mut buffer = [0; 96];
        assert_eq!(words(libc::ENOENT, &mut buffer), "No such file or directory");
        assert!(!words(i32::MIN, &mut buffer).is_empty());
    }

    #[test]
    fn the_injector_is_asked_and_gone_afterwards() {
        let file = crate::testing::file();
        let fd = file.as_raw_fd();
        let faults = inject::with(
            |call| match call {
                Call::Fsync => inject::Fault::Errno(libc::EIO),
                Call::Pwrite => inject::Fault::Short(2),
                _ => inject::Fault::None,
            },
            || (sync(fd), pwrite(fd, b"abc", 0)),
        );
        assert_eq!(faults, (Err(libc::EIO), Ok(2)));
        assert_eq!((sync(fd), pwrite(fd, b"abc", 0)), (Ok(()), Ok(3)));
    }
}
