//! The options of the wire, and what a sender told.

use super::guard;
use super::options::{
    SPARSESTREAM_WIRE_CHECKSUM, SPARSESTREAM_WIRE_DIGEST, SPARSESTREAM_WIRE_KEEP,
    SPARSESTREAM_WIRE_RESTART, SPARSESTREAM_WIRE_RESUME, SPARSESTREAM_WIRE_SIZES, Sized0,
};
use crate::end::{Description, Introduction};
use crate::error::{Error, Result};
use crate::wire::proto::frame::{MAX_OFFSET, MAX_PAYLOAD};
use crate::wire::proto::receiver;
use crate::wire::reader::{Held, ReaderOptions};
use crate::wire::writer::WriterOptions;
use std::time::Duration;

/// How a stream of frames is sent or received. Zero-initialise it and set `size`; NULL means all
/// defaults.
///
/// A field that belongs to one end must be zero at the other.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct sparsestream_wire_options {
    /// `sizeof(sparsestream_wire_options)`.
    pub size: u64,
    /// Any of `SPARSESTREAM_WIRE_CHECKSUM`, `_DIGEST`, `_KEEP`, `_RESTART`; for a sender `_RESUME` and
    /// `_SIZES` too.
    pub flags: u64,
    /// Sender, with `SPARSESTREAM_WIRE_SIZES`: bytes of the stream; -1 if not known. A transfer
    /// that knows the length sends it without this.
    pub length: i64,
    /// Sender, with `SPARSESTREAM_WIRE_SIZES`: bytes of the whole source; -1 if not known.
    pub source_size: i64,
    /// Sender, with `SPARSESTREAM_WIRE_SIZES`: where in the source the stream starts, in bytes.
    pub source_offset: i64,
    /// Sender, with `SPARSESTREAM_WIRE_SIZES`: bytes of the stream that are data, so that the
    /// receiver can show how much is left to move; -1 if not known.
    pub data_bytes: i64,
    /// Sender: its name for this transfer, sent to the receiver; zeros for none. Receiver: the
    /// transfer that brought what it holds; zeros for any.
    pub transfer_id: [u8; 16],
    /// Sender: distinguishes this source, as it is now, from any other; zeros for nothing.
    /// `sparsestream_wire_describe` makes one. It is sent before the receiver is known, unless the
    /// transport has authenticated it. Receiver: the identity that was sent when what it holds came;
    /// zeros for any. An equal identity alone never counts as proof of equal content.
    pub identity: [u8; 32],
    /// With `SPARSESTREAM_WIRE_KEEP`, sender: the identity of the content that kept parts refer to;
    /// zeros for none. Receiver: the identity of what its target holds; another one is refused with
    /// -ESTALE before a byte moves. Zeros for any.
    pub base_identity: [u8; 32],
    /// Sender: the digest is sent after this many bytes of data; 0 means 64 MiB. It is also sent 5
    /// seconds after the last time if anything was sent since.
    pub checkpoint_interval: i64,
    /// Milliseconds of silence after which this end sends a sign of life; 0 means never. It does so
    /// while the transfer runs or waits; `timeout_ms` of `sparsestream_wait` says when the next is
    /// due. It counts for `stall_ms` of the other end's transfer, and not for `idle_ms`. A receiver
    /// that reads back what it holds sends one each second, whatever this says.
    pub keepalive_ms: i64,
    /// Receiver: the most bytes that it takes, holes included; 0 means no limit of its own. A
    /// longer stream is refused with -EFBIG before a byte of it is passed on, or where it gets too
    /// long if its length was not announced.
    pub max_size: i64,
    /// Receiver: the most bytes of data in one frame, 4096 to 4194304; 0 means 4194304.
    pub max_payload: u32,
    /// Receiver, with `resume_offset`: a file or a block device that holds the bytes. It is read from
    /// when a sender has introduced the same source, and must stay open until the source is freed.
    pub resume_fd: i32,
    /// Receiver: bytes from the start of the stream that it holds, durably, from an earlier
    /// transfer; 0 for none.
    pub resume_offset: i64,
    /// Receiver: where in `resume_fd` the first byte of the stream is, in bytes.
    pub resume_fd_offset: i64,
}

/// What a sender told of its stream. Set `size` before it is handed in.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct sparsestream_wire_info {
    /// `sizeof(sparsestream_wire_info)`, set by the caller.
    pub size: u64,
    /// Those of `SPARSESTREAM_WIRE_CHECKSUM`, `SPARSESTREAM_WIRE_DIGEST` and `SPARSESTREAM_WIRE_KEEP`
    /// that are in force.
    pub flags: u64,
    /// Bytes of the stream, or -1 if the sender does not know.
    pub length: i64,
    /// Bytes of the whole source, or -1 if the sender does not know.
    pub source_size: i64,
    /// Where in the source the stream starts, in bytes.
    pub source_offset: i64,
    /// Bytes of the stream that are data, or -1 if the sender does not know.
    pub data_bytes: i64,
    /// Where in the stream this transfer starts: `resume_offset` of the options if the sender resumes
    /// there, else 0. The sink must begin there.
    pub start: i64,
    /// The sender's name for this transfer; zeros for none.
    pub transfer_id: [u8; 16],
    /// Distinguishes its source from any other; zeros for nothing.
    pub identity: [u8; 32],
    /// The identity of the content that kept parts refer to; zeros for none.
    pub base_identity: [u8; 32],
    /// 1 if the sender waits for the receiver's last word, else 0.
    pub answers: i32,
    /// Zero.
    pub reserved: i32,
}

