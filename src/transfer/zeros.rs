//! Looks for blocks of zeros in data.
//!
//! A block is a part of the stream that starts at a multiple of the block size. A block at the end of
//! the data may be short. Data that was read is pending in the pool; it is sorted from its start into
//! runs of one kind.

use super::pool::Pool;
use crate::end::{Extent, Glimpse, Peek};
use crate::error::Result;
use crate::zero::is_zero;

/// The first part of the pending data, as far as its kind is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Run {
    /// Nothing is known yet.
    Unknown,
    /// This many bytes, at least one, are data.
    Data(usize),
    /// This many bytes, at least one, are zeros.
    Zeros(usize),
}

/// The knowledge about the data that comes next, without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ahead {
    /// Nothing.
    Unknown,
    /// This many bytes are in blocks that hold more than zeros: they need not be read.
    Solid(u64),
    /// This many bytes may be zeros and must be read. The bytes after them need not be.
    Unsure(u64),
}

/// The state of the search.
#[derive(Debug)]
pub(super) struct Zeros {
    block: u64,
    /// Looking ahead pays off: data that need not be read is moved in a better way.
    peeks: bool,
    ahead: Ahead,
    run: Run,
    /// The part of the pool that one pull fills.
    room: usize,
    /// No more data will be read behind the pending data, so that a block at its end is complete.
    settled: bool,
}

impl Zeros {
    pub(super) fn new(block: u32, peeks: bool) -> Self {
        let block = u64::from(block);
        Zeros {
            block,
            peeks: peeks && block >= Extent::LEAST,
            ahead: Ahead::Unknown,
            run: Run::Unknown,
            room: 0,
            settled: true,
        }
    }

    /// Whether it is time to look ahead, when nothing is pending.
    #[inline]
    pub(super) fn wants_glimpse(&self) -> bool {
        self.peeks && !matches!(self.ahead, Ahead::Solid(_))
    }

    /// There is no better way any more for data that need not be read. The knowledge about it stays valid: a block
    /// of which a part has moved as data is data.
    pub(super) fn stop_peeking(&mut self) {
        self.peeks = false;
    }

    /// Looks at the next data, at `place` in the stream. Returns whether it starts with a block that is not zeros.
    pub(super) fn glimpse(
        &mut self,
        source: &mut dyn Peek,
        place: u64,
        size: usize,
    ) -> Result<bool> {
        let size = size as u64;
        let most = size - (place + size) % self.block;
        self.ahead = Ahead::Unknown;
        let glimpse = source.glimpse(most, self.block - place % self.block, self.block)?;
        self.ahead = match glimpse {
            // So few bytes are cheaper to copy, as in other ways.
            Some(Glimpse { solid: true, length }) if length >= Extent::LEAST => {
                Ahead::Solid(length.min(most))
            }
            Some(Glimpse { solid: false, length }) => Ahead::Unsure(length),
            Some(Glimpse { solid: true, .. }) | None => Ahead::Unknown,
        };
        Ok(matches!(self.ahead, Ahead::Solid(_)))
    }

    /// Bytes that come next and are known to be data.
    #[inline]
    pub(super) fn solid(&self) -> u64 {
        match self.ahead {
            Ahead::Solid(length) => length,
            Ahead::Unknown | Ahead::Unsure(_) => 0,
        }
    }

    /// Some of the solid data moved another way.
    pub(super) fn moved(&mut self, count: u64) {
        self.ahead = match self.ahead {
            Ahead::Solid(length) if length > count => Ahead::Solid(length - count),
            Ahead::Solid(_) | Ahead::Unknown | Ahead::Unsure(_) => Ahead::Unknown,
        };
    }

    /// Begins to fill an empty pool of `size` bytes with data from `place` in the stream. Returns how much
    /// of it is to be filled: a full read ends where a block does, and before data that need not be read.
    pub(super) fn begin(&mut self, place: u64, size: usize) -> usize {
        (self.run, self.settled) = (Run::Unknown, false);
        let end = place + size as u64;
        // The sum is taken after the match. Within an arm, Rust 1.85 also adds the unset length of an `Unknown` and
        // drops the sum, which valgrind reports.
        let unsure = match self.ahead {
            Ahead::Unsure(length) => length,
            Ahead::Unknown | Ahead::Solid(_) => u64::MAX,
        };
        let reach = place.saturating_add(unsure);
        let reach = reach.checked_next_multiple_of(self.block).unwrap_or(end);
        self.room = (reach.min(end - end % self.block) - place) as usize;
        self.room
    }

