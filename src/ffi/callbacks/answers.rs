//! The results of the caller's functions, and the details that they give of a failure.

use crate::error::{Bound, Error, Operation, Result, Rule, Side, lasting};
use crate::ffi::sections::{self, sparsestream_section};
use crate::section::Kind;
use crate::sys::Sys;
use crate::text::Words;
use libc::c_int;
use std::cell::Cell;

/// A function's description of the failure that it is going to return.
#[derive(Clone, Copy)]
pub struct Said {
    /// The errno that it is about.
    pub errno: i32,
    /// The operation that failed, if it is not the one that the function was called for.
    pub operation: Option<Operation>,
    /// The offset in the stream at which it failed, if it is not the one of the call.
    pub offset: Option<u64>,
    /// The text.
    pub words: Words,
}

thread_local! {
    static SAID: Cell<Option<Said>> = const { Cell::new(None) };
    /// The use of SAID, which is large: only this is reset before each call.
    static SPOKEN: Cell<Spoken> = const { Cell::new(Spoken::Nothing) };
}

/// The use of a description.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Spoken {
    /// There is no description.
    Nothing,
    /// It was not used yet.
    Fresh,
    /// It belongs to a request that the function has answered. The function may return the same failure.
    Used,
}

/// Keeps a description until the function that runs on this thread returns.
pub fn say(said: Said) {
    SAID.set(Some(said));
    SPOKEN.set(Spoken::Fresh);
}

/// The description given since the call began, if any.
#[cold]
fn spoken() -> Option<Said> {
    match SPOKEN.replace(Spoken::Nothing) {
        Spoken::Nothing => None,
        Spoken::Fresh | Spoken::Used => SAID.take(),
    }
}

/// The description of the failure with which this thread answers a request. It is used for one request.
#[cold]
pub fn said_of_request(errno: i32) -> Option<Said> {
    let said = SAID.get().filter(|said| SPOKEN.get() == Spoken::Fresh && said.errno == errno)?;
    SPOKEN.set(Spoken::Used);
    Some(said)
}

/// As [`said_of_request`], for a function that may refuse a request: calls it, and returns its result too.
pub fn refusal(call: impl FnOnce() -> c_int) -> (c_int, Option<Said>) {
    SPOKEN.set(Spoken::Nothing);
    let answer = call();
    (answer, if answer < 0 { said_of_request(answer.saturating_neg()) } else { None })
}

static COUNT: Rule = Rule::new("the callback's result", Bound::Most);
static SOME: Rule = Rule::new("the callback's result", Bound::FromOne);
static ERRNO: Rule =
    Rule::new("the callback's result", Bound::Only("a count, or from -4095 to -1 for an errno"));
static RESERVED: Rule = Rule::new("section.reserved", Bound::Exactly);
static LENGTH: Rule = Rule::new("the length that the callback set", Bound::FromOne);

/// The place at which a function is called.
#[derive(Clone, Copy)]
pub struct Site {
    /// The operation of the call.
    pub operation: Operation,
    /// The end that it belongs to.
    pub side: Side,
    /// The offset in the stream.
    pub offset: u64,
}

impl Site {
    /// Calls a function that returns a count of at most `most`, or a negative errno.
    pub fn count(self, most: u64, call: impl FnOnce() -> i64) -> Result<u64> {
        let answer = self.answer(call);
        self.check(answer, most)
    }

    /// Calls a function that returns a count of at least one.
    pub fn some(self, most: u64, call: impl FnOnce() -> i64) -> Result<u64> {
        match self.count(most, call)? {
            0 => Err(self.broken(&SOME, 0, most)),
            count => Ok(count),
        }
    }

    /// Calls a function that returns 0 or a negative errno.
    pub fn done(self, call: impl FnOnce() -> c_int) -> Result<()> {
        self.count(0, || i64::from(call())).map(drop)
    }

    /// Calls a function whose result is not checked here.
    pub fn answer(self, call: impl FnOnce() -> i64) -> i64 {
        SPOKEN.set(Spoken::Nothing);
        call()
    }

    /// The result of the last call: a count of at most `most`, or its error.
    pub fn check(self, answer: i64, most: u64) -> Result<u64> {
        match u64::try_from(answer) {
            Ok(count) if count <= most => Ok(count),
            Ok(_) => Err(self.broken(&COUNT, answer, most)),
            Err(_) => Err(self.failed(answer)),
        }
    }

    /// The error for a result, or a field that a function set, that breaks a rule.
    #[cold]
    pub fn broken(self, rule: &'static Rule, given: i64, bound: u64) -> Error {
        let Site { operation, side, offset } = self;
        rule.broken((operation, side, offset), libc::EPROTO, given, bound)
    }

    /// An error at this place.
    pub fn error(self, errno: i32) -> Error {
        Error::at(self.operation, self.side, self.offset, errno)
    }

