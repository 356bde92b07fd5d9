//! Exports: sinks, by construction and driven by hand.

use super::callbacks::tables::{
    SPARSESTREAM_WITH_HOLES, SPARSESTREAM_WITH_KEEPS, sparsestream_plan, sparsestream_sink_info,
    sparsestream_sink_ops, sparsestream_stream_ops,
};
use super::callbacks::{Checkpoint, TableSink};
use super::guard;
use super::handles::{self, sparsestream_sink};
use super::opaque::{self, Opaque};
use super::options::{
    SPARSESTREAM_KNOWN_ZERO, SPARSESTREAM_SYNC, SPARSESTREAM_TRUNCATE, sparsestream_sink_options,
    sparsestream_wait,
};
use super::sized;
use crate::buffer::boxed;
use crate::end::{Plan, SinkInfo};
use crate::error::{Error, Operation, Result, Side};
use crate::sink;
use libc::{c_int, c_void};

/// Makes a sink that writes to a descriptor. A regular file or a block device is written by offset, and its
/// file position is not used and not changed. A pipe, a socket or a character device is written in order.
///
/// A hole reads as zeros afterwards, whatever the target held before. A regular file gets its exact size when
/// the sink is finished, even if the stream ends with a hole. It becomes shorter only with
/// `SPARSESTREAM_TRUNCATE`.
///
/// A regular file that was opened with O_APPEND is written from the end that it has when the sink is made. A
/// hole is made with ftruncate(2), after the size was checked again. If another process has appended, the
/// sink writes zeros instead from then on. No other process may append between that check and ftruncate(2),
/// because that call could remove its bytes.
///
/// The caller owns the descriptor, which must stay open until the sink was freed and no transfer holds it.
/// Then `free` of the options is called. Some file systems report an error only at close(2). Check the result
/// of close(2), or use `SPARSESTREAM_SYNC`, so that the sink reports the error.
///
/// Returns 0 and a handle in `*sink` that the caller frees, or a negative errno with `*sink` NULL:
///
/// - -EINVAL: an argument is invalid, or a flag is unknown; or the descriptor was opened with O_APPEND, and it is
///   a block device, was opened with O_DIRECT too, or `offset` is not 0;
/// - -E2BIG: the options are from a later version;
/// - -EBADF: the descriptor is not open for writing; -EISDIR: it is a directory;
/// - -ESPIPE: an offset or a request to sync for a pipe, a socket or a character device; or a descriptor without
///   content, such as an eventfd;
/// - -EPROTOTYPE: a socket that is not a stream socket;
/// - -EFBIG: the offset is beyond RLIMIT_FSIZE; -ENOSPC: it is beyond the end of a device;
/// - -EPERM: a sealed memfd;
/// - -ENOMEM, or the errno of fstat(2), fcntl(2) or ioctl(2).
///
/// # Safety
/// `options` is NULL or a struct of its `size`; `sink` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_sink_to_fd(
    fd: c_int,
    options: *const sparsestream_sink_options,
    sink: *mut *mut sparsestream_sink,
) -> c_int {
    guard::code(|| {
        // SAFETY: the caller promises a struct of its size. First of all, so that `free` is called.
        let options = unsafe { opaque::options(options) };
        // SAFETY: the caller promises NULL or a writable place.
        let out = unsafe { guard::handle_output(sink, "sink") }?;
        let (options, opaque) = options?;
        let known = SPARSESTREAM_SYNC | SPARSESTREAM_TRUNCATE | SPARSESTREAM_KNOWN_ZERO;
        guard::flags(options.flags, known, "options.flags")?;
        let core = sink::Options {
            offset: guard::unsigned(options.offset, "options.offset")?,
            length: guard::unsigned(options.length, "options.length")?,
            sync: options.flags & SPARSESTREAM_SYNC != 0,
            truncate: options.flags & SPARSESTREAM_TRUNCATE != 0,
            known_zero: options.flags & SPARSESTREAM_KNOWN_ZERO != 0,
            sync_interval: guard::unsigned(options.sync_interval, "options.sync_interval")?,
        };
        let checkpoint = Checkpoint::new(options.checkpoint, options.opaque);
        out.set(handles::new_sink(sink::from_fd(fd, &core, checkpoint)?, opaque)?);
        Ok(0)
    })
}

