//! What the opaque pointers point to, and who may use them when.
//!
//! A handle is in use by one call at a time: a second one, from another thread or from a callback,
//! is told `EBUSY`. One that a panic went through is not used again.

use super::callbacks::Observer;
use super::options::{self, sparsestream_stats};
use crate::buffer::boxed;
use crate::end::{Sink, Source};
use crate::error::{Error, Result};
use crate::transfer::{Control, Options, Patience, Progress, Transfer};
use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// A source: where a stream comes from.
pub struct sparsestream_source {
    end: Exclusive<Box<dyn Source>>,
}

/// A sink: where a stream goes.
pub struct sparsestream_sink {
    end: Exclusive<Box<dyn Sink>>,
}

/// A transfer from a source to a sink.
pub struct sparsestream_transfer {
    control: Arc<Control>,
    source: *mut sparsestream_source,
    sink: *mut sparsestream_sink,
    state: Exclusive<(Transfer, Observer)>,
}

const FREE: u8 = 0;
const IN_USE: u8 = 1;
const BROKEN: u8 = 2;

/// A value that one call at a time may use.
struct Exclusive<T> {
    state: AtomicU8,
    value: UnsafeCell<T>,
}

impl<T> Exclusive<T> {
    fn new(value: T) -> Self {
        Exclusive { state: AtomicU8::new(FREE), value: UnsafeCell::new(value) }
    }

    fn with<R>(&self, name: &'static str, body: impl FnOnce(&mut T) -> Result<R>) -> Result<R> {
        struct Release<'a>(&'a AtomicU8);
        impl Drop for Release<'_> {
            fn drop(&mut self) {
                let next = if std::thread::panicking() { BROKEN } else { FREE };
                self.0.store(next, Ordering::Release);
            }
        }
        match self.state.compare_exchange(FREE, IN_USE, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => {}
            Err(BROKEN) => return Err(Error::Internal),
            Err(_) => return Err(Error::argument(name, "is in use by another call", libc::EBUSY)),
        }
        let _release = Release(&self.state);
        // SAFETY: the state went from FREE to IN_USE here, so nobody else has the value until
        // `_release` is dropped.
        body(unsafe { &mut *self.value.get() })
    }

    fn in_use(&self) -> bool {
        self.state.load(Ordering::Acquire) == IN_USE
    }
}

/// A handle of a source.
pub fn new_source(end: Box<dyn Source>) -> Result<*mut sparsestream_source> {
    Ok(Box::into_raw(boxed(sparsestream_source { end: Exclusive::new(end) })?))
}

/// A handle of a sink.
pub fn new_sink(end: Box<dyn Sink>) -> Result<*mut sparsestream_sink> {
    Ok(Box::into_raw(boxed(sparsestream_sink { end: Exclusive::new(end) })?))
}

/// A handle of a transfer between two handles.
pub fn new_transfer(
    source: *mut sparsestream_source,
    sink: *mut sparsestream_sink,
    options: &Options,
    observer: Observer,
) -> Result<*mut sparsestream_transfer> {
    if source.is_null() {
        return Err(Error::null("source"));
    }
    if sink.is_null() {
        return Err(Error::null("sink"));
    }
    let transfer = Transfer::new(options)?;
    let handle = sparsestream_transfer {
        control: transfer.control(),
        source,
        sink,
        state: Exclusive::new((transfer, observer)),
    };
    Ok(Box::into_raw(boxed(handle)?))
}

/// Uses a source.
///
/// # Safety
/// Null or a live handle.
pub unsafe fn with_source<R>(
    handle: *mut sparsestream_source,
    body: impl FnOnce(&mut dyn Source) -> Result<R>,
) -> Result<R> {
    // SAFETY: null or live, by the caller's promise; shared, as all of it is made for.
    let handle = unsafe { handle.as_ref() }.ok_or(Error::null("source"))?;
    handle.end.with("source", |end| body(end.as_mut()))
}

/// Uses a sink.
///
/// # Safety
/// Null or a live handle.
pub unsafe fn with_sink<R>(
    handle: *mut sparsestream_sink,
    body: impl FnOnce(&mut dyn Sink) -> Result<R>,
) -> Result<R> {
    // SAFETY: null or live, by the caller's promise; shared, as all of it is made for.
    let handle = unsafe { handle.as_ref() }.ok_or(Error::null("sink"))?;
    handle.end.with("sink", |end| body(end.as_mut()))
}

/// Uses a transfer without running it.
///
/// # Safety
/// Null or a live handle.
pub unsafe fn with_transfer<R>(
    handle: *mut sparsestream_transfer,
    body: impl FnOnce(&mut Transfer) -> Result<R>,
) -> Result<R> {
    // SAFETY: null or live, by the caller's promise; shared, as all of it is made for.
    let handle = unsafe { handle.as_ref() }.ok_or(Error::null("transfer"))?;
    handle.state.with("transfer", |(transfer, _)| body(transfer))
}

