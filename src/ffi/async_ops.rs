//! Exports: ends of the caller's that answer to offsets and have several requests in flight.

use super::callbacks::{AsyncSink, AsyncSource, request_done};
use super::guard;
use super::handles::{self, sparsestream_sink, sparsestream_source};
use super::opaque::{Freed, Opaque, TABLE_LEAST};
use super::options::{Sized0, sparsestream_wait};
use super::sections::sparsestream_section;
use crate::buffer::boxed;
use libc::{c_int, c_void};
use std::mem::offset_of;

/// A request (`kind` of `sparsestream_request`): read `length` bytes at `offset` into `buffer`.
pub const SPARSESTREAM_REQUEST_READ: i32 = 1;
/// A request: write `length` bytes of `buffer` at `offset`.
pub const SPARSESTREAM_REQUEST_WRITE: i32 = 2;
/// A request: make `length` bytes at `offset` read zero. Comes only with `SPARSESTREAM_WITH_HOLES`.
pub const SPARSESTREAM_REQUEST_ZERO: i32 = 3;
/// A request: bring everything that was written to the medium. It comes when no other is under way.
pub const SPARSESTREAM_REQUEST_FLUSH: i32 = 4;

/// Flag of `sparsestream_async_info`: the end grows with what is written, and reads zero from `total`
/// on. Without it a write beyond `total` is refused with -ENOSPC before it is submitted.
pub const SPARSESTREAM_ASYNC_GROWS: u64 = 1 << 20;
/// Flag of `sparsestream_async_info`: a sink that takes `SPARSESTREAM_REQUEST_READ` too. It is used to keep
/// the rest of a block, where a stream begins, ends or keeps a section within one. Without it such a
/// stream is refused with -EINVAL.
pub const SPARSESTREAM_ASYNC_READS: u64 = 1 << 21;

/// The facts about an end that answers to offsets. The library sets `size` and the defaults; `describe` sets
/// what is different.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct sparsestream_async_info {
    /// `sizeof(sparsestream_async_info)`, set by the library.
    pub size: u64,
    /// Any of `SPARSESTREAM_WITH_HOLES` (a source: `section` tells holes apart; a sink: it takes
    /// `SPARSESTREAM_REQUEST_ZERO`), `SPARSESTREAM_WITH_KEEPS` (a source: `section` may report kept
    /// sections), `SPARSESTREAM_ASYNC_GROWS`, `SPARSESTREAM_ASYNC_READS`. Default: 0.
    pub flags: u64,
    /// Bytes that the end has. Must be set.
    pub total: i64,
    /// The most bytes of a READ or WRITE, at least `block`; 0, the default, for no limit.
    pub request_size: i64,
    /// The most bytes of a ZERO, at least `block`; 0, the default, for no limit.
    pub zero_size: i64,
    /// Offsets and lengths of READ, WRITE and ZERO are multiples of this power of two, at most 65536.
    /// Default: 1.
    pub block: u32,
    /// Addresses of buffers are multiples of this power of two, at most `block`. Default: 1.
    pub memory: u32,
    /// The most requests under way, 1 to 256. Default: 16. A transfer may use fewer.
    pub depth: u32,
    /// Zero.
    pub reserved: u32,
}

/// A request. It is the library's, and stays where it is. Its fields and its buffer are the end's to use
/// from `submit` to `sparsestream_request_done`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct sparsestream_request {
    /// `sizeof(sparsestream_request)`, set by the library.
    pub size: u64,
    /// One of `SPARSESTREAM_REQUEST_...`. An end answers a kind that it does not know with -EOPNOTSUPP.
    pub kind: i32,
    /// Zero.
    pub reserved: i32,
    /// The first byte in the end.
    pub offset: i64,
    /// Bytes; 0 of a FLUSH.
    pub length: i64,
    /// READ: to be filled. WRITE: to be read from, and not changed. Else NULL.
    pub buffer: *mut c_void,
    /// The end's own, NULL at first; the library does not use it.
    pub user: *mut c_void,
}

