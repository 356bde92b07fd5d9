//! Exports: the transfer, and the loops in one call.

use super::callbacks::tables::sparsestream_stream_ops;
use super::callbacks::{Observer, StreamSource, TableSink};
use super::guard;
use super::handles::{self, sparsestream_sink, sparsestream_source, sparsestream_transfer};
use super::options::{
    self, SPARSESTREAM_DETECT_ZEROES, SPARSESTREAM_SPARSE_AUTO, SPARSESTREAM_SPARSE_NEVER,
    SPARSESTREAM_SPARSE_REQUIRED, sparsestream_error, sparsestream_stats,
    sparsestream_transfer_options, sparsestream_wait,
};
use crate::end::{End, HoleWay};
use crate::error::{Error, Operation, Result, Side};
use crate::trace::Way;
use crate::transfer::{Options, Patience, Progress, Sparse, Stats};
use libc::{c_char, c_int, c_void};

/// Makes a transfer from a source to a sink. Nothing moves before it is run.
///
/// The transfer holds both ends until it is freed, so that the caller may free its handles of them at
/// any time after this call. The ends must not be used otherwise before the transfer has ended. Once
/// it has been run, exactly one of finish and abort reaches each of them, at the latest when it is
/// freed.
///
/// Returns 0 and a handle in `*transfer` that the caller frees, or a negative errno with
/// `*transfer` NULL: -EINVAL (an argument, an unknown flag or sparse request), -E2BIG (options from
/// a later version), -EBUSY (an end is in use by another call), -ENOMEM.
///
/// # Safety
/// `source` and `sink` are NULL or live handles; `options` is NULL or a struct of its `size`;
/// `transfer` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_transfer_new(
    source: *mut sparsestream_source,
    sink: *mut sparsestream_sink,
    options: *const sparsestream_transfer_options,
    transfer: *mut *mut sparsestream_transfer,
) -> c_int {
    guard::code(|| {
        // SAFETY: the caller promises NULL or a writable place.
        let out = unsafe { guard::handle_output(transfer, "transfer") }?;
        // SAFETY: the caller promises a struct of its size.
        let options = unsafe { options::read(options, "options") }?;
        let (core, observer) = (core(&options)?, Observer::new(&options));
        // SAFETY: the caller promises live handles or NULL.
        out.set(unsafe { handles::new_transfer(source, sink, &core, observer) }?);
        Ok(0)
    })
}

/// Goes on with a transfer.
///
/// `budget` bounds one call: it returns 1 after about so many bytes of work, where data that is read
/// and found to be zeros counts as data that is moved, and a hole, or a step of zeroing, counts as
/// 4096 bytes, or as 64 bytes a microsecond if it takes longer. With a budget the call never waits
/// on a descriptor, not even on one that is in blocking mode; reading and writing regular files and
/// block devices, and callbacks that block, take as long as they take, one piece at a time.
///
/// `budget` 0 means to the end. The call then waits, with poll(2), on descriptors that are in
/// blocking mode, and returns -EAGAIN only for those in non-blocking mode and for callbacks.
///
/// Position: a mapped source file's position moves until the transfer has ended.
///
/// Descriptors: a transfer from a descriptor or a wire into a file or a block device may open one
/// pipe, close-on-exec, and closes it when it ends or is freed; where none can be had it does
/// without. What a file sends to a socket or a pipe in non-blocking mode may be its own pages: it
/// should not change before the other end has read them.
///
/// Returns 0 when all is moved and both ends are finished; 1 when the budget is used up; -EAGAIN
/// when an end is not ready (`sparsestream_transfer_wait` tells which; nothing is lost, run it
/// again); or the negative errno that ended the transfer, the same again if it is run again:
/// -EOPNOTSUPP (the sparse request cannot be met; no byte was moved), -ECANCELED, -ETIMEDOUT
/// (`stall_ms`, `idle_ms`), -ENODATA (the source ended early), -EPROTO (a callback answered nonsense), -EFBIG,
/// -EOVERFLOW (a source whose holes end beyond every offset), -ESHUTDOWN (an end was finished or
/// aborted before), -ENOSPC, -ENOMEM (no byte was moved), -EBUSY (the transfer or one of its ends
/// is in use by another call; this one ended nothing), or the error of the system or the callback.
///
/// # Safety
/// `transfer` is NULL or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_transfer_run(
    transfer: *mut sparsestream_transfer,
    budget: i64,
) -> c_int {
    guard::code(|| {
        let (budget, patience) = match guard::unsigned(budget, "budget")? {
            0 => (None, Patience::Blocking),
            bytes => (Some(bytes), Patience::None),
        };
        // SAFETY: the caller promises a live handle or NULL.
        let progress = unsafe { handles::run(transfer, budget, patience) }?;
        Ok(c_int::from(progress == Progress::BudgetUsed))
    })
}

