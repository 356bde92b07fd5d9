//! Calls that a signal may interrupt.

use crate::error::Result;
use crate::sys::Sys;

/// The number of times that an interrupted call is repeated, so that nothing loops for ever.
const INTERRUPTIONS: usize = 100;

/// Makes a call that a signal may interrupt.
///
/// Inline, as is every function on the path of a query that finds data: a return after a system call is
/// mispredicted, and a result that is returned in memory has to wait for that.
#[inline(always)]
pub fn steadily<T>(mut make: impl FnMut() -> Sys<T>) -> Sys<T> {
    for _ in 0..INTERRUPTIONS {
        match make() {
            Err(libc::EINTR) => {}
            answer => return answer,
        }
    }
    Err(libc::EINTR)
}

/// As [`steadily`], for a call that fails with an error of the library.
pub(super) fn again<T>(mut make: impl FnMut() -> Result<T>) -> Result<T> {
    let mut answer = make();
    for _ in 1..INTERRUPTIONS {
        match answer {
            Err(error) if error.interrupted() => answer = make(),
            _ => break,
        }
    }
    answer
}
