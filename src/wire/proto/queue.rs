//! A queue of bytes to be sent: a buffer of fixed size.

use super::frame::HEADER;
use crate::buffer::Buffer;
use crate::error::Result;
use std::ops::Range;

/// A queue of bytes.
#[derive(Debug)]
pub struct Queue {
    buffer: Buffer,
    held: Range<usize>,
    /// The first of them that stay where they are until some are sent.
    pinned: usize,
}

impl Queue {
    /// An empty queue with room for this many bytes.
    pub fn new(room: usize) -> Result<Self> {
        Ok(Queue { buffer: Buffer::new(room)?, held: 0..0, pinned: 0 })
    }

    /// The queued bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer.bytes()[self.held.clone()]
    }

    /// The number of queued bytes.
    #[must_use]
    pub fn waits(&self) -> usize {
        self.held.len()
    }

    /// Whether there is room for this many more.
    #[must_use]
    pub fn has_room(&self, more: usize) -> bool {
        let begin = if self.pinned > 0 { self.held.start } else { 0 };
        begin + self.waits() + more <= self.buffer.bytes().len()
    }

    /// The first `count` bytes neither move nor change until some bytes are sent.
    pub fn pin(&mut self, count: usize) {
        self.pinned = count.min(self.waits());
    }

    /// The room behind the queued bytes. The caller has checked its size.
    fn behind(&mut self, more: usize) -> &mut [u8] {
        if self.held.end + more > self.buffer.bytes().len() {
            let held = self.held.clone();
            self.held = 0..held.len();
            self.buffer.bytes_mut().copy_within(held, 0);
        }
        let end = self.held.end;
        &mut self.buffer.bytes_mut()[end..end + more]
    }

    /// Adds bytes. The caller has checked for room.
    pub fn push(&mut self, bytes: &[u8]) {
        self.behind(bytes.len()).copy_from_slice(bytes);
        self.held.end += bytes.len();
    }

    /// Adds zeros. The caller has checked for room.
    pub fn push_zeros(&mut self, count: usize) {
        self.behind(count).fill(0);
        self.held.end += count;
    }

    /// Removes the last bytes that were added. Returns whether it has: not if a part of them was sent or is pinned.
    pub fn pop(&mut self, count: usize) -> bool {
        let may = self.pinned + count <= self.waits();
        if may {
            self.held.end -= count;
        }
        may
    }

    /// The room for a payload, behind that for its header. The caller has checked for room.
    pub fn lend(&mut self, payload: usize) -> &mut [u8] {
        &mut self.behind(HEADER + payload)[HEADER..]
    }

    /// The payload that was put into the memory of [`Queue::lend`].
    #[must_use]
    pub fn lent(&self, payload: usize) -> &[u8] {
        let start = self.held.end + HEADER;
        &self.buffer.bytes()[start..start + payload]
    }

    /// Adds that payload, after its header.
    pub fn commit(&mut self, header: &[u8; HEADER], payload: usize) {
        self.push(header);
        self.held.end += payload;
    }

    /// Removes the first bytes, which were sent.
    pub fn take(&mut self, count: usize) {
        if count > 0 {
            self.pinned = 0;
        }
        self.held.start += count.min(self.waits());
        if self.held.is_empty() {
            self.held = 0..0;
        }
    }
}
