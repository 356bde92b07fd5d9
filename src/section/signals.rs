//! Calls that a signal may interrupt.

use crate::error::Result;
use crate::sys::Sys;

/// How often a call that a signal interrupted is made again, so that nothing loops for ever.
const INTERRUPTIONS: usize = 100;

/// Makes a call that a signal may interrupt.
///
/// In line, as all that a query goes through: a return that follows a system call is mispredicted,
/// and an answer that goes through memory waits for it.
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

/// As [`steadily`], for what answers with an error of the library.
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