/// An end of the caller's that answers to offsets and has several requests in flight: the adapter of a
/// network block protocol, for instance.
///
/// Each function but `free` takes the `opaque` that the table was handed in with and, but for `abort`,
/// returns 0 or a negative errno. They run on the thread that runs the transfer, never two at a time, and
/// must not wait. They must not throw, longjmp, or use the handle that they serve.
///
/// `describe` and `submit` are required, and `section` with `SPARSESTREAM_WITH_HOLES` or
/// `SPARSESTREAM_WITH_KEEPS` of a source. The others may be NULL.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct sparsestream_async_ops {
    /// `sizeof(sparsestream_async_ops)`.
    pub size: u64,
    /// Called exactly once with the opaque: when the handle is freed and no transfer holds it, or when
    /// its construction fails.
    pub free: Option<unsafe extern "C" fn(opaque: *mut c_void)>,
    /// Reports what the end is. Called before anything else, and again while it returns -EAGAIN: a
    /// connection can be made here.
    pub describe: Option<
        unsafe extern "C" fn(opaque: *mut c_void, info: *mut sparsestream_async_info) -> c_int,
    >,
    /// Reports the memory in which all buffers will lie, `length` bytes at `start`, before the first
    /// request, so that it can be registered. It stays valid until the end was finished or aborted.
    pub memory: Option<
        unsafe extern "C" fn(opaque: *mut c_void, start: *mut c_void, length: usize) -> c_int,
    >,
    /// Takes a request, and answers it with `sparsestream_request_done`, at once or later. A negative
    /// errno: it was not taken, and has failed with that errno; -EAGAIN: it was not taken, and comes
    /// again after the next `advance`.
    pub submit: Option<
        unsafe extern "C" fn(opaque: *mut c_void, request: *mut sparsestream_request) -> c_int,
    >,
    /// Source: reports the section at `section->offset`, an offset in the end: sets `kind` and `length`.
    /// -EAGAIN: not known yet. NULL: everything is data.
    pub section: Option<
        unsafe extern "C" fn(opaque: *mut c_void, section: *mut sparsestream_section) -> c_int,
    >,
    /// Sink with `SPARSESTREAM_ASYNC_GROWS`: gives the end its final size, which may be less than what
    /// was written where a block was written for the sake of a part of it. Called when no request is
    /// under way, and again while it returns -EAGAIN.
    pub set_size: Option<unsafe extern "C" fn(opaque: *mut c_void, bytes: i64) -> c_int>,
    /// Sets in `wait` the descriptors, or the time, after which `advance` or what returned -EAGAIN has
    /// something to do. NULL: only the caller knows.
    pub wait:
        Option<unsafe extern "C" fn(opaque: *mut c_void, wait: *mut sparsestream_wait) -> c_int>,
    /// Sends and receives what can be sent and received now. Called after requests were submitted, and
    /// when `wait` is over. An errno ends the transfer. -EAGAIN and -EINTR are not failures.
    pub advance: Option<unsafe extern "C" fn(opaque: *mut c_void) -> c_int>,
    /// All was moved, no request is under way. Everything that can still fail must fail here. Called again
    /// while it returns -EAGAIN; any other answer is final.
    pub finish: Option<unsafe extern "C" fn(opaque: *mut c_void) -> c_int>,
    /// The stream failed with `error`, a positive errno; `sparsestream_last_error` has the words
    /// meanwhile. Before it returns, every request must have been answered, with any result. Memory of one
    /// that was not is never freed. Exactly one of `finish` and `abort` is called, once, if the end was
    /// used at all.
    pub abort: Option<unsafe extern "C" fn(opaque: *mut c_void, error: c_int)>,
}

/// How an end that answers to offsets is used. Zero-initialise it and set `size`; NULL means all
/// defaults.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct sparsestream_async_options {
    /// `sizeof(sparsestream_async_options)`.
    pub size: u64,
    /// Source: 0, `SPARSESTREAM_IGNORE_MAP` or `SPARSESTREAM_AT_MOST`. Sink: any of `SPARSESTREAM_SYNC`
    /// (a FLUSH before success), `SPARSESTREAM_TRUNCATE` (the final size is the end of the stream, even if
    /// the end was larger; with `SPARSESTREAM_ASYNC_GROWS` only) and `SPARSESTREAM_KNOWN_ZERO`.
    pub flags: u64,
    /// The offset in the end of the stream's first byte.
    pub offset: i64,
    /// Source: bytes to read; 0 means to the end. Sink: the most bytes that may be put there, holes
    /// included; 0 means no limit of its own.
    pub length: i64,
}

