//! What the unit tests share.

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
