//! Exports: the wire, for programs without a protocol of their own.

use super::guard;
use super::handles::{self, sparsestream_sink, sparsestream_source};
use super::opaque::Opaque;
use super::options::SPARSESTREAM_WIRE_SIZES;
use super::sized;
use super::wire_options::{
    known, receiver, sender, sparsestream_wire_info, sparsestream_wire_options,
};
use crate::buffer::boxed;
use crate::end::{Introduction, Source};
use crate::error::{Error, Operation, Result, Side};
use crate::wire::reader::Reader;
use crate::wire::transport::Descriptors;
use crate::wire::writer::Writer;
use crate::{sys, wait, wire};
use libc::c_int;
use std::time::Duration;

/// Makes a sink that sends a stream in the library's wire format, which docs/wire-format.md specifies, to a
/// pipe, a socket or a character device. It can also write it to a regular file, at its file position, to be
/// received later.
///
/// `read_fd` is the way back: the sink reads the receiver's answers from it. For a socket, pass the same
/// descriptor twice. With a way back, the sink finishes with success only if the receiver has reported that
/// everything is stored. If the receiver fails, the sink fails with the receiver's errno, operation, side and
/// offset, and `peer` of `sparsestream_error` is 1. If `read_fd` is -1, the receiver cannot answer, and success
/// only means that everything was written.
///
/// The sink never waits for a descriptor, whatever its mode, and raises no SIGPIPE. It takes at most 530 KiB
/// of memory. It gathers small pieces, so if you drive it by hand, the last pieces may be sent only when it
/// is finished. The caller owns both descriptors. They must stay open until the sink was freed and no
/// transfer holds it, and must not be used for anything else until then. If a sink was used and is freed
/// before it was finished, it reports ECANCELED to the receiver.
///
/// If the source is a file, a transfer can send pieces of 64 KiB or more without a copy through memory under
/// these conditions:
///
/// - neither end requested checksums or the digest;
/// - `write_fd` is a regular file, or is in non-blocking mode and there is a way back;
/// - with `SPARSESTREAM_DETECT_ZEROES`, the piece is in the page cache and does not begin with zeros.
///
/// With `SPARSESTREAM_WIRE_RESUME` a transfer must drive the sink. It reads the part of the source that the
/// receiver holds, compares the digests, and resumes after that part. If the digests differ, the transfer
/// fails with -ESTALE. It starts again instead if both ends have `SPARSESTREAM_WIRE_RESTART` and the source
/// can go back to its start.
///
/// Kept sections need `SPARSESTREAM_WIRE_KEEP`, or a transfer whose source declares them. A receiver without
/// the flag refuses them with -EOPNOTSUPP.
///
/// Returns 0 and a handle in `*sink` that the caller frees, or a negative errno with `*sink` NULL:
///
/// - -EINVAL: an argument is invalid, a flag is unknown, a field for the receiver is set, sizes contradict each
///   other, or `SPARSESTREAM_WIRE_RESUME` without a way back;
/// - -EOPNOTSUPP: `SPARSESTREAM_WIRE_RESUME` with `SPARSESTREAM_WIRE_KEEP`;
/// - -E2BIG: the options are from a later version;
/// - -EBADF: `write_fd` is not open for writing, or `read_fd` is not open for reading;
/// - -EISDIR: a descriptor is a directory; -EPROTOTYPE: it is a socket that is not a stream socket;
/// - -ESPIPE: it is a block device, or carries no bytes, such as an eventfd;
/// - -ENOMEM, or the errno of fstat(2), fcntl(2) or getsockopt(2).
///
/// Errors of the stream itself are reported when the sink is used:
///
/// - -ECONNRESET: the receiver closed the connection without an answer;
/// - -EBADMSG: the receiver has stored different content;
/// - -ESTALE: the held bytes differ from the source;
/// - -EPROTO: an answer breaks the rules;
/// - or the errno of a read or a write, or the errno that the receiver reported.
///
/// # Safety
/// `options` is NULL or a struct of its `size`; `sink` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_sink_to_wire(
    write_fd: c_int,
    read_fd: c_int,
    options: *const sparsestream_wire_options,
    sink: *mut *mut sparsestream_sink,
) -> c_int {
    guard::code(|| {
        // SAFETY: the caller promises NULL or a writable place.
        let out = unsafe { guard::handle_output(sink, "sink") }?;
        // SAFETY: the caller promises a struct of its size.
        let options = unsafe { sized::read(options, "options") }?;
        let transport = Descriptors::new(way_back(read_fd), Some(write_fd), Side::Sink)?;
        let writer = Writer::new(boxed(transport)?, &sender(&options)?)?;
        out.set(handles::new_sink(boxed(writer)?, Opaque::NONE)?);
        Ok(0)
    })
}

