//! The facts about a descriptor: its kind, size, identity, file system, flags and limits.

use super::{Call, Fd, Sys, call, wide};
use libc::{c_int, c_void};
use std::mem::MaybeUninit;

/// The kind of file that a descriptor refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file or a memfd.
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

/// The facts that fstat(2) reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// The kind of file.
    pub kind: FileKind,
    /// Bytes; 0 for a descriptor without a size, such as a block device.
    pub size: u64,
    /// Whether any block is allocated.
    pub allocated: bool,
}

/// fstat(2).
#[inline]
pub fn stat(fd: Fd) -> Sys<Stat> {
    let mut stat = MaybeUninit::<wide::stat>::uninit();
    // SAFETY: the buffer is a whole struct stat.
    call(Call::Fstat, 0, |_| unsafe { wide::fstat(fd, stat.as_mut_ptr()) } as isize)?;
    let stat = stat.as_ptr();
    // SAFETY: a call that succeeded has filled these members; it may leave the reserved ones.
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

/// The numbers that identify a file in its current state: device, inode, size, and time of the last modification
/// in nanoseconds. For a block device, which has no such time and no size here: its own number, and zeros.
#[allow(clippy::unnecessary_cast, reason = "the types differ between machines")]
pub fn identity(fd: Fd) -> Sys<[u64; 4]> {
    let mut stat = MaybeUninit::<wide::stat>::zeroed();
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

/// The magic number of a file's file system: fstatfs(2).
pub fn file_system(fd: Fd) -> Sys<u64> {
    let mut found = MaybeUninit::<wide::statfs>::zeroed();
    // SAFETY: the buffer is a whole struct statfs.
    call(Call::Fstatfs, 0, |_| unsafe { wide::fstatfs(fd, found.as_mut_ptr()) } as isize)?;
    // SAFETY: zeroed, and filled by a call that succeeded.
    let kind = unsafe { found.assume_init() }.f_type;
    Ok(kind as u64 & 0xffff_ffff)
}

/// The alignment of memory and of offsets for direct I/O on a file: statx(2) STATX_DIOALIGN. Both are 0 if the
/// file has no direct I/O. `ENODATA` if the kernel or the file system does not report it.
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

/// The seals of a memfd, 0 if it cannot be sealed or does not report them: fcntl(2) F_GET_SEALS.
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

// _IOWR('f', 11, struct fiemap), of 32 bytes: the same number on every machine.
const FIEMAP: libc::Ioctl = (3 << 30) | (32 << 16) | 0x660b;

/// Whether the extents of a file can be listed: ioctl(2) FS_IOC_FIEMAP, which counts those of one byte.
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
