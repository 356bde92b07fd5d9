//! The wrapper around every export: it checks arguments, catches panics, sets the thread's message and
//! returns the negative errno.

use crate::error::{Allowed, Error, Result, Text, lasting};
use crate::sys::Cancellation;
use crate::text::Words;
use libc::{c_char, c_int, c_void};
use std::any::Any;
use std::cell::Cell;
use std::fmt::{self, Display, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// An export that returns 0, a small number, or a negative errno.
pub fn code(body: impl FnOnce() -> Result<c_int>) -> c_int {
    run(body).unwrap_or_else(|errno| -errno)
}

/// An export that returns a count or a negative errno.
pub fn count(body: impl FnOnce() -> Result<i64>) -> i64 {
    run(body).unwrap_or_else(|errno| -i64::from(errno))
}

/// An export that returns a text, never null.
pub fn text(body: impl FnOnce() -> *const c_char) -> *const c_char {
    run(|| Ok(body())).unwrap_or(c"".as_ptr())
}

/// An export that returns nothing. A failure in it only leaves a message.
pub fn quiet(body: impl FnOnce() -> Result<()>) {
    let _ = run(body);
}

/// An export that a signal handler may call. It leaves no message, because another call may be writing one.
pub fn signal_safe(body: impl FnOnce() -> Result<()>) -> c_int {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => -error.errno(),
        Err(_) => -Error::Internal.errno(),
    }
}

/// As [`code`], for queries of files, which disable cancellation themselves if they make a call at which a
/// thread can be cancelled. To do it here would take longer than most queries.
pub fn query(body: impl FnOnce() -> Result<c_int>) -> c_int {
    caught(body).unwrap_or_else(|errno| -errno)
}

fn run<T>(body: impl FnOnce() -> Result<T>) -> std::result::Result<T, c_int> {
    let _cancellation = Cancellation::disable();
    caught(body)
}

fn caught<T>(body: impl FnOnce() -> Result<T>) -> std::result::Result<T, c_int> {
    #[cfg(sparsestream_c_library)]
    {
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(record_panics);
    }
    // An error becomes its errno at once: it is large, and most calls return none.
    // A handle that a panic left half changed is marked by `counted` and not used again.
    catch_unwind(AssertUnwindSafe(|| body().map_err(report)))
        .unwrap_or_else(|payload| Err(report_panic(&*payload)))
}

/// Sets the message of an error, and returns its errno.
#[cold]
#[inline(never)]
fn report(error: Error) -> c_int {
    let _cancellation = Cancellation::disable();
    if !error.would_block() {
        keep_message(&error);
    }
    error.errno()
}

/// Sets the message of a panic, and returns its errno.
#[cold]
#[inline(never)]
fn report_panic(payload: &(dyn Any + Send)) -> c_int {
    let _cancellation = Cancellation::disable();
    keep_message(&Panic { place: PLACE.take(), payload });
    Error::Internal.errno()
}

/// The source line of a panic, as text.
#[derive(Clone, Copy)]
struct Place {
    text: [u8; 120],
    length: usize,
}

impl Place {
    const UNKNOWN: Place = Place { text: [0; 120], length: 0 };
}

impl Default for Place {
    fn default() -> Self {
        Place::UNKNOWN
    }
}

impl Write for Place {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = &mut self.text[self.length..];
        let count = room.len().min(text.len());
        room[..count].copy_from_slice(&text.as_bytes()[..count]);
        self.length += count;
        Ok(())
    }
}

thread_local! {
    /// The place of this thread's last panic, if the hook is in force.
    static PLACE: Cell<Place> = const { Cell::new(Place::UNKNOWN) };
}

/// Replaces the panic hook by one that prints nothing and remembers where the panic was, for the
/// thread's message.
///
/// Called in the C library only, at its first use: there the standard library is a private part of this
/// library. In a Rust program the hook belongs to the program.
pub fn record_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let mut place = Place::UNKNOWN;
        if let Some(location) = panic.location() {
            let _ = write!(place, "{location}");
        }
        PLACE.set(place);
    }));
}

