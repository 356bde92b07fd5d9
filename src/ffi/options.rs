//! The structs of options, statistics, waits and errors, and the flags of options.

use super::sections::sparsestream_section;
use super::sized::{Sized0, zeros};
use super::trace::sparsestream_event;
use crate::wait::{Wait, Watch, Watched};
use libc::{c_int, c_void};
use std::mem::size_of;
use std::time::Duration;

/// Flag of `sparsestream_source_options`: read the whole range as data, and do not ask the file system for
/// holes. With this flag, only `SPARSESTREAM_DETECT_ZEROES` finds holes.
pub const SPARSESTREAM_IGNORE_MAP: u64 = 1;
/// Flag of `sparsestream_source_options`: read at most `length` bytes. A source that ends earlier is not an
/// error.
pub const SPARSESTREAM_AT_MOST: u64 = 1 << 18;
/// Flag of `sparsestream_sink_options`: call fsync(2) before success is reported.
pub const SPARSESTREAM_SYNC: u64 = 2;
/// Flag of `sparsestream_sink_options`: truncate a regular file at the end of the stream. Without this flag a
/// longer file keeps its tail. For other kinds of descriptor the flag has no effect.
pub const SPARSESTREAM_TRUNCATE: u64 = 4;
/// Flag of `sparsestream_sink_options`: the target already reads as zeros wherever the stream has a hole, for
/// example because it was just created. The sink then does not touch these ranges. If the target does not read
/// as zeros there, its old bytes remain. The flag has no effect where holes are written as zeros anyway.
pub const SPARSESTREAM_KNOWN_ZERO: u64 = 8;
/// Flag of `sparsestream_transfer_options`: pass blocks of data that are all zeros to the sink as holes.
pub const SPARSESTREAM_DETECT_ZEROES: u64 = 16;

/// Flag of `sparsestream_wire_options`: each DATA frame carries the CRC-32C of its payload. Either end can
/// request this. A receiver without a way back cannot request it: it refuses a stream without checksums
/// (-EOPNOTSUPP).
pub const SPARSESTREAM_WIRE_CHECKSUM: u64 = 32;
/// Flag of `sparsestream_wire_options`: the sender sends a digest of the whole stream, holes included, at
/// checkpoints and at the end, and the receiver compares it. The digest has 32 bytes and is made with BLAKE3.
/// A receiver requests it in the same way as `SPARSESTREAM_WIRE_CHECKSUM`.
pub const SPARSESTREAM_WIRE_DIGEST: u64 = 64;
/// Flag of `sparsestream_wire_options`: sender only. Let the receiver resume after the bytes that it already
/// holds.
pub const SPARSESTREAM_WIRE_RESUME: u64 = 128;
/// Flag of `sparsestream_wire_options`: if the stream cannot be resumed, start again from its first byte. Both
/// ends need the flag if the held bytes differ from the source; in all other cases only the receiver needs it.
/// Without the flag both ends fail: with -EOPNOTSUPP if the sender cannot resume, and with -ESTALE if the held
/// bytes, the identity, the transfer id or the length differ.
pub const SPARSESTREAM_WIRE_RESTART: u64 = 256;
/// Flag of `sparsestream_wire_options`: `length`, `source_size`, `source_offset` and `data_bytes` are set. A
/// value of -1 means unknown.
pub const SPARSESTREAM_WIRE_SIZES: u64 = 512;

/// Flag of `sparsestream_wire_options`: sender: the stream may have kept sections. The flag is not needed if
/// a transfer drives the sink and its source declares kept sections. Receiver: accept a stream with kept
/// sections. Without the flag the receiver refuses such a stream (-EOPNOTSUPP), because the result is right
/// only if the target had the right content before. A stream with kept sections cannot be resumed.
pub const SPARSESTREAM_WIRE_KEEP: u64 = 1024;

