//! Exports: the channel.

use super::guard;
use super::handles::{self, sparsestream_sink, sparsestream_source};
use super::opaque::Opaque;
use super::options::{self, Sized0};
use crate::channel::channel;
use libc::c_int;

/// How large a channel is. Zero-initialise it and set `size`; NULL means all defaults.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct sparsestream_channel_options {
    /// `sizeof(sparsestream_channel_options)`.
    pub size: u64,
    /// Zero.
    pub flags: u64,
    /// Bytes of data that it holds at most, 131072 to 67108864; 0 means 1048576. Memory is taken when it
    /// is first used.
    pub capacity: u64,
}

// SAFETY: repr(C), u64 size first, integers only.
unsafe impl Sized0 for sparsestream_channel_options {}

/// Makes a channel: what is sent to `*sink` comes out of `*source`. The two may be used by two threads at
/// the same time, each by one call at a time: file I/O in a worker, the stream in an event loop.
///
/// Data, holes, kept sections and the total length cross it. It holds at most `capacity` bytes of data and
/// 256 sections.
///
/// Each end has an eventfd of its own, which can be read (POLLIN) exactly while the end is ready. An end
/// that is not ready returns -EAGAIN and is waited for by `sparsestream_transfer_wait`,
/// `sparsestream_sink_wait` or `sparsestream_source_wait`; a run without a budget waits by itself. The
/// eventfds are for poll(2), epoll(7) and their like: they must not be read, written or closed. Both are
/// closed when both ends are freed.
///
/// The sink is finished when the source has been: until then finishing it returns -EAGAIN. So the result of
/// the sending transfer is that of the receiving one. A failure crosses in both directions, with its errno
/// and its words (`peer` of `sparsestream_error` is 1). An end that is freed before it was finished is
/// ECANCELED at the other. What the receiving sink has made durable is reported to the sending source.
///
/// Kept sections must be announced: a transfer does that, who drives the sink by hand uses
/// `sparsestream_sink_announce`.
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
        let options = unsafe { options::read(options, "options") }?;
        guard::flags(options.flags, 0, "options.flags")?;
        let (sink, source) = channel(options.capacity)?;
        let sink = handles::new_sink(sink, Opaque::NONE)?;
        let source = handles::new_source(source, Opaque::NONE).inspect_err(|_| {
            // SAFETY: it was just made, and nobody else has it.
            let _ = unsafe { handles::free_sink(sink) };
        })?;
        sink_out.set(sink);
        source_out.set(source);
        Ok(0)
    })
}
