//! Is a part of a file in the cache, and having a disk read what is not.

use crate::sys::{self, Fd};

/// One call has no more read than this: the kernel leaves out what is beyond the larger of a device's
/// read-ahead and its largest request, which a caller cannot query.
const PIECE: u64 = 128 * 1024;

/// The cache of one file.
#[derive(Debug)]
pub(super) struct Cache {
    fd: Fd,
    tells: bool,
}

impl Cache {
    pub(super) fn new(fd: Fd) -> Self {
        Cache { fd, tells: true }
    }

    /// Whether the file system can report its cached pages, as far as is known.
    pub(super) fn tells(&self) -> bool {
        self.tells
    }

    /// Reads what is there of the start of a part, without waiting for a disk. `None` if nothing is, or if
    /// that is not known: a failure is left to the real read.
    pub(super) fn read(&mut self, buffer: &mut [u8], offset: u64) -> Option<usize> {
        self.look(buffer, offset).flatten()
    }

    /// Whether this byte is there. `None` if that is not known.
    pub(super) fn has(&mut self, offset: u64) -> Option<bool> {
        self.look(&mut [0], offset).map(|found| found.is_some())
    }

    /// As [`Cache::read`], but it distinguishes an unknown state from an absent page.
    fn look(&mut self, buffer: &mut [u8], offset: u64) -> Option<Option<usize>> {
        if !self.tells {
            return None;
        }
        match sys::pread_nowait(self.fd, buffer, offset) {
            Ok(count) => Some(Some(count)),
            Err(libc::EAGAIN) => Some(None),
            Err(errno) => {
                // Where it is not known, or forbidden, it will be so the next time.
                self.tells = !sys::is_refusal(errno);
                None
            }
        }
    }

    /// Has the disk read a part, mostly without waiting for it.
    pub(super) fn fill(&self, from: u64, length: u64) {
        let mut done = 0;
        while done < length {
            let piece = PIECE.min(length - done);
            // It is advice: where it fails, each read waits for itself.
            if sys::will_need(self.fd, from + done, piece).is_err() {
                return;
            }
            done += piece;
        }
    }
}