/// Sparse request: keep holes if both ends can; otherwise write them as zeros. This is the default.
pub const SPARSESTREAM_SPARSE_AUTO: i32 = 0;
/// Sparse request: fail with -EOPNOTSUPP before a byte moves unless the source can report holes and the sink
/// can make them. A source with `SPARSESTREAM_IGNORE_MAP` cannot report holes. If the map of the file system
/// becomes unusable during the transfer, the transfer fails with -EOPNOTSUPP. The sink answers as far as that can be
/// known in advance: where the file system later refuses a hole, or one cannot be verified, zeros are written.
pub const SPARSESTREAM_SPARSE_REQUIRED: i32 = 1;
/// Sparse request: make no hole; write the holes of the source as zeros.
pub const SPARSESTREAM_SPARSE_NEVER: i32 = 2;

/// The options of a source that reads a file descriptor. Zero-initialise it and set `size`; NULL means all
/// defaults.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct sparsestream_source_options {
    /// `sizeof(sparsestream_source_options)`.
    pub size: u64,
    /// Any of `SPARSESTREAM_IGNORE_MAP`, `SPARSESTREAM_AT_MOST`.
    pub flags: u64,
    /// The offset of the first byte to read. Must be 0 for a pipe, a socket or a character device.
    pub offset: i64,
    /// The number of bytes to read; 0 means to the end. A source that ends before that fails with -ENODATA,
    /// unless `SPARSESTREAM_AT_MOST` is set.
    pub length: i64,
    /// Passed to `free`. It must be valid until `free` is called.
    pub opaque: *mut c_void,
    /// Called exactly once, when the library no longer uses the descriptor: after the source was freed and no
    /// transfer holds it, or before the constructor returns a failure. May be NULL.
    pub free: Option<unsafe extern "C" fn(opaque: *mut c_void)>,
}

/// The options of a sink that writes a file descriptor. Zero-initialise it and set `size`; NULL means all
/// defaults.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct sparsestream_sink_options {
    /// `sizeof(sparsestream_sink_options)`.
    pub size: u64,
    /// Any of `SPARSESTREAM_SYNC`, `SPARSESTREAM_TRUNCATE`, `SPARSESTREAM_KNOWN_ZERO`.
    pub flags: u64,
    /// The offset at which the first byte of the stream is written. Must be 0 for a pipe, a socket, a character
    /// device, and a file opened with O_APPEND.
    pub offset: i64,
    /// The most bytes, holes included, that the sink accepts; 0 means that this option sets no limit. A byte
    /// beyond the limit is not written, and the call fails with -EFBIG.
    pub length: i64,
    /// Call fsync(2) each time that this many more bytes of data were written, and at the end; 0 means never.
    /// It is also called if something moves 5 seconds or more after the last call. With a value of at least
    /// 65536, at most this many bytes of data are at any time written but not yet durable. Regular files and
    /// block devices only.
    pub sync_interval: i64,
    /// Called after each fsync(2) that `sync_interval` or `SPARSESTREAM_SYNC` causes. The bytes of the file
    /// from `offset` of these options to `durable_offset` are on the medium. A negative errno ends the transfer
    /// with that error (-EIO for -EAGAIN and -EINTR). May be NULL.
    pub checkpoint: Option<unsafe extern "C" fn(opaque: *mut c_void, durable_offset: i64) -> c_int>,
    /// Passed to `checkpoint` and `free`. It must be valid until `free` is called.
    pub opaque: *mut c_void,
    /// Called exactly once, when the library no longer uses the descriptor: after the sink was freed and no
    /// transfer holds it, or before the constructor returns a failure. May be NULL.
    pub free: Option<unsafe extern "C" fn(opaque: *mut c_void)>,
}

