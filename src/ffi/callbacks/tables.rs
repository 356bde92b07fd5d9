//! The tables of the caller's functions, and the structs that these functions are given.

use crate::ffi::opaque::{Freed, TABLE_LEAST};
use crate::ffi::options::{Sized0, sparsestream_wait};
use crate::ffi::sections::sparsestream_section;
use libc::{c_int, c_void};
use std::mem::offset_of;

/// Flag of `sparsestream_source_info`, `sparsestream_sink_info` and `sparsestream_plan`: there may be
/// holes. A source can distinguish them from data; a sink can make them; they may come.
pub const SPARSESTREAM_WITH_HOLES: u64 = 1 << 16;
/// Flag of `sparsestream_source_info`, `sparsestream_sink_info` and `sparsestream_plan`, and of the tables
/// of a source and a stream: there may be kept sections. A source may have them; a sink can keep bytes as
/// they are; they may come.
pub const SPARSESTREAM_WITH_KEEPS: u64 = 1 << 17;

/// The facts about a source, before the first byte. The library sets the fields to what the table alone
/// says; `describe` changes them. A caller who asks for it sets `size`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct sparsestream_source_info {
    /// `sizeof(sparsestream_source_info)`, set by who hands the struct in.
    pub size: u64,
    /// Any of `SPARSESTREAM_WITH_HOLES`, `SPARSESTREAM_WITH_KEEPS`.
    pub flags: u64,
    /// Bytes from its start to its end, or -1 if not known.
    pub total: i64,
    /// Reads that are not a multiple of this many bytes are slow; 0 for no preference. The library cuts
    /// longer reads to a multiple of it.
    pub preferred_block: u32,
    /// Zero.
    pub reserved: u32,
}

/// The abilities of a sink. The library sets the fields to what the table alone says; `announce` changes
/// them. A caller who asks for it sets `size`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct sparsestream_sink_info {
    /// `sizeof(sparsestream_sink_info)`, set by who hands the struct in.
    pub size: u64,
    /// Any of `SPARSESTREAM_WITH_HOLES`, `SPARSESTREAM_WITH_KEEPS`.
    pub flags: u64,
    /// The sink makes holes only of blocks of this many bytes, counted from the start of the stream; 0
    /// and 1 for any. The library writes zeros before the first and after the last whole block of a hole.
    pub least_block: u32,
    /// Writes that are not a multiple of this many bytes are slow; 0 for no preference. The library cuts
    /// longer writes so that they end on a multiple of it.
    pub preferred_block: u32,
}

/// The stream that is going to be sent to a sink.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct sparsestream_plan {
    /// `sizeof(sparsestream_plan)`, set by who hands the struct in.
    pub size: u64,
    /// Any of `SPARSESTREAM_WITH_HOLES`, `SPARSESTREAM_WITH_KEEPS`.
    pub flags: u64,
    /// Bytes that will come, or -1 if not known.
    pub total: i64,
}

