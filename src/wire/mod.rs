//! The wire: frames over any transport, for programs without a protocol of their own.
//!
//! ```text
//!     Writer --+-- proto::sender                    proto::receiver --+-- Reader
//!      (sink)  +-- Transport  ...... bytes ......  Transport ---------+  (source)
//! ```
//!
//! | module | subject |
//! |---|---|
//! | [`proto`] | both state machines, without I/O and without a clock |
//! | [`transport`] | the carrier of the bytes |
//! | [`writer`] | a sink that sends frames |
//! | [`reader`] | a source that receives them |
//! | `inbox` | received bytes |
//! | `lasting` | the failure of either end, which lasts |
//! | [`proof`] | the digest of the bytes that a receiver holds |
//! | [`errno`] | the numbers of errnos, which are the same on every machine |
//!
//! docs/wire-format.md is the specification.

pub mod errno;
mod inbox;
mod lasting;
pub mod proof;
pub mod proto;
pub mod reader;
#[cfg(test)]
mod tests;
pub mod transport;
pub mod writer;

use crate::end::{Description, Look};
use crate::error::{Error, Operation, Result, Side};
use crate::section::Kind;
use crate::source::{self, Options};
use crate::sys::{self, Fd, FileKind};
pub use reader::Reader;
pub use writer::Writer;

/// Describes a range of a file or a device; length 0 means to the end.
///
/// The identity consists of device, inode, size and modification time. A block device has no such time:
/// its identity consists of its number and size, and does not change with its content.
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
        // A size that is not that of the content, as in /proc, is not sent.
        source_size: length.map(|_| size),
        source_offset: offset,
        data_bytes: length.map(|_| data_bytes),
        identity: packed,
        ..Description::default()
    })
}

/// A time in milliseconds, as it is sent to a peer.
fn milliseconds(time: std::time::Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}
