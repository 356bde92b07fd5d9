//! Writes back early, so that the disk is not idle until the final fsync(2).

use crate::sys::{self, Fd};

/// Bytes that are written back at a time: many enough that the call costs little beside the writing.
const STEP: u64 = 8 << 20;

/// The data that is being written back. Errors are ignored here: the final flush reports them.
#[derive(Debug)]
pub(super) struct Writeback {
    /// The kernel can do it, and the data is to be durable.
    wanted: bool,
    /// Everything before this offset is being written back.
    asked: u64,
    /// Bytes of data behind it.
    data: u64,
}

impl Writeback {
    /// The state before the first write. `wanted`: the data is to be on the medium in the end.
    pub(super) fn new(wanted: bool, at: u64) -> Self {
        Writeback { wanted, asked: at, data: 0 }
    }

    /// Disables it: the page cache is not used.
    pub(super) fn never(&mut self) {
        self.wanted = false;
    }

    /// This many bytes of data were put before `end`.
    #[inline]
    pub(super) fn data(&mut self, fd: Fd, end: u64, count: u64) {
        self.data += count;
        if self.wanted && self.data >= STEP {
            self.begin(fd, end);
        }
    }

    fn begin(&mut self, fd: Fd, end: u64) {
        self.wanted = sys::begin_writeback(fd, self.asked, end - self.asked).is_ok();
        (self.asked, self.data) = (end, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Call;
    use crate::sys::inject::{self, Fault};
    use crate::testing;
    use std::cell::Cell;
    use std::os::fd::AsRawFd;
    use std::rc::Rc;

    fn calls(wanted: bool, errno: Option<i32>) -> u32 {
        let file = testing::file();
        let calls = Rc::new(Cell::new(0));
        let seen = Rc::clone(&calls);
        let count = move |call| match (call, errno) {
            (Call::SyncFileRange, errno) => {
                seen.set(seen.get() + 1);
                errno.map_or(Fault::None, Fault::Errno)
            }
            _ => Fault::None,
        };
        inject::with(count, || {
            let mut writeback = Writeback::new(wanted, 100);
            for nth in 1..=10 {
                writeback.data(file.as_raw_fd(), 100 + nth * STEP / 2, STEP / 2);
            }
        });
        calls.get()
    }

    #[test]
    fn the_disk_is_asked_once_a_step_until_it_refuses() {
        assert_eq!(calls(true, None), 5);
        assert_eq!(calls(true, Some(libc::ENOSYS)), 1);
        assert_eq!(calls(false, None), 0);
    }
}
