//! The parts of an error as they are shown.

use super::{Operation, Side, Text};
use std::fmt;

/// A number that was received, with or without a sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Given {
    pub(super) bits: u64,
    pub(super) signed: bool,
}

impl From<i32> for Given {
    fn from(value: i32) -> Self {
        i64::from(value).into()
    }
}

impl From<i64> for Given {
    fn from(value: i64) -> Self {
        Given { bits: value as u64, signed: true }
    }
}

impl From<u32> for Given {
    fn from(value: u32) -> Self {
        u64::from(value).into()
    }
}

impl From<u64> for Given {
    fn from(value: u64) -> Self {
        Given { bits: value, signed: false }
    }
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.signed { (self.bits as i64).fmt(f) } else { self.bits.fmt(f) }
    }
}

/// The values that an argument may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowed {
    /// As these words list them.
    Only(&'static &'static str),
    /// 0, or one of a range.
    ZeroOr(u32, u32),
    /// A range.
    Range(u32, u32),
    /// At most this.
    Most(u64),
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Allowed::Only(words) => f.write_str(words),
            Allowed::ZeroOr(least, most) => write!(f, "0 or from {least} to {most}"),
            Allowed::Range(least, most) => write!(f, "from {least} to {most}"),
            Allowed::Most(most) => write!(f, "at most {most}"),
        }
    }
}

/// The flags that an argument may have.
pub(super) struct Known(pub(super) u64);

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("no flag is allowed"),
            known => write!(f, "only {known:#x} are allowed"),
        }
    }
}

/// The peer's words for its failure, or a text made from the numbers.
pub(super) struct PeerWords<'a> {
    pub(super) operation: &'a Operation,
    pub(super) side: &'a Side,
    pub(super) offset: &'a Option<u64>,
    pub(super) errno: &'a i32,
    pub(super) text: &'a Text,
}

impl fmt::Display for PeerWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.text.as_str();
        if !text.is_empty() {
            return f.write_str(text);
        }
        let PeerWords { operation, side, offset, errno, .. } = *self;
        write!(f, "{}: {}", Place { operation, side, offset }, Words(*errno))
    }
}

/// Where something failed.
pub(super) struct Place<'a> {
    pub(super) operation: &'a Operation,
    pub(super) side: &'a Side,
    pub(super) offset: &'a Option<u64>,
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.side.name())?;
        if *self.operation != Operation::None {
            write!(f, ": {}", self.operation.name())?;
        }
        self.offset.map_or(Ok(()), |offset| write!(f, " at offset {offset}"))
    }
}

/// Somebody's words and the errno in the system's words.
pub(super) struct SaidWords<'a> {
    pub(super) errno: &'a i32,
    pub(super) text: &'a Text,
}

impl fmt::Display for SaidWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.text.as_str();
        if !text.is_empty() {
            write!(f, "{text}: ")?;
        }
        write!(f, "{}", Words(*self.errno))
    }
}

/// An errno in the system's words.
pub(crate) struct Words(pub i32);

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut buffer = [0; 96];
        f.write_str(crate::sys::words(self.0, &mut buffer))
    }
}
