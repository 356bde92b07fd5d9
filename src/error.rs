//! The errors, with the operation, the side, the offset and the errno of each.

pub use crate::text::Text;
pub(crate) use shown::Words;
pub use shown::{Allowed, Given};
use shown::{Known, PeerWords, Place, SaidWords};
use std::ffi::CStr;

mod shown;

/// The result of everything that can fail here.
pub type Result<T> = std::result::Result<T, Error>;

/// The end of a transfer that an error speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Side {
    /// Neither: an argument, or the transfer itself.
    None = 0,
    /// Where the stream comes from.
    Source = 1,
    /// Where the stream goes.
    Sink = 2,
}

impl Side {
    /// The side in words.
    #[must_use]
    pub fn c_name(self) -> &'static CStr {
        match self {
            Side::None => c"transfer",
            Side::Source => c"source",
            Side::Sink => c"sink",
        }
    }

    /// The side in words.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.c_name().to_str().unwrap_or_default()
    }
}

/// The operation that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Operation {
    /// Nothing.
    None = 0,
    /// An argument or an options struct was checked.
    Argument = 1,
    /// A descriptor was examined before its first use.
    Open = 2,
    /// The map of data and holes was read.
    Map = 3,
    /// A file position was restored.
    Seek = 4,
    /// Data was read.
    Read = 5,
    /// A part of the source was skipped.
    Skip = 6,
    /// Data was written.
    Write = 7,
    /// A hole was made.
    Hole = 8,
    /// A file's size was set.
    Truncate = 9,
    /// Data was made durable.
    Sync = 10,
    /// A checkpoint was reported.
    Checkpoint = 11,
    /// An end was finished.
    Finish = 12,
    /// The sparse request was checked against both ends.
    Sparse = 13,
    /// Progress, or a section, was reported.
    Progress = 14,
    /// The transfer waited.
    Wait = 15,
    /// Memory was asked for.
    Allocate = 16,
    /// A section was kept as it is.
    Keep = 17,
}

impl Operation {
    /// Every operation, in the order of its number.
    pub const ALL: [Operation; 18] = [
        Operation::None,
        Operation::Argument,
        Operation::Open,
        Operation::Map,
        Operation::Seek,
        Operation::Read,
        Operation::Skip,
        Operation::Write,
        Operation::Hole,
        Operation::Truncate,
        Operation::Sync,
        Operation::Checkpoint,
        Operation::Finish,
        Operation::Sparse,
        Operation::Progress,
        Operation::Wait,
        Operation::Allocate,
        Operation::Keep,
    ];

    /// The operation in words.
    #[must_use]
    pub fn c_name(self) -> &'static CStr {
        match self {
            Operation::None => c"nothing",
            Operation::Argument => c"argument",
            Operation::Open => c"open",
            Operation::Map => c"map",
            Operation::Seek => c"seek",
            Operation::Read => c"read",
            Operation::Skip => c"skip",
            Operation::Write => c"write",
            Operation::Hole => c"hole",
            Operation::Truncate => c"truncate",
            Operation::Sync => c"sync",
            Operation::Checkpoint => c"checkpoint",
            Operation::Finish => c"finish",
            Operation::Sparse => c"sparse",
            Operation::Progress => c"progress",
            Operation::Wait => c"wait",
            Operation::Allocate => c"allocate",
            Operation::Keep => c"keep",
        }
    }

    /// The operation in words.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.c_name().to_str().unwrap_or_default()
    }
}

