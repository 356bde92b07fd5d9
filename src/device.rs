//! The facts about a block device, even if its ioctls are forbidden.

use crate::sys::{self, Fd, Sys};

/// The sector that is assumed if a device does not report one. No common one is larger; if it is too large, some
/// zeros are written unnecessarily.
const SECTOR: u64 = 4096;

/// Bytes of a block device. The file position is kept.
pub fn size(fd: Fd) -> Sys<u64> {
    sys::device_size(fd).or_else(|errno| {
        if !sys::is_refusal(errno) {
            return Err(errno);
        }
        let position = sys::position(fd)?;
        let size = sys::seek_end(fd);
        sys::set_position(fd, position)?;
        size
    })
}

/// Bytes of a logical sector.
pub fn sector(fd: Fd) -> Sys<u64> {
    match sys::sector_size(fd) {
        Ok(sector) if sector.is_power_of_two() => Ok(sector),
        Ok(_) => Err(libc::EINVAL),
        Err(errno) if sys::is_refusal(errno) => Ok(SECTOR),
        Err(errno) => Err(errno),
    }
}
