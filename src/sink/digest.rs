//! A sink that computes the digest of a stream and stores nothing.

use crate::digest::{Digest, Hash};
use crate::end::{End, HoleWay, Made, Plan, Sink, SinkInfo, SinkWays};
use crate::error::{Error, Operation, Result, Side};
use crate::life::Life;
use crate::wait::Waiting;

/// Digests its data. It is always ready, and a hole of any length is one step.
#[derive(Debug, Default)]
pub struct DigestSink {
    digest: Digest,
    life: Life,
}

impl DigestSink {
    /// The digest of the stream so far.
    #[must_use]
    pub fn root(&self) -> Hash {
        self.digest.root()
    }
}

impl Sink for DigestSink {
    fn open(&mut self, _plan: &Plan) -> Result<SinkInfo> {
        Ok(SinkInfo { makes_holes: true, keeps: true, ..SinkInfo::default() })
    }

    fn write(&mut self, buffer: &[u8]) -> Result<usize> {
        self.life.check(Operation::Write, Side::Sink, self.digest.offset())?;
        self.digest.data(buffer);
        Ok(buffer.len())
    }

    fn hole(&mut self, length: u64) -> Result<Made> {
        self.life.check(Operation::Hole, Side::Sink, self.digest.offset())?;
        self.digest.hole(length);
        Ok(Made { length, way: HoleWay::Passed })
    }

    fn keep(&mut self, length: u64) -> Result<u64> {
        self.life.check(Operation::Keep, Side::Sink, self.digest.offset())?;
        self.digest.keep(length);
        Ok(length)
    }
}

impl SinkWays for DigestSink {}

impl End for DigestSink {
    fn finish(&mut self) -> Result<()> {
        self.life = Life::Finished;
        Ok(())
    }

    fn abort(&mut self, _error: &Error) {
        self.life.abort();
    }

    fn waiting(&self) -> Waiting {
        Waiting::Owner
    }
}
