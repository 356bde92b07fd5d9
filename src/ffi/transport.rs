//! The caller's functions as a transport of the wire.

use super::callbacks::answers::Site;
use super::guard;
use super::handles::{self, sparsestream_sink, sparsestream_source};
use super::opaque::{self, Freed, Opaque};
use super::options::sparsestream_wait;
use super::sized::{self, Sized0};
use super::wire_options::{receiver, sender, sparsestream_wire_options};
use crate::buffer::boxed;
use crate::byte_end::ByteEnd;
use crate::error::{Error, Operation, Result, Side, Text};
use crate::sys::{Fd, Sys};
use crate::wait::{Waiting, Watch};
use crate::wire::reader::Reader;
use crate::wire::transport::{Transport, Wants};
use crate::wire::writer::Writer;
use libc::{c_int, c_void};
use std::mem::offset_of;
use std::time::Duration;

/// A transport that is made from the caller's functions: a TLS session, an SSH channel, or anything else that
/// delivers bytes in order.
///
/// Each function gets the `opaque` that was passed with the table. The functions must not wait. A function
/// that is not ready returns -EAGAIN and is called again later; after -EINTR it is called again at once.
/// `sparsestream_set_error` can add details to an errno. The functions run on the thread that drives the handle.
/// They must not throw, longjmp, or use the handle that they serve.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct sparsestream_transport_ops {
    /// `sizeof(sparsestream_transport_ops)`.
    pub size: u64,
    /// Called exactly once with the `opaque`: after the handle was freed and no transfer holds it, or when
    /// the constructor fails. May be NULL.
    pub free: Option<unsafe extern "C" fn(opaque: *mut c_void)>,
    /// Reads at most `length` bytes; `length` is never 0. Returns the count, 0 at the orderly end of the
    /// transport, or a negative errno. If the transport was cut, return an error, not 0. A source requires
    /// this function. A sink without it has no way back.
    pub read: Option<
        unsafe extern "C" fn(opaque: *mut c_void, buffer: *mut c_void, length: usize) -> i64,
    >,
    /// Writes at most `length` bytes; `length` is never 0. Returns the count, which may be short but not 0,
    /// or a negative errno. After -EAGAIN or -EINTR the call is repeated with the same buffer, bytes and
    /// length, even if the stream has failed in the meantime, unless `close` is called instead. A sink requires this
    /// function. A source without it has no way back.
    pub write: Option<
        unsafe extern "C" fn(opaque: *mut c_void, buffer: *const c_void, length: usize) -> i64,
    >,
    /// Ends the session, for example with the close_notify of TLS. Called when the stream has ended or failed,
    /// or when the handle is freed, but not if the constructor failed. Nothing is read or written afterwards.
    /// At the end of a stream it is called again while it returns -EAGAIN or -EINTR; after a failure it is
    /// called only once. A failure of this function is ignored, except for a sink without a way back, where
    /// nothing else confirms that the stream arrived. It must not close a descriptor that is still used. May
    /// be NULL.
    pub close: Option<unsafe extern "C" fn(opaque: *mut c_void) -> c_int>,
    /// Called each time that `read`, `write` or `close` has returned -EAGAIN: sets the descriptors and the
    /// time to wait for. Report POLLOUT even after `read` if a TLS session must write before it can read.
    /// NULL: the program itself runs the transfer again when the function is ready.
    pub wait:
        Option<unsafe extern "C" fn(opaque: *mut c_void, wait: *mut sparsestream_wait) -> c_int>,
    /// Returns a descriptor that the library may read instead of calling `read`, so that data need not pass
    /// through memory, or -1. The permission lasts until the next call of `read`. Return a descriptor only if
    /// the session holds no bytes that were received but not yet read, as with kernel TLS. May be NULL.
    pub input_fd: Option<unsafe extern "C" fn(opaque: *mut c_void) -> c_int>,
    /// As `input_fd`, but for `write`. The library uses sendfile(2) and splice(2) on the descriptor.
    pub output_fd: Option<unsafe extern "C" fn(opaque: *mut c_void) -> c_int>,
}

// SAFETY: repr(C), u64 size first, nullable function pointers.
unsafe impl Sized0 for sparsestream_transport_ops {
    const LEAST: usize = opaque::TABLE_LEAST;
}
// SAFETY: the field has this type and offset.
unsafe impl Freed for sparsestream_transport_ops {
    const FREE: usize = offset_of!(Self, free);
}