/// A source made of the caller's functions.
///
/// Each takes the `opaque` that the table was handed in with and returns 0 or a count, or a negative
/// errno, about which `sparsestream_set_error` can say more. -EAGAIN means not ready: the same call is
/// made again later, with the same arguments. -EINTR means the same at once.
///
/// They run on the thread that drives the source, with thread cancellation disabled; they must not throw,
/// longjmp, call pthread_exit or enable cancellation. A use of the handle that they serve is refused with
/// -EBUSY. All but `read` may be NULL.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct sparsestream_source_ops {
    /// `sizeof(sparsestream_source_ops)`.
    pub size: u64,
    /// Called exactly once with the opaque: when the handle is freed and no transfer holds it, or when
    /// its construction fails.
    pub free: Option<unsafe extern "C" fn(opaque: *mut c_void)>,
    /// 0 or `SPARSESTREAM_WITH_KEEPS`: `section` may report kept sections.
    pub flags: u64,
    /// Reports the section that comes next: sets `kind` and `length`. `offset` is where the source is.
    /// At the end the kind is `SPARSESTREAM_END`. Asked once for each section, all of which is then read
    /// or skipped. NULL: everything is data.
    pub section: Option<
        unsafe extern "C" fn(opaque: *mut c_void, section: *mut sparsestream_section) -> c_int,
    >,
    /// Reads at most `length` bytes of data and moves on by them. Returns the count, which may be
    /// short; 0 at the end. The buffer stays valid, and is the same, until the call was answered.
    /// Required.
    pub read: Option<
        unsafe extern "C" fn(opaque: *mut c_void, buffer: *mut c_void, length: usize) -> i64,
    >,
    /// Moves on by at most `length` bytes of the hole or the kept section that `section` reported.
    /// Returns the count, at least 1. Required with `section`.
    pub skip: Option<unsafe extern "C" fn(opaque: *mut c_void, length: i64) -> i64>,
    /// Called before the first byte, and possibly again: sets the fields of `info` that differ from what
    /// they are set to.
    pub describe: Option<
        unsafe extern "C" fn(opaque: *mut c_void, info: *mut sparsestream_source_info) -> c_int,
    >,
    /// All was moved, and the sink has been finished. Called again while it returns -EAGAIN; any other
    /// answer is final.
    pub finish: Option<unsafe extern "C" fn(opaque: *mut c_void) -> c_int>,
    /// The stream failed with `error`, a positive errno; `sparsestream_last_error` has the words
    /// meanwhile. Exactly one of `finish` and `abort` is called, once, if the source was used at all.
    pub abort: Option<unsafe extern "C" fn(opaque: *mut c_void, error: c_int)>,
    /// Everything before `offset` of the stream is on the sink's medium.
    pub durable: Option<unsafe extern "C" fn(opaque: *mut c_void, offset: i64)>,
    /// Goes back to the start. NULL: it cannot.
    pub rewind: Option<unsafe extern "C" fn(opaque: *mut c_void) -> c_int>,
    /// Sets `*memory` to data that comes next and is in memory already, and returns its length; 0 if
    /// there is none, and it must be read. It stays as it is until `took` has been called for all of
    /// it, or the source is finished or aborted. Required with `took`.
    pub lent: Option<unsafe extern "C" fn(opaque: *mut c_void, memory: *mut *const c_void) -> i64>,
    /// Moves on by `length` bytes of the memory that was lent. Cannot fail.
    pub took: Option<unsafe extern "C" fn(opaque: *mut c_void, length: usize)>,
    /// Called after a function returned -EAGAIN: sets in `wait` what has to be waited for. NULL: only
    /// the caller knows.
    pub wait:
        Option<unsafe extern "C" fn(opaque: *mut c_void, wait: *mut sparsestream_wait) -> c_int>,
}

/// A sink made of the caller's functions; the rules of `sparsestream_source_ops` apply here too. All but
/// `write` may be NULL.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct sparsestream_sink_ops {
    /// `sizeof(sparsestream_sink_ops)`.
    pub size: u64,
    /// Called exactly once with the opaque: when the handle is freed and no transfer holds it, or when
    /// its construction fails.
    pub free: Option<unsafe extern "C" fn(opaque: *mut c_void)>,
    /// Takes at most `length` bytes of data. Returns the count, which may be short; 0 is an error. The
    /// buffer stays valid, and is the same, until the call was answered. Required.
    pub write: Option<
        unsafe extern "C" fn(opaque: *mut c_void, buffer: *const c_void, length: usize) -> i64,
    >,
    /// Makes a hole of at most `length` bytes: they must read zero afterwards. Returns the count, at
    /// least 1; a function that takes long should do a part. NULL: zeros are handed to `write` instead.
    pub hole: Option<unsafe extern "C" fn(opaque: *mut c_void, length: i64) -> i64>,
    /// Moves on by at most `length` bytes, which stay as they are. Returns the count, at least 1. NULL:
    /// it cannot, and a source that may have kept sections is refused with -EOPNOTSUPP.
    pub keep: Option<unsafe extern "C" fn(opaque: *mut c_void, length: i64) -> i64>,
    /// Called before the first byte, and possibly again: what will come. Refuses it with an errno, or
    /// sets the fields of `info` that differ from what they are set to.
    pub announce: Option<
        unsafe extern "C" fn(
            opaque: *mut c_void,
            plan: *const sparsestream_plan,
            info: *mut sparsestream_sink_info,
        ) -> c_int,
    >,
    /// All was moved. Everything that can still fail must fail here. Called again while it returns
    /// -EAGAIN; any other answer is final.
    pub finish: Option<unsafe extern "C" fn(opaque: *mut c_void) -> c_int>,
    /// As `abort` of `sparsestream_source_ops`.
    pub abort: Option<unsafe extern "C" fn(opaque: *mut c_void, error: c_int)>,
    /// Returns the number of bytes from the start of the stream that are on the medium. Must be fast. NULL:
    /// nothing is known.
    pub durable: Option<unsafe extern "C" fn(opaque: *mut c_void) -> i64>,
    /// Sets `*memory` to memory into which data can be put directly, and returns its length; 0 if there is
    /// none. It stays valid until `committed` or another function is called. Required with `committed`.
    pub lend: Option<unsafe extern "C" fn(opaque: *mut c_void, memory: *mut *mut c_void) -> i64>,
    /// The first `length` bytes of the memory that was lent now hold data, which counts as written.
    /// Cannot fail.
    pub committed: Option<unsafe extern "C" fn(opaque: *mut c_void, length: usize)>,
    /// As `wait` of `sparsestream_source_ops`.
    pub wait:
        Option<unsafe extern "C" fn(opaque: *mut c_void, wait: *mut sparsestream_wait) -> c_int>,
}

