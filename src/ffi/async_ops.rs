//! Exports: ends of the caller's that answer to offsets and have several requests in flight.

use super::callbacks::{AsyncSink, AsyncSource, request_done};
use super::guard;
use super::handles::{self, sparsestream_sink, sparsestream_source};
use super::opaque::{Freed, Opaque, TABLE_LEAST};
use super::options::sparsestream_wait;
use super::sections::sparsestream_section;
use super::sized::Sized0;
use crate::buffer::boxed;
use libc::{c_int, c_void};
use std::mem::offset_of;

/// A request: read `length` bytes at `offset` into `buffer`.
pub const SPARSESTREAM_REQUEST_READ: i32 = 1;
/// A request: write `length` bytes of `buffer` at `offset`.
pub const SPARSESTREAM_REQUEST_WRITE: i32 = 2;
/// A request: make `length` bytes at `offset` read as zeros. Only if the sink has `SPARSESTREAM_WITH_HOLES`.
pub const SPARSESTREAM_REQUEST_ZERO: i32 = 3;
/// A request: bring everything that was written to the medium. No other request is in flight then.
pub const SPARSESTREAM_REQUEST_FLUSH: i32 = 4;
/// A request: make `length` bytes at `offset` read as zeros, if that takes less time than to write them; otherwise
/// answer with -EOPNOTSUPP. The range contains several holes and short data between them. The data is in memory, and is
/// written afterwards; a transfer that fails before that leaves zeros there. Only if the sink has
/// `SPARSESTREAM_ASYNC_FAST_ZERO`. After -EOPNOTSUPP, and for the part of the range that an answer leaves out, each hole
/// is a ZERO. Requests that were already made may still come.
pub const SPARSESTREAM_REQUEST_FAST_ZERO: i32 = 5;

/// Flag of `sparsestream_async_info`: the end grows when it is written beyond `total`, and reads as zeros
/// there. Without this flag a write beyond `total` fails with -ENOSPC and is not submitted.
pub const SPARSESTREAM_ASYNC_GROWS: u64 = 1 << 20;
/// Flag of `sparsestream_async_info`: a sink that also accepts `SPARSESTREAM_REQUEST_READ`, which the library
/// uses to preserve the rest of a block of which the stream writes only a part. Without this flag and with a
/// `block` greater than 1, the library refuses such a stream (-EINVAL) and any stream with kept sections
/// (-EOPNOTSUPP) before a byte moves.
pub const SPARSESTREAM_ASYNC_READS: u64 = 1 << 21;
/// Flag of `sparsestream_async_info`: a sink that also accepts `SPARSESTREAM_REQUEST_FAST_ZERO`. Set it if a request
/// for a hole costs much, for example because it crosses a network. Without `SPARSESTREAM_WITH_HOLES`, and for a sink
/// with `SPARSESTREAM_ASYNC_GROWS`, it has no effect.
pub const SPARSESTREAM_ASYNC_FAST_ZERO: u64 = 1 << 22;

/// The properties of an end with requests in flight. The library sets `size` and the defaults, and `describe`
/// changes those that differ.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct sparsestream_async_info {
    /// `sizeof(sparsestream_async_info)`, set by the library.
    pub size: u64,
    /// Default: 0. Any of `SPARSESTREAM_WITH_HOLES` (a source whose `section` reports holes, or a sink that
    /// accepts `SPARSESTREAM_REQUEST_ZERO`), `SPARSESTREAM_WITH_KEEPS` (a source whose `section` may report
    /// kept sections), `SPARSESTREAM_ASYNC_GROWS`, `SPARSESTREAM_ASYNC_READS`, `SPARSESTREAM_ASYNC_FAST_ZERO`.
    pub flags: u64,
    /// The size of the end in bytes. Must be set.
    pub total: i64,
    /// The most bytes of a READ or WRITE, at least `block`; 0, the default, means no limit.
    pub request_size: i64,
    /// The most bytes of a ZERO or FAST ZERO, at least `block`; 0, the default, means no limit.
    pub zero_size: i64,
    /// Offsets and lengths of all requests but FLUSH are multiples of this power of two, at most 65536.
    /// Default: 1.
    pub block: u32,
    /// Addresses of buffers are multiples of this power of two, at most `block`. Default: 1.
    pub memory: u32,
    /// The most requests in flight, at least 1; a value above 256 means 256. Default: 16. A transfer may use
    /// fewer.
    pub depth: u32,
    /// The number of requests of full size in flight with which a transfer begins, and the least. It doubles the
    /// number, up to `depth`, while that makes the transfer faster, and halves it while that does not make it
    /// slower. 0, the default, means 32. There may be more of shorter requests: the limit is in units of 32 KiB,
    /// and a request counts as one unit for each 32 KiB or part of it. If both ends set a number, the smaller one
    /// counts. Set it if unnecessary requests are expensive for the other side.
    pub begin_depth: u32,
}

