//! A regular file with O_DIRECT as a sink with several requests in flight.

use super::FileSink;
use crate::end::{Addressable, Ask, Geometry, HoleWay, Reply, Request};
use crate::error::{Error, Operation, Result};
use crate::section::Kind;
use crate::sink::Checkpoint;
use crate::sink::place::not_there;
use crate::sys;
use std::collections::VecDeque;

/// The effects that requests have had on a file.
#[derive(Debug, Default)]
pub(super) struct Requests {
    /// Where the stream ends, if known.
    pub(super) planned_end: Option<u64>,
    /// The file may be longer than the stream has come.
    pub(super) grew: bool,
}

impl<C: Checkpoint> FileSink<C> {
    /// Sets the size before the first write past the end, because writes that extend a file wait for one
    /// another. It stays smaller than the final size: a copy that is killed must not look complete.
    fn run_ahead(&mut self, end: u64) {
        if self.requests.grew || end <= self.opened_size {
            return;
        }
        self.requests.grew = true;
        let Some(planned) = self.requests.planned_end else { return };
        if planned - 1 > end && self.place.reach(planned, Operation::Truncate).is_ok() {
            // If that is refused, the writes are slower.
            let _ = sys::truncate(self.place.fd, planned - 1);
        }
    }

    fn zero(&mut self, request: Request) {
        let result = if self.known_zero {
            Ok(request.length)
        } else {
            loop {
                match self.zeroing.zero(request.offset, request.length) {
                    Err(libc::EINTR) => {}
                    other => break other,
                }
            }
        };
        self.place.queue.answer(request, result);
    }
}

impl<C: Checkpoint> Addressable for FileSink<C> {
    fn describe(&mut self) -> Result<Geometry> {
        // Data that came in another way before is there too.
        self.place.geometry(Some(self.growth.size()))
    }

    fn reach(&mut self, kind: Kind, end: u64) -> Result<()> {
        let operation = match kind {
            Kind::Data | Kind::End => Operation::Write,
            Kind::Hole => Operation::Hole,
            Kind::Keep => Operation::Keep,
        };
        self.place.reach(end, operation)?;
        if kind == Kind::Keep && end > self.opened_size {
            return Err(not_there(self.place.at(), end, self.opened_size));
        }
        Ok(())
    }

    fn submit(&mut self, request: Request) {
        match request.ask {
            Ask::Zero => self.zero(request),
            Ask::Write => {
                self.run_ahead(request.offset + request.length);
                self.place.queue.submit(request);
            }
            Ask::Read => self.place.queue.submit(request),
            Ask::FastZero | Ask::Flush => self.place.queue.answer(request, Err(libc::EOPNOTSUPP)),
        }
    }

    fn advance(&mut self, replies: &mut VecDeque<Reply>) -> Result<()> {
        let taken = self.place.take_replies(replies);
        if let Some(event) = self.place.queue.event.take() {
            self.zeroing.trail.record(event);
        }
        taken
    }

    fn passed(&mut self, length: u64, written: bool) -> Result<()> {
        if written {
            self.place.put(length);
            self.reached();
        } else {
            self.place.advance(length);
        }
        match self.make_durable_if_due() {
            // It stays due.
            Err(error) if error.interrupted() => Ok(()),
            other => other,
        }
    }

    fn zero_way(&self) -> HoleWay {
        if self.known_zero { HoleWay::KnownZero } else { self.zeroing.way() }
    }

    fn is_foreign(&self) -> bool {
        self.place.queue.is_foreign()
    }

    fn cancel(&mut self, _error: &Error) {
        self.place.queue.cancel();
    }
}
