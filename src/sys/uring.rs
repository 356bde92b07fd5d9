//! Reads and writes by io_uring(7), each with memory that the ring owns until the kernel is done with it.
//!
//! No SQPOLL, SINGLE_ISSUER or DEFER_TASKRUN: a ring may be used by one thread after the other.

pub use super::memory::Io;
use super::{Call, Fd, Sys, call};
use io_uring::{IoUring, Probe, opcode, squeue, types};
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

/// The user data of a request to cancel another.
const CANCEL: u64 = u64::MAX;

/// A ring, and what is in it.
pub struct Ring {
    ring: IoUring,
    /// The requests to be put into the ring.
    backlog: VecDeque<Io>,
    /// The requests that the kernel has, or finds in the ring. The index is the user data.
    slots: Vec<Option<Io>>,
    /// The user data of what lies in the ring and was not taken by the kernel, in order.
    pushed: VecDeque<u64>,
    /// How many of the slots the kernel has.
    under_way: usize,
    /// Requests go to the kernel's workers at once.
    workers: bool,
    /// The kernel refused to look into the ring: it is never asked again.
    broken: bool,
    /// The process that made it. A child has it too, but must not use it.
    process: u32,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("under_way", &self.under_way).finish_non_exhaustive()
    }
}

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

impl Ring {
    /// A ring with room for this many. An errno where there is no io_uring, or where it is forbidden. `workers`: a
    /// request may wait, whatever the file system says, so that the kernel's workers must do it.
    pub fn new(entries: u32, workers: bool) -> Sys<Self> {
        call(Call::UringSetup, 0, |_| 0)?;
        let ring = IoUring::new(entries).map_err(|error| errno(&error))?;
        // The ring does not outlive an exec: the kernel sets O_CLOEXEC on it.
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe).map_err(|error| errno(&error))?;
        if !probe.is_supported(opcode::Read::CODE) || !probe.is_supported(opcode::Write::CODE) {
            return Err(libc::ENOSYS);
        }
        let (mut slots, mut pushed, mut backlog) = (Vec::new(), VecDeque::new(), VecDeque::new());
        slots.try_reserve_exact(entries as usize).map_err(|_| libc::ENOMEM)?;
        pushed.try_reserve_exact(2 * entries as usize).map_err(|_| libc::ENOMEM)?;
        backlog.try_reserve_exact(entries as usize).map_err(|_| libc::ENOMEM)?;
        slots.resize_with(entries as usize, || None);
        let process = std::process::id();
        Ok(Ring { ring, backlog, slots, pushed, under_way: 0, workers, broken: false, process })
    }

    /// The descriptor that is ready to be read when something is done.
    pub fn fd(&self) -> Fd {
        self.ring.as_raw_fd()
    }

    /// Whether this is a child of the process that made it.
    pub fn is_foreign(&self) -> bool {
        std::process::id() != self.process
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.backlog.is_empty() && self.slots.iter().all(Option::is_none)
    }

    /// How many requests the kernel has.
    pub fn under_way(&self) -> usize {
        self.under_way
    }

    /// Takes a request. Gives it back if there is no room, or if the kernel could not do it.
    pub fn push(&mut self, io: Io) -> Option<Io> {
        let within =
            io.start.checked_add(io.length).is_some_and(|end| end <= io.slab.bytes().len());
        let room = self.backlog.len() < self.slots.len();
        if self.broken || !room || !within || u32::try_from(io.length).is_err() {
            return Some(io);
        }
        self.backlog.push_back(io);
        None
    }

    /// Puts what was taken into the ring, as far as there is room.
    fn fill(&mut self) {
        while let Some(io) = self.backlog.pop_front() {
            let Some(nth) = self.slots.iter().position(Option::is_none) else {
                self.backlog.push_front(io);
                return;
            };
            let start = io.slab.start().wrapping_add(io.start);
            let (fd, length, data) = (types::Fd(io.fd), io.length as u32, nth as u64);
            let entry = if io.write {
                opcode::Write::new(fd, start, length).offset(io.offset).build()
            } else {
                opcode::Read::new(fd, start, length).offset(io.offset).build()
            };
            let flags = if self.workers { squeue::Flags::ASYNC } else { squeue::Flags::empty() };
            let entry = entry.flags(flags).user_data(data);
            // SAFETY: the bytes lie within the slab, to which there is no other reference. It stays in its
            // slot, and so alive, until the kernel has reported its completion, however this ring ends; or
            // until the ring is broken, and so never looked into again.
            if unsafe { self.ring.submission().push(&entry) }.is_err() {
                self.backlog.push_front(io);
                return;
            }
            self.slots[nth] = Some(io);
            self.pushed.push_back(data);
        }
    }

    /// Hands the kernel what was taken. `EBUSY` in a child of the process that made the ring. `EINTR`,
    /// `EAGAIN` and `EBUSY` otherwise mean to try again. Any other errno is the end of this ring.
    pub fn enter(&mut self) -> Sys<()> {
        if self.is_foreign() {
            return Err(libc::EBUSY);
        }
        if self.broken {
            return Ok(());
        }
        self.fill();
        if self.pushed.is_empty() && !self.ring.submission().cq_overflow() {
            return Ok(());
        }
        let result = call(Call::UringEnter, 0, |_| 0)
            .and_then(|_| self.ring.submit().map_err(|error| errno(&error)));
        // The ring shows how much the kernel took, whatever it answered.
        let left = {
            let mut queue = self.ring.submission();
            queue.sync();
            queue.len()
        };
        while self.pushed.len() > left {
            self.under_way += usize::from(self.pushed.pop_front() != Some(CANCEL));
        }
        if let Err(errno) = result {
            self.broken = !matches!(errno, libc::EINTR | libc::EAGAIN | libc::EBUSY);
        }
        result.map(drop)
    }

    /// Takes back what the kernel has not got and will not get.
    pub fn take_undone(&mut self) -> Option<Io> {
        if let Some(io) = self.backlog.pop_front() {
            return Some(io);
        }
        while self.broken {
            let nth = usize::try_from(self.pushed.pop_front()?).ok();
            let slot = nth.and_then(|nth| self.slots.get_mut(nth));
            if let Some(io) = slot.and_then(Option::take) {
                return Some(io);
            }
        }
        None
    }

    /// Takes back what is done.
    pub fn reap(&mut self, mut done: impl FnMut(Io, Sys<usize>)) {
        if self.is_foreign() {
            return;
        }
        while let Some(completion) = self.ring.completion().next() {
            let slot = usize::try_from(completion.user_data()).ok();
            let slot = slot.and_then(|nth| self.slots.get_mut(nth));
            let Some(io) = slot.and_then(Option::take) else { continue };
            self.under_way -= 1;
            let result = match usize::try_from(completion.result()) {
                Ok(count) => call(Call::UringResult, count, |count| count as isize),
                Err(_) => Err(completion.result().wrapping_neg()),
            };
            done(io, result);
        }
    }

    /// Asks the kernel to cancel what it has not begun.
    pub fn cancel(&mut self) {
        if self.is_foreign() || self.broken {
            return;
        }
        for (nth, slot) in self.slots.iter().enumerate() {
            if slot.is_none() || self.pushed.contains(&(nth as u64)) {
                continue;
            }
            let entry = opcode::AsyncCancel::new(nth as u64).build().user_data(CANCEL);
            // SAFETY: it refers to no memory.
            if unsafe { self.ring.submission().push(&entry) }.is_err() {
                break;
            }
            self.pushed.push_back(CANCEL);
        }
        // Requests that cannot be cancelled are waited for.
        let _ = self.enter();
    }

    /// Waits until everything that the kernel has is back: the only wait in this module.
    pub fn wait_for_all(&mut self, mut done: impl FnMut(Io, Sys<usize>)) -> Sys<()> {
        if self.is_foreign() {
            return Err(libc::EBUSY);
        }
        loop {
            self.reap(&mut done);
            if self.under_way == 0 {
                return Ok(());
            }
            match super::poll(self.fd(), libc::POLLIN, GLANCE) {
                Ok(_) | Err(libc::EINTR | libc::EAGAIN) => {}
                Err(_) => super::sleep(NAP),
            }
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.under_way > 0 && self.wait_for_all(|_, _| {}).is_err() {
            // A child of the process whose requests these are. The kernel writes to the memory of the parent.
            self.slots.clear();
        }
    }
}

/// The time between two looks at the completions, in case that a wake-up is lost.
const GLANCE: Duration = Duration::from_millis(100);

/// Between two looks where poll(2) fails.
const NAP: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_of_the_process_cannot_use_the_ring() {
        let Ok(mut ring) = Ring::new(4, false) else {
            println!("skipped: there is no io_uring here");
            return;
        };
        // SAFETY: the child makes no call that is not safe between fork and exit.
        match unsafe { libc::fork() } {
            0 => {
                let refused = ring.enter() == Err(libc::EBUSY);
                // SAFETY: it ends the child, without its destructors.
                unsafe { libc::_exit(if refused { 0 } else { 1 }) };
            }
            child => {
                let mut status = -1;
                // SAFETY: the status is a whole int.
                assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
                assert_eq!(status, 0);
            }
        }
        assert_eq!(ring.enter(), Ok(()));
    }
}
