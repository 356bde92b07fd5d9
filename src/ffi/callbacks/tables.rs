//! The tables of the caller's functions, and the structs that these functions are given.

use crate::ffi::opaque::{Freed, TABLE_LEAST};
use crate::ffi::options::sparsestream_wait;
use crate::ffi::sections::sparsestream_section;
use crate::ffi::sized::Sized0;
use libc::{c_int, c_void};
use std::mem::offset_of;

/// Flag of `sparsestream_source_info`, `sparsestream_sink_info` and `sparsestream_plan`: the source can
/// report holes, the sink can make them, or the stream may have them.
pub const SPARSESTREAM_WITH_HOLES: u64 = 1 << 16;
/// As `SPARSESTREAM_WITH_HOLES`, for kept sections: the source can report them, the sink can keep bytes as
/// they are, or the stream may have them. It is also a flag of `sparsestream_source_ops` and
/// `sparsestream_stream_ops`.
pub const SPARSESTREAM_WITH_KEEPS: u64 = 1 << 17;

/// The properties of a source, known before the first byte. Before the library calls `describe` of a table, it
/// sets all fields to the values that follow from the table; `describe` changes those that differ. Before you
/// call `sparsestream_source_describe`, set `size`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct sparsestream_source_info {
    /// `sizeof(sparsestream_source_info)`.
    pub size: u64,
    /// Any of `SPARSESTREAM_WITH_HOLES`, `SPARSESTREAM_WITH_KEEPS`.
    pub flags: u64,
    /// The length of the source in bytes, or -1 if it is not known. A transfer fails if the source ends
    /// before that (-ENODATA) or is longer (-EPROTO).
    pub total: i64,
    /// Reads are fastest if they end at a multiple of this many bytes; 0 means that it makes no difference.
    /// The library shortens a longer read to end there.
    pub preferred_block: u32,
    /// Zero.
    pub reserved: u32,
}

/// The properties of a sink. Before the library calls `announce` of a table, it sets all fields to the values
/// that follow from the table; `announce` changes those that differ. Before you call
/// `sparsestream_sink_announce`, set `size`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct sparsestream_sink_info {
    /// `sizeof(sparsestream_sink_info)`.
    pub size: u64,
    /// Any of `SPARSESTREAM_WITH_HOLES`, `SPARSESTREAM_WITH_KEEPS`.
    pub flags: u64,
    /// The sink makes holes only of whole blocks of this many bytes, counted from the start of the stream; 0
    /// and 1 mean any length. The library writes zeros to the parts of a hole before the first and after the
    /// last whole block.
    pub least_block: u32,
    /// Writes are fastest if they end at a multiple of this many bytes; 0 means that it makes no difference.
    /// The library shortens a longer write to end there.
    pub preferred_block: u32,
}

/// The stream that a sink is about to receive.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct sparsestream_plan {
    /// `sizeof(sparsestream_plan)`.
    pub size: u64,
    /// Any of `SPARSESTREAM_WITH_HOLES`, `SPARSESTREAM_WITH_KEEPS`.
    pub flags: u64,
    /// The length of the stream in bytes, or -1 if it is not known.
    pub total: i64,
}