/// What the transfer waits for, after `sparsestream_transfer_run` returned -EAGAIN.
///
/// Watch `fd` for `events` with poll, epoll or any event loop, and run the transfer again when they
/// come or `timeout_ms` has gone by. At any other time the answer is: no side, no descriptor, 0
/// milliseconds.
///
/// Returns 0 or a negative errno: -EINVAL, -EBUSY.
///
/// # Safety
/// `transfer` is NULL or a live handle; `wait` is NULL or a struct of its `size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_transfer_wait(
    transfer: *mut sparsestream_transfer,
    wait: *mut sparsestream_wait,
) -> c_int {
    guard::code(|| {
        // SAFETY: the caller promises a live handle or NULL.
        let known = unsafe { handles::with_transfer(transfer, |transfer| Ok(transfer.wait())) }?;
        // SAFETY: the caller promises a struct of its size.
        unsafe { options::write(wait, &known.into(), "wait") }?;
        Ok(0)
    })
}

/// What the transfer has done so far.
///
/// Returns 0 or a negative errno: -EINVAL, -EBUSY.
///
/// # Safety
/// `transfer` is NULL or a live handle; `stats` is NULL or a struct of its `size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_transfer_stats(
    transfer: *mut sparsestream_transfer,
    stats: *mut sparsestream_stats,
) -> c_int {
    guard::code(|| {
        // SAFETY: the caller promises a live handle or NULL.
        let known = unsafe { handles::with_transfer(transfer, |transfer| Ok(transfer.stats())) }?;
        // SAFETY: the caller promises a struct of its size.
        unsafe { options::write(stats, &known.into(), "stats") }?;
        Ok(0)
    })
}

/// The failure that ended the transfer, as fields; `code` 0 while none has.
///
/// Returns 0 or a negative errno: -EINVAL, -EBUSY.
///
/// # Safety
/// `transfer` is NULL or a live handle; `error` is NULL or a struct of its `size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_transfer_error(
    transfer: *mut sparsestream_transfer,
    error: *mut sparsestream_error,
) -> c_int {
    guard::code(|| {
        // SAFETY: the caller promises a live handle or NULL.
        let known = unsafe { handles::with_transfer(transfer, |transfer| Ok(transfer.error())) }?;
        // SAFETY: the caller promises a struct of its size.
        unsafe { options::write(error, &known.into(), "error") }?;
        Ok(0)
    })
}

/// Asks the transfer to end with -ECANCELED. From any thread and from a signal handler, also while
/// it runs; the handle must not be freed meanwhile. It acts when the step under way ends, or within
/// 100 ms of waiting, or the next time that the transfer is run. A transfer that has ended is not
/// changed.
///
/// Returns 0, or -EINVAL (NULL; the thread's message is left alone, so that a signal handler may
/// call this).
///
/// # Safety
/// `transfer` is NULL or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_transfer_cancel(
    transfer: *mut sparsestream_transfer,
) -> c_int {
    // SAFETY: the caller promises a live handle or NULL.
    guard::signal_safe(|| unsafe { handles::cancel(transfer) })
}

