//! A file or device with O_DIRECT as a source with several reads in flight.

use super::FileSource;
use crate::end::{Addressable, Ask, Geometry, Reply, Request};
use crate::error::{Error, Operation, Result, Side};
use crate::queue::{DEPTH, REQUEST};
use std::collections::VecDeque;

impl Addressable for FileSource {
    fn describe(&mut self) -> Result<Geometry> {
        self.life.check(Operation::Open, Side::Source, self.offset)?;
        self.queue.reserve()?;
        let (Some(direct), Some(end)) = (&self.direct, self.limit.end()) else {
            return Err(Error::Internal);
        };
        let alignment = direct.alignment();
        Ok(Geometry {
            at: self.offset,
            size: end,
            block: alignment.block,
            memory: alignment.memory,
            request: REQUEST,
            zero: REQUEST,
            depth: DEPTH,
            begin: 0,
            grows: false,
            fast_zero: false,
            reads: true,
        })
    }

    fn submit(&mut self, request: Request) {
        match request.ask {
            Ask::Read => self.queue.submit(request),
            Ask::Write | Ask::Zero | Ask::FastZero | Ask::Flush => {
                self.queue.answer(request, Err(libc::EOPNOTSUPP));
            }
        }
    }

    fn advance(&mut self, replies: &mut VecDeque<Reply>) -> Result<()> {
        let offset = self.offset;
        let advanced = self.queue.advance(replies);
        if let Some(event) = self.queue.event.take() {
            self.trail.record(event);
        }
        advanced.map_err(|errno| Error::at(Operation::Read, Side::Source, offset, errno))
    }

    fn is_foreign(&self) -> bool {
        self.queue.is_foreign()
    }

    fn cancel(&mut self, _error: &Error) {
        self.queue.cancel();
    }
}