// SAFETY: repr(C), u64 size first, integers and arrays of them.
unsafe impl Sized0 for sparsestream_wire_options {}
// SAFETY: repr(C), u64 size first, integers and arrays of them.
unsafe impl Sized0 for sparsestream_wire_info {}

/// A size that may be unknown, as a caller sees it.
pub(super) fn known(size: Option<u64>) -> i64 {
    size.map_or(-1, guard::signed)
}

fn keepalive(options: &sparsestream_wire_options) -> Result<Duration> {
    let milliseconds = guard::unsigned(options.keepalive_ms, "options.keepalive_ms")?;
    Ok(Duration::from_millis(milliseconds))
}

/// Refuses a field that belongs to the other end.
fn only_zero(zero: bool, name: &'static str) -> Result<()> {
    if zero { Ok(()) } else { Err(Error::argument(name, "is not of this end", libc::EINVAL)) }
}

/// The caller's options as a sender's.
pub(super) fn sender(options: &sparsestream_wire_options) -> Result<WriterOptions> {
    let flag = |flag| options.flags & flag != 0;
    guard::flags(
        options.flags,
        SPARSESTREAM_WIRE_CHECKSUM
            | SPARSESTREAM_WIRE_DIGEST
            | SPARSESTREAM_WIRE_KEEP
            | SPARSESTREAM_WIRE_RESUME
            | SPARSESTREAM_WIRE_RESTART
            | SPARSESTREAM_WIRE_SIZES,
        "options.flags",
    )?;
    only_zero(options.max_size == 0, "options.max_size")?;
    only_zero(options.max_payload == 0, "options.max_payload")?;
    only_zero(options.resume_fd == 0, "options.resume_fd")?;
    only_zero(options.resume_offset == 0, "options.resume_offset")?;
    only_zero(options.resume_fd_offset == 0, "options.resume_fd_offset")?;
    let told = |size: i64, name| match size {
        -1 => Ok(None),
        _ => guard::unsigned(size, name).map(Some),
    };
    let mut description = Description {
        transfer_id: options.transfer_id,
        identity: options.identity,
        base: options.base_identity,
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
        keep: flag(SPARSESTREAM_WIRE_KEEP),
        resume: flag(SPARSESTREAM_WIRE_RESUME),
        restart: flag(SPARSESTREAM_WIRE_RESTART),
        checkpoint_interval: guard::unsigned(
            options.checkpoint_interval,
            "options.checkpoint_interval",
        )?,
        keepalive: keepalive(options)?,
    })
}

/// The caller's options as a receiver's.
pub(super) fn receiver(options: &sparsestream_wire_options) -> Result<ReaderOptions> {
    let flag = |flag| options.flags & flag != 0;
    guard::flags(
        options.flags,
        SPARSESTREAM_WIRE_CHECKSUM
            | SPARSESTREAM_WIRE_DIGEST
            | SPARSESTREAM_WIRE_KEEP
            | SPARSESTREAM_WIRE_RESTART,
        "options.flags",
    )?;
    for (value, name) in [
        (options.length, "options.length"),
        (options.source_size, "options.source_size"),
        (options.source_offset, "options.source_offset"),
        (options.data_bytes, "options.data_bytes"),
        (options.checkpoint_interval, "options.checkpoint_interval"),
    ] {
        only_zero(value == 0, name)?;
    }
    let length = guard::unsigned(options.resume_offset, "options.resume_offset")?;
    let offset = guard::unsigned(options.resume_fd_offset, "options.resume_fd_offset")?;
    let part =
        receiver::Held { length, transfer_id: options.transfer_id, identity: options.identity };
    Ok(ReaderOptions {
        max_size: match guard::unsigned(options.max_size, "options.max_size")? {
            0 => MAX_OFFSET,
            size => size,
        },
        max_payload: if options.max_payload == 0 { MAX_PAYLOAD } else { options.max_payload },
        checksum: flag(SPARSESTREAM_WIRE_CHECKSUM),
        digest: flag(SPARSESTREAM_WIRE_DIGEST),
        keep: flag(SPARSESTREAM_WIRE_KEEP),
        base: options.base_identity,
        held: (length > 0).then_some(Held { fd: options.resume_fd, offset, part }),
        keepalive: keepalive(options)?,
        restart: flag(SPARSESTREAM_WIRE_RESTART),
    })
}

impl From<Introduction> for sparsestream_wire_info {
    fn from(told: Introduction) -> Self {
        let description = told.description;
        let bit = |set, flag| if set { flag } else { 0 };
        Self {
            size: 0,
            flags: bit(told.checksum, SPARSESTREAM_WIRE_CHECKSUM)
                | bit(told.digest, SPARSESTREAM_WIRE_DIGEST)
                | bit(told.keeps, SPARSESTREAM_WIRE_KEEP),
            length: known(description.length),
            source_size: known(description.source_size),
            source_offset: guard::signed(description.source_offset),
            data_bytes: known(description.data_bytes),
            start: guard::signed(told.start),
            transfer_id: description.transfer_id,
            identity: description.identity,
            base_identity: description.base,
            answers: i32::from(told.answers),
            reserved: 0,
        }
    }
}