/// The work that a transfer has done so far. Set `size` before the call. A shorter struct receives the fields
/// that fit; the rest of a longer struct is zeroed.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct sparsestream_stats {
    /// `sizeof(sparsestream_stats)`, set by the caller. For `progress` the library sets it to the size of its
    /// own version of the struct.
    pub size: u64,
    /// The position in the stream, in bytes from its first byte. If the transfer was resumed, it includes the
    /// bytes that the receiver already held; while these are compared, it is the number of bytes compared so
    /// far. It returns to 0 if the stream starts again.
    pub position: i64,
    /// The value of `position` at the end, or -1 if the source does not know it, or before the first run.
    pub total: i64,
    /// Bytes that the sink took as data from this transfer.
    pub data_bytes: i64,
    /// Bytes that the sink took as holes from this transfer.
    pub hole_bytes: i64,
    /// Data sections that were begun. Adjacent pieces of one kind are one section.
    pub data_sections: i64,
    /// Holes that were begun.
    pub hole_sections: i64,
    /// The part of `hole_bytes` that came from the source as data and was found to be zeros.
    pub zero_bytes: i64,
    /// Bytes that the sink kept as they were.
    pub keep_bytes: i64,
    /// Kept sections that were begun.
    pub keep_sections: i64,
    /// `data_bytes` by the way in which they moved. The index is one of `SPARSESTREAM_WAY_...`.
    pub data_by_way: [i64; 16],
    /// `hole_bytes` by the way in which the holes were made. The index is one of `SPARSESTREAM_HOLE_...`.
    pub holes_by_way: [i64; 16],
}

/// The options of a transfer. Zero-initialise it and set `size`; NULL means all defaults.
///
/// The callbacks run on the thread that runs the transfer. The only functions that they may call on that
/// transfer are `sparsestream_transfer_cancel` and `sparsestream_transfer_fail`. They must not throw, longjmp,
/// or free a handle that is in use.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct sparsestream_transfer_options {
    /// `sizeof(sparsestream_transfer_options)`.
    pub size: u64,
    /// 0 or `SPARSESTREAM_DETECT_ZEROES`.
    pub flags: u64,
    /// One of `SPARSESTREAM_SPARSE_AUTO`, `_REQUIRED`, `_NEVER`.
    pub sparse: i32,
    /// The block size for `SPARSESTREAM_DETECT_ZEROES`, in bytes: a power of two from 512 to 1048576; 0 means
    /// 65536. Blocks begin at multiples of this size, counted from the first byte of the stream. A block is
    /// shorter only before a hole, before the end, and where the source was not ready.
    pub zero_block: u32,
    /// The size of the transfer's buffer in bytes, 4096 to 67108864; 0 means 1048576. With
    /// `SPARSESTREAM_DETECT_ZEROES`, a buffer smaller than `zero_block` is enlarged to that size. In addition,
    /// a transfer takes a few hundred bytes, at most 256 KiB in a pipe of the kernel, and the memory that
    /// `min_hole` and `depth` require.
    pub buffer_size: u64,
    /// `progress` is called each time that this many more bytes were moved, and at the end. 0 means that the
    /// number of bytes does not matter.
    pub progress_bytes: i64,
    /// `progress` is called when this many milliseconds have passed since the last call and something has
    /// moved, and at the end. 0 means that the time does not matter.
    pub progress_ms: i64,
    /// Reports the progress. If both intervals are 0, it is called once, at the end. If it returns a negative
    /// errno, the transfer ends with that error (-EIO for -EAGAIN and -EINTR). May be NULL.
    pub progress: Option<
        unsafe extern "C" fn(opaque: *mut c_void, stats: *const sparsestream_stats) -> c_int,
    >,
    /// Called for each section, of any kind, after the sink has taken all of it. Offsets count from the first
    /// byte of the stream. If it returns a negative errno, the transfer ends with that error, as with
    /// `progress`. May be NULL.
    pub section: Option<
        unsafe extern "C" fn(opaque: *mut c_void, section: *const sparsestream_section) -> c_int,
    >,
    /// Passed to `progress`, `section` and `trace`. The library does not use it. It must be valid until the
    /// transfer is freed.
    pub opaque: *mut c_void,
    /// The transfer fails with -ETIMEDOUT if it moves no byte for this many milliseconds; 0 means never. The
    /// side of the error is the end that the transfer waited for. A sign of life from the other end of a wire
    /// restarts the time (`keepalive_ms` of `sparsestream_wire_options`).
    ///
    /// The library checks the time when `sparsestream_transfer_run` is called, and while that call waits. A
    /// callback that blocks is not interrupted. Time in which the transfer waits because of `rate` does not
    /// count.
    ///
    /// A sender over a wire with a way back also waits for the receiver's answer, and the receiver may need a
    /// long time to sync. Choose a limit that allows that, or let the receiver use `sync_interval`. If the
    /// limit ends this wait, the receiver may nevertheless have stored everything.
    pub stall_ms: i64,
    /// The most bytes of data in a second, on average; 0 means no limit. Holes do not count. When the limit is
    /// reached, a run with a budget of 0 waits. A run with a greater budget returns -EAGAIN, and
    /// `sparsestream_transfer_wait` reports how long to wait.
    pub rate: i64,
    /// As `stall_ms`, but a sign of life does not restart the time. So this limit also ends a transfer whose
    /// peer is alive but moves nothing. 0 means never. Without a wire, the smaller of the two limits applies.
    pub idle_ms: i64,
    /// Called for each decision of the transfer and of its ends, such as the way in which data moves and how
    /// holes are made. `sparsestream_event_text` turns the event into text. May be NULL.
    pub trace: Option<unsafe extern "C" fn(opaque: *mut c_void, event: *const sparsestream_event)>,
    /// The least length of a hole in bytes; 0 means that every hole is made. A shorter hole is written as
    /// zeros, and a shorter run of zeros that `SPARSESTREAM_DETECT_ZEROES` finds remains data. Adjacent holes
    /// and runs of zeros count as one, unless the source was not ready between them. The option takes up to
    /// 64 KiB of memory. It has no effect with `SPARSESTREAM_SPARSE_NEVER`.
    pub min_hole: i64,
    /// The size of one request in bytes, if several requests are in flight: a power of two from 4096 to
    /// 16777216; 0 means 524288. Several requests are in flight if an end is a descriptor that was opened with
    /// O_DIRECT, or was made from a `sparsestream_async_ops`. An end may set a smaller limit.
    pub request_size: u64,
    /// The most requests in flight, 1 to 256; 0 means 16. Such a transfer takes the memory of `depth` plus one
    /// requests, and of two blocks for each of them, in addition to its buffer. If the sink is a stream, it takes
    /// up to 1 MiB more. If an end asks for aligned memory and the kernel has huge pages, all of that is rounded
    /// up to a multiple of 2 MiB.
    pub depth: u32,
    /// Zero.
    pub reserved: u32,
}

