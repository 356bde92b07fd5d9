//! The file position, which a question about the map moves.

use super::signals::steadily;
use crate::error::{Error, Operation, Result, Side};
use crate::sys::{self, Fd};

/// A file position that can be restored. A failure to do so is an error of its own.
#[derive(Debug)]
pub struct Position {
    fd: Fd,
    pub(super) saved: u64,
}

impl Position {
    /// Keeps where the position is.
    #[inline]
    pub fn save(fd: Fd) -> Result<Self> {
        match steadily(|| sys::position(fd)) {
            Ok(saved) => Ok(Position { fd, saved }),
            Err(errno) => Err(Self::unknown(errno)),
        }
    }

    /// Puts it back.
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

    /// Does something that moves it, and puts it back whatever comes of it.
    pub(super) fn around<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let answer = work();
        self.restore()?;
        answer
    }
}
