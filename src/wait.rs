//! What an end that is not ready waits for.

use crate::error::Side;
use crate::sys::{self, Fd, Sys};
use std::time::Duration;

/// What `EAGAIN` of an end means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// Only its owner knows when it is ready.
    Owner,
    /// It is ready when its descriptor has one of these events of poll(2).
    Descriptor {
        /// The descriptor.
        fd: Fd,
        /// POLLIN, POLLOUT or both.
        events: i16,
        /// Whether its owner left it in blocking mode, and so expects a caller to wait for it.
        blocking: bool,
    },
}

/// What a transfer waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// The end that is not ready; none when only time must pass.
    pub side: Side,
    /// The descriptor to watch, if it is one.
    pub fd: Option<Fd>,
    /// The events of poll(2) to watch it for.
    pub events: i16,
    /// When to come back in any case.
    pub timeout: Option<Duration>,
}

impl Wait {
    /// Nothing: it can go on at once.
    pub const NOTHING: Wait =
        Wait { side: Side::None, fd: None, events: 0, timeout: Some(Duration::ZERO) };
}

/// Between two attempts where a descriptor cannot be waited for.
const NAP: Duration = Duration::from_millis(5);

/// Waits until a descriptor may be ready, or the time is over; a negative one only waits. Returning
/// early is harmless: who waits tries again. Where poll(2) is forbidden it naps.
pub fn until_ready(fd: Fd, events: i16, time: Duration) -> Sys<()> {
    match sys::poll(fd, events, time) {
        Ok(_) | Err(libc::EINTR | libc::EAGAIN) => Ok(()),
        Err(errno) if sys::is_refusal(errno) => {
            sys::sleep(time.min(NAP));
            Ok(())
        }
        Err(errno) => Err(errno),
    }
}

/// Whether a descriptor is in blocking mode. Asked anew each time: whoever shares it may change that.
pub(crate) fn blocks(fd: Fd) -> bool {
    sys::flags(fd).map_or(true, |flags| flags & libc::O_NONBLOCK == 0)
}