/// Makes a sink from the caller's functions; see `sparsestream_sink_ops`.
///
/// `ops` is copied. `opaque` must be valid until `ops->free` is called with it. That happens exactly once:
/// after the sink was freed and no transfer holds it, or before this call returns a failure. It does not
/// happen if `ops` is NULL or its `size` is not valid.
///
/// Returns 0 and a handle in `*sink` that the caller frees, or a negative errno with `*sink` NULL:
/// -EINVAL (an argument, or no `write`), -E2BIG (a table from a later version), -ENOMEM.
///
/// # Safety
/// `ops` is NULL or a table of its `size` whose functions may be called with `opaque`; `sink` is
/// NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_sink_to_callbacks(
    ops: *const sparsestream_sink_ops,
    opaque: *mut c_void,
    sink: *mut *mut sparsestream_sink,
) -> c_int {
    guard::code(|| {
        // SAFETY: the caller promises a table of its size. First of all, so that `free` is called.
        let ops = unsafe { TableSink::new(ops, opaque) };
        // SAFETY: the caller promises NULL or a writable place.
        let out = unsafe { guard::handle_output(sink, "sink") }?;
        out.set(handles::new_sink(boxed(ops?)?, Opaque::NONE)?);
        Ok(0)
    })
}

/// Makes a sink from the caller's protocol; see `sparsestream_stream_ops`. Ownership and `free` are as with
/// `sparsestream_sink_to_callbacks`.
///
/// Returns 0 and a handle in `*sink` that the caller frees, or a negative errno with `*sink` NULL:
/// -EINVAL (an argument, or no `send`), -E2BIG, -ENOMEM.
///
/// # Safety
/// As `sparsestream_sink_to_callbacks`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_sink_to_stream(
    ops: *const sparsestream_stream_ops,
    stream: *mut c_void,
    sink: *mut *mut sparsestream_sink,
) -> c_int {
    guard::code(|| {
        // SAFETY: the caller promises a table of its size. First of all, so that `free` is called.
        let ops = unsafe { TableSink::to_stream(ops, stream) };
        // SAFETY: the caller promises NULL or a writable place.
        let out = unsafe { guard::handle_output(sink, "sink") }?;
        out.set(handles::new_sink(boxed(ops?)?, Opaque::NONE)?);
        Ok(0)
    })
}

/// Writes at most `length` bytes of `buffer` and advances the sink by the number that it returns.
///
/// Returns the count, which may be short but is 0 only if `length` is 0, or a negative errno:
///
/// - -EINVAL: an argument is invalid; or the rest of a block of a target with O_DIRECT must be preserved, and
///   the target cannot be read;
/// - -EBUSY: the handle is in use by another call;
/// - -EAGAIN (not ready), -EINTR;
/// - -ESHUTDOWN: the sink was finished or aborted before;
/// - -EFBIG: beyond `length` of the options or RLIMIT_FSIZE; -EOVERFLOW: beyond the largest offset;
/// - -ENOSPC; -EPERM: a memfd that is sealed against growing;
/// - -EPIPE: the reader has closed its end; SIGPIPE is not raised;
/// - -EIO: the medium failed, or the file system returned EAGAIN or wrote 0 bytes;
/// - -EPROTO: a callback returned an invalid value;
/// - or the error of the system or the callback.
///
/// # Safety
/// `sink` is NULL or a live handle; `buffer` is readable for `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_sink_write(
    sink: *mut sparsestream_sink,
    buffer: *const c_void,
    length: usize,
) -> i64 {
    guard::count(|| {
        // SAFETY: the caller promises `length` readable bytes.
        let buffer = unsafe { guard::bytes(buffer, length, "buffer") }?;
        if buffer.is_empty() {
            return Ok(0);
        }
        // SAFETY: the caller promises a live handle or NULL.
        let count = unsafe { handles::with_sink(sink, |sink| sink.write(buffer)) }?;
        Ok(guard::signed(count as u64))
    })
}