/// A failure. It can be made and kept where there is no memory: only a text from outside may then be lost.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The system, or a callback, answered with an errno.
    #[error("{}: {} at offset {offset}: {}", side.name(), operation.name(), Words(*errno))]
    At {
        /// The operation that failed.
        operation: Operation,
        /// To which end.
        side: Side,
        /// Where.
        offset: u64,
        /// The system's errno.
        errno: i32,
    },
    /// As [`Error::At`], where no offset applies.
    #[error("{}: {}: {}", side.name(), operation.name(), Words(*errno))]
    Nowhere {
        /// The operation that failed.
        operation: Operation,
        /// To which end.
        side: Side,
        /// The system's errno.
        errno: i32,
    },
    /// As [`Error::At`], with the reason that the errno alone does not give.
    #[error("{}: {} at offset {offset}: {why}: {}", side.name(), operation.name(), Words(*errno))]
    Because {
        /// The operation that failed.
        operation: Operation,
        /// To which end.
        side: Side,
        /// Where.
        offset: u64,
        /// The errno that stands for it.
        errno: i32,
        /// The reason.
        why: &'static str,
    },
    /// The sink has no room for all of the stream, which is known before any of it comes.
    #[error("sink: open: the stream has {total} bytes for offset {offset}, but there is room for {room}: {}",
            Words(*errno))]
    TooLong {
        /// Where the first byte would go.
        offset: u64,
        /// Bytes that would come.
        total: u64,
        /// Bytes that fit.
        room: u64,
        /// The errno that stands for it.
        errno: i32,
    },
    /// A callback failed, or the transfer was ended from outside, with a reason.
    #[error("{}: {}", Place { operation, side, offset }, SaidWords { errno, text })]
    Said {
        /// The operation that failed.
        operation: Operation,
        /// To which end.
        side: Side,
        /// Where, if an offset applies.
        offset: Option<u64>,
        /// The errno that stands for it.
        errno: i32,
        /// The words.
        text: Text,
    },
    /// Direct I/O cannot be done at an offset that is not a multiple of the block.
    #[error("{}: {} at offset {offset}: O_DIRECT needs multiples of {block} bytes here: {why}: {}",
            side.name(), operation.name(), Words(libc::EINVAL))]
    Unaligned {
        /// The operation that failed.
        operation: Operation,
        /// To which end.
        side: Side,
        /// Where.
        offset: u64,
        /// The number of bytes of which offsets and lengths must be multiples.
        block: u64,
        /// Why it cannot be done in another way.
        why: &'static str,
    },
    /// The source ended before its end.
    #[error("source: ended early: at offset {offset} instead of {expected}")]
    EndedEarly {
        /// Where it ended.
        offset: u64,
        /// Where it should have ended.
        expected: u64,
    },
    /// A callback returned an invalid value.
    #[error(
        "{}: {} at offset {offset}: the callback returned {answer}, which is not a valid answer: {}",
        side.name(), operation.name(), Words(libc::EPROTO)
    )]
    Nonsense {
        /// The operation that it was called for.
        operation: Operation,
        /// On which end.
        side: Side,
        /// Where.
        offset: u64,
        /// The value that it returned.
        answer: i64,
    },
    /// An argument, or a field of a struct, has a value that is not allowed.
    #[error("{name} is {}, but must be {allowed}: {}", Given { bits: *bits, signed: *signed }, Words(libc::EINVAL))]
    Value {
        /// The argument.
        name: &'static str,
        /// The value received.
        bits: u64,
        /// It has a sign.
        signed: bool,
        /// The values allowed.
        allowed: Allowed,
    },
    /// The `size` of a struct is not that of a struct.
    #[error("{name}.size is {size}, but must be from {least} to {most}: {}", Words(libc::EINVAL))]
    Size {
        /// The argument.
        name: &'static str,
        /// The size received.
        size: u64,
        /// The least size allowed.
        least: u32,
        /// The greatest size allowed.
        most: u32,
    },
    /// An argument has flags that are not allowed.
    #[error("{name} has the unknown flags {unknown:#x}, but {}: {}", Known(*allowed), Words(libc::EINVAL))]
    Flags {
        /// The argument.
        name: &'static str,
        /// The flags that are not allowed.
        unknown: u64,
        /// All flags that are.
        allowed: u64,
    },
    /// An option needs a place or a sync, which a stream of bytes does not have.
    #[error("{}: open: {name} is {value}, but must be 0 for a pipe, a socket or a character device: {}",
            side.name(), Words(libc::ESPIPE))]
    Unseekable {
        /// The end whose option it is.
        side: Side,
        /// The option.
        name: &'static str,
        /// The value received.
        value: u64,
    },
    /// An argument cannot be used.
    #[error("{name} {why}: {}", Words(*errno))]
    Argument {
        /// Which.
        name: &'static str,
        /// Why.
        why: &'static str,
        /// The errno that stands for it.
        errno: i32,
    },
    /// No byte moved for longer than the limit.
    #[error("{}: late at offset {offset}: no progress for {waited_ms} ms: {}",
            side.name(), Words(libc::ETIMEDOUT))]
    Late {
        /// The side that was waited for.
        side: Side,
        /// How far the stream had come.
        offset: u64,
        /// How long.
        waited_ms: u64,
    },
    /// The other end of a wire failed, and reported it.
    #[error("peer: {}", PeerWords { operation, side, offset, errno, text })]
    Peer {
        /// The operation that failed.
        operation: Operation,
        /// To which of its ends.
        side: Side,
        /// Where, if an offset applies.
        offset: Option<u64>,
        /// The errno that it gave, in this machine's numbers.
        errno: i32,
        /// Its own words.
        text: Text,
    },
    /// The library itself failed: a panic was caught at its boundary.
    #[error(
        "internal error in libsparsestream, please report it: {}",
        Words(libc::ENOTRECOVERABLE)
    )]
    Internal,
}

