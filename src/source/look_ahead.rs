//! Has a disk read ahead, across the holes between sections.
//!
//! The kernel reads ahead only if one read follows the other, within a small window, and does not skip
//! holes. With holes between them, each section would wait for the disk separately. Data that is already
//! in the cache costs nearly nothing.

use super::cache::Cache;
use crate::sys::{self, Fd, Sys};
use crate::trace::{Event, Trail};

/// The most bytes of a small section.
pub const SMALL: u64 = 128 * 1024;

/// The window that is read ahead of small sections, at first and at most.
const WINDOW: (u64, u64) = (128 * 1024, 4 * 1024 * 1024);

/// Holes in the window are read too, and take memory: that pays off if one byte in this many is data.
const SPREAD: u64 = 4;

/// After a small section was found in the cache, at most this many are taken to be there too: to ask
/// costs more than a plain read.
const TRUST: u32 = 15;

/// The most data of longer sections that is read ahead. Within a section that is longer than this, the
/// kernel's own read-ahead is better: it uses larger pages.
const AHEAD: u64 = 8 * 1024 * 1024;

/// About the most that one call asks the disk for: a busy disk makes the caller wait.
const STEP: u64 = 2 * 1024 * 1024;

/// After data of a longer section was found in the cache, this much more is taken to be there, at first
/// and at most.
const LONG_TRUST: (u64, u64) = (1024 * 1024, 16 * 1024 * 1024);

/// The state of reading ahead in one file.
#[derive(Debug)]
pub struct LookAhead {
    fd: Fd,
    cache: Cache,
    /// Sections that are taken to be in the cache: those to come, and those after the next hit.
    trust: u32,
    earned: u32,
    /// The disk was asked to read up to here.
    requested: u64,
    window: u64,
    /// Bytes of data since this offset.
    data: u64,
    since: u64,
    long: Long,
    /// The most bytes that the disk was asked for at once, as far as recorded.
    reported: u64,
}

/// The state for sections that are not small.
#[derive(Debug, Default)]
struct Long {
    /// The end of the section of the last call. Nothing is to be done before it.
    until: u64,
    /// Bytes of data that are taken to be in the cache: those to come, and those after the next hit.
    trust: u64,
    earned: u64,
    /// The disk was asked to read up to here, `ahead` bytes of it after that section. `ahead` is `u64::MAX`
    /// if no more is to be requested.
    requested: u64,
    ahead: u64,
}

impl LookAhead {
    /// For a source that starts at `start`.
    #[must_use]
    pub fn new(fd: Fd, start: u64) -> Self {
        LookAhead {
            fd,
            cache: Cache::new(fd),
            trust: 0,
            earned: 0,
            requested: start,
            window: WINDOW.0,
            data: 0,
            since: start,
            long: Long { until: start, earned: LONG_TRUST.0, ..Long::default() },
            reported: 0,
        }
    }

    /// Reads a whole small section of a source that ends at `end`. A section in the cache costs one
    /// system call, as with pread(2).
    pub fn read(
        &mut self,
        buffer: &mut [u8],
        offset: u64,
        end: u64,
        trail: &mut Trail,
    ) -> Sys<usize> {
        let length = buffer.len();
        // The window moves when half of it is used up.
        if self.trust > 0 {
            self.trust -= 1;
        } else if self.cache.can_report() && offset + self.window / 2 >= self.requested {
            // A read that did not return everything is repeated.
            if offset >= self.requested && self.cache.read(buffer, offset) == Some(length) {
                self.data += length as u64;
                self.earned = TRUST.min(self.earned * 2 + 1);
                self.trust = self.earned;
                return Ok(length);
            }
            self.earned = 0;
            if self.cache.can_report() {
                self.move_window(offset, end, trail);
            }
        }
        self.data += length as u64;
        if offset < self.long.requested {
            self.long.ahead = self.long.ahead.saturating_sub(length as u64);
        }
        sys::pread(self.fd, buffer, offset)
    }

    /// Moves the window, unless it would be nearly all holes.
    fn move_window(&mut self, offset: u64, end: u64, trail: &mut Trail) {
        let dense = self.data.saturating_mul(SPREAD) >= offset.saturating_sub(self.since);
        (self.data, self.since) = (0, offset);
        if !dense {
            self.window = WINDOW.0;
            return;
        }
        let from = self.requested.max(offset);
        let to = offset.saturating_add(self.window).min(end);
        self.window = WINDOW.1.min(self.window * 2);
        if from < to {
            self.cache.fill(from, to - from);
            self.requested = to;
            self.report(to - from, trail);
        }
    }

    /// Called before data at `offset` is moved, in a section that ends at `section_end` and is not read as
    /// a small one. If it is not in the cache, the disk is asked for it and for the sections after it.
    ///
    /// Those are looked up for this purpose only: the walk asks the map again when it reaches them.
    #[inline]
    pub fn long(&mut self, offset: u64, section_end: u64, end: u64, trail: &mut Trail) {
        if offset >= self.long.until {
            let requested = self.enter_long(offset, section_end, end);
            self.report(requested, trail);
        }
    }

