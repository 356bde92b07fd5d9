use super::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Barrier};

const THREADS: u64 = 8;
const ROUNDS: u64 = if cfg!(miri) { 50 } else { 20_000 };

/// The numbers of aborts and drops of a value.
#[derive(Default)]
struct Log {
    aborts: AtomicU64,
    drops: AtomicU64,
}

impl Log {
    fn all(&self) -> (u64, u64) {
        (self.aborts.load(Ordering::Relaxed), self.drops.load(Ordering::Relaxed))
    }
}

struct Opaque;

/// A value whose halves change together, and what its drop does with its own handle.
struct Value {
    log: Arc<Log>,
    count: u64,
    copies: [u64; 32],
    at_drop: Option<Box<dyn FnMut() + Send>>,
}

impl Handled for Value {
    type Opaque = Opaque;
    type Shared = AtomicU64;
    const TAG: u64 = 7;
    const NAME: &'static str = "value";

    fn abort(&mut self, error: &Error) {
        assert_eq!(error.errno(), libc::ECANCELED);
        self.log.aborts.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        self.log.drops.fetch_add(1, Ordering::Relaxed);
        if let Some(action) = &mut self.at_drop {
            action();
        }
    }
}

/// A value of another type.
struct Other;

impl Handled for Other {
    type Opaque = Opaque;
    type Shared = ();
    const TAG: u64 = 8;
    const NAME: &'static str = "other";

    fn abort(&mut self, _error: &Error) {}
}

fn new(log: &Arc<Log>) -> Ref<Value> {
    let value = Value { log: Arc::clone(log), count: 0, copies: [0; 32], at_drop: None };
    Ref::new(value, AtomicU64::new(0)).unwrap()
}

fn errno<R>(answer: Result<R>) -> i32 {
    answer.map(|_| 0).unwrap_or_else(|error| error.errno())
}

fn cancelled() -> Error {
    Error::nowhere(Operation::None, Side::None, libc::ECANCELED)
}

/// Both halves change together. With a second user inside, or without the orders of the atomic,
/// they would be seen apart or changes would be lost.
#[test]
fn one_call_at_a_time_has_the_value() {
    let log = Arc::new(Log::default());
    let value = new(&log);
    let start = Barrier::new(THREADS as usize);
    let one_thread = || {
        start.wait();
        let mut had = 0;
        while had < ROUNDS {
            let answer = value.with(|value| {
                assert!(value.copies.iter().all(|copy| *copy == value.count), "seen half done");
                value.count += 1;
                value.copies.iter_mut().for_each(|copy| *copy += 1);
                Ok(())
            });
            match errno(answer) {
                0 => had += 1,
                other => {
                    assert_eq!(other, libc::EBUSY);
                    std::thread::yield_now();
                }
            }
        }
        had
    };
    let had: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(one_thread)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(had, THREADS * ROUNDS);
    assert_eq!(value.with(|value| Ok(value.count)).ok(), Some(had));
    drop(value);
    assert_eq!(log.all(), (0, 1));
}

#[test]
fn a_second_call_is_refused_while_the_first_is_inside() {
    let log = Arc::new(Log::default());
    let value = new(&log);
    let (inside, leave) = (Barrier::new(2), Barrier::new(2));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let answer = value.with(|value| {
                inside.wait();
                leave.wait();
                value.count += 1;
                Ok(())
            });
            assert!(answer.is_ok());
        });
        inside.wait();
        for _ in 0..100 {
            assert_eq!(errno(value.with(|_| Ok(()))), libc::EBUSY);
        }
        leave.wait();
    });
    assert_eq!(value.with(|value| Ok(value.count)).ok(), Some(1));
}

#[test]
fn a_call_from_inside_is_refused_and_releases_nothing() {
    let value = new(&Arc::default());
    let outer = value.with(|_| {
        assert_eq!(errno(value.with(|_| Ok(()))), libc::EBUSY);
        assert_eq!(errno(value.with(|_| Ok(()))), libc::EBUSY);
        Ok(())
    });
    assert!(outer.is_ok());
    assert!(value.with(|_| Ok(())).is_ok());
}

#[test]
fn an_error_leaves_it_free() {
    let value = new(&Arc::default());
    assert_eq!(errno(value.with(|_| -> Result<()> { Err(Error::null("value")) })), libc::EINVAL);
    assert!(value.with(|_| Ok(())).is_ok());
}