impl Error {
    /// A failed system call or callback.
    #[must_use]
    pub fn at(operation: Operation, side: Side, offset: u64, errno: i32) -> Self {
        Error::At { operation, side, offset, errno }
    }

    /// A failed system call that concerns no offset.
    #[must_use]
    pub fn nowhere(operation: Operation, side: Side, errno: i32) -> Self {
        Error::Nowhere { operation, side, errno }
    }

    /// An argument that cannot be used.
    #[must_use]
    pub fn argument(name: &'static str, why: &'static str, errno: i32) -> Self {
        Error::Argument { name, why, errno }
    }

    /// A value that is not allowed.
    #[must_use]
    pub fn value(name: &'static str, value: impl Into<Given>, allowed: Allowed) -> Self {
        let Given { bits, signed } = value.into();
        Error::Value { name, bits, signed, allowed }
    }

    /// Refuses bytes that end beyond the largest offset.
    #[inline]
    pub fn check_end(operation: Operation, side: Side, offset: u64, length: u64) -> Result<()> {
        match i64::try_from(offset.saturating_add(length)) {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::at(operation, side, offset, libc::EOVERFLOW)),
        }
    }

    /// A null pointer where none is allowed.
    #[must_use]
    pub fn null(name: &'static str) -> Self {
        Error::argument(name, "must not be NULL", libc::EINVAL)
    }

    /// The errno that stands for it, positive.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match *self {
            Error::At { errno, .. }
            | Error::Nowhere { errno, .. }
            | Error::Because { errno, .. }
            | Error::Argument { errno, .. }
            | Error::TooLong { errno, .. }
            | Error::Said { errno, .. }
            | Error::Peer { errno, .. } => errno,
            Error::Value { .. } | Error::Size { .. } | Error::Flags { .. } => libc::EINVAL,
            Error::EndedEarly { .. } => libc::ENODATA,
            Error::Unaligned { .. } => libc::EINVAL,
            Error::Unseekable { .. } => libc::ESPIPE,
            Error::Nonsense { .. } => libc::EPROTO,
            Error::Late { .. } => libc::ETIMEDOUT,
            Error::Internal => libc::ENOTRECOVERABLE,
        }
    }

    /// The operation that failed.
    #[must_use]
    pub fn operation(&self) -> Operation {
        match *self {
            Error::At { operation, .. }
            | Error::Nowhere { operation, .. }
            | Error::Because { operation, .. }
            | Error::Nonsense { operation, .. }
            | Error::Unaligned { operation, .. }
            | Error::Said { operation, .. }
            | Error::Peer { operation, .. } => operation,
            Error::EndedEarly { .. } => Operation::Read,
            Error::TooLong { .. } | Error::Unseekable { .. } => Operation::Open,
            Error::Argument { .. }
            | Error::Value { .. }
            | Error::Size { .. }
            | Error::Flags { .. } => Operation::Argument,
            Error::Late { .. } => Operation::Wait,
            Error::Internal => Operation::None,
        }
    }

    /// To which end.
    #[must_use]
    pub fn side(&self) -> Side {
        match *self {
            Error::At { side, .. }
            | Error::Nowhere { side, .. }
            | Error::Because { side, .. }
            | Error::Nonsense { side, .. }
            | Error::Unaligned { side, .. }
            | Error::Late { side, .. }
            | Error::Unseekable { side, .. }
            | Error::Said { side, .. }
            | Error::Peer { side, .. } => side,
            Error::EndedEarly { .. } => Side::Source,
            Error::TooLong { .. } => Side::Sink,
            Error::Argument { .. }
            | Error::Value { .. }
            | Error::Size { .. }
            | Error::Flags { .. }
            | Error::Internal => Side::None,
        }
    }

    /// Where, if an offset applies.
    #[must_use]
    pub fn offset(&self) -> Option<u64> {
        match *self {
            Error::At { offset, .. }
            | Error::Because { offset, .. }
            | Error::Nonsense { offset, .. }
            | Error::Unaligned { offset, .. }
            | Error::EndedEarly { offset, .. }
            | Error::TooLong { offset, .. }
            | Error::Late { offset, .. } => Some(offset),
            Error::Said { offset, .. } | Error::Peer { offset, .. } => offset,
            Error::Nowhere { .. }
            | Error::Unseekable { .. }
            | Error::Argument { .. }
            | Error::Value { .. }
            | Error::Size { .. }
            | Error::Flags { .. }
            | Error::Internal => None,
        }
    }

    /// Where the source should have ended, if it ended early.
    #[must_use]
    pub fn expected(&self) -> Option<u64> {
        match *self {
            Error::EndedEarly { expected, .. } => Some(expected),
            _ => None,
        }
    }

    /// Whether it is the failure of a wire's other end.
    #[must_use]
    pub fn is_peers(&self) -> bool {
        matches!(self, Error::Peer { .. })
    }

    /// Nothing failed: the end is not ready yet.
    #[must_use]
    pub fn would_block(&self) -> bool {
        matches!(
            self,
            Error::At { errno: libc::EAGAIN, .. } | Error::Nowhere { errno: libc::EAGAIN, .. }
        )
    }

    /// Nothing failed: a signal came in between.
    #[must_use]
    pub fn interrupted(&self) -> bool {
        matches!(
            self,
            Error::At { errno: libc::EINTR, .. } | Error::Nowhere { errno: libc::EINTR, .. }
        )
    }
}

