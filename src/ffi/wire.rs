//! Exports: the wire, for those who have no protocol of their own.

use super::guard;
use super::handles::{self, sparsestream_sink, sparsestream_source};
use super::opaque::Opaque;
use super::options::{
    self, SPARSESTREAM_WIRE_CHECKSUM, SPARSESTREAM_WIRE_DIGEST, SPARSESTREAM_WIRE_RESTART,
    SPARSESTREAM_WIRE_RESUME, SPARSESTREAM_WIRE_SIZES, Sized0,
};
use crate::buffer::boxed;
use crate::end::{Description, Introduction};
use crate::error::{Error, Operation, Result, Side};
use crate::wire::frame::{MAX_OFFSET, MAX_PAYLOAD};
use crate::wire::reader::{Held, Reader, ReaderOptions};
use crate::wire::writer::{Writer, WriterOptions};
use crate::{sys, wait, wire};
use libc::c_int;
use std::time::Duration;

/// How a stream of frames is sent or received. Zero-initialise it and set `size`; NULL means all
/// defaults.
///
/// What is only of one end must be zero at the other.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct sparsestream_wire_options {
    /// `sizeof(sparsestream_wire_options)`.
    pub size: u64,
    /// Any of `SPARSESTREAM_WIRE_CHECKSUM`, `_DIGEST`, `_RESTART`; for a sender `_RESUME` and
    /// `_SIZES` too.
    pub flags: u64,
    /// Sender, with `SPARSESTREAM_WIRE_SIZES`: bytes of the stream; -1 if not known. A transfer
    /// that knows it tells it by itself.
    pub length: i64,
    /// Sender, with `SPARSESTREAM_WIRE_SIZES`: bytes of the whole source; -1 if not known.
    pub source_size: i64,
    /// Sender, with `SPARSESTREAM_WIRE_SIZES`: where in the source the stream starts, in bytes.
    pub source_offset: i64,
    /// Sender, with `SPARSESTREAM_WIRE_SIZES`: bytes of the stream that are data, so that the
    /// receiver can tell how much is left to move; -1 if not known.
    pub data_bytes: i64,
    /// Sender: what it calls this transfer, told to the receiver; zeros for nothing. Receiver: the
    /// transfer that brought what it holds; zeros for any.
    pub transfer_id: [u8; 16],
    /// Sender: what tells this source, as it is now, from any other; zeros for nothing.
    /// `sparsestream_wire_describe` makes one. Receiver: the identity that was told when what it
    /// holds came; zeros for any.
    pub identity: [u8; 32],
    /// Sender: the digest is sent after each so many bytes; 0 means 64 MiB.
    pub checkpoint_interval: i64,
    /// Sender: milliseconds of silence after which it says that it is still there; 0 means never.
    /// It does so while the transfer runs or waits; `timeout_ms` of `sparsestream_wait` tells when
    /// the next is due. For `stall_ms` of the receiver's transfer it counts, for `idle_ms` it does
    /// not.
    pub keepalive_ms: i64,
    /// Receiver: the most bytes that it takes, holes included; 0 means no limit of its own. A
    /// longer stream is refused with -EFBIG before a byte of it is passed on, or where it gets too
    /// long if its length was not announced.
    pub max_size: i64,
    /// Receiver: the most bytes of data in one frame, 4096 to 4194304; 0 means 4194304.
    pub max_payload: u32,
    /// Zero.
    pub reserved: u32,
    /// Receiver: bytes from the start of the stream that it holds, durably, from an earlier
    /// transfer; 0 for none.
    pub resume_offset: i64,
    /// Receiver: the digest of those bytes, by `sparsestream_wire_digest`.
    pub resume_digest: u64,
}

/// What a sender told of its stream. Set `size` before it is handed in.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct sparsestream_wire_info {
    /// `sizeof(sparsestream_wire_info)`, set by the caller.
    pub size: u64,
    /// Those of `SPARSESTREAM_WIRE_CHECKSUM` and `SPARSESTREAM_WIRE_DIGEST` that are in force.
    pub flags: u64,
    /// Bytes of the stream, or -1 if the sender does not know.
    pub length: i64,
    /// Bytes of the whole source, or -1 if the sender does not know.
    pub source_size: i64,
    /// Where in the source the stream starts, in bytes.
    pub source_offset: i64,
    /// Bytes of the stream that are data, or -1 if the sender does not know.
    pub data_bytes: i64,
    /// Where in the stream this transfer starts: `resume_offset` of the options if the sender goes
    /// on from there, else 0. The sink must begin there.
    pub start: i64,
    /// What the sender calls this transfer; zeros for nothing.
    pub transfer_id: [u8; 16],
    /// What tells its source from any other; zeros for nothing.
    pub identity: [u8; 32],
    /// 1 if the sender waits for the receiver's last word, else 0.
    pub answers: i32,
    /// Zero.
    pub reserved: i32,
}