/// A source that is made from the caller's functions. Only `read` is always required.
///
/// Each function gets the `opaque` that was passed with the table, and returns 0 or a count, or a negative
/// errno. `sparsestream_set_error` can add details to the errno. Two errnos do not end the transfer: the
/// library repeats a call with the same arguments later after -EAGAIN (not ready), and at once after -EINTR.
/// Do not return them for the failure of a remote peer, because the call would be repeated for ever.
///
/// The functions run on the thread that drives the source, with thread cancellation disabled. They must not
/// throw, longjmp, call pthread_exit or enable cancellation. They must not use the handle that they serve
/// (-EBUSY).
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct sparsestream_source_ops {
    /// `sizeof(sparsestream_source_ops)`.
    pub size: u64,
    /// Called exactly once with the `opaque`: after the handle was freed and no transfer holds it, or when
    /// the constructor fails.
    pub free: Option<unsafe extern "C" fn(opaque: *mut c_void)>,
    /// 0 or `SPARSESTREAM_WITH_KEEPS`: `section` may report kept sections.
    pub flags: u64,
    /// Reports the next section: sets `kind` and `length`, which is -1 for data of unknown length. The library
    /// has set `offset` to the position of the source. At the end, the kind is `SPARSESTREAM_END`. Called once
    /// for each section; the library then reads or skips all of it. Requires `skip`. NULL: the source is all
    /// data.
    pub section: Option<
        unsafe extern "C" fn(opaque: *mut c_void, section: *mut sparsestream_section) -> c_int,
    >,
    /// Reads at most `length` bytes of data and advances the source. Returns the count, which may be short,
    /// or 0 at the end. After -EAGAIN the call is repeated with the same buffer, which stays valid until
    /// then.
    pub read: Option<
        unsafe extern "C" fn(opaque: *mut c_void, buffer: *mut c_void, length: usize) -> i64,
    >,
    /// Advances the source by at most `length` bytes of the hole or the kept section that `section` reported.
    /// Returns the count, at least 1. Requires `section`.
    pub skip: Option<unsafe extern "C" fn(opaque: *mut c_void, length: i64) -> i64>,
    /// Reports the properties of the source: changes the fields of `info` that differ. Called before the first
    /// byte, possibly more than once.
    pub describe: Option<
        unsafe extern "C" fn(opaque: *mut c_void, info: *mut sparsestream_source_info) -> c_int,
    >,
    /// Called after everything was moved and the sink was finished. Called again while it returns -EAGAIN or
    /// -EINTR; any other result is final.
    pub finish: Option<unsafe extern "C" fn(opaque: *mut c_void) -> c_int>,
    /// The stream failed with `error`, a positive errno. During the call, `sparsestream_last_error` returns
    /// the message. If the source was used at all, exactly one of `finish` and `abort` is called, once.
    pub abort: Option<unsafe extern "C" fn(opaque: *mut c_void, error: c_int)>,
    /// Reports that the sink has everything before `offset` of the stream on its medium.
    pub durable: Option<unsafe extern "C" fn(opaque: *mut c_void, offset: i64)>,
    /// Goes back to the first byte. NULL: the source cannot do that.
    pub rewind: Option<unsafe extern "C" fn(opaque: *mut c_void) -> c_int>,
    /// Lends the next data if it is already in memory: sets `*memory` to it and returns its length. Returns 0
    /// if the data must be read. The memory must not change until `took` was called for all of it, or the
    /// source was finished or aborted. Requires `took`.
    pub lent: Option<unsafe extern "C" fn(opaque: *mut c_void, memory: *mut *const c_void) -> i64>,
    /// Advances the source by `length` bytes of the memory that was lent. Cannot fail. Requires `lent`.
    pub took: Option<unsafe extern "C" fn(opaque: *mut c_void, length: usize)>,
    /// Called after a function returned -EAGAIN: sets the descriptors and the time to wait for. A run that
    /// waits by itself fails with -EBADF if one of the descriptors is not open. NULL: the program itself runs
    /// the transfer again when the function is ready.
    pub wait:
        Option<unsafe extern "C" fn(opaque: *mut c_void, wait: *mut sparsestream_wait) -> c_int>,
}

