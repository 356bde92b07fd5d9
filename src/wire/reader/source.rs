//! The reader as a source: frames become sections.

use super::Reader;
use crate::end::{
    Attempt, Description, Extent, Feed, Introduced, Introduction, Lent, Look, Next, Source,
    SourceInfo, SourceWays,
};
use crate::error::{Error, Operation, Result};
use crate::pipe::Pipe;
use crate::section;
use crate::wire::lasting::Lasting;
use crate::wire::proto::body::{ANSWERS, CHECKSUM, DIGEST, KEEP};
use crate::wire::proto::codec::UNKNOWN;
use crate::wire::proto::frame::HEADER;
use crate::wire::proto::receiver::Piece;

impl Reader {
    fn read_data(&mut self, buffer: &mut [u8], left: u32) -> Result<usize> {
        let most = buffer.len().min(left as usize);
        let held = self.inbox.bytes();
        let count = most.min(held.len());
        if count > 0 {
            buffer[..count].copy_from_slice(&held[..count]);
            self.take_held(count)?;
            // Much data is better read directly. For a caller with a small buffer it is gathered.
            self.heads_only |= count as u64 >= Extent::LEAST;
            return Ok(count);
        }
        let behind = match self.heads_only {
            false => usize::MAX,
            true if most == left as usize => HEADER,
            true => 0,
        };
        let count = self
            .inbox
            .read_through(&mut *self.link, &mut buffer[..most], behind)
            .map_err(|errno| self.error(Operation::Read, errno))?;
        if count == 0 {
            return Err(self.ended_early());
        }
        self.machine.payload(&buffer[..count]).map_err(|refused| self.because(refused))?;
        Ok(count)
    }

    /// Passes on held data, and checks it as far as possible.
    fn take_held(&mut self, count: usize) -> Result<()> {
        let bytes = self.inbox.bytes().get(..count).ok_or(Error::Internal)?;
        let seen = self.machine.payload(bytes);
        self.inbox.take(count);
        seen.map_err(|refused| self.because(refused))
    }
}

impl Source for Reader {
    fn open(&mut self) -> Result<SourceInfo> {
        self.greeted()?;
        let total = self.machine.hello().map(|hello| hello.length);
        Ok(SourceInfo {
            total: total.filter(|length| *length != UNKNOWN),
            reports_holes: true,
            keeps: self.machine.features() & KEEP != 0,
            start: self.machine.start(),
        })
    }

    fn next(&mut self, buffer: &mut [u8]) -> Result<Next> {
        self.answer_if_ready();
        self.lasting(|reader| {
            reader.advance()?;
            match reader.machine.piece() {
                Piece::None => Ok(Next::End),
                Piece::Hole(left) => Ok(Next::Hole(left)),
                Piece::Keep(left) => Ok(Next::Keep(left)),
                Piece::Data { left, .. } => reader.read_data(buffer, left).map(Next::Data),
            }
        })
    }

    fn look(&mut self) -> Result<Look> {
        self.answer_if_ready();
        self.lasting(|reader| {
            reader.advance()?;
            let (kind, length) = match reader.machine.piece() {
                Piece::None => (section::Kind::End, 0),
                Piece::Hole(left) => (section::Kind::Hole, left),
                Piece::Keep(left) => (section::Kind::Keep, left),
                Piece::Data { left, .. } => (section::Kind::Data, left.into()),
            };
            Ok(Look { kind, length: Some(length) })
        })
    }

    fn consume(&mut self, length: u64) {
        match self.machine.piece() {
            Piece::None => {}
            Piece::Hole(left) | Piece::Keep(left) => {
                self.machine.pass(length.min(left));
            }
            Piece::Data { .. } => {
                // Damage that is found now is reported by the next call.
                if let Err(error) = self.take_held(length as usize) {
                    self.fail(error);
                }
            }
        }
    }
}

impl SourceWays for Reader {
    fn feed(&mut self) -> Option<&mut dyn Feed> {
        // Data that is checked must pass through memory.
        let may = !self.machine.sees_payload() && self.link.plain_input().is_some();
        if may { Some(self) } else { None }
    }

    fn lent(&mut self) -> Option<&mut dyn Lent> {
        Some(self)
    }

    fn introduced(&mut self) -> Option<&mut dyn Introduced> {
        Some(self)
    }
}

impl Introduced for Reader {
    fn introduction(&mut self) -> Result<Introduction> {
        self.greeted()?;
        let known = |size: u64| (size != UNKNOWN).then_some(size);
        let Some(hello) = self.machine.hello() else { return Err(Error::Internal) };
        let features = self.machine.features();
        Ok(Introduction {
            description: Description {
                length: known(hello.length),
                source_size: known(hello.source_size),
                source_offset: hello.source_offset,
                data_bytes: known(hello.data_bytes),
                transfer_id: hello.transfer_id,
                identity: hello.identity,
                base: hello.base,
            },
            answers: features & ANSWERS != 0,
            checksum: features & CHECKSUM != 0,
            digest: features & DIGEST != 0,
            keeps: features & KEEP != 0,
            start: self.machine.start(),
        })
    }

    fn greeted(&self) -> bool {
        self.machine.hello().is_some()
    }
}

impl Feed for Reader {
    fn feedable(&mut self) -> Result<u64> {
        self.answer_if_ready();
        self.lasting(|reader| {
            reader.advance()?;
            Ok(match reader.machine.piece() {
                // Once a part of a frame was fed, its rest must be too: a read would take the bytes behind it.
                Piece::Data { left, .. }
                    if reader.inbox.bytes().is_empty()
                        && (reader.heads_only || u64::from(left) >= Extent::LEAST) =>
                {
                    left.into()
                }
                Piece::Data { .. } | Piece::Hole(_) | Piece::Keep(_) | Piece::None => 0,
            })
        })
    }

    fn feed_pipe(&mut self, pipe: &mut Pipe, most: u64) -> Result<Attempt> {
        self.lasting(|reader| {
            let Some(input) = reader.link.plain_input() else {
                return Ok(Attempt::Declined(None));
            };
            let fed = input.feed(pipe, most);
            let attempt = fed.map_err(|errno| reader.error(Operation::Read, errno))?;
            if let Attempt::Moved(count) = attempt {
                if count == 0 {
                    reader.inbox.end();
                    return Err(reader.ended_early());
                }
                reader.heads_only = true;
                let count = u32::try_from(count).map_err(|_| Error::Internal)?;
                let passed = reader.machine.payload_passed(count);
                passed.map_err(|refused| reader.because(refused))?;
            }
            Ok(attempt)
        })
    }
}

impl Lent for Reader {
    fn bytes(&mut self) -> Result<&[u8]> {
        self.answer_if_ready();
        self.lasting(|reader| {
            reader.advance()?;
            // A frame that is complete is checked before any of it is passed on.
            let examined = reader.machine.examine(reader.inbox.bytes());
            examined.map_err(|refused| reader.because(refused))
        })?;
        let Piece::Data { left, .. } = self.machine.piece() else { return Ok(&[]) };
        let held = self.inbox.bytes();
        Ok(&held[..held.len().min(left as usize)])
    }
}