/// The errno of a failure that is final. One that means "again" in a call becomes EIO: nothing is there that
/// could be made again, and who takes it at its word waits for ever.
#[must_use]
pub const fn lasting(errno: i32) -> i32 {
    match errno {
        libc::EAGAIN | libc::EINTR => libc::EIO,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_side_operation_offset_and_words() {
        let error = Error::at(Operation::Write, Side::Sink, 4096, libc::ENOSPC);
        assert_eq!(error.to_string(), "sink: write at offset 4096: No space left on device");
        assert_eq!(
            (error.errno(), error.operation(), error.side(), error.offset()),
            (libc::ENOSPC, Operation::Write, Side::Sink, Some(4096))
        );
    }

    #[test]
    fn a_value_that_is_not_allowed_is_named_with_those_that_are() {
        let text = |error: Error| error.to_string();
        let name = "options.x";
        assert_eq!(
            text(Error::value(name, -1, Allowed::Only(&"0 or more"))),
            "options.x is -1, but must be 0 or more: Invalid argument"
        );
        assert_eq!(
            text(Error::value(name, 7u64, Allowed::ZeroOr(4096, 8192))),
            "options.x is 7, but must be 0 or from 4096 to 8192: Invalid argument"
        );
        assert_eq!(
            text(Error::value(name, u64::MAX, Allowed::Most(5))),
            "options.x is 18446744073709551615, but must be at most 5: Invalid argument"
        );
        let size = Error::Size { name: "ops", size: 3, least: 16, most: 4096 };
        assert_eq!(
            text(size.clone()),
            "ops.size is 3, but must be from 16 to 4096: Invalid argument"
        );
        assert_eq!(
            (size.errno(), size.operation(), size.offset()),
            (libc::EINVAL, Operation::Argument, None)
        );
    }

    #[test]
    fn unknown_flags_are_named_with_those_that_are_known() {
        let flags =
            |allowed| Error::Flags { name: "options.flags", unknown: 0x40, allowed }.to_string();
        assert_eq!(
            flags(6),
            "options.flags has the unknown flags 0x40, but only 0x6 are allowed: Invalid argument"
        );
        assert_eq!(
            flags(0),
            "options.flags has the unknown flags 0x40, but no flag is allowed: Invalid argument"
        );
    }

    #[test]
    fn an_early_end_names_both_offsets() {
        let error = Error::EndedEarly { offset: 2097152, expected: 4194304 };
        assert_eq!(error.to_string(), "source: ended early: at offset 2097152 instead of 4194304");
        assert_eq!(error.errno(), libc::ENODATA);
        assert_eq!(error.expected(), Some(4194304));
    }

    #[test]
    fn a_peers_failure_is_told_in_its_words_or_by_its_numbers() {
        let peer = |text: &[u8]| Error::Peer {
            operation: Operation::Write,
            side: Side::Sink,
            offset: Some(7),
            errno: libc::ENOSPC,
            text: Text::new(text),
        };
        let numbers = "peer: sink: write at offset 7: No space left on device";
        assert_eq!(peer(b"").to_string(), numbers);
        assert_eq!(peer(b"out of\x1b[2J\nluck\xff").to_string(), "peer: out of?[2J?luck?");
    }

    #[test]
    fn an_error_is_small() {
        // It is a part of every result.
        assert!(size_of::<Error>() <= 48, "{}", size_of::<Error>());
    }

    #[test]
    fn operations_are_numbered_in_order() {
        for (number, operation) in Operation::ALL.iter().enumerate() {
            assert_eq!(*operation as usize, number);
        }
    }
}