/// Runs a transfer.
///
/// # Safety
/// Null or a live handle, both of whose ends live.
pub unsafe fn run(
    handle: *mut sparsestream_transfer,
    budget: Option<u64>,
    patience: Patience,
) -> Result<Progress> {
    // SAFETY: null or live, by the caller's promise; shared, as all of it is made for.
    let handle = unsafe { handle.as_ref() }.ok_or(Error::null("transfer"))?;
    handle.state.with("transfer", |(transfer, observer)| {
        if let Some(error) = transfer.error() {
            return Err(error);
        }
        // SAFETY: the ends live, by the caller's promise.
        unsafe {
            with_source(handle.source, |source| {
                with_sink(handle.sink, |sink| {
                    transfer.run(source, sink, observer, budget, patience)
                })
            })
        }
    })
}

/// Runs a transfer that needs no handle from its beginning to its end.
///
/// # Safety
/// `stats` is null or a struct of its size.
pub unsafe fn run_whole(
    source: &mut dyn Source,
    sink: &mut dyn Sink,
    options: &Options,
    mut observer: Observer,
    stats: *mut sparsestream_stats,
) -> Result<()> {
    if !stats.is_null() {
        // A struct that cannot be written is refused before a byte moves.
        // SAFETY: a struct of its size, by the caller's promise.
        unsafe { options::write(stats, &sparsestream_stats::default(), "stats") }?;
    }
    let mut transfer = Transfer::new(options)?;
    let result = match transfer.run(source, sink, &mut observer, None, Patience::Any) {
        // Nobody will come back to it.
        Err(error) if error.would_block() => {
            let error = Error::Because {
                operation: error.operation(),
                side: error.side(),
                offset: error.offset().unwrap_or_default(),
                errno: libc::EAGAIN,
                why: "a blocking call cannot wait for a callback",
            };
            Err(transfer.fail(error, source, sink, &mut observer))
        }
        other => other.map(drop),
    };
    if !stats.is_null() {
        // SAFETY: a struct of its size, by the caller's promise.
        unsafe { options::write(stats, &transfer.stats().into(), "stats") }?;
    }
    result
}

/// Cancels a transfer: one atomic store.
///
/// # Safety
/// Null or a live handle.
pub unsafe fn cancel(handle: *mut sparsestream_transfer) -> Result<()> {
    // SAFETY: null or live, by the caller's promise; shared, as all of it is made for.
    let handle = unsafe { handle.as_ref() }.ok_or(Error::null("transfer"))?;
    handle.control.cancel();
    Ok(())
}

/// Frees a source, unless it is in use, which is a caller's mistake that is not made worse.
///
/// # Safety
/// Null or a live handle, which dies.
pub unsafe fn free_source(handle: *mut sparsestream_source) -> Result<()> {
    // SAFETY: null or live, by the caller's promise.
    if let Some(live) = unsafe { handle.as_ref() } {
        refuse_in_use(live.end.in_use(), "source")?;
        // SAFETY: made by new_source, and not used again, by the caller's promise.
        drop(unsafe { Box::from_raw(handle) });
    }
    Ok(())
}

/// Frees a sink, unless it is in use.
///
/// # Safety
/// Null or a live handle, which dies.
pub unsafe fn free_sink(handle: *mut sparsestream_sink) -> Result<()> {
    // SAFETY: null or live, by the caller's promise.
    if let Some(live) = unsafe { handle.as_ref() } {
        refuse_in_use(live.end.in_use(), "sink")?;
        // SAFETY: made by new_sink, and not used again, by the caller's promise.
        drop(unsafe { Box::from_raw(handle) });
    }
    Ok(())
}

/// Frees a transfer, unless it is in use. One that is under way is cancelled.
///
/// # Safety
/// Null or a live handle, which dies; its ends live if it is under way.
pub unsafe fn free_transfer(handle: *mut sparsestream_transfer) -> Result<()> {
    // SAFETY: null or live, by the caller's promise.
    let Some(live) = (unsafe { handle.as_ref() }) else { return Ok(()) };
    refuse_in_use(live.state.in_use(), "transfer")?;
    let ended = live.state.with("transfer", |(transfer, observer)| {
        if !transfer.under_way() {
            return Ok(());
        }
        let error = transfer.cancelled();
        // SAFETY: the ends live, by the caller's promise.
        unsafe {
            with_source(live.source, |source| {
                with_sink(live.sink, |sink| {
                    transfer.fail(error, source, sink, observer);
                    Ok(())
                })
            })
        }
    });
    // SAFETY: made by new_transfer, and not used again, by the caller's promise.
    drop(unsafe { Box::from_raw(handle) });
    ended
}

fn refuse_in_use(in_use: bool, name: &'static str) -> Result<()> {
    if in_use {
        return Err(Error::argument(name, "is in use by another call, and not freed", libc::EBUSY));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
