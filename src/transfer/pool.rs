//! The memory of a transfer: data that was read and not yet written.

use super::turn::Turn;
use crate::buffer::Buffer;
use crate::end::Next;
use crate::error::Result;
use std::ops::Range;

/// A buffer of fixed size, and the part of it that is pending.
#[derive(Debug, Default)]
pub(super) struct Pool {
    buffer: Buffer,
    /// Bytes at the start of the buffer that are known to be zero.
    zeros: usize,
    pending: Range<usize>,
    /// The part that belongs to a read that was not ready.
    held: Option<Range<usize>>,
}

impl Pool {
    pub(super) fn new(size: u64) -> Result<Self> {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        Ok(Pool { buffer: Buffer::new(size)?, zeros: size, pending: 0..0, held: None })
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

    /// Forgets what is pending: the buffer is filled from its start, or where a read holds it.
    #[inline]
    pub(super) fn clear(&mut self) {
        let start = self.held.as_ref().map_or(0, |held| held.start);
        self.pending = start..start;
    }

    /// The memory behind the pending data, as far as `end`; or the part that a read holds.
    #[inline]
    pub(super) fn room(&mut self, end: usize) -> &mut [u8] {
        self.zeros = self.zeros.min(self.pending.end);
        let end = self.held_end().unwrap_or(end);
        &mut self.buffer.bytes_mut()[self.pending.end..end]
    }

    /// The end of the part that a read holds.
    #[inline]
    pub(super) fn held_end(&self) -> Option<usize> {
        self.held.as_ref().map(|held| held.end)
    }

    /// The source answered a read into the memory behind the pending data, as far as `end`.
    #[inline]
    pub(super) fn asked(&mut self, answer: &Result<Next>, end: usize, turn: &Turn) {
        match answer {
            Err(error) if error.would_block() || error.interrupted() => {
                if turn.source.holds_buffer() {
                    self.hold(end);
                }
            }
            _ => self.held = None,
        }
    }

    /// A read into the memory behind the pending data, as far as `end`, was not ready and holds it.
    #[cold]
    fn hold(&mut self, end: usize) {
        self.held = Some(self.pending.end..self.held_end().unwrap_or(end));
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
    fn a_read_that_is_not_ready_gets_the_same_memory_again() {
        let mut pool = Pool::new(4096).unwrap();
        pool.room(100).fill(7);
        pool.filled(100);
        let asked = pool.room(1000).as_ptr_range();
        pool.hold(1000);
        pool.take(100);
        pool.clear();
        assert_eq!(pool.room(4096).as_ptr_range(), asked);
        pool.hold(4096);
        assert_eq!(pool.room(4096).as_ptr_range(), asked);
        pool.filled(5);
        pool.held = None;
        assert_eq!((pool.pending().len(), pool.used()), (5, 105));
        pool.clear();
        assert_eq!(pool.room(4096).len(), 4096);
    }

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
