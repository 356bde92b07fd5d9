//! Exports: where a descriptor's data and holes are.

use super::guard;
use super::options::{self, Sized0};
use crate::section;
use libc::{c_int, c_void};

/// A section's kind: there is nothing here, the end of the file is reached.
pub const SPARSESTREAM_END: i32 = 0;
/// A section's kind: bytes.
pub const SPARSESTREAM_DATA: i32 = 1;
/// A section's kind: a hole, which reads as zeros and is not stored.
pub const SPARSESTREAM_HOLE: i32 = 2;
/// A section's kind: bytes that the receiver keeps as they are.
pub const SPARSESTREAM_KEEP: i32 = 3;

/// A run of bytes of one kind. Set `size` before it is handed in.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct sparsestream_section {
    /// `sizeof(sparsestream_section)`, set by who hands the struct in.
    pub size: u64,
    /// Its first byte, in bytes.
    pub offset: i64,
    /// Bytes in it; 0 only with `SPARSESTREAM_END`; -1 if it is not known.
    pub length: i64,
    /// `SPARSESTREAM_DATA`, `SPARSESTREAM_HOLE`, `SPARSESTREAM_KEEP` or `SPARSESTREAM_END`. A later
    /// version may have other kinds.
    pub kind: i32,
    /// Zero.
    pub reserved: i32,
}

/// Reports whether the file position is in data or in a hole, and for how many bytes.
///
/// `*in_data` becomes true within data; `*length` becomes the bytes from the position to the end
/// of that section, the hole at a file's end included. At or beyond the end the answer is false
/// and 0. A block device, and a file system that cannot tell (see
/// `sparsestream_holes_supported`), answer true to the end.
///
/// Position: kept. If it cannot be put back, the call fails with an error whose operation is
/// `SPARSESTREAM_OPERATION_SEEK`; no other failure moves it. Another thread, or a process that
/// shares the open file, must not use the position meanwhile. On failure the outputs are untouched.
///
/// Facts: lseek(2) with SEEK_DATA and SEEK_HOLE; at most ten lseek calls. The map is a hint that
/// may be outdated the moment it is given; a file system that contradicts itself is answered with
/// data.
///
/// An answer that says hole costs one fstatfs(2) more. If the file system is not one whose map is
/// known to follow the page cache (ext2 to ext4, XFS, Btrfs, F2FS, tmpfs, ramfs, EROFS, SquashFS,
/// and overlayfs over one that answers FIEMAP), what is in the cache is written back with
/// fdatasync(2), which may block, and the map is asked a second time. If that fails, the answer is
/// data to the end. The same is done where lseek(2) fails with an errno that does not concern the
/// medium, such as ENOENT or EPERM.
///
/// Returns 0, or -EINVAL (an output is NULL), -EBADF (not an open descriptor, or O_PATH), -EISDIR
/// (a directory), -ESPIPE (a pipe, socket, character device or other descriptor with no content to
/// seek in), or the errno of fstat(2), lseek(2), fcntl(2) or ioctl(2).
///
/// # Safety
/// `in_data` and `length` are NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_in_data(
    fd: c_int,
    in_data: *mut bool,
    length: *mut i64,
) -> c_int {
    guard::code(|| {
        // SAFETY: the caller promises NULL or a writable place.
        let in_data = unsafe { guard::output(in_data, "in_data") }?;
        // SAFETY: the caller promises NULL or a writable place.
        let length = unsafe { guard::output(length, "length") }?;
        let section = section::section_at(fd, None)?;
        in_data.set(section.kind == section::Kind::Data);
        length.set(guard::signed(section.length));
        Ok(0)
    })
}

/// As `sparsestream_in_data`, at `offset` bytes from the start instead of the file position. It
/// distinguishes the end from a hole: at or beyond the end `out->kind` is `SPARSESTREAM_END`.
/// `out->offset` is `offset`, also within a section that began before.
///
/// Position: kept, as by `sparsestream_in_data`.
///
/// Returns 0 or the errors of `sparsestream_in_data`; -EINVAL also for a negative offset, or a `size` of
/// `out` that is not that of a struct.
///
/// # Safety
/// `out` is NULL or a struct of its `size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_section_at(
    fd: c_int,
    offset: i64,
    out: *mut sparsestream_section,
) -> c_int {
    guard::code(|| {
        // SAFETY: the caller promises a struct of its size.
        unsafe { options::check(out, "out") }?;
        let offset = guard::unsigned(offset, "offset")?;
        let section = section::section_at(fd, Some(offset))?.into();
        // SAFETY: as above.
        unsafe { options::write(out, &section, "out") }?;
        Ok(0)
    })
}

/// Calls `callback` for each section of the range, in order; the first and the last are cut to the
/// range. `length` 0 means to the end; the end is fixed when the call starts. One lseek(2) a
/// boundary.
///
/// `callback` returns 0 to continue. Anything else ends the walk and is the result of the call. It must
/// not move the file position, throw or longjmp.
///
/// Position: kept, as by `sparsestream_in_data`, but it moves while the walk is under way.
///
/// Returns 0 when the range or the file ended, what the callback returned (which leaves no
/// message), or the errors of `sparsestream_in_data`; -EINVAL also for a negative offset or length,
/// or no callback.
///
/// # Safety
/// `callback` may be called with `opaque`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_map(
    fd: c_int,
    offset: i64,
    length: i64,
    callback: Option<
        unsafe extern "C" fn(opaque: *mut c_void, section: *const sparsestream_section) -> c_int,
    >,
    opaque: *mut c_void,
) -> c_int {
    guard::code(|| {
        let callback = guard::callback(callback, "callback")?;
        let offset = guard::unsigned(offset, "offset")?;
        let length = guard::unsigned(length, "length")?;
        let mut answer = 0;
        section::map(fd, offset, length, |section| {
            let section = sparsestream_section::from(section);
            // SAFETY: the caller promises that its callback may be called with its opaque.
            answer = unsafe { callback(opaque, &raw const section) };
            answer == 0
        })?;
        Ok(answer)
    })
}

/// Reports whether the file system answers questions about holes in this file. Position: kept.
///
/// 1 means that the map was answered, which a file system that stores no holes also does (all is
/// data then). 0 means that it cannot be asked: everything counts as data. A block device answers
/// 0.
///
/// Returns 1, 0, or the errors of `sparsestream_in_data`.
#[unsafe(no_mangle)]
pub extern "C" fn sparsestream_holes_supported(fd: c_int) -> c_int {
    guard::code(|| Ok(c_int::from(section::holes_supported(fd)?)))
}

// SAFETY: repr(C), u64 size first, integers only.
unsafe impl Sized0 for sparsestream_section {}

/// The kind of a section that a caller's function named.
pub fn kind(number: i32) -> Option<section::Kind> {
    [section::Kind::End, section::Kind::Data, section::Kind::Hole, section::Kind::Keep]
        .into_iter()
        .find(|kind| i32::from(*kind) == number)
}

impl From<section::Kind> for i32 {
    fn from(kind: section::Kind) -> Self {
        match kind {
            section::Kind::End => SPARSESTREAM_END,
            section::Kind::Data => SPARSESTREAM_DATA,
            section::Kind::Hole => SPARSESTREAM_HOLE,
            section::Kind::Keep => SPARSESTREAM_KEEP,
        }
    }
}

impl From<section::Section> for sparsestream_section {
    fn from(section: section::Section) -> Self {
        Self {
            size: size_of::<Self>() as u64,
            offset: guard::signed(section.offset),
            length: guard::signed(section.length),
            kind: section.kind.into(),
            reserved: 0,
        }
    }
}
