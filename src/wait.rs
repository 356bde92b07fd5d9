//! The events that an end waits for when it is not ready.

use crate::error::Side;
use crate::sys::{self, Fd};
pub use crate::sys::{Watched, Woken};
use std::time::Duration;

/// A wait until one of several descriptors is ready, or until a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watch {
    entries: [Watched; Watch::MOST],
    count: usize,
    /// The time at which it is over in any case.
    pub timeout: Option<Duration>,
}

impl Watch {
    /// The most descriptors.
    pub const MOST: usize = sys::POLLED_AT_ONCE;
    /// No descriptor, and no time.
    pub const NOTHING: Watch =
        Watch { entries: [Watched { fd: -1, events: 0 }; Watch::MOST], count: 0, timeout: None };

    /// One descriptor.
    #[must_use]
    pub fn one(fd: Fd, events: i16) -> Self {
        let mut watch = Watch::NOTHING;
        watch.add(Watched { fd, events });
        watch
    }

    /// No descriptor, only a time.
    #[must_use]
    pub const fn time(timeout: Duration) -> Self {
        Watch { timeout: Some(timeout), ..Watch::NOTHING }
    }

    /// Adds a descriptor. Returns whether there was room.
    pub fn add(&mut self, watched: Watched) -> bool {
        let place = self.entries.get_mut(self.count);
        self.count += usize::from(place.is_some());
        place.map(|place| *place = watched).is_some()
    }

    /// A wait for either of two.
    #[must_use]
    pub fn or(mut self, other: &Watch) -> Self {
        for watched in other.descriptors() {
            let known = self.entries[..self.count].iter_mut().find(|known| known.fd == watched.fd);
            match known {
                Some(known) => known.events |= watched.events,
                None => drop(self.add(*watched)),
            }
        }
        self.within(other.timeout)
    }

    /// The descriptors.
    #[must_use]
    pub fn descriptors(&self) -> &[Watched] {
        &self.entries[..self.count]
    }

    /// The same, but over at the latest after this time.
    #[must_use]
    pub fn within(self, timeout: Option<Duration>) -> Self {
        Watch { timeout: self.timeout.into_iter().chain(timeout).min(), ..self }
    }

    /// Waits until it is over, or `bell` is readable: poll(2). It may end early, because the caller tries again. If
    /// poll(2) is forbidden, it sleeps for a short time.
    pub fn rest(&self, bell: Option<Fd>) -> sys::Sys<Woken> {
        match sys::poll_any(self.descriptors(), bell, self.timeout) {
            Ok(woken) => Ok(woken),
            Err(libc::EINTR | libc::EAGAIN) => Ok(Woken::Ready),
            Err(errno) if sys::is_refusal(errno) => {
                sys::sleep(self.timeout.map_or(NAP, |timeout| timeout.min(NAP)));
                Ok(Woken::Ready)
            }
            Err(errno) => Err(errno),
        }
    }
}

/// The meaning of `EAGAIN` from an end.
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
    /// It is ready when this is over. Its owner expects a caller to wait for it.
    Watch(Watch),
}

/// The events that a transfer waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// The end that is not ready; none when only time must pass.
    pub side: Side,
    /// The descriptors, if there are any, and when to come back in any case.
    pub watch: Watch,
}

impl Wait {
    /// Nothing: it can continue at once.
    pub const NOTHING: Wait = Wait { side: Side::None, watch: Watch::time(Duration::ZERO) };
}

/// The time between two attempts if a descriptor cannot be polled.
const NAP: Duration = Duration::from_millis(5);

/// Whether a descriptor is in blocking mode. Asked each time, because another owner may change that.
pub(crate) fn blocks(fd: Fd) -> bool {
    sys::flags(fd).map_or(true, |flags| flags & libc::O_NONBLOCK == 0)
}
