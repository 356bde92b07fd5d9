//! Reads small sections, and has a disk read ahead of them.
//!
//! The kernel reads ahead where one read follows the other. Between small sections are holes, so
//! each would wait for the disk alone.

use crate::sys::{self, Fd, Sys};

/// Up to this many bytes a section is small. Within longer ones the kernel reads ahead.
pub const SMALL: u64 = 128 * 1024;

/// How far is read ahead at first, and at most.
const WINDOW: (u64, u64) = (128 * 1024, 4 * 1024 * 1024);

/// Holes in the window are read too, and take memory: it is worth it if one byte of so many is data.
const SPREAD: u64 = 4;

/// So many sections at most are not asked for after one was in the cache: the question costs more
/// than a plain read.
const TRUST: u32 = 15;

/// What was read so far, and ahead of that.
#[derive(Debug)]
pub struct LookAhead {
    fd: Fd,
    /// The file system can tell what is in the cache.
    tells: bool,
    /// Sections that are taken to be in the cache, next and after the next hit.
    trust: u32,
    earned: u32,
    /// The disk was told to read up to here.
    told: u64,
    window: u64,
    /// Bytes of data since this offset.
    data: u64,
    since: u64,
}

impl LookAhead {
    /// For a source that starts at `start`.
    #[must_use]
    pub fn new(fd: Fd, start: u64) -> Self {
        LookAhead {
            fd,
            tells: true,
            trust: 0,
            earned: 0,
            told: start,
            window: WINDOW.0,
            data: 0,
            since: start,
        }
    }

    /// Reads a whole small section of a source that ends at `end`. A section in the cache costs one
    /// system call, as with pread(2).
    pub fn read(&mut self, buffer: &mut [u8], offset: u64, end: u64) -> Sys<usize> {
        let length = buffer.len();
        // Within the window nothing is asked before half of it is used up.
        if self.trust > 0 {
            self.trust -= 1;
        } else if self.tells && offset + self.window / 2 >= self.told {
            if offset >= self.told {
                match sys::pread_nowait(self.fd, buffer, offset) {
                    Ok(count) if count == length => {
                        self.data += length as u64;
                        self.earned = TRUST.min(self.earned * 2 + 1);
                        self.trust = self.earned;
                        return Ok(count);
                    }
                    Err(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL) => self.tells = false,
                    // Not in the cache, or not all of it.
                    Ok(_) | Err(libc::EAGAIN) => {}
                    Err(errno) => return Err(errno),
                }
            }
            self.earned = 0;
            if self.tells {
                self.go_on(offset, end);
            }
        }
        self.data += length as u64;
        sys::pread(self.fd, buffer, offset)
    }

    /// Moves the window, unless it would be nearly all holes.
    fn go_on(&mut self, offset: u64, end: u64) {
        let dense = self.data.saturating_mul(SPREAD) >= offset.saturating_sub(self.since);
        (self.data, self.since) = (0, offset);
        if !dense {
            self.window = WINDOW.0;
            return;
        }
        let from = self.told.max(offset);
        let to = offset.saturating_add(self.window).min(end);
        self.window = WINDOW.1.min(self.window * 2);
        if from < to {
            // It is advice: where it fails, each section waits for itself.
            let _ = sys::will_need(self.fd, from, to - from);
            self.told = to;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Call;
    use crate::sys::inject::{self, Fault};
    use crate::testing;
    use std::cell::RefCell;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::FileExt;
    use std::rc::Rc;

    const SECTION: u64 = 4096;

    /// Reads so many sections, `apart` bytes from the start of one to the next, with the answers of
    /// reads that must not wait. Returns the number of all reads and of advices.
    fn walk(count: u64, apart: u64, nowait: impl Fn(usize) -> Fault + 'static) -> (usize, usize) {
        let file = testing::file();
        file.set_len(count * apart).unwrap();
        let bytes: Vec<u8> = (0..SECTION).map(|byte| byte as u8 | 1).collect();
        for section in 0..count {
            file.write_all_at(&bytes, section * apart).unwrap();
        }
        let seen = Rc::new(RefCell::new((0, 0)));
        let counts = Rc::clone(&seen);
        let fd = file.as_raw_fd();
        inject::with(
            move |call| {
                let mut counts = counts.borrow_mut();
                match call {
                    Call::Pread => {
                        counts.0 += 1;
                        nowait(counts.0)
                    }
                    Call::Fadvise => {
                        counts.1 += 1;
                        Fault::None
                    }
                    _ => Fault::None,
                }
            },
            || {
                let mut ahead = LookAhead::new(fd, 0);
                for section in 0..count {
                    let mut buffer = vec![0; SECTION as usize];
                    let found = ahead.read(&mut buffer, section * apart, count * apart);
                    assert_eq!(found, Ok(SECTION as usize));
                    assert_eq!(buffer, bytes);
                }
            },
        );
        let (reads, advices) = *seen.borrow();
        (reads, advices)
    }

    #[test]
    fn what_is_cached_takes_one_call() {
        assert_eq!(walk(1000, 2 * SECTION, |_| Fault::None), (1000, 0));
    }

    #[test]
    fn the_first_miss_starts_a_window_that_grows() {
        let cold = |nth| if nth == 1 { Fault::Errno(libc::EAGAIN) } else { Fault::None };
        let (reads, advices) = walk(2048, 2 * SECTION, cold);
        // 16 MiB: 128 KiB, then twice as much each time, then 4 MiB at half of the one before.
        assert_eq!(reads, 2049);
        assert!((7..20).contains(&advices), "{advices}");
    }

    #[test]
    fn nothing_is_read_ahead_over_long_holes() {
        // The first is in the cache, the second taken to be, and all others are tried twice.
        let (reads, advices) = walk(16, 16 * SECTION, |nth| {
            if nth > 2 && nth % 2 == 1 { Fault::Errno(libc::EAGAIN) } else { Fault::None }
        });
        assert_eq!((reads, advices), (30, 0));
    }

    #[test]
    fn a_file_system_that_cannot_tell_is_asked_once() {
        for errno in [libc::EOPNOTSUPP, libc::ENOSYS, libc::EINVAL] {
            let refusing = move |nth| if nth == 1 { Fault::Errno(errno) } else { Fault::None };
            assert_eq!(walk(100, 2 * SECTION, refusing), (101, 0));
        }
    }

    #[test]
    fn a_part_in_the_cache_is_read_again_in_whole() {
        let part = |nth| if nth == 1 { Fault::Short(100) } else { Fault::None };
        assert_eq!(walk(2, 2 * SECTION, part).0, 3);
    }
}
