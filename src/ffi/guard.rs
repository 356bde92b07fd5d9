//! The wrapper around every export: arguments are checked, a panic stops here, the thread's
//! message is set and the negative errno returned.

use crate::error::{Error, Result};
use libc::{c_char, c_int, c_void};
use std::fmt::{self, Display, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

/// An export that returns 0, a small number, or a negative errno.
pub fn code(body: impl FnOnce() -> Result<c_int>) -> c_int {
    run(body).unwrap_or_else(|errno| -errno)
}

/// An export that returns a count or a negative errno.
pub fn count(body: impl FnOnce() -> Result<i64>) -> i64 {
    run(body).unwrap_or_else(|errno| -i64::from(errno))
}

/// An export that returns a text, which is never null.
pub fn text(body: impl FnOnce() -> *const c_char) -> *const c_char {
    run(|| Ok(body())).unwrap_or(c"".as_ptr())
}

/// An export that returns nothing; what fails in it only leaves a message.
pub fn quiet(body: impl FnOnce() -> Result<()>) {
    let _ = run(body);
}

/// An export that a signal handler may call: no message, which another call may just be writing.
pub fn signal_safe(body: impl FnOnce() -> Result<()>) -> c_int {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => -error.errno(),
        Err(_) => -Error::Internal.errno(),
    }
}

fn run<T>(body: impl FnOnce() -> Result<T>) -> std::result::Result<T, c_int> {
    silence();
    // An error becomes its errno at once: it is large, and most calls have none to hand on.
    // A handle that a panic left half changed is marked by `handles` and not used again.
    catch_unwind(AssertUnwindSafe(|| body().map_err(told)))
        .unwrap_or_else(|_| Err(told(Error::Internal)))
}

/// Leaves the message of an error, and returns its errno.
#[cold]
#[inline(never)]
fn told(error: Error) -> c_int {
    keep_message(&error);
    error.errno()
}

/// Keeps a panic from being printed: the standard library is a private part of this library, so
/// its hook is too, and the program that loaded it prints for itself.
fn silence() {
    static SILENT: Once = Once::new();
    SILENT.call_once(|| std::panic::set_hook(Box::new(|_| {})));
}

unsafe extern "C" {
    fn sparsestream_private_message(size: *mut usize) -> *mut c_char;
}

/// This thread's message.
pub fn message() -> *const c_char {
    let mut size = 0;
    // SAFETY: the C side writes the size and returns its buffer, which lives as long as the thread.
    unsafe { sparsestream_private_message(&raw mut size) }
}

/// Makes an error this thread's message, unless nothing failed. Once, not a part of each export.
#[cold]
#[inline(never)]
fn keep_message(error: &Error) {
    if error.would_block() {
        return;
    }
    let mut size = 0;
    // SAFETY: as above; the buffer is this thread's alone and `size` bytes long.
    let buffer = unsafe {
        let start = sparsestream_private_message(&raw mut size);
        std::slice::from_raw_parts_mut(start, size)
    };
    format(buffer, error);
}

/// Writes a text and a NUL byte into a buffer, cut to fit, without taking memory.
pub fn format(buffer: &mut [c_char], text: &impl Display) {
    struct Cut<'a> {
        buffer: &'a mut [c_char],
        at: usize,
    }
    impl Write for Cut<'_> {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            for byte in text.bytes() {
                if self.at + 1 >= self.buffer.len() {
                    return Err(fmt::Error);
                }
                self.buffer[self.at] = byte as c_char;
                self.at += 1;
            }
            Ok(())
        }
    }
    let mut cut = Cut { buffer, at: 0 };
    // Being cut is the only failure, and no loss.
    let _ = write!(cut, "{text}");
    let at = cut.at;
    if let Some(end) = buffer.get_mut(at) {
        *end = 0;
    }
}

/// A place that the caller gave for an answer. It is not touched before `set`.
pub struct Output<T>(*mut T);

impl<T> Output<T> {
    /// Gives the answer.
    pub fn set(self, value: T) {
        // SAFETY: not null, and writable, as who made it promised.
        unsafe { self.0.write(value) };
    }
}

/// Checks a place for an answer.
///
/// # Safety
/// Null, or writable for as long as the answer may be given.
pub unsafe fn output<T>(pointer: *mut T, name: &'static str) -> Result<Output<T>> {
    if pointer.is_null() { Err(Error::null(name)) } else { Ok(Output(pointer)) }
}

/// Checks a place for a new handle, which is null until there is one.
///
/// # Safety
/// Null, or writable for as long as the handle may be given.
pub unsafe fn handle_output<T>(pointer: *mut *mut T, name: &'static str) -> Result<Output<*mut T>> {
    // SAFETY: as promised.
    let place = unsafe { output(pointer, name) }?;
    // SAFETY: not null, and so writable.
    unsafe { pointer.write(std::ptr::null_mut()) };
    Ok(place)
}

