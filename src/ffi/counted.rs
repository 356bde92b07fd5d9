//! Handles: counted references to a value that one call at a time may use.
//!
//! | holder of a reference | from | until |
//! |---|---|---|
//! | the caller | the constructor | the `_free` of the handle |
//! | a transfer, of each of its ends | `sparsestream_transfer_new` | `sparsestream_transfer_free` |
//! | a call | its start | its end |
//!
//! The value is dropped with the last reference, so that handles may be freed in any order. While a call
//! uses the value, and while it is dropped, any other use fails with `EBUSY`. That includes callbacks of
//! the value that use or free their own handle.
//!
//! A handle begins with a tag, so that a handle of another type is refused with `EINVAL`. So is a freed
//! handle, unless its memory is in use again.

use crate::error::{Error, Operation, Result, Side};
use crate::sys;
use std::cell::UnsafeCell;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering, fence};

/// A value behind a handle.
pub trait Handled: Sized {
    /// The opaque type that C uses for it.
    type Opaque;
    /// A part that may be used at any time, even while a call uses the value.
    type Shared: Sync;
    /// The first eight bytes of each handle of this type.
    const TAG: u64;
    /// The name of the argument.
    const NAME: &'static str;

    /// Ends it with an error, as [`Ref::abort`] asks for.
    fn abort(&mut self, error: &Error);
}

/// The tag of a freed handle.
const FREED: u64 = u64::from_le_bytes(*b"ss freed");

/// The user of the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum State {
    /// No call.
    Idle,
    /// A call, or its own drop.
    InUse,
    /// A call, which aborts the value at its end.
    AbortDue,
    /// None: a panic left the value half changed.
    Broken,
}

impl State {
    fn of(number: u8) -> State {
        [State::Idle, State::InUse, State::AbortDue]
            .into_iter()
            .find(|state| *state as u8 == number)
            .unwrap_or(State::Broken)
    }
}

#[repr(C)]
struct Cell<T: Handled> {
    /// The first field, for every type.
    tag: AtomicU64,
    references: AtomicUsize,
    /// The caller has freed its reference.
    released: AtomicBool,
    state: AtomicU8,
    shared: T::Shared,
    value: UnsafeCell<ManuallyDrop<T>>,
}

impl<T: Handled> Cell<T> {
    /// Changes the state from `from` to `to`, or returns the current state.
    fn change(&self, from: State, to: State) -> std::result::Result<(), State> {
        self.state
            .compare_exchange(from as u8, to as u8, Ordering::AcqRel, Ordering::Acquire)
            .map(drop)
            .map_err(State::of)
    }

    fn state(&self) -> State {
        State::of(self.state.load(Ordering::Acquire))
    }

    fn set(&self, state: State) {
        self.state.store(state as u8, Ordering::Release);
    }

    fn refuse_in_use(&self, why: &'static str) -> Result<()> {
        match self.state() {
            State::InUse | State::AbortDue => Err(Error::argument(T::NAME, why, libc::EBUSY)),
            State::Idle | State::Broken => Ok(()),
        }
    }
}

/// One reference.
pub struct Ref<T: Handled>(NonNull<Cell<T>>);

// SAFETY: one call at a time uses the value, on any thread, and it may move between threads; the other
// fields are atomic or `Sync`.
unsafe impl<T: Handled + Send> Send for Ref<T> {}
// SAFETY: as above.
unsafe impl<T: Handled + Send> Sync for Ref<T> {}

impl<T: Handled> Ref<T> {
    /// The first reference to a new value.
    pub fn new(value: T, shared: T::Shared) -> Result<Self> {
        // First: a cell would be dropped without its value.
        let room = sys::room()
            .ok_or_else(|| Error::nowhere(Operation::Allocate, Side::None, libc::ENOMEM))?;
        let cell = sys::put(
            room,
            Cell {
                tag: AtomicU64::new(T::TAG),
                references: AtomicUsize::new(1),
                released: AtomicBool::new(false),
                state: AtomicU8::new(State::Idle as u8),
                shared,
                value: UnsafeCell::new(ManuallyDrop::new(value)),
            },
        );
        Ok(Ref(NonNull::from(Box::leak(cell))))
    }

    /// Makes this reference the caller's.
    pub fn into_handle(self) -> *mut T::Opaque {
        ManuallyDrop::new(self).0.as_ptr().cast()
    }

    /// One more reference to a caller's handle, even to one that is being freed.
    ///
    /// # Safety
    /// Null, or a live handle of any type.
    pub unsafe fn to(handle: *mut T::Opaque) -> Result<Self> {
        let tag = NonNull::new(handle.cast::<AtomicU64>()).ok_or(Error::null(T::NAME))?;
        // SAFETY: a handle of any type begins with its tag, and lives by the caller's promise.
        if !tag.is_aligned() || unsafe { tag.as_ref() }.load(Ordering::Relaxed) != T::TAG {
            return Err(Error::argument(T::NAME, "is not a handle of this type", libc::EINVAL));
        }
        let cell = tag.cast::<Cell<T>>();
        // SAFETY: its tag shows that it is one, and the caller promises that it was not freed.
        let alive = unsafe { cell.as_ref() };
        alive.references.fetch_add(1, Ordering::Relaxed);
        Ok(Ref(cell))
    }

