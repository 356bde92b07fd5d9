//! What has come in: frames, many read with one call.

use super::frame::{HEADER, Header, Kind, MAX_BODY, Malformed};
use crate::buffer::Buffer;
use crate::byte_end::ByteEnd;
use crate::end::Attempt;
use crate::error::{Error, Operation, Result, Side};
use crate::pipe::Pipe;
use crate::sys::{Fd, Sys};
use crate::wait::Waiting;
use std::ops::Range;

/// The least room: a header, the longest body, and another header.
pub(super) const LEAST_ROOM: usize = 2 * HEADER + MAX_BODY;

/// A buffer of fixed size, behind a descriptor.
#[derive(Debug)]
pub(super) struct Inbox {
    from: ByteEnd,
    buffer: Buffer,
    held: Range<usize>,
    ended: bool,
}

impl Inbox {
    pub(super) fn new(fd: Fd, room: usize, side: Side) -> Result<Self> {
        let from = ByteEnd::open(fd, Side::Source)
            .map_err(|error| Error::nowhere(Operation::Open, side, error.errno()))?;
        let buffer = Buffer::new(room.max(LEAST_ROOM))?;
        Ok(Inbox { from, buffer, held: 0..0, ended: false })
    }

    /// What has come and was not taken yet.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer.bytes()[self.held.clone()]
    }

    /// Whether nothing more will come.
    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    /// Passes over what was taken.
    pub(super) fn take(&mut self, count: usize) {
        self.held.start += count;
        if self.held.is_empty() {
            self.held = 0..0;
        }
    }

    /// Reads more. What is there leaves room: no frame's header and body is longer.
    pub(super) fn fill(&mut self) -> Sys<()> {
        self.read_through(&mut []).map(drop)
    }

    /// Reads no more than the next frame's header, or its body: what follows stays where it is.
    pub(super) fn fill_frame(&mut self) -> Sys<()> {
        let held = self.make_room();
        let head = self.bytes().first_chunk::<HEADER>().map(Header::decode);
        let whole = match head {
            Some(Ok(header)) if header.kind != Kind::Data => HEADER + header.length as usize,
            _ => HEADER,
        };
        let end = whole.max(held + 1).min(self.buffer.bytes().len());
        let count = self.from.read(&mut self.buffer.bytes_mut()[held..end], &mut [])?;
        self.ended = count == 0;
        self.held.end += count;
        Ok(())
    }

    /// Gives what has not come in yet to a pipe. Nothing may be held.
    pub(super) fn feed(&mut self, pipe: &mut Pipe, most: u64) -> Sys<Attempt> {
        let attempt = self.from.feed(pipe, most)?;
        self.ended = attempt == Attempt::Moved(0);
        Ok(attempt)
    }

    /// Reads into the caller's buffer while nothing is held, and what comes behind that into this
    /// one. Returns the count of the caller's bytes.
    pub(super) fn read_through(&mut self, first: &mut [u8]) -> Sys<usize> {
        let held = self.make_room();
        let behind = &mut self.buffer.bytes_mut()[held..];
        let most = first.len();
        let count = self.from.read(first, behind)?;
        self.ended = count == 0;
        self.held.end += count.saturating_sub(most);
        Ok(count.min(most))
    }

    /// Moves what is held to the front, and returns how much it is.
    fn make_room(&mut self) -> usize {
        if self.held.start > 0 {
            let held = self.held.clone();
            self.held = 0..held.len();
            self.buffer.bytes_mut().copy_within(held, 0);
        }
        self.held.end
    }

    /// The next frame's header, once it has come, with the body of any but DATA.
    pub(super) fn frame(&self) -> std::result::Result<Option<Header>, Malformed> {
        let Some(head) = self.bytes().first_chunk::<HEADER>() else { return Ok(None) };
        let header = Header::decode(head)?;
        if header.kind == Kind::Data {
            return Ok(Some(header));
        }
        let whole = HEADER + header.length as usize;
        let Some(body) = self.bytes().get(HEADER..whole) else { return Ok(None) };
        header.check(body)?;
        Ok(Some(header))
    }

    /// That frame's body.
    pub(super) fn body(&self, header: &Header) -> &[u8] {
        self.bytes().get(HEADER..HEADER + header.length as usize).unwrap_or_default()
    }

    pub(super) fn waiting(&self) -> Waiting {
        self.from.waiting(libc::POLLIN)
    }
}