/// A sink that is made from the caller's functions. The rules of `sparsestream_source_ops` apply. Only `write`
/// is always required.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct sparsestream_sink_ops {
    /// `sizeof(sparsestream_sink_ops)`.
    pub size: u64,
    /// Called exactly once with the `opaque`: after the handle was freed and no transfer holds it, or when
    /// the constructor fails.
    pub free: Option<unsafe extern "C" fn(opaque: *mut c_void)>,
    /// Writes at most `length` bytes of data. Returns the count, which may be short but not 0. After -EAGAIN
    /// the call is repeated with the same buffer, which stays valid until then.
    pub write: Option<
        unsafe extern "C" fn(opaque: *mut c_void, buffer: *const c_void, length: usize) -> i64,
    >,
    /// Makes a hole of at most `length` bytes, which must read as zeros afterwards. Returns the count, at
    /// least 1. If the whole hole would take long, make a part of it. NULL: zeros are passed to `write`
    /// instead.
    pub hole: Option<unsafe extern "C" fn(opaque: *mut c_void, length: i64) -> i64>,
    /// Skips at most `length` bytes of the target, which keep their content. Returns the count, at least 1.
    /// NULL: the sink cannot do that, and a source that may have kept sections is refused with -EOPNOTSUPP.
    pub keep: Option<unsafe extern "C" fn(opaque: *mut c_void, length: i64) -> i64>,
    /// Announces the stream. Called before the first byte, possibly more than once. To refuse the stream,
    /// return a negative errno. Otherwise change the fields of `info` that differ.
    pub announce: Option<
        unsafe extern "C" fn(
            opaque: *mut c_void,
            plan: *const sparsestream_plan,
            info: *mut sparsestream_sink_info,
        ) -> c_int,
    >,
    /// Called after everything was written. Report any remaining failure here. Called again while it returns
    /// -EAGAIN or -EINTR; any other result is final.
    pub finish: Option<unsafe extern "C" fn(opaque: *mut c_void) -> c_int>,
    /// As `abort` of `sparsestream_source_ops`.
    pub abort: Option<unsafe extern "C" fn(opaque: *mut c_void, error: c_int)>,
    /// Returns the number of bytes from the start of the stream that are on the medium. Called after each step
    /// of a transfer, so it must be fast. NULL: the number is not known.
    pub durable: Option<unsafe extern "C" fn(opaque: *mut c_void) -> i64>,
    /// Lends memory for the next data: sets `*memory` to it and returns its length, or 0 if there is none.
    /// The memory must stay valid until `committed` or another function is called. Requires `committed`.
    pub lend: Option<unsafe extern "C" fn(opaque: *mut c_void, memory: *mut *mut c_void) -> i64>,
    /// The first `length` bytes of the memory that was lent now hold data, and count as written. Cannot fail.
    /// Requires `lend`.
    pub committed: Option<unsafe extern "C" fn(opaque: *mut c_void, length: usize)>,
    /// As `wait` of `sparsestream_source_ops`.
    pub wait:
        Option<unsafe extern "C" fn(opaque: *mut c_void, wait: *mut sparsestream_wait) -> c_int>,
}

