//! Size-first structs: how a caller's struct of any version is read and written.
//!
//! A short struct is padded with defaults (zeros); a longer one is accepted while its tail is
//! zero. Both directions are bounded by the caller's `size`, which is itself bounded.

use crate::error::{Error, Result};
use std::mem::size_of;

/// More than any struct of a later version will have: a larger `size` is a mistake of the caller.
const MOST: u64 = 4096;

/// A `#[repr(C)]` struct that begins with `size: u64` and whose all-zero value is its default.
///
/// # Safety
/// The implementor is `repr(C)`, `Copy`, starts with a `u64` size, and every bit pattern is a valid value:
/// it has only integers, raw pointers and nullable function pointers.
pub unsafe trait Sized0: Copy + Default {
    /// The smallest valid `size`: that of the first published version, or less.
    const LEAST: usize = size_of::<u64>();
}

/// The default of a struct that holds a raw pointer, for which `derive(Default)` needs Rust 1.88.
pub(super) fn zeros<T: Sized0>() -> T {
    // SAFETY: zeros are a valid value of every implementor.
    unsafe { std::mem::zeroed() }
}

/// The size in a caller's struct, if it is valid.
///
/// # Safety
/// `pointer` points to eight readable bytes.
pub unsafe fn size_of_given<T: Sized0>(pointer: *const T, name: &'static str) -> Result<usize> {
    // SAFETY: as promised; unaligned reads are used because nothing else is promised.
    let size = unsafe { pointer.cast::<u64>().read_unaligned() };
    if size < T::LEAST as u64 || size > MOST {
        return Err(Error::Size { name, size, least: T::LEAST as u32, most: MOST as u32 });
    }
    Ok(size as usize)
}

/// One field of a caller's struct, unless the struct is too short to have it.
///
/// # Safety
/// `pointer` points to `size` readable bytes, `size` being its first eight. `T` has a field of the type
/// `F` at `offset`, of which any bytes are a valid value.
pub unsafe fn field<T: Sized0, F: Copy>(
    pointer: *const T,
    offset: usize,
    name: &'static str,
) -> Result<Option<F>> {
    // SAFETY: a struct that begins with its size, by the caller's promise.
    let size = unsafe { size_of_given(pointer, name) }?;
    // SAFETY: the field lies within the struct, whose bytes are readable.
    let read = || unsafe { pointer.cast::<u8>().add(offset).cast::<F>().read_unaligned() };
    Ok((offset + size_of::<F>() <= size).then(read))
}

/// Reads a caller's struct of any version.
///
/// # Safety
/// `pointer` is null, or points to `size` readable bytes, `size` being its first eight.
pub unsafe fn read<T: Sized0>(pointer: *const T, name: &'static str) -> Result<T> {
    let mut value = T::default();
    if pointer.is_null() {
        return Ok(value);
    }
    // SAFETY: the caller promises a struct that starts with its size.
    let size = unsafe { size_of_given(pointer, name) }?;
    let known = size.min(size_of::<T>());
    let bytes = pointer.cast::<u8>();
    for at in known..size {
        // SAFETY: at < size, and the caller promises size readable bytes.
        if unsafe { bytes.add(at).read() } != 0 {
            return Err(Error::Later { name, at: at as u32, known: size_of::<T>() as u32 });
        }
    }
    // SAFETY: known bytes are readable at `bytes` and writable in `value`; any pattern is a valid
    // T, which is what Sized0 promises.
    unsafe { std::ptr::copy_nonoverlapping(bytes, (&raw mut value).cast::<u8>(), known) };
    Ok(value)
}

/// Checks a place for a struct, while it is not too late to fail.
///
/// # Safety
/// `pointer` is null, or points to eight readable bytes.
pub unsafe fn check<T: Sized0>(pointer: *const T, name: &'static str) -> Result<()> {
    if pointer.is_null() {
        return Err(Error::null(name));
    }
    // SAFETY: as promised.
    unsafe { size_of_given(pointer, name) }.map(drop)
}

