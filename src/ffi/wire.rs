//! Exports: the wire, for those who have no protocol of their own.

use super::guard;
use super::handles::{self, sparsestream_sink, sparsestream_source};
use super::opaque::Opaque;
use super::options::{self, SPARSESTREAM_WIRE_SIZES};
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

/// Makes a sink that sends frames, as docs/wire-format.md specifies them, to a pipe, a socket, a
/// character device or, to be received later, a regular file at its position.
///
/// With a way back (`read_fd` at least 0; the same descriptor twice for a socket) the receiver's
/// answer is the result: the sink is finished when the receiver has said that everything is stored, and
/// a failure of the receiver is this sink's failure, with the receiver's errno, operation, side and
/// offset (`peer` of `sparsestream_error`). With -1 success means only that everything was written.
///
/// Sending never waits, whatever the mode of the descriptors, and raises no SIGPIPE. The sink takes
/// at most 530 KiB of memory, whatever it sends. Small pieces are gathered: those of a sink that is
/// driven by hand may wait until it is finished. Both descriptors stay the caller's, carry this stream
/// and nothing else, and must stay open until the sink is freed. A sink that was used and is freed
/// without having been finished reports ECANCELED to the receiver.
///
/// A transfer sends data from 64 KiB up that lies in a file from there, without a copy, if `write_fd`
/// is a regular file, or if all of this holds: there is a way back, `write_fd` is in non-blocking mode,
/// and neither checksums nor the digest are in force, which the receiver may ask for. Where zeros are
/// looked for, only blocks of 64 KiB and more that are in the cache and do not begin with zeros are sent
/// so.
///
/// With `SPARSESTREAM_WIRE_RESUME` the sink must be driven by a transfer. It reads the part that the
/// receiver holds, compares the digests, and resumes after it. If they differ the transfer ends with
/// -ESTALE, or starts again if both ends have `SPARSESTREAM_WIRE_RESTART` and the source can go back.
///
/// Kept sections need `SPARSESTREAM_WIRE_KEEP`, or a transfer whose source declares them; the receiver
/// refuses them with -EOPNOTSUPP unless it has the flag too.
///
/// Returns 0 and a handle in `*sink` that the caller frees, or a negative errno with `*sink` NULL:
/// -EINVAL (an argument, an unknown flag, a field of the receiver's, sizes that contradict each
/// other, `SPARSESTREAM_WIRE_RESUME` without a way back), -EOPNOTSUPP (`SPARSESTREAM_WIRE_RESUME` with
/// `SPARSESTREAM_WIRE_KEEP`), -E2BIG (options from a later version),
/// -EBADF (not open for writing, or reading), -EISDIR, -ESPIPE (a block device, or nothing that
/// carries bytes), -EPROTOTYPE (no stream socket), -ENOMEM, or the errno of fstat(2), fcntl(2) or
/// getsockopt(2).
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
        let options = unsafe { options::read(options, "options") }?;
        let transport = Descriptors::new(way_back(read_fd), Some(write_fd), Side::Sink)?;
        let writer = Writer::new(boxed(transport)?, &sender(&options)?)?;
        out.set(handles::new_sink(boxed(writer)?, Opaque::NONE)?);
        Ok(0)
    })
}

