//! Errnos on the wire: the numbers of Linux on x86 and ARM, on every machine.

use crate::error::lasting;

/// The number for an errno that has none on the wire: EIO.
const UNKNOWN: u32 = 5;

macro_rules! codes {
    ($($code:literal $name:ident),* $(,)?) => {
        /// Each number and the errno of this machine.
        const CODES: &[(u32, i32)] = &[$(($code, libc::$name)),*];
    };
}

codes! {
    1 EPERM, 2 ENOENT, 3 ESRCH, 4 EINTR, 5 EIO, 6 ENXIO, 7 E2BIG, 8 ENOEXEC, 9 EBADF, 10 ECHILD,
    11 EAGAIN, 12 ENOMEM, 13 EACCES, 14 EFAULT, 15 ENOTBLK, 16 EBUSY, 17 EEXIST, 18 EXDEV,
    19 ENODEV, 20 ENOTDIR, 21 EISDIR, 22 EINVAL, 23 ENFILE, 24 EMFILE, 25 ENOTTY, 26 ETXTBSY,
    27 EFBIG, 28 ENOSPC, 29 ESPIPE, 30 EROFS, 31 EMLINK, 32 EPIPE, 33 EDOM, 34 ERANGE,
    35 EDEADLK, 36 ENAMETOOLONG, 37 ENOLCK, 38 ENOSYS, 39 ENOTEMPTY, 40 ELOOP, 61 ENODATA,
    62 ETIME, 67 ENOLINK, 71 EPROTO, 74 EBADMSG, 75 EOVERFLOW, 84 EILSEQ, 87 EUSERS,
    88 ENOTSOCK, 89 EDESTADDRREQ, 90 EMSGSIZE, 91 EPROTOTYPE, 92 ENOPROTOOPT,
    93 EPROTONOSUPPORT, 94 ESOCKTNOSUPPORT, 95 EOPNOTSUPP, 96 EPFNOSUPPORT, 97 EAFNOSUPPORT,
    98 EADDRINUSE, 99 EADDRNOTAVAIL, 100 ENETDOWN, 101 ENETUNREACH, 102 ENETRESET,
    103 ECONNABORTED, 104 ECONNRESET, 105 ENOBUFS, 106 EISCONN, 107 ENOTCONN, 108 ESHUTDOWN,
    110 ETIMEDOUT, 111 ECONNREFUSED, 112 EHOSTDOWN, 113 EHOSTUNREACH, 114 EALREADY,
    115 EINPROGRESS, 116 ESTALE, 117 EUCLEAN, 121 EREMOTEIO, 122 EDQUOT, 123 ENOMEDIUM,
    124 EMEDIUMTYPE, 125 ECANCELED, 126 ENOKEY, 127 EKEYEXPIRED, 128 EKEYREVOKED,
    129 EKEYREJECTED, 130 EOWNERDEAD, 131 ENOTRECOVERABLE,
}

/// The number of an errno of this machine.
pub fn to_wire(errno: i32) -> u32 {
    CODES.iter().find(|known| known.1 == errno).map_or(UNKNOWN, |known| known.0)
}

/// The errno of this machine that a number stands for.
pub fn from_wire(code: u32) -> i32 {
    let known = CODES.iter().find(|known| known.0 == code);
    lasting(known.map_or(libc::EIO, |known| known.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for (code, errno) in CODES {
            assert_eq!(to_wire(*errno), *code);
            if ![libc::EAGAIN, libc::EINTR].contains(errno) {
                assert_eq!(from_wire(*code), *errno);
            }
        }
        assert_eq!((to_wire(libc::ENOSPC), to_wire(4000)), (28, 5));
        for hostile in [0, 4, 11, 200, u32::MAX] {
            assert_eq!(from_wire(hostile), libc::EIO);
        }
    }
}
