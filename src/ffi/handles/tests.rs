use super::*;
use crate::end::{
    self, HoleWay, Look, Made, Next, Plan, SinkInfo, SinkWays, SourceInfo, SourceWays,
};
use crate::error::Side;
use crate::ffi::options::sparsestream_transfer_options;
use crate::section::Kind;
use crate::wait::Waiting;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};

fn is_busy<R>(answer: &Result<R>) -> bool {
    answer.as_ref().is_err_and(|error| error.errno() == libc::EBUSY && error.side() == Side::None)
}

/// How often each end was ended, and by what.
#[derive(Default)]
struct Ends {
    finished: AtomicU64,
    aborted: AtomicU64,
    freed: AtomicU64,
}

impl Ends {
    fn all(&self) -> (u64, u64, u64) {
        let [finished, aborted, freed] =
            [&self.finished, &self.aborted, &self.freed].map(|count| count.load(Ordering::Relaxed));
        (finished, aborted, freed)
    }

    fn finish(&self) -> Result<()> {
        self.finished.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn abort(&self, error: &Error) {
        assert_eq!(error.errno(), libc::ECANCELED);
        self.aborted.fetch_add(1, Ordering::Relaxed);
    }
}

/// As a source this many bytes, as a sink none but a count.
struct TestEnd {
    ends: Arc<Ends>,
    at: u64,
    length: u64,
    /// Within the first read, for two barriers.
    gates: Option<Arc<(Barrier, Barrier)>>,
}

impl Drop for TestEnd {
    fn drop(&mut self) {
        self.ends.freed.fetch_add(1, Ordering::Relaxed);
    }
}

impl Source for TestEnd {
    fn open(&mut self) -> Result<SourceInfo> {
        Ok(SourceInfo { total: Some(self.length), reports_holes: true, ..SourceInfo::default() })
    }

    fn next(&mut self, buffer: &mut [u8]) -> Result<Next> {
        if let Some(gates) = self.gates.take() {
            gates.0.wait();
            gates.1.wait();
        }
        let count = (buffer.len() as u64).min(self.length - self.at);
        self.at += count;
        Ok(if count == 0 { Next::End } else { Next::Data(count as usize) })
    }

    fn look(&mut self) -> Result<Look> {
        let left = self.length - self.at;
        let kind = if left == 0 { Kind::End } else { Kind::Data };
        Ok(Look { kind, length: Some(left) })
    }

    fn consume(&mut self, length: u64) {
        self.at += length;
    }
}

impl SourceWays for TestEnd {}

impl Sink for TestEnd {
    fn open(&mut self, _plan: &Plan) -> Result<SinkInfo> {
        Ok(SinkInfo { makes_holes: true, ..SinkInfo::default() })
    }

    fn write(&mut self, buffer: &[u8]) -> Result<usize> {
        self.at += buffer.len() as u64;
        Ok(buffer.len())
    }

    fn hole(&mut self, length: u64) -> Result<Made> {
        self.at += length;
        Ok(Made { length, way: HoleWay::Passed })
    }

    fn keep(&mut self, length: u64) -> Result<u64> {
        self.at += length;
        Ok(length)
    }
}

impl SinkWays for TestEnd {}

impl end::End for TestEnd {
    fn finish(&mut self) -> Result<()> {
        self.ends.finish()
    }

    fn abort(&mut self, error: &Error) {
        self.ends.abort(error);
    }

    fn waiting(&self) -> Waiting {
        Waiting::Owner
    }
}

/// The three handles, as C has them.
#[derive(Clone, Copy)]
struct Handles {
    source: *mut sparsestream_source,
    sink: *mut sparsestream_sink,
    transfer: *mut sparsestream_transfer,
}

// SAFETY: the handles are made for this: each serves one call at a time, and refuses others.
unsafe impl Send for Handles {}
// SAFETY: as above.
unsafe impl Sync for Handles {}

const LENGTH: u64 = 100_000;
const PIECE: u64 = 4096;

impl Handles {
    fn new(ends: &Arc<Ends>, gates: Option<Arc<(Barrier, Barrier)>>) -> Handles {
        let end = |gates| TestEnd { ends: Arc::clone(ends), at: 0, length: LENGTH, gates };
        let source = new_source(Box::new(end(gates)), Opaque::NONE).unwrap();
        let sink = new_sink(Box::new(end(None)), Opaque::NONE).unwrap();
        let options = Options { zero_block: 4096, buffer_size: PIECE, ..Options::default() };
        let observer = Observer::new(&sparsestream_transfer_options::default());
        // SAFETY: both live.
        let transfer = unsafe { new_transfer(source, sink, &options, observer) }.unwrap();
        Handles { source, sink, transfer }
    }

