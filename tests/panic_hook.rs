//! The panic hook belongs to the program, unless the library is the C library.

// The exports are C functions.
#![allow(unsafe_code)]

use sparsestream::ffi::{errors, guard};
use std::ffi::CStr;
use std::sync::atomic::{AtomicUsize, Ordering};

static HOOKED: AtomicUsize = AtomicUsize::new(0);

fn message() -> String {
    // SAFETY: the message is always ended by a NUL byte, and nothing fails before it is copied.
    unsafe { CStr::from_ptr(errors::sparsestream_last_error()) }.to_str().unwrap().to_owned()
}

/// One test, since there is one hook in a process.
#[test]
fn the_hook_is_the_programs_and_that_of_the_c_library_remembers_the_place() {
    let _ = errors::sparsestream_version();
    std::panic::set_hook(Box::new(|_| {
        HOOKED.fetch_add(1, Ordering::Relaxed);
    }));
    let _ = errors::sparsestream_version();
    assert_eq!(guard::code(|| panic!("on purpose")), -libc::ENOTRECOVERABLE);
    assert_eq!(HOOKED.load(Ordering::Relaxed), 1);
    assert!(message().ends_with(": on purpose"), "{}", message());

    guard::record_panics();
    let line = line!() + 1;
    assert_eq!(guard::code(|| panic!("number {}", 2)), -libc::ENOTRECOVERABLE);
    let _ = std::panic::take_hook();
    assert_eq!(HOOKED.load(Ordering::Relaxed), 1);
    let place = format!(": tests/panic_hook.rs:{line}:");
    assert!(message().contains(&place), "{} lacks {place}", message());
    assert!(message().ends_with(": number 2"), "{}", message());
    assert!(message().starts_with("internal error in libsparsestream"), "{}", message());
}
