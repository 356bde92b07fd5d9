//! The place in the stream of the queued bytes.

use super::frame::{HEADER, Header, Kind};

/// The frame at the front of a queue. Without one, the queue starts with a header.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unsent {
    front: Option<Front>,
}

/// A frame of which a part was sent.
#[derive(Debug, Clone, Copy)]
struct Front {
    /// Its queued bytes.
    left: usize,
    /// Bytes of the stream in it that arrive one by one: those of DATA.
    payload: usize,
    /// The offset in the stream at which it starts.
    offset: u64,
}

impl Unsent {
    /// The queue will start with the last `left` bytes of a payload of `length` bytes at `offset`.
    pub fn within(&mut self, offset: u64, length: usize, left: usize) {
        self.front = Some(Front { left, payload: length, offset });
    }

    /// The first `count` bytes of the queue, and not all, are sent.
    pub fn advance(&mut self, queue: &[u8], count: usize) {
        let mut at = self.front.map_or(0, |front| front.left);
        if count < at {
            if let Some(front) = &mut self.front {
                front.left -= count;
            }
            return;
        }
        self.front = None;
        while at < count {
            let Some(header) = header(queue, at) else { return };
            let end = at + HEADER + header.length as usize;
            if end > count {
                let payload = if header.kind == Kind::Data { header.length as usize } else { 0 };
                self.front = Some(Front { left: end - count, payload, offset: header.offset });
            }
            at = end;
        }
    }

    /// The offset of the first byte of the stream that waits in this queue, which is not empty.
    pub fn start(&self, queue: &[u8]) -> u64 {
        match self.front {
            Some(Front { left, payload, offset }) => offset + payload.saturating_sub(left) as u64,
            // KEEPALIVE and others have the offset of the stream.
            None => header(queue, 0).map_or(0, |header| header.offset),
        }
    }
}

fn header(queue: &[u8], at: usize) -> Option<Header> {
    Header::decode(queue.get(at..)?.first_chunk()?).ok()
}
