//! The errors, with the operation, the side, the offset and the errno of each.

pub use crate::text::Text;
pub use place::{Operation, Side};
use rule::Kept;
pub use rule::{Bound, Rule};
pub(crate) use shown::Words;
pub use shown::{Allowed, Given};
use shown::{Flags, Known, PeerWords, Place, SaidWords};

mod place;
mod rule;
mod shown;

/// The result of a call that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure. It can be made and kept if memory is short; only a text from outside may then be lost.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A system call or a callback failed with an errno.
    #[error("{}: {} at offset {offset}: {}", side.name(), operation.name(), Words(*errno))]
    At {
        /// The operation that failed.
        operation: Operation,
        /// The end that failed.
        side: Side,
        /// The offset.
        offset: u64,
        /// The system's errno.
        errno: i32,
    },
    /// As [`Error::At`], without an offset.
    #[error("{}: {}: {}", side.name(), operation.name(), Words(*errno))]
    Nowhere {
        /// The operation that failed.
        operation: Operation,
        /// The end that failed.
        side: Side,
        /// The system's errno.
        errno: i32,
    },
    /// As [`Error::At`], with the reason that the errno alone does not give.
    #[error("{}: {} at offset {offset}: {why}: {}", side.name(), operation.name(), Words(*errno))]
    Because {
        /// The operation that failed.
        operation: Operation,
        /// The end that failed.
        side: Side,
        /// The offset.
        offset: u64,
        /// The errno.
        errno: i32,
        /// The reason.
        why: &'static str,
    },
    /// The sink has no room for the whole stream, which is known before its first byte.
    #[error("sink: open: the stream has {total} bytes for offset {offset}, but there is room for {room}: {}",
            Words(*errno))]
    TooLong {
        /// The offset of the first byte.
        offset: u64,
        /// Bytes of the stream.
        total: u64,
        /// Bytes that fit.
        room: u64,
        /// The errno.
        errno: i32,
    },
    /// A callback failed, or the transfer was ended from outside, with a reason.
    #[error("{}: {}", Place { operation, side, offset }, SaidWords { errno, text })]
    Said {
        /// The operation that failed.
        operation: Operation,
        /// The end that failed.
        side: Side,
        /// The offset, if one applies.
        offset: Option<u64>,
        /// The errno.
        errno: i32,
        /// The text.
        text: Text,
    },
    /// Direct I/O cannot be done at an offset that is not a multiple of the block.
    #[error("{}: {} at offset {offset}: O_DIRECT needs multiples of {block} bytes here: {why}: {}",
            side.name(), operation.name(), Words(libc::EINVAL))]
    Unaligned {
        /// The operation that failed.
        operation: Operation,
        /// The end that failed.
        side: Side,
        /// The offset.
        offset: u64,
        /// The block: offsets and lengths must be multiples of it.
        block: u64,
        /// The reason why it cannot be done in another way.
        why: &'static str,
    },
    /// The source ended before its end.
    #[error(
        "source: read at offset {offset}: ended early, its end was expected at offset {expected}: {}",
        Words(libc::ENODATA)
    )]
    EndedEarly {
        /// The offset at which it ended.
        offset: u64,
        /// The offset at which it should have ended.
        expected: u64,
    },
    /// A number breaks a rule. It came from a callback or the other end of a wire, or is an option of an end.
    #[error("{}: {} at offset {offset}: {} is {given}, but must be {}: {}",
            side.name(), operation.name(), rule.name, Kept(rule, *bound), Words(*errno))]
    Number {
        /// The operation that failed.
        operation: Operation,
        /// The end.
        side: Side,
        /// The offset.
        offset: u64,
        /// The errno.
        errno: i32,
        /// The rule.
        rule: &'static Rule,
        /// The number received.
        given: i64,
        /// The number that the rule needs, if it needs one.
        bound: u64,
    },
    /// An argument, or a field of a struct, has a value that is not allowed.
    #[error("{name} is {}, but must be {allowed}: {}", Given { bits: *bits, signed: *signed }, Words(libc::EINVAL))]
    Value {
        /// The argument.
        name: &'static str,
        /// The value received.
        bits: u64,
        /// Whether the value is signed.
        signed: bool,
        /// The values allowed.
        allowed: Allowed,
    },
    /// The `size` of a struct is not valid.
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
    #[error("{name} has {}, but may have {}: {}", Flags(*unknown), Known(*allowed), Words(libc::EINVAL))]
    Flags {
        /// The argument.
        name: &'static str,
        /// The flags that are not allowed.
        unknown: u64,
        /// All flags that are allowed.
        allowed: u64,
    },
    /// A struct has a field of a later version that is not zero.
    #[error(
        "{name} has a byte that is not 0 at {at}, but must be 0 from {known}, the size that this version knows: {}",
        Words(libc::E2BIG)
    )]
    Later {
        /// The argument.
        name: &'static str,
        /// The offset of the byte in the struct.
        at: u32,
        /// The size of the struct in this version.
        known: u32,
    },
    /// An option needs offsets or a sync, which a stream of bytes does not have.
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
        /// The argument.
        name: &'static str,
        /// The reason.
        why: &'static str,
        /// The errno.
        errno: i32,
    },
    /// No byte moved for longer than the limit.
    #[error("{}: wait at offset {offset}: no progress for {waited_ms} ms: {}",
            side.name(), Words(libc::ETIMEDOUT))]
    Late {
        /// The side that was waited for.
        side: Side,
        /// The position of the stream.
        offset: u64,
        /// The time without progress, in milliseconds.
        waited_ms: u64,
    },
    /// The other end of a wire failed, and reported it.
    #[error("peer: {}", PeerWords { operation, side, offset, errno, text })]
    Peer {
        /// The operation that failed.
        operation: Operation,
        /// The end of its transfer that failed.
        side: Side,
        /// The offset, if one applies.
        offset: Option<u64>,
        /// Its errno, as the number of this machine.
        errno: i32,
        /// Its text.
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

    /// The positive errno.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match *self {
            Error::At { errno, .. }
            | Error::Nowhere { errno, .. }
            | Error::Because { errno, .. }
            | Error::Argument { errno, .. }
            | Error::Number { errno, .. }
            | Error::TooLong { errno, .. }
            | Error::Said { errno, .. }
            | Error::Peer { errno, .. } => errno,
            Error::Value { .. } | Error::Size { .. } | Error::Flags { .. } => libc::EINVAL,
            Error::EndedEarly { .. } => libc::ENODATA,
            Error::Unaligned { .. } => libc::EINVAL,
            Error::Unseekable { .. } => libc::ESPIPE,
            Error::Later { .. } => libc::E2BIG,
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
            | Error::Number { operation, .. }
            | Error::Unaligned { operation, .. }
            | Error::Said { operation, .. }
            | Error::Peer { operation, .. } => operation,
            Error::EndedEarly { .. } => Operation::Read,
            Error::TooLong { .. } | Error::Unseekable { .. } => Operation::Open,
            Error::Argument { .. }
            | Error::Value { .. }
            | Error::Size { .. }
            | Error::Flags { .. }
            | Error::Later { .. } => Operation::Argument,
            Error::Late { .. } => Operation::Wait,
            Error::Internal => Operation::None,
        }
    }

    /// The end that failed.
    #[must_use]
    pub fn side(&self) -> Side {
        match *self {
            Error::At { side, .. }
            | Error::Nowhere { side, .. }
            | Error::Because { side, .. }
            | Error::Number { side, .. }
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
            | Error::Later { .. }
            | Error::Internal => Side::None,
        }
    }

    /// The offset, if one applies.
    #[must_use]
    pub fn offset(&self) -> Option<u64> {
        match *self {
            Error::At { offset, .. }
            | Error::Because { offset, .. }
            | Error::Number { offset, .. }
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
            | Error::Later { .. }
            | Error::Internal => None,
        }
    }

    /// The offset at which the source should have ended, if it ended early.
    #[must_use]
    pub fn expected(&self) -> Option<u64> {
        match *self {
            Error::EndedEarly { expected, .. } => Some(expected),
            _ => None,
        }
    }

    /// Whether the other end of a wire has failed.
    #[must_use]
    pub fn is_peers(&self) -> bool {
        matches!(self, Error::Peer { .. })
    }

    /// Whether the end is only not ready yet.
    #[must_use]
    pub fn would_block(&self) -> bool {
        matches!(
            self,
            Error::At { errno: libc::EAGAIN, .. } | Error::Nowhere { errno: libc::EAGAIN, .. }
        )
    }

    /// Whether a signal interrupted the call.
    #[must_use]
    pub fn interrupted(&self) -> bool {
        matches!(
            self,
            Error::At { errno: libc::EINTR, .. } | Error::Nowhere { errno: libc::EINTR, .. }
        )
    }
}

