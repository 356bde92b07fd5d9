//! What is on its way out: frames, gathered so that many go with one call.

use super::frame::HEADER;
use crate::buffer::Buffer;
use crate::byte_end::ByteEnd;
use crate::end::{Attempt, Extent};
use crate::error::{Error, Operation, Result, Side};
use crate::sys::{Fd, Sys};
use crate::wait::Waiting;
use std::ops::Range;

/// A queue of bytes of fixed size, before a descriptor.
#[derive(Debug)]
pub(super) struct Outbox {
    to: ByteEnd,
    buffer: Buffer,
    held: Range<usize>,
}

impl Outbox {
    pub(super) fn new(fd: Fd, room: usize, side: Side) -> Result<Self> {
        let to = ByteEnd::open(fd, Side::Sink)
            .map_err(|error| Error::nowhere(Operation::Open, side, error.errno()))?;
        Ok(Outbox { to, buffer: Buffer::new(room)?, held: 0..0 })
    }

    /// Bytes that wait.
    pub(super) fn waits(&self) -> usize {
        self.held.len()
    }

    /// Whether so many more can wait.
    pub(super) fn has_room(&self, more: usize) -> bool {
        self.waits() + more <= self.buffer.bytes().len()
    }

    /// The place behind what waits, for so many bytes more. Who calls has asked for room.
    fn behind(&mut self, more: usize) -> &mut [u8] {
        if self.held.end + more > self.buffer.bytes().len() {
            let held = self.held.clone();
            self.held = 0..held.len();
            self.buffer.bytes_mut().copy_within(held, 0);
        }
        let end = self.held.end;
        &mut self.buffer.bytes_mut()[end..end + more]
    }

    /// Puts bytes behind what waits. Who calls has asked for room.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.behind(bytes.len()).copy_from_slice(bytes);
        self.held.end += bytes.len();
    }

    /// As [`Outbox::push`], of zeros.
    pub(super) fn push_zeros(&mut self, count: usize) {
        self.behind(count).fill(0);
        self.held.end += count;
    }

    /// Lends the place of a payload, behind that of its header. Who calls has asked for room.
    pub(super) fn lend(&mut self, payload: usize) -> &mut [u8] {
        &mut self.behind(HEADER + payload)[HEADER..]
    }

    /// The payload that was put where [`Outbox::lend`] said.
    pub(super) fn lent(&self, payload: usize) -> &[u8] {
        let start = self.held.end + HEADER;
        &self.buffer.bytes()[start..start + payload]
    }

    /// That payload waits now, behind its header.
    pub(super) fn keep(&mut self, header: &[u8; HEADER], payload: usize) {
        self.push(header);
        self.held.end += payload;
    }

    /// Sends what waits and a frame after it, whose payload need not go through the queue. When
    /// this succeeds all of the frame is gone or waits.
    pub(super) fn push_through(&mut self, header: &[u8], payload: &[u8]) -> Sys<()> {
        self.push(header);
        let queued = self.waits();
        match self.to.write(&self.buffer.bytes()[self.held.clone()], payload) {
            Ok(count) => {
                self.take(count.min(queued));
                self.push(&payload[count.saturating_sub(queued)..]);
                Ok(())
            }
            Err(errno) => {
                // Nothing of the frame is promised yet.
                self.held.end -= header.len();
                Err(errno)
            }
        }
    }

    /// Whether [`Outbox::send_from`] may be the way.
    pub(super) fn sends_from_files(&self) -> bool {
        self.to.sends_from_files()
    }

    /// Sends some of a part of a file, without a copy, while nothing waits.
    pub(super) fn send_from(&mut self, extent: &Extent) -> Sys<Attempt> {
        self.to.send_from(extent)
    }

    /// Whether what is sent from a file may change no more.
    pub(super) fn copies(&self) -> bool {
        self.to.copies()
    }

    /// Sends what waits, all of it.
    pub(super) fn flush(&mut self) -> Sys<()> {
        while self.waits() > 0 {
            let count = self.to.write(&self.buffer.bytes()[self.held.clone()], &[])?;
            self.take(count);
        }
        Ok(())
    }

    fn take(&mut self, count: usize) {
        self.held.start += count;
        if self.held.is_empty() {
            self.held = 0..0;
        }
    }

    pub(super) fn waiting(&self) -> Waiting {
        self.to.waiting(libc::POLLOUT)
    }
}
