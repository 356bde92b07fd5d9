//! Making a range of a file or a device read zero: the one place that knows how.
//!
//! The best way that works is remembered. If a way fails, the whole range is done again in the next one:
//! a failed punch of a block device may already have dropped its cache (seen on Linux 6.18: buffered reads
//! then return zeros, while the medium has the old bytes). A file system in user space is checked: see
//! [`Proof`].

use super::proof::{self, Proof, Witness};
use crate::end::HoleWay;
use crate::sys::{self, Fd, Sys};
use crate::trace::{Event, Trail};
use std::time::{Duration, Instant};

/// A way to make a range read zero, from the best to the one that always works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Punch,
    /// For files: fallocate ZERO_RANGE.
    ZeroRange,
    /// For devices: BLKZEROOUT. Never BLKDISCARD: it may leave any content behind.
    ZeroOut,
    Write,
}

impl Way {
    fn name(self) -> HoleWay {
        match self {
            Way::Punch => HoleWay::Punched,
            Way::ZeroRange => HoleWay::ZeroRange,
            Way::ZeroOut => HoleWay::ZeroOut,
            Way::Write => HoleWay::Written,
        }
    }
}

/// Makes ranges read zero, in steps.
#[derive(Debug)]
pub(super) struct Zeroing {
    fd: Fd,
    way: Way,
    device: bool,
    step: u64,
    most: u64,
    /// The ways that were given up.
    pub(super) trail: Trail,
    proof: Proof,
}

const MIB: u64 = 1024 * 1024;
const LEAST: u64 = MIB;

/// A step that takes longer is halved, so that a cancel acts in time.
const LONG: Duration = Duration::from_millis(20);
/// A step that takes less is doubled. A cancel acts in time even if the next takes ten times as long, as
/// it may when a target in memory has to allocate.
const SHORT: Duration = Duration::from_millis(4);

impl Zeroing {
    fn new(fd: Fd, device: bool, step: u64, most: u64) -> Self {
        let proof = if device { Proof::of_device(fd) } else { Proof::of_file(fd) };
        Zeroing { fd, way: Way::Punch, device, step, most, trail: Trail::default(), proof }
    }

    /// The way that is used now.
    pub(super) fn way(&self) -> HoleWay {
        self.way.name()
    }

    /// For a regular file. Ranges must lie within its size.
    pub(super) fn of_file(fd: Fd) -> Self {
        Self::new(fd, false, 64 * MIB, 1 << 40)
    }

    /// For a block device. Ranges must be whole sectors.
    pub(super) fn of_device(fd: Fd) -> Self {
        Self::new(fd, true, 16 * MIB, 64 * MIB)
    }

    /// Makes one bounded step of `length` bytes read zero. Returns its length.
    pub(super) fn zero(&mut self, at: u64, length: u64) -> Sys<u64> {
        let step = length.min(self.step);
        if self.way == Way::Write || !self.proof.wanted() {
            return self.zero_step(at, step);
        }
        let step = step.min(proof::STEP);
        match self.proof.witness(at, step)? {
            Witness::None => self.zero_step(at, step),
            Witness::At(witness) => loop {
                let made = self.zero_step(at, step)?;
                // Written zeros need no check.
                if self.way == Way::Write || self.proof.convinces(witness)? {
                    return Ok(made);
                }
                self.decline(None);
            },
            Witness::Unreadable => {
                // A punch cannot be checked here, and fewer servers get ZERO_RANGE wrong.
                if self.way == Way::Punch {
                    self.decline(None);
                }
                self.zero_step(at, step)
            }
        }
    }