/// Makes a source that receives frames from a pipe, a socket, a character device or a regular file
/// at its position; see `sparsestream_sink_to_wire`.
///
/// With a way back (`write_fd` at least 0; the same descriptor twice for a socket) the sender is
/// answered, if it waits for that: finishing the source, as a transfer does after its sink, says
/// that all is stored; aborting it tells what failed. With -1 a sender that waits for answers is
/// refused with -ENOTCONN.
///
/// Nothing that comes is trusted: a stream that breaks the rules, is longer than `max_size` or was
/// damaged is an error before the sink hears of it, but for the data of a frame whose checksum
/// comes to be wrong with its last byte. A stream that is cut off is -ENODATA. Receiving never
/// waits. The source takes at most 270 KiB of memory, whatever it receives. A transfer moves long
/// data into a file or a block device without a copy through memory, if `read_fd` is a pipe, a
/// regular file or in non-blocking mode, neither checksums nor the digest are in force, and the transfer
/// looks for no zeros.
///
/// To resume an earlier transfer, set `resume_offset`, `resume_fd`, `resume_fd_offset` and `identity`,
/// ask with `sparsestream_source_wire_info` where the stream starts, and make the sink begin there. When
/// a sender has introduced a stream of the same transfer id, identity and length, the library reads the
/// held bytes back and offers their digest; the sender compares it with its source. This takes as
/// long as reading them. It is done in bounded steps, in `sparsestream_source_wire_info` or in
/// `sparsestream_transfer_run`, and the sender gets a sign of life each second. The transfer reports to
/// the sender what became durable (`checkpoint` of `sparsestream_sink_options`).
///
/// Returns 0 and a handle in `*source` that the caller frees, or a negative errno with `*source`
/// NULL: -EINVAL (an argument, an unknown flag, a field of the sender's), and those of
/// `sparsestream_sink_to_wire`. What is wrong with the stream itself shows when the source is used:
/// -EPROTO (a frame that may not be), -EBADMSG (a checksum or the digest is wrong), -EMSGSIZE (more
/// data in a frame than `max_payload`), -EFBIG, -ENODATA, -EPROTONOSUPPORT (a version or a feature
/// that is not known), -EOPNOTSUPP (no checksums, no digest, no resuming), -ENOTCONN, -ESTALE (the
/// source has changed), -EAGAIN, -EINTR, the errno of a read, or the one that the sender told.
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
        let options = unsafe { options::read(options, "options") }?;
        let transport = Descriptors::new(Some(read_fd), way_back(write_fd), Side::Source)?;
        let reader = Reader::new(boxed(transport)?, &receiver(&options)?)?;
        out.set(handles::new_source(boxed(reader)?, Opaque::NONE)?);
        Ok(0)
    })
}

/// The facts that the sender has told of its stream, before any of it is read. Receives them first, and
/// reads back what is held for a resume, if that was not done yet. On a descriptor in blocking mode the
/// call waits, with poll(2). On any other it returns -EAGAIN, and is to be called again when `read_fd`
/// can be read. A call handles a bounded number of frames and held bytes (16,384 and 64 MiB): if that
/// was not enough it returns -EINTR in either mode, and is to be called again at once.
///
/// Returns 0 or a negative errno: -EINVAL (not a source from a wire, or an argument), -EBUSY, -EAGAIN, -EINTR,
/// and those of a source from a wire.
///
/// # Safety
/// `source` is NULL or a live handle; `info` is NULL or a struct of its `size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_source_wire_info(
    source: *mut sparsestream_source,
    info: *mut sparsestream_wire_info,
) -> c_int {
    guard::code(|| {
        // SAFETY: the caller promises a live handle or NULL.
        let told = unsafe { handles::with_source(source, introduction) }?;
        // SAFETY: the caller promises a struct of its size.
        unsafe { options::write(info, &told.into(), "info") }?;
        Ok(0)
    })
}

/// Fills a sender's options with what can be told of a file or a block device: the sizes, of which
/// `data_bytes` by a walk along its map, and an identity of device, inode, size and modification
/// time; of a block device, which has no such time, of its number and its size. Sets
/// `SPARSESTREAM_WIRE_SIZES`. All other fields are left alone.
///
/// `offset` and `length` are the range that will be sent, in bytes; a length of 0 means to the end.
/// The file position is used and put back.
///
/// Returns 0 or a negative errno, as `sparsestream_source_from_fd`, -ESPIPE for what has no size,
/// or the errno of lseek(2).
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
        let mut value = unsafe { options::read(options, "options") }?;
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
        unsafe { options::write(options, &value, "options") }?;
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
