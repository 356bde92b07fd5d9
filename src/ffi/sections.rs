//! Exports: where a descriptor's data and holes are.

use super::guard;
use super::sized::{self, Sized0};
use crate::error::{Bound, Rule};
use crate::section;
use libc::{c_int, c_void};

/// A section's kind: the end of the file or stream.
pub const SPARSESTREAM_END: i32 = 0;
/// A section's kind: bytes.
pub const SPARSESTREAM_DATA: i32 = 1;
/// A section's kind: a hole, which reads as zeros and is not stored.
pub const SPARSESTREAM_HOLE: i32 = 2;
/// A section's kind: bytes that the receiver keeps as they are.
pub const SPARSESTREAM_KEEP: i32 = 3;

/// A run of bytes of one kind. Set `size` before the call.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct sparsestream_section {
    /// `sizeof(sparsestream_section)`. Set it if you pass the struct to the library. If the library passes it
    /// to your function, the library has set it.
    pub size: u64,
    /// The offset of its first byte.
    pub offset: i64,
    /// Its length in bytes; 0 only with `SPARSESTREAM_END`; -1 if it is not known.
    pub length: i64,
    /// `SPARSESTREAM_DATA`, `SPARSESTREAM_HOLE`, `SPARSESTREAM_KEEP` or `SPARSESTREAM_END`. A later version
    /// may add kinds.
    pub kind: i32,
    /// Zero.
    pub reserved: i32,
}

/// Reports whether the file position is in data or in a hole, and how many bytes of that section follow.
///
/// `*in_data` is set to true in data and to false in a hole. `*length` is set to the number of bytes from the
/// position to the end of the section; a hole can reach to the end of the file. At or beyond the end, the
/// result is false and 0. A block device is data to its end. So is a file on a file system that does not
/// report holes; see `sparsestream_holes_supported`.
///
/// Position: restored before the return, even on failure. If that is not possible, the call fails with the
/// operation `SPARSESTREAM_OPERATION_SEEK`. Other threads, and processes that share the open file, must not
/// use the position during the call. On failure the outputs are not changed.
///
/// The call asks the file system with lseek(2), SEEK_DATA and SEEK_HOLE, at most ten times. The answer may be
/// outdated when it arrives. If the answers of the file system contradict each other, the result is data.
///
/// For a hole, the call also checks the type of the file system, with fstatfs(2). Some file systems include
/// dirty pages in their map of holes: ext2 to ext4, XFS, Btrfs, F2FS, tmpfs, ramfs, EROFS, SquashFS, and
/// overlayfs over a file system that supports FIEMAP. On all others the call writes the file's pages back with
/// fdatasync(2), which may block, and asks again. If fdatasync(2) fails, the result is data to the end. The
/// call also asks again in this way if lseek(2) fails with an errno that does not concern the medium, such as
/// ENOENT or EPERM.
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
    guard::query(|| {
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

/// As `sparsestream_in_data`, but at `offset` instead of the file position. `out->kind` is
/// `SPARSESTREAM_DATA`, `SPARSESTREAM_HOLE`, or, at or beyond the end, `SPARSESTREAM_END`. `out->offset` is
/// `offset`, even if the section begins before it.
///
/// Position: as with `sparsestream_in_data`.
///
/// Returns 0 or the errors of `sparsestream_in_data`. -EINVAL can also mean that `offset` is negative or that
/// the `size` of `out` is not valid.
///
/// # Safety
/// `out` is NULL or a struct of its `size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_section_at(
    fd: c_int,
    offset: i64,
    out: *mut sparsestream_section,
) -> c_int {
    guard::query(|| {
        // SAFETY: the caller promises a struct of its size.
        unsafe { sized::check(out, "out") }?;
        let offset = guard::unsigned(offset, "offset")?;
        let section = section::section_at(fd, Some(offset))?.into();
        // SAFETY: as above.
        unsafe { sized::write(out, &section, "out") }?;
        Ok(0)
    })
}

/// Calls `callback` for each section of a range, in order. The first and the last section are cut to the
/// range. A `length` of 0 means to the end that the file has at the start of the call. Each boundary between
/// sections takes one lseek(2).
///
/// `callback` returns 0 to continue. Any other value ends the walk and is the result of the call. The
/// callback must not move the file position, throw or longjmp.
///
/// Position: as with `sparsestream_in_data`. It moves during the walk.
///
/// Returns 0 at the end of the range or of the file, the value that the callback returned, or the errors of
/// `sparsestream_in_data`. -EINVAL can also mean that `offset` or `length` is negative or that `callback` is
/// NULL. A value that the callback returned leaves no message.
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

/// Reports whether the file system can report holes in this file. Position: as with `sparsestream_in_data`.
///
/// 1 means that the file system has a map. It may nevertheless store no holes; then the map has only data. 0
/// means that there is no map, as for a block device: everything is data.
///
/// Returns 1, 0, or the errors of `sparsestream_in_data`.
#[unsafe(no_mangle)]
pub extern "C" fn sparsestream_holes_supported(fd: c_int) -> c_int {
    guard::code(|| Ok(c_int::from(section::holes_supported(fd)?)))
}

// SAFETY: repr(C), u64 size first, integers only.
unsafe impl Sized0 for sparsestream_section {}

/// The rule for the kinds that a caller's function may name.
pub static KIND: Rule = Rule::new(
    "section.kind",
    Bound::Only("SPARSESTREAM_END (0), _DATA (1), _HOLE (2) or _KEEP (3)"),
);

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
