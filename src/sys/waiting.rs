//! Waiting: for descriptors, or for a time to pass.

use super::{Call, Fd, Sys, call};
use libc::c_int;
use std::time::Duration;

/// A descriptor, and the events of poll(2) that are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Watched {
    /// The descriptor.
    pub fd: Fd,
    /// POLLIN, POLLOUT or both.
    pub events: i16,
}

/// The most descriptors that one call of [`poll_any`] waits for.
pub const POLLED_AT_ONCE: usize = 8;

/// The end of a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// A descriptor is ready, or may be.
    Ready,
    /// The bell is readable.
    Bell,
    /// The time is over.
    Time,
}

/// Waits until the descriptor has one of `events`, or an error, or the time is over: poll(2).
/// Returns the events, 0 when the time is over.
pub fn poll(fd: Fd, events: i16, time: Duration) -> Sys<i16> {
    let mut entry = libc::pollfd { fd, events, revents: 0 };
    // SAFETY: one whole pollfd.
    call(Call::Poll, 0, |_| unsafe { libc::poll(&raw mut entry, 1, milliseconds(time)) } as isize)?;
    Ok(entry.revents)
}

/// Waits until one of the descriptors has one of its events, or an error, or `bell` is readable, or the time is
/// over: poll(2). Returns the reason.
///
/// Fails with EBADF if a descriptor is not open: poll(2) would return at once, and the caller would spin.
pub fn poll_any(watched: &[Watched], bell: Option<Fd>, time: Option<Duration>) -> Sys<Woken> {
    let mut entries = [libc::pollfd { fd: -1, events: 0, revents: 0 }; POLLED_AT_ONCE + 1];
    let count = watched.len().min(POLLED_AT_ONCE);
    for (entry, watched) in entries.iter_mut().zip(&watched[..count]) {
        *entry = libc::pollfd { fd: watched.fd, events: watched.events, revents: 0 };
    }
    entries[count] = libc::pollfd { fd: bell.unwrap_or(-1), events: libc::POLLIN, revents: 0 };
    let all = count + usize::from(bell.is_some());
    let time = time.map_or(-1, milliseconds);
    // SAFETY: that many whole pollfds.
    let mut wait = || unsafe { libc::poll(entries.as_mut_ptr(), all as libc::nfds_t, time) };
    let ready = call(Call::Poll, 0, |_| wait() as isize)?;
    if entries[..all].iter().any(|entry| entry.revents & libc::POLLNVAL != 0) {
        return Err(libc::EBADF);
    }
    Ok(match (ready, entries[count].revents) {
        (0, _) => Woken::Time,
        (_, 0) => Woken::Ready,
        (..) => Woken::Bell,
    })
}

/// Milliseconds for poll(2), rounded up: after an early return the wait would be made twice.
fn milliseconds(time: Duration) -> c_int {
    c_int::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(c_int::MAX)
}

/// Sleeps: nanosleep(2). A signal ends it early.
pub fn sleep(time: Duration) {
    let time = libc::timespec {
        tv_sec: libc::time_t::try_from(time.as_secs()).unwrap_or(libc::time_t::MAX),
        // Less than a second in nanoseconds fits.
        tv_nsec: time.subsec_nanos() as libc::c_long,
    };
    // SAFETY: a whole timespec, and nowhere to put the rest.
    unsafe { libc::nanosleep(&raw const time, std::ptr::null_mut()) };
}