    fn run(&self) -> Result<Progress> {
        // SAFETY: it lives, and so do its ends.
        unsafe { run(self.transfer, Some(PIECE), Patience::None) }
    }

    fn cancel(&self) {
        // SAFETY: it lives.
        unsafe { cancel(self.transfer) }.unwrap();
    }

    /// The answers for the transfer, the source and the sink.
    fn free(self) -> [Result<()>; 3] {
        // SAFETY: they live, and those that are freed are not used again.
        unsafe { [free_transfer(self.transfer), free_source(self.source), free_sink(self.sink)] }
    }
}

/// A free while a call is within is refused; the cancel acts when the step under way ends.
#[test]
fn an_end_in_use_by_a_run_is_cancelled_and_not_freed() {
    let ends = Arc::new(Ends::default());
    let gates = Arc::new((Barrier::new(2), Barrier::new(2)));
    let handles = Handles::new(&ends, Some(Arc::clone(&gates)));
    std::thread::scope(|scope| {
        let runner = scope.spawn(move || {
            let handles = handles;
            loop {
                match handles.run() {
                    Ok(Progress::BudgetUsed) => {}
                    other => return other.map(drop),
                }
            }
        });
        gates.0.wait();
        for answer in handles.free() {
            assert!(is_busy(&answer), "{answer:?}");
        }
        handles.cancel();
        assert_eq!(ends.all(), (0, 0, 0));
        gates.1.wait();
        assert_eq!(runner.join().unwrap().unwrap_err().errno(), libc::ECANCELED);
    });
    assert_eq!(ends.all(), (0, 2, 0));
    assert!(handles.free().iter().all(Result::is_ok));
    assert_eq!(ends.all(), (0, 2, 2));
}

/// Two that run, two that cancel, at any moment: both ends are ended once, and together.
#[test]
fn a_cancel_at_any_moment_ends_both_ends_once() {
    let step = |handles: Handles| loop {
        match handles.run() {
            Ok(Progress::BudgetUsed) => {}
            Err(error) if error.errno() == libc::EBUSY => std::thread::yield_now(),
            other => return other.map(drop),
        }
    };
    let ended = |errno: Option<i32>, ends: &Ends| match errno {
        None => assert_eq!(ends.all(), (2, 0, 0)),
        Some(errno) => {
            assert_eq!(errno, libc::ECANCELED);
            assert_eq!(ends.all(), (0, 2, 0));
        }
    };
    for round in 0..500u64 {
        let ends = Arc::new(Ends::default());
        let handles = Handles::new(&ends, None);
        let start = Barrier::new(4);
        let errnos = std::thread::scope(|scope| {
            let runners = [(), ()].map(|()| {
                scope.spawn(|| {
                    start.wait();
                    step(handles)
                })
            });
            for canceller in 1..=2 {
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    for _ in 0..round * round * canceller / 20 {
                        std::hint::spin_loop();
                    }
                    { handles }.cancel();
                });
            }
            runners.map(|runner| runner.join().unwrap().err().map(|error| error.errno()))
        });
        assert_eq!(errnos[0], errnos[1], "the end is the same for all");
        ended(errnos[0], &ends);
        handles.cancel();
        assert_eq!(step(handles).err().map(|error| error.errno()), errnos[0], "and stays");
        assert!(handles.free().iter().all(Result::is_ok));
        assert_eq!(ends.all().2, 2);
    }
}

/// A transfer that is freed under way, by whoever comes last, is cancelled.
#[test]
fn a_free_under_way_cancels() {
    let ends = Arc::new(Ends::default());
    let handles = Handles::new(&ends, None);
    assert_eq!(handles.run().ok(), Some(Progress::BudgetUsed));
    let free = std::thread::spawn(move || { handles }.free().iter().all(Result::is_ok));
    assert!(free.join().unwrap());
    assert_eq!(ends.all(), (0, 2, 2));
}
