//! The options of the wire, and the properties that a sender has sent.

use super::guard;
use super::options::{
    SPARSESTREAM_WIRE_CHECKSUM, SPARSESTREAM_WIRE_DIGEST, SPARSESTREAM_WIRE_KEEP,
    SPARSESTREAM_WIRE_RESTART, SPARSESTREAM_WIRE_RESUME, SPARSESTREAM_WIRE_SIZES,
};
use super::sized::Sized0;
use crate::end::{Description, Introduction};
use crate::error::{Allowed, Error, Result};
use crate::wire::proto::codec::{MAX_OFFSET, MAX_PAYLOAD};
use crate::wire::proto::receiver;
use crate::wire::reader::{Held, ReaderOptions};
use crate::wire::writer::WriterOptions;
use std::time::Duration;

/// The options of an end of a wire. Zero-initialise it and set `size`; NULL means all defaults.
///
/// A field for the sender must be zero at the receiver, and the reverse.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct sparsestream_wire_options {
    /// `sizeof(sparsestream_wire_options)`.
    pub size: u64,
    /// Any of `SPARSESTREAM_WIRE_CHECKSUM`, `_DIGEST`, `_KEEP`, `_RESTART`. A sender may also set `_RESUME`
    /// and `_SIZES`.
    pub flags: u64,
    /// Sender, with `SPARSESTREAM_WIRE_SIZES`: the length of the stream in bytes; -1 if it is not known. A
    /// transfer that knows the length sends it even without this field.
    pub length: i64,
    /// Sender, with `SPARSESTREAM_WIRE_SIZES`: the size of the whole source in bytes; -1 if it is not known.
    pub source_size: i64,
    /// Sender, with `SPARSESTREAM_WIRE_SIZES`: the offset in the source at which the stream starts.
    pub source_offset: i64,
    /// Sender, with `SPARSESTREAM_WIRE_SIZES`: the number of bytes of data in the stream, from which the
    /// receiver can compute its progress; -1 if it is not known.
    pub data_bytes: i64,
    /// Sender: an id for this transfer, which is sent to the receiver; zeros for none. Receiver, with
    /// `resume_offset`: the id of the transfer that brought the held bytes; zeros for any.
    pub transfer_id: [u8; 16],
    /// Sender: a value that identifies the source and its present state; zeros for none. Another source, or
    /// the same source after a change, must have another value. `sparsestream_wire_describe` makes one. The
    /// receiver gets the value before it has sent anything, so do not put a secret into it unless the transport
    /// authenticates the receiver. Receiver, with `resume_offset`: the identity that came with the held bytes;
    /// zeros for any. The library never takes an equal identity alone as proof of equal content.
    pub identity: [u8; 32],
    /// With `SPARSESTREAM_WIRE_KEEP`. Sender: the identity of the content to which the kept sections belong;
    /// zeros for none. Receiver: the identity of the content of its target; zeros for any. If the two differ,
    /// the stream is refused with -ESTALE before a byte moves.
    pub base_identity: [u8; 32],
    /// Sender: the number of bytes of data after which the digest is sent; 0 means 64 MiB. The digest is also
    /// sent 5 seconds after the last one, if anything was sent since.
    pub checkpoint_interval: i64,
    /// This end sends a sign of life if it has sent nothing for this many milliseconds; 0 means never. It
    /// does so while the transfer runs or waits, and `timeout_ms` of `sparsestream_wait` reports when the
    /// next one is due. A sign of life restarts `stall_ms` of the other end, but not `idle_ms`. A receiver
    /// that reads back held bytes always sends one each second.
    pub keepalive_ms: i64,
    /// Receiver: the most bytes, holes included, that it accepts; 0 means that this option sets no limit. A
    /// longer stream is refused with -EFBIG: at once if its length was announced, otherwise at the limit.
    pub max_size: i64,
    /// Receiver: the most bytes of data that it accepts in one frame, 4096 to 4194304; 0 means 4194304.
    pub max_payload: u32,
    /// Receiver, with `resume_offset`: the file or block device that has the held bytes, which are read back
    /// if the sender has the same source. The descriptor must stay open until the source is freed.
    pub resume_fd: i32,
    /// Receiver: the number of bytes, from the start of the stream, that it holds from an earlier transfer
    /// and that are durable; 0 for none. At most `max_size`, if that is set.
    pub resume_offset: i64,
    /// Receiver, with `resume_offset`: the offset in `resume_fd` of the first byte of the stream.
    pub resume_fd_offset: i64,
}

