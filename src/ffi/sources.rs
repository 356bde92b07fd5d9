//! Exports: sources, by construction and driven by hand.

use super::callbacks::tables::{
    SPARSESTREAM_WITH_HOLES, SPARSESTREAM_WITH_KEEPS, sparsestream_source_info,
    sparsestream_source_ops, sparsestream_stream_ops,
};
use super::callbacks::{StreamSource, TableSource};
use super::guard;
use super::handles::{self, sparsestream_source};
use super::opaque::{self, Opaque};
use super::options::{
    SPARSESTREAM_AT_MOST, SPARSESTREAM_IGNORE_MAP, sparsestream_source_options, sparsestream_wait,
};
use super::sections::sparsestream_section;
use super::sized;
use crate::buffer::boxed;
use crate::end::{Next, Source, SourceInfo};
use crate::error::{Allowed, Error, Operation, Result, Side};
use crate::section;
use crate::source;
use libc::{c_int, c_void};

/// Returned by `recv` of a stream and by `sparsestream_source_read` if a hole comes next. The value is less
/// than every negative errno.
pub const SPARSESTREAM_AT_HOLE: i64 = -4096;

/// As `SPARSESTREAM_AT_HOLE`, but a kept section comes next.
pub const SPARSESTREAM_AT_KEEP: i64 = -4097;

/// Makes a source that reads a descriptor. A regular file or a block device is read by offset, whatever its
/// file position. A pipe, a socket or a character device is read in order.
///
/// The end of a file is fixed by this call. Bytes that are appended later are not read. If the file becomes
/// shorter, the source ends early and fails with -ENODATA. Files of /proc and /sys, whose size is not known,
/// are read to their end.
///
/// The caller owns the descriptor, which must stay open until the source was freed and no transfer holds it.
/// Then `free` of the options is called.
///
/// Position: the search for holes moves the file position. It is restored when the source has ended, and when
/// the source is finished, aborted or freed.
///
/// Returns 0 and a handle in `*source` that the caller frees, or a negative errno with `*source` NULL:
///
/// - -EINVAL: an argument is invalid, a flag is unknown, or the range starts beyond the end of the file or ends
///   beyond the largest offset;
/// - -E2BIG: the options are from a later version;
/// - -EBADF: the descriptor is not open for reading; -EISDIR: it is a directory;
/// - -ESPIPE: an offset for a pipe, a socket or a character device; or a descriptor without content, such as an
///   eventfd;
/// - -EPROTOTYPE: a socket that is not a stream socket;
/// - -ENODATA: the range ends beyond the end;
/// - -ENOMEM, or the errno of fstat(2), fcntl(2) or ioctl(2).
///
/// # Safety
/// `options` is NULL or a struct of its `size`; `source` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_source_from_fd(
    fd: c_int,
    options: *const sparsestream_source_options,
    source: *mut *mut sparsestream_source,
) -> c_int {
    guard::code(|| {
        // SAFETY: the caller promises a struct of its size. First of all, so that `free` is called.
        let options = unsafe { opaque::options(options) };
        // SAFETY: the caller promises NULL or a writable place.
        let out = unsafe { guard::handle_output(source, "source") }?;
        let (options, opaque) = options?;
        let known = SPARSESTREAM_IGNORE_MAP | SPARSESTREAM_AT_MOST;
        guard::flags(options.flags, known, "options.flags")?;
        let options = source::Options {
            offset: guard::unsigned(options.offset, "options.offset")?,
            length: guard::unsigned(options.length, "options.length")?,
            ignore_map: options.flags & SPARSESTREAM_IGNORE_MAP != 0,
            at_most: options.flags & SPARSESTREAM_AT_MOST != 0,
        };
        out.set(handles::new_source(source::from_fd(fd, &options)?, opaque)?);
        Ok(0)
    })
}

/// Makes a source from the caller's functions; see `sparsestream_source_ops`.
///
/// `ops` is copied. `opaque` must be valid until `ops->free` is called with it. That happens exactly once:
/// after the source was freed and no transfer holds it, or before this call returns a failure. It does not
/// happen if `ops` is NULL or its `size` is not valid.
///
/// Returns 0 and a handle in `*source` that the caller frees, or a negative errno with `*source`
/// NULL: -EINVAL (an argument, or no `read`), -E2BIG (a table from a later version), -ENOMEM.
///
/// # Safety
/// `ops` is NULL or a table of its `size` whose functions may be called with `opaque`; `source` is
/// NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_source_from_callbacks(
    ops: *const sparsestream_source_ops,
    opaque: *mut c_void,
    source: *mut *mut sparsestream_source,
) -> c_int {
    guard::code(|| {
        // SAFETY: the caller promises a table of its size. First of all, so that `free` is called.
        let ops = unsafe { TableSource::new(ops, opaque) };
        // SAFETY: the caller promises NULL or a writable place.
        let out = unsafe { guard::handle_output(source, "source") }?;
        out.set(handles::new_source(boxed(ops?)?, Opaque::NONE)?);
        Ok(0)
    })
}

