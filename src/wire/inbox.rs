//! Received bytes: many frames are read with one call.

use super::proto::frame::{HEADER, MAX_BODY};
use super::transport::Transport;
use crate::buffer::Buffer;
use crate::error::Result;
use crate::sys::Sys;
use std::ops::Range;

/// The smallest size: a header, the longest body, and another header.
pub(super) const LEAST_ROOM: usize = 2 * HEADER + MAX_BODY;

/// A buffer of fixed size.
#[derive(Debug)]
pub(super) struct Inbox {
    buffer: Buffer,
    held: Range<usize>,
    ended: bool,
}

impl Inbox {
    pub(super) fn new(room: usize) -> Result<Self> {
        Ok(Inbox { buffer: Buffer::new(room.max(LEAST_ROOM))?, held: 0..0, ended: false })
    }

    /// The bytes that were received and not taken yet.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer.bytes()[self.held.clone()]
    }

    /// Whether the end was reached.
    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    /// The end was reached.
    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    /// Removes bytes that were taken.
    pub(super) fn take(&mut self, count: usize) {
        self.held.start += count;
        if self.held.is_empty() {
            self.held = 0..0;
        }
    }

    /// Reads more. There is room: a header and a body are never longer.
    pub(super) fn fill(&mut self, from: &mut dyn Transport) -> Sys<()> {
        self.read_through(from, &mut [], usize::MAX).map(drop)
    }

    /// Reads until at most this many bytes are held. The rest stays in the transport.
    pub(super) fn fill_to(&mut self, from: &mut dyn Transport, whole: usize) -> Sys<()> {
        let held = self.make_room();
        let end = whole.max(held + 1).min(self.buffer.bytes().len());
        let count = from.read(&mut self.buffer.bytes_mut()[held..end], &mut [])?;
        self.ended = count == 0;
        self.held.end += count;
        Ok(())
    }

    /// Reads into the caller's buffer, while nothing is held, and at most `behind` bytes after those into this
    /// one. Returns the count of the caller's bytes.
    pub(super) fn read_through(
        &mut self,
        from: &mut dyn Transport,
        first: &mut [u8],
        behind: usize,
    ) -> Sys<usize> {
        let held = self.make_room();
        let end = self.buffer.bytes().len().min(held.saturating_add(behind));
        let behind = &mut self.buffer.bytes_mut()[held..end];
        let most = first.len();
        let count = from.read(first, behind)?;
        self.ended = count == 0;
        self.held.end += count.saturating_sub(most);
        Ok(count.min(most))
    }

    /// Moves the held bytes to the front. Returns their number.
    fn make_room(&mut self) -> usize {
        if self.held.start > 0 {
            let held = self.held.clone();
            self.held = 0..held.len();
            self.buffer.bytes_mut().copy_within(held, 0);
        }
        self.held.end
    }
}
