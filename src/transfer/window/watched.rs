//! The events that a window waits for.

use crate::error::Side;
use crate::transfer::turn::{Several, Turn};
use crate::wait::{Waiting, Watch};

/// The events to wait for.
pub(super) struct Watched {
    pub(super) side: Option<Side>,
    watch: Watch,
    blocking: bool,
}

impl Watched {
    pub(super) fn new() -> Self {
        Watched { side: None, watch: Watch::NOTHING, blocking: true }
    }

    pub(super) fn add(&mut self, side: Side, turn: &Turn) {
        self.side.get_or_insert(side);
        let waiting =
            if side == Side::Source { turn.source.waiting() } else { turn.sink.waiting() };
        match waiting {
            Waiting::Owner => {}
            Waiting::Descriptor { fd, events, blocking } => {
                self.watch.add(crate::wait::Watched { fd, events });
                self.blocking &= blocking;
            }
            Waiting::Watch(watch) => {
                self.watch = self.watch.within(watch.timeout);
                for watched in watch.descriptors() {
                    self.watch.add(*watched);
                }
            }
        }
    }

    /// `None` if only the owners of the ends know them.
    pub(super) fn several(&self) -> Option<Several> {
        let known = !self.watch.descriptors().is_empty() || self.watch.timeout.is_some();
        known.then_some(Several { watch: self.watch, blocking: self.blocking })
    }
}
