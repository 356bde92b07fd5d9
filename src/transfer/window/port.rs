//! One addressable end of a window: its facts, and where the stream lies in it.

use super::piece::Piece;
use crate::end::{Addressable, Ask, Geometry, Request};
use crate::error::{Bound, Operation, Result, Rule, Side};
use crate::sys::memory::Slab;

/// The largest block that an end may ask for.
const MOST: u64 = 64 << 10;

/// The part that is missing after a READ.
pub(super) enum Rest {
    /// Nothing.
    Nothing,
    /// The part that this request reads.
    Of(Request),
    /// A part that cannot be had: the source has ended.
    Ended,
}

static BLOCK: Rule =
    Rule::new("the block of the end", Bound::Only("a power of two from 1 to 65536"));
static MEMORY: Rule = Rule::new(
    "the alignment of memory for the end",
    Bound::Only("a power of two, at most its block"),
);
static REQUEST: Rule = Rule::new("the largest request of the end", Bound::Least);
static ZERO: Rule = Rule::new("the largest request for zeros of the end", Bound::Least);
static DEPTH: Rule = Rule::new("the number of requests of the end", Bound::Only("1 or more"));

/// An addressable end.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) geometry: Geometry,
    /// The place in the stream of the byte at `geometry.at`.
    begun: u64,
    pub(super) in_flight: usize,
}

impl Port {
    /// The port of an end, if it is addressable. The stream is at `begun`. At most `most` requests are under way.
    pub(super) fn of(
        end: Option<&mut dyn Addressable>,
        side: Side,
        begun: u64,
        most: usize,
    ) -> Result<Option<Self>> {
        let Some(end) = end else { return Ok(None) };
        let mut geometry = end.describe()?;
        let Geometry { block, memory, request, zero, depth, .. } = geometry;
        let aligned = |value: u64| value.is_power_of_two() && value <= MOST;
        let memory_fits = aligned(memory) && memory <= block;
        for (sound, rule, given) in [
            (aligned(block), &BLOCK, block),
            (memory_fits, &MEMORY, memory),
            (request >= block, &REQUEST, request),
            (zero >= block, &ZERO, zero),
            (depth > 0, &DEPTH, depth as u64),
        ] {
            if !sound {
                let place = (Operation::Open, side, geometry.at);
                let given = i64::try_from(given).unwrap_or(i64::MAX);
                return Err(rule.broken(place, libc::EINVAL, given, block));
            }
        }
        geometry.depth = depth.min(most).max(1);
        geometry.request -= request % block;
        geometry.zero -= zero % block;
        Ok(Some(Port { geometry, begun, in_flight: 0 }))
    }

    /// The number of bytes of which offsets and lengths are multiples.
    pub(super) fn block(&self) -> u64 {
        self.geometry.block
    }

    /// How many requests are under way at the beginning, if the end asks for that.
    pub(super) fn begin(&self) -> Option<usize> {
        (self.geometry.begin > 0).then_some(self.geometry.begin)
    }

    /// Whether no more requests may be under way.
    pub(super) fn is_full(&self) -> bool {
        self.in_flight >= self.geometry.depth
    }

    /// The offset of a place in the stream.
    pub(super) fn offset(&self, place: u64) -> u64 {
        self.geometry.at + (place - self.begun)
    }

    /// The end of the block that an offset is in.
    pub(super) fn up(&self, offset: u64) -> u64 {
        offset.next_multiple_of(self.block())
    }

    /// How far the start of the stream lies behind the start of a block.
    pub(super) fn phase(&self) -> u64 {
        let block = self.block();
        (self.geometry.at % block + block - self.begun % block) % block
    }

    /// Where in a slab the byte at a place in the stream belongs.
    pub(super) fn skew(&self, place: u64) -> usize {
        (self.offset(place) % self.block()) as usize
    }

    /// The part of a piece that is whole blocks: from its start, in bytes. Both are the length if none is.
    pub(super) fn middle(&self, piece: &Piece) -> (u64, u64) {
        let from = self.offset(piece.from);
        let end = from + piece.length;
        let (start, stop) = (self.up(from), end - end % self.block());
        if start < stop { (start - from, stop - from) } else { (piece.length, piece.length) }
    }

    /// The request that reads a piece into a slab, rounded outward to whole blocks.
    pub(super) fn read(&self, piece: &mut Piece, slab: Slab, token: u64) -> Request {
        let wanted = self.offset(piece.from);
        let offset = wanted - wanted % self.block();
        piece.skew = (wanted - offset) as usize;
        let length = self.up(wanted + piece.length) - offset;
        Request { token, ask: Ask::Read, offset, length, memory: Some(slab), start: 0 }
    }

    /// The most bytes that one READ returns of those at a place in the stream.
    pub(super) fn most(&self, place: u64) -> u64 {
        self.geometry.request - self.offset(place) % self.block()
    }

    /// A READ of a piece is back with `count` bytes.
    pub(super) fn rest_of_read(&self, piece: &mut Piece, request: Request, count: u64) -> Rest {
        let end = piece.skew as u64 + piece.length;
        let come = request.start as u64 + count;
        if come >= end {
            piece.slab = request.memory;
            return Rest::Nothing;
        }
        // A read may end within a block though the content does not. It is made again from the start of that
        // block, and once more as long as that brings something.
        if come <= piece.come {
            piece.slab = request.memory;
            piece.cursor = come.saturating_sub(piece.skew as u64);
            return Rest::Ended;
        }
        piece.come = come;
        let whole = come - come % self.block();
        let begin = request.offset - request.start as u64;
        let (offset, start) = (begin + whole, whole as usize);
        let length = request.length + request.start as u64 - whole;
        Rest::Of(Request { offset, length, start, ..request })
    }

    /// Moves the data of a piece to the place in its slab from which it can be written here. Returns by how many
    /// bytes its place in a block was another; 0 if it was not.
    pub(super) fn place(&self, piece: &mut Piece) -> u64 {
        let (block, skew) = (self.block(), self.skew(piece.from));
        let differ = (piece.skew as u64 % block).abs_diff(skew as u64);
        let Some(slab) = piece.slab.as_mut().filter(|_| differ > 0) else { return 0 };
        let range = piece.skew..piece.skew + piece.length as usize;
        slab.bytes_mut().copy_within(range, skew);
        piece.skew = skew;
        differ.min(block - differ)
    }
}