/// As `sparsestream_sink_to_wire`, but sends the frames through the caller's functions.
///
/// `ops` is copied. `opaque` must be valid until `ops->free` is called with it. That happens exactly once:
/// after the sink was freed and no transfer holds it, or before this call returns a failure. It does not
/// happen if `ops` is NULL or its `size` is not valid. Unless `output_fd` returns a descriptor, data is copied
/// once more than with `sparsestream_sink_to_wire`.
///
/// Returns 0 and a handle in `*sink` that the caller frees, or a negative errno with `*sink` NULL: -EINVAL
/// (an argument, or `write` is NULL), -E2BIG, -ENOMEM, and the errors of `sparsestream_sink_to_wire` that
/// concern options.
///
/// # Safety
/// `ops` is NULL or a table of its `size`, whose functions may be called with `opaque`; `options` is
/// NULL or a struct of its `size`; `sink` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_sink_to_transport(
    ops: *const sparsestream_transport_ops,
    opaque: *mut c_void,
    options: *const sparsestream_wire_options,
    sink: *mut *mut sparsestream_sink,
) -> c_int {
    guard::code(|| {
        // SAFETY: the caller promises a table of its size. First of all, so that `free` is called.
        let transport = unsafe { CallbackTransport::new(ops, opaque) };
        // SAFETY: the caller promises NULL or a writable place.
        let out = unsafe { guard::handle_output(sink, "sink") }?;
        let transport = transport?;
        // SAFETY: the caller promises a struct of its size.
        let options = unsafe { sized::read(options, "options") }?;
        let writer = Writer::new(boxed(transport)?, &sender(&options)?)?;
        out.set(handles::new_sink(boxed(writer)?, Opaque::NONE)?);
        Ok(0)
    })
}

/// As `sparsestream_source_from_wire`, but receives the frames through the caller's functions. Ownership and
/// `free` are as with `sparsestream_sink_to_transport`.
///
/// For such a source, `sparsestream_source_wire_info` never waits: it returns -EAGAIN, and
/// `sparsestream_source_wait` reports what to wait for.
///
/// Returns 0 and a handle in `*source` that the caller frees, or a negative errno with `*source` NULL:
/// -EINVAL (an argument, or `read` is NULL), -E2BIG, -ENOMEM, and the errors of
/// `sparsestream_source_from_wire` that concern options.
///
/// # Safety
/// As `sparsestream_sink_to_transport`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_source_from_transport(
    ops: *const sparsestream_transport_ops,
    opaque: *mut c_void,
    options: *const sparsestream_wire_options,
    source: *mut *mut sparsestream_source,
) -> c_int {
    guard::code(|| {
        // SAFETY: the caller promises a table of its size. First of all, so that `free` is called.
        let transport = unsafe { CallbackTransport::new(ops, opaque) };
        // SAFETY: the caller promises NULL or a writable place.
        let out = unsafe { guard::handle_output(source, "source") }?;
        let transport = transport?;
        // SAFETY: the caller promises a struct of its size.
        let options = unsafe { sized::read(options, "options") }?;
        let reader = Reader::new(boxed(transport)?, &receiver(&options)?)?;
        out.set(handles::new_source(boxed(reader)?, Opaque::NONE)?);
        Ok(0)
    })
}

/// The place of a call. The end that uses the transport adds the offset.
const SITE: Site = Site { operation: Operation::None, side: Side::None, offset: 0 };

/// The time until the next try, if the event to wait for is not known.
const AGAIN: Duration = Duration::from_millis(10);

/// The caller's functions as a transport.
struct CallbackTransport {
    ops: sparsestream_transport_ops,
    opaque: Opaque,
    /// The events that the last `-EAGAIN` of each direction waits for.
    input: Option<Watch>,
    output: Option<Watch>,
    /// The address and length of a write that was not ready.
    retry: Option<(*const u8, usize)>,
    plain_input: Option<(Fd, ByteEnd)>,
    plain_output: Option<(Fd, ByteEnd)>,
    words: Option<Text>,
}

// SAFETY: handles may be used by one thread after the other, as the header states. The address is compared,
// never followed.
unsafe impl Send for CallbackTransport {}

impl CallbackTransport {
    /// Takes over `opaque`, even if it fails.
    ///
    /// # Safety
    /// `ops` is null or a table of its size whose functions may be called with `opaque` for as
    /// long as this lives.
    unsafe fn new(ops: *const sparsestream_transport_ops, opaque: *mut c_void) -> Result<Self> {
        // SAFETY: as promised.
        let (ops, opaque) = unsafe { opaque::table(ops, opaque) }?;
        Ok(CallbackTransport {
            ops,
            opaque,
            input: None,
            output: None,
            retry: None,
            plain_input: None,
            plain_output: None,
            words: None,
        })
    }

    /// Calls a function that returns a count of at most `most`, or a negative errno.
    fn call(&mut self, most: usize, call: impl FnOnce() -> i64) -> Sys<usize> {
        match SITE.count(most as u64, call) {
            Ok(count) => Ok(count as usize),
            Err(error) => {
                let errno = error.errno();
                if let Error::Said { text, .. } = error {
                    self.words = Some(text);
                }
                Err(errno)
            }
        }
    }