/// Makes a source that receives a stream in the library's wire format, from a pipe, a socket, a character
/// device, or a regular file at its file position. See `sparsestream_sink_to_wire`.
///
/// `write_fd` is the way back to the sender. For a socket, pass the same descriptor twice. When the source is
/// finished, which a transfer does after its sink, it reports to the sender that everything is stored. When
/// it is aborted, it reports the failure. If `write_fd` is -1, a sender that waits for an answer is refused
/// with -ENOTCONN.
///
/// The source checks everything that it receives. It fails if the stream breaks the rules, is longer than
/// `max_size` or was damaged, and no invalid frame reaches the sink. There is one exception: data may be passed
/// to the sink before its checksum was verified, so the sink may already have received the data of a damaged
/// frame. A stream that is cut off fails with -ENODATA. The source never waits for a descriptor. It takes at
/// most 270 KiB of memory.
///
/// A transfer moves pieces of 64 KiB or more to a file or a block device without a copy through memory under
/// these conditions:
///
/// - neither end requested checksums or the digest;
/// - `read_fd` is a pipe or a regular file, or is in non-blocking mode;
/// - the transfer does not use `SPARSESTREAM_DETECT_ZEROES`.
///
/// To resume an earlier transfer, set `resume_offset`, `resume_fd`, `resume_fd_offset` and `identity`. Then
/// call `sparsestream_source_wire_info`, and make the sink begin at the `start` that it reports. If the
/// transfer id, identity and length of the stream match, the library reads the held bytes back and sends
/// their digest, and the sender compares it with its source. This takes as long as reading these bytes. The
/// library does it in small steps, in `sparsestream_source_wire_info` or `sparsestream_transfer_run`, and
/// sends a sign of life each second. During the transfer, it reports to the sender how much is durable (see
/// `checkpoint` of `sparsestream_sink_options`).
///
/// Returns 0 and a handle in `*source` that the caller frees, or a negative errno with `*source` NULL:
/// -EINVAL (an argument is invalid, a flag is unknown, or a field for the sender is set), and the errors of
/// `sparsestream_sink_to_wire`. Errors of the stream itself are reported when the source is used:
///
/// - -EPROTO: a frame breaks the rules;
/// - -EBADMSG: a checksum or the digest is wrong;
/// - -EMSGSIZE: a frame has more data than `max_payload`, or than the sender announced;
/// - -EFBIG: the stream is longer than `max_size`, or than announced;
/// - -ENODATA: the stream was cut off;
/// - -EPROTONOSUPPORT: an unknown version or feature;
/// - -EOPNOTSUPP: the sender does not support checksums, the digest or resuming, which this end requires; or
///   the stream has kept sections, which this end does not accept;
/// - -ENOTCONN: the sender waits for an answer, but `write_fd` is -1, or the transport has no `write`;
/// - -ESTALE: the source has changed, or the kept sections belong to another base;
/// - -EAGAIN, -EINTR, the errno of a read, or the errno that the sender reported.
///
/// # Safety
/// `options` is NULL or a struct of its `size`; `source` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_source_from_wire(
    read_fd: c_int,
    write_fd: c_int,
    options: *const sparsestream_wire_options,
    source: *mut *mut sparsestream_source,
) -> c_int {
    guard::code(|| {
        // SAFETY: the caller promises NULL or a writable place.
        let out = unsafe { guard::handle_output(source, "source") }?;
        // SAFETY: the caller promises a struct of its size.
        let options = unsafe { sized::read(options, "options") }?;
        let transport = Descriptors::new(Some(read_fd), way_back(write_fd), Side::Source)?;
        let reader = Reader::new(boxed(transport)?, &receiver(&options)?)?;
        out.set(handles::new_source(boxed(reader)?, Opaque::NONE)?);
        Ok(0)
    })
}

