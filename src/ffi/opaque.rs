//! The caller's opaque pointers, each with a `free` that is called exactly once.

use super::options::{sparsestream_sink_options, sparsestream_source_options};
use super::sized::{self, Sized0};
use crate::error::{Error, Result};
use libc::c_void;
use std::mem::{offset_of, size_of};

/// The `free` of a table or of options.
pub type Free = unsafe extern "C" fn(opaque: *mut c_void);

/// The least `size` of a table: up to and with its `free`.
pub const TABLE_LEAST: usize = size_of::<u64>() + size_of::<Option<Free>>();

/// A pointer of the caller's. Its `free` is called when this is dropped, and so exactly once.
pub struct Opaque {
    pointer: *mut c_void,
    free: Option<Free>,
}

// SAFETY: the pointer is only passed to the caller's functions. The caller promises that these may be called
// on the threads on which it uses the handle.
unsafe impl Send for Opaque {}

impl Opaque {
    /// None.
    pub const NONE: Opaque = Opaque { pointer: std::ptr::null_mut(), free: None };

    /// The pointer.
    pub fn pointer(&self) -> *mut c_void {
        self.pointer
    }
}

impl Drop for Opaque {
    fn drop(&mut self) {
        if let Some(free) = self.free {
            // SAFETY: the caller promised that its functions may be called with its opaque.
            unsafe { free(self.pointer) };
        }
    }
}

/// A caller's struct with a `free`.
///
/// # Safety
/// At the offset `FREE` there is a field of the type `Option<Free>`.
pub unsafe trait Freed: Sized0 {
    /// The offset of `free`.
    const FREE: usize;
}

/// Options with an opaque pointer of their own.
///
/// # Safety
/// At the offset `OPAQUE` there is a field of the type `*mut c_void`.
pub unsafe trait Owning: Freed {
    /// The offset of `opaque`.
    const OPAQUE: usize;
}

// SAFETY: the field has this type and offset.
unsafe impl Freed for sparsestream_source_options {
    const FREE: usize = offset_of!(Self, free);
}
// SAFETY: the field has this type and offset.
unsafe impl Owning for sparsestream_source_options {
    const OPAQUE: usize = offset_of!(Self, opaque);
}
// SAFETY: the field has this type and offset.
unsafe impl Freed for sparsestream_sink_options {
    const FREE: usize = offset_of!(Self, free);
}
// SAFETY: the field has this type and offset.
unsafe impl Owning for sparsestream_sink_options {
    const OPAQUE: usize = offset_of!(Self, opaque);
}

/// Reads a table and takes over its opaque, even if the table is then refused, unless its size is invalid.
///
/// # Safety
/// `ops` is null or a table of its size whose functions may be called with `opaque`.
pub unsafe fn table<T: Freed>(ops: *const T, opaque: *mut c_void) -> Result<(T, Opaque)> {
    if ops.is_null() {
        return Err(Error::null("ops"));
    }
    // SAFETY: a table of its size, by the caller's promise; `free` lies at this offset.
    let free = unsafe { sized::field::<T, Option<Free>>(ops, T::FREE, "ops") }?.flatten();
    let opaque = Opaque { pointer: opaque, free };
    // SAFETY: as promised.
    let ops = unsafe { sized::read(ops, "ops") }?;
    Ok((ops, opaque))
}

/// Reads options and takes over their opaque, even if the options are then refused, unless their size is
/// invalid.
///
/// # Safety
/// `options` is null or a struct of its size whose functions may be called with its opaque.
pub unsafe fn options<T: Owning>(options: *const T) -> Result<(T, Opaque)> {
    if options.is_null() {
        return Ok((T::default(), Opaque::NONE));
    }
    // SAFETY: a struct of its size, by the caller's promise; the fields lie at these offsets.
    let (free, pointer) = unsafe {
        let free = sized::field::<T, Option<Free>>(options, T::FREE, "options")?;
        (free.flatten(), sized::field::<T, *mut c_void>(options, T::OPAQUE, "options")?)
    };
    let opaque = Opaque { pointer: pointer.unwrap_or(std::ptr::null_mut()), free };
    // SAFETY: as promised.
    let options = unsafe { sized::read(options, "options") }?;
    Ok((options, opaque))
}
