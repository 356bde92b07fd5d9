//! The frames of the stream itself: data, holes and kept sections.

use super::time::Checkpoint;
use super::{RESERVE, Sender, Stage};
use crate::error::{Bound, Rule};
use crate::wire::proto::body::{CHECKSUM, DIGEST, KEEP};
use crate::wire::proto::codec::{MAX_OFFSET, UNKNOWN};
use crate::wire::proto::frame::{HEADER, Header, Kind};
use crate::wire::proto::{MISUSED, Refused, broken, refused};

static LENGTH: Rule = Rule::new("the length of the stream", Bound::Most);

impl Sender {
    /// Whether a frame with this many bytes can be added, with room left for frames that the machine adds.
    #[must_use]
    pub fn has_room(&self, more: usize) -> bool {
        self.queue.has_room(more + RESERVE)
    }

    /// Bytes of a section that fit the announced length and one frame.
    #[must_use]
    pub fn fits(&self, length: u64) -> u32 {
        self.within(length).min(u64::from(self.max_payload)) as u32
    }

    fn within(&self, length: u64) -> u64 {
        let end = self.config.hello.length.min(MAX_OFFSET);
        // A comparison may have passed the end.
        length.min(end.saturating_sub(self.at))
    }

    /// Refuses a section that ends beyond the announced length.
    pub fn check(&self, length: u64) -> std::result::Result<(), Refused> {
        let (most, errno) = match self.config.hello.length {
            UNKNOWN => (MAX_OFFSET, libc::EOVERFLOW),
            announced => (announced, libc::EFBIG),
        };
        let end = self.at.saturating_add(length);
        if end <= most { Ok(()) } else { Err(broken(&LENGTH, errno, end, most)) }
    }

    /// Called between two frames: adds a CHECKPOINT if one is due. The caller has checked for room.
    fn between(&mut self) -> std::result::Result<(), Refused> {
        if self.stage != Stage::Open || self.owed > 0 {
            return Err(MISUSED);
        }
        let Checkpoint { data, late, .. } = self.checkpoint;
        if self.digests() && (late || data >= self.config.checkpoint_interval) {
            self.check_point();
        }
        Ok(())
    }

    /// Adds a frame with this data, whose payload is copied.
    pub fn data(&mut self, payload: &[u8]) -> std::result::Result<(), Refused> {
        self.between()?;
        self.queue.push(&self.data_header(payload));
        self.queue.push(payload);
        self.see(payload);
        Ok(())
    }

    /// Adds a frame with this data. `send` sends as much as it can of the queue and then of the payload; the rest
    /// of the payload is copied. If it fails, nothing was added.
    pub fn data_through(
        &mut self,
        payload: &[u8],
        send: impl FnOnce(&[u8], &[u8]) -> std::result::Result<usize, i32>,
    ) -> std::result::Result<std::result::Result<(), i32>, Refused> {
        self.between()?;
        let header = self.data_header(payload);
        self.queue.push(&header);
        let sent = self.send_through(payload, send);
        match sent {
            Ok(()) => self.see(payload),
            Err(_) => {
                self.queue.pop(header.len());
            }
        }
        Ok(sent)
    }

    /// As [`Sender::data_through`], for payload of the current frame.
    pub fn owed_through(
        &mut self,
        payload: &[u8],
        send: impl FnOnce(&[u8], &[u8]) -> std::result::Result<usize, i32>,
    ) -> std::result::Result<std::result::Result<(), i32>, Refused> {
        let count = u32::try_from(payload.len()).ok().filter(|count| *count <= self.owed);
        let count = count.ok_or(MISUSED)?;
        let sent = self.send_through(payload, send);
        if sent.is_ok() {
            self.pass(count);
        }
        Ok(sent)
    }

