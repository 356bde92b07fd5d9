//! Memory whose allocation can fail without ending the process.

use crate::error::{Error, Operation, Result, Side};
use crate::sys::Arc;

/// A value on the heap.
pub fn boxed<T>(value: T) -> Result<Box<T>> {
    crate::sys::boxed(value)
        .ok_or_else(|| Error::nowhere(Operation::Allocate, Side::None, libc::ENOMEM))
}

/// A value with several owners.
pub fn counted<T>(value: T) -> Result<Arc<T>> {
    Arc::new(value).ok_or_else(|| Error::nowhere(Operation::Allocate, Side::None, libc::ENOMEM))
}

/// An alignment that is enough for the kernel and every device.
const ALIGNMENT: usize = 4096;

/// Bytes at an aligned address. A failed allocation is an error.
#[derive(Debug, Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    /// A buffer of `length` zero bytes. Only pages that are used take memory.
    pub fn new(length: usize) -> Result<Self> {
        let none = || Error::nowhere(Operation::Allocate, Side::None, libc::ENOMEM);
        let whole = length.checked_add(ALIGNMENT).ok_or_else(none)?;
        let mut bytes = crate::sys::zeroed(whole).ok_or_else(none)?;
        let start = bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        bytes.truncate(start + length);
        Ok(Buffer { bytes, start })
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Its bytes, to be filled.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boxed_value_is_kept() {
        assert_eq!(*boxed(String::from("kept")).unwrap(), "kept");
        let nothing: Box<()> = boxed(()).unwrap();
        drop(nothing);
    }

    #[test]
    fn it_is_aligned_and_of_its_length() {
        for length in [1, 4096, 1 << 20] {
            let buffer = Buffer::new(length).unwrap();
            assert_eq!(buffer.bytes().len(), length);
            assert_eq!(buffer.bytes().as_ptr() as usize % ALIGNMENT, 0);
        }
        assert_eq!(Buffer::new(usize::MAX).unwrap_err().errno(), libc::ENOMEM);
    }
}