    /// The events that the function which has just returned -EAGAIN waits for.
    fn watch(&self) -> Option<Watch> {
        let ask = self.ops.wait?;
        let mut wait = sparsestream_wait::nothing();
        let pointer = self.opaque.pointer();
        // SAFETY: the caller promised that its functions may be called with its opaque.
        match SITE.done(|| unsafe { ask(pointer, &raw mut wait) }) {
            Ok(()) => wait.watch(),
            // The event that it waits for is not known: ask again soon.
            Err(_) => Some(Watch::time(AGAIN)),
        }
    }

    /// The descriptor that is offered now, examined.
    fn plain(
        offer: Option<unsafe extern "C" fn(*mut c_void) -> c_int>,
        opaque: &Opaque,
        known: &mut Option<(Fd, ByteEnd)>,
        side: Side,
    ) {
        // SAFETY: the caller promised that its functions may be called with its opaque.
        let fd = offer.map_or(-1, |offer| unsafe { offer(opaque.pointer()) });
        if known.as_ref().is_some_and(|(known, _)| *known == fd) {
            return;
        }
        *known = if fd < 0 { None } else { ByteEnd::open(fd, side).ok().map(|end| (fd, end)) };
    }
}

impl Transport for CallbackTransport {
    fn reads(&self) -> bool {
        self.ops.read.is_some()
    }

    fn writes(&self) -> bool {
        self.ops.write.is_some()
    }

    fn read(&mut self, first: &mut [u8], second: &mut [u8]) -> Sys<usize> {
        let read = self.ops.read.ok_or(libc::EBADF)?;
        let buffer = if first.is_empty() { second } else { first };
        let (pointer, length) = (self.opaque.pointer(), buffer.len());
        // SAFETY: the caller promised that its functions may be called with its opaque; the buffer is
        // writable for its length.
        let count =
            self.call(length, || unsafe { read(pointer, buffer.as_mut_ptr().cast(), length) });
        self.input = if count == Err(libc::EAGAIN) { self.watch() } else { None };
        count
    }

    fn write(&mut self, first: &[u8], second: &[u8]) -> Sys<usize> {
        let write = self.ops.write.ok_or(libc::EBADF)?;
        let mut buffer = if first.is_empty() { second } else { first };
        // More may have been added since.
        if let Some((address, length)) = self.retry.take() {
            if address == buffer.as_ptr() && length < buffer.len() {
                buffer = &buffer[..length];
            }
        }
        let (pointer, length) = (self.opaque.pointer(), buffer.len());
        // SAFETY: as above; the buffer is readable for its length.
        let count = self.call(length, || unsafe { write(pointer, buffer.as_ptr().cast(), length) });
        if let Err(libc::EAGAIN | libc::EINTR) = count {
            self.retry = Some((buffer.as_ptr(), buffer.len()));
        }
        self.output = if count == Err(libc::EAGAIN) { self.watch() } else { None };
        count.and_then(|count| if count == 0 { Err(libc::EIO) } else { Ok(count) })
    }

    fn close(&mut self) -> Sys<()> {
        let Some(close) = self.ops.close else { return Ok(()) };
        let pointer = self.opaque.pointer();
        // SAFETY: as above.
        let result = self.call(0, || i64::from(unsafe { close(pointer) }));
        if result == Err(libc::EAGAIN) {
            let watch = self.watch();
            (self.input, self.output) = (watch, watch);
        }
        result.map(drop)
    }

    fn waiting(&self, wants: Wants) -> Waiting {
        let watch = match (wants, self.input, self.output) {
            (Wants::Input, input, _) => input,
            (Wants::Output, _, output) => output,
            (Wants::Both, Some(input), Some(output)) => Some(input.or(&output)),
            (Wants::Both, input, output) => output.or(input),
        };
        watch.map_or(Waiting::Owner, Waiting::Watch)
    }

    fn words(&mut self) -> Option<Text> {
        self.words.take()
    }

    fn steady(&self) -> bool {
        true
    }

    fn insists(&self) -> usize {
        self.retry.map_or(0, |(_, length)| length)
    }

    fn plain_input(&mut self) -> Option<&mut ByteEnd> {
        let offer = self.ops.input_fd;
        Self::plain(offer, &self.opaque, &mut self.plain_input, Side::Source);
        self.plain_input.as_mut().map(|(_, end)| end)
    }

    fn plain_output(&mut self) -> Option<&mut ByteEnd> {
        let offer = self.ops.output_fd;
        Self::plain(offer, &self.opaque, &mut self.plain_output, Side::Sink);
        self.plain_output.as_mut().map(|(_, end)| end)
    }
}