/// A descriptor to wait for.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct sparsestream_wait_fd {
    /// The descriptor.
    pub fd: i32,
    /// POLLIN, POLLOUT or both.
    pub events: i32,
}

/// The descriptors and the time that a transfer or an end waits for, after it returned -EAGAIN. Set `size`
/// before the call. In a `wait` function of a table the library has set it.
///
/// The wait is over when one of the descriptors is ready or `timeout_ms` has passed. A call that waits by
/// itself does not return to the end before that, so a `wait` function has to set everything that can make the
/// end ready.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct sparsestream_wait {
    /// `sizeof(sparsestream_wait)`.
    pub size: u64,
    /// The side that is not ready: `SPARSESTREAM_SIDE_SOURCE` or `SPARSESTREAM_SIDE_SINK`.
    /// `SPARSESTREAM_SIDE_NONE` means that the transfer waits for nothing, or only for time to pass (a rate
    /// limit).
    pub side: i32,
    /// The first descriptor of `fds`, or -1 if there is none. If `timeout_ms` is also -1, a callback of that
    /// side returned -EAGAIN, and its table has no `wait`: only the program knows when to run the transfer
    /// again.
    pub fd: i32,
    /// The events to wait for on `fd`: POLLIN, POLLOUT, both, or 0.
    pub events: i32,
    /// The longest time to wait in milliseconds, as for poll(2): -1 means no limit, and 0 means do not wait.
    /// When the time has passed, try again even if no descriptor is ready: a limit has ended (`stall_ms`,
    /// `idle_ms`), the rate allows more data, or a sign of life is due (`keepalive_ms`).
    pub timeout_ms: i32,
    /// The number of descriptors in `fds`. A `wait` function of a table may leave it 0, and set `fd` and
    /// `events` instead.
    pub count: i32,
    /// Zero.
    pub reserved: i32,
    /// All descriptors to wait for. Any one of them ends the wait.
    pub fds: [sparsestream_wait_fd; 8],
}

