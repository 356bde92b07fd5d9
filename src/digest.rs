//! The sparse tree digest: a BLAKE3 chain over fixed blocks, in which a hole of any length costs the same.
//! docs/digest.md is the specification; tests/digest/reference.py is written from it.
//!
//! No I/O, no allocation, no clock. Content is added in the order of the stream. Blocks may be hashed
//! elsewhere and in any order with [`block`], and are then chained in order with [`Digest::block`].

use crate::zero::is_zero;
use blake3::Hasher;

/// Bytes of a block. Blocks are counted from the stream's first byte.
pub const BLOCK: usize = 64 << 10;

/// Bytes of a digest.
pub const LENGTH: usize = 32;

/// A digest, a link of a chain, or the hash of a block.
pub type Hash = [u8; LENGTH];

/// The prefix of the root. A change of the format or of the block size changes it.
const TAG: &Hash = b"libsparsestream digest v1, 65536";

/// The kind of a link: a data block.
const DATA: u64 = 1;
/// The kind of a link: a run of zero blocks.
const ZEROS: u64 = 2;

/// The content of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Block {
    /// Only zeros.
    Zeros,
    /// Something else, with its BLAKE3 hash.
    Data(Hash),
}

/// Examines one block, on any thread and in any order.
#[must_use]
pub fn block(bytes: &[u8; BLOCK]) -> Block {
    if is_zero(bytes) { Block::Zeros } else { Block::Data(*blake3::hash(bytes).as_bytes()) }
}

/// The error for a block that is not added at a multiple of its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Misplaced;

/// The chain over the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Content {
    link: Hash,
    /// Bytes of the run of zero blocks that is still open.
    zeros: u64,
}

impl Content {
    fn add(&mut self, kind: u64, count: u64, hash: &Hash) {
        let mut bytes = [0; 2 * LENGTH + 16];
        bytes[..32].copy_from_slice(&self.link);
        bytes[32..40].copy_from_slice(&kind.to_le_bytes());
        bytes[40..48].copy_from_slice(&count.to_le_bytes());
        bytes[48..].copy_from_slice(hash);
        self.link = *blake3::hash(&bytes).as_bytes();
    }

    fn data(&mut self, count: u64, hash: &Hash) {
        self.close();
        self.add(DATA, count, hash);
    }

    fn zeros(&mut self, count: u64) {
        self.zeros = self.zeros.wrapping_add(count);
    }

    /// Ends the run of zero blocks.
    fn close(&mut self) {
        if self.zeros != 0 {
            self.add(ZEROS, self.zeros, &[0; LENGTH]);
            self.zeros = 0;
        }
    }
}

/// The chain over the kept ranges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Kept {
    link: Hash,
    /// Bytes of the kept range that is still open: it ends at the current offset.
    open: u64,
}

impl Kept {
    /// Ends the range at this offset.
    fn close(&mut self, offset: u64) {
        if self.open != 0 {
            let mut bytes = [0; LENGTH + 16];
            bytes[..32].copy_from_slice(&self.link);
            bytes[32..40].copy_from_slice(&offset.wrapping_sub(self.open).to_le_bytes());
            bytes[40..].copy_from_slice(&self.open.to_le_bytes());
            self.link = *blake3::hash(&bytes).as_bytes();
            self.open = 0;
        }
    }
}

/// The block that is not complete. Its zeros are hashed only once something else follows them.
// The variants differ much in size, but only one or two values exist at a time.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone)]
enum Open {
    /// This many zeros, fewer than a block.
    Zeros(usize),
    /// Something else. The hasher counts the bytes.
    Data(Hasher),
}

/// The state from which a digest is resumed, once the open block was read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct State {
    offset: u64,
    content: Content,
    kept: Kept,
}

impl State {
    /// Bytes of a state in its packed form.
    pub const PACKED: usize = 88;

