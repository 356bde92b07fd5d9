//! The two ends of a transfer: the traits that every source and every sink has.
//!
//! ```text
//!     Source --next--> Transfer --write, hole, keep--> Sink
//! ```
//!
//! | module | subject |
//! |---|---|
//! | this one | the part that sources and sinks share |
//! | `source` | a source, and its further abilities |
//! | `sink` | a sink, and its further abilities |
//! | `ways` | the ways in which data moves past the loop's memory |
//! | `addressed` | ends that take requests by offset, several at a time |
//! | `introduction` | the report of a peer about its stream |
//! | `hole` | a hole that was made |
//!
//! An end has one small trait ([`Source`] or [`Sink`], with [`End`]), and returns a further trait for
//! each ability beyond it ([`SourceWays`], [`SinkWays`]). To add an ability, add a trait, one accessor
//! that returns `None` by default, and its one user in the loop.
//!
//! Any fallible call may fail with `EAGAIN` or `EINTR`. It is then made again with the same arguments,
//! and nothing is lost. Calls that commit (`consume`, `committed`) cannot fail: they come after bytes
//! have moved, and a failure there would move them twice.

mod addressed;
mod hole;
mod introduction;
mod sink;
mod source;
mod ways;

use crate::error::{Error, Result};
use crate::trace::Trail;
use crate::wait::Waiting;
pub use addressed::*;
pub use hole::*;
pub use introduction::*;
pub use sink::*;
pub use source::*;
use std::time::Instant;
pub use ways::*;

/// The part that sources and sinks share. A handle may move between threads, hence `Send`.
pub trait End: Send {
    /// Ends the stream with success. Everything that can still fail fails here.
    fn finish(&mut self) -> Result<()>;

    /// Ends the stream with this error. Does nothing after a `finish` that succeeded.
    fn abort(&mut self, error: &Error);

    /// The descriptors or the event that the last `EAGAIN` waits for.
    fn waiting(&self) -> Waiting;

    /// The peer behind this end, if there is one that takes part in the transfer.
    fn peer(&mut self) -> Option<&mut dyn Peer> {
        None
    }

    /// The decisions of this end that were not traced yet, if it makes any.
    fn trail(&mut self) -> Option<&mut Trail> {
        None
    }
}

/// A peer behind an end.
pub trait Peer {
    /// The number of times that the peer has shown that it is alive, without sending stream content.
    fn signs(&self) -> u64;

    /// Sends everything that was buffered to be sent together with more, and a sign of life if one is due
    /// at `now`.
    fn flush(&mut self, now: Instant) -> Result<()>;

    /// The time at which [`Peer::flush`] is due even if nothing else happens.
    fn flush_by(&self) -> Option<Instant>;

    /// Reports to the peer of a source that everything before this offset is on the medium.
    fn durable(&mut self, offset: u64) {
        let _ = offset;
    }
}
