//! Helpers that the unit tests share.

use crate::wire::proto::body::Hello;
use crate::wire::proto::codec::{MAX_PAYLOAD, UNKNOWN, VERSION};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// A size that is a block, or several, wherever the tests run.
pub const BLOCK: u64 = 65536;

/// A piece of a file that is to be made, in units of [`BLOCK`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// Bytes that are not zero.
    Data(u64),
    /// A hole.
    Hole(u64),
}

/// An empty file that has no name.
pub fn file() -> File {
    let mut path = std::env::temp_dir();
    let thread = std::thread::current().id();
    path.push(format!("sparsestream-{}-{thread:?}", std::process::id()));
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .expect("the temporary directory can be written");
    std::fs::remove_file(&path).expect("the file was just made");
    file
}

/// A file of this layout.
pub fn sparse(layout: &[Piece]) -> File {
    let file = file();
    let mut at = 0;
    for piece in layout {
        match *piece {
            Piece::Data(blocks) => {
                let bytes: Vec<u8> =
                    (0..blocks * BLOCK).map(|byte| ((at + byte) % 251) as u8 + 1).collect();
                file.write_all_at(&bytes, at).expect("there is room");
                at += blocks * BLOCK;
            }
            Piece::Hole(blocks) => at += blocks * BLOCK,
        }
    }
    file.set_len(at).expect("there is room");
    file
}

/// Numbers that look random and are the same in every run of one seed.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Those of this seed.
    pub fn new(seed: u64) -> Self {
        Random(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    /// True once in this many times.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// HELLO of a one-way stream of unknown length.
pub fn hello() -> Hello {
    Hello {
        version: VERSION,
        least_version: VERSION,
        max_payload: MAX_PAYLOAD,
        required: 0,
        optional: 0,
        length: UNKNOWN,
        source_size: UNKNOWN,
        source_offset: 0,
        data_bytes: UNKNOWN,
        transfer_id: [0; 16],
        identity: [0; 32],
        base: [0; 32],
        keepalive_ms: 0,
    }
}
