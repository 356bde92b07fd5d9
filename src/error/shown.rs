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
    /// This alone.
    Exactly(u64),
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Allowed::Only(words) => f.write_str(words),
            Allowed::ZeroOr(least, most) => write!(f, "0 or from {least} to {most}"),
            Allowed::Range(least, most) => write!(f, "from {least} to {most}"),
            Allowed::Most(most) => write!(f, "at most {most}"),
            Allowed::Exactly(only) => only.fmt(f),
        }
    }
}

/// The flags of the interface, by name. Each has a bit of its own.
pub(crate) const FLAGS: [(u64, &str); 17] = [
    (1, "SPARSESTREAM_IGNORE_MAP"),
    (2, "SPARSESTREAM_SYNC"),
    (4, "SPARSESTREAM_TRUNCATE"),
    (8, "SPARSESTREAM_KNOWN_ZERO"),
    (16, "SPARSESTREAM_DETECT_ZEROES"),
    (32, "SPARSESTREAM_WIRE_CHECKSUM"),
    (64, "SPARSESTREAM_WIRE_DIGEST"),
    (128, "SPARSESTREAM_WIRE_RESUME"),
    (256, "SPARSESTREAM_WIRE_RESTART"),
    (512, "SPARSESTREAM_WIRE_SIZES"),
    (1024, "SPARSESTREAM_WIRE_KEEP"),
    (1 << 16, "SPARSESTREAM_WITH_HOLES"),
    (1 << 17, "SPARSESTREAM_WITH_KEEPS"),
    (1 << 18, "SPARSESTREAM_AT_MOST"),
    (1 << 20, "SPARSESTREAM_ASYNC_GROWS"),
    (1 << 21, "SPARSESTREAM_ASYNC_READS"),
    (1 << 22, "SPARSESTREAM_ASYNC_FAST_ZERO"),
];

/// Flags by name, and the others as a number.
pub(super) struct Flags(pub(super) u64);

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        let mut between = "";
        for (bit, name) in FLAGS {
            if self.0 & bit != 0 {
                rest &= !bit;
                write!(f, "{between}{name}")?;
                between = ", ";
            }
        }
        if rest != 0 { write!(f, "{between}{rest:#x}") } else { Ok(()) }
    }
}

/// The flags that an argument may have.
pub(super) struct Known(pub(super) u64);

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 { f.write_str("no flag") } else { write!(f, "only {}", Flags(self.0)) }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The flags that the interface defines: its constants of 64 bits.
    fn defined() -> Vec<(u64, &'static str)> {
        let sources = [
            include_str!("../ffi/async_ops.rs"),
            include_str!("../ffi/callbacks/tables.rs"),
            include_str!("../ffi/options.rs"),
        ];
        let mut flags = Vec::new();
        for line in sources.iter().flat_map(|source| source.lines()) {
            let Some((name, value)) = line
                .strip_prefix("pub const ")
                .and_then(|line| line.strip_suffix(';')?.split_once(": u64 = "))
            else {
                continue;
            };
            let bit = match value.strip_prefix("1 << ") {
                Some(shift) => 1 << shift.parse::<u32>().unwrap(),
                None => value.parse().unwrap(),
            };
            flags.push((bit, name));
        }
        flags.sort_unstable();
        flags
    }

    #[test]
    fn every_flag_of_the_interface_has_its_name() {
        let named: Vec<_> = FLAGS.iter().map(|(bit, name)| (*bit, *name)).collect();
        assert_eq!(named, defined());
        for (bit, name) in FLAGS {
            assert_eq!(Flags(bit).to_string(), name);
        }
    }
}
