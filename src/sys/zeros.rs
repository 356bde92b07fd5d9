//! Writes of zeros without a buffer.

use super::{Call, Fd, Sys, call, offset, wide};
use libc::{c_int, c_void};
use std::cell::UnsafeCell;

/// Bytes of zeros that one call of [`pwrite_zeros`] writes at most.
pub const ZEROS_AT_ONCE: u64 = (ZERO_BYTES * ZERO_PIECES) as u64;

const ZERO_PIECES: usize = 16;
const ZERO_BYTES: usize = 64 << 10;

/// In a cell they are in .bss; a constant would take 64 KiB of the library's file.
#[repr(align(4096))]
struct Zeros(UnsafeCell<[u8; ZERO_BYTES]>);
// SAFETY: it is never written to.
unsafe impl Sync for Zeros {}
static ZEROS: Zeros = Zeros(UnsafeCell::new([0; ZERO_BYTES]));

/// 64 KiB of zeros.
pub fn zeros() -> &'static [u8; ZERO_BYTES] {
    // SAFETY: it is never written to.
    unsafe { &*ZEROS.0.get() }
}

/// Writes zeros: one pwritev(2) that names the same zeros many times.
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

#[cfg(test)]
mod tests {
    use super::super::{size, truncate};
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
}
