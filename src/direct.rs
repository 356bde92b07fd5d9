//! Direct I/O: the alignment that O_DIRECT needs, and reads and writes without any.
//!
//! Reads and writes of any offset, length and memory are turned into whole blocks. A part of a block is
//! collected in the [`Edge`] until the rest of the block comes.

use crate::buffer::Buffer;
use crate::device;
use crate::edge::{Edge, Want};
use crate::sys::{self, Fd, FileKind, Sys};

/// The block that is assumed if a file system does not report one and no read can be tried. No common one is
/// larger, and a multiple of the real one is always right.
const BLOCK: u64 = 4096;

/// The largest block that is tried or accepted.
const LARGEST: u64 = 64 << 10;

/// Bytes that are copied at a time if the caller's memory is not aligned.
const BOUNCE: usize = 256 << 10;

/// The multiples that direct I/O on one descriptor needs. Both are powers of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alignment {
    /// The alignment of offsets and lengths.
    pub block: u64,
    /// The alignment of addresses.
    pub memory: u64,
}

impl Alignment {
    /// The alignment of an open file or block device. `None` where it was not opened with O_DIRECT, or where
    /// the file system has no direct I/O for it and uses the page cache.
    pub fn of(fd: Fd, kind: FileKind) -> Sys<Option<Self>> {
        let flags = sys::flags(fd)?;
        if flags & libc::O_DIRECT == 0 {
            return Ok(None);
        }
        if let Ok((memory, block)) = sys::direct_alignment(fd) {
            let (memory, block) = (u64::from(memory), u64::from(block));
            if block == 0 {
                return Ok(None);
            }
            if block.is_power_of_two() && memory.is_power_of_two() && block <= LARGEST {
                // A larger block makes each block of an aligned buffer start at an aligned address.
                let block = block.max(memory.min(LARGEST));
                return Ok(Some(Alignment { block, memory: memory.min(block) }));
            }
        }
        let block = match kind {
            FileKind::Block => device::sector(fd)?,
            _ if flags & libc::O_ACCMODE == libc::O_WRONLY => BLOCK,
            _ => tried(fd)?,
        };
        Ok(Some(Alignment { block, memory: block }))
    }

    /// Whether memory can be used as it is.
    #[must_use]
    pub fn fits(&self, bytes: &[u8]) -> bool {
        bytes.as_ptr().addr() as u64 % self.memory == 0
    }

    /// The start of the block that an offset is in.
    #[must_use]
    pub fn down(&self, offset: u64) -> u64 {
        offset - offset % self.block
    }
}

/// The smallest block that a read succeeds with.
fn tried(fd: Fd) -> Sys<u64> {
    let mut buffer = Buffer::new(LARGEST as usize).map_err(|error| error.errno())?;
    let size = sys::size(fd)?;
    let mut block = 512;
    // A read at the end of the file succeeds with any alignment, and proves nothing.
    while block <= LARGEST && 2 * block <= size {
        // Not at the start of the file: 0 is aligned to any block.
        match sys::pread_blocks(fd, &mut buffer.bytes_mut()[..block as usize], block) {
            Err(libc::EINVAL) => block *= 2,
            Ok(_) => return Ok(block),
            // The real read reports it.
            Err(_) => break,
        }
    }
    Ok(BLOCK.max(block.min(LARGEST)))
}

/// Reads of a descriptor with O_DIRECT.
#[derive(Debug)]
pub struct Reader {
    fd: Fd,
    alignment: Alignment,
    bounce: Option<Buffer>,
}

impl Reader {
    /// A reader. It allocates memory when it needs some.
    pub fn new(fd: Fd, alignment: Alignment) -> Self {
        Reader { fd, alignment, bounce: None }
    }

    /// The alignment of the descriptor.
    pub fn alignment(&self) -> Alignment {
        self.alignment
    }

    /// As pread(2), whatever the offset, the length and the memory.
    pub fn read(&mut self, buffer: &mut [u8], offset: u64) -> Sys<usize> {
        let block = self.alignment.block;
        if offset % block == 0 && buffer.len() as u64 >= block && self.alignment.fits(buffer) {
            let whole = buffer.len() - buffer.len() % block as usize;
            return sys::pread_blocks(self.fd, &mut buffer[..whole], offset);
        }
        let bounce = bounce(&mut self.bounce)?;
        let from = self.alignment.down(offset);
        let skew = (offset - from) as usize;
        let reach = (skew + buffer.len()).next_multiple_of(block as usize).min(BOUNCE);
        let mut count = 0;
        while count <= skew {
            // The end, or a read that was cut short.
            match sys::pread_blocks(self.fd, &mut bounce[..reach], from)? {
                more if more <= count => break,
                more => count = more,
            }
        }
        let count = count.saturating_sub(skew).min(buffer.len());
        buffer[..count].copy_from_slice(&bounce[skew..skew + count]);
        Ok(count)
    }
}

fn bounce(place: &mut Option<Buffer>) -> Sys<&mut [u8]> {
    if place.is_none() {
        *place = Some(Buffer::new(BOUNCE).map_err(|error| error.errno())?);
    }
    place.as_mut().map(Buffer::bytes_mut).ok_or(libc::ENOMEM)
}

/// The content that is put into a part of a block.
#[derive(Debug, Clone, Copy)]
pub enum Part<'a> {
    /// These bytes.
    Data(&'a [u8]),
    /// This many zeros.
    Zeros(u64),
}