#[test]
fn a_value_that_a_panic_went_through_is_only_dropped() {
    let log = Arc::new(Log::default());
    let value = new(&log);
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _ = value.with(|_| -> Result<()> { panic!("on purpose") });
    }));
    assert!(panicked.is_err());
    for _ in 0..2 {
        assert!(matches!(value.with(|_| Ok(())), Err(Error::Internal)));
    }
    value.abort(&cancelled());
    let handle = value.into_handle();
    // SAFETY: it lives.
    assert_eq!(errno(unsafe { Ref::<Value>::free(handle) }), 0);
    assert_eq!(log.all(), (0, 1));
}

/// A panic of the host does not break a value that is in use.
#[test]
fn a_use_during_somebody_elses_panic_leaves_it_usable() {
    struct AtUnwind<'a>(&'a Ref<Value>);
    impl Drop for AtUnwind<'_> {
        fn drop(&mut self) {
            assert!(self.0.with(|_| Ok(())).is_ok());
        }
    }
    let value = new(&Arc::default());
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _at_unwind = AtUnwind(&value);
        panic!("on purpose");
    }));
    assert!(panicked.is_err());
    assert!(value.with(|_| Ok(())).is_ok());
}

#[test]
fn the_last_reference_drops_it_whichever_that_is() {
    for caller_first in [true, false] {
        let log = Arc::new(Log::default());
        let handle = new(&log).into_handle();
        // SAFETY: it lives.
        let held = unsafe { Ref::<Value>::hold(handle) }.unwrap();
        let free = || {
            // SAFETY: it lives, since there is a reference.
            assert_eq!(errno(unsafe { Ref::<Value>::free(handle) }), 0);
        };
        if caller_first {
            free();
            assert_eq!(log.all(), (0, 0));
            assert!(held.with(|_| Ok(())).is_ok());
            // SAFETY: it lives.
            unsafe {
                assert_eq!(errno(Ref::<Value>::of(handle)), libc::EINVAL, "a freed handle");
                assert_eq!(errno(Ref::<Value>::free(handle)), libc::EINVAL, "a second free");
            }
            drop(held);
        } else {
            drop(held);
            assert_eq!(log.all(), (0, 0));
            free();
        }
        assert_eq!(log.all(), (0, 1));
    }
}

#[test]
fn another_type_and_null_are_refused() {
    let handle = new(&Arc::default()).into_handle();
    let null = std::ptr::null_mut();
    // SAFETY: it lives; null is allowed.
    unsafe {
        assert_eq!(errno(Ref::<Other>::of(handle)), libc::EINVAL);
        assert_eq!(errno(Ref::<Other>::free(handle)), libc::EINVAL);
        assert_eq!(errno(Ref::<Value>::of(null)), libc::EINVAL);
        assert_eq!(errno(Ref::<Value>::free(null)), 0);
        assert_eq!(errno(Ref::<Value>::free(handle)), 0);
    }
}

#[test]
fn an_abort_comes_now_or_when_the_call_inside_is_done() {
    let log = Arc::new(Log::default());
    let value = new(&log);
    value.abort(&cancelled());
    assert_eq!(log.all(), (1, 0));
    let answer = value.with(|_| {
        value.abort(&cancelled());
        value.abort(&cancelled());
        assert_eq!(log.all(), (1, 0));
        assert_eq!(errno(value.with(|_| Ok(()))), libc::EBUSY);
        Ok(())
    });
    assert!(answer.is_ok());
    assert_eq!(log.all(), (2, 0));
    assert!(value.with(|_| Ok(())).is_ok());
}

/// Callbacks that run while the value is dropped are refused everything, and nothing is dropped twice.
#[test]
fn a_drop_that_uses_its_own_handle_is_refused() {
    struct Address(*mut Opaque);
    // SAFETY: used by one thread.
    unsafe impl Send for Address {}
    let log = Arc::new(Log::default());
    let handle = new(&log).into_handle();
    let refused = Arc::new(AtomicU64::new(0));
    let (address, count) = (Address(handle), Arc::clone(&refused));
    let at_drop = move || {
        let handle = { &address }.0;
        // SAFETY: it lives until its drop is done.
        let answers = unsafe {
            [
                errno(Ref::<Value>::free(handle)),
                errno(Ref::<Value>::hold(handle)),
                errno(Ref::<Value>::of(handle).and_then(|one| one.with(|_| Ok(())))),
            ]
        };
        assert_eq!(answers, [libc::EBUSY; 3]);
        count.fetch_add(1, Ordering::Relaxed);
    };
    // SAFETY: it lives.
    let set = unsafe { Ref::<Value>::of(handle) }.unwrap().with(|value| {
        value.at_drop = Some(Box::new(at_drop));
        Ok(())
    });
    assert!(set.is_ok());
    // SAFETY: it lives.
    assert_eq!(errno(unsafe { Ref::<Value>::free(handle) }), 0);
    assert_eq!((log.all(), refused.load(Ordering::Relaxed)), ((0, 1), 1));
}