/// Asks the transfer to end with `error`, a positive errno, and with these words: a connection was lost, or
/// the program knows better than an end what is wrong. Acts as `sparsestream_transfer_cancel`; the first
/// error counts, and a cancel before or after it does not change it. `text` may be NULL; the library keeps
/// its first 255 bytes.
///
/// From any thread, also while the transfer runs, and from its callbacks; not from a signal handler.
///
/// Returns 0 or -EINVAL (NULL, or `error` is not from 1 to 4095).
///
/// # Safety
/// `transfer` is NULL or a live handle; `text` is NULL or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_transfer_fail(
    transfer: *mut sparsestream_transfer,
    error: c_int,
    text: *const c_char,
) -> c_int {
    guard::code(|| {
        let errno = guard::errno(error)?;
        // SAFETY: the caller promises NULL or a string.
        let text = unsafe { guard::words(text) };
        let (operation, side) = (Operation::None, Side::None);
        let error = Error::Said { operation, side, offset: None, errno, text: text.into() };
        // SAFETY: the caller promises a live handle or NULL.
        unsafe { handles::fail(transfer, error) }?;
        Ok(0)
    })
}

/// Frees a transfer. NULL is allowed.
///
/// One that was run and has not ended is cancelled: its sink is aborted, then its source. An end that
/// is in use by another call at that time is aborted when that call is done. Then the transfer lets go
/// of its sink, then of its source; an end whose handle the caller has freed already is freed here.
///
/// A free while the transfer is in use by another call, which includes a callback of it or of its ends,
/// is ignored, and leaves a message with EBUSY.
///
/// # Safety
/// `transfer` is NULL or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_transfer_free(transfer: *mut sparsestream_transfer) {
    // SAFETY: the caller promises a live handle or NULL.
    guard::quiet(|| unsafe { handles::free_transfer(transfer) });
}

/// Sends a whole source over the caller's stream: makes a sink of the stream, runs a transfer to
/// its end and frees both. The source stays the caller's.
///
/// Blocking: waits with poll(2) on the descriptors of both ends, also on those in non-blocking mode, and
/// on what `wait` of the table says. Without `wait`, a stream function that returns -EAGAIN ends it with
/// that error; for an event loop use the transfer functions.
///
/// Exactly one of `finish` and `abort` of `ops` is called, and then `free`, exactly once, before the
/// return, on every path but those of a table that cannot be used: one that is NULL, has the `size` of no
/// table or is of a later version, or lacks `send`. Then neither is called, and `free` is, unless the
/// table is NULL or its `size` is wrong. `stats` may be NULL; it is filled on failure too, if the transfer
/// was started.
///
/// Returns 0 or a negative errno, as `sparsestream_transfer_new` and `sparsestream_transfer_run`.
///
/// # Safety
/// `source` is NULL or a live handle, `ops` is NULL or a table of its `size` whose functions may be called with
/// `stream`, `options` and `stats` are NULL or structs of their `size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_send_all(
    source: *mut sparsestream_source,
    ops: *const sparsestream_stream_ops,
    stream: *mut c_void,
    options: *const sparsestream_transfer_options,
    stats: *mut sparsestream_stats,
) -> c_int {
    guard::code(|| {
        // SAFETY: the caller promises a table of its size. First of all, so that `free` is called.
        let mut sink = unsafe { TableSink::to_stream(ops, stream) }?;
        // SAFETY: the caller promises structs of their size, and a live handle or NULL.
        let sent = unsafe { whole(options) }.and_then(|(options, observer)| unsafe {
            handles::with_source(source, |source| {
                handles::run_whole(source, &mut sink, &options, observer, stats)
            })
        });
        // Whatever failed: the stream is ended, unless it was.
        sent.inspect_err(|error| sink.abort(error))?;
        Ok(0)
    })
}

/// Receives the caller's stream into a sink: makes a source of the stream, runs a transfer to its
/// end and frees both. The sink stays the caller's. All else as `sparsestream_send_all`.
///
/// Returns 0 or a negative errno, as `sparsestream_transfer_new` and `sparsestream_transfer_run`.
///
/// # Safety
/// As `sparsestream_send_all`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_recv_all(
    ops: *const sparsestream_stream_ops,
    stream: *mut c_void,
    sink: *mut sparsestream_sink,
    options: *const sparsestream_transfer_options,
    stats: *mut sparsestream_stats,
) -> c_int {
    guard::code(|| {
        // SAFETY: the caller promises a table of its size. First of all, so that `free` is called.
        let mut source = unsafe { StreamSource::new(ops, stream) }?;
        // SAFETY: the caller promises structs of their size, and a live handle or NULL.
        let received = unsafe { whole(options) }.and_then(|(options, observer)| unsafe {
            handles::with_sink(sink, |sink| {
                handles::run_whole(&mut source, sink, &options, observer, stats)
            })
        });
        // Whatever failed: the stream is ended, unless it was.
        received.inspect_err(|error| source.abort(error))?;
        Ok(0)
    })
}

