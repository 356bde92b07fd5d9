//! A pipe, a socket or a character device. It cannot have holes.

use super::Options;
use crate::byte_end::ByteEnd;
use crate::end::{Attempt, End, Extent, Fetch, Made, Plan, Sink, SinkInfo, SinkWays};
use crate::error::{Error, Operation, Result, Side};
use crate::life::Life;
use crate::sys::{Fd, FileKind};
use crate::wait::Waiting;

/// A descriptor that is written as it comes. Writing never waits and never raises SIGPIPE.
#[derive(Debug)]
pub struct ByteSink {
    to: ByteEnd,
    offset: u64,
    limit: u64,
    life: Life,
}

impl ByteSink {
    pub(super) fn new(fd: Fd, kind: FileKind, options: &Options) -> Result<Self> {
        // To accept a request to sync would be to claim that the content is durable.
        let refused = [
            ("options.offset", options.offset),
            ("options.flags & SPARSESTREAM_SYNC", u64::from(options.sync) * 2),
            ("options.sync_interval", options.sync_interval),
        ];
        if let Some((name, value)) = refused.into_iter().find(|(_, value)| *value != 0) {
            return Err(Error::Unseekable { side: Side::Sink, name, value });
        }
        let to = ByteEnd::new(fd, kind, Side::Sink)?;
        let limit = if options.length == 0 { u64::MAX } else { options.length };
        Ok(ByteSink { to, offset: 0, limit, life: Life::Open })
    }

    fn error(&self, operation: Operation, errno: i32) -> Error {
        Error::at(operation, Side::Sink, self.offset, errno)
    }
}

impl Sink for ByteSink {
    fn open(&mut self, plan: &Plan) -> Result<SinkInfo> {
        self.life.check(Operation::Write, Side::Sink, self.offset)?;
        let (offset, room, errno) = (self.offset, self.limit - self.offset, libc::EFBIG);
        match plan.total {
            Some(total) if total > room => Err(Error::TooLong { offset, total, room, errno }),
            Some(_) | None => Ok(SinkInfo::default()),
        }
    }

    fn write(&mut self, buffer: &[u8]) -> Result<usize> {
        self.life.check(Operation::Write, Side::Sink, self.offset)?;
        let left = usize::try_from(self.limit - self.offset).unwrap_or(usize::MAX);
        if left == 0 {
            return Err(self.error(Operation::Write, libc::EFBIG));
        }
        let buffer = &buffer[..left.min(buffer.len())];
        let count =
            self.to.write(buffer, &[]).map_err(|errno| self.error(Operation::Write, errno))?;
        self.offset += count as u64;
        Ok(count)
    }

    fn hole(&mut self, _length: u64) -> Result<Made> {
        Err(self.error(Operation::Hole, libc::EOPNOTSUPP))
    }

    fn keep(&mut self, _length: u64) -> Result<u64> {
        Err(self.error(Operation::Keep, libc::EOPNOTSUPP))
    }
}

impl SinkWays for ByteSink {
    fn fetch(&mut self) -> Option<&mut dyn Fetch> {
        Some(self)
    }
}

impl Fetch for ByteSink {
    fn fetch_extent(&mut self, extent: &Extent) -> Result<Attempt> {
        self.life.check(Operation::Write, Side::Sink, self.offset)?;
        let most = extent.length.min(self.limit - self.offset);
        let attempt = self.to.send_from(&Extent { length: most, ..*extent });
        if let Ok(Attempt::Moved(count)) = attempt {
            self.offset += count;
        }
        attempt.map_err(|errno| self.error(Operation::Write, errno))
    }
}

impl End for ByteSink {
    fn finish(&mut self) -> Result<()> {
        self.life = Life::Finished;
        Ok(())
    }

    fn abort(&mut self, _error: &Error) {
        self.life.abort();
    }

    fn waiting(&self) -> Waiting {
        self.to.waiting(libc::POLLOUT)
    }
}