    fn send_through(
        &mut self,
        payload: &[u8],
        send: impl FnOnce(&[u8], &[u8]) -> std::result::Result<usize, i32>,
    ) -> std::result::Result<(), i32> {
        let queued = self.queue.waits();
        let count = send(self.queue.bytes(), payload)?;
        self.silence.broken(count);
        let sent = count.saturating_sub(queued).min(payload.len());
        if count < queued {
            self.take(count);
        } else {
            let frame = (self.owed as usize).max(payload.len());
            self.unsent.within(self.at, frame, frame - sent);
            self.queue.take(queued);
        }
        self.queue.push(&payload[sent..]);
        Ok(())
    }

    /// Memory for a payload of this many bytes, which [`Sender::placed`] adds. `None` if it cannot be used now.
    /// The caller has checked for room.
    pub fn lend(&mut self, most: usize) -> Option<&mut [u8]> {
        self.between().ok()?;
        Some(self.queue.lend(most))
    }

    /// Adds a frame with this much data, which was put into the memory of [`Sender::lend`].
    pub fn placed(&mut self, count: usize) {
        let payload = self.queue.lent(count);
        let header = self.data_header(payload);
        if self.features & DIGEST != 0 {
            self.digest.data(payload);
        }
        self.queue.commit(&header, count);
        self.count(count);
    }

    /// Adds the header of a frame whose payload is sent later, past the machine.
    pub fn owe(&mut self, length: u32) -> std::result::Result<(), Refused> {
        self.between()?;
        if self.sees_payload() || length == 0 || length > self.fits(u64::from(length)) {
            return Err(MISUSED);
        }
        let header = Header { length, ..Header::new(Kind::Data, self.at, 0) };
        self.queue.push(&header.encode());
        self.owed = length;
        Ok(())
    }

    /// This much payload of the current frame was sent past the machine, while the queue was empty.
    pub fn payload_passed(&mut self, count: u32) -> std::result::Result<(), Refused> {
        if count > self.owed || self.queue.waits() > 0 {
            return Err(MISUSED);
        }
        self.silence.broken(count as usize);
        self.pass(count);
        Ok(())
    }

    /// Adds zeros as payload of the current frame.
    pub fn owed_zeros(&mut self, count: u32) -> std::result::Result<(), Refused> {
        if count > self.owed {
            return Err(MISUSED);
        }
        if self.queue.waits() == 0 {
            self.unsent.within(self.at, self.owed as usize, self.owed as usize);
        }
        self.queue.push_zeros(count as usize);
        self.pass(count);
        Ok(())
    }

    /// Adds a hole.
    pub fn hole(&mut self, length: u64) -> std::result::Result<(), Refused> {
        self.check(length)?;
        self.between()?;
        self.queue.push(&Header::new(Kind::Hole, self.at, length).encode());
        if self.digests() {
            self.digest.hole(length);
        }
        self.at += length;
        self.counts.hole_bytes += length;
        Ok(())
    }

    /// Adds bytes that the receiver keeps.
    pub fn keep(&mut self, length: u64) -> std::result::Result<(), Refused> {
        self.check(length)?;
        if self.features & KEEP == 0 {
            return Err(refused("the stream was announced without kept sections", libc::EPROTO));
        }
        self.between()?;
        self.queue.push(&Header::new(Kind::Keep, self.at, length).encode());
        if self.digests() {
            self.digest.keep(length);
        }
        self.at += length;
        self.counts.keep_bytes += length;
        Ok(())
    }

    fn data_header(&self, payload: &[u8]) -> [u8; HEADER] {
        if self.features & CHECKSUM != 0 {
            Header::with_body(Kind::Data, self.at, 0, payload)
        } else {
            let length = payload.len() as u32;
            Header { length, ..Header::new(Kind::Data, self.at, 0) }
        }
        .encode()
    }

    /// Counts data, and adds it to the digest.
    fn see(&mut self, payload: &[u8]) {
        if self.digests() {
            self.digest.data(payload);
        }
        self.count(payload.len());
    }

    fn pass(&mut self, count: u32) {
        self.owed -= count;
        self.count(count as usize);
    }

    fn count(&mut self, bytes: usize) {
        let bytes = bytes as u64;
        self.at += bytes;
        self.counts.data_bytes += bytes;
        self.checkpoint.data += bytes;
    }
}