/// A panic that was caught at the boundary, as text.
struct Panic<'a> {
    place: Place,
    payload: &'a (dyn Any + Send),
}

impl Display for Panic<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Error::Internal)?;
        if self.place.length != 0 {
            write!(f, ": {}", String::from_utf8_lossy(&self.place.text[..self.place.length]))?;
        }
        let text = self.payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| self.payload.downcast_ref::<String>().map(String::as_str));
        if let Some(text) = text {
            write!(f, ": {text}")?;
        }
        Ok(())
    }
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

/// Sets this thread's message.
pub fn keep_message(text: &impl Display) {
    let mut size = 0;
    // SAFETY: as above; the buffer is this thread's alone and `size` bytes long.
    let buffer = unsafe {
        let start = sparsestream_private_message(&raw mut size);
        std::slice::from_raw_parts_mut(start.cast::<u8>(), size)
    };
    format(buffer, text);
}

/// Writes a text and a NUL byte into a buffer, cut to fit, without allocating. Returns the length of the
/// whole text.
pub fn format(buffer: &mut [u8], text: &impl Display) -> usize {
    struct Cut<'a> {
        room: &'a mut [u8],
        length: usize,
    }
    impl Write for Cut<'_> {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            if let Some(room) = self.room.get_mut(self.length..) {
                let count = room.len().min(text.len());
                room[..count].copy_from_slice(&text.as_bytes()[..count]);
            }
            self.length += text.len();
            Ok(())
        }
    }
    let Some(last) = buffer.len().checked_sub(1) else {
        return format(&mut [0], text);
    };
    let mut cut = Cut { room: &mut buffer[..last], length: 0 };
    // It cannot fail: the rest of a long text is dropped.
    let _ = write!(cut, "{text}");
    let length = cut.length;
    buffer[length.min(last)] = 0;
    length
}

/// A place that the caller passed for a result. It is not changed before `set`.
pub struct Output<T>(*mut T);

impl<T> Output<T> {
    /// Writes the result.
    pub fn set(self, value: T) {
        // SAFETY: not null, and writable, as promised to the constructor.
        unsafe { self.0.write(value) };
    }
}

/// Checks a place for a result.
///
/// # Safety
/// Null, or writable for as long as this lives.
pub unsafe fn output<T>(pointer: *mut T, name: &'static str) -> Result<Output<T>> {
    if pointer.is_null() { Err(Error::null(name)) } else { Ok(Output(pointer)) }
}

/// Checks a place for a new handle, and sets it to null.
///
/// # Safety
/// Null, or writable for as long as this lives.
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
    u64::try_from(value).map_err(|_| Error::value(name, value, Allowed::Only(&"0 or more")))
}

/// A number of bytes for C. It is never greater than the largest offset.
pub fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Checks flags.
pub fn flags(given: u64, known: u64, name: &'static str) -> Result<()> {
    match given & !known {
        0 => Ok(()),
        unknown => Err(Error::Flags { name, unknown, allowed: known }),
    }
}

/// Checks a positive errno of the caller.
pub fn errno(value: c_int) -> Result<c_int> {
    if (1..4096).contains(&value) {
        return Ok(value);
    }
    Err(Error::value("error", value, Allowed::Range(1, 4095)))
}

/// Checks a positive errno with which the caller ends something: it must be final.
pub fn final_errno(value: c_int) -> Result<c_int> {
    errno(value).map(lasting)
}

/// The caller's text, up to the length that the library keeps.
///
/// # Safety
/// Null, or a string that ends in a NUL byte.
pub unsafe fn words(text: *const c_char) -> Words {
    let mut length = 0;
    // SAFETY: not null, and each byte up to and with the NUL byte is readable.
    while !text.is_null() && length < Text::ROOM && unsafe { text.add(length).read() } != 0 {
        length += 1;
    }
    if length == 0 {
        return Words::new(&[]);
    }
    // SAFETY: as above; that many bytes were read.
    Words::new(unsafe { std::slice::from_raw_parts(text.cast(), length) })
}

