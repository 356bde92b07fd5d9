//! The piece of the frame under way: data, a hole or bytes to be kept, and how it is passed on.

use super::{Piece, Receiver};
use crate::wire::proto::codec::Malformed;
use crate::wire::proto::{MISUSED, Refused};

impl Receiver {
    /// Takes payload of the current DATA frame, at most as much as is left, which the caller passes on.
    pub fn payload(&mut self, bytes: &[u8]) -> std::result::Result<(), Refused> {
        let Piece::Data { left, checksum, expected } = &mut self.piece else {
            return Err(MISUSED);
        };
        let rest = u32::try_from(bytes.len()).ok().and_then(|count| left.checked_sub(count));
        let rest = rest.ok_or(MISUSED)?;
        if let Some(expected) = expected {
            *checksum = crc32c::crc32c_append(*checksum, bytes);
            if rest == 0 && checksum != expected {
                return Err(Malformed::BodyChecksum.into());
            }
        }
        if let Some(digest) = &mut self.digest {
            digest.data(bytes);
        }
        self.pass_data(bytes.len() as u32);
        Ok(())
    }

    /// As [`Receiver::payload`], for bytes that do not pass through memory.
    pub fn payload_passed(&mut self, count: u32) -> std::result::Result<(), Refused> {
        match self.piece {
            Piece::Data { left, .. } if count <= left && !self.sees_payload() => {
                self.pass_data(count);
                Ok(())
            }
            Piece::None | Piece::Data { .. } | Piece::Hole(_) | Piece::Keep(_) => Err(MISUSED),
        }
    }

    fn pass_data(&mut self, count: u32) {
        if let Piece::Data { left, .. } = &mut self.piece {
            *left -= count;
            if *left == 0 {
                self.piece = Piece::None;
            }
        }
        self.at += u64::from(count);
    }

    /// Checks payload before any of it is passed on, if it is the whole rest of its frame.
    pub fn examine(&self, bytes: &[u8]) -> std::result::Result<(), Refused> {
        match self.piece {
            Piece::Data { left, checksum, expected: Some(expected) } => {
                match bytes.get(..left as usize) {
                    Some(rest) if crc32c::crc32c_append(checksum, rest) != expected => {
                        Err(Malformed::BodyChecksum.into())
                    }
                    Some(_) | None => Ok(()),
                }
            }
            Piece::None | Piece::Data { expected: None, .. } | Piece::Hole(_) | Piece::Keep(_) => {
                Ok(())
            }
        }
    }

    /// Passes on a part of the current hole or kept section. Returns whether there was one.
    pub fn pass(&mut self, length: u64) -> bool {
        let (Piece::Hole(left) | Piece::Keep(left)) = &mut self.piece else { return false };
        if length > *left {
            return false;
        }
        *left -= length;
        if *left == 0 {
            self.piece = Piece::None;
        }
        self.at += length;
        true
    }
}
