//! A stream that is digested and not stored.

use super::Sink;
use crate::digest::{Digest, Hash};
use crate::error::{Error, Operation, Result, Side};
use crate::life::Life;
use crate::wait::Waiting;

/// Digests what it is given. It is always ready, and a hole of any length is one step.
#[derive(Debug, Default)]
pub struct DigestSink {
    digest: Digest,
    life: Life,
}

impl DigestSink {
    /// The digest of what it was given so far.
    #[must_use]
    pub fn root(&self) -> Hash {
        self.digest.root()
    }
}

impl Sink for DigestSink {
    fn makes_holes(&mut self) -> Result<bool> {
        Ok(true)
    }

    fn write(&mut self, buffer: &[u8]) -> Result<usize> {
        self.life.check(Operation::Write, Side::Sink, self.digest.offset())?;
        self.digest.data(buffer);
        Ok(buffer.len())
    }

    fn hole(&mut self, length: u64) -> Result<u64> {
        self.life.check(Operation::Hole, Side::Sink, self.digest.offset())?;
        self.digest.hole(length);
        Ok(length)
    }

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