/// Makes a source from the caller's protocol; see `sparsestream_stream_ops`. Ownership and `free` are as with
/// `sparsestream_source_from_callbacks`.
///
/// Returns 0 and a handle in `*source` that the caller frees, or a negative errno with `*source`
/// NULL: -EINVAL (an argument, or no `recv`), -E2BIG, -ENOMEM.
///
/// # Safety
/// As `sparsestream_source_from_callbacks`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_source_from_stream(
    ops: *const sparsestream_stream_ops,
    stream: *mut c_void,
    source: *mut *mut sparsestream_source,
) -> c_int {
    guard::code(|| {
        // SAFETY: the caller promises a table of its size. First of all, so that `free` is called.
        let ops = unsafe { StreamSource::new(ops, stream) };
        // SAFETY: the caller promises NULL or a writable place.
        let out = unsafe { guard::handle_output(source, "source") }?;
        out.set(handles::new_source(boxed(ops?)?, Opaque::NONE)?);
        Ok(0)
    })
}

/// Reports the next section: its kind, and the number of bytes from the current position to its end. `offset`
/// is always 0. At the end of the source, the kind is `SPARSESTREAM_END` and the length is 0.
///
/// For a stream, a pipe, a socket, a character device or a wire, the length of data is -1 unless it is known.
/// If it is -1, the next read may also return 0, the end.
///
/// Returns 0 or a negative errno: -EINVAL, -EBUSY (the handle is in use by another call), -EAGAIN (not known
/// yet; see `sparsestream_source_wait`), -EINTR, -ESHUTDOWN, -ENODATA (ended early), or the error of the
/// system or the callback.
///
/// # Safety
/// `source` is NULL or a live handle; `section` is NULL or a struct of its `size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_source_section(
    source: *mut sparsestream_source,
    section: *mut sparsestream_section,
) -> c_int {
    guard::code(|| {
        // SAFETY: the caller promises a struct of its size.
        unsafe { sized::check(section, "section") }?;
        // SAFETY: the caller promises a live handle or NULL.
        let look = unsafe { handles::with_source(source, |source| source.look()) }?;
        let value = sparsestream_section {
            kind: look.kind.into(),
            length: look.length.map_or(-1, guard::signed),
            ..sparsestream_section::default()
        };
        // SAFETY: as above.
        unsafe { sized::write(section, &value, "section") }?;
        Ok(0)
    })
}

/// Reports the properties of a source: its length, if it is known, and which kinds of section it may have.
/// For a source that is made from functions, this calls `describe`.
///
/// Returns 0 or a negative errno: -EINVAL, -EBUSY, -EAGAIN, -EINTR, -ESHUTDOWN, or the error of the
/// system or the callback.
///
/// # Safety
/// `source` is NULL or a live handle; `info` is NULL or a struct of its `size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_source_describe(
    source: *mut sparsestream_source,
    info: *mut sparsestream_source_info,
) -> c_int {
    guard::code(|| {
        // SAFETY: the caller promises a struct of its size.
        unsafe { sized::check(info, "info") }?;
        // SAFETY: the caller promises a live handle or NULL.
        let known = unsafe { handles::with_source(source, |source| source.open()) }?;
        // SAFETY: as above.
        unsafe { sized::write(info, &known.into(), "info") }?;
        Ok(0)
    })
}

/// Reports what to wait for after a call on this source returned -EAGAIN. At any other time the source is
/// ready: there is no descriptor, and `timeout_ms` is 0.
///
/// Returns 0 or a negative errno: -EINVAL, -EBUSY.
///
/// # Safety
/// `source` is NULL or a live handle; `wait` is NULL or a struct of its `size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_source_wait(
    source: *mut sparsestream_source,
    wait: *mut sparsestream_wait,
) -> c_int {
    guard::code(|| {
        // SAFETY: the caller promises a live handle or NULL.
        let known = unsafe { handles::source_wait(source) }?;
        // SAFETY: the caller promises a struct of its size.
        unsafe { sized::write(wait, &known.into(), "wait") }?;
        Ok(0)
    })
}

/// Reads at most `length` bytes of data into `buffer` and advances the source. A read ends before a hole.
///
/// Returns the count, which may be short, or 0 at the end. Returns `SPARSESTREAM_AT_HOLE` or
/// `SPARSESTREAM_AT_KEEP` if a hole or a kept section comes next: `sparsestream_source_section` reports its
/// length, and `sparsestream_source_skip` skips it. Otherwise returns a negative errno: -EINVAL, -EBUSY,
/// -EAGAIN, -EINTR, -ESHUTDOWN (finished or aborted before), -ENODATA (ended early), -EIO (the medium failed,
/// or the file system returned EAGAIN), -EPROTO (a callback returned an invalid value), or the error of the
/// system or the callback.
///
/// # Safety
/// `source` is NULL or a live handle; `buffer` is writable for `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_source_read(
    source: *mut sparsestream_source,
    buffer: *mut c_void,
    length: usize,
) -> i64 {
    guard::count(|| {
        // SAFETY: the caller promises `length` writable bytes.
        let buffer = unsafe { guard::bytes_mut(buffer, length, "buffer") }?;
        if buffer.is_empty() {
            return Ok(0);
        }
        // SAFETY: the caller promises a live handle or NULL.
        match unsafe { handles::with_source(source, |source| source.next(buffer)) }? {
            Next::Data(count) => Ok(guard::signed(count as u64)),
            Next::Hole(_) => Ok(SPARSESTREAM_AT_HOLE),
            Next::Keep(_) => Ok(SPARSESTREAM_AT_KEEP),
            Next::End => Ok(0),
        }
    })
}

