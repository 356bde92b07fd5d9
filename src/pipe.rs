//! A private pipe: data moves through it from one descriptor to another as pages, without a copy.

use crate::sys::{self, Fd, Sys};
use std::os::fd::{AsRawFd, OwnedFd};

/// The size of the pipe: enough to make the calls cheap. An unprivileged user may have 256 of them by default:
/// /proc/sys/fs/pipe-user-pages-soft.
const SIZE: i32 = 256 << 10;

/// A pipe smaller than this is not worth its calls.
const LEAST: usize = 64 << 10;

/// Both ends of a pipe, and the number of bytes in it.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    room: u64,
    held: u64,
}

impl Pipe {
    /// An empty pipe. `None` if it cannot be made, or only a small one.
    #[must_use]
    pub fn new() -> Option<Self> {
        let (read, write) = sys::pipe().ok()?;
        // As standard output or error it would receive the output of the process.
        if read.as_raw_fd().min(write.as_raw_fd()) <= libc::STDERR_FILENO {
            return None;
        }
        let room =
            sys::set_pipe_size(write.as_raw_fd(), SIZE).ok().filter(|room| *room >= LEAST)?;
        Some(Pipe { read, write, room: room as u64, held: 0 })
    }

    /// Bytes that are in it.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.held
    }

    /// Bytes that it can hold at best.
    #[must_use]
    pub fn room(&self) -> u64 {
        self.room
    }

    /// Fills it with at most this many bytes of a descriptor, from an offset if one is given. 0 means the end.
    pub fn fill(&mut self, from: Fd, at: Option<u64>, most: u64) -> Sys<u64> {
        let count = sys::splice(from, at, self.write.as_raw_fd(), None, most)?;
        self.held += count;
        Ok(count)
    }

    /// Moves at most this many bytes to an offset of a file.
    pub fn drain(&mut self, to: Fd, at: u64, most: u64) -> Sys<u64> {
        let most = most.min(self.held);
        let count = sys::splice(self.read.as_raw_fd(), None, to, Some(at), most)?;
        self.held = self.held.saturating_sub(count);
        Ok(count)
    }

    /// Reads bytes from it.
    pub fn read(&mut self, buffer: &mut [u8]) -> Sys<usize> {
        let count = sys::read(self.read.as_raw_fd(), buffer, &mut [], sys::Way::Plain)?;
        self.held = self.held.saturating_sub(count as u64);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, BLOCK, Piece::*};
    use std::os::unix::fs::FileExt;

    #[test]
    fn bytes_come_out_as_they_went_in_and_are_counted() {
        let (from, to) = (testing::sparse(&[Data(2)]), testing::file());
        let mut pipe = Pipe::new().unwrap();
        assert!(pipe.room() >= 64 << 10);
        let count = pipe.fill(from.as_raw_fd(), Some(100), BLOCK).unwrap();
        assert_eq!(pipe.held(), count);
        let mut first = [0; 10];
        assert_eq!(pipe.read(&mut first), Ok(10));
        assert_eq!(pipe.drain(to.as_raw_fd(), 7, u64::MAX), Ok(count - 10));
        assert_eq!(pipe.held(), 0);
        let mut expected = vec![0; count as usize];
        from.read_exact_at(&mut expected, 100).unwrap();
        let mut found = vec![0; count as usize - 10];
        to.read_exact_at(&mut found, 7).unwrap();
        assert_eq!(first, expected[..10]);
        assert_eq!(found, expected[10..]);
        assert_eq!(pipe.fill(from.as_raw_fd(), Some(2 * BLOCK), BLOCK), Ok(0));
    }
}