    /// The offset in the stream, in bytes, that it was taken at.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// How many bytes before the offset [`Digest::resume`] must be given again: those of the block
    /// that was not complete. Fewer than [`BLOCK`].
    #[must_use]
    pub fn open(&self) -> usize {
        within(self.offset)
    }

    /// Packs it into bytes that are the same on every machine.
    #[must_use]
    pub fn pack(&self) -> [u8; Self::PACKED] {
        let mut packed = [0; Self::PACKED];
        packed[..8].copy_from_slice(&self.offset.to_le_bytes());
        packed[8..40].copy_from_slice(&self.content.link);
        packed[40..48].copy_from_slice(&self.content.zeros.to_le_bytes());
        packed[48..80].copy_from_slice(&self.kept.link);
        packed[80..].copy_from_slice(&self.kept.open.to_le_bytes());
        packed
    }

    /// Unpacks such bytes; `None` if no digest has that state. The hashes cannot be checked.
    #[must_use]
    pub fn unpack(packed: &[u8; Self::PACKED]) -> Option<Self> {
        let number = |at: usize| packed[at..at + 8].try_into().map(u64::from_le_bytes).ok();
        let hash = |at: usize| packed[at..at + LENGTH].try_into().ok();
        let state = State {
            offset: number(0)?,
            content: Content { link: hash(8)?, zeros: number(40)? },
            kept: Kept { link: hash(48)?, open: number(80)? },
        };
        let State { offset, content: Content { zeros, .. }, kept: Kept { open, .. } } = state;
        let complete = offset - within(offset) as u64;
        (within(zeros) == 0 && zeros <= complete && open <= offset).then_some(state)
    }
}

/// The digest of the content that was added so far, in order, from the first byte of the stream.
///
/// The caller ensures that a stream has at most 2^63 - 1 bytes: offsets wrap beyond 2^64.
#[derive(Debug, Clone)]
pub struct Digest {
    offset: u64,
    content: Content,
    kept: Kept,
    open: Open,
}

impl Default for Digest {
    fn default() -> Self {
        Digest {
            offset: 0,
            content: Content::default(),
            kept: Kept::default(),
            open: Open::Zeros(0),
        }
    }
}

impl Digest {
    /// A digest that continues from a state. `open` is the last [`State::open`] bytes before its offset, with
    /// zeros for those that were in a hole or kept.
    pub fn resume(state: &State, open: &[u8]) -> Result<Self, Misplaced> {
        if open.len() != state.open() {
            return Err(Misplaced);
        }
        let mut digest = Digest {
            offset: state.offset - open.len() as u64,
            content: state.content,
            kept: state.kept,
            open: Open::Zeros(0),
        };
        digest.bytes(open);
        Ok(digest)
    }

    /// The state to be stored for [`Digest::resume`].
    #[must_use]
    pub fn state(&self) -> State {
        State { offset: self.offset, content: self.content, kept: self.kept }
    }