    /// As [`Zeros::begin`], for a read that was not ready and fills the pool up to `end`.
    #[cold]
    pub(super) fn resume(&mut self, end: usize) -> usize {
        (self.run, self.settled) = (Run::Unknown, false);
        self.room = end;
        end
    }

    /// The first data of a pull was read.
    pub(super) fn filled(&mut self, count: usize) {
        // A part of a block that holds more than zeros is data, whatever the part looks like.
        self.run = match usize::try_from(self.solid()).unwrap_or(usize::MAX).min(count) {
            0 => Run::Unknown,
            solid => Run::Data(solid),
        };
        self.ahead = Ahead::Unknown;
    }

    /// No more data comes behind the pending data.
    pub(super) fn settle(&mut self) {
        self.settled = true;
    }

    /// The end up to which the pool is to be filled if the first pending block is not complete: one read may return
    /// a part of a block.
    pub(super) fn wants_more(&self, place: u64, pool: &Pool) -> Option<usize> {
        let whole = self.block - place % self.block;
        let incomplete = self.run == Run::Unknown
            && !self.settled
            && (pool.pending().len() as u64) < whole
            && pool.used() < self.room;
        incomplete.then_some(self.room)
    }

    /// The run at the start of the pending data, which is not empty and lies at `place` in the stream.
    #[inline]
    pub(super) fn run(&mut self, place: u64, pool: &Pool) -> Run {
        if self.run == Run::Unknown {
            self.run = self.classify(place, pool.pending());
        }
        self.run
    }

    /// Pending bytes of the run were taken.
    #[inline]
    pub(super) fn took(&mut self, count: usize) {
        self.run = match self.run {
            Run::Data(length) if length > count => Run::Data(length - count),
            Run::Zeros(length) if length > count => Run::Zeros(length - count),
            Run::Data(_) | Run::Zeros(_) | Run::Unknown => Run::Unknown,
        };
    }

    fn classify(&self, mut place: u64, bytes: &[u8]) -> Run {
        let mut at = 0;
        let mut first = None;
        while at < bytes.len() {
            let whole = self.block - place % self.block;
            let left = whole.min((bytes.len() - at) as u64);
            if left < whole && !self.settled && at > 0 {
                break;
            }
            let to = at + left as usize;
            let zero = is_zero(&bytes[at..to]);
            if *first.get_or_insert(zero) != zero {
                break;
            }
            at = to;
            place += left;
        }
        if first == Some(true) { Run::Zeros(at) } else { Run::Data(at) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(bytes: &[u8]) -> Pool {
        let mut pool = Pool::new(16384).unwrap();
        pool.room(bytes.len()).copy_from_slice(bytes);
        pool.filled(bytes.len());
        pool
    }

    #[test]
    fn blocks_lie_where_the_stream_has_them() {
        let mut bytes = vec![0; 2048];
        bytes[1500] = 1;
        let mut zeros = Zeros::new(512, false);
        // The stream is 100 bytes into a block: zeros to the second boundary, data in the fourth block.
        assert_eq!(zeros.run(100, &pool(&bytes)), Run::Zeros(1436));
        zeros.took(1436);
        assert_eq!(zeros.run(1536, &pool(&bytes[1436..])), Run::Data(512));
    }

    #[test]
    fn an_incomplete_block_waits_for_the_rest() {
        let mut zeros = Zeros::new(4096, false);
        assert_eq!(zeros.begin(0, 16384), 16384);
        let pool = pool(&[0; 100]);
        zeros.filled(100);
        assert_eq!(zeros.wants_more(0, &pool), Some(16384));
        zeros.settle();
        assert_eq!(zeros.wants_more(0, &pool), None);
        assert_eq!(zeros.run(0, &pool), Run::Zeros(100));
    }

    #[test]
    fn a_read_ends_where_a_block_does() {
        let mut zeros = Zeros::new(4096, false);
        assert_eq!(zeros.begin(1000, 16384), 16384 - 1000);
        assert_eq!(zeros.begin(4096, 5000), 4096);
    }
}
