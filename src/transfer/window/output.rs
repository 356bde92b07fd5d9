//! Writes loaded pieces to an addressable sink.

use super::Window;
use super::piece::{Run, State};
use crate::end::{Ask, HoleWay, Request};
use crate::error::{Error, Result, Side};
use crate::transfer::turn::Turn;

impl Window {
    /// Submits loaded pieces to an addressable sink. Returns whether anything was submitted or done.
    pub(super) fn output(&mut self, turn: &mut Turn) -> Result<bool> {
        let (mut any, mut from) = (false, 0);
        for _ in 0..self.queue.count_loaded() {
            let Some(index) = self.queue.loaded(from) else { break };
            let Some(to) = &self.to else { return Ok(false) };
            if to.is_full() {
                break;
            }
            any |= self.output_piece(index, turn)?;
            from = index + 1;
        }
        Ok(any)
    }

    /// Submits the next run of a piece. Returns whether anything was submitted or done.
    fn output_piece(&mut self, index: usize, turn: &mut Turn) -> Result<bool> {
        let (Some(to), last) = (&self.to, index + 1 == self.queue.len()) else {
            return Err(Error::Internal);
        };
        let token = self.queue.token(index);
        let piece = &mut self.queue[index];
        let (start, end) = to.middle(piece);
        piece.cursor = piece.cursor.max(start);
        while piece.cursor < end {
            let run = piece.run(piece.cursor, end, self.grid);
            let offset = to.offset(piece.from + piece.cursor);
            let request = match run {
                Run::Keep(length) => {
                    piece.cursor += length;
                    continue;
                }
                // The target already reads zero there.
                Run::Zeros(length) if to.geometry.grows && offset >= to.geometry.size => {
                    piece.hole_way = HoleWay::Extended;
                    piece.cursor += length;
                    continue;
                }
                Run::Zeros(length) => {
                    let mut length = length.min(to.geometry.zero);
                    if to.geometry.grows {
                        length = length.min(to.up(to.geometry.size) - offset);
                    }
                    Request { token, ask: Ask::Zero, offset, length, memory: None, start: 0 }
                }
                Run::Data(length) => {
                    // A write that may be the last is submitted once all before it are done: a copy that is
                    // killed must not have its final size.
                    let grown = to.geometry.grows && offset + length > to.geometry.size;
                    if grown && last && index > 0 {
                        return Ok(false);
                    }
                    let (start, memory) = (piece.skew + piece.cursor as usize, piece.slab.take());
                    Request { token, ask: Ask::Write, offset, length, memory, start }
                }
            };
            self.queue.enter(index, State::Writing);
            self.submit(Side::Sink, request, turn)?;
            return Ok(true);
        }
        let whole = (start, end) == (0, piece.length);
        self.queue.enter(index, State::Done);
        // Its memory need not wait for slow pieces before it, unless a part of it is for the incomplete block.
        if whole {
            self.queue.free_slab(index);
        }
        Ok(true)
    }
}
