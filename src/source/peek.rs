//! Finds blocks that hold more than zeros without reading all of them.
//!
//! One byte that is not zero is enough, and most data has one at its start. Such a block can be moved
//! without passing through memory.

use super::cache::Cache;
use crate::end::Glimpse;
use crate::sys::Fd;

/// Bytes of a block that are looked at.
const SAMPLE: usize = 512;

/// Among zeros no more than one block in this many is looked at: all of them are read anyway.
const STRIDE: u64 = 4;

/// A place where no block is.
const NOWHERE: (u64, u16) = (u64::MAX, 0);

/// Looks at the blocks of a file.
#[derive(Debug)]
pub struct Looker {
    cache: Cache,
    /// The last block that was looked at, which is likely to come next, and its zeros at the start.
    last: (u64, u16),
}

/// Blocks from `offset` on, in `length` bytes. The first has `first` bytes, the others `block`, and the
/// last ends where the length does.
#[derive(Debug, Clone, Copy)]
pub struct Blocks {
    pub offset: u64,
    pub length: u64,
    pub first: u64,
    pub block: u64,
}

impl Blocks {
    fn count(&self) -> u64 {
        let others = self.length.saturating_sub(self.first);
        u64::from(self.length > 0) + others.div_ceil(self.block.max(1))
    }

    /// Bytes before a block.
    fn before(&self, index: u64) -> u64 {
        match index.checked_sub(1) {
            None => 0,
            Some(others) => (self.first + others * self.block).min(self.length),
        }
    }
}

impl Looker {
    /// For a file that is open for reading.
    #[must_use]
    pub fn new(fd: Fd) -> Self {
        Looker { cache: Cache::new(fd), last: NOWHERE }
    }

    /// Whether the first blocks hold more than zeros, up to the first that is known to be unlike them. It
    /// does not wait: blocks that are not in the cache are unknown.
    pub fn look(&mut self, blocks: &Blocks) -> Option<Glimpse> {
        let count = blocks.count();
        if count == 0 {
            return None;
        }
        let solid = self.solid(blocks, 0)?;
        let like =
            if solid { self.solid_run(blocks, count) } else { self.unsure_run(blocks, count) };
        Some(Glimpse { solid, length: blocks.before(like) })
    }

    /// The number of solid blocks at the start. The first is solid.
    fn solid_run(&mut self, blocks: &Blocks, count: u64) -> u64 {
        (1..count).find(|index| self.solid(blocks, *index) != Some(true)).unwrap_or(count)
    }

    /// The number of blocks at the start that must be read. The first is not known to be solid.
    fn unsure_run(&mut self, blocks: &Blocks, count: u64) -> u64 {
        let (mut run, mut stride) = (1, 1);
        while run < count {
            let next = (run + stride).min(count) - 1;
            match self.solid(blocks, next) {
                Some(false) => run = next + 1,
                Some(true) => {
                    // The blocks in between were skipped.
                    let mut end = next;
                    while run < end {
                        let middle = run + (end - run) / 2;
                        match self.solid(blocks, middle) {
                            Some(true) => end = middle,
                            _ => run = middle + 1,
                        }
                    }
                    return end;
                }
                None => return count,
            }
            stride = STRIDE.min(stride * 2);
        }
        count
    }

