//! The digest of the bytes that a receiver holds, which are read back in bounded steps.

use crate::buffer::Buffer;
use crate::digest::Digest;
use crate::end::{Next, Source};
use crate::error::{Error, Operation, Result, Side};
use crate::source::{self, Options};
use crate::sys::{self, Fd, FileKind};

/// The most bytes that one step reads.
const STEP_BYTES: u64 = 4 << 20;

/// The most sections of one step.
const STEP_SECTIONS: usize = 256;

/// Bytes of one read: a multiple of the digest's blocks.
const BUFFER: usize = 256 << 10;

/// A range of a file or a block device whose digest is computed, its holes by their map.
pub struct Proof {
    source: Box<dyn Source>,
    digest: Digest,
    buffer: Buffer,
}

impl Proof {
    /// The proof of `length` bytes, at least one, from `offset` on.
    pub fn new(fd: Fd, offset: u64, length: u64) -> Result<Self> {
        let kind = sys::stat(fd).map(|stat| stat.kind);
        let kind = kind.map_err(|errno| Error::nowhere(Operation::Open, Side::Source, errno))?;
        if !matches!(kind, FileKind::Regular | FileKind::Block) {
            return Err(Error::nowhere(Operation::Open, Side::Source, libc::ESPIPE));
        }
        let mut source = source::from_fd(fd, &Options { offset, length, ..Options::default() })?;
        source.open()?;
        Ok(Proof { source, digest: Digest::default(), buffer: Buffer::new(BUFFER)? })
    }

    /// Makes a step. Returns the digest once everything was read.
    pub fn step(&mut self) -> Result<Option<Digest>> {
        let mut left = STEP_BYTES;
        for _ in 0..STEP_SECTIONS {
            match self.source.next(self.buffer.bytes_mut()) {
                Ok(Next::Data(count)) => {
                    self.digest.data(self.buffer.bytes().get(..count).ok_or(Error::Internal)?);
                    left = left.saturating_sub(count as u64);
                }
                Ok(Next::Hole(length)) => {
                    self.source.consume(length);
                    self.digest.hole(length);
                }
                Ok(Next::Keep(_)) => return Err(Error::Internal),
                Ok(Next::End) => {
                    self.source.finish()?;
                    return Ok(Some(std::mem::take(&mut self.digest)));
                }
                Err(error) if error.interrupted() => {}
                Err(error) => return Err(error),
            }
            if left == 0 {
                break;
            }
        }
        Ok(None)
    }
}

impl std::fmt::Debug for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proof").field("offset", &self.digest.offset()).finish_non_exhaustive()
    }
}