/// The caller's stream: its own protocol, as seen by one end of a transfer.
///
/// As a sink, `send`, `send_hole`, `send_keep` and `announce` are used, as a source `recv`, `recv_hole`,
/// `recv_keep`, `describe` and `durable`, as both the others. The rules of `sparsestream_source_ops` apply
/// here too. All but `send` of a sink and `recv` of a source may be NULL.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct sparsestream_stream_ops {
    /// `sizeof(sparsestream_stream_ops)`.
    pub size: u64,
    /// Called exactly once with the stream: when the handle is freed and no transfer holds it, or when
    /// its construction fails.
    pub free: Option<unsafe extern "C" fn(stream: *mut c_void)>,
    /// 0 or, for a source, `SPARSESTREAM_WITH_KEEPS`: kept sections may come.
    pub flags: u64,
    /// The most bytes of data in one call of `send` or `recv`, such as what fits into one message; 0 for
    /// no limit.
    pub preferred: u64,
    /// Sends at most `length` bytes of data. Returns the count, which may be short; 0 is an error. The
    /// buffer stays valid, and is the same, until the call was answered.
    pub send: Option<
        unsafe extern "C" fn(stream: *mut c_void, buffer: *const c_void, length: usize) -> i64,
    >,
    /// Sends a hole of at most `length` bytes. Returns the count, at least 1. NULL: holes are sent as
    /// zeros.
    pub send_hole: Option<unsafe extern "C" fn(stream: *mut c_void, length: i64) -> i64>,
    /// Sends that at most `length` bytes are kept as they are. Returns the count, at least 1. NULL: it
    /// cannot, and a source that may have kept sections is refused with -EOPNOTSUPP.
    pub send_keep: Option<unsafe extern "C" fn(stream: *mut c_void, length: i64) -> i64>,
    /// Receives at most `length` bytes of data. Returns the count, which may be short; 0 at the end
    /// of the stream; `SPARSESTREAM_AT_HOLE` when a hole comes next, `SPARSESTREAM_AT_KEEP` when a kept
    /// section does. A stream that was cut off must return an error, not 0. The buffer stays valid, and is
    /// the same, until the call was answered.
    pub recv: Option<
        unsafe extern "C" fn(stream: *mut c_void, buffer: *mut c_void, length: usize) -> i64,
    >,
    /// After `SPARSESTREAM_AT_HOLE`: takes the hole off the stream and sets its length, which must
    /// be more than 0. NULL: the stream has no holes.
    pub recv_hole: Option<unsafe extern "C" fn(stream: *mut c_void, length: *mut i64) -> c_int>,
    /// After `SPARSESTREAM_AT_KEEP`: takes the kept section off the stream and sets its length, which must
    /// be more than 0. NULL: the stream has none.
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
    /// All was moved. For a sink: tell the peer, and return its answer, or -errno. For a source:
    /// the peer has sent all, and it is safely stored; report that to the peer if the protocol can. Called
    /// again while it returns -EAGAIN; any other answer is final.
    pub finish: Option<unsafe extern "C" fn(stream: *mut c_void) -> c_int>,
    /// The stream failed with `error`, a positive errno: report it to the peer, as well as can be done
    /// without waiting. `sparsestream_last_error` has the words meanwhile. Exactly one of `finish` and
    /// `abort` is called, once, if the stream was used at all.
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