/// A request. The library owns it and does not move it. From `submit` to `sparsestream_request_done` the end
/// may use its fields and its buffer.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct sparsestream_request {
    /// `sizeof(sparsestream_request)`, set by the library.
    pub size: u64,
    /// One of `SPARSESTREAM_REQUEST_...`. Answer an unknown kind with -EOPNOTSUPP.
    pub kind: i32,
    /// Zero.
    pub reserved: i32,
    /// The offset, in the end, of the first byte.
    pub offset: i64,
    /// The length in bytes; 0 for a FLUSH.
    pub length: i64,
    /// READ: the buffer to fill. WRITE: the bytes to write, which must not be changed. Otherwise NULL.
    pub buffer: *mut c_void,
    /// For use by the end. NULL at first; the library does not use it.
    pub user: *mut c_void,
}

/// An end that is made from the caller's functions, with several requests in flight, each at its own offset.
/// It suits a network block protocol, for example.
///
/// Each function gets the `opaque` that was passed with the table. All functions except `free` and `abort`
/// return 0 or a negative errno. They run on the thread that runs the transfer, one at a time, and must not
/// wait. They must not throw, longjmp, or use the handle that they serve.
///
/// `describe` and `submit` are required. A source with `SPARSESTREAM_WITH_HOLES` or `SPARSESTREAM_WITH_KEEPS`
/// also requires `section`. The other functions may be NULL.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct sparsestream_async_ops {
    /// `sizeof(sparsestream_async_ops)`.
    pub size: u64,
    /// Called exactly once with the `opaque`: after the handle was freed and no transfer holds it, or when
    /// the constructor fails.
    pub free: Option<unsafe extern "C" fn(opaque: *mut c_void)>,
    /// Reports the properties of the end. Called before all other functions, and again while it returns
    /// -EAGAIN, so that it can establish a connection.
    pub describe: Option<
        unsafe extern "C" fn(opaque: *mut c_void, info: *mut sparsestream_async_info) -> c_int,
    >,
    /// Receives the memory that contains all buffers, `length` bytes at `start`, so that the end can register
    /// it. Called before the first request. The memory stays valid until the end was finished or aborted. The
    /// library ignores the result.
    pub memory: Option<
        unsafe extern "C" fn(opaque: *mut c_void, start: *mut c_void, length: usize) -> c_int,
    >,
    /// Accepts a request, which must be answered with `sparsestream_request_done`, at once or later. If the
    /// function returns -EAGAIN, the request is submitted again after the next `advance`. Any other negative
    /// errno means that the request was not accepted and has failed with that errno.
    pub submit: Option<
        unsafe extern "C" fn(opaque: *mut c_void, request: *mut sparsestream_request) -> c_int,
    >,
    /// Source: reports the section at `section->offset`, an offset in the end: sets `kind` and `length`.
    /// Returns -EAGAIN if it is not known yet. NULL: the source is all data.
    pub section: Option<
        unsafe extern "C" fn(opaque: *mut c_void, section: *mut sparsestream_section) -> c_int,
    >,
    /// Sink with `SPARSESTREAM_ASYNC_GROWS`: sets the final size of the end. The last write may have been
    /// rounded up to a block, so the size may be less than the number of bytes written. Called when no
    /// request is in flight, and again while it returns -EAGAIN. NULL: the end keeps the size that results
    /// from the writes.
    pub set_size: Option<unsafe extern "C" fn(opaque: *mut c_void, bytes: i64) -> c_int>,
    /// Sets the descriptors and the time to wait for. After the wait, the library calls `advance`, or again the
    /// function that returned -EAGAIN. NULL: the program itself runs the transfer again when the end is ready.
    pub wait:
        Option<unsafe extern "C" fn(opaque: *mut c_void, wait: *mut sparsestream_wait) -> c_int>,
    /// Sends and receives as much as is possible without waiting. Called after requests were submitted, and
    /// when the wait is over. -EAGAIN and -EINTR are not failures; any other errno ends the transfer.
    pub advance: Option<unsafe extern "C" fn(opaque: *mut c_void) -> c_int>,
    /// Called after everything was moved; no request is in flight. Report any remaining failure here. Called
    /// again while it returns -EAGAIN or -EINTR; any other result is final.
    pub finish: Option<unsafe extern "C" fn(opaque: *mut c_void) -> c_int>,
    /// The stream failed with `error`, a positive errno. During the call, `sparsestream_last_error` returns
    /// the message. Every request must be answered, with any result, before this function returns; the memory
    /// of a request that is not answered is never freed. If the end was used at all, exactly one of `finish`
    /// and `abort` is called, once.
    pub abort: Option<unsafe extern "C" fn(opaque: *mut c_void, error: c_int)>,
}