    /// Bytes of the stream that were added.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Adds data.
    pub fn data(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.kept.close(self.offset);
            self.bytes(bytes);
        }
    }

    /// Adds a hole of this many bytes. It equals as many zero bytes of data.
    pub fn hole(&mut self, length: u64) {
        if length != 0 {
            self.kept.close(self.offset);
            self.zeros(length);
        }
    }

    /// Adds this many bytes that the receiver keeps. Their content counts as zeros, and their place counts.
    /// Adjacent ranges are one.
    pub fn keep(&mut self, length: u64) {
        self.kept.open = self.kept.open.wrapping_add(length);
        self.zeros(length);
    }

    /// Adds a block of [`BLOCK`] bytes that was examined by [`block`]. Fails without an effect if the offset is
    /// not a multiple of that.
    pub fn block(&mut self, block: Block) -> Result<(), Misplaced> {
        if within(self.offset) != 0 {
            return Err(Misplaced);
        }
        self.kept.close(self.offset);
        match block {
            Block::Zeros => self.content.zeros(BLOCK as u64),
            Block::Data(hash) => self.content.data(BLOCK as u64, &hash),
        }
        self.offset = self.offset.wrapping_add(BLOCK as u64);
        Ok(())
    }

    /// The digest of the stream, as if it ended here. At most the last block is hashed for it, in a copy.
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut content = self.content;
        match &self.open {
            Open::Zeros(count) => content.zeros(*count as u64),
            Open::Data(hasher) => content.data(hasher.count(), hasher.finalize().as_bytes()),
        }
        content.close();
        let mut kept = self.kept;
        kept.close(self.offset);
        let mut bytes = [0; 3 * LENGTH + 8];
        bytes[..32].copy_from_slice(TAG);
        bytes[32..64].copy_from_slice(&content.link);
        bytes[64..72].copy_from_slice(&self.offset.to_le_bytes());
        bytes[72..].copy_from_slice(&kept.link);
        *blake3::hash(&bytes).as_bytes()
    }

    /// Data, whether or not a kept range is open.
    fn bytes(&mut self, mut bytes: &[u8]) {
        let to_boundary = (BLOCK - within(self.offset)) % BLOCK;
        if to_boundary != 0 {
            let (first, rest) = bytes.split_at(to_boundary.min(bytes.len()));
            self.piece(first);
            bytes = rest;
        }
        let mut blocks = bytes.chunks_exact(BLOCK);
        for whole in &mut blocks {
            // Without `piece`: a whole block is hashed at once, and not copied.
            if is_zero(whole) {
                self.content.zeros(BLOCK as u64);
            } else {
                self.content.data(BLOCK as u64, blake3::hash(whole).as_bytes());
            }
            self.offset = self.offset.wrapping_add(BLOCK as u64);
        }
        self.piece(blocks.remainder());
    }

    /// Data that ends at or before the end of the open block.
    fn piece(&mut self, bytes: &[u8]) {
        match &mut self.open {
            Open::Zeros(count) if is_zero(bytes) => *count += bytes.len(),
            Open::Zeros(count) => {
                let mut hasher = Hasher::new();
                update_zeros(&mut hasher, *count);
                hasher.update(bytes);
                self.open = Open::Data(hasher);
            }
            Open::Data(hasher) => {
                hasher.update(bytes);
            }
        }
        self.moved(bytes.len());
    }

    /// Zeros, whether or not a kept range is open.
    fn zeros(&mut self, mut length: u64) {
        let to_boundary = (BLOCK - within(self.offset)) % BLOCK;
        if to_boundary != 0 {
            let first = usize::try_from(length).unwrap_or(to_boundary).min(to_boundary);
            self.zero_piece(first);
            length -= first as u64;
        }
        let last = within(length);
        let whole = length - last as u64;
        self.content.zeros(whole);
        self.offset = self.offset.wrapping_add(whole);
        self.zero_piece(last);
    }

    /// Zeros that end at or before the end of the open block.
    fn zero_piece(&mut self, length: usize) {
        match &mut self.open {
            Open::Zeros(count) => *count += length,
            Open::Data(hasher) => update_zeros(hasher, length),
        }
        self.moved(length);
    }

    /// Adds this many bytes to the open block, which is chained if it is complete now.
    fn moved(&mut self, by: usize) {
        self.offset = self.offset.wrapping_add(by as u64);
        if by == 0 || within(self.offset) != 0 {
            return;
        }
        match std::mem::replace(&mut self.open, Open::Zeros(0)) {
            Open::Zeros(count) => self.content.zeros(count as u64),
            Open::Data(hasher) => self.content.data(BLOCK as u64, hasher.finalize().as_bytes()),
        }
    }
}

/// The offset within its block.
fn within(offset: u64) -> usize {
    (offset % BLOCK as u64) as usize
}

fn update_zeros(hasher: &mut Hasher, mut count: usize) {
    while count != 0 {
        let piece = count.min(crate::sys::zeros().len());
        hasher.update(&crate::sys::zeros()[..piece]);
        count -= piece;
    }
}

#[cfg(test)]
mod tests;
