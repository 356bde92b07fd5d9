//! Encodes and decodes ERROR.

use super::codec::{MAX_OFFSET, Malformed, Put, Result, Take};
use crate::error::{Error, Operation, Side, Text};
use crate::wire::errno;

/// The body of an ERROR, with room for its text.
#[derive(Debug, Clone, Copy)]
pub struct Failure {
    bytes: [u8; Self::SIZE + Text::ROOM],
    length: usize,
    /// Where in the stream it happened, if that is known.
    offset: Option<u64>,
}

/// The value of an ERROR whose offset has a meaning.
const AT_OFFSET: u64 = 1;

impl Failure {
    /// Bytes of its body before the text.
    pub const SIZE: usize = 8;

    /// The body that reports this error to a peer.
    #[must_use]
    pub fn encode(error: &Error) -> Self {
        let offset = error.offset().filter(|offset| *offset <= MAX_OFFSET);
        let mut failure = Failure { bytes: [0; Self::SIZE + Text::ROOM], length: 0, offset };
        let text = {
            let mut text = Cut { bytes: &mut failure.bytes[Self::SIZE..], at: 0 };
            // It fails only if the text is cut, which loses nothing.
            let _ = std::fmt::Write::write_fmt(&mut text, format_args!("{error}"));
            text.at
        };
        let mut to = Put(&mut failure.bytes[..Self::SIZE]);
        to.u32(errno::to_wire(error.errno()));
        to.bytes(&[error.operation() as u8, error.side() as u8]);
        to.u16(u16::try_from(text).unwrap_or(0));
        failure.length = Self::SIZE + text;
        failure
    }

    /// The offset and the value of its frame.
    #[must_use]
    pub fn place(&self) -> (u64, u64) {
        self.offset.map_or((0, 0), |offset| (offset, AT_OFFSET))
    }

    /// Its body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// The peer's error that a frame with this offset, value and body reports.
    pub fn decode((offset, value): (u64, u64), body: &[u8]) -> Result<Error> {
        let (head, rest) = body.split_at_checked(Self::SIZE).ok_or(Malformed::BodyLength)?;
        let mut from = Take(head);
        let errno = errno::from_wire(from.u32());
        let [operation, side] = from.bytes();
        let length = usize::from(from.u16());
        let text = rest.get(..length).filter(|text| text.len() <= Text::ROOM);
        let text = text.ok_or(Malformed::Text)?;
        Ok(Error::Peer {
            operation: Operation::ALL
                .get(usize::from(operation))
                .copied()
                .unwrap_or(Operation::None),
            side: match side {
                1 => Side::Source,
                2 => Side::Sink,
                _ => Side::None,
            },
            offset: (value & AT_OFFSET != 0).then_some(offset),
            errno,
            text: Text::new(text),
        })
    }
}

/// A text that is written into bytes, and cut to fit at a character's boundary.
struct Cut<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl std::fmt::Write for Cut<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for character in text.chars() {
            let end = self.at + character.len_utf8();
            let place = self.bytes.get_mut(self.at..end).ok_or(std::fmt::Error)?;
            character.encode_utf8(place);
            self.at = end;
        }
        Ok(())
    }
}
