//! The file position, which a question about the map moves.

use super::signals::steadily;
use crate::error::{Error, Operation, Result, Side};
use crate::sys::{self, Fd};

/// A file position that can be restored.
#[derive(Debug)]
pub struct Position {
    fd: Fd,
    pub(super) saved: u64,
}

impl Position {
    /// Saves the position.
    #[inline]
    pub fn save(fd: Fd) -> Result<Self> {
        match steadily(|| sys::position(fd)) {
            Ok(saved) => Ok(Position { fd, saved }),
            Err(errno) => Err(Self::unknown(errno)),
        }
    }

    /// Restores the position.
    #[inline]
    pub fn restore(&self) -> Result<()> {
        match steadily(|| sys::set_position(self.fd, self.saved)) {
            Ok(()) => Ok(()),
            Err(errno) => Err(self.lost(errno)),
        }
    }

    #[cold]
    fn unknown(errno: i32) -> Error {
        Error::nowhere(Operation::Map, Side::Source, errno)
    }

    #[cold]
    fn lost(&self, errno: i32) -> Error {
        Error::Because {
            operation: Operation::Seek,
            side: Side::Source,
            offset: self.saved,
            errno,
            why: "the file position is lost",
        }
    }

    /// Does work that moves the position, and restores it even if the work fails.
    pub(super) fn around<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let answer = work();
        self.restore()?;
        answer
    }
}
