//! A bounded channel in memory: a sink on one thread, a source on another.
//!
//! ```text
//!     worker:  file -> Transfer -> ChannelSink  =|queue|=>  ChannelSource -> Transfer -> stream  :event loop
//! ```
//!
//! | module | subject |
//! |---|---|
//! | `state` | the state that both ends share, under one lock: the queue, and the phase of each end |
//! | `sink` | the end that is written |
//! | `source` | the end that is read |
//!
//! Data lies in chunks of 64 KiB. An end owns the chunk that it fills or empties; only data that is appended
//! to an earlier piece is copied under the lock. Each end has an eventfd that is readable while it is ready.
//!
//! The stream ends as over a wire: the sink finishes once the source has, and a failure of one end is
//! reported by the other.

mod sink;
mod source;
mod state;

use crate::buffer::{boxed, counted};
use crate::error::{Allowed, Error, Result};
pub use sink::ChannelSink;
pub use source::ChannelSource;
use state::Shared;

/// The bytes that a channel holds by default.
pub const DEFAULT_CAPACITY: u64 = 1 << 20;

/// The capacities that a channel may have.
pub const CAPACITIES: std::ops::RangeInclusive<u64> = LEAST as u64..=MOST as u64;
const LEAST: u32 = 128 << 10;
const MOST: u32 = 64 << 20;

/// A channel that holds about `capacity` bytes of data; 0 for the default.
pub fn channel(capacity: u64) -> Result<(Box<ChannelSink>, Box<ChannelSource>)> {
    let capacity = if capacity == 0 { DEFAULT_CAPACITY } else { capacity };
    if !CAPACITIES.contains(&capacity) {
        let allowed = Allowed::ZeroOr(LEAST, MOST);
        return Err(Error::value("options.capacity", capacity, allowed));
    }
    let shared = counted(Shared::new(capacity)?)?;
    let sink = boxed(ChannelSink::new(shared.clone()))?;
    Ok((sink, boxed(ChannelSource::new(shared))?))
}

#[cfg(test)]
mod tests;