/// Makes a hole of at most `length` bytes and advances the sink by the number that it returns. The hole reads
/// as zeros after the sink was finished. A large hole over old content is made in steps.
///
/// Returns the count, which may be short but is 0 only if `length` is 0, or a negative errno: -EOPNOTSUPP
/// (this sink cannot make holes: write zeros), and those of `sparsestream_sink_write`.
///
/// # Safety
/// `sink` is NULL or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_sink_hole(sink: *mut sparsestream_sink, length: i64) -> i64 {
    guard::count(|| {
        let length = guard::unsigned(length, "length")?;
        if length == 0 {
            return Ok(0);
        }
        // SAFETY: the caller promises a live handle or NULL.
        let made = unsafe { handles::with_sink(sink, |sink| sink.hole(length)) }?;
        Ok(guard::signed(made.length))
    })
}

/// Skips at most `length` bytes of the target, which keep their content, and advances the sink by the number
/// that it returns.
///
/// Returns the count, which may be short but is 0 only if `length` is 0, or a negative errno: -EOPNOTSUPP
/// (this sink does not support kept sections), -ENODATA (the bytes lie beyond the end of the target), and
/// those of `sparsestream_sink_write`.
///
/// # Safety
/// `sink` is NULL or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_sink_keep(sink: *mut sparsestream_sink, length: i64) -> i64 {
    guard::count(|| {
        let length = guard::unsigned(length, "length")?;
        if length == 0 {
            return Ok(0);
        }
        // SAFETY: the caller promises a live handle or NULL.
        let kept = unsafe { handles::with_sink(sink, |sink| sink.keep(length)) }?;
        Ok(guard::signed(kept))
    })
}

/// Announces a stream to a sink, which may refuse it, and reports the properties of the sink. A transfer does
/// this by itself. For a sink that is driven by hand, the call is optional and must come before the first
/// byte. A `plan` of NULL announces a stream of any length, with holes. `info` may be NULL.
///
/// Returns 0 or a negative errno: -EINVAL, -E2BIG, -EBUSY, -EAGAIN, -EINTR, -ESHUTDOWN, -EFBIG or -ENOSPC
/// (too long), -EOPNOTSUPP (the plan has kept sections, and the sink does not support them), or the error of
/// the system or the callback.
///
/// # Safety
/// `sink` is NULL or a live handle; `plan` and `info` are NULL or structs of their `size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_sink_announce(
    sink: *mut sparsestream_sink,
    plan: *const sparsestream_plan,
    info: *mut sparsestream_sink_info,
) -> c_int {
    guard::code(|| {
        // SAFETY: the caller promises a struct of its size.
        let given = unsafe { sized::read(plan, "plan") }?;
        let plan = core_plan(if plan.is_null() { None } else { Some(&given) })?;
        if !info.is_null() {
            // SAFETY: the caller promises a struct of its size.
            unsafe { sized::check(info, "info") }?;
        }
        // SAFETY: the caller promises a live handle or NULL.
        let known = unsafe { handles::with_sink(sink, |sink| sink.open(&plan)) }?;
        if plan.keeps && !known.keeps {
            return Err(Error::nowhere(Operation::Keep, Side::Sink, libc::EOPNOTSUPP));
        }
        if !info.is_null() {
            // SAFETY: as above.
            unsafe { sized::write(info, &known.into(), "info") }?;
        }
        Ok(0)
    })
}

