//! Frames over a pair of descriptors, for those who have no protocol of their own.
//!
//! | room | subject |
//! |---|---|
//! | [`frame`] | frames to bytes and back: no I/O, no state |
//! | [`errno`] | errnos as numbers that mean the same on every machine |
//! | [`digest`] | the digest of a stream, holes included |
//! | [`sequence`] | which frame may follow which, and the receiver's limits |
//! | [`writer`] | a sink that sends frames |
//! | [`reader`] | a source that receives them |
//!
//! docs/wire-format.md is the specification.

pub mod digest;
pub mod errno;
pub mod frame;
mod inbox;
mod outbox;
pub mod reader;
pub mod sequence;
#[cfg(test)]
mod tests;
pub mod writer;

use crate::end::{Description, Look, Next};
use crate::section::Kind;
use crate::section::{Readable, readable};
use crate::source::{self, Options};
use crate::sys::{self, Fd, FileKind};
use digest::Digest;
pub use reader::Reader;
pub use writer::Writer;

use crate::error::{Error, Operation, Result, Side};

/// What can be told of a range of a file or a device; length 0 means to the end.
///
/// The identity is made of device, inode, size and modification time; of a block device, which has no
/// such time, of its number and size. That the content of one has changed is found by the digest of
/// what a receiver holds of it.
pub fn describe(fd: Fd, offset: u64, length: u64) -> Result<Description> {
    let error = |errno| Error::nowhere(Operation::Open, Side::Source, errno);
    let stat = sys::stat(fd).map_err(error)?;
    let size = match stat.kind {
        FileKind::Regular => stat.size,
        FileKind::Block => sys::device_size(fd).map_err(error)?,
        FileKind::Directory => return Err(error(libc::EISDIR)),
        _ => return Err(error(libc::ESPIPE)),
    };
    let mut identity = sys::identity(fd).map_err(error)?;
    if stat.kind == FileKind::Block {
        identity[2] = size;
    }
    let mut source = source::from_fd(fd, &Options { offset, length, ..Options::default() })?;
    let length = source.open()?.total;
    let mut data_bytes = 0;
    if length.is_some() {
        loop {
            let Look { kind, length } = source.look()?;
            let length = length.unwrap_or(0);
            match kind {
                Kind::End => break,
                Kind::Data => data_bytes += length,
                Kind::Hole | Kind::Keep => {}
            }
            source.consume(length);
        }
    }
    source.finish()?;
    let mut packed = [0; 32];
    for (to, value) in packed.chunks_exact_mut(8).zip(identity) {
        to.copy_from_slice(&value.to_le_bytes());
    }
    Ok(Description {
        length,
        // A size that says nothing, as in /proc, is not told.
        source_size: length.map(|_| size),
        source_offset: offset,
        data_bytes: length.map(|_| data_bytes),
        transfer_id: [0; 16],
        identity: packed,
    })
}

/// The digest of a range of a file or a device, of its holes by their map.
pub fn digest_of(fd: Fd, offset: u64, length: u64) -> Result<u64> {
    let mut digest = Digest::default();
    if length == 0 {
        return Ok(digest.value());
    }
    if let Readable::Stream(_) = readable(fd)? {
        return Err(Error::nowhere(Operation::Open, Side::Source, libc::ESPIPE));
    }
    let mut source = source::from_fd(fd, &Options { offset, length, ..Options::default() })?;
    let mut buffer = crate::buffer::Buffer::new(1 << 18)?;
    loop {
        match source.next(buffer.bytes_mut()) {
            Ok(Next::Data(count)) => digest.data(&buffer.bytes()[..count]),
            Ok(Next::Hole(length) | Next::Keep(length)) => {
                source.consume(length);
                digest.hole(length);
            }
            Ok(Next::End) => break,
            Err(error) if error.interrupted() => {}
            Err(error) => return Err(error),
        }
    }
    source.finish()?;
    Ok(digest.value())
}

/// The milliseconds that a peer may be told of.
fn milliseconds(time: std::time::Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}
