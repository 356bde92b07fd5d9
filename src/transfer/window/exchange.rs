//! Requests to both ends, and their replies.

use super::Window;
use super::piece::State;
use super::port::{Port, Rest};
use super::watched::Watched;
use crate::end::{Addressable, Ask, Failure, Reply, Request};
use crate::error::{Error, Operation, Result, Side};
use crate::transfer::turn::{Turn, wrong_count};

/// The token of the request for the incomplete block.
pub(super) const TAIL: u64 = u64::MAX;

impl Window {
    /// Requests that are under way.
    pub(in crate::transfer) fn in_flight(&self) -> usize {
        self.from.iter().chain(&self.to).map(|port| port.in_flight).sum()
    }

    pub(super) fn submit(&mut self, side: Side, request: Request, turn: &mut Turn) -> Result<()> {
        let Some(port) = self.port(side) else { return Err(Error::Internal) };
        port.in_flight += 1;
        let Some(end) = addressed(side, turn) else { return Err(Error::Internal) };
        end.submit(request);
        Ok(())
    }

    fn port(&mut self, side: Side) -> Option<&mut Port> {
        if side == Side::Source { self.from.as_mut() } else { self.to.as_mut() }
    }

    /// Takes replies. Returns whether there were any.
    pub(super) fn collect(&mut self, turn: &mut Turn) -> Result<bool> {
        let mut any = false;
        for side in [Side::Source, Side::Sink] {
            if self.port(side).is_none_or(|port| port.in_flight == 0) {
                continue;
            }
            let Some(end) = addressed(side, turn) else { return Err(Error::Internal) };
            let advanced = end.advance(&mut self.replies);
            any |= !self.replies.is_empty();
            if let Err(error) = advanced {
                self.drop_replies(side);
                return Err(error);
            }
            while let Some(reply) = self.replies.pop_front() {
                if let Some(port) = self.port(side) {
                    port.in_flight -= 1;
                }
                if let Err(error) = self.take_in(side, reply, turn) {
                    self.drop_replies(side);
                    return Err(error);
                }
            }
        }
        if any {
            turn.progressed();
        }
        Ok(any)
    }

    /// The transfer fails, so the replies are not looked at. Their requests are back all the same.
    fn drop_replies(&mut self, side: Side) {
        let count = self.replies.len();
        self.replies.clear();
        if let Some(port) = self.port(side) {
            port.in_flight -= count.min(port.in_flight);
        }
    }

    fn take_in(&mut self, side: Side, reply: Reply, turn: &mut Turn) -> Result<()> {
        let Reply { request, result } = reply;
        if request.token == TAIL {
            let result = result.map_err(|why| failure(side, &request, why));
            let Some(tail) = &mut self.tail else { return Err(Error::Internal) };
            let stored = tail.take_in(request, result)?;
            return self.tail_stored(stored, turn);
        }
        if request.ask == Ask::FastZero {
            return self.swept(&request, result, turn);
        }
        let token = request.token;
        let Some(index) = self.queue.index(token) else { return Err(Error::Internal) };
        let count = count_of(side, &request, result)?;
        let piece = &mut self.queue[index];
        match request.ask {
            Ask::Read => {
                let Some(from) = &self.from else { return Err(Error::Internal) };
                match from.rest_of_read(piece, request, count) {
                    Rest::Nothing => self.loaded(index, turn),
                    Rest::Of(rest) => return self.submit(Side::Source, rest, turn),
                    Rest::Ended => {
                        self.queue.enter(index, State::Short);
                        self.dissolve_sweep_of(token);
                    }
                }
                Ok(())
            }
            Ask::Write | Ask::Zero => {
                let written = request.ask == Ask::Write;
                if let Some(to) = &self.to {
                    // A part of a block is written again, with the rest of it.
                    piece.cursor += count - count % to.block();
                }
                if let (false, Some(end)) = (written, turn.sink.addressed()) {
                    piece.hole_way = end.zero_way();
                }
                if request.memory.is_some() {
                    piece.slab = request.memory;
                }
                self.queue.enter(index, State::Loaded);
                Ok(())
            }
            Ask::FastZero | Ask::Flush => Err(Error::Internal),
        }
    }

    /// Cancels the requests in flight, because the transfer has failed.
    pub(in crate::transfer) fn cancel(&mut self, error: &Error, turn: &mut Turn) {
        for end in [turn.source.addressed(), turn.sink.addressed()].into_iter().flatten() {
            end.cancel(error);
        }
    }

    /// Takes back the requests that were cancelled. Returns whether all are back.
    pub(in crate::transfer) fn drain(&mut self, turn: &mut Turn) -> bool {
        for (port, end) in
            [(&mut self.from, turn.source.addressed()), (&mut self.to, turn.sink.addressed())]
        {
            let (Some(port), Some(end)) = (port, end) else { continue };
            if port.in_flight > 0 {
                // The first failure is the one to report.
                let _ = end.advance(&mut self.replies);
                port.in_flight -= self.replies.len().min(port.in_flight);
                self.replies.clear();
                if end.is_foreign() {
                    port.in_flight = 0;
                }
            }
        }
        if self.in_flight() > 0 {
            let mut watched = Watched::new();
            for (port, side) in [(&self.to, Side::Sink), (&self.from, Side::Source)] {
                if port.as_ref().is_some_and(|port| port.in_flight > 0) {
                    watched.add(side, turn);
                }
            }
            turn.waits = watched.several();
        }
        self.in_flight() == 0
    }
}

fn addressed<'a>(side: Side, turn: &'a mut Turn) -> Option<&'a mut dyn Addressable> {
    if side == Side::Source { turn.source.addressed() } else { turn.sink.addressed() }
}

fn operation(ask: Ask) -> Operation {
    match ask {
        Ask::Read => Operation::Read,
        Ask::Write => Operation::Write,
        Ask::Zero | Ask::FastZero => Operation::Hole,
        Ask::Flush => Operation::Sync,
    }
}

/// The count of a reply, checked.
pub(super) fn count_of(
    side: Side,
    request: &Request,
    result: std::result::Result<u64, Failure>,
) -> Result<u64> {
    let count = result.map_err(|why| failure(side, request, why))?;
    if count > request.length {
        let place = (operation(request.ask), side, request.offset);
        return Err(wrong_count(place, count, request.length));
    }
    if count == 0 && request.ask != Ask::Read {
        return Err(failure(side, request, libc::EIO.into()));
    }
    Ok(count)
}

/// The error of a request, with its own offset.
fn failure(side: Side, request: &Request, why: Failure) -> Error {
    why.at(operation(request.ask), side, request.offset)
}
