//! Ends a transfer from outside, from any thread.

use crate::error::Error;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// The switch that ends a transfer.
#[derive(Debug, Default)]
pub struct Control {
    pulled: AtomicBool,
    /// The reason, if it is not a cancel.
    reason: Mutex<Option<Error>>,
}

impl Control {
    /// Asks for the end. One atomic store, so that a signal handler may do it.
    pub fn cancel(&self) {
        self.pulled.store(true, Ordering::Release);
    }

    /// Asks for the end, with this error as the result. The first reason is kept.
    pub fn fail(&self, error: Error) {
        let mut reason = self.reason.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        reason.get_or_insert(error);
        self.pulled.store(true, Ordering::Release);
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
}