/// The errno of a failure that is final. An errno that means "call again" becomes EIO, because a caller that
/// repeats the call would wait for ever.
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
        let flags = |allowed| {
            Error::Flags { name: "options.flags", unknown: 0x80_0040, allowed }.to_string()
        };
        assert_eq!(
            flags(6),
            "options.flags has SPARSESTREAM_WIRE_DIGEST, 0x800000, but may have only SPARSESTREAM_SYNC, \
             SPARSESTREAM_TRUNCATE: Invalid argument"
        );
        assert_eq!(
            flags(0),
            "options.flags has SPARSESTREAM_WIRE_DIGEST, 0x800000, but may have no flag: Invalid argument"
        );
    }

    #[test]
    fn an_early_end_names_both_offsets() {
        let error = Error::EndedEarly { offset: 2097152, expected: 4194304 };
        assert_eq!(
            error.to_string(),
            "source: read at offset 2097152: ended early, its end was expected at offset 4194304: No data available"
        );
        assert_eq!(error.errno(), libc::ENODATA);
        assert_eq!(error.expected(), Some(4194304));
    }

    #[test]
    fn a_number_that_breaks_a_rule_is_named_with_those_that_do_not() {
        static RULES: [(Rule, &str); 6] = [
            (
                Rule::new("info.total", Bound::Only("0 or more")),
                "info.total is 9, but must be 0 or more",
            ),
            (Rule::new("its end", Bound::Exactly), "its end is 9, but must be 6"),
            (Rule::new("its end", Bound::Most), "its end is 9, but must be at most 6"),
            (Rule::new("its end", Bound::FromOne), "its end is 9, but must be from 1 to 6"),
            (Rule::new("its end", Bound::ZeroOrLeast), "its end is 9, but must be 0 or at least 6"),
            (
                Rule::new("info.flags", Bound::Flags),
                "info.flags is 9, but must be 0 or any of SPARSESTREAM_SYNC, SPARSESTREAM_TRUNCATE",
            ),
        ];
        for (rule, text) in &RULES {
            let error = rule.broken((Operation::Open, Side::Sink, 7), libc::EPROTO, 9, 6);
            assert_eq!(
                error.to_string(),
                format!("sink: open at offset 7: {text}: Protocol error")
            );
            assert_eq!(
                (error.errno(), error.operation(), error.side(), error.offset()),
                (libc::EPROTO, Operation::Open, Side::Sink, Some(7))
            );
        }
    }

    #[test]
    fn a_struct_of_a_later_version_is_refused_with_the_place_of_its_byte() {
        let error = Error::Later { name: "options", at: 96, known: 88 };
        assert_eq!(
            error.to_string(),
            "options has a byte that is not 0 at 96, but must be 0 from 88, the size that this version \
             knows: Argument list too long"
        );
        assert_eq!((error.errno(), error.operation()), (libc::E2BIG, Operation::Argument));
    }

    #[test]
    fn a_peers_failure_is_reported_by_its_text_or_by_its_numbers() {
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