/// Writes a struct back to a caller whose version of it may be shorter or longer.
///
/// # Safety
/// `pointer` points to `size` writable bytes, `size` being its first eight.
pub unsafe fn write<T: Sized0>(pointer: *mut T, value: &T, name: &'static str) -> Result<()> {
    if pointer.is_null() {
        return Err(Error::null(name));
    }
    let head = size_of::<u64>();
    // SAFETY: as in `read`.
    let size = unsafe { size_of_given(pointer, name) }?;
    let known = size.min(size_of::<T>());
    let from = (value as *const T).cast::<u8>();
    let to = pointer.cast::<u8>();
    // SAFETY: `known` bytes are readable in `value` and `size` bytes writable at `to`; the size
    // field itself stays the caller's.
    unsafe {
        std::ptr::copy_nonoverlapping(from.add(head), to.add(head), known - head);
        std::ptr::write_bytes(to.add(known), 0, size - known);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ffi::options::{sparsestream_source_options, sparsestream_stats};

    #[repr(C)]
    struct Guarded {
        options: sparsestream_source_options,
        tail: [u8; 16],
    }

    fn guarded(size: u64) -> Guarded {
        let options = sparsestream_source_options {
            size,
            flags: 1,
            offset: 4096,
            length: 8192,
            ..sparsestream_source_options::default()
        };
        Guarded { options, tail: [0; 16] }
    }

    #[test]
    fn null_is_all_defaults() {
        // SAFETY: null is allowed.
        let options = unsafe { read::<sparsestream_source_options>(std::ptr::null(), "options") };
        assert_eq!(options.unwrap().length, 0);
    }

    #[test]
    fn a_short_struct_is_padded() {
        let given = guarded(24);
        // SAFETY: 24 bytes are readable.
        let options = unsafe { read(&raw const given.options, "options") }.unwrap();
        assert_eq!((options.offset, options.length), (4096, 0));
    }

    #[test]
    fn a_longer_struct_must_have_a_zero_tail() {
        let mut given = guarded(size_of::<Guarded>() as u64);
        let pointer = (&raw const given).cast::<sparsestream_source_options>();
        // SAFETY: the whole of Guarded is readable.
        assert_eq!(unsafe { read(pointer, "options") }.unwrap().length, 8192);
        given.tail[15] = 1;
        let pointer = (&raw const given).cast::<sparsestream_source_options>();
        let known = size_of::<sparsestream_source_options>() as u32;
        let later = Error::Later { name: "options", at: known + 15, known };
        // SAFETY: as above.
        assert_eq!(unsafe { read(pointer, "options") }.err(), Some(later));
    }

    #[test]
    fn a_size_that_cannot_be_is_refused() {
        for size in [0, 7, MOST + 1, u64::MAX] {
            let given = guarded(size);
            // SAFETY: the size is refused before anything beyond it is read.
            let got = unsafe { read(&raw const given.options, "options") };
            assert_eq!(got.err().map(|e| e.errno()), Some(libc::EINVAL), "{size}");
        }
    }

    #[test]
    fn writing_keeps_to_the_callers_size() {
        #[repr(C)]
        struct Out {
            stats: sparsestream_stats,
            guard: [u8; 8],
        }
        let value = sparsestream_stats { size: 1, position: 7, total: 9, ..Default::default() };
        let mut out = Out {
            stats: sparsestream_stats { size: 16, total: -5, ..Default::default() },
            guard: [0xee; 8],
        };
        // SAFETY: 16 bytes are writable.
        unsafe { write(&raw mut out.stats, &value, "stats") }.unwrap();
        assert_eq!((out.stats.size, out.stats.position, out.stats.total), (16, 7, -5));
        out.stats.size = size_of::<Out>() as u64;
        let pointer = (&raw mut out).cast::<sparsestream_stats>();
        // SAFETY: the whole of Out is writable.
        unsafe { write(pointer, &value, "stats") }.unwrap();
        assert_eq!((out.stats.total, out.guard), (9, [0; 8]));
    }
}
