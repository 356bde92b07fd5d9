//! Exports: the version, and errors as text and as names.

use super::callbacks::answers::{self, Said};
use super::guard;
use crate::error::{Allowed, Error, Operation, Side};
use libc::{c_char, c_int};

/// An operation: none.
pub const SPARSESTREAM_OPERATION_NONE: i32 = 0;
/// An operation: an argument or an options struct was checked.
pub const SPARSESTREAM_OPERATION_ARGUMENT: i32 = 1;
/// An operation: a descriptor was examined before its first use.
pub const SPARSESTREAM_OPERATION_OPEN: i32 = 2;
/// An operation: the map of data and holes was read.
pub const SPARSESTREAM_OPERATION_MAP: i32 = 3;
/// An operation: a file position was restored.
pub const SPARSESTREAM_OPERATION_SEEK: i32 = 4;
/// An operation: data was read or received.
pub const SPARSESTREAM_OPERATION_READ: i32 = 5;
/// An operation: a part of the source was skipped, or a hole was received.
pub const SPARSESTREAM_OPERATION_SKIP: i32 = 6;
/// An operation: data was written or sent.
pub const SPARSESTREAM_OPERATION_WRITE: i32 = 7;
/// An operation: a hole was made or sent.
pub const SPARSESTREAM_OPERATION_HOLE: i32 = 8;
/// An operation: the size of a file was set.
pub const SPARSESTREAM_OPERATION_TRUNCATE: i32 = 9;
/// An operation: data was made durable.
pub const SPARSESTREAM_OPERATION_SYNC: i32 = 10;
/// An operation: a checkpoint was reported.
pub const SPARSESTREAM_OPERATION_CHECKPOINT: i32 = 11;
/// An operation: an end was finished.
pub const SPARSESTREAM_OPERATION_FINISH: i32 = 12;
/// An operation: the sparse request was checked against both ends.
pub const SPARSESTREAM_OPERATION_SPARSE: i32 = 13;
/// An operation: progress, or a section, was reported.
pub const SPARSESTREAM_OPERATION_PROGRESS: i32 = 14;
/// An operation: the transfer waited for an end, or was cancelled.
pub const SPARSESTREAM_OPERATION_WAIT: i32 = 15;
/// An operation: memory was allocated.
pub const SPARSESTREAM_OPERATION_ALLOCATE: i32 = 16;
/// An operation: a section was kept as it is.
pub const SPARSESTREAM_OPERATION_KEEP: i32 = 17;

/// A side: neither end.
pub const SPARSESTREAM_SIDE_NONE: i32 = 0;
/// A side: where the stream comes from.
pub const SPARSESTREAM_SIDE_SOURCE: i32 = 1;
/// A side: where the stream goes.
pub const SPARSESTREAM_SIDE_SINK: i32 = 2;

/// Returns the message of the last call of the library that failed on this thread: side, operation, offset,
/// and the system's text for the errno. The message is "" before the first failure. A call that succeeds or
/// returns -EAGAIN does not change it.
///
/// The library owns the string, which is valid until the next call that fails on this thread. It is never
/// NULL. Any thread may call this, but not a signal handler.
#[unsafe(no_mangle)]
pub extern "C" fn sparsestream_last_error() -> *const c_char {
    guard::text(guard::message)
}

/// Adds details to the failure that a callback is about to return. Call it in the callback, on its thread,
/// just before the return. An end with requests in flight also calls it just before it passes a failure to
/// `sparsestream_request_done`, on any thread; the details are used for that one request.
///
/// `error` is a positive errno; the callback must return its negative value. If the callback returns another
/// number, or if `error` is EAGAIN or EINTR, the details are dropped. `operation` is one of
/// `SPARSESTREAM_OPERATION_...`, or 0 for the operation of the callback or of the request. `offset` is the
/// offset of the failure in the stream, or -1 for the current position or for the offset of the request.
/// `text` may be NULL. The library keeps its first 255 bytes, and replaces each character that could confuse
/// a terminal by a question mark.
///
/// The function works in callbacks that belong to a table. It has no effect in `progress`, `section` and
/// `checkpoint` callbacks of options.
///
/// Returns 0, or -EINVAL (`error` is not from 1 to 4095, `operation` is not one of
/// `SPARSESTREAM_OPERATION_...`, or `offset` is less than -1).
///
/// # Safety
/// `text` is NULL or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_set_error(
    error: c_int,
    operation: c_int,
    offset: i64,
    text: *const c_char,
) -> c_int {
    guard::code(|| {
        let errno = guard::errno(error)?;
        let operation = match usize::try_from(operation).ok().map(|at| Operation::ALL.get(at)) {
            Some(Some(Operation::None)) => None,
            Some(Some(operation)) => Some(*operation),
            _ => {
                let most = Operation::ALL.len() as u32 - 1;
                return Err(Error::value("operation", operation, Allowed::Range(0, most)));
            }
        };
        let offset = match offset {
            -1 => None,
            offset => Some(u64::try_from(offset).map_err(|_| {
                Error::value("offset", offset, Allowed::Only(&"-1 (where the stream is) or more"))
            })?),
        };
        // SAFETY: the caller promises NULL or a string.
        let words = unsafe { guard::words(text) };
        answers::say(Said { errno, operation, offset, words });
        Ok(0)
    })
}

