//! The file system that a file is on, and what is known of it.
//!
//! The name is read only if an answer depends on it. A file system that is not listed here is given the
//! careful treatment: right bytes at a higher price.

use crate::sys::{self, Fd, Sys};

/// A file system, as far as a difference is made between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    /// ext2, ext3 or ext4.
    Ext,
    /// XFS.
    Xfs,
    /// Btrfs.
    Btrfs,
    /// F2FS.
    F2fs,
    /// tmpfs, and memfds.
    Tmpfs,
    /// ramfs.
    Ramfs,
    /// A read-only image: EROFS or SquashFS.
    Image,
    /// overlayfs. Its files lie in one of its layers.
    Overlay,
    /// One of the kernel's own, such as proc and sysfs: content is made while it is read.
    MadeUp,
    /// SMB.
    Smb,
    /// FUSE, NFS, 9p, Ceph, ZFS and all others.
    Other,
}

impl FileSystem {
    /// The file system of an open file: fstatfs(2).
    pub fn of(fd: Fd) -> Sys<Self> {
        // The numbers are from linux/magic.h and, for ZFS-like modules, absent on purpose.
        Ok(match sys::file_system(fd)? {
            0xef53 => FileSystem::Ext,
            0x5846_5342 => FileSystem::Xfs,
            0x9123_683e => FileSystem::Btrfs,
            0xf2f5_2010 => FileSystem::F2fs,
            0x0102_1994 => FileSystem::Tmpfs,
            0x8584_58f6 => FileSystem::Ramfs,
            0xe0f5_e1e2 | 0x7371_7368 => FileSystem::Image,
            0x794c_7630 => FileSystem::Overlay,
            0xff53_4d42 | 0xfe53_4d42 => FileSystem::Smb,
            // proc, sysfs, debugfs, tracefs, securityfs, configfs, cgroup, cgroup2.
            0x9fa0 | 0x6265_6572 | 0x6462_6720 | 0x7472_6163 | 0x7363_6673 | 0x6265_6570
            | 0x0027_e0eb | 0x6367_7270 => FileSystem::MadeUp,
            _ => FileSystem::Other,
        })
    }

    /// Whether the size of its files does not show how much content they have.
    #[must_use]
    pub fn is_made_up(self) -> bool {
        self == FileSystem::MadeUp
    }

    /// Whether it may copy within itself in a better way than by its pages: shared blocks, or a
    /// server's own copy.
    #[must_use]
    pub fn copies_itself(self) -> bool {
        !matches!(self, FileSystem::Ext | FileSystem::Tmpfs | FileSystem::Ramfs)
    }

    /// Whether a write at the end of a file reserves blocks behind it that a later write further on
    /// turns into a part of the file.
    #[must_use]
    pub fn reserves_past_end(self) -> bool {
        self == FileSystem::Xfs
    }

    /// Whether it is one of the kernel's own disk or memory file systems, whose answers describe
    /// the page cache and which do what they claim to have done.
    #[must_use]
    pub fn is_native(self) -> bool {
        match self {
            FileSystem::Ext
            | FileSystem::Xfs
            | FileSystem::Btrfs
            | FileSystem::F2fs
            | FileSystem::Tmpfs
            | FileSystem::Ramfs
            | FileSystem::Image => true,
            FileSystem::Overlay | FileSystem::MadeUp | FileSystem::Smb | FileSystem::Other => false,
        }
    }
}

/// Whether the map of a file includes data that is only in the page cache.
///
/// SEEK_DATA and SEEK_HOLE of a network file system or of FUSE may be answered by a server that has not seen
/// what was written last. A file of an overlay is mapped by the layer that it lies in, and its type is not
/// visible: it is taken for a native one if it can list the extents of the file (FIEMAP), which neither FUSE
/// nor a network file system that can be an upper layer does. Lower layers cannot change while they are
/// mounted.
pub fn map_follows_cache(fd: Fd, offset: u64) -> bool {
    match FileSystem::of(fd) {
        Ok(FileSystem::Overlay) => sys::lists_extents(fd, offset),
        Ok(known) => known.is_native(),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Call;
    use crate::sys::inject::{self, Fault};
    use crate::testing;
    use std::os::fd::AsRawFd;

    #[test]
    fn files_of_the_kernel_are_made_up() {
        let file = std::fs::File::open("/proc/self/status").unwrap();
        let found = FileSystem::of(file.as_raw_fd()).unwrap();
        assert_eq!(found, FileSystem::MadeUp);
        assert!(found.is_made_up() && !found.is_native());
    }

    #[test]
    fn a_file_system_that_cannot_be_named_is_not_trusted() {
        let file = testing::file();
        let refused = |call| match call {
            Call::Fstatfs => Fault::Errno(libc::EPERM),
            _ => Fault::None,
        };
        assert!(!inject::with(refused, || map_follows_cache(file.as_raw_fd(), 0)));
    }
}