    /// Makes a step read zero in the best way that is not refused.
    fn zero_step(&mut self, at: u64, step: u64) -> Sys<u64> {
        loop {
            let begun = Instant::now();
            let answer = match self.way {
                Way::Punch => sys::punch_hole(self.fd, at, step),
                Way::ZeroRange => sys::zero_range(self.fd, at, step),
                Way::ZeroOut => sys::zero_out(self.fd, at, step),
                Way::Write => return write_zeros(self.fd, at, step),
            };
            match answer {
                Ok(()) => {
                    self.adapt(begun.elapsed(), step);
                    return Ok(step);
                }
                Err(errno)
                    if sys::is_refusal(errno)
                        || matches!(errno, libc::ENODEV | libc::EFBIG | libc::EBUSY) =>
                {
                    self.decline(Some(errno));
                }
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Gives up the current way: it was refused with an errno, or it did not zero.
    fn decline(&mut self, errno: Option<i32>) {
        let (way, next) = (self.way, self.next());
        self.way = next;
        self.trail.record(Event::HoleDeclined { way: way.name(), errno, next: next.name() });
    }

    fn next(&self) -> Way {
        match self.way {
            Way::Punch if self.device => Way::ZeroOut,
            Way::Punch => Way::ZeroRange,
            Way::ZeroRange | Way::ZeroOut | Way::Write => Way::Write,
        }
    }

    fn adapt(&mut self, took: Duration, step: u64) {
        if took > LONG {
            self.step = (self.step / 2).max(LEAST);
        } else if took < SHORT && step == self.step {
            self.step = (self.step * 2).min(self.most);
        }
    }
}

/// Writes as many zeros as one call takes. Returns how many.
pub(super) fn write_zeros(fd: Fd, at: u64, length: u64) -> Sys<u64> {
    match sys::pwrite_zeros(fd, length, at)? {
        0 => Err(libc::EIO),
        count => Ok(count as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Call;
    use crate::sys::inject::{self, Fault};
    use crate::testing::{self, Piece::Data};
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::FileExt;

    fn zeroed_with(fail: impl FnMut(Call) -> Fault + 'static) -> (Sys<()>, Vec<u8>, Way) {
        let file = testing::sparse(&[Data(64)]);
        let mut zeroing = Zeroing::of_file(file.as_raw_fd());
        let (from, to) = (1000, 3_500_000);
        let answer = inject::with(fail, || {
            let mut at = from;
            while at < to {
                at += zeroing.zero(at, to - at)?;
            }
            (at == to).then_some(()).ok_or(libc::ERANGE)
        });
        let mut bytes = vec![0; 64 * testing::BLOCK as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        let outside = bytes[..from as usize].iter().chain(&bytes[to as usize..]);
        assert!(outside.into_iter().all(|byte| *byte != 0), "the range is kept");
        (answer, bytes[from as usize..to as usize].to_vec(), zeroing.way)
    }

    #[test]
    fn every_way_that_is_refused_leads_to_the_next() {
        for errno in [
            libc::EOPNOTSUPP,
            libc::ENOSYS,
            libc::EINVAL,
            libc::ENODEV,
            libc::EFBIG,
            libc::EPERM,
            libc::EBUSY,
        ] {
            for refused in 0..=2 {
                let mut asked = 0;
                let (answer, bytes, way) = zeroed_with(move |call| {
                    asked += usize::from(call == Call::Fallocate);
                    match call {
                        Call::Fallocate if asked <= refused => Fault::Errno(errno),
                        _ => Fault::None,
                    }
                });
                assert_eq!(answer, Ok(()));
                assert!(bytes.iter().all(|byte| *byte == 0), "{errno} {refused}");
                assert_eq!(way, [Way::Punch, Way::ZeroRange, Way::Write][refused]);
            }
        }
    }

    #[test]
    fn an_error_of_the_medium_is_an_error() {
        for errno in [libc::EIO, libc::ENOSPC, libc::EDQUOT] {
            let (answer, ..) = zeroed_with(move |call| match call {
                Call::Fallocate => Fault::Errno(errno),
                _ => Fault::None,
            });
            assert_eq!(answer, Err(errno));
        }
    }

    #[test]
    fn short_writes_of_zeros_go_on() {
        let (answer, bytes, _) = zeroed_with(|call| match call {
            Call::Fallocate => Fault::Errno(libc::EOPNOTSUPP),
            Call::Pwrite => Fault::Short(5000),
            _ => Fault::None,
        });
        assert_eq!(answer, Ok(()));
        assert!(bytes.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_step_is_short_even_where_a_fast_target_becomes_ten_times_slower() {
        // Nanoseconds that a MiB takes: a copy in memory, and less.
        for pace in [1000, 10_000, 50_000, 100_000, 200_000, 300_000, 500_000] {
            let time = |step: u64, pace| Duration::from_nanos(step / MIB * pace);
            let mut zeroing = Zeroing::of_device(-1);
            for _ in 0..20 {
                let step = zeroing.step;
                zeroing.adapt(time(step, pace), step);
            }
            assert!(time(zeroing.step, 10 * pace) < Duration::from_millis(100), "{pace}");
        }
    }
}
