//! Exports: the digest of a file, a device, or a stream of bytes.

use super::callbacks::Observer;
use super::options::{SPARSESTREAM_IGNORE_MAP, sparsestream_stats, sparsestream_transfer_options};
use super::sized::{self, Sized0};
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

/// The options of a digest. Zero-initialise it and set `size`; NULL means all defaults.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct sparsestream_digest_options {
    /// `sizeof(sparsestream_digest_options)`.
    pub size: u64,
    /// 0 or `SPARSESTREAM_IGNORE_MAP`.
    pub flags: u64,
    /// The offset of the first byte to digest. Must be 0 for a pipe, a socket or a character device.
    pub offset: i64,
    /// The number of bytes to digest; 0 means to the end. If the descriptor ends before that, the call fails
    /// with -ENODATA.
    pub length: i64,
    /// `progress` is called each time that this many more bytes were digested, and at the end. 0 means that
    /// the number of bytes does not matter.
    pub progress_bytes: i64,
    /// `progress` is called when this many milliseconds have passed since the last call and something was
    /// digested, and at the end. 0 means that the time does not matter.
    pub progress_ms: i64,
    /// Reports the progress, on the calling thread. If both intervals are 0, it is called once, at the end. A
    /// negative errno, such as -ECANCELED, ends the call with that error. It must not throw, longjmp, or use
    /// the file position of the descriptor. May be NULL.
    pub progress: Option<
        unsafe extern "C" fn(opaque: *mut c_void, stats: *const sparsestream_stats) -> c_int,
    >,
    /// Passed to `progress`. The library does not use it.
    pub opaque: *mut c_void,
    /// The call fails with -ETIMEDOUT if a pipe, a socket or a character device delivers no byte for this
    /// many milliseconds; 0 means never.
    pub stall_ms: i64,
}

impl Default for sparsestream_digest_options {
    fn default() -> Self {
        sized::zeros()
    }
}

// SAFETY: repr(C), u64 size first, integers, a nullable function pointer and a raw pointer.
unsafe impl Sized0 for sparsestream_digest_options {}

/// Computes the sparse tree digest of a file or a block device, or of the bytes that a pipe, a socket or a
/// character device delivers until its end. The digest is a chain of BLAKE3 hashes, which docs/digest.md
/// defines. It is not feasible to make two contents with the same digest. A hole has the same digest as the
/// same number of zero bytes, and takes the same time whatever its length.
///
/// The digest depends only on the content of the range, and not on its offset in the file.
///
/// The call blocks: it waits with poll(2) for a descriptor that is not ready, even if the descriptor is in
/// non-blocking mode. It takes 256 KiB of memory.
///
/// Position: as with `sparsestream_in_data`. It moves during the call. A pipe, a socket or a character device
/// is read to its end, or up to `length` bytes.
///
/// Returns 0 and `SPARSESTREAM_DIGEST_SIZE` bytes in `digest`. On failure it does not change `digest`, and
/// returns a negative errno:
///
/// - -EINVAL: an argument is invalid, a flag is unknown, or the offset is beyond the end;
/// - -E2BIG: the options are from a later version;
/// - -EBADF: the descriptor is not open for reading; -EISDIR: it is a directory;
/// - -ESPIPE: an offset for a pipe, a socket or a character device; or a descriptor without content, such as an
///   eventfd;
/// - -EPROTOTYPE: a socket that is not a stream socket;
/// - -ENODATA: the descriptor ended before `length` bytes, or became shorter during the call;
/// - -ETIMEDOUT: no byte arrived for `stall_ms`;
/// - -ENOMEM; -EPROTO: `progress` returned a number that is not an errno;
/// - or the errno that `progress` returned, or that of read(2) or lseek(2), such as -EIO.
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
        let options = unsafe { sized::read(options, "options") }?;
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
