//! Reads and writes at offsets, the file position, and calls for the page cache and the medium.

use super::{Call, Fd, Sys, call, offset, wide};
use libc::c_int;

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
        // It may not fit into the return type of the gate.
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

/// As [`pread`], of whole blocks: a test build cuts the result and not the request, whose length must stay
/// aligned.
pub fn pread_blocks(fd: Fd, buffer: &mut [u8], from: u64) -> Sys<usize> {
    let from = offset(from)?;
    let length = buffer.len();
    call(Call::Pread, length, |most| {
        // SAFETY: at most buffer.len() bytes are written to the buffer.
        unsafe { libc::pread64(fd, buffer.as_mut_ptr().cast(), length, from) }.min(most as isize)
    })
}

/// pwrite(2).
pub fn pwrite(fd: Fd, buffer: &[u8], to: u64) -> Sys<usize> {
    let to = offset(to)?;
    call(Call::Pwrite, buffer.len(), |length| {
        // SAFETY: at most buffer.len() bytes are read from the buffer.
        unsafe { wide::pwrite(fd, buffer.as_ptr().cast(), length, to) }
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

/// Has a range read into the cache, mostly without waiting for it: posix_fadvise(2) WILLNEED.
pub fn will_need(fd: Fd, from: u64, length: u64) -> Sys<()> {
    advise(fd, from, length, libc::POSIX_FADV_WILLNEED)
}

/// Drops the cached pages of a range that are on the medium: posix_fadvise(2) DONTNEED.
pub fn forget(fd: Fd, from: u64, length: u64) -> Sys<()> {
    advise(fd, from, length, libc::POSIX_FADV_DONTNEED)
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

/// Writes back the dirty pages of a file: fdatasync(2). The descriptor may be open for reading only.
pub fn sync_data(fd: Fd) -> Sys<()> {
    // SAFETY: no memory is passed.
    call(Call::Fdatasync, 0, |_| unsafe { libc::fdatasync(fd) } as isize).map(drop)
}

/// Begins to write back the dirty pages of a range, and does not wait: sync_file_range(2).
pub fn begin_writeback(fd: Fd, from: u64, length: u64) -> Sys<()> {
    let (from, length) = (offset(from)?, offset(length)?);
    let flags = libc::SYNC_FILE_RANGE_WRITE;
    // SAFETY: no memory is passed.
    let begin = |_| unsafe { libc::sync_file_range(fd, from, length, flags) } as isize;
    call(Call::SyncFileRange, 0, begin).map(drop)
}
