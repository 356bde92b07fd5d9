//! The memory of a transfer: data that was read and not yet written.

use crate::buffer::Buffer;
use crate::error::Result;
use std::ops::Range;

/// A buffer of fixed size, and the part of it that is pending.
#[derive(Debug, Default)]
pub(super) struct Pool {
    buffer: Buffer,
    /// The buffer's first bytes that are known to be zero.
    zeros: usize,
    pending: Range<usize>,
}

impl Pool {
    pub(super) fn new(size: u64) -> Result<Self> {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        Ok(Pool { buffer: Buffer::new(size)?, zeros: size, pending: 0..0 })
    }

    /// Its size in bytes.
    pub(super) fn size(&self) -> usize {
        self.buffer.bytes().len()
    }

    /// Nothing is pending.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// The data that is pending.
    #[inline]
    pub(super) fn pending(&self) -> &[u8] {
        &self.buffer.bytes()[self.pending.clone()]
    }

    /// Bytes of the buffer up to the end of the pending data.
    pub(super) fn used(&self) -> usize {
        self.pending.end
    }

    /// The first `count` pending bytes were taken.
    #[inline]
    pub(super) fn take(&mut self, count: usize) {
        self.pending.start += count;
    }

    /// Forgets what is pending: the buffer is filled from its start.
    #[inline]
    pub(super) fn clear(&mut self) {
        self.pending = 0..0;
    }

    /// The memory behind the pending data, as far as `end`.
    #[inline]
    pub(super) fn room(&mut self, end: usize) -> &mut [u8] {
        self.zeros = self.zeros.min(self.pending.end);
        &mut self.buffer.bytes_mut()[self.pending.end..end]
    }

    /// This many bytes were put into [`Pool::room`].
    #[inline]
    pub(super) fn filled(&mut self, count: usize) {
        self.pending.end += count;
    }

    /// At most `most` zero bytes. Nothing may be pending.
    pub(super) fn zeros(&mut self, most: usize) -> &[u8] {
        let length = most.min(self.buffer.bytes().len());
        if self.zeros < length {
            self.buffer.bytes_mut()[self.zeros..length].fill(0);
            self.zeros = length;
        }
        &self.buffer.bytes()[..length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_zero_whatever_was_in_the_buffer() {
        let mut pool = Pool::new(4096).unwrap();
        pool.room(4096)[..100].fill(7);
        pool.filled(100);
        assert_eq!(pool.pending(), [7; 100]);
        pool.take(100);
        assert!(pool.is_empty());
        pool.clear();
        pool.room(50).fill(9);
        assert_eq!(pool.zeros(5000), [0; 4096]);
    }
}
