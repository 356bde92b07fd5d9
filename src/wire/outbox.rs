//! What is on its way out: frames, gathered so that many go with one call.

use crate::byte_end::ByteEnd;
use crate::error::{Error, Operation, Result, Side};
use crate::source::Extent;
use crate::sys::{Fd, Sys};
use crate::wait::Waiting;

/// A queue of bytes of fixed size, before a descriptor.
#[derive(Debug)]
pub(super) struct Outbox {
    to: ByteEnd,
    bytes: Vec<u8>,
    /// Of the bytes: how many are gone already.
    gone: usize,
    room: usize,
}

impl Outbox {
    pub(super) fn new(fd: Fd, room: usize, side: Side) -> Result<Self> {
        let to = ByteEnd::open(fd, Side::Sink)
            .map_err(|error| Error::nowhere(Operation::Open, side, error.errno()))?;
        let mut bytes = Vec::new();
        bytes
            .try_reserve_exact(room)
            .map_err(|_| Error::nowhere(Operation::Allocate, Side::None, libc::ENOMEM))?;
        Ok(Outbox { to, bytes, gone: 0, room })
    }

    /// Bytes that wait.
    pub(super) fn waits(&self) -> usize {
        self.bytes.len() - self.gone
    }

    /// Whether so many more can wait.
    pub(super) fn has_room(&self, more: usize) -> bool {
        self.waits() + more <= self.room
    }

    /// Puts bytes behind what waits. Who calls has asked for room.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.compact(bytes.len());
        self.bytes.extend_from_slice(bytes);
    }

    fn compact(&mut self, more: usize) {
        if self.bytes.len() + more > self.room {
            self.bytes.drain(..self.gone);
            self.gone = 0;
        }
    }

    /// Sends what waits and a frame after it, whose payload need not go through the queue. When
    /// this succeeds all of the frame is gone or waits.
    pub(super) fn push_through(&mut self, header: &[u8], payload: &[u8]) -> Sys<()> {
        let before = self.waits();
        self.push(header);
        match self.to.write(&self.bytes[self.gone..], payload) {
            Ok(count) => {
                let queued = self.waits();
                self.take(count.min(queued));
                self.push(&payload[count.saturating_sub(queued)..]);
                Ok(())
            }
            Err(errno) => {
                // Nothing of the frame is promised yet.
                self.bytes.truncate(self.gone + before);
                Err(errno)
            }
        }
    }

    /// Puts zeros behind what waits. Who calls has asked for room.
    pub(super) fn push_zeros(&mut self, count: usize) {
        self.compact(count);
        self.bytes.resize(self.bytes.len() + count, 0);
    }

    /// Whether [`Outbox::send_from`] may be the way.
    pub(super) fn sends_from_files(&self) -> bool {
        self.to.sends_from_files()
    }

    /// Sends what waits, and then what goes of a part of a file, without a copy. 0 means that this
    /// is not the way.
    pub(super) fn send_from(&mut self, extent: &Extent) -> Sys<u64> {
        self.flush()?;
        self.to.send_from(extent)
    }

    /// Sends what waits, all of it.
    pub(super) fn flush(&mut self) -> Sys<()> {
        while self.waits() > 0 {
            let count = self.to.write(&self.bytes[self.gone..], &[])?;
            self.take(count);
        }
        Ok(())
    }

    fn take(&mut self, count: usize) {
        self.gone += count;
        if self.gone == self.bytes.len() {
            self.bytes.clear();
            self.gone = 0;
        }
    }

    pub(super) fn waiting(&self) -> Waiting {
        self.to.waiting(libc::POLLOUT)
    }
}
