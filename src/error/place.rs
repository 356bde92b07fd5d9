//! The place of a failure: the side and the operation.

use std::ffi::CStr;

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
