//! Exports: the channel.

use super::guard;
use super::handles::{self, sparsestream_sink, sparsestream_source};
use super::opaque::Opaque;
use super::sized::{self, Sized0};
use crate::channel::channel;
use libc::c_int;

/// The options of a channel. Zero-initialise it and set `size`; NULL means all defaults.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct sparsestream_channel_options {
    /// `sizeof(sparsestream_channel_options)`.
    pub size: u64,
    /// Zero.
    pub flags: u64,
    /// The most bytes of data that the channel holds, 131072 to 67108864; 0 means 1048576. The memory is
    /// allocated at the first use.
    pub capacity: u64,
}

// SAFETY: repr(C), u64 size first, integers only.
unsafe impl Sized0 for sparsestream_channel_options {}

/// Makes a channel: the stream that is written to `*sink` can be read from `*source`. Two threads may use the
/// two ends at the same time; each end serves one call at a time. So a worker can do the file I/O while an
/// event loop serves the stream.
///
/// The channel passes on data, holes, kept sections and the total length. It holds at most `capacity` bytes
/// of data and 256 sections.
///
/// An end that is not ready returns -EAGAIN. A run without a budget waits by itself. Otherwise
/// `sparsestream_transfer_wait`, `sparsestream_sink_wait` or `sparsestream_source_wait` reports an eventfd,
/// which is readable (POLLIN) while that end is ready. Use it only with poll(2), epoll(7) and similar: do not
/// read, write or close it. The library closes it when both ends are freed.
///
/// `sparsestream_sink_finish` returns -EAGAIN until the source was finished, so both transfers have the same
/// result. After its first call, a write to the sink fails with -ESHUTDOWN. If the source is finished before
/// it was read to its end, the sink fails with -EPIPE.
///
/// If one end fails, the other fails with the same errno and message, and `peer` of `sparsestream_error` is 1.
/// If one end is freed before it was finished, the other fails with -ECANCELED. The channel also passes durable
/// offsets back: from the sink at the end of the second transfer to the source at the beginning of the first.
///
/// Kept sections must be announced, or the sink fails with -EPROTO. A transfer announces them by itself. If you
/// drive the sink by hand, call `sparsestream_sink_announce`.
///
/// Returns 0 and two handles that the caller frees, or a negative errno with both NULL: -EINVAL (an
/// argument, a flag, the capacity), -E2BIG (options from a later version), -EMFILE, -ENFILE, -ENOMEM, or
/// another errno of eventfd(2).
///
/// # Safety
/// `options` is NULL or a struct of its `size`; `sink` and `source` are NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_channel(
    options: *const sparsestream_channel_options,
    sink: *mut *mut sparsestream_sink,
    source: *mut *mut sparsestream_source,
) -> c_int {
    guard::code(|| {
        // SAFETY: the caller promises NULL or a writable place.
        let sink_out = unsafe { guard::handle_output(sink, "sink") };
        // SAFETY: the caller promises NULL or a writable place.
        let source_out = unsafe { guard::handle_output(source, "source") };
        let (sink_out, source_out) = (sink_out?, source_out?);
        // SAFETY: the caller promises a struct of its size.
        let options = unsafe { sized::read(options, "options") }?;
        guard::flags(options.flags, 0, "options.flags")?;
        let (sink, source) = channel(options.capacity)?;
        let sink = handles::new_sink(sink, Opaque::NONE)?;
        let source = handles::new_source(source, Opaque::NONE).inspect_err(|_| {
            // SAFETY: it was just made, and there is no other reference to it.
            let _ = unsafe { handles::free_sink(sink) };
        })?;
        sink_out.set(sink);
        source_out.set(source);
        Ok(0)
    })
}