// SAFETY: repr(C), u64 size first, integers only.
unsafe impl Sized0 for sparsestream_async_info {}
// SAFETY: repr(C), u64 size first, integers only.
unsafe impl Sized0 for sparsestream_async_options {}
// SAFETY: repr(C), u64 size first, nullable function pointers.
unsafe impl Sized0 for sparsestream_async_ops {
    const LEAST: usize = TABLE_LEAST;
}
// SAFETY: the field has this type and offset.
unsafe impl Freed for sparsestream_async_ops {
    const FREE: usize = offset_of!(Self, free);
}

/// Makes a source of the caller's functions that answer to offsets; see `sparsestream_async_ops`. Only a
/// transfer can read it: `sparsestream_source_read` and its like fail with -EOPNOTSUPP.
///
/// `ops` is copied. `opaque` must be valid until `ops->free` is called with it, exactly once: when the
/// source is freed and no transfer holds it, or before this call returns a failure (unless `ops` is
/// NULL or its `size` is not that of a table).
///
/// Returns 0 and a handle in `*source` that the caller frees, or a negative errno with `*source`
/// NULL: -EINVAL (an argument, or a function that is required), -E2BIG (a struct from a later version),
/// -ENOMEM.
///
/// # Safety
/// `ops` is NULL or a table of its `size` whose functions may be called with `opaque`; `options` is
/// NULL or a struct of its `size`; `source` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_source_from_async(
    ops: *const sparsestream_async_ops,
    opaque: *mut c_void,
    options: *const sparsestream_async_options,
    source: *mut *mut sparsestream_source,
) -> c_int {
    guard::code(|| {
        // SAFETY: the caller promises a table and a struct of their sizes. First of all, so that `free` is
        // called.
        let end = unsafe { AsyncSource::new(ops, opaque, options) };
        // SAFETY: the caller promises NULL or a writable place.
        let out = unsafe { guard::handle_output(source, "source") }?;
        out.set(handles::new_source(boxed(end?)?, Opaque::NONE)?);
        Ok(0)
    })
}

/// Makes a sink of the caller's functions that answer to offsets; see `sparsestream_async_ops`. Only a
/// transfer can write it: `sparsestream_sink_write` and its like fail with -EOPNOTSUPP. Ownership, `free`
/// and errors as with `sparsestream_source_from_async`.
///
/// # Safety
/// As `sparsestream_source_from_async`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_sink_to_async(
    ops: *const sparsestream_async_ops,
    opaque: *mut c_void,
    options: *const sparsestream_async_options,
    sink: *mut *mut sparsestream_sink,
) -> c_int {
    guard::code(|| {
        // SAFETY: the caller promises a table and a struct of their sizes. First of all, so that `free` is
        // called.
        let end = unsafe { AsyncSink::new(ops, opaque, options) };
        // SAFETY: the caller promises NULL or a writable place.
        let out = unsafe { guard::handle_output(sink, "sink") }?;
        out.set(handles::new_sink(boxed(end?)?, Opaque::NONE)?);
        Ok(0)
    })
}

/// Answers a request of a `sparsestream_async_ops`: the bytes that were read, written or zeroed, or a
/// negative errno. Fewer bytes than were asked for, a multiple of `block`, are right, and the rest is asked
/// for again; 0 bytes of a READ mean that the end has ended. A FLUSH is answered with 0.
///
/// The request and its buffer are the library's again: they must not be used any more.
///
/// May be called from within any function of the table, and from any other thread between `submit` and the
/// return of `finish` or `abort`. The library takes notice at its next `advance`: from another thread, have
/// a descriptor of `wait` become ready.
///
/// Returns 0, or a negative errno and does nothing: -EINVAL (NULL), -EALREADY (the request is not under
/// way).
///
/// # Safety
/// `request` is NULL or was handed to `submit` of an end that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_request_done(
    request: *mut sparsestream_request,
    result: i64,
) -> c_int {
    guard::signal_safe(|| {
        // SAFETY: null, or a request of an end that lives, by the caller's promise.
        unsafe { request_done(request, result) }
    })
}
