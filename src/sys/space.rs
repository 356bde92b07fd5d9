//! Holes and zeros in files and block devices, and the sizes of devices.

use super::{Call, Fd, Sys, call, offset, wide};
use libc::c_int;

/// Makes a hole within the size: fallocate(2) PUNCH_HOLE.
pub fn punch_hole(fd: Fd, at: u64, length: u64) -> Sys<()> {
    fallocate(fd, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, at, length)
}

/// Makes a range read zero, and keeps its blocks allocated: fallocate(2) ZERO_RANGE.
pub fn zero_range(fd: Fd, at: u64, length: u64) -> Sys<()> {
    fallocate(fd, libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE, at, length)
}

fn fallocate(fd: Fd, mode: c_int, at: u64, length: u64) -> Sys<()> {
    let (at, length) = (offset(at)?, offset(length)?);
    // SAFETY: no memory is passed.
    call(Call::Fallocate, 0, |_| unsafe { wide::fallocate(fd, mode, at, length) } as isize)
        .map(drop)
}

// From linux/fs.h: _IO(0x12, 127), _IOR(0x12, 114, size_t), _IO(0x12, 104).
const BLKZEROOUT: libc::Ioctl = 0x127f;
const BLKSSZGET: libc::Ioctl = 0x1268;
const BLKGETSIZE64: libc::Ioctl = {
    let size = size_of::<usize>() as libc::Ioctl;
    if cfg!(any(
        target_arch = "powerpc",
        target_arch = "powerpc64",
        target_arch = "mips",
        target_arch = "mips64",
        target_arch = "sparc64"
    )) {
        (2 << 29) | (size << 16) | 0x1272
    } else {
        (2 << 30) | (size << 16) | 0x1272
    }
};

/// Makes a range of a block device read zero: ioctl(2) BLKZEROOUT.
pub fn zero_out(fd: Fd, at: u64, length: u64) -> Sys<()> {
    let range = [at, length];
    // SAFETY: BLKZEROOUT reads two u64.
    call(Call::Ioctl, 0, |_| unsafe { libc::ioctl(fd, BLKZEROOUT, range.as_ptr()) } as isize)
        .map(drop)
}

/// Bytes of a block device: ioctl(2) BLKGETSIZE64, which leaves the position alone.
pub fn device_size(fd: Fd) -> Sys<u64> {
    let mut size = 0u64;
    // SAFETY: BLKGETSIZE64 writes one u64.
    call(Call::Ioctl, 0, |_| unsafe { libc::ioctl(fd, BLKGETSIZE64, &raw mut size) } as isize)?;
    Ok(size)
}

/// Bytes that can be read from a pipe, a socket or a terminal now: ioctl(2) FIONREAD.
pub fn readable_bytes(fd: Fd) -> Sys<u64> {
    let mut count: c_int = 0;
    // SAFETY: the count is an int, which FIONREAD writes.
    call(Call::Ioctl, 0, |_| unsafe { libc::ioctl(fd, libc::FIONREAD, &raw mut count) } as isize)?;
    Ok(u64::try_from(count).unwrap_or_default())
}

/// Bytes of a block device's logical sector: ioctl(2) BLKSSZGET.
pub fn sector_size(fd: Fd) -> Sys<u64> {
    let mut size: c_int = 0;
    // SAFETY: BLKSSZGET writes one int.
    call(Call::Ioctl, 0, |_| unsafe { libc::ioctl(fd, BLKSSZGET, &raw mut size) } as isize)?;
    u64::try_from(size).map_err(|_| libc::EINVAL)
}
