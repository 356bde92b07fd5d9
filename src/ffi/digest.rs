//! Exports: the digest of a file, a device, or a stream of bytes.

use super::callbacks::Observer;
use super::options::{
    self, SPARSESTREAM_IGNORE_MAP, Sized0, sparsestream_stats, sparsestream_transfer_options,
};
use super::{guard, handles};
use crate::digest::LENGTH;
use crate::sink::DigestSink;
use crate::source;
use crate::transfer;
use libc::{c_int, c_void};

/// Bytes of a digest.
pub const SPARSESTREAM_DIGEST_SIZE: u32 = 32;

const _: () = assert!(SPARSESTREAM_DIGEST_SIZE as usize == LENGTH);

/// Bytes that are read at a time. They are still in the cache when they are hashed.
const PIECE: u64 = 256 << 10;

/// How a digest is computed. Zero-initialise it and set `size`; NULL means all defaults.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct sparsestream_digest_options {
    /// `sizeof(sparsestream_digest_options)`.
    pub size: u64,
    /// 0 or `SPARSESTREAM_IGNORE_MAP`.
    pub flags: u64,
    /// First byte to digest, from the start of the file. Must be 0 for a pipe, a socket or a
    /// character device.
    pub offset: i64,
    /// Bytes to digest; 0 means to the end. A descriptor that ends before `length` bytes is an
    /// error (-ENODATA).
    pub length: i64,
    /// `progress` is called each time that this many more bytes were digested, and at the end;
    /// 0 means not by bytes.
    pub progress_bytes: i64,
    /// `progress` is called when this many milliseconds have passed since the last call and something was
    /// digested, and at the end; 0 means not by time.
    pub progress_ms: i64,
    /// Progress, on the thread that called. If both intervals are 0 it is called once, at the end.
    /// A negative errno, such as -ECANCELED, ends the call with that error. It must not throw,
    /// longjmp, or use the file position of the descriptor. May be NULL.
    pub progress: Option<
        unsafe extern "C" fn(opaque: *mut c_void, stats: *const sparsestream_stats) -> c_int,
    >,
    /// Handed to `progress`. The caller's.
    pub opaque: *mut c_void,
    /// Milliseconds after which the call fails with -ETIMEDOUT if a pipe, a socket or a character
    /// device gave no byte; 0 means never.
    pub stall_ms: i64,
}

impl Default for sparsestream_digest_options {
    fn default() -> Self {
        options::zeros()
    }
}

// SAFETY: repr(C), u64 size first, integers, a nullable function pointer and a raw pointer.
unsafe impl Sized0 for sparsestream_digest_options {}

/// Computes the sparse tree digest of a file or a block device, or of the bytes that a pipe, a
/// socket or a character device gives until its end. docs/digest.md defines it: a chain of BLAKE3
/// hashes, which somebody who chooses the content cannot forge. A hole equals as many zero bytes,
/// and costs the same whatever its length.
///
/// The range is digested as a stream of its own: its first byte is at offset 0 of the digest.
///
/// Blocking: waits with poll(2) for a descriptor that is not ready, also for one in non-blocking
/// mode. Takes 256 KiB of memory.
///
/// Position: kept, as by `sparsestream_in_data`, but it moves while the call is under way. A pipe,
/// a socket or a character device is read.
///
/// Returns 0 and `SPARSESTREAM_DIGEST_SIZE` bytes in `digest`, or a negative errno with `digest`
/// untouched: -EINVAL (an argument, an unknown flag, an offset beyond the end), -E2BIG (options
/// from a later version), -EBADF, -EISDIR, -ESPIPE (an offset in something without offsets, or a
/// descriptor that has no content), -EPROTOTYPE (a socket of messages), -ENODATA (it ends before
/// `length` bytes, or became shorter meanwhile), -ETIMEDOUT, -ENOMEM, what `progress` returned, or
/// the errno of read(2) or lseek(2).
///
/// # Safety
/// `options` is NULL or a struct of its `size` whose `progress` may be called with its `opaque`;
/// `digest` is NULL or writable for `SPARSESTREAM_DIGEST_SIZE` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_digest(
    fd: c_int,
    options: *const sparsestream_digest_options,
    digest: *mut u8,
) -> c_int {
    guard::code(|| {
        // SAFETY: the caller promises NULL or room for a digest, of which bytes are the same.
        let digest = unsafe { guard::output(digest.cast::<[u8; LENGTH]>(), "digest") }?;
        // SAFETY: the caller promises a struct of its size.
        let options = unsafe { options::read(options, "options") }?;
        guard::flags(options.flags, SPARSESTREAM_IGNORE_MAP, "options.flags")?;
        let range = source::Options {
            offset: guard::unsigned(options.offset, "options.offset")?,
            length: guard::unsigned(options.length, "options.length")?,
            ignore_map: options.flags & SPARSESTREAM_IGNORE_MAP != 0,
            at_most: false,
        };
        let how = transfer::Options {
            buffer_size: PIECE,
            progress_bytes: guard::unsigned(options.progress_bytes, "options.progress_bytes")?,
            progress_ms: guard::unsigned(options.progress_ms, "options.progress_ms")?,
            stall_ms: guard::unsigned(options.stall_ms, "options.stall_ms")?,
            ..transfer::Options::default()
        };
        let observer = Observer::new(&sparsestream_transfer_options {
            progress: options.progress,
            opaque: options.opaque,
            ..Default::default()
        });
        let mut source = source::from_fd(fd, &range)?;
        let mut sink = DigestSink::default();
        // SAFETY: the pointer to the struct is null, so nothing is written.
        unsafe {
            handles::run_whole(source.as_mut(), &mut sink, &how, observer, std::ptr::null_mut())
        }?;
        digest.set(sink.root());
        Ok(0)
    })
}