    /// Whether a block surely holds more than zeros. `None` if that cannot be known now.
    fn solid(&mut self, blocks: &Blocks, index: u64) -> Option<bool> {
        let before = blocks.before(index);
        let at = blocks.offset + before;
        let size = usize::try_from(blocks.before(index + 1) - before).unwrap_or(SAMPLE).min(SAMPLE);
        // The last look may have been at a longer block.
        let (last, zeros) = self.last;
        if last == at {
            return Some(usize::from(zeros) < size);
        }
        let mut sample = [0; SAMPLE];
        // A failure here is ignored: reading the block will report it.
        let count = self.cache.read(&mut sample[..size], at)?;
        let zeros = sample[..count.min(size)].iter().position(|byte| *byte != 0);
        if count > 0 {
            self.last = (at, zeros.unwrap_or(SAMPLE) as u16);
        }
        (count > 0).then_some(zeros.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Call;
    use crate::sys::inject::{self, Fault};
    use crate::testing::{self, BLOCK, Piece, Piece::*};
    use std::cell::RefCell;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::FileExt;
    use std::rc::Rc;

    fn solid(length: u64) -> Option<Glimpse> {
        Some(Glimpse { solid: true, length })
    }

    fn unsure(length: u64) -> Option<Glimpse> {
        Some(Glimpse { solid: false, length })
    }

    fn blocks(offset: u64, length: u64, first: u64) -> Blocks {
        Blocks { offset, length, first, block: BLOCK }
    }

    #[test]
    fn blocks_that_look_alike_are_reported_together() {
        let file = testing::sparse(&[Data(3), Hole(2), Data(1)]);
        let mut peek = Looker::new(file.as_raw_fd());
        let mut look = |offset, length, first| peek.look(&blocks(offset, length, first));
        assert_eq!(look(0, 6 * BLOCK, BLOCK), solid(3 * BLOCK));
        assert_eq!(look(0, 2 * BLOCK + 7, BLOCK), solid(2 * BLOCK + 7));
        assert_eq!(look(0, 10, BLOCK), solid(10));
        // Blocks that begin elsewhere: the last of the first has data, and zeros behind it.
        assert_eq!(look(100, 6 * BLOCK, 8192), solid(2 * BLOCK + 8192 + BLOCK));
        assert_eq!(look(3 * BLOCK, 3 * BLOCK, BLOCK), unsure(2 * BLOCK));
        assert_eq!(look(3 * BLOCK, 100, BLOCK), unsure(100));
        assert_eq!(look(5 * BLOCK, BLOCK, BLOCK), solid(BLOCK));
        assert_eq!(look(5 * BLOCK, 0, BLOCK), None);
        assert_eq!(look(6 * BLOCK, BLOCK, BLOCK), None);
    }

    #[test]
    fn zeros_of_every_length_end_where_data_begins() {
        for zeros in 1..40 {
            let file = testing::sparse(&[Hole(zeros), Data(STRIDE)]);
            let length = (zeros + STRIDE) * BLOCK;
            let found = Looker::new(file.as_raw_fd()).look(&blocks(0, length, BLOCK));
            assert_eq!(found, unsure(zeros * BLOCK));
        }
    }

    #[test]
    fn a_look_at_a_longer_block_is_not_used_for_a_shorter_one() {
        let file = testing::sparse(&[Data(1), Hole(1)]);
        file.write_all_at(&[1], BLOCK + 100).unwrap();
        let mut peek = Looker::new(file.as_raw_fd());
        assert_eq!(peek.look(&blocks(BLOCK, BLOCK, BLOCK)), solid(BLOCK));
        assert_eq!(peek.look(&blocks(BLOCK, 100, BLOCK)), unsure(100));
        assert_eq!(peek.look(&blocks(BLOCK, 101, BLOCK)), solid(101));
    }

    #[test]
    fn bytes_behind_the_sample_are_not_seen() {
        let file = testing::file();
        file.write_all_at(&[1], SAMPLE as u64).unwrap();
        file.set_len(BLOCK).unwrap();
        let look = || Looker::new(file.as_raw_fd()).look(&blocks(0, BLOCK, BLOCK));
        assert_eq!(look(), unsure(BLOCK));
        file.write_all_at(&[1], SAMPLE as u64 - 1).unwrap();
        assert_eq!(look(), solid(BLOCK));
    }

    /// The glimpse of a file, and the number of looks that it takes.
    fn looks(
        layout: &[Piece],
        answer: impl Fn(usize) -> Fault + 'static,
    ) -> (Option<Glimpse>, usize) {
        let file = testing::sparse(layout);
        let length = file.metadata().unwrap().len();
        let mut peek = Looker::new(file.as_raw_fd());
        let seen = Rc::new(RefCell::new(0));
        let count = Rc::clone(&seen);
        let found = inject::with(
            move |call| {
                assert_eq!(call, Call::Pread);
                *count.borrow_mut() += 1;
                answer(*count.borrow())
            },
            || peek.look(&blocks(0, length, BLOCK)),
        );
        (found, *seen.borrow())
    }

    #[test]
    fn among_zeros_few_blocks_are_looked_at() {
        let (found, looks) = looks(&[Hole(100)], |_| Fault::None);
        assert_eq!(found, unsure(100 * BLOCK));
        assert!(looks <= 28, "{looks}");
    }

    #[test]
    fn after_an_error_nothing_is_known() {
        for errno in [libc::EAGAIN, libc::EINTR, libc::EIO] {
            let at = move |failing| {
                move |nth| if nth == failing { Fault::Errno(errno) } else { Fault::None }
            };
            assert_eq!(looks(&[Data(4)], at(1)), (None, 1));
            assert_eq!(looks(&[Data(4)], at(3)), (solid(2 * BLOCK), 3));
            // Data that is not in the cache is best read in one piece.
            assert_eq!(looks(&[Hole(4), Data(4)], at(3)), (unsure(8 * BLOCK), 3));
        }
    }

    #[test]
    fn a_file_system_that_does_not_report_its_cache_is_asked_once() {
        let file = testing::sparse(&[Data(4)]);
        for errno in [libc::EOPNOTSUPP, libc::ENOSYS, libc::EINVAL] {
            let mut peek = Looker::new(file.as_raw_fd());
            let blocks = blocks(0, 4 * BLOCK, BLOCK);
            let first = inject::with(move |_| Fault::Errno(errno), || peek.look(&blocks));
            assert_eq!(first, None);
            assert_eq!(inject::with(|_| unreachable!(), || peek.look(&blocks)), None);
        }
    }
}
