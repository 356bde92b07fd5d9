//! A value with several owners, whose allocation may fail: std's `Arc::new` would end the process then.

use super::boxed;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering, fence};

/// A reference to a value that lives as long as one of them.
pub struct Arc<T> {
    inner: NonNull<Inner<T>>,
    owned: PhantomData<Inner<T>>,
}

struct Inner<T> {
    owners: AtomicUsize,
    value: T,
}

// SAFETY: each thread with a reference can use the value, and the last of them drops it.
unsafe impl<T: Send + Sync> Send for Arc<T> {}
// SAFETY: as above, because a shared reference can be cloned.
unsafe impl<T: Send + Sync> Sync for Arc<T> {}

impl<T> Arc<T> {
    /// A value with one owner; `None` if there is no memory.
    pub fn new(value: T) -> Option<Self> {
        let inner = boxed(Inner { owners: AtomicUsize::new(1), value })?;
        Some(Arc { inner: NonNull::from(Box::leak(inner)), owned: PhantomData })
    }

    /// The address of the value, which is valid while there is a reference.
    pub fn as_ptr(this: &Self) -> *const T {
        // SAFETY: within the allocation. No reference is made, so the pointer outlives the one that it came from.
        unsafe { &raw const (*this.inner.as_ptr()).value }
    }

    /// Whether this is the only reference.
    #[must_use]
    pub fn is_alone(this: &Self) -> bool {
        this.inner().owners.load(Ordering::Acquire) == 1
    }

    fn inner(&self) -> &Inner<T> {
        // SAFETY: it lives while there is a reference.
        unsafe { self.inner.as_ref() }
    }
}

impl<T> Clone for Arc<T> {
    fn clone(&self) -> Self {
        // One is forgotten only with the memory that it lies in, so that memory bounds their number.
        self.inner().owners.fetch_add(1, Ordering::Relaxed);
        Arc { inner: self.inner, owned: PhantomData }
    }
}

impl<T> Deref for Arc<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner().value
    }
}

impl<T> Drop for Arc<T> {
    fn drop(&mut self) {
        if self.inner().owners.fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        // All uses by the other owners come before the end of the value.
        fence(Ordering::Acquire);
        // SAFETY: from a box, and this was the last reference.
        drop(unsafe { Box::from_raw(self.inner.as_ptr()) });
    }
}

impl<T: fmt::Debug> fmt::Debug for Arc<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    struct Ends<'a>(&'a AtomicU32);

    impl Drop for Ends<'_> {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn one_of_several_threads_drops_the_value_once() {
        let ends = AtomicU32::new(0);
        let first = Arc::new(Ends(&ends)).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let one = first.clone();
                scope.spawn(move || {
                    for _ in 0..1000 {
                        let other = one.clone();
                        assert_eq!(other.0.load(Ordering::Relaxed), 0);
                    }
                });
            }
            drop(first);
        });
        assert_eq!(ends.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn the_only_reference_is_alone() {
        let ends = AtomicU32::new(0);
        let first = Arc::new(Ends(&ends)).unwrap();
        assert!(Arc::is_alone(&first));
        let second = first.clone();
        assert!(!Arc::is_alone(&second));
        drop(first);
        assert!(Arc::is_alone(&second));
        // SAFETY: there is a reference.
        assert_eq!(unsafe { &*Arc::as_ptr(&second) }.0.load(Ordering::Relaxed), 0);
    }
}
