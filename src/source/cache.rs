//! The page cache of a file: whether a part is in it, and reading ahead into it.

use crate::sys::{self, Fd};

/// The most bytes that one call asks for: the kernel ignores any beyond the larger of the device's
/// read-ahead and its largest request, which a caller cannot query.
const PIECE: u64 = 128 * 1024;

/// The cache of one file.
#[derive(Debug)]
pub(super) struct Cache {
    fd: Fd,
    can_report: bool,
}

impl Cache {
    pub(super) fn new(fd: Fd) -> Self {
        Cache { fd, can_report: true }
    }

    /// Whether the file system can report its cached pages, as far as is known.
    pub(super) fn can_report(&self) -> bool {
        self.can_report
    }

    /// Reads the cached start of a part, without waiting for a disk. `None` if nothing is cached, or if that
    /// is not known: a failure is left to the real read.
    pub(super) fn read(&mut self, buffer: &mut [u8], offset: u64) -> Option<usize> {
        self.look(buffer, offset).flatten()
    }

    /// Whether this byte is cached. `None` if that is not known.
    pub(super) fn has(&mut self, offset: u64) -> Option<bool> {
        self.look(&mut [0], offset).map(|found| found.is_some())
    }

    /// As [`Cache::read`], but it distinguishes an unknown state from an absent page.
    fn look(&mut self, buffer: &mut [u8], offset: u64) -> Option<Option<usize>> {
        if !self.can_report {
            return None;
        }
        match sys::pread_nowait(self.fd, buffer, offset) {
            Ok(count) => Some(Some(count)),
            Err(libc::EAGAIN) => Some(None),
            Err(errno) => {
                // A file system that refuses the question will refuse the next one too.
                self.can_report = !sys::is_refusal(errno);
                None
            }
        }
    }

    /// Has the disk read a part, mostly without waiting for it.
    pub(super) fn fill(&self, from: u64, length: u64) {
        let mut done = 0;
        while done < length {
            let piece = PIECE.min(length - done);
            // It is advice: if it fails, each read waits for its own data.
            if sys::will_need(self.fd, from + done, piece).is_err() {
                return;
            }
            done += piece;
        }
    }
}
