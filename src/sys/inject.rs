//! The changes that a test build may make to a system call before it is made.

use super::Call;
use std::cell::RefCell;

/// The injector's decision on one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Make the call as it is.
    None,
    /// Do not make it: return this errno.
    Errno(i32),
    /// Make it with at most this many bytes.
    Short(usize),
}

type Injector = Box<dyn FnMut(Call) -> Fault>;

thread_local! {
    static INJECTOR: RefCell<Option<Injector>> = const { RefCell::new(None) };
}

/// Runs `body` with `injector` asked before each system call of this thread.
pub fn with<T>(injector: impl FnMut(Call) -> Fault + 'static, body: impl FnOnce() -> T) -> T {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            INJECTOR.set(None);
        }
    }
    INJECTOR.set(Some(Box::new(injector)));
    let _reset = Reset;
    body()
}

pub(super) fn ask(call: Call) -> Fault {
    INJECTOR.with_borrow_mut(|injector| injector.as_mut().map_or(Fault::None, |ask| ask(call)))
}

#[cfg(test)]
mod tests {
    use super::super::{pwrite, sync};
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn the_injector_is_asked_and_gone_afterwards() {
        let file = crate::testing::file();
        let fd = file.as_raw_fd();
        let faults = with(
            |call| match call {
                Call::Fsync => Fault::Errno(libc::EIO),
                Call::Pwrite => Fault::Short(2),
                _ => Fault::None,
            },
            || (sync(fd), pwrite(fd, b"abc", 0)),
        );
        assert_eq!(faults, (Err(libc::EIO), Ok(2)));
        assert_eq!((sync(fd), pwrite(fd, b"abc", 0)), (Ok(()), Ok(3)));
    }
}
