//! Ends a transfer from outside, from any thread, even while it waits.
//!
//! A run that waits for long makes an eventfd, the bell, and polls it together with the descriptors of its
//! ends. To end it, a thread sets `pulled` and then rings the bell, if there is one. The run makes its bell
//! and then reads `pulled`. With a fence between the two steps on both sides, one side sees the other.

use crate::error::Error;
use crate::sys::{self, Arc, Sys};
use crate::wait::{Watch, Woken};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

/// A wait that takes longer gets a bell. No cancel is delayed by more.
const SHORT: Duration = Duration::from_millis(10);

/// The interval of checks of `pulled` if the bell cannot be made.
const GLANCE: Duration = Duration::from_millis(50);

/// The switch that ends a transfer.
#[derive(Debug, Default)]
pub struct Control {
    pulled: AtomicBool,
    /// The reason, if it is not a cancel.
    reason: Mutex<Option<Error>>,
    /// An eventfd that is readable once the end was asked for, if a run has made one.
    bell: OnceLock<OwnedFd>,
}

impl Control {
    /// Asks for the end. An atomic store and at most a write(2), so that a signal handler may do it.
    pub fn cancel(&self) {
        self.pull();
    }

    /// Asks for the end, with this error as the result. The first reason is kept.
    pub fn fail(&self, error: Error) {
        let mut reason = self.reason.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        reason.get_or_insert(error);
        self.pull();
    }

    fn pull(&self) {
        self.pulled.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
        if let Some(bell) = self.bell.get() {
            sys::keep_errno(|| sys::set_eventfd(bell.as_raw_fd(), true));
        }
    }

    /// Whether an end was asked for.
    #[inline]
    #[must_use]
    pub fn pulled(&self) -> bool {
        self.pulled.load(Ordering::Acquire)
    }

    /// The error that was given as the reason, if one was.
    #[must_use]
    pub fn reason(&self) -> Option<Error> {
        self.reason.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Waits until this is over or an end is asked for. It may come back earlier.
    pub(super) fn rest(this: &Arc<Self>, watch: &Watch) -> Sys<()> {
        // No other thread can ask for it.
        if Arc::is_alone(this) {
            return watch.rest(None).map(drop);
        }
        let mut watch = *watch;
        if this.bell.get().is_none() {
            let short = watch.within(Some(SHORT));
            if short.rest(None)? != Woken::Time || short.timeout == watch.timeout {
                return Ok(());
            }
            watch.timeout = watch.timeout.map(|timeout| timeout.saturating_sub(SHORT));
        }
        match this.bell() {
            Some(bell) => this.rest_with(bell, &watch),
            None if this.pulled() => Ok(()),
            None => watch.within(Some(GLANCE)).rest(None).map(drop),
        }
    }

    fn rest_with(&self, bell: &OwnedFd, watch: &Watch) -> Sys<()> {
        fence(Ordering::SeqCst);
        if self.pulled() {
            return Ok(());
        }
        let woken = watch.rest(Some(bell.as_raw_fd()))?;
        // A forked child has the same eventfd: its cancel is not ours, but rings.
        if woken == Woken::Bell && !self.pulled() {
            sys::set_eventfd(bell.as_raw_fd(), false);
        }
        Ok(())
    }

    /// The bell, made with the first call that can make it.
    fn bell(&self) -> Option<&OwnedFd> {
        if self.bell.get().is_none() {
            // A second one, which no two runs at a time could make, would be closed.
            let _ = self.bell.set(sys::eventfd().ok()?);
        }
        self.bell.get()
    }
}