    /// The kind of the section that a function has reported.
    pub fn kind(self, section: &sparsestream_section) -> Result<Kind> {
        let kind = sections::kind(section.kind)
            .ok_or_else(|| self.broken(&sections::KIND, section.kind.into(), 0))?;
        if section.reserved == 0 {
            Ok(kind)
        } else {
            Err(self.broken(&RESERVED, section.reserved.into(), 0))
        }
    }

    /// Checks a length that a function returned: at least one, and its end is a possible offset.
    pub fn length(self, length: i64) -> Result<u64> {
        u64::try_from(length)
            .ok()
            .filter(|length| *length != 0)
            .filter(|length| i64::try_from(self.offset.saturating_add(*length)).is_ok())
            .ok_or_else(|| {
                self.broken(&LENGTH, length, (i64::MAX as u64).saturating_sub(self.offset))
            })
    }

    #[cold]
    fn failed(self, answer: i64) -> Error {
        let Some(errno) = errno(answer) else { return self.broken(&ERRNO, answer, 0) };
        let error = self.error(errno);
        match spoken() {
            Some(said) if said.errno == errno && !error.would_block() && !error.interrupted() => {
                Error::Said {
                    operation: said.operation.unwrap_or(self.operation),
                    side: self.side,
                    offset: Some(said.offset.unwrap_or(self.offset)),
                    errno,
                    text: said.words.into(),
                }
            }
            _ => error,
        }
    }
}

/// The errno of a negative result.
fn errno(answer: i64) -> Option<i32> {
    (-4095..0).contains(&answer).then(|| -answer as i32)
}

/// The result of a function that may only end the transfer: 0 and more continue.
pub fn may_go_on(answer: c_int) -> Sys<()> {
    if answer >= 0 {
        return Ok(());
    }
    Err(errno(i64::from(answer)).map_or(libc::EPROTO, lasting))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SITE: Site = Site { operation: Operation::Write, side: Side::Sink, offset: 4096 };

    fn said(errno: i32, operation: Option<Operation>, offset: Option<u64>) -> Said {
        Said { errno, operation, offset, words: Words::new(b"quota exceeded") }
    }

    #[test]
    fn words_go_with_the_errno_that_they_are_about() {
        let failed = SITE.count(1, || {
            say(said(libc::EDQUOT, None, None));
            -i64::from(libc::EDQUOT)
        });
        let error = failed.unwrap_err();
        assert_eq!(
            error.to_string(),
            "sink: write at offset 4096: quota exceeded: Disk quota exceeded"
        );
        let other = SITE.count(1, || {
            say(said(libc::EDQUOT, None, None));
            -i64::from(libc::EIO)
        });
        assert_eq!(other, Err(SITE.error(libc::EIO)));
        let not_ready = SITE.done(|| {
            say(said(libc::EAGAIN, None, None));
            -libc::EAGAIN
        });
        assert!(not_ready.unwrap_err().would_block());
    }

    #[test]
    fn words_of_an_earlier_call_are_forgotten() {
        say(said(libc::EIO, None, None));
        assert_eq!(SITE.done(|| -libc::EIO), Err(SITE.error(libc::EIO)));
        let fine = SITE.count(5, || {
            say(said(libc::EIO, None, None));
            5
        });
        assert_eq!(fine, Ok(5));
        assert_eq!(SITE.done(|| -libc::EIO), Err(SITE.error(libc::EIO)));
    }

    #[test]
    fn a_late_error_names_its_own_operation_and_offset() {
        let late = SITE.done(|| {
            say(said(libc::EIO, Some(Operation::Hole), Some(512)));
            -libc::EIO
        });
        let error = late.unwrap_err();
        assert_eq!((error.operation(), error.offset()), (Operation::Hole, Some(512)));
        assert_eq!((error.side(), error.errno()), (Side::Sink, libc::EIO));
    }

    #[test]
    fn an_answer_that_ends_a_transfer_never_means_again() {
        assert_eq!((may_go_on(0), may_go_on(7)), (Ok(()), Ok(())));
        for (answer, errno) in [
            (-libc::EDQUOT, libc::EDQUOT),
            (-libc::EAGAIN, libc::EIO),
            (-libc::EINTR, libc::EIO),
            (-4096, libc::EPROTO),
            (c_int::MIN, libc::EPROTO),
        ] {
            assert_eq!(may_go_on(answer), Err(errno), "{answer}");
        }
    }

    #[test]
    fn only_a_count_or_an_errno_is_an_answer() {
        assert_eq!(SITE.count(7, || 7), Ok(7));
        assert_eq!(SITE.some(7, || 0).unwrap_err().errno(), libc::EPROTO);
        for nonsense in [8, i64::MAX, -4096, i64::MIN] {
            assert_eq!(SITE.count(7, || nonsense).unwrap_err().errno(), libc::EPROTO);
        }
        for length in [0, -1, i64::MIN, i64::MAX - 4095] {
            assert!(SITE.length(length).is_err(), "{length}");
        }
        assert_eq!(SITE.length(i64::MAX - 4096), Ok(i64::MAX as u64 - 4096));
    }
}
