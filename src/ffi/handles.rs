//! The objects that the opaque pointers point to.
//!
//! `counted` decides which call may use them.

use super::callbacks::Observer;
use super::counted::{Handled, Ref};
use super::opaque::Opaque;
use super::options::sparsestream_stats;
use super::sized;
use crate::end::{Peer, Sink, Source};
use crate::error::{Error, Result, Side};
use crate::sys::Arc;
use crate::transfer::{Control, Options, Patience, Progress, Transfer};
use crate::wait::{Wait, Waiting, Watch};
use std::time::{Duration, Instant};

/// A source: where a stream comes from.
pub struct sparsestream_source {
    _opaque: (),
}

/// A sink: where a stream goes.
pub struct sparsestream_sink {
    _opaque: (),
}

/// A transfer from a source to a sink.
pub struct sparsestream_transfer {
    _opaque: (),
}

/// An end, and the caller's opaque for the resources that it uses.
pub struct End<T: ?Sized> {
    // In the order in which they are let go.
    end: Box<T>,
    _opaque: Opaque,
    /// The last call by hand was not ready.
    waits: bool,
}

type SourceEnd = End<dyn Source>;
type SinkEnd = End<dyn Sink>;

impl Handled for SourceEnd {
    type Opaque = sparsestream_source;
    type Shared = ();
    const TAG: u64 = u64::from_le_bytes(*b"sssource");
    const NAME: &'static str = "source";

    fn abort(&mut self, error: &Error) {
        self.end.abort(error);
    }
}

impl Handled for SinkEnd {
    type Opaque = sparsestream_sink;
    type Shared = ();
    const TAG: u64 = u64::from_le_bytes(*b"ss sink ");
    const NAME: &'static str = "sink";

    fn abort(&mut self, error: &Error) {
        self.end.abort(error);
    }
}

/// A transfer with its ends.
pub struct Job {
    transfer: Transfer,
    observer: Observer,
    // In the order in which they are let go.
    sink: Ref<SinkEnd>,
    source: Ref<SourceEnd>,
}

impl Handled for Job {
    type Opaque = sparsestream_transfer;
    type Shared = Arc<Control>;
    const TAG: u64 = u64::from_le_bytes(*b"transfer");
    const NAME: &'static str = "transfer";

    /// Only its caller holds a transfer, and frees it.
    fn abort(&mut self, _error: &Error) {}
}

impl Drop for Job {
    fn drop(&mut self) {
        if self.transfer.under_way() {
            let error = self.transfer.cancelled();
            self.sink.abort(&error);
            self.source.abort(&error);
        }
    }
}

/// A handle of a source, which uses the resources of the opaque.
pub fn new_source(end: Box<dyn Source>, opaque: Opaque) -> Result<*mut sparsestream_source> {
    Ok(Ref::new(End { end, _opaque: opaque, waits: false }, ())?.into_handle())
}

/// A handle of a sink, which uses the resources of the opaque.
pub fn new_sink(end: Box<dyn Sink>, opaque: Opaque) -> Result<*mut sparsestream_sink> {
    Ok(Ref::new(End { end, _opaque: opaque, waits: false }, ())?.into_handle())
}

/// A handle of a transfer between two handles, which it holds until it is freed.
///
/// # Safety
/// Both are null or live handles.
pub unsafe fn new_transfer(
    source: *mut sparsestream_source,
    sink: *mut sparsestream_sink,
    options: &Options,
    observer: Observer,
) -> Result<*mut sparsestream_transfer> {
    // SAFETY: null or live, by the caller's promise.
    let (source, sink) = unsafe { (Ref::hold(source)?, Ref::hold(sink)?) };
    let transfer = Transfer::new(options)?;
    let control = transfer.control();
    Ok(Ref::new(Job { transfer, observer, sink, source }, control)?.into_handle())
}

/// Uses a source.
///
/// # Safety
/// Null or a live handle.
pub unsafe fn with_source<R>(
    handle: *mut sparsestream_source,
    body: impl FnOnce(&mut dyn Source) -> Result<R>,
) -> Result<R> {
    // SAFETY: null or live, by the caller's promise.
    unsafe { Ref::<SourceEnd>::of(handle) }?.with(|end| {
        let answer = body(end.end.as_mut());
        end.waits = not_ready(&answer);
        answer
    })
}

fn not_ready<R>(answer: &Result<R>) -> bool {
    answer.as_ref().is_err_and(Error::would_block)
}

/// The events that a source has waited for since its last call by hand.
///
/// # Safety
/// Null or a live handle.
pub unsafe fn source_wait(handle: *mut sparsestream_source) -> Result<Wait> {
    // SAFETY: null or live, by the caller's promise.
    unsafe { Ref::<SourceEnd>::of(handle) }?.with(|end| {
        let due = due_in(end.end.peer());
        Ok(wait_of(Side::Source, end.waits.then(|| end.end.waiting()), due))
    })
}

