//! Memory from the allocator. A failure is returned.

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;

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

/// A value on the heap; `None` if there is no memory. `Box::new` would end the process.
pub fn boxed<T>(value: T) -> Option<Box<T>> {
    boxed_or(value).ok()
}

/// As [`boxed`], but returns the value if there is no memory.
pub fn boxed_or<T>(value: T) -> Result<Box<T>, T> {
    let mut room: Vec<UnsafeCell<MaybeUninit<T>>> = Vec::new();
    if room.try_reserve_exact(1).is_err() {
        return Err(value);
    }
    room.push(UnsafeCell::new(MaybeUninit::new(value)));
    let raw = Box::into_raw(room.into_boxed_slice());
    // SAFETY: the slice has one element, whose layout is T's, and it is initialised.
    Ok(unsafe { Box::from_raw(raw.cast::<T>()) })
}
