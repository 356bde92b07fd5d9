//! Whether a thread can be cancelled: pthread_setcancelstate(3).

use libc::c_int;

const ENABLE: c_int = 0;
const DISABLE: c_int = 1;

unsafe extern "C" {
    fn pthread_setcancelstate(state: c_int, old: *mut c_int) -> c_int;
}

/// Keeps pthread_cancel(3) from unwinding Rust frames, which would end the process: a cancel is deferred
/// until this is dropped, which restores the caller's state.
pub struct Cancellation(c_int);

impl Cancellation {
    /// Disables it for this thread.
    #[must_use]
    pub fn disable() -> Self {
        let mut old = ENABLE;
        // SAFETY: `old` is writable, and the state is one of the two that exist.
        let _ = unsafe { pthread_setcancelstate(DISABLE, &raw mut old) };
        Cancellation(old)
    }

    /// Whether it is enabled for this thread.
    #[cfg(test)]
    pub fn is_enabled() -> bool {
        Cancellation::disable().0 == ENABLE
    }
}

impl Drop for Cancellation {
    fn drop(&mut self) {
        // SAFETY: the state is the one that was given; the old one is not asked for.
        let _ = unsafe { pthread_setcancelstate(self.0, std::ptr::null_mut()) };
    }
}
