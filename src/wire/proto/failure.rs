//! ERROR: a failure to bytes and back.

use super::frame::{HEADER, Header, Kind, MAX_OFFSET, Malformed, Put, Result, Take};
use crate::error::{Error, Operation, Side, Text};
use crate::wire::errno;

/// The body of an ERROR, with room for its text.
#[derive(Debug, Clone, Copy)]
pub struct Failure {
    bytes: [u8; Self::SIZE + Text::ROOM],
    length: usize,
}

/// The value of an ERROR whose offset means something.
const AT_OFFSET: u64 = 1;

impl Failure {
    /// Bytes of its body before the text.
    pub const SIZE: usize = 8;

    /// The frame that reports this error to a peer.
    #[must_use]
    pub fn encode(error: &Error) -> ([u8; HEADER], Self) {
        let mut failure = Failure { bytes: [0; Self::SIZE + Text::ROOM], length: 0 };
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
        let offset = error.offset().filter(|offset| *offset <= MAX_OFFSET);
        let value = if offset.is_some() { AT_OFFSET } else { 0 };
        let offset = offset.unwrap_or(0);
        let header = Header::with_body(Kind::Error, offset, value, failure.body()).encode();
        (header, failure)
    }

    /// Its body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// The peer's error that such a frame reports.
    pub fn decode(header: &Header, body: &[u8]) -> Result<Error> {
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
            offset: (header.value & AT_OFFSET != 0).then_some(header.offset),
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
