//! The protocol: both state machines, without I/O and without a clock.
//!
//! | module | subject |
//! |---|---|
//! | [`codec`] | numbers to bytes and back, the limits of all frames, the defects of a frame |
//! | [`frame`] | headers to bytes and back |
//! | [`body`] | the bodies of HELLO, ACCEPT, END and those with a digest |
//! | [`failure`] | ERROR |
//! | [`sequence`] | which frame may follow which, and the receiver's limits |
//! | [`queue`] | queued bytes |
//! | [`sender`] | the sender |
//! | [`receiver`] | the receiver |
//! | `unsent` | the place in the stream of the queued bytes |
//! | `silence` | when a KEEPALIVE is due |
//!
//! ```text
//!              handle_input          poll_transmit, transmitted
//!     bytes -----------------> machine -----------------> bytes
//!                                 |
//!                    poll_timeout, handle_timeout(now)
//! ```
//!
//! A machine is given received bytes (`handle_input`), and returns bytes to be sent (`poll_transmit`) and the
//! time of the next call (`poll_timeout`, `handle_timeout`). It never copies a large payload of DATA: the
//! caller moves it past the machine and passes it in for the checksum and the digest (`payload`), or, without
//! both, only its length (`payload_passed`).
//!
//! docs/wire-format.md is the specification; its state tables are the `match`es of [`sender`] and
//! [`receiver`].

pub mod body;
pub mod codec;
pub mod failure;
pub mod frame;
pub mod queue;
pub mod receiver;
pub mod sender;
pub mod sequence;
mod silence;
#[cfg(test)]
mod tests;
mod unsent;

use crate::error::{Error, Operation, Rule, Side};
use codec::Malformed;

/// The nature of the bytes given to a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// Not a complete frame. At least this many bytes are needed, those given included. Nothing was
    /// taken.
    Incomplete(usize),
    /// A frame of this many bytes was taken. It may have changed the machine's stage or the receiver's piece.
    Taken(usize),
}

/// The reason why a frame, or a request of this side, is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// In words.
    pub why: Why,
    /// The errno that stands for it.
    pub errno: i32,
}

/// The reason for a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// In words.
    Words(&'static str),
    /// A number that breaks a rule.
    Number {
        /// The rule.
        rule: &'static Rule,
        /// The number received.
        given: u64,
        /// The number that the rule needs, if it needs one.
        bound: u64,
    },
}

impl Refused {
    /// It as an error of this operation at this place.
    #[must_use]
    pub fn error(self, operation: Operation, side: Side, offset: u64) -> Error {
        let Refused { why, errno } = self;
        match why {
            Why::Words(why) => Error::Because { operation, side, offset, errno, why },
            Why::Number { rule, given, bound } => {
                let given = i64::try_from(given).unwrap_or(i64::MAX);
                rule.broken((operation, side, offset), errno, given, bound)
            }
        }
    }
}

impl From<Malformed> for Refused {
    fn from(malformed: Malformed) -> Self {
        refused(malformed.why(), malformed.errno())
    }
}

#[cold]
pub(super) const fn refused(why: &'static str, errno: i32) -> Refused {
    Refused { why: Why::Words(why), errno }
}

#[cold]
fn broken(rule: &'static Rule, errno: i32, given: u64, bound: u64) -> Refused {
    Refused { why: Why::Number { rule, given, bound }, errno }
}

/// The reason why a conversation ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The peer broke a rule, or no agreement with it is possible.
    Refused(Refused),
    /// The peer reported its own failure.
    Peer(Error),
}

impl Fault {
    /// It as an error: the peer's own, or the refusal at this place.
    #[must_use]
    pub fn error(self, operation: Operation, side: Side, offset: u64) -> Error {
        match self {
            Fault::Refused(refused) => refused.error(operation, side, offset),
            Fault::Peer(error) => error,
        }
    }
}

impl From<Refused> for Fault {
    fn from(refused: Refused) -> Self {
        Fault::Refused(refused)
    }
}

impl From<Malformed> for Fault {
    fn from(malformed: Malformed) -> Self {
        Fault::Refused(malformed.into())
    }
}

const UNEXPECTED: Refused =
    refused("a frame is not allowed at this point of the stream", libc::EPROTO);
const DAMAGED: Refused = refused("the digest of the received bytes is wrong", libc::EBADMSG);
const MISUSED: Refused = refused("a call is not allowed at this point of the stream", libc::EINVAL);
