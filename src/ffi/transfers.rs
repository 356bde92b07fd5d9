//! Exports: the transfer, and the loops in one call.

use super::callbacks::tables::sparsestream_stream_ops;
use super::callbacks::{Observer, StreamSource, TableSink};
use super::guard;
use super::handles::{self, sparsestream_sink, sparsestream_source, sparsestream_transfer};
use super::options::{
    SPARSESTREAM_DETECT_ZEROES, SPARSESTREAM_SPARSE_AUTO, SPARSESTREAM_SPARSE_NEVER,
    SPARSESTREAM_SPARSE_REQUIRED, sparsestream_error, sparsestream_stats,
    sparsestream_transfer_options, sparsestream_wait,
};
use super::sized;
use crate::end::{End, HoleWay};
use crate::error::{Allowed, Error, Operation, Result, Side};
use crate::trace::Way;
use crate::transfer::{Options, Patience, Progress, Sparse, Stats};
use libc::{c_char, c_int, c_void};

/// Makes a transfer from a source to a sink. Nothing moves before it is run.
///
/// The transfer holds both ends until it is freed, so the caller may free its own handles of the ends at any
/// time after this call. Until the transfer has ended, the ends must not be used in any other way. If the
/// transfer was run at least once, each end gets exactly one finish or abort, at the latest when the transfer
/// is freed.
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
        let options = unsafe { sized::read(options, "options") }?;
        let (core, observer) = (core(&options)?, Observer::new(&options));
        // SAFETY: the caller promises live handles or NULL.
        out.set(unsafe { handles::new_transfer(source, sink, &core, observer) }?);
        Ok(0)
    })
}

/// Starts or continues a transfer.
///
/// `budget` limits one call, which returns 1 after about this many bytes of work. Each byte of data counts,
/// even if it is found to be zero. A hole, or a step of zeroing, counts as 64 bytes for each microsecond that
/// it takes, but at least as 4096 bytes. With a budget, the call never waits for a descriptor, even if the
/// descriptor is in blocking mode. It does block while it reads or writes one piece of a regular file or a
/// block device, and while a callback blocks.
///
/// A `budget` of 0 means to run to the end. The call then waits, with poll(2), for descriptors in blocking
/// mode, and for callbacks whose table has `wait`. It returns -EAGAIN only for descriptors in non-blocking
/// mode and for other callbacks.
///
/// Position: the position of a source file moves while its holes are searched, and is restored when the
/// transfer has ended.
///
/// Descriptors: a transfer from a descriptor or a wire into a file or a block device may open one pipe,
/// close-on-exec. It closes the pipe when it ends or is freed, and works without a pipe if none can be opened.
/// An end whose descriptor was opened with O_DIRECT may open a ring of io_uring(7), close-on-exec, at its first
/// request, and closes it when the end is freed. A call that waits for more than 10 ms may open one eventfd,
/// close-on-exec, through which a cancel wakes it, and which is closed when the transfer is freed. If none can
/// be opened, the call checks for a cancel every 50 ms. A file that is sent to a socket or a pipe in
/// non-blocking mode should not change before the other end has read the data, because the kernel may send the
/// pages of the file itself.
///
/// Returns one of these:
///
/// - 0: everything was moved, and both ends are finished;
/// - 1: the budget is used up; run the transfer again;
/// - -EAGAIN: an end is not ready; run the transfer again when it is (see `sparsestream_transfer_wait`);
/// - -EBUSY: another call uses the transfer or one of its ends; the transfer has not ended;
/// - -EINVAL: an argument is invalid, and the transfer has not ended; or the transfer has failed, because the
///   rest of a block of a target with O_DIRECT must be preserved, and the target cannot be read.
///
/// Any other negative errno means that the transfer has failed. Every later run returns the same errno:
///
/// - -EOPNOTSUPP: the sparse request cannot be met, or the sink does not support kept sections; no byte was
///   moved;
/// - -ENOMEM: no memory for the buffer; no byte was moved;
/// - -ECANCELED; -ETIMEDOUT: `stall_ms` or `idle_ms`;
/// - -ENODATA: the source ended early;
/// - -EPROTO: a callback returned an invalid value, or the source is longer than it reported;
/// - -EFBIG: beyond `length` of the sink's options or RLIMIT_FSIZE; -EOVERFLOW: beyond the largest offset;
/// - -ENOSPC; -EPERM: a memfd that is sealed against growing;
/// - -EPIPE: the reader has closed its end; SIGPIPE is not raised;
/// - -EIO: the medium failed, or the file system returned EAGAIN or wrote 0 bytes;
/// - -ESHUTDOWN: an end was finished or aborted before;
/// - or the error of the system or the callback.
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