/// The caller's bytes, to be read.
///
/// # Safety
/// Null, or readable for `length` bytes that do not change during the call.
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
/// Null, or writable for `length` bytes that are not used elsewhere during the call.
pub unsafe fn bytes_mut<'a>(
    start: *mut c_void,
    length: usize,
    name: &'static str,
) -> Result<&'a mut [u8]> {
    check_bytes(start, length, name)?;
    if length == 0 {
        return Ok(&mut []);
    }
    // SAFETY: not null, at most isize::MAX, and writable by the caller's promise. The sources only write
    // to it, so it does not matter whether the C caller has initialised it.
    Ok(unsafe { std::slice::from_raw_parts_mut(start.cast(), length) })
}

fn check_bytes(start: *const c_void, length: usize, name: &'static str) -> Result<()> {
    if start.is_null() && length != 0 {
        return Err(Error::null(name));
    }
    if isize::try_from(length).is_err() {
        return Err(Error::value("length", length as u64, Allowed::Most(isize::MAX as u64)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Operation, Side};
    use crate::sys::Call;
    use crate::sys::inject::{self, Fault};
    use crate::testing::Piece::{Data, Hole};
    use std::ffi::CStr;
    use std::os::fd::AsRawFd;
    use std::rc::Rc;

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
        assert_eq!(query(|| panic!()), -libc::ENOTRECOVERABLE);
        assert_eq!(signal_safe(|| panic!()), -libc::ENOTRECOVERABLE);
    }

    #[test]
    fn cancellation_is_disabled_inside_and_restored_after() {
        let enabled = Cancellation::is_enabled;
        assert!(enabled());
        assert_eq!(code(|| Ok(code(|| Ok(enabled().into())))), 0);
        assert!(enabled());
        assert_eq!(code(|| panic!("on purpose")), -libc::ENOTRECOVERABLE);
        assert!(enabled());
        quiet(|| {
            code(|| Ok(0));
            assert!(!enabled(), "an inner call does not enable it");
            Ok(())
        });
    }

    #[test]
    fn a_query_disables_cancellation_where_it_may_be_cancelled() {
        let file = crate::testing::sparse(&[Hole(1), Data(1)]);
        let fd = file.as_raw_fd();
        let flushed = Rc::new(Cell::new(None));
        let seen = Rc::clone(&flushed);
        // The file system is not known: what is in the cache is written back, and a thread can be cancelled there.
        let watch = move |call| match call {
            Call::Fstatfs => Fault::Errno(libc::EPERM),
            Call::Fdatasync => {
                seen.set(Some(Cancellation::is_enabled()));
                Fault::None
            }
            _ => Fault::None,
        };
        let ask = || query(|| crate::section::section_at(fd, Some(0)).map(|_| 0));
        assert_eq!(inject::with(watch, ask), 0);
        assert_eq!(flushed.get(), Some(false));
        assert!(Cancellation::is_enabled());
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
        assert_eq!(format(&mut buffer, &"abcdef"), 6);
        assert_eq!(buffer, *b"abc\0");
        assert_eq!(format(&mut buffer, &"xyz"), 3);
        assert_eq!(buffer, *b"xyz\0");
        assert_eq!(format(&mut buffer, &"x"), 1);
        assert_eq!(buffer[..2], *b"x\0");
        assert_eq!(format(&mut buffer[..0], &"xy"), 2);
    }

    #[test]
    fn arguments_are_checked() {
        assert!(unsigned(-1, "offset").is_err());
        assert!(flags(4, 3, "options.flags").is_err());
        assert!(errno(0).is_err() && errno(-5).is_err() && errno(5) == Ok(5));
        // SAFETY: null is allowed, and refused unless there is nothing in it.
        unsafe {
            assert!(bytes(std::ptr::null(), 1, "buffer").is_err());
            assert!(bytes_mut(std::ptr::null_mut(), 0, "buffer").is_ok());
        }
    }
}