/// Reports the properties of the stream, before its first byte is read. The first call receives them from the
/// sender. If `resume_offset` is set, it also reads back the held bytes.
///
/// If `read_fd` is in blocking mode, the call waits with poll(2). Otherwise it returns -EAGAIN, and
/// `sparsestream_source_wait` reports what to wait for before the call is repeated. One call handles at most
/// 16,384 frames and 64 MiB of held bytes, and waits at most 16 times, for a second each time. If that is not
/// enough, it returns -EINTR in either mode: call it again at once.
///
/// A call that fails sets `greeted` of `info`, and all other fields to zero.
///
/// Returns 0 or a negative errno: -EINVAL (not a source of a wire, or an argument), -EBUSY, -EAGAIN, -EINTR,
/// and the errors of the stream (see `sparsestream_source_from_wire`).
///
/// # Safety
/// `source` is NULL or a live handle; `info` is NULL or a struct of its `size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_source_wire_info(
    source: *mut sparsestream_source,
    info: *mut sparsestream_wire_info,
) -> c_int {
    guard::code(|| {
        let mut greeted = 0;
        // SAFETY: the caller promises a live handle or NULL.
        let introduced = unsafe {
            handles::with_source(source, |source| {
                let introduced = introduction(source);
                greeted = source.introduced().is_some_and(|wire| wire.greeted()).into();
                introduced
            })
        };
        let facts = match &introduced {
            Ok(introduction) => (*introduction).into(),
            Err(_) => sparsestream_wire_info { greeted, ..Default::default() },
        };
        // SAFETY: the caller promises a struct of its size.
        unsafe { sized::write(info, &facts, "info") }?;
        introduced.map(|_| 0)
    })
}

/// Fills the options of a sender for a file or a block device: sets `SPARSESTREAM_WIRE_SIZES`, the sizes and
/// `identity`, and changes no other field. To find `data_bytes`, it walks along the map of holes. The identity
/// consists of the device, inode, size and modification time of a file, or of the number and size of a block
/// device.
///
/// `offset` and `length` are the range that will be sent, in bytes; a length of 0 means to the end. Position:
/// as with `sparsestream_in_data`. It moves during the call.
///
/// Returns 0, the errors of `sparsestream_source_from_fd`, -ESPIPE (a descriptor without a size), or the
/// errno of lseek(2).
///
/// # Safety
/// `options` is NULL or a struct of its `size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_wire_describe(
    fd: c_int,
    offset: i64,
    length: i64,
    options: *mut sparsestream_wire_options,
) -> c_int {
    guard::code(|| {
        if options.is_null() {
            return Err(Error::null("options"));
        }
        // SAFETY: the caller promises a struct of its size.
        let mut value = unsafe { sized::read(options, "options") }?;
        let offset = guard::unsigned(offset, "offset")?;
        let length = guard::unsigned(length, "length")?;
        let found = wire::describe(fd, offset, length)?;
        value.flags |= SPARSESTREAM_WIRE_SIZES;
        value.length = known(found.length);
        value.source_size = known(found.source_size);
        value.source_offset = guard::signed(found.source_offset);
        value.data_bytes = known(found.data_bytes);
        value.identity = found.identity;
        // SAFETY: as above.
        unsafe { sized::write(options, &value, "options") }?;
        Ok(0)
    })
}

/// The rounds of one call of `sparsestream_source_wire_info`: each is at most 1024 frames, or 4 MiB of
/// held bytes.
const ROUNDS: usize = 16;

fn introduction(source: &mut dyn Source) -> Result<Introduction> {
    for _ in 0..ROUNDS {
        let why = "is not a source from a wire";
        let wire = source.introduced().ok_or(Error::argument("source", why, libc::EINVAL))?;
        match wire.introduction() {
            Err(error) if error.interrupted() => {}
            Err(error) if error.would_block() => match source.waiting() {
                wait::Waiting::Descriptor { fd, events, blocking: true } => wait_for(fd, events)?,
                wait::Waiting::Descriptor { .. }
                | wait::Waiting::Watch(_)
                | wait::Waiting::Owner => return Err(error),
            },
            other => return other,
        }
    }
    Err(Error::nowhere(Operation::Open, Side::Source, libc::EINTR))
}

fn way_back(fd: c_int) -> Option<sys::Fd> {
    (fd != -1).then_some(fd)
}

fn wait_for(fd: sys::Fd, events: i16) -> Result<()> {
    match sys::poll(fd, events, Duration::from_secs(1)) {
        Ok(_) | Err(libc::EINTR | libc::EAGAIN) => Ok(()),
        Err(errno) => Err(Error::nowhere(Operation::Wait, Side::Source, errno)),
    }
}