/// The caller's options and callbacks.
///
/// # Safety
/// `options` is null or a struct of its size.
unsafe fn whole(options: *const sparsestream_transfer_options) -> Result<(Options, Observer)> {
    // SAFETY: as promised.
    let options = unsafe { options::read(options, "options") }?;
    Ok((core(&options)?, Observer::new(&options)))
}

/// The caller's options as the core's.
fn core(options: &sparsestream_transfer_options) -> Result<Options> {
    guard::flags(options.flags, SPARSESTREAM_DETECT_ZEROES, "options.flags")?;
    let sparse = match options.sparse {
        SPARSESTREAM_SPARSE_AUTO => Sparse::Auto,
        SPARSESTREAM_SPARSE_REQUIRED => Sparse::Required,
        SPARSESTREAM_SPARSE_NEVER => Sparse::Never,
        _ => return Err(Error::argument("options.sparse", "is no sparse request", libc::EINVAL)),
    };
    Ok(Options {
        sparse,
        detect_zeroes: options.flags & SPARSESTREAM_DETECT_ZEROES != 0,
        zero_block: options.zero_block,
        min_hole: guard::unsigned(options.min_hole, "options.min_hole")?,
        buffer_size: options.buffer_size,
        depth: options.depth,
        request_size: options.request_size,
        progress_bytes: guard::unsigned(options.progress_bytes, "options.progress_bytes")?,
        progress_ms: guard::unsigned(options.progress_ms, "options.progress_ms")?,
        stall_ms: guard::unsigned(options.stall_ms, "options.stall_ms")?,
        idle_ms: guard::unsigned(options.idle_ms, "options.idle_ms")?,
        rate: guard::unsigned(options.rate, "options.rate")?,
    })
}

impl From<Stats> for sparsestream_stats {
    fn from(stats: Stats) -> Self {
        Self {
            size: std::mem::size_of::<Self>() as u64,
            position: guard::signed(stats.position),
            total: stats.total.map_or(-1, guard::signed),
            data_bytes: guard::signed(stats.data_bytes),
            hole_bytes: guard::signed(stats.hole_bytes),
            data_sections: guard::signed(stats.data_sections),
            hole_sections: guard::signed(stats.hole_sections),
            zero_bytes: guard::signed(stats.zero_bytes),
            keep_bytes: guard::signed(stats.keep_bytes),
            keep_sections: guard::signed(stats.keep_sections),
            data_by_way: by_number(Way::ALL.map(|way| (way as usize, stats.ways.data(way)))),
            holes_by_way: by_number(HoleWay::ALL.map(|way| (way as usize, stats.ways.holes(way)))),
        }
    }
}

/// Bytes by the number of what carried them.
fn by_number<const N: usize>(bytes: [(usize, u64); N]) -> [i64; 16] {
    let mut all = [0; 16];
    for (number, bytes) in bytes {
        if let Some(place) = all.get_mut(number) {
            *place = guard::signed(bytes);
        }
    }
    all
}

impl From<Option<Error>> for sparsestream_error {
    fn from(error: Option<Error>) -> Self {
        let Some(error) = error else { return Self::default() };
        let mut value = Self {
            code: error.errno(),
            operation: error.operation() as i32,
            side: error.side() as i32,
            peer: i32::from(error.is_peers()),
            offset: error.offset().map_or(-1, guard::signed),
            expected: error.expected().map_or(-1, guard::signed),
            ..Self::default()
        };
        let mut message = [0; 512];
        guard::format(&mut message, &error);
        value.message = message.map(|byte| byte as c_char);
        value
    }
}
