//! Whether a file system that reports a range as zeroed has zeroed it.
//!
//! Some FUSE servers report success for a punch and keep the bytes. Before a range is zeroed, a byte of
//! it that is not zero is looked for, and read again afterwards. One such byte is enough for a stream.

use crate::filesystem::FileSystem;
use crate::sys::{self, Fd, Sys};
use crate::zero::is_zero;

/// Whether the file system is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// The type of the file system was not looked up yet.
    Unasked,
    /// It is trusted.
    Given,
    /// It is not trusted yet. This many bytes were read, and all of them were zeros.
    Wanted(u64),
}

/// Bytes that are zeroed in one step while there is no proof.
pub(super) const STEP: u64 = 1 << 20;

/// After this many zeros, only samples are read: what is already a hole need not be read in full.
const READ_MOST: u64 = 64 << 20;
/// Samples of a step.
const SAMPLES: u64 = 8;
/// Bytes that are read at a time.
const PIECE: usize = 16 << 10;
const SAMPLE: u64 = 4096;

/// The byte to be read again after a range was zeroed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Witness {
    /// Nothing.
    None,
    /// The byte at this offset, which was not zero.
    At(u64),
    /// The range cannot be read, so that nothing can be proved.
    Unreadable,
}

/// The proof of one file.
#[derive(Debug)]
pub(super) struct Proof {
    fd: Fd,
    trust: Trust,
}

impl Proof {
    /// A regular file.
    pub(super) fn of_file(fd: Fd) -> Self {
        Proof { fd, trust: Trust::Unasked }
    }

    /// A block device, for which the kernel guarantees it.
    pub(super) fn of_device(fd: Fd) -> Self {
        Proof { fd, trust: Trust::Given }
    }

    /// Whether a proof is still needed.
    pub(super) fn wanted(&mut self) -> bool {
        if self.trust == Trust::Unasked {
            let native = FileSystem::of(self.fd).is_ok_and(FileSystem::is_native);
            self.trust = if native { Trust::Given } else { Trust::Wanted(0) };
        }
        self.trust != Trust::Given
    }

    /// Looks for a byte that is not zero, in a range of at most [`STEP`] bytes.
    pub(super) fn witness(&mut self, at: u64, length: u64) -> Sys<Witness> {
        let Trust::Wanted(zeros) = self.trust else { return Ok(Witness::None) };
        let found = if zeros < READ_MOST {
            self.trust = Trust::Wanted(zeros + length);
            self.search(at, length)
        } else {
            let last = length.saturating_sub(SAMPLE);
            (0..SAMPLES)
                .map(|nth| self.search(at + last * nth / (SAMPLES - 1), SAMPLE.min(length)))
                .find(|found| *found != Ok(None))
                .unwrap_or(Ok(None))
        };
        match found {
            Ok(None) => Ok(Witness::None),
            Ok(Some(offset)) => Ok(Witness::At(offset)),
            Err(libc::EINTR) => Err(libc::EINTR),
            Err(_) => {
                self.trust = Trust::Given;
                Ok(Witness::Unreadable)
            }
        }
    }

    /// Whether the witness reads zero now. If so, the file system is trusted from here on.
    pub(super) fn convinces(&mut self, witness: u64) -> Sys<bool> {
        // The kernel may have zeroed a part of the page in its cache only.
        let page = witness - witness % SAMPLE;
        let _ = sys::forget(self.fd, page, SAMPLE);
        let mut byte = [0xff];
        let zero = sys::pread(self.fd, &mut byte, witness)? == 1 && byte == [0];
        if zero {
            self.trust = Trust::Given;
        }
        Ok(zero)
    }

    /// The first byte of a range that is not zero.
    fn search(&self, at: u64, length: u64) -> Sys<Option<u64>> {
        let mut buffer = [0; PIECE];
        let mut done = 0;
        while done < length {
            let most = usize::try_from(length - done).unwrap_or(PIECE).min(PIECE);
            let count = sys::pread(self.fd, &mut buffer[..most], at + done)?;
            if count == 0 {
                break;
            }
            let read = &buffer[..count];
            if !is_zero(read) {
                let first = read.iter().position(|byte| *byte != 0);
                return Ok(first.map(|first| at + done + first as u64));
            }
            done += count as u64;
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, BLOCK, Piece::*};
    use std::os::fd::AsRawFd;

    fn proof(file: &std::fs::File, zeros: u64) -> Proof {
        Proof { fd: file.as_raw_fd(), trust: Trust::Wanted(zeros) }
    }

    #[test]
    fn a_byte_that_is_not_zero_is_found_wherever_it_is() {
        let file = testing::sparse(&[Hole(16)]);
        for offset in [0, 1, 16_383, 16_384, STEP - 1] {
            sys::pwrite(file.as_raw_fd(), &[1], offset).unwrap();
            assert_eq!(proof(&file, 0).witness(0, STEP), Ok(Witness::At(offset)));
            sys::pwrite(file.as_raw_fd(), &[0], offset).unwrap();
        }
        assert_eq!(proof(&file, 0).witness(0, STEP), Ok(Witness::None));
    }

    #[test]
    fn long_zeros_are_sampled_at_their_ends_and_between() {
        let file = testing::sparse(&[Hole(7), Data(1), Hole(7), Data(1)]);
        let mut sampling = proof(&file, READ_MOST);
        assert_eq!(sampling.witness(0, 16 * BLOCK), Ok(Witness::At(15 * BLOCK + BLOCK - SAMPLE)));
        assert_eq!(sampling.witness(0, 8 * BLOCK), Ok(Witness::At(8 * BLOCK - SAMPLE)));
        assert_eq!(sampling.witness(7 * BLOCK, 9 * BLOCK), Ok(Witness::At(7 * BLOCK)));
        assert_eq!(sampling.witness(8 * BLOCK, 5 * BLOCK), Ok(Witness::None));
    }

    #[test]
    fn only_a_range_that_reads_zero_afterwards_is_believed() {
        let file = testing::sparse(&[Data(1)]);
        let mut proof = proof(&file, 0);
        assert_eq!(proof.convinces(5), Ok(false));
        assert!(proof.wanted());
        sys::pwrite(file.as_raw_fd(), &[0], 5).unwrap();
        assert_eq!(proof.convinces(5), Ok(true));
        assert!(!proof.wanted());
    }
}
