//! The life of an end: once it was finished or aborted, it cannot be used.

use crate::error::{Error, Operation, Result, Side};

/// The life of an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Life {
    /// It may be used.
    #[default]
    Open,
    /// All of it succeeded.
    Finished,
    /// It failed.
    Aborted,
}

impl Life {
    /// Fails with `ESHUTDOWN` after the end.
    #[inline(always)]
    pub fn check(self, operation: Operation, side: Side, offset: u64) -> Result<()> {
        match self {
            Life::Open => Ok(()),
            Life::Finished | Life::Aborted => Err(Self::over(operation, side, offset)),
        }
    }

    /// The error of a call that comes after the end.
    #[cold]
    pub fn over(operation: Operation, side: Side, offset: u64) -> Error {
        let (errno, why) = (libc::ESHUTDOWN, "the end was already finished or aborted");
        Error::Because { operation, side, offset, errno, why }
    }

    /// Aborts it, unless it was finished or aborted before.
    pub fn abort(&mut self) {
        if *self == Life::Open {
            *self = Life::Aborted;
        }
    }
}