    /// One more reference to a caller's handle.
    ///
    /// # Safety
    /// Null, or a live handle of any type.
    pub unsafe fn of(handle: *mut T::Opaque) -> Result<Self> {
        // SAFETY: as promised.
        let one = unsafe { Self::to(handle) }?;
        if one.cell().released.load(Ordering::Relaxed) {
            one.cell().refuse_in_use("is in use by another call")?;
            return Err(Error::argument(T::NAME, "was freed before", libc::EINVAL));
        }
        Ok(one)
    }

    /// One more reference to a caller's handle that no call is using, to be kept.
    ///
    /// # Safety
    /// As [`Ref::of`].
    pub unsafe fn hold(handle: *mut T::Opaque) -> Result<Self> {
        // SAFETY: as promised.
        let one = unsafe { Self::of(handle) }?;
        // While the value is dropped, a reference to be kept would come too late.
        one.cell().refuse_in_use("is in use by another call")?;
        Ok(one)
    }

    /// Frees the caller's reference, unless a call uses the value.
    ///
    /// # Safety
    /// Null, or a live handle of any type. It is not used again if this succeeds.
    pub unsafe fn free(handle: *mut T::Opaque) -> Result<()> {
        if handle.is_null() {
            return Ok(());
        }
        // SAFETY: as promised.
        let one = unsafe { Self::of(handle) }?;
        one.cell().refuse_in_use("is in use by another call, and not freed")?;
        if one.cell().released.swap(true, Ordering::Relaxed) {
            return Err(Error::argument(T::NAME, "was freed before", libc::EINVAL));
        }
        drop(Ref(one.0));
        Ok(())
    }

    /// The part that may be used at any time.
    pub fn shared(&self) -> &T::Shared {
        &self.cell().shared
    }

    /// Uses the value, unless another call does.
    pub fn with<R>(&self, body: impl FnOnce(&mut T) -> Result<R>) -> Result<R> {
        match self.cell().change(State::Idle, State::InUse) {
            Ok(()) => self.inside(body),
            Err(State::Broken) => Err(Error::Internal),
            Err(_) => Err(Error::argument(T::NAME, "is in use by another call", libc::EBUSY)),
        }
    }

    /// Aborts the value: now, or at the end of the call that uses it. A value that a panic broke is left alone.
    pub fn abort(&self, error: &Error) {
        loop {
            match self.cell().change(State::Idle, State::InUse) {
                Ok(()) => {
                    let _ = self.inside(|value| {
                        value.abort(error);
                        Ok(())
                    });
                    return;
                }
                Err(State::AbortDue | State::Broken) => return,
                Err(State::Idle | State::InUse) => {
                    if self.cell().change(State::InUse, State::AbortDue).is_ok() {
                        return;
                    }
                }
            }
        }
    }

    /// The state has become `InUse` here.
    fn inside<R>(&self, body: impl FnOnce(&mut T) -> Result<R>) -> Result<R> {
        struct Panicked<'a, T: Handled>(&'a Cell<T>);
        impl<T: Handled> Drop for Panicked<'_, T> {
            fn drop(&mut self) {
                self.0.set(State::Broken);
            }
        }
        let cell = self.cell();
        let panicked = Panicked(cell);
        // SAFETY: there is no other reference to the value until the state is changed below.
        let value = unsafe { &mut *cell.value.get() };
        let result = body(value);
        while cell.change(State::InUse, State::Idle).is_err() {
            cell.set(State::InUse);
            value.abort(&Error::nowhere(Operation::None, Side::None, libc::ECANCELED));
        }
        std::mem::forget(panicked);
        result
    }

    fn cell(&self) -> &Cell<T> {
        // SAFETY: it lives for as long as there is a reference.
        unsafe { self.0.as_ref() }
    }
}

impl<T: Handled> Drop for Ref<T> {
    fn drop(&mut self) {
        let cell = self.cell();
        if cell.references.fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        fence(Ordering::Acquire);
        // Callbacks of the value may use the handle during the drop: it is in use, and is not dropped twice.
        cell.references.store(1, Ordering::Relaxed);
        cell.set(State::InUse);
        // SAFETY: that was the last reference, so no other reference exists, now or later.
        unsafe { ManuallyDrop::drop(&mut *cell.value.get()) };
        cell.tag.store(FREED, Ordering::Relaxed);
        // SAFETY: `new` leaked this box, and no reference is left.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

#[cfg(test)]
mod tests;
