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
    self, SPARSESTREAM_AT_MOST, SPARSESTREAM_IGNORE_MAP, sparsestream_source_options,
    sparsestream_wait,
};
use super::sections::sparsestream_section;
use crate::buffer::boxed;
use crate::end::{Next, Source, SourceInfo};
use crate::error::{Allowed, Error, Operation, Result, Side};
use crate::section;
use crate::source;
use libc::{c_int, c_void};

/// Returned by `recv` of a stream and by `sparsestream_source_read` if a hole comes next. It is neither a
/// count nor a negative errno.
pub const SPARSESTREAM_AT_HOLE: i64 = -4096;

/// As `SPARSESTREAM_AT_HOLE`, when the next thing is a kept section.
pub const SPARSESTREAM_AT_KEEP: i64 = -4097;

/// Makes a source that reads a descriptor: a regular file or a block device by offset, its
/// position neither used nor (once the source has ended or is freed) changed; a pipe, a socket or a
/// character device as it comes.
///
/// The end is fixed here: what a file grows later is not read, and if it shrinks the source ends
/// early, which is an error (-ENODATA). A file whose size says nothing, as in /proc, is read to its
/// end.
///
/// The descriptor stays the caller's and must stay open until the source is freed and no transfer
/// holds it, of which `free` of the options informs. Its file position moves while a mapped file is walked, and is put back at the end, and when the source is
/// finished, aborted or freed; a transfer sees to that on failure too.
///
/// Returns 0 and a handle in `*source` that the caller frees, or a negative errno with `*source`
/// NULL: -EINVAL (an argument, an unknown flag, a range that starts beyond the end), -E2BIG
/// (options from a later version), -EBADF (not open for reading), -EISDIR, -ESPIPE (an offset in
/// something that has none, or nothing that can be read, as an eventfd), -EPROTOTYPE (no stream
/// socket), -ENODATA (the range ends beyond the end), -ENOMEM, or the errno of fstat(2), fcntl(2)
/// or ioctl(2).
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

/// Makes a source of the caller's callbacks; see `sparsestream_source_ops`.
///
/// `ops` is copied. `opaque` must be valid until `ops->free` is called with it, exactly once: when the
/// source is freed and no transfer holds it, or before this call returns a failure (unless `ops` is
/// NULL or its `size` is not that of a table).
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

/// Makes a source of the caller's stream, that is of its `recv`, `recv_hole`, `finish` and `abort`;
/// see `sparsestream_stream_ops`. Ownership and `free` as with
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

/// Reports the section that comes next: its kind, and the bytes from where the source is to its end.
/// `offset` is 0: the caller knows where the source is. At its end the kind is `SPARSESTREAM_END` and
/// the length 0.
///
/// Nothing is read for it but what the next `sparsestream_source_read` returns. So of a stream, a pipe, a
/// socket, a character device or a wire, data has the length -1 unless it is known, and what looks like
/// data may turn out to be the end.
///
/// Returns 0 or a negative errno: -EINVAL, -EBUSY (the handle is in use by another call), -EAGAIN (it is
/// not known yet; see `sparsestream_source_wait`), -EINTR, -ESHUTDOWN, -ENODATA (ended early), or the
/// error of the system or the callback.
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
        unsafe { options::check(section, "section") }?;
        // SAFETY: the caller promises a live handle or NULL.
        let look = unsafe { handles::with_source(source, |source| source.look()) }?;
        let value = sparsestream_section {
            kind: look.kind.into(),
            length: look.length.map_or(-1, guard::signed),
            ..sparsestream_section::default()
        };
        // SAFETY: as above.
        unsafe { options::write(section, &value, "section") }?;
        Ok(0)
    })
}

/// Reports what a source is: its length, if known, and which kinds of section it may have. A source of
/// functions is asked by `describe`. May be called again, and then answers the same.
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
        unsafe { options::check(info, "info") }?;
        // SAFETY: the caller promises a live handle or NULL.
        let known = unsafe { handles::with_source(source, |source| source.open()) }?;
        // SAFETY: as above.
        unsafe { options::write(info, &known.into(), "info") }?;
        Ok(0)
    })
}

/// Reports what a source that is driven by hand waits for, after a call on it returned -EAGAIN. At any
/// other time it is ready: no descriptor, and `timeout_ms` 0.
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
        unsafe { options::write(wait, &known.into(), "wait") }?;
        Ok(0)
    })
}

/// Reads at most `length` bytes of data into `buffer` and moves on by them. Never reads across the
/// start of a hole.
///
/// Returns the count, which may be short; 0 at the end (or when `length` is 0);
/// `SPARSESTREAM_AT_HOLE` or `SPARSESTREAM_AT_KEEP` when a hole or a kept section comes next (ask its
/// length with `sparsestream_source_section`, and move on with `sparsestream_source_skip`); or a negative
/// errno: -EINVAL, -EBUSY, -EAGAIN, -EINTR, -ESHUTDOWN (finished or aborted before), -ENODATA
/// (ended early), -EPROTO (a callback gave an invalid answer), or the error of the system or the
/// callback.
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

/// Moves on by `length` bytes without reading them. They must lie within the section that the
/// source is in, which must be a hole or a kept section unless it is a regular file or a block device.
/// Pipes, sockets and character devices cannot skip. A source of functions calls `skip` when the next call
/// is made.
///
/// Returns 0 or a negative errno: -EINVAL (negative, or beyond the section), -ESPIPE, -ESHUTDOWN,
/// -EBUSY, -EAGAIN, or the error of the system or the callback.
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
            flags: flag(info.tells_holes, SPARSESTREAM_WITH_HOLES)
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
        // Only a source whose data has offsets can pass over data.
        section::Kind::Data => source.stored().is_some(),
        section::Kind::End => false,
    };
    if !within || look.length.is_none_or(|known| known < length) {
        if look.kind == section::Kind::Data && look.length.is_none() {
            return Err(Error::nowhere(Operation::Skip, Side::Source, libc::ESPIPE));
        }
        return Err(match look.length {
            Some(known) if within => Error::value("length", length, Allowed::Most(known)),
            _ => Error::argument(
                "length",
                "is not 0, but there is nothing to skip here",
                libc::EINVAL,
            ),
        });
    }
    source.consume(length);
    Ok(())
}

/// Reports to the source that everything was taken: a descriptor's position is put back; a stream's
/// `finish` is called, whose failure is the result. To be called once, after the end; again while it
/// returns -EAGAIN.
///
/// Returns 0 or a negative errno: -EINVAL, -EBUSY, -EAGAIN, or the error of the system or the
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

/// Reports to the source that the stream failed with `error`, a positive errno: a stream's `abort` is
/// called, unless it was finished or aborted already.
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
        let errno = guard::errno(error)?;
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

/// Gives up the caller's reference to a source, which is not to be used again. NULL is allowed.
///
/// A transfer that was made with it holds it until that transfer is freed, so that handles may be
/// freed in any order. When nobody holds it, a stream on which `recv` was called and that was neither
/// finished nor aborted is aborted with ECANCELED, and `free` of the table or the options is called.
/// Descriptors stay open.
///
/// A free while a call uses the source, which includes its own callbacks, is ignored, and leaves a
/// message with EBUSY.
///
/// # Safety
/// `source` is NULL or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_source_free(source: *mut sparsestream_source) {
    // SAFETY: the caller promises a live handle or NULL.
    guard::quiet(|| unsafe { handles::free_source(source) });
}