/// The caller's protocol as an end of a transfer.
///
/// A sink uses `send`, `send_hole`, `send_keep` and `announce`. A source uses `recv`, `recv_hole`,
/// `recv_keep`, `describe` and `durable`. Both use the other functions. The rules of
/// `sparsestream_source_ops` apply. A sink requires `send`, and a source requires `recv`; all other functions
/// may be NULL.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct sparsestream_stream_ops {
    /// `sizeof(sparsestream_stream_ops)`.
    pub size: u64,
    /// Called exactly once with the `stream`: after the handle was freed and no transfer holds it, or when
    /// the constructor fails.
    pub free: Option<unsafe extern "C" fn(stream: *mut c_void)>,
    /// 0 or, for a source, `SPARSESTREAM_WITH_KEEPS`: the stream may have kept sections.
    pub flags: u64,
    /// The most bytes of data in one call of `send` or `recv`, for example the size of a message; 0 means no
    /// limit.
    pub preferred: u64,
    /// Sends at most `length` bytes of data. Returns the count, which may be short but not 0. After -EAGAIN
    /// the call is repeated with the same buffer, which stays valid until then. If the peer has closed the
    /// connection (EPIPE), read the reason that it sent, and return that errno.
    pub send: Option<
        unsafe extern "C" fn(stream: *mut c_void, buffer: *const c_void, length: usize) -> i64,
    >,
    /// Sends a hole of at most `length` bytes. Returns the count, at least 1. NULL: holes are sent as zeros.
    pub send_hole: Option<unsafe extern "C" fn(stream: *mut c_void, length: i64) -> i64>,
    /// Sends a kept section of at most `length` bytes. Returns the count, at least 1. NULL: the stream cannot
    /// do that, and a source that may have kept sections is refused with -EOPNOTSUPP.
    pub send_keep: Option<unsafe extern "C" fn(stream: *mut c_void, length: i64) -> i64>,
    /// Receives at most `length` bytes of data. Returns the count, which may be short, `SPARSESTREAM_AT_HOLE`
    /// if a hole comes next, `SPARSESTREAM_AT_KEEP` if a kept section comes next, or 0 at the end of the
    /// stream. If the connection was cut before that end, return an error, not 0. After -EAGAIN the call is
    /// repeated with the same buffer, which stays valid until then.
    pub recv: Option<
        unsafe extern "C" fn(stream: *mut c_void, buffer: *mut c_void, length: usize) -> i64,
    >,
    /// Called after `SPARSESTREAM_AT_HOLE`: receives the hole and sets `*length`, which must be greater than
    /// 0. NULL: the stream has no holes.
    pub recv_hole: Option<unsafe extern "C" fn(stream: *mut c_void, length: *mut i64) -> c_int>,
    /// Called after `SPARSESTREAM_AT_KEEP`: receives the kept section and sets `*length`, which must be
    /// greater than 0. NULL: the stream has no kept sections.
    pub recv_keep: Option<unsafe extern "C" fn(stream: *mut c_void, length: *mut i64) -> c_int>,
    /// As `describe` of `sparsestream_source_ops`.
    pub describe: Option<
        unsafe extern "C" fn(stream: *mut c_void, info: *mut sparsestream_source_info) -> c_int,
    >,
    /// As `announce` of `sparsestream_sink_ops`.
    pub announce: Option<
        unsafe extern "C" fn(
            stream: *mut c_void,
            plan: *const sparsestream_plan,
            info: *mut sparsestream_sink_info,
        ) -> c_int,
    >,
    /// Called after everything was moved. A sink sends the end of the stream, waits for the peer's answer,
    /// and returns it (0 or a negative errno). A source reports to the peer that everything was received and
    /// stored, if the protocol can do that. Called again while it returns -EAGAIN or -EINTR; any other result
    /// is final.
    pub finish: Option<unsafe extern "C" fn(stream: *mut c_void) -> c_int>,
    /// The stream failed with `error`, a positive errno, or was cancelled (ECANCELED). Report the failure to
    /// the peer if that is possible without a long wait. During the call, `sparsestream_last_error` returns
    /// the message. If the stream was used at all, exactly one of `finish` and `abort` is called, once.
    pub abort: Option<unsafe extern "C" fn(stream: *mut c_void, error: c_int)>,
    /// As `durable` of `sparsestream_source_ops`.
    pub durable: Option<unsafe extern "C" fn(stream: *mut c_void, offset: i64)>,
    /// As `wait` of `sparsestream_source_ops`.
    pub wait:
        Option<unsafe extern "C" fn(stream: *mut c_void, wait: *mut sparsestream_wait) -> c_int>,
}

// SAFETY: repr(C), u64 size first, integers only.
unsafe impl Sized0 for sparsestream_source_info {}
// SAFETY: repr(C), u64 size first, integers only.
unsafe impl Sized0 for sparsestream_sink_info {}
// SAFETY: repr(C), u64 size first, integers only.
unsafe impl Sized0 for sparsestream_plan {}
// SAFETY: repr(C), u64 size first, integers and nullable function pointers.
unsafe impl Sized0 for sparsestream_source_ops {
    const LEAST: usize = TABLE_LEAST;
}
// SAFETY: repr(C), u64 size first, nullable function pointers.
unsafe impl Sized0 for sparsestream_sink_ops {
    const LEAST: usize = TABLE_LEAST;
}
// SAFETY: repr(C), u64 size first, integers and nullable function pointers.
unsafe impl Sized0 for sparsestream_stream_ops {
    const LEAST: usize = TABLE_LEAST;
}
// SAFETY: the field has this type and offset.
unsafe impl Freed for sparsestream_source_ops {
    const FREE: usize = offset_of!(Self, free);
}
// SAFETY: the field has this type and offset.
unsafe impl Freed for sparsestream_sink_ops {
    const FREE: usize = offset_of!(Self, free);
}
// SAFETY: the field has this type and offset.
unsafe impl Freed for sparsestream_stream_ops {
    const FREE: usize = offset_of!(Self, free);
}
