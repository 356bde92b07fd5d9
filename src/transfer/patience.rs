//! Waiting when an end is not ready.

use super::control::Control;
use super::options::Patience;
use super::pace::{Late, sooner};
use super::turn::Turn;
use crate::error::{Error, Operation, Result, Side};
use crate::trace::{Event, Limit};
use crate::wait::{Wait, Waiting, Watch};
use std::time::{Duration, Instant};

impl Turn<'_> {
    /// Sends buffered bytes to the sink's peer. Returns whether none are left.
    pub(super) fn flush(&mut self) -> Result<bool> {
        let now = Instant::now();
        match self.sink.peer().map_or(Ok(()), |peer| peer.flush(now)) {
            Ok(()) => Ok(true),
            Err(error) if error.would_block() || error.interrupted() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Counts the signs of life of both peers.
    pub(super) fn see_signs(&mut self, now: Instant) {
        let source = self.source.peer().map_or(0, |peer| peer.signs());
        let sink = self.sink.peer().map_or(0, |peer| peer.signs());
        if self.pace.see_signs(source.wrapping_add(sink), now) {
            self.trace(Event::Alive);
        }
    }

    /// Sends a sign of life to the source's peer, if one is due. It never waits; the next read reports a failure.
    fn show_life(&mut self, now: Instant) {
        if let Some(peer) = self.source.peer() {
            let _ = peer.flush(now);
        }
    }

    fn flush_in(&mut self, now: Instant) -> Option<Duration> {
        let source = self.source.peer().and_then(|peer| peer.flush_by());
        let sink = self.sink.peer().and_then(|peer| peer.flush_by());
        let due = source.into_iter().chain(sink).min()?;
        Some(due.saturating_duration_since(now))
    }

    /// Waits until a time, or lets the caller wait: with an error that would block, and [`Turn::wait`].
    pub(super) fn wait_until(&mut self, when: Instant, patience: Patience) -> Result<()> {
        self.trace(Event::Limit(Limit::Rate));
        self.flush()?;
        let now = Instant::now();
        self.show_life(now);
        // An end that the rate delays is not late.
        self.pace.progress(now);
        let left = when.saturating_duration_since(now);
        let left = self.flush_in(now).map_or(left, |flush_in| left.min(flush_in));
        if patience == Patience::None {
            self.wait = Wait { side: Side::None, watch: Watch::time(left) };
            let position = self.meter.position();
            return Err(Error::at(Operation::Wait, Side::None, position, libc::EAGAIN));
        }
        self.rest(&Watch::time(left), Side::None)
    }

    /// An end returned `EINTR` and is called again, unless it is too late: there is no wait in which a limit of
    /// time would end it.
    pub(super) fn is_in_time(&mut self, side: Side) -> Result<()> {
        let now = Instant::now();
        self.see_signs(now);
        self.late_in(now, side).map(drop)
    }

    /// The time that is left to this side, if there is a limit; an error if it is too late.
    fn late_in(&mut self, now: Instant, side: Side) -> Result<Option<Duration>> {
        self.pace.time_left(now).map_err(|Late { which, waited_ms }| {
            self.trace(Event::Limit(which));
            Error::Late { side, offset: self.meter.position(), waited_ms }
        })
    }

    /// Waits for an end that returned this error, `EAGAIN`, or lets the caller wait: with the same error, and
    /// [`Turn::wait`].
    pub(super) fn wait_for_end(&mut self, error: Error, patience: Patience) -> Result<()> {
        // Bytes that the sink has buffered are sent first.
        let side = error.side();
        let side = if side == Side::Source && !self.flush()? { Side::Sink } else { side };
        let several = self.waits.take();
        let waiting = match side {
            _ if several.is_some() => Waiting::Owner,
            Side::Source => self.source.waiting(),
            Side::Sink => self.sink.waiting(),
            Side::None => Waiting::Owner,
        };
        self.trace(Event::Waits(side));
        let now = Instant::now();
        self.show_life(now);
        self.see_signs(now);
        let late_in = self.late_in(now, side)?;
        let timeout = sooner(late_in, self.flush_in(now));
        let (watch, may_wait) = match waiting {
            Waiting::Owner if several.is_some() => {
                several.map_or((Watch::NOTHING, false), |several| (several.watch, several.blocking))
            }
            Waiting::Descriptor { fd, events, blocking } => (Watch::one(fd, events), blocking),
            Waiting::Watch(watch) => (watch, true),
            Waiting::Owner => {
                self.wait = Wait { side, watch: Watch::NOTHING.within(timeout) };
                return Err(error);
            }
        };
        let watch = watch.within(timeout);
        if patience == Patience::Any || may_wait && patience == Patience::Blocking {
            return self.rest(&watch, side);
        }
        self.wait = Wait { side, watch };
        Err(error)
    }

    /// Waits for requests of a transfer that has failed, or lets the caller wait: with an error that would block,
    /// and [`Turn::wait`]. No limit of time ends that.
    pub(super) fn wait_for_requests(&mut self, patience: Patience) -> Result<()> {
        let several = self.waits.take();
        self.trace(Event::Waits(Side::None));
        let (watch, may_wait) =
            several.map_or((Watch::NOTHING, false), |several| (several.watch, several.blocking));
        let known = !watch.descriptors().is_empty() || watch.timeout.is_some();
        let waits = patience == Patience::Any || may_wait && patience == Patience::Blocking;
        // No cancel ends this wait: the requests were cancelled already. If poll(2) fails, the caller runs this again.
        if known && waits && watch.rest(None).is_ok() {
            return Ok(());
        }
        self.wait = Wait { side: Side::None, watch };
        Err(Error::at(Operation::Wait, Side::None, self.meter.position(), libc::EAGAIN))
    }

    /// Waits until this is over, or the end of the transfer is asked for.
    fn rest(&self, watch: &Watch, side: Side) -> Result<()> {
        Control::rest(self.control, watch)
            .map_err(|errno| Error::nowhere(Operation::Wait, side, errno))
    }
}
