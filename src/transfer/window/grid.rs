//! The offsets at which the stream is cut into pieces, and the blocks that are searched for zeros.

use super::Kinds;
use crate::end::Geometry;
use crate::transfer::options::Options;

/// The cuts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grid {
    /// Pieces end on multiples of this, counted from `phase` before the start of the stream.
    piece: u64,
    phase: u64,
    /// Blocks of zeros that are looked for; 0 if none are.
    unit: u64,
}

impl Grid {
    /// The cuts for two ends, given the geometry of those that are addressable. `phase` is that of the sink.
    pub(super) fn new(
        options: &Options,
        kinds: Kinds,
        from: Option<Geometry>,
        to: Option<Geometry>,
        phase: u64,
    ) -> Self {
        let ends = || from.into_iter().chain(to);
        let grain = ends().map(|end| end.block).max().unwrap_or(1);
        let unit = if options.detect_zeroes && kinds.holes { options.zero_block.into() } else { 0 };
        let unit = if unit == 0 { 0 } else { to.map_or(1, |end| end.block).max(unit) };
        let least = grain.max(unit).max(1);
        let most = ends().map(|end| end.request).min().unwrap_or(u64::MAX);
        let piece = options.request_size.min(most);
        let piece = (piece - piece % least).max(least);
        Grid { piece, phase, unit }
    }

    /// The most bytes of a piece of data.
    pub(super) fn piece(self) -> u64 {
        self.piece
    }

    /// Whether zeros are looked for.
    pub(super) fn detects(self) -> bool {
        self.unit > 0
    }

    /// Bytes from a place in the stream to the end of its piece.
    pub(super) fn to_cut(self, place: u64) -> u64 {
        self.piece - (place + self.phase) % self.piece
    }

    /// Bytes from a place in the stream to the end of its block.
    pub(super) fn to_block_end(self, place: u64) -> u64 {
        self.unit - (place + self.phase) % self.unit
    }

    /// The number of the block of a place in the stream.
    pub(super) fn block(self, place: u64) -> u64 {
        (place + self.phase) / self.unit
    }

    /// The most blocks that a piece of this length touches.
    pub(super) fn blocks(self, length: u64) -> u64 {
        length / self.unit + 2
    }
}