/// Reports what to wait for after a call on this sink returned -EAGAIN. At any other time the sink is ready:
/// there is no descriptor, and `timeout_ms` is 0. For a wire with `keepalive_ms`, `timeout_ms` may also be the
/// time until the next sign of life is due: then call the sink again.
///
/// Returns 0 or a negative errno: -EINVAL, -EBUSY.
///
/// # Safety
/// `sink` is NULL or a live handle; `wait` is NULL or a struct of its `size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_sink_wait(
    sink: *mut sparsestream_sink,
    wait: *mut sparsestream_wait,
) -> c_int {
    guard::code(|| {
        // SAFETY: the caller promises a live handle or NULL.
        let known = unsafe { handles::sink_wait(sink) }?;
        // SAFETY: the caller promises a struct of its size.
        unsafe { sized::write(wait, &known.into(), "wait") }?;
        Ok(0)
    })
}

fn core_plan(plan: Option<&sparsestream_plan>) -> Result<Plan> {
    let Some(plan) = plan else { return Ok(Plan { total: None, holes: true, keeps: false }) };
    guard::flags(plan.flags, SPARSESTREAM_WITH_HOLES | SPARSESTREAM_WITH_KEEPS, "plan.flags")?;
    Ok(Plan {
        total: match plan.total {
            -1 => None,
            total => Some(guard::unsigned(total, "plan.total")?),
        },
        holes: plan.flags & SPARSESTREAM_WITH_HOLES != 0,
        keeps: plan.flags & SPARSESTREAM_WITH_KEEPS != 0,
    })
}

impl From<SinkInfo> for sparsestream_sink_info {
    fn from(info: SinkInfo) -> Self {
        let flag = |set: bool, flag| if set { flag } else { 0 };
        Self {
            flags: flag(info.makes_holes, SPARSESTREAM_WITH_HOLES)
                | flag(info.keeps, SPARSESTREAM_WITH_KEEPS),
            ..Self::default()
        }
    }
}

/// Ends the sink with success: sets the size of a regular file, syncs it if that was requested, or calls
/// `finish` of a table. The stream has succeeded only if this call succeeds. Call it once, and again while it
/// returns -EAGAIN or -EINTR.
///
/// Returns 0 or a negative errno: -EINVAL, -EBUSY, -EAGAIN, -EINTR, -EFBIG, -ENOSPC, or the error of the
/// system or the callback.
///
/// # Safety
/// `sink` is NULL or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_sink_finish(sink: *mut sparsestream_sink) -> c_int {
    guard::code(|| {
        // SAFETY: the caller promises a live handle or NULL.
        unsafe { handles::with_sink(sink, |sink| sink.finish()) }?;
        Ok(0)
    })
}

/// Ends the sink with the failure `error`, a positive errno: calls `abort` of a table, or reports the failure
/// to the other end of a wire or of a channel. The end of a wire can report it only if the stream has begun.
/// Data that was written to a file remains. If the sink was already finished or aborted, nothing happens.
/// EAGAIN and EINTR become EIO.
///
/// Returns 0, or -EINVAL or -EBUSY.
///
/// # Safety
/// `sink` is NULL or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_sink_abort(
    sink: *mut sparsestream_sink,
    error: c_int,
) -> c_int {
    guard::code(|| {
        let errno = guard::final_errno(error)?;
        let error = Error::nowhere(Operation::None, Side::None, errno);
        // SAFETY: the caller promises a live handle or NULL.
        unsafe {
            handles::with_sink(sink, |sink| {
                sink.abort(&error);
                Ok(())
            })
        }?;
        Ok(0)
    })
}

/// Frees the caller's handle, which must not be used again. NULL is allowed.
///
/// A transfer holds its sink until the transfer is freed, so handles may be freed in any order. The sink
/// itself is freed with the last handle that holds it. Then a stream or table that was used, but neither
/// finished nor aborted, is aborted with ECANCELED, and `free` of the table or the options is called.
/// Descriptors stay open. The call does not finish the sink.
///
/// If another call uses the sink, for example because one of its own functions calls this, the sink is not
/// freed, and the thread's message reports EBUSY.
///
/// # Safety
/// `sink` is NULL or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_sink_free(sink: *mut sparsestream_sink) {
    // SAFETY: the caller promises a live handle or NULL.
    guard::quiet(|| unsafe { handles::free_sink(sink) });
}