// SAFETY: repr(C), u64 size first, integers and arrays of them.
unsafe impl Sized0 for sparsestream_wire_options {}
// SAFETY: repr(C), u64 size first, integers and arrays of them.
unsafe impl Sized0 for sparsestream_wire_info {}

/// Makes a sink that sends frames, as docs/wire-format.md specifies them, to a pipe, a socket, a
/// character device or, to be received later, a regular file at its position.
///
/// With a way back (`read_fd` at least 0; the same descriptor twice for a socket) the receiver's
/// answer is the result: the sink is finished when the receiver has said that all is stored, and a
/// failure of the receiver is this sink's failure, with the receiver's errno, operation, side and
/// offset (`peer` of `sparsestream_error`). With -1 success means only that all was written.
///
/// Sending never waits, whatever the mode of the descriptors, and raises no SIGPIPE. The sink takes
/// at most 530 KiB of memory, whatever it sends. Small pieces are gathered: those of a sink that is
/// driven by hand may wait until it is finished. Data from 64 KiB up that lies in a file is sent
/// from there by a transfer, without a copy, if there is a way back, `write_fd` is in non-blocking
/// mode, and neither checksums nor the digest are in force, which the receiver may ask for; or if
/// `write_fd` is a regular file. Where zeros are looked for, only blocks of 64 KiB and more that are
/// in the cache and do not begin with zeros are sent so. Both descriptors stay the caller's, carry
/// this stream and nothing else, and must stay open until the sink is freed. One that was used and
/// is freed without having been finished tells the receiver ECANCELED.
///
/// With `SPARSESTREAM_WIRE_RESUME` the sink must be driven by a transfer, which reads what the
/// receiver holds, compares, and goes on behind it; if it differs the transfer ends with -ESTALE,
/// or starts again if both ends have `SPARSESTREAM_WIRE_RESTART` and the source can go back.
///
/// Returns 0 and a handle in `*sink` that the caller frees, or a negative errno with `*sink` NULL:
/// -EINVAL (an argument, an unknown flag, a field of the receiver's, sizes that contradict each
/// other, `SPARSESTREAM_WIRE_RESUME` without a way back), -E2BIG (options from a later version),
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
        let writer = Writer::new(write_fd, way_back(read_fd), &sender(&options)?)?;
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
/// To go on with an earlier transfer, set `resume_offset`, `resume_digest` and `identity`, ask with
/// `sparsestream_source_wire_info` where the stream starts, and make the sink begin there. What is
/// durable (`checkpoint` of `sparsestream_sink_options`) is told to the sender by the transfer.
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
        let reader = Reader::new(read_fd, way_back(write_fd), &receiver(&options)?)?;
        out.set(handles::new_source(boxed(reader)?, Opaque::NONE)?);
        Ok(0)
    })
}

/// What the sender told of its stream, before any of it is read. Receives it first, if that was not
/// done yet: the call waits, with poll(2), on a descriptor in blocking mode; on one in non-blocking
/// mode it returns -EAGAIN, and is to be called again when `read_fd` can be read.
///
/// Returns 0 or a negative errno: -EINVAL (no source made by `sparsestream_source_from_wire`, or an
/// argument), -EBUSY, -EAGAIN, and those of a source from a wire.
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
        let told = unsafe {
            handles::with_source(source, |source| {
                loop {
                    let why = "was not made by sparsestream_source_from_wire";
                    let wire = source.introduced();
                    let wire = wire.ok_or(Error::argument("source", why, libc::EINVAL))?;
                    match wire.introduction() {
                        Err(error) if error.interrupted() => {}
                        Err(error) if error.would_block() => match source.waiting() {
                            wait::Waiting::Descriptor { fd, events, blocking: true } => {
                                wait_for(fd, events)?;
                            }
                            _ => return Err(error),
                        },
                        other => return other,
                    }
                }
            })
        }?;
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