/// The options of an end with requests in flight. Zero-initialise it and set `size`; NULL means all defaults.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct sparsestream_async_options {
    /// `sizeof(sparsestream_async_options)`.
    pub size: u64,
    /// Source: any of `SPARSESTREAM_IGNORE_MAP`, `SPARSESTREAM_AT_MOST`. Sink: any of `SPARSESTREAM_SYNC` (a
    /// FLUSH before success), `SPARSESTREAM_TRUNCATE` (the end is cut to the end of the stream; only with
    /// `SPARSESTREAM_ASYNC_GROWS`), `SPARSESTREAM_KNOWN_ZERO`.
    pub flags: u64,
    /// The offset, in the end, of the first byte of the stream.
    pub offset: i64,
    /// Source: the number of bytes to read; 0 means to the end. Sink: the most bytes, holes included, that it
    /// accepts; 0 means that this option sets no limit.
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

/// Makes a source with requests in flight; see `sparsestream_async_ops`. Only a transfer can read it:
/// `sparsestream_source_read` and similar functions fail with -EOPNOTSUPP.
///
/// `ops` is copied. `opaque` must be valid until `ops->free` is called with it. That happens exactly once:
/// after the source was freed and no transfer holds it, or before this call returns a failure. It does not
/// happen if `ops` is NULL or its `size` is not valid.
///
/// Returns 0 and a handle in `*source` that the caller frees, or a negative errno with `*source` NULL:
/// -EINVAL (an argument, or a required function is NULL), -E2BIG (a struct from a later version), -ENOMEM.
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

/// Makes a sink with requests in flight; see `sparsestream_async_ops`. Only a transfer can write to it:
/// `sparsestream_sink_write` and similar functions fail with -EOPNOTSUPP. Ownership, `free` and errors are as
/// with `sparsestream_source_from_async`.
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

/// Answers a request of a `sparsestream_async_ops`. `result` is the number of bytes that were read, written or
/// zeroed, 0 for a FLUSH, or a negative errno. A number that is less than the length of the request must be a
/// multiple of `block`; the library then requests the rest. For a READ, 0 means that the end of the data was
/// reached.
///
/// After this call the end must not use the request or its buffer.
///
/// Every function of the table may call this, and so may any other thread between `submit` and the return of
/// `finish` or `abort`. The library sees the answer at its next call of `advance`. Therefore another thread
/// must also make a descriptor of `wait` ready.
///
/// A failure is reported with the offset of its request. `sparsestream_set_error`, called just before on the
/// same thread, adds details.
///
/// Returns 0, or a negative errno without any effect: -EINVAL (NULL), -EALREADY (the request is not in
/// flight).
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