impl sparsestream_wait {
    /// The empty struct that is handed to a function which is asked for the events it waits for.
    pub fn nothing() -> Self {
        Self { size: size_of::<Self>() as u64, fd: -1, timeout_ms: -1, ..Self::default() }
    }

    /// The answer of such a function; `None` if it named neither a descriptor nor a time.
    pub fn watch(&self) -> Option<Watch> {
        let mut watch = Watch::NOTHING;
        watch.timeout = u64::try_from(self.timeout_ms).ok().map(Duration::from_millis);
        let single = sparsestream_wait_fd { fd: self.fd, events: self.events };
        let count = usize::try_from(self.count).unwrap_or_default();
        let several = self.fds.iter().take(count);
        for entry in several.chain((count == 0).then_some(&single)) {
            if entry.fd >= 0 {
                let events = entry.events as i16 & (libc::POLLIN | libc::POLLOUT | libc::POLLPRI);
                watch.add(Watched { fd: entry.fd, events });
            }
        }
        (watch != Watch::NOTHING).then_some(watch)
    }
}

impl From<Wait> for sparsestream_wait {
    fn from(wait: Wait) -> Self {
        let mut value = Self { side: wait.side as i32, ..Self::nothing() };
        for (place, watched) in value.fds.iter_mut().zip(wait.watch.descriptors()) {
            *place = sparsestream_wait_fd { fd: watched.fd, events: i32::from(watched.events) };
            value.count += 1;
        }
        if value.count > 0 {
            (value.fd, value.events) = (value.fds[0].fd, value.fds[0].events);
        }
        if let Some(time) = wait.watch.timeout {
            // Rounded up: to come back early is to come back twice.
            value.timeout_ms =
                i32::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX);
        }
        value
    }
}

/// A failure, described by its fields. Set `size` before the call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct sparsestream_error {
    /// `sizeof(sparsestream_error)`, set by the caller.
    pub size: u64,
    /// The errno, positive; 0 if nothing has failed.
    pub code: i32,
    /// The operation that failed: one of `SPARSESTREAM_OPERATION_...`.
    pub operation: i32,
    /// The side at which it failed: one of `SPARSESTREAM_SIDE_...`.
    pub side: i32,
    /// 1 if `side`, `operation` and `offset` describe a failure that the other end of a wire or of a channel
    /// reported. Otherwise 0.
    pub peer: i32,
    /// The offset of the failure, in bytes. For a file or a device it counts from the start of the file or
    /// device, and for any other end from the start of the stream. -1 if no offset applies.
    pub offset: i64,
    /// If the source ended early, the offset at which it should have ended; otherwise -1.
    pub expected: i64,
    /// The failure as text, ended by a NUL byte: side, operation, offset, and the system's text for the errno.
    /// If `peer` is 1, it begins with "peer: ".
    pub message: [libc::c_char; 512],
}

impl Default for sparsestream_source_options {
    fn default() -> Self {
        zeros()
    }
}

impl Default for sparsestream_sink_options {
    fn default() -> Self {
        zeros()
    }
}

impl Default for sparsestream_transfer_options {
    fn default() -> Self {
        zeros()
    }
}

impl Default for sparsestream_error {
    fn default() -> Self {
        Self {
            size: 0,
            code: 0,
            operation: 0,
            side: 0,
            peer: 0,
            offset: -1,
            expected: -1,
            message: [0; 512],
        }
    }
}

// SAFETY: repr(C), u64 size first, integers, a nullable function pointer and a raw pointer.
unsafe impl Sized0 for sparsestream_source_options {}
// SAFETY: repr(C), u64 size first, integers, a nullable function pointer and a raw pointer.
unsafe impl Sized0 for sparsestream_sink_options {}
// SAFETY: repr(C), u64 size first, integers, nullable function pointers and a raw pointer.
unsafe impl Sized0 for sparsestream_transfer_options {}
// SAFETY: repr(C), u64 size first, integers only.
unsafe impl Sized0 for sparsestream_stats {}
// SAFETY: repr(C), u64 size first, integers only.
unsafe impl Sized0 for sparsestream_wait {}
// SAFETY: repr(C), u64 size first, integers and an array of them.
unsafe impl Sized0 for sparsestream_error {}