impl Part<'_> {
    fn length(&self) -> u64 {
        match self {
            Part::Data(bytes) => bytes.len() as u64,
            Part::Zeros(length) => *length,
        }
    }
}

/// The errno of a write to a part of a block whose rest cannot be read.
pub const BLIND: i32 = libc::EINVAL;

/// Writes of a descriptor with O_DIRECT, in the order of their offsets.
#[derive(Debug)]
pub struct Writer {
    fd: Fd,
    alignment: Alignment,
    /// The descriptor is open for reading too.
    readable: bool,
    /// The end of the file when it was opened. Beyond it everything reads zero.
    old_end: u64,
    edge: Edge,
    block: Buffer,
    bounce: Option<Buffer>,
    /// The end of the last block that was padded, because only a part of it was to be written.
    padded: u64,
}

impl Writer {
    /// A writer of a file of this size, or of a device.
    pub fn new(fd: Fd, alignment: Alignment, old_end: u64) -> Sys<Self> {
        let readable = sys::flags(fd)? & libc::O_ACCMODE == libc::O_RDWR;
        let block = Buffer::new(alignment.block as usize).map_err(|error| error.errno())?;
        let edge = Edge::new(alignment.block);
        Ok(Writer { fd, alignment, readable, old_end, edge, block, bounce: None, padded: 0 })
    }

    /// The alignment of the descriptor.
    pub fn alignment(&self) -> Alignment {
        self.alignment
    }

    /// Whether it can read the rest of a block.
    pub fn readable(&self) -> bool {
        self.readable
    }

    /// The end of the file when it was opened.
    pub fn old_end(&self) -> u64 {
        self.old_end
    }

    /// The end of the last block that was padded, because only a part of it was to be written.
    pub fn padded(&self) -> u64 {
        self.padded
    }

    /// Bytes of `length` at this offset that only [`Writer::put`] can take; 0 if none.
    pub fn part(&self, offset: u64, length: u64) -> u64 {
        let block = self.alignment.block;
        if self.edge.is_open() || offset % block != 0 || length < block {
            length.min(block - offset % block)
        } else {
            0
        }
    }

    /// Whether a part of a block is in memory.
    pub fn holds(&self) -> bool {
        self.edge.is_open()
    }

    /// Writes some of the bytes, at least one.
    pub fn write(&mut self, buffer: &[u8], offset: u64) -> Sys<usize> {
        let part = self.part(offset, buffer.len() as u64) as usize;
        if part > 0 {
            return self.put(Part::Data(&buffer[..part]), offset).map(|count| count as usize);
        }
        let block = self.alignment.block as usize;
        let whole = &buffer[..buffer.len() - buffer.len() % block];
        let count = if self.alignment.fits(whole) {
            sys::pwrite_blocks(self.fd, whole, offset)?
        } else {
            let bounce = bounce(&mut self.bounce)?;
            let length = whole.len().min(bounce.len());
            bounce[..length].copy_from_slice(&whole[..length]);
            sys::pwrite_blocks(self.fd, &bounce[..length], offset)?
        };
        // A part of a block is written again, with the rest of it.
        match count - count % block {
            0 => self.put(Part::Data(&whole[..block]), offset).map(|count| count as usize),
            count => Ok(count),
        }
    }

    /// Copies a part into its block, which is written once it is full. Returns how much of it.
    pub fn put(&mut self, part: Part<'_>, offset: u64) -> Sys<u64> {
        let range = loop {
            match self.edge.want(offset, part.length()) {
                Want::Fill(range) => break range,
                Want::Store(_) => self.store()?,
                Want::Load(at) => self.load(at, offset)?,
            }
        };
        let place = &mut self.block.bytes_mut()[range.clone()];
        match part {
            Part::Data(bytes) => place.copy_from_slice(&bytes[..range.len()]),
            Part::Zeros(_) => place.fill(0),
        }
        self.edge.filled(&range);
        if self.edge.is_full() {
            self.store()?;
        }
        Ok(range.len() as u64)
    }

    /// Writes the block that is filled only in part.
    pub fn settle(&mut self) -> Sys<()> {
        if self.edge.is_dirty() { self.store() } else { Ok(()) }
    }

    /// As [`Writer::settle`]. The next piece is not adjacent.
    pub fn leave(&mut self) -> Sys<()> {
        self.settle()?;
        self.edge.close();
        Ok(())
    }

    fn load(&mut self, at: u64, offset: u64) -> Sys<()> {
        let mut known = 0;
        if at < self.old_end {
            if self.readable {
                while known < self.block.bytes().len() {
                    // The end of the file, or a part of the block that is read again with the rest.
                    match sys::pread_blocks(self.fd, self.block.bytes_mut(), at)? {
                        count if count <= known => break,
                        count => known = count,
                    }
                }
            } else if offset != at {
                return Err(BLIND);
            }
        }
        self.block.bytes_mut()[known..].fill(0);
        self.edge.opened(at);
        Ok(())
    }

    fn store(&mut self) -> Sys<()> {
        let (at, filled) = self.edge.pending();
        let block = self.alignment.block;
        if filled < block && at + filled < self.old_end && !self.readable {
            return Err(BLIND);
        }
        match sys::pwrite_blocks(self.fd, self.block.bytes(), at)? as u64 {
            count if count < filled => return Err(libc::EIO),
            _ => {}
        }
        if filled < block {
            self.padded = self.padded.max(at + block);
        }
        self.edge.stored();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
