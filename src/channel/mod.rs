//! A bounded channel in memory: a sink on one thread, a source on another.
//!
//! ```text
//!     worker:  file -> Transfer -> ChannelSink  =|queue|=>  ChannelSource -> Transfer -> stream  :event loop
//! ```
//!
//! | module | its one job |
//! |---|---|
//! | `state` | what both ends share, under one lock: the queue, and how far each end is |
//! | `sink` | the end that puts in |
//! | `source` | the end that takes out |
//!
//! Data lies in chunks of 64 KiB. An end owns the chunk that it fills or empties; only what is put behind an
//! earlier piece is copied under the lock. Each end has an eventfd that can be read whenever the end is ready.
//!
//! The stream ends as over a wire: the sink is finished when the source has been, and a failure of one side
//! is the failure of the other.

mod sink;
mod source;
mod state;

use crate::buffer::boxed;
use crate::error::{Error, Result};
pub use sink::ChannelSink;
pub use source::ChannelSource;
use state::Shared;
use std::sync::Arc;

/// The bytes that a channel holds by default.
pub const DEFAULT_CAPACITY: u64 = 1 << 20;

/// The capacities that a channel may have.
pub const CAPACITIES: std::ops::RangeInclusive<u64> = 128 << 10..=64 << 20;

/// A channel that holds about `capacity` bytes of data; 0 for the default.
pub fn channel(capacity: u64) -> Result<(Box<ChannelSink>, Box<ChannelSource>)> {
    let capacity = if capacity == 0 { DEFAULT_CAPACITY } else { capacity };
    if !CAPACITIES.contains(&capacity) {
        let why = "is not from 131072 to 67108864";
        return Err(Error::argument("options.capacity", why, libc::EINVAL));
    }
    let shared = Arc::new(Shared::new(capacity)?);
    let sink = boxed(ChannelSink::new(Arc::clone(&shared)))?;
    Ok((sink, boxed(ChannelSource::new(shared))?))
}

#[cfg(test)]
mod tests;
