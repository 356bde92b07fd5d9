//! A block device with O_DIRECT as a sink with several requests in flight.

use super::BlockSink;
use crate::end::{Addressable, Ask, Geometry, HoleWay, Reply, Request};
use crate::error::{Error, Operation, Result};
use crate::section::Kind;
use crate::sink::Checkpoint;
use std::collections::VecDeque;

impl<C: Checkpoint> Addressable for BlockSink<C> {
    fn describe(&mut self) -> Result<Geometry> {
        self.place.geometry(None)
    }

    fn reach(&mut self, kind: Kind, end: u64) -> Result<()> {
        let operation = match kind {
            Kind::Data | Kind::End => Operation::Write,
            Kind::Hole => Operation::Hole,
            Kind::Keep => Operation::Keep,
        };
        self.place.reach(end, operation)
    }

    fn submit(&mut self, request: Request) {
        let result = match request.ask {
            Ask::Read | Ask::Write => return self.place.queue.submit(request),
            Ask::FastZero | Ask::Flush => Err(libc::EOPNOTSUPP),
            Ask::Zero if self.known_zero => Ok(request.length),
            Ask::Zero => loop {
                match self.zeroing.zero(request.offset, request.length) {
                    Err(libc::EINTR) => {}
                    other => break other,
                }
            },
        };
        self.place.queue.answer(request, result);
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