/// Reports what to wait for after `sparsestream_transfer_run` returned -EAGAIN.
///
/// Wait for all of `fds` with poll, epoll or any event loop. Run the transfer again when one of them is ready
/// or `timeout_ms` has passed. Call this again after each -EAGAIN, because the descriptors may differ each
/// time. At any other time it reports no side, no descriptor, and a `timeout_ms` of 0.
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
        unsafe { sized::write(wait, &known.into(), "wait") }?;
        Ok(0)
    })
}

/// Reports the work that the transfer has done so far.
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
        unsafe { sized::write(stats, &known.into(), "stats") }?;
        Ok(0)
    })
}

/// Reports the failure that ended the transfer, as fields. `code` is 0 if it has not failed.
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
        unsafe { sized::write(error, &known.into(), "error") }?;
        Ok(0)
    })
}

/// Asks the transfer to end with -ECANCELED. Any thread and a signal handler may call this at any time before
/// the handle is freed. A running transfer ends after its current step. A transfer that waits is woken
/// at once, or within 50 ms if no eventfd could be opened. A transfer that is not running ends when it is run
/// the next time. The call has no effect on a transfer that has ended or whose sink is finished.
///
/// Returns 0, or -EINVAL (NULL). The call does not change the thread's message, so a signal handler may make
/// it.
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

/// Asks the transfer to end with `error`, a positive errno, and with `text` in its message. Use it if the
/// program knows why the transfer must fail, for example because a connection was lost. The request takes
/// effect as with `sparsestream_transfer_cancel`. Only the first such error counts, and a cancel does not
/// change it. EAGAIN and EINTR become EIO. `text` may be NULL; the library keeps its first 255 bytes.
///
/// Any thread may call this, even while the transfer runs, and so may the callbacks of the transfer. A signal
/// handler may not.
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
        let errno = guard::final_errno(error)?;
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
/// If the transfer was run and has not ended, its sink is aborted, and then its source. An end that another
/// call is using is aborted after that call. Then the transfer releases both ends: an end whose handle the
/// caller has already freed is freed with it. The call waits for requests to files that are in flight.
///
/// If another call uses the transfer, for example because one of its callbacks calls this, the transfer is
/// not freed, and the thread's message reports EBUSY.
///
/// # Safety
/// `transfer` is NULL or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_transfer_free(transfer: *mut sparsestream_transfer) {
    // SAFETY: the caller promises a live handle or NULL.
    guard::quiet(|| unsafe { handles::free_transfer(transfer) });
}

/// Sends a source over the caller's protocol: makes a sink from the stream, runs a transfer to its end, and
/// frees that sink and the transfer. The caller keeps the source.
///
/// The call blocks. It waits with poll(2) for the descriptors of both ends, in blocking and in non-blocking
/// mode, and for the descriptors that `wait` of the table reports. If a function returns -EAGAIN and the table
/// has no `wait`, the call fails with -EAGAIN. For an event loop use the transfer functions.
///
/// The library calls exactly one of `finish` and `abort` of `ops`, and then `free` exactly once. There are two
/// exceptions. If the table is of a later version or lacks `send`, only `free` is called. If the table is NULL
/// or its `size` is not valid, no function is called. `stats` may be NULL; if the transfer was started, it is
/// filled even on failure.
///
/// Returns 0, or the errors of `sparsestream_transfer_new` and `sparsestream_transfer_run`.
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
        // After any failure the stream is ended, unless it has ended already.
        sent.inspect_err(|error| sink.abort(error))?;
        Ok(0)
    })
}

/// Receives the caller's protocol into a sink: makes a source from the stream, runs a transfer to its end, and
/// frees that source and the transfer. The caller keeps the sink. The table must have `recv`. Everything else
/// is as with `sparsestream_send_all`.
///
/// Returns 0, or the errors of `sparsestream_transfer_new` and `sparsestream_transfer_run`.
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
        // After any failure the stream is ended, unless it has ended already.
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
    let options = unsafe { sized::read(options, "options") }?;
    Ok((core(&options)?, Observer::new(&options)))
}

/// The caller's options as the core's.
fn core(options: &sparsestream_transfer_options) -> Result<Options> {
    guard::flags(options.flags, SPARSESTREAM_DETECT_ZEROES, "options.flags")?;
    if options.reserved != 0 {
        return Err(Error::value("options.reserved", options.reserved, Allowed::Only(&"0")));
    }
    let sparse = match options.sparse {
        SPARSESTREAM_SPARSE_AUTO => Sparse::Auto,
        SPARSESTREAM_SPARSE_REQUIRED => Sparse::Required,
        SPARSESTREAM_SPARSE_NEVER => Sparse::Never,
        unknown => {
            let allowed =
                Allowed::Only(&"SPARSESTREAM_SPARSE_AUTO (0), _REQUIRED (1) or _NEVER (2)");
            return Err(Error::value("options.sparse", unknown, allowed));
        }
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
