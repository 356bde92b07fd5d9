//! The part that the ends from the caller's tables share: their life, and the events they wait for.

use super::answers::Site;
use crate::error::{Error, Operation, Result, Side};
use crate::ffi::guard;
use crate::ffi::opaque::Opaque;
use crate::ffi::options::sparsestream_wait;
use crate::wait::{Waiting, Watch};
use libc::{c_int, c_void};
use std::time::Duration;

type Finish = unsafe extern "C" fn(*mut c_void) -> c_int;
type Abort = unsafe extern "C" fn(*mut c_void, c_int);
type Wait = unsafe extern "C" fn(*mut c_void, *mut sparsestream_wait) -> c_int;

/// The phase of the caller's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Unused,
    Used,
    Finished,
    Failed,
}

/// The functions that end a table.
#[derive(Clone, Copy)]
pub struct Ending {
    /// Called when everything was moved.
    pub finish: Option<Finish>,
    /// Called when the stream failed.
    pub abort: Option<Abort>,
    /// Sets the events that it waits for.
    pub wait: Option<Wait>,
}

/// An end of the caller. It is ended once, by finish or by abort.
pub struct Party {
    opaque: Opaque,
    side: Side,
    ending: Ending,
    life: Life,
    /// The position of the stream.
    pub offset: u64,
}

impl Party {
    /// One that was not used yet.
    pub fn new(opaque: Opaque, side: Side, ending: Ending) -> Self {
        Party { opaque, side, ending, life: Life::Unused, offset: 0 }
    }

    /// The pointer that is passed to each of its functions.
    pub fn pointer(&self) -> *mut c_void {
        self.opaque.pointer()
    }

    /// The place of a call.
    pub fn site(&self, operation: Operation) -> Site {
        Site { operation, side: self.side, offset: self.offset }
    }

    /// The place of the next call. Fails if the end was ended.
    #[inline(always)]
    pub fn touch(&mut self, operation: Operation) -> Result<Site> {
        match self.life {
            Life::Unused | Life::Used => {
                self.life = Life::Used;
                Ok(self.site(operation))
            }
            Life::Finished | Life::Failed => {
                Err(crate::life::Life::over(operation, self.side, self.offset))
            }
        }
    }

    /// Whether it was finished with success.
    pub fn is_finished(&self) -> bool {
        self.life == Life::Finished
    }

    /// See [`crate::end::End::finish`].
    pub fn finish(&mut self) -> Result<()> {
        if self.is_finished() {
            return Ok(());
        }
        let site = self.touch(Operation::Finish)?;
        let pointer = self.pointer();
        let result = self.ending.finish.map_or(Ok(()), |finish| {
            // SAFETY: the caller promised that its functions may be called with its opaque.
            site.done(|| unsafe { finish(pointer) })
        });
        self.life = match &result {
            Ok(()) => Life::Finished,
            Err(error) if error.would_block() || error.interrupted() => Life::Used,
            Err(_) => Life::Failed,
        };
        result
    }

    /// See [`crate::end::End::abort`].
    pub fn abort(&mut self, error: &Error) {
        if matches!(self.life, Life::Finished | Life::Failed) {
            return;
        }
        self.life = Life::Failed;
        if let Some(abort) = self.ending.abort {
            guard::keep_message(error);
            // SAFETY: the caller promised that its functions may be called with its opaque.
            unsafe { abort(self.pointer(), error.errno()) };
        }
    }

    /// See [`crate::end::End::waiting`].
    pub fn waiting(&self) -> Waiting {
        let Some(ask) = self.ending.wait else { return Waiting::Owner };
        let mut wait = sparsestream_wait::nothing();
        let site = self.site(Operation::Wait);
        let pointer = self.pointer();
        // SAFETY: the caller promised that its functions may be called with its opaque.
        match site.done(|| unsafe { ask(pointer, &raw mut wait) }) {
            Ok(()) => wait.watch().map_or(Waiting::Owner, Waiting::Watch),
            // The event that it waits for is not known: ask again soon.
            Err(_) => Waiting::Watch(Watch::time(Duration::from_millis(10))),
        }
    }
}

impl Drop for Party {
    fn drop(&mut self) {
        if self.life == Life::Used {
            self.abort(&Error::nowhere(Operation::None, Side::None, libc::ECANCELED));
        }
    }
}

/// The part of a piece up to the last multiple of `block`, if the piece contains one.
pub fn cut(offset: u64, length: usize, block: u64) -> usize {
    if block < 2 {
        return length;
    }
    let end = offset.saturating_add(length as u64);
    let beyond = usize::try_from(end % block).unwrap_or(usize::MAX);
    match length.checked_sub(beyond) {
        Some(whole) if whole > 0 => whole,
        _ => length,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_end_on_a_block_where_they_reach_one() {
        for (offset, length, block, expected) in [
            (0, 10_000, 4096, 8192),
            (100, 10_000, 4096, 8092),
            (0, 4096, 4096, 4096),
            (0, 4095, 4096, 4095),
            (4095, 1, 4096, 1),
            (4095, 2, 4096, 1),
            (5, 7, 0, 7),
            (5, 7, 1, 7),
            (u64::MAX, 7, 4096, 7),
        ] {
            assert_eq!(cut(offset, length, block), expected, "{offset} {length} {block}");
        }
    }
}