/// Checks a function.
pub fn callback<T>(function: Option<T>, name: &'static str) -> Result<T> {
    function.ok_or(Error::null(name))
}

/// Checks a number of bytes or milliseconds.
pub fn unsigned(value: i64, name: &'static str) -> Result<u64> {
    u64::try_from(value).map_err(|_| Error::argument(name, "is negative", libc::EINVAL))
}

/// A number of bytes for C. What is counted here is never more than an offset can be.
pub fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Checks flags.
pub fn flags(given: u64, known: u64) -> Result<()> {
    if given & !known == 0 {
        return Ok(());
    }
    Err(Error::argument("options.flags", "has a flag that is not for this", libc::EINVAL))
}

/// Checks a positive errno that the caller gives.
pub fn errno(value: c_int) -> Result<c_int> {
    if (1..4096).contains(&value) {
        return Ok(value);
    }
    Err(Error::argument("error", "is no positive errno", libc::EINVAL))
}

/// The caller's bytes, to be read.
///
/// # Safety
/// Null, or readable for `length` bytes that nobody changes meanwhile.
pub unsafe fn bytes<'a>(
    start: *const c_void,
    length: usize,
    name: &'static str,
) -> Result<&'a [u8]> {
    check_bytes(start, length, name)?;
    if length == 0 {
        return Ok(&[]);
    }
    // SAFETY: not null, at most isize::MAX, and readable by the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(start.cast(), length) })
}

/// The caller's bytes, to be written.
///
/// # Safety
/// Null, or writable for `length` bytes that nobody uses meanwhile.
pub unsafe fn bytes_mut<'a>(
    start: *mut c_void,
    length: usize,
    name: &'static str,
) -> Result<&'a mut [u8]> {
    check_bytes(start, length, name)?;
    if length == 0 {
        return Ok(&mut []);
    }
    // SAFETY: not null, at most isize::MAX, and writable by the caller's promise. The sources
    // only write to it; what was there before is bytes, initialised or not by the C caller.
    Ok(unsafe { std::slice::from_raw_parts_mut(start.cast(), length) })
}

fn check_bytes(start: *const c_void, length: usize, name: &'static str) -> Result<()> {
    if start.is_null() && length != 0 {
        return Err(Error::null(name));
    }
    if isize::try_from(length).is_err() {
        return Err(Error::argument("length", "is more than any buffer's", libc::EINVAL));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Operation, Side};
    use std::ffi::CStr;

    fn last() -> String {
        // SAFETY: the thread's message is always ended by a NUL byte.
        unsafe { CStr::from_ptr(message()) }.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_panic_is_an_errno() {
        assert_eq!(code(|| panic!("{}", 1)), -libc::ENOTRECOVERABLE);
        assert!(last().starts_with("internal error"), "{}", last());
        assert_eq!(count(|| panic!()), -i64::from(libc::ENOTRECOVERABLE));
        assert_eq!(text(|| panic!()), text(|| panic!()));
        quiet(|| panic!());
        assert_eq!(signal_safe(|| panic!()), -libc::ENOTRECOVERABLE);
    }

    #[test]
    fn a_failure_leaves_its_message_and_success_keeps_it() {
        assert_eq!(code(|| Err(Error::null("fd"))), -libc::EINVAL);
        assert_eq!(last(), "fd must not be NULL: Invalid argument");
        assert_eq!(code(|| Ok(3)), 3);
        let not_ready = Error::at(Operation::Read, Side::Source, 0, libc::EAGAIN);
        assert_eq!(code(|| Err(not_ready)), -libc::EAGAIN);
        assert_eq!(last(), "fd must not be NULL: Invalid argument");
        std::thread::spawn(|| assert_eq!(last(), "")).join().unwrap();
    }

    #[test]
    fn a_text_is_cut_to_fit() {
        let mut buffer = [1; 4];
        format(&mut buffer, &"abcdef");
        assert_eq!(buffer.map(|byte| byte as u8), *b"abc\0");
        format(&mut buffer, &"x");
        assert_eq!(buffer.map(|byte| byte as u8)[..2], *b"x\0");
        format(&mut buffer[..0], &"x");
    }

    #[test]
    fn arguments_are_checked() {
        assert!(unsigned(-1, "offset").is_err());
        assert!(flags(4, 3).is_err());
        assert!(errno(0).is_err() && errno(-5).is_err() && errno(5) == Ok(5));
        // SAFETY: null is allowed, and refused unless there is nothing in it.
        unsafe {
            assert!(bytes(std::ptr::null(), 1, "buffer").is_err());
            assert!(bytes_mut(std::ptr::null_mut(), 0, "buffer").is_ok());
        }
    }
}