    /// Returns the number of bytes that the disk was asked for.
    fn enter_long(&mut self, offset: u64, section_end: u64, end: u64) -> u64 {
        let long = &mut self.long;
        let mut requested = 0;
        let length = section_end - offset;
        long.until = section_end;
        if length > AHEAD {
            return 0;
        }
        if offset >= long.requested {
            if long.trust > 0 {
                long.trust = long.trust.saturating_sub(length);
                return 0;
            }
            match self.cache.has(offset) {
                Some(false) => long.earned = LONG_TRUST.0,
                Some(true) => {
                    long.trust = long.earned;
                    long.earned = LONG_TRUST.1.min(long.earned * 2);
                    return 0;
                }
                None => return 0,
            }
            self.cache.fill(offset, length);
            requested = length;
            (long.requested, long.ahead) = (section_end, 0);
        } else {
            long.ahead = long.ahead.saturating_sub(length);
        }
        let begun = long.ahead;
        while long.ahead < AHEAD && long.ahead - begun < STEP {
            match next_data(self.fd, long.requested, end) {
                Some((data, length)) if length <= AHEAD => {
                    self.cache.fill(data, length);
                    long.requested = data + length;
                    long.ahead += length;
                    requested += length;
                }
                // No more is requested before the source gets there.
                _ => long.ahead = u64::MAX,
            }
        }
        requested
    }

    /// Records that the disk was asked for this many bytes, if that is more than ever before: a change, not
    /// each call.
    #[inline]
    fn report(&mut self, bytes: u64, trail: &mut Trail) {
        if bytes > self.reported {
            self.reported = bytes;
            trail.record(Event::LookAhead(bytes));
        }
    }
}

