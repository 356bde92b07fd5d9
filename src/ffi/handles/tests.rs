use super::*;
use crate::error::Side;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;

const THREADS: u64 = 8;
const ROUNDS: u64 = 20_000;

/// As the C side shares a handle: by its address alone.
struct Shared<T>(Exclusive<T>);

// SAFETY: `Exclusive::with` hands its value to one call at a time, which is what these tests try;
// all values in them may go from thread to thread.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    fn get(&self) -> &Exclusive<T> {
        &self.0
    }
}

fn is_busy<R>(answer: &Result<R>) -> bool {
    answer.as_ref().is_err_and(|error| error.errno() == libc::EBUSY && error.side() == Side::None)
}

/// Both halves change together. With a second user inside, or without the orders of the atomic,
/// they would be seen apart or changes would be lost.
#[test]
fn one_call_at_a_time_has_the_value() {
    let shared = Shared(Exclusive::new((0u64, [0u64; 32])));
    let start = Barrier::new(THREADS as usize);
    let had: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    let mut had = 0;
                    while had < ROUNDS {
                        let answer = shared.get().with("value", |(count, copies)| {
                            assert!(copies.iter().all(|copy| copy == count), "seen half done");
                            *count += 1;
                            for copy in copies.iter_mut() {
                                *copy += 1;
                            }
                            Ok(())
                        });
                        match answer {
                            Ok(()) => had += 1,
                            other => {
                                assert!(is_busy(&other), "{other:?}");
                                std::thread::yield_now();
                            }
                        }
                    }
                    had
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(had, THREADS * ROUNDS);
    assert!(!shared.get().in_use());
    assert_eq!(shared.get().with("value", |(count, _)| Ok(*count)).ok(), Some(had));
}

#[test]
fn a_second_call_is_refused_while_the_first_is_within() {
    let shared = Shared(Exclusive::new(0));
    let (inside, leave) = (Barrier::new(2), Barrier::new(2));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let answer = shared.get().with("value", |value| {
                inside.wait();
                leave.wait();
                *value += 1;
                Ok(())
            });
            assert!(answer.is_ok());
        });
        inside.wait();
        assert!(shared.get().in_use());
        for _ in 0..100 {
            assert!(is_busy(&shared.get().with("value", |value| {
                *value = 100;
                Ok(())
            })));
        }
        leave.wait();
    });
    assert!(!shared.get().in_use());
    assert_eq!(shared.get().with("value", |value| Ok(*value)).ok(), Some(1));
}

#[test]
fn a_call_from_within_is_refused_too() {
    let value = Exclusive::new(0);
    let outer = value.with("value", |_| {
        assert!(is_busy(&value.with("value", |_| Ok(()))));
        Ok(())
    });
    assert!(outer.is_ok());
    assert!(value.with("value", |_| Ok(())).is_ok(), "the refused call released nothing");
}

#[test]
fn an_error_leaves_it_free() {
    let value = Exclusive::new(0);
    let failed: Result<()> = value.with("value", |_| Err(Error::null("value")));
    assert!(failed.is_err());
    assert!(value.with("value", |_| Ok(())).is_ok());
}

#[test]
fn what_a_panic_went_through_is_not_used_again() {
    let value = Exclusive::new(0);
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _ = value.with("value", |_| -> Result<()> { panic!("on purpose") });
    }));
    assert!(panicked.is_err());
    assert!(!value.in_use(), "it can be freed");
    for _ in 0..2 {
        let answer = value.with("value", |_| Ok(()));
        assert!(matches!(answer, Err(Error::Internal)), "{answer:?}");
    }
}