/// Advances the source by `length` bytes without reading them. The bytes must lie within one hole or one kept
/// section. In a regular file or a block device, they may also be data. Pipes, sockets and character devices
/// cannot skip (-ESPIPE). For a source that is made from functions, the library calls `skip` at the next call.
///
/// Returns 0 or a negative errno: -EINVAL (negative, or beyond the section), -ESPIPE, -ESHUTDOWN,
/// -EBUSY, -EAGAIN, -EINTR, or the error of the system or the callback.
///
/// # Safety
/// `source` is NULL or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_source_skip(
    source: *mut sparsestream_source,
    length: i64,
) -> c_int {
    guard::code(|| {
        let length = guard::unsigned(length, "length")?;
        // SAFETY: the caller promises a live handle or NULL.
        unsafe { handles::with_source(source, |source| skip(source, length)) }?;
        Ok(0)
    })
}

impl From<SourceInfo> for sparsestream_source_info {
    fn from(info: SourceInfo) -> Self {
        let flag = |set: bool, flag| if set { flag } else { 0 };
        Self {
            flags: flag(info.reports_holes, SPARSESTREAM_WITH_HOLES)
                | flag(info.keeps, SPARSESTREAM_WITH_KEEPS),
            total: info.total.map_or(-1, guard::signed),
            ..Self::default()
        }
    }
}

fn skip(source: &mut dyn Source, length: u64) -> Result<()> {
    if length == 0 {
        return Ok(());
    }
    let look = source.look()?;
    let within = match look.kind {
        section::Kind::Hole | section::Kind::Keep => true,
        // Only a source whose data has offsets can skip data.
        section::Kind::Data => source.stored().is_some(),
        section::Kind::End => false,
    };
    if !within || look.length.is_none_or(|known| known < length) {
        if look.kind == section::Kind::Data && look.length.is_none() {
            return Err(Error::nowhere(Operation::Skip, Side::Source, libc::ESPIPE));
        }
        return Err(match look.length {
            Some(known) if within => Error::value("length", length, Allowed::Most(known)),
            _ => Error::value("length", length, Allowed::Only(&"0 where there is nothing to skip")),
        });
    }
    source.consume(length);
    Ok(())
}

/// Finishes the source after its end was reached: restores the position of a descriptor, or calls `finish` of
/// a table and returns its result. Call it once, and again while it returns -EAGAIN or -EINTR.
///
/// Returns 0 or a negative errno: -EINVAL, -EBUSY, -EAGAIN, -EINTR, or the error of the system or the
/// callback.
///
/// # Safety
/// `source` is NULL or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_source_finish(source: *mut sparsestream_source) -> c_int {
    guard::code(|| {
        // SAFETY: the caller promises a live handle or NULL.
        unsafe { handles::with_source(source, |source| source.finish()) }?;
        Ok(0)
    })
}

/// Ends the source with the failure `error`, a positive errno: calls `abort` of a table, or reports the
/// failure to the other end of a wire or of a channel. The end of a wire can report it only if the stream has
/// begun (see `sparsestream_source_wire_info`). If the source was already finished or aborted, nothing
/// happens. EAGAIN and EINTR become EIO.
///
/// Returns 0, or -EINVAL or -EBUSY.
///
/// # Safety
/// `source` is NULL or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_source_abort(
    source: *mut sparsestream_source,
    error: c_int,
) -> c_int {
    guard::code(|| {
        let errno = guard::final_errno(error)?;
        let error = Error::nowhere(Operation::None, Side::None, errno);
        // SAFETY: the caller promises a live handle or NULL.
        unsafe {
            handles::with_source(source, |source| {
                source.abort(&error);
                Ok(())
            })
        }?;
        Ok(0)
    })
}

/// Frees the caller's handle, which must not be used again. NULL is allowed.
///
/// A transfer holds its source until the transfer is freed, so handles may be freed in any order. The source
/// itself is freed with the last handle that holds it. Then a stream or table that was used, but neither
/// finished nor aborted, is aborted with ECANCELED, and `free` of the table or the options is called.
/// Descriptors stay open.
///
/// If another call uses the source, for example because one of its own functions calls this, the source is
/// not freed, and the thread's message reports EBUSY.
///
/// # Safety
/// `source` is NULL or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_source_free(source: *mut sparsestream_source) {
    // SAFETY: the caller promises a live handle or NULL.
    guard::quiet(|| unsafe { handles::free_source(source) });
}