/// The digest of `length` bytes of a file or a block device from `offset` on: that of
/// docs/wire-format.md, which is the same for a hole and for written zeros. It finds accidental
/// damage, and is no protection against an attacker. Reads all data of the range; holes are passed
/// over by their map. The file position is used and put back.
///
/// Returns 0 and the digest in `*digest`, or a negative errno: -EINVAL, -ESPIPE, -ENODATA (it ends
/// before), -EBADF, -EISDIR, -ENOMEM, or the errno of a read.
///
/// # Safety
/// `digest` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_wire_digest(
    fd: c_int,
    offset: i64,
    length: i64,
    digest: *mut u64,
) -> c_int {
    guard::code(|| {
        // SAFETY: the caller promises NULL or a writable place.
        let out = unsafe { guard::output(digest, "digest") }?;
        let offset = guard::unsigned(offset, "offset")?;
        let length = guard::unsigned(length, "length")?;
        out.set(wire::digest_of(fd, offset, length)?);
        Ok(0)
    })
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

fn known(size: Option<u64>) -> i64 {
    size.map_or(-1, guard::signed)
}

/// Refuses a field that belongs to the other end.
fn only_zero(zero: bool, name: &'static str) -> Result<()> {
    if zero { Ok(()) } else { Err(Error::argument(name, "is not of this end", libc::EINVAL)) }
}

/// The caller's options as a sender's.
fn sender(options: &sparsestream_wire_options) -> Result<WriterOptions> {
    let flag = |flag| options.flags & flag != 0;
    guard::flags(
        options.flags,
        SPARSESTREAM_WIRE_CHECKSUM
            | SPARSESTREAM_WIRE_DIGEST
            | SPARSESTREAM_WIRE_RESUME
            | SPARSESTREAM_WIRE_RESTART
            | SPARSESTREAM_WIRE_SIZES,
        "options.flags",
    )?;
    only_zero(options.max_size == 0, "options.max_size")?;
    only_zero(options.max_payload == 0, "options.max_payload")?;
    only_zero(options.reserved == 0, "options.reserved")?;
    only_zero(options.resume_offset == 0, "options.resume_offset")?;
    only_zero(options.resume_digest == 0, "options.resume_digest")?;
    let told = |size: i64, name| match size {
        -1 => Ok(None),
        _ => guard::unsigned(size, name).map(Some),
    };
    let mut description = Description {
        transfer_id: options.transfer_id,
        identity: options.identity,
        ..Description::default()
    };
    if flag(SPARSESTREAM_WIRE_SIZES) {
        description.length = told(options.length, "options.length")?;
        description.source_size = told(options.source_size, "options.source_size")?;
        description.source_offset =
            guard::unsigned(options.source_offset, "options.source_offset")?;
        description.data_bytes = told(options.data_bytes, "options.data_bytes")?;
    }
    Ok(WriterOptions {
        description,
        checksum: flag(SPARSESTREAM_WIRE_CHECKSUM),
        digest: flag(SPARSESTREAM_WIRE_DIGEST),
        resume: flag(SPARSESTREAM_WIRE_RESUME),
        restart: flag(SPARSESTREAM_WIRE_RESTART),
        checkpoint_interval: guard::unsigned(
            options.checkpoint_interval,
            "options.checkpoint_interval",
        )?,
        keepalive: Duration::from_millis(guard::unsigned(
            options.keepalive_ms,
            "options.keepalive_ms",
        )?),
    })
}

/// The caller's options as a receiver's.
fn receiver(options: &sparsestream_wire_options) -> Result<ReaderOptions> {
    let flag = |flag| options.flags & flag != 0;
    guard::flags(
        options.flags,
        SPARSESTREAM_WIRE_CHECKSUM | SPARSESTREAM_WIRE_DIGEST | SPARSESTREAM_WIRE_RESTART,
        "options.flags",
    )?;
    for (value, name) in [
        (options.length, "options.length"),
        (options.source_size, "options.source_size"),
        (options.source_offset, "options.source_offset"),
        (options.data_bytes, "options.data_bytes"),
        (options.checkpoint_interval, "options.checkpoint_interval"),
        (options.keepalive_ms, "options.keepalive_ms"),
        (i64::from(options.reserved), "options.reserved"),
    ] {
        only_zero(value == 0, name)?;
    }
    let length = guard::unsigned(options.resume_offset, "options.resume_offset")?;
    Ok(ReaderOptions {
        max_size: match guard::unsigned(options.max_size, "options.max_size")? {
            0 => MAX_OFFSET,
            size => size,
        },
        max_payload: if options.max_payload == 0 { MAX_PAYLOAD } else { options.max_payload },
        checksum: flag(SPARSESTREAM_WIRE_CHECKSUM),
        digest: flag(SPARSESTREAM_WIRE_DIGEST),
        held: (length > 0).then_some(Held {
            length,
            digest: options.resume_digest,
            transfer_id: options.transfer_id,
            identity: options.identity,
        }),
        restart: flag(SPARSESTREAM_WIRE_RESTART),
    })
}

impl From<Introduction> for sparsestream_wire_info {
    fn from(told: Introduction) -> Self {
        let Description { length, source_size, source_offset, data_bytes, transfer_id, identity } =
            told.description;
        Self {
            size: 0,
            flags: if told.checksum { SPARSESTREAM_WIRE_CHECKSUM } else { 0 }
                | if told.digest { SPARSESTREAM_WIRE_DIGEST } else { 0 },
            length: known(length),
            source_size: known(source_size),
            source_offset: guard::signed(source_offset),
            data_bytes: known(data_bytes),
            start: guard::signed(told.start),
            transfer_id,
            identity,
            answers: i32::from(told.answers),
            reserved: 0,
        }
    }
}
