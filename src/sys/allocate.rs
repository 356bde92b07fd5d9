//! Memory from the allocator. A failure is returned.

use std::alloc::Layout;
use std::mem::MaybeUninit;

/// Bytes that are zero and take no memory before they are touched; `None` if there is no memory.
#[must_use]
pub fn zeroed(length: usize) -> Option<Vec<u8>> {
    let layout = Layout::array::<u8>(length.max(1)).ok()?;
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
    room().map(|room| put(room, value))
}

/// The place of a value on the heap, which is then not lost if there is no memory: `None`.
#[must_use]
pub fn room<T>() -> Option<Box<MaybeUninit<T>>> {
    if size_of::<T>() == 0 {
        // It takes no memory.
        return Some(Box::new(MaybeUninit::uninit()));
    }
    // SAFETY: the layout has a size that is not 0.
    let raw = unsafe { std::alloc::alloc(Layout::new::<T>()) }.cast::<MaybeUninit<T>>();
    // SAFETY: from the global allocator, with the layout of a T, and it need not be initialised.
    (!raw.is_null()).then(|| unsafe { Box::from_raw(raw) })
}

/// Moves a value to its place.
pub fn put<T>(mut room: Box<MaybeUninit<T>>, value: T) -> Box<T> {
    room.write(value);
    // SAFETY: it was written just now.
    unsafe { room.assume_init() }
}