/// The events that a sink has waited for since its last call by hand.
///
/// # Safety
/// Null or a live handle.
pub unsafe fn sink_wait(handle: *mut sparsestream_sink) -> Result<Wait> {
    // SAFETY: null or live, by the caller's promise.
    unsafe { Ref::<SinkEnd>::of(handle) }?.with(|end| {
        let due = due_in(end.end.peer());
        Ok(wait_of(Side::Sink, end.waits.then(|| end.end.waiting()), due))
    })
}

/// When a peer is to be sent something even if nothing else happens.
fn due_in(peer: Option<&mut dyn Peer>) -> Option<Duration> {
    let due = peer.and_then(|peer| peer.flush_by());
    due.map(|due| due.saturating_duration_since(Instant::now()))
}

fn wait_of(side: Side, waiting: Option<Waiting>, due: Option<Duration>) -> Wait {
    let watch = match waiting {
        None => return Wait::NOTHING,
        Some(Waiting::Owner) => Watch::NOTHING,
        Some(Waiting::Descriptor { fd, events, .. }) => Watch::one(fd, events),
        Some(Waiting::Watch(watch)) => watch,
    };
    Wait { side, watch: watch.within(due) }
}

/// Uses a sink.
///
/// # Safety
/// Null or a live handle.
pub unsafe fn with_sink<R>(
    handle: *mut sparsestream_sink,
    body: impl FnOnce(&mut dyn Sink) -> Result<R>,
) -> Result<R> {
    // SAFETY: null or live, by the caller's promise.
    unsafe { Ref::<SinkEnd>::of(handle) }?.with(|end| {
        let answer = body(end.end.as_mut());
        end.waits = not_ready(&answer);
        answer
    })
}

/// Uses a transfer without running it.
///
/// # Safety
/// Null or a live handle.
pub unsafe fn with_transfer<R>(
    handle: *mut sparsestream_transfer,
    body: impl FnOnce(&mut Transfer) -> Result<R>,
) -> Result<R> {
    // SAFETY: null or live, by the caller's promise.
    unsafe { Ref::<Job>::of(handle) }?.with(|job| body(&mut job.transfer))
}

/// Runs a transfer.
///
/// # Safety
/// Null or a live handle.
pub unsafe fn run(
    handle: *mut sparsestream_transfer,
    budget: Option<u64>,
    patience: Patience,
) -> Result<Progress> {
    // SAFETY: null or live, by the caller's promise.
    unsafe { Ref::<Job>::of(handle) }?.with(|job| {
        let Job { transfer, observer, sink, source } = job;
        if let Some(error) = transfer.error() {
            return Err(error);
        }
        source.with(|source| {
            sink.with(|sink| {
                transfer.run(source.end.as_mut(), sink.end.as_mut(), observer, budget, patience)
            })
        })
    })
}

/// Runs a transfer without a handle, from its beginning to its end. Once it has begun, both ends are finished
/// or aborted.
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
        unsafe { sized::write(stats, &sparsestream_stats::default(), "stats") }?;
    }
    let mut transfer = Transfer::new(options)?;
    let result = match transfer.run(source, sink, &mut observer, None, Patience::Any) {
        // No later call will continue it.
        Err(error) if error.would_block() => {
            let error = Error::Because {
                operation: error.operation(),
                side: error.side(),
                offset: error.offset().unwrap_or_default(),
                errno: libc::EAGAIN,
                why: "a callback returned EAGAIN, and its table has no `wait`",
            };
            Err(transfer.fail(error, source, sink, &mut observer))
        }
        other => other.map(drop),
    };
    if !stats.is_null() {
        // SAFETY: a struct of its size, by the caller's promise.
        unsafe { sized::write(stats, &transfer.stats().into(), "stats") }?;
    }
    result
}

/// Cancels a transfer: atomic operations only.
///
/// # Safety
/// Null or a live handle.
pub unsafe fn cancel(handle: *mut sparsestream_transfer) -> Result<()> {
    // SAFETY: null or live, by the caller's promise.
    let transfer = unsafe { Ref::<Job>::to(handle) }?;
    transfer.shared().cancel();
    Ok(())
}

/// Ends a transfer with an error.
///
/// # Safety
/// Null or a live handle.
pub unsafe fn fail(handle: *mut sparsestream_transfer, error: Error) -> Result<()> {
    // SAFETY: null or live, by the caller's promise.
    unsafe { Ref::<Job>::to(handle) }?.shared().fail(error);
    Ok(())
}

/// Frees the caller's reference to a source.
///
/// # Safety
/// Null or a live handle.
pub unsafe fn free_source(handle: *mut sparsestream_source) -> Result<()> {
    // SAFETY: as promised.
    unsafe { Ref::<SourceEnd>::free(handle) }
}

/// Frees the caller's reference to a sink.
///
/// # Safety
/// Null or a live handle.
pub unsafe fn free_sink(handle: *mut sparsestream_sink) -> Result<()> {
    // SAFETY: as promised.
    unsafe { Ref::<SinkEnd>::free(handle) }
}

/// Frees a transfer. One that is under way is cancelled.
///
/// # Safety
/// Null or a live handle.
pub unsafe fn free_transfer(handle: *mut sparsestream_transfer) -> Result<()> {
    // SAFETY: as promised.
    unsafe { Ref::<Job>::free(handle) }
}

#[cfg(test)]
mod tests;
