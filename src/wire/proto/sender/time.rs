//! Frames that are due by time or by the bytes sent: CHECKPOINT and KEEPALIVE.

use super::{Sender, Stage};
use crate::wire::proto::frame::{Header, Kind};
use std::time::{Duration, Instant};

/// A CHECKPOINT is due this long after the last one, if anything was sent.
const CHECKPOINT_TIME: Duration = Duration::from_secs(5);

/// When the next CHECKPOINT is due.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Checkpoint {
    /// Bytes of data since the last.
    pub(super) data: u64,
    /// The position of the stream at the last.
    pub(super) at: u64,
    /// The time of the last check that found one due, or nothing new to cover.
    since: Option<Instant>,
    /// The time for one has come.
    pub(super) late: bool,
}

impl Sender {
    pub(super) fn check_point(&mut self) {
        let digest = self.digest.root();
        self.push_with_body(Kind::Checkpoint, self.at, &digest);
        self.checkpoint = Checkpoint { data: 0, at: self.at, late: false, ..self.checkpoint };
    }

    /// When to call [`Sender::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let sign = self.most_silence().and_then(|most| self.silence.ends(most));
        let checkpoint = self.checkpoint_due();
        match (sign, checkpoint) {
            (Some(sign), Some(checkpoint)) => Some(sign.min(checkpoint)),
            (sign, checkpoint) => sign.or(checkpoint),
        }
    }

    /// The time is `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        if !self.digests() || self.at == self.checkpoint.at {
            self.checkpoint.since = Some(now);
        } else if self.checkpoint_due().is_none_or(|due| due <= now) {
            self.checkpoint.since = Some(now);
            if self.owed == 0 && self.stage == Stage::Open && self.has_room(0) {
                self.check_point();
            } else {
                self.checkpoint.late = true;
            }
        }
        let most = self.config.keepalive;
        if !most.is_zero() && self.silence.over(most, now) && self.most_silence().is_some() {
            // During the comparison the stream is still at its start.
            let at = if self.stage == Stage::Open { self.at } else { 0 };
            self.queue.push(&Header::new(Kind::Keepalive, at, 0).encode());
        }
    }

    fn checkpoint_due(&self) -> Option<Instant> {
        let open = self.stage == Stage::Open && self.digests() && !self.checkpoint.late;
        let since = self.checkpoint.since.filter(|_| open && self.at != self.checkpoint.at)?;
        since.checked_add(CHECKPOINT_TIME)
    }

    fn most_silence(&self) -> Option<Duration> {
        // Queued bytes are a sign of life themselves, and a KEEPALIVE cannot be sent within a frame.
        let may = match self.stage {
            Stage::Greeting | Stage::Comparing(_) | Stage::Open => {
                self.owed == 0 && self.queue.waits() == 0
            }
            Stage::New | Stage::Ending | Stage::Finished | Stage::Failed => false,
        };
        Some(self.config.keepalive).filter(|most| may && !most.is_zero())
    }
}
