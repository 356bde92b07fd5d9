//! The options of a transfer, checked.

use crate::error::{Allowed, Error, Result};

/// The treatment of holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sparse {
    /// Holes stay holes if both ends can handle them.
    #[default]
    Auto,
    /// Both ends must be able to handle holes. If not, nothing moves.
    Required,
    /// Holes are written as zeros.
    Never,
}

/// The options of a transfer. For each number, zero stands for its default.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// The treatment of holes.
    pub sparse: Sparse,
    /// Blocks of data that are all zeros become holes.
    pub detect_zeroes: bool,
    /// The size of such a block in bytes.
    pub zero_block: u32,
    /// A hole of fewer bytes is written as zeros.
    pub min_hole: u64,
    /// The size of the buffer in bytes.
    pub buffer_size: u64,
    /// Requests in flight between ends that take requests by offset.
    pub depth: u32,
    /// Bytes of one request.
    pub request_size: u64,
    /// Progress is reported each time this many bytes have moved.
    pub progress_bytes: u64,
    /// Progress is reported each time this many milliseconds have passed.
    pub progress_ms: u64,
    /// The transfer fails after this many milliseconds without progress and without a sign of life of a
    /// peer.
    pub stall_ms: u64,
    /// The transfer fails after this many milliseconds without progress, whatever a peer shows.
    pub idle_ms: u64,
    /// The most bytes of data in a second.
    pub rate: u64,
}

const DEFAULT_BUFFER: u64 = 1 << 20;
const LEAST_BUFFER: u32 = 4096;
const MOST_BUFFER: u32 = 64 << 20;
const BUFFER_SIZES: std::ops::RangeInclusive<u64> = LEAST_BUFFER as u64..=MOST_BUFFER as u64;
const DEFAULT_DEPTH: u32 = 16;
const DEPTHS: std::ops::RangeInclusive<u32> = 1..=256;
const DEFAULT_REQUEST: u64 = 512 << 10;
const REQUEST_SIZES: std::ops::RangeInclusive<u64> = 4096..=16 << 20;
const DEFAULT_ZERO_BLOCK: u32 = 65536;
const ZERO_BLOCKS: std::ops::RangeInclusive<u32> = 512..=1 << 20;

impl Options {
    /// The options, with defaults filled in.
    pub(super) fn checked(mut self) -> Result<Self> {
        if self.buffer_size == 0 {
            self.buffer_size = DEFAULT_BUFFER;
        }
        if !BUFFER_SIZES.contains(&self.buffer_size) {
            let allowed = Allowed::ZeroOr(LEAST_BUFFER, MOST_BUFFER);
            return Err(Error::value("options.buffer_size", self.buffer_size, allowed));
        }
        if self.depth == 0 {
            self.depth = DEFAULT_DEPTH;
        }
        if !DEPTHS.contains(&self.depth) {
            let allowed = Allowed::ZeroOr(*DEPTHS.start(), *DEPTHS.end());
            return Err(Error::value("options.depth", self.depth, allowed));
        }
        if self.request_size == 0 {
            self.request_size = DEFAULT_REQUEST;
        }
        if !REQUEST_SIZES.contains(&self.request_size) || !self.request_size.is_power_of_two() {
            let allowed = Allowed::Only(&"0 or a power of two from 4096 to 16777216");
            return Err(Error::value("options.request_size", self.request_size, allowed));
        }
        if self.zero_block == 0 {
            self.zero_block = DEFAULT_ZERO_BLOCK;
        }
        if !ZERO_BLOCKS.contains(&self.zero_block) || !self.zero_block.is_power_of_two() {
            let allowed = Allowed::Only(&"0 or a power of two from 512 to 1048576");
            return Err(Error::value("options.zero_block", self.zero_block, allowed));
        }
        if self.detect_zeroes {
            self.buffer_size = self.buffer_size.max(self.zero_block.into());
        }
        Ok(self)
    }
}

/// The events that a transfer may wait for by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Nothing.
    None,
    /// Descriptors that their owner left in blocking mode, and time.
    Blocking,
    /// Any descriptor, and time.
    Any,
}

/// The result of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The stream has ended, with success.
    Finished,
    /// The budget is used up.
    BudgetUsed,
}