/// Returns the name of a `SPARSESTREAM_OPERATION_` number, such as "write". For any other number it is
/// "unknown".
///
/// The string is constant. Any thread may call this.
#[unsafe(no_mangle)]
pub extern "C" fn sparsestream_operation_name(operation: c_int) -> *const c_char {
    guard::text(|| {
        let number = usize::try_from(operation).unwrap_or(usize::MAX);
        Operation::ALL.get(number).map_or(c"unknown", |known| known.c_name()).as_ptr()
    })
}

/// Returns the name of a `SPARSESTREAM_SIDE_` number: "transfer" for `SPARSESTREAM_SIDE_NONE`, "source" or
/// "sink". For any other number it is "unknown".
///
/// The string is constant. Any thread may call this.
#[unsafe(no_mangle)]
pub extern "C" fn sparsestream_side_name(side: c_int) -> *const c_char {
    guard::text(|| {
        match side {
            SPARSESTREAM_SIDE_NONE => Side::None.c_name(),
            SPARSESTREAM_SIDE_SOURCE => Side::Source.c_name(),
            SPARSESTREAM_SIDE_SINK => Side::Sink.c_name(),
            _ => c"unknown",
        }
        .as_ptr()
    })
}

/// Returns the version of the library at run time, such as "0.1.0". `SPARSESTREAM_VERSION` is the version of
/// the header that the program was compiled with.
///
/// The string is constant. Any thread may call this.
#[unsafe(no_mangle)]
pub extern "C" fn sparsestream_version() -> *const c_char {
    guard::text(|| {
        const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
        VERSION.as_ptr().cast()
    })
}

/// Returns the version of the library at run time as one number: 1000000 * major + 1000 * minor + patch. A
/// later version is a greater number. `SPARSESTREAM_VERSION_NUMBER` is the number of the header.
///
/// Any thread may call this.
#[unsafe(no_mangle)]
pub extern "C" fn sparsestream_version_number() -> c_int {
    guard::code(|| Ok(VERSION_NUMBER))
}

const VERSION_NUMBER: c_int = version_number([
    env!("CARGO_PKG_VERSION_MAJOR"),
    env!("CARGO_PKG_VERSION_MINOR"),
    env!("CARGO_PKG_VERSION_PATCH"),
]);

/// A version of three numbers below 1000 as one number.
const fn version_number(parts: [&str; 3]) -> c_int {
    let [major, minor, patch] = parts;
    part(major) * 1_000_000 + part(minor) * 1000 + part(patch)
}

const fn part(text: &str) -> c_int {
    match c_int::from_str_radix(text, 10) {
        Ok(number) if 0 <= number && number < 1000 => number,
        Ok(_) | Err(_) => panic!("a part of the version is not a number below 1000"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    fn text(pointer: *const c_char) -> &'static str {
        // SAFETY: the exports above return constant strings.
        unsafe { CStr::from_ptr(pointer) }.to_str().unwrap()
    }

    #[test]
    fn names_and_numbers_are_the_cores() {
        for operation in Operation::ALL {
            assert_eq!(text(sparsestream_operation_name(operation as i32)), operation.name());
        }
        for side in [Side::None, Side::Source, Side::Sink] {
            assert_eq!(text(sparsestream_side_name(side as i32)), side.name());
        }
        for unknown in [-1, 18, i32::MAX, i32::MIN] {
            assert_eq!(text(sparsestream_operation_name(unknown)), "unknown");
            assert_eq!(text(sparsestream_side_name(unknown)), "unknown");
        }
    }

    #[test]
    fn the_version_is_the_crates() {
        assert_eq!(text(sparsestream_version()), env!("CARGO_PKG_VERSION"));
        let parts: Vec<_> = env!("CARGO_PKG_VERSION").split('.').collect();
        assert_eq!(sparsestream_version_number(), version_number(parts.try_into().unwrap()));
    }

    #[test]
    fn a_later_version_is_a_greater_number() {
        assert_eq!(version_number(["0", "1", "0"]), 1000);
        assert_eq!(version_number(["1", "2", "3"]), 1_002_003);
        assert_eq!(version_number(["999", "999", "999"]), 999_999_999);
        for bad in ["", "x", "1000", "-1"] {
            assert!(std::panic::catch_unwind(|| version_number(["1", "2", bad])).is_err(), "{bad}");
        }
    }
}
