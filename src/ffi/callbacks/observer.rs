//! The caller's callbacks that watch a transfer.

use super::answers::may_go_on;
use crate::ffi::guard::signed;
use crate::ffi::options::{sparsestream_stats, sparsestream_transfer_options};
use crate::ffi::sections::sparsestream_section;
use crate::ffi::trace::sparsestream_event;
use crate::section::Section;
use crate::sink;
use crate::sys::Sys;
use crate::trace::Event;
use crate::transfer::{Observe, Stats};
use libc::{c_int, c_void};

/// The caller's progress, section and trace callbacks.
pub struct Observer {
    options: sparsestream_transfer_options,
}

impl Observer {
    /// Those of these options.
    pub fn new(options: &sparsestream_transfer_options) -> Self {
        Observer { options: *options }
    }
}

impl Observe for Observer {
    fn progress(&mut self, stats: &Stats) -> Sys<()> {
        self.options.progress.map_or(Ok(()), |progress| {
            let stats = sparsestream_stats::from(*stats);
            // SAFETY: the caller promised that its callback may be called with its opaque.
            may_go_on(unsafe { progress(self.options.opaque, &raw const stats) })
        })
    }

    fn section(&mut self, section: Section) -> Sys<()> {
        self.options.section.map_or(Ok(()), |callback| {
            let section = sparsestream_section::from(section);
            // SAFETY: as above.
            may_go_on(unsafe { callback(self.options.opaque, &raw const section) })
        })
    }

    fn traces(&self) -> bool {
        self.options.trace.is_some()
    }

    fn trace(&mut self, position: u64, event: Event) {
        if let Some(trace) = self.options.trace {
            let event = sparsestream_event::new(position, event);
            // SAFETY: as above.
            unsafe { trace(self.options.opaque, &raw const event) };
        }
    }
}

/// The caller's checkpoint callback.
#[derive(Debug)]
pub struct Checkpoint {
    reached: Option<unsafe extern "C" fn(*mut c_void, i64) -> c_int>,
    opaque: *mut c_void,
}

// SAFETY: as for `Opaque`.
unsafe impl Send for Checkpoint {}

impl Checkpoint {
    /// This callback, if there is one.
    pub fn new(
        reached: Option<unsafe extern "C" fn(*mut c_void, i64) -> c_int>,
        opaque: *mut c_void,
    ) -> Self {
        Checkpoint { reached, opaque }
    }
}

impl sink::Checkpoint for Checkpoint {
    fn reached(&mut self, durable: u64) -> Sys<()> {
        self.reached.map_or(Ok(()), |reached| {
            // SAFETY: the caller promised that its callback may be called with its opaque.
            may_go_on(unsafe { reached(self.opaque, signed(durable)) })
        })
    }
}