/// The next data at or after an offset, and how long it is.
fn next_data(fd: Fd, from: u64, end: u64) -> Option<(u64, u64)> {
    if from >= end {
        return None;
    }
    let data = sys::seek_data(fd, from).ok().filter(|data| (from..end).contains(data))?;
    let hole = sys::seek_hole(fd, data).ok()?.min(end);
    Some((data, hole.checked_sub(data).filter(|length| *length > 0)?))
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

    /// Reads this many sections, `apart` bytes from the start of one to the next, with the answers of
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
                    let found = ahead.read(
                        &mut buffer,
                        section * apart,
                        count * apart,
                        &mut Trail::default(),
                    );
                    assert_eq!(found, Ok(SECTION as usize));
                    assert_eq!(buffer, bytes);
                }
            },
        );
        let (reads, advices) = *seen.borrow();
        (reads, advices)
    }

    #[test]
    fn cached_data_takes_one_call() {
        assert_eq!(walk(1000, 2 * SECTION, |_| Fault::None), (1000, 0));
    }

    #[test]
    fn the_first_miss_starts_a_window_that_grows() {
        let cold = |nth| if nth == 1 { Fault::Errno(libc::EAGAIN) } else { Fault::None };
        let (reads, advices) = walk(2048, 2 * SECTION, cold);
        // 16 MiB in pieces of 128 KiB: no part twice, and all but what the first reads took.
        assert_eq!(reads, 2049);
        assert!((120..=136).contains(&advices), "{advices}");
    }

    #[test]
    fn nothing_is_read_ahead_over_long_holes() {
        // The first is in the cache, the second is taken to be, and each of the others is tried twice.
        let (reads, advices) = walk(16, 16 * SECTION, |nth| {
            if nth > 2 && nth % 2 == 1 { Fault::Errno(libc::EAGAIN) } else { Fault::None }
        });
        assert_eq!((reads, advices), (30, 0));
    }

    #[test]
    fn a_file_system_that_does_not_report_its_cache_is_asked_once() {
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

    const MIB: u64 = 1024 * 1024;

    /// Reaches sections of these lengths, each with a hole as long behind it, with the answers of the
    /// cache. Returns the numbers of questions to it and to the map, and for each section the MiB that the
    /// disk was asked for by then.
    fn reach(lengths: &[u64], fault: impl Fn(Call) -> Fault + 'static) -> (u64, u64, Vec<u64>) {
        let file = testing::file();
        let mut end = 0;
        for length in lengths {
            file.write_all_at(&vec![1; *length as usize], end).unwrap();
            end += 2 * length;
        }
        file.set_len(end).unwrap();
        let seen = Rc::new(RefCell::new((0, 0, 0)));
        let counts = Rc::clone(&seen);
        let mut requested = Vec::new();
        inject::with(
            move |call| {
                let mut counts = counts.borrow_mut();
                match call {
                    Call::Pread => counts.0 += 1,
                    Call::Lseek => counts.1 += 1,
                    Call::Fadvise => counts.2 += SMALL,
                    other => panic!("{other:?}"),
                }
                fault(call)
            },
            || {
                let mut ahead = LookAhead::new(file.as_raw_fd(), 0);
                let mut at = 0;
                for length in lengths {
                    // Once for each piece that is moved.
                    for piece in [at, at + length / 2] {
                        ahead.long(piece, at + length, end, &mut Trail::default());
                    }
                    requested.push(seen.borrow().2 / MIB);
                    at += 2 * length;
                }
            },
        );
        let (asked, mapped, _) = *seen.borrow();
        (asked, mapped, requested)
    }

    fn cold(call: Call) -> Fault {
        if call == Call::Pread { Fault::Errno(libc::EAGAIN) } else { Fault::None }
    }

    #[test]
    fn few_long_sections_in_the_cache_are_asked_for() {
        let (asked, mapped, requested) = reach(&[MIB; 64], |_| Fault::None);
        assert!(asked <= 8, "{asked}");
        assert_eq!((mapped, requested), (0, vec![0; 64]));
    }

    #[test]
    fn a_section_that_is_not_in_the_cache_and_those_that_follow_are_requested() {
        let (asked, mapped, requested) = reach(&[MIB; 16], cold);
        // The cache is asked once. The map is asked twice for each section that follows, and once where
        // none does.
        assert_eq!((asked, mapped), (1, 2 * 15 + 1));
        assert_eq!(requested, [3, 5, 7, 9, 11, 13, 15, 16, 16, 16, 16, 16, 16, 16, 16, 16]);
    }

    #[test]
    fn no_more_is_requested_ahead_than_pays_off() {
        let (_, _, requested) = reach(&[MIB; 40], cold);
        assert_eq!(requested[..12], [3, 5, 7, 9, 11, 13, 15, 16, 17, 18, 19, 20]);
        let (asked, mapped, requested) = reach(&[6 * MIB; 4], cold);
        assert_eq!((asked, mapped, requested), (1, 2 * 3 + 1, vec![12, 18, 24, 24]));
    }

    #[test]
    fn the_longest_are_left_to_the_kernel_and_asked_for_once() {
        assert_eq!(reach(&[9 * MIB; 3], cold), (0, 0, vec![0; 3]));
        let mut lengths = [MIB; 6];
        lengths[3] = 9 * MIB;
        let (asked, mapped, requested) = reach(&lengths, cold);
        // Questions to the map: about the two before the long one and that, then about the last and the end.
        assert_eq!((asked, mapped), (2, 2 * 3 + 2 + 1));
        assert_eq!(requested, [3, 3, 3, 3, 5, 5]);
    }

    #[test]
    fn a_failure_to_read_ahead_is_ignored() {
        // If advice fails, nothing is counted. If the map fails, each section is requested by itself.
        for (failing, expected) in [(Call::Fadvise, [0; 4]), (Call::Lseek, [1, 2, 3, 4])] {
            let (_, _, requested) = reach(&[MIB; 4], move |call| match call {
                _ if call == failing => Fault::Errno(libc::EIO),
                other => cold(other),
            });
            assert_eq!(requested, expected);
        }
        for errno in [libc::EOPNOTSUPP, libc::EIO] {
            let (asked, mapped, requested) = reach(&[MIB; 64], move |call| match call {
                Call::Pread => Fault::Errno(errno),
                _ => Fault::None,
            });
            assert_eq!(asked, if errno == libc::EIO { 64 } else { 1 });
            assert_eq!((mapped, requested), (0, vec![0; 64]));
        }
    }

    #[test]
    fn only_a_larger_request_than_all_before_is_recorded() {
        let mut ahead = LookAhead::new(-1, 0);
        let mut trail = Trail::default();
        for bytes in [0, SMALL, SMALL, 4 * SMALL, SMALL, 8 * SMALL] {
            ahead.report(bytes, &mut trail);
        }
        let events: Vec<_> = trail.take().collect();
        assert_eq!(events, [SMALL, 4 * SMALL, 8 * SMALL].map(Event::LookAhead));
    }

    #[test]
    fn a_request_to_read_ahead_is_recorded() {
        let file = testing::file();
        let mut end = 0;
        for _ in 0..16 {
            file.write_all_at(&vec![1; MIB as usize], end).unwrap();
            end += 2 * MIB;
        }
        file.set_len(end).unwrap();
        let mut trail = Trail::default();
        inject::with(cold, || {
            let mut ahead = LookAhead::new(file.as_raw_fd(), 0);
            for at in (0..end).step_by(2 * MIB as usize) {
                ahead.long(at, at + MIB, end, &mut trail);
            }
        });
        let events: Vec<_> = trail.take().collect();
        assert_eq!(events, [Event::LookAhead(3 * MIB)]);
    }
}