/// The properties of a stream that its sender has sent. Set `size` before the call.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct sparsestream_wire_info {
    /// `sizeof(sparsestream_wire_info)`, set by the caller.
    pub size: u64,
    /// Those of `SPARSESTREAM_WIRE_CHECKSUM`, `SPARSESTREAM_WIRE_DIGEST` and `SPARSESTREAM_WIRE_KEEP` that
    /// this stream uses.
    pub flags: u64,
    /// The length of the stream in bytes, or -1 if the sender does not know it.
    pub length: i64,
    /// The size of the whole source in bytes, or -1 if the sender does not know it.
    pub source_size: i64,
    /// The offset in the source at which the stream starts.
    pub source_offset: i64,
    /// The number of bytes of data in the stream, or -1 if the sender does not know it.
    pub data_bytes: i64,
    /// The offset in the stream at which this transfer starts: `resume_offset` of the options if the sender
    /// resumes there, otherwise 0. The sink must begin at the same offset.
    pub start: i64,
    /// The id that the sender gave this transfer; zeros for none.
    pub transfer_id: [u8; 16],
    /// The identity of the sender's source; zeros for none.
    pub identity: [u8; 32],
    /// The identity of the content to which the kept sections belong; zeros for none.
    pub base_identity: [u8; 32],
    /// 1 if the sender waits for the receiver's answer, otherwise 0.
    pub answers: i32,
    /// 1 if the sender's HELLO has arrived, even if it was then refused; otherwise 0. This field is set even
    /// if the call fails, so that a daemon can drop a peer that is not a sender and accept another.
    pub greeted: i32,
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

/// Refuses fields that belong to the other end.
fn only_zeros(fields: &[(i64, &'static str)], allowed: Allowed) -> Result<()> {
    match fields.iter().find(|(value, _)| *value != 0) {
        Some((value, name)) => Err(Error::value(name, *value, allowed)),
        None => Ok(()),
    }
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
    let receivers = [
        (options.max_size, "options.max_size"),
        (options.max_payload.into(), "options.max_payload"),
        (options.resume_fd.into(), "options.resume_fd"),
        (options.resume_offset, "options.resume_offset"),
        (options.resume_fd_offset, "options.resume_fd_offset"),
    ];
    only_zeros(&receivers, Allowed::Only(&"0 for a sender"))?;
    let known = |size: i64, name| match size {
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
        description.length = known(options.length, "options.length")?;
        description.source_size = known(options.source_size, "options.source_size")?;
        description.source_offset =
            guard::unsigned(options.source_offset, "options.source_offset")?;
        description.data_bytes = known(options.data_bytes, "options.data_bytes")?;
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
    let senders = [
        (options.length, "options.length"),
        (options.source_size, "options.source_size"),
        (options.source_offset, "options.source_offset"),
        (options.data_bytes, "options.data_bytes"),
        (options.checkpoint_interval, "options.checkpoint_interval"),
    ];
    only_zeros(&senders, Allowed::Only(&"0 for a receiver"))?;
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
    fn from(introduction: Introduction) -> Self {
        let description = introduction.description;
        let bit = |set, flag| if set { flag } else { 0 };
        Self {
            size: 0,
            flags: bit(introduction.checksum, SPARSESTREAM_WIRE_CHECKSUM)
                | bit(introduction.digest, SPARSESTREAM_WIRE_DIGEST)
                | bit(introduction.keeps, SPARSESTREAM_WIRE_KEEP),
            length: known(description.length),
            source_size: known(description.source_size),
            source_offset: guard::signed(description.source_offset),
            data_bytes: known(description.data_bytes),
            start: guard::signed(introduction.start),
            transfer_id: description.transfer_id,
            identity: description.identity,
            base_identity: description.base,
            answers: i32::from(introduction.answers),
            greeted: 1,
        }
    }
}
