//! A regular file.

mod requests;

use requests::Requests;

use super::growth::Growth;
use super::place::{Place, not_there};
use super::zeroing::Zeroing;
use super::{Checkpoint, Options};
use crate::end::{
    Addressable, Attempt, Drain, End, Extent, Fetch, HoleWay, Made, Peer, Plan, Sink, SinkInfo,
    SinkWays,
};
use crate::error::{Error, Operation, Result, Side};
use crate::pipe::Pipe;
use crate::sys::{self, Fd, FileKind};
use crate::trace::{Event, Trail};
use crate::wait::Waiting;

/// A regular file that is written by offset.
///
/// A hole past its end is skipped, and `finish` sets the size: see [`Growth`]. It is made shorter only on
/// request.
#[derive(Debug)]
pub struct FileSink<C> {
    place: Place<C>,
    /// The size at the start: nothing beyond it can be kept.
    opened_size: u64,
    growth: Growth,
    /// The seals of a memfd.
    seals: libc::c_int,
    /// Blocks may be shared with the source.
    may_share: bool,
    /// All that was not written yet reads zero, by the caller's promise.
    known_zero: bool,
    truncate: bool,
    zeroing: Zeroing,
    /// The effects that requests have had on it.
    requests: Requests,
}

/// The seals of a file that is to be written, if they allow that. `shrink`: it may be cut too.
pub(super) fn check_seals(fd: Fd, shrink: bool) -> Result<libc::c_int> {
    let seals = sys::seals(fd);
    let forbidden = libc::F_SEAL_WRITE
        | libc::F_SEAL_FUTURE_WRITE
        | if shrink { libc::F_SEAL_SHRINK } else { 0 };
    if seals & forbidden != 0 {
        return Err(Error::argument("fd", "is sealed against writing", libc::EPERM));
    }
    Ok(seals)
}

/// The first offset that may not be written: a write there would raise SIGXFSZ, which kills.
/// `offset`: where writing starts, for the message.
pub(super) fn size_limit(offset: u64) -> Result<u64> {
    match sys::file_size_limit() {
        Ok(limit) => Ok(limit.min(i64::MAX as u64)),
        Err(errno) => Err(Error::Because {
            operation: Operation::Open,
            side: Side::Sink,
            offset,
            errno,
            why: "RLIMIT_FSIZE cannot be read, and exceeding it would kill the process",
        }),
    }
}

impl<C: Checkpoint> FileSink<C> {
    pub(super) fn new(fd: Fd, size: u64, options: &Options, checkpoint: C) -> Result<Self> {
        let seals = check_seals(fd, options.truncate)?;
        let limit = size_limit(options.offset)?;
        Ok(FileSink {
            place: Place::new(fd, options, limit, libc::EFBIG, checkpoint)?
                .direct(FileKind::Regular, size)?,
            opened_size: size,
            growth: Growth::new(fd, options.offset, size),
            seals,
            may_share: true,
            known_zero: options.known_zero,
            truncate: options.truncate,
            zeroing: Zeroing::of_file(fd),
            requests: Requests::default(),
        })
    }

    /// Makes the file at least as long as the stream has come.
    fn extend(&mut self) -> Result<()> {
        let to = self.place.at();
        let extended = self.growth.extend(to, &mut self.zeroing.trail);
        extended.map_err(|errno| self.place.error(Operation::Truncate, errno))
    }

    /// Sets the size, if it differs.
    fn cut(&mut self, size: u64) -> Result<()> {
        let error = |errno| self.place.error(Operation::Truncate, errno);
        if sys::size(self.place.fd).map_err(error)? != size {
            sys::truncate(self.place.fd, size).map_err(error)?;
        }
        self.growth.set(size);
        Ok(())
    }

    /// Cuts off what was written past the end for the sake of whole blocks. The stream has come to `at`.
    fn cut_padding(&mut self, at: u64) -> Result<()> {
        let end = at.max(self.opened_size);
        if self.place.padded() > end || self.requests.grew { self.cut(end) } else { Ok(()) }
    }

    /// The steps before data is put anywhere.
    #[inline]
    fn prepare(&mut self) -> Result<()> {
        self.place.room(1, Operation::Write)?;
        self.make_durable_if_due()?;
        let at = self.place.at();
        self.growth.prepare(at).map_err(|errno| self.place.error(Operation::Write, errno))
    }

    /// Whether a write that failed is to be repeated once everything before it is filled.
    fn writes_in_order(&mut self, errno: i32) -> bool {
        self.growth.write_in_order(self.place.at(), errno, &mut self.zeroing.trail)
    }

    /// Repeats a write that failed with this error, if that helps.
    #[cold]
    fn write_again(&mut self, buffer: &[u8], error: Error) -> Result<usize> {
        if !self.writes_in_order(error.errno()) {
            return Err(error);
        }
        self.prepare()?;
        self.place.write(buffer)
    }

    /// The step after data was put somewhere.
    fn reached(&mut self) {
        self.growth.reached(self.place.at());
    }

    /// As [`FileSink::reached`], if any data was.
    fn reached_by(&mut self, attempt: Attempt) -> Attempt {
        if let Attempt::Moved(_) = attempt {
            self.reached();
        }
        attempt
    }

    /// Whether holes can be made over content. Tried at an offset where no file has any: an error about the
    /// size shows that the operation is known.
    fn punches(&mut self) -> Result<bool> {
        let (at, length) = (i64::MAX as u64 - 4096, 4096);
        match sys::punch_hole(self.place.fd, at, length) {
            Err(errno) if sys::is_refusal(errno) && errno != libc::EINVAL => {
                let (way, next) = (HoleWay::Punched, HoleWay::Written);
                let declined = Event::HoleDeclined { way, errno: Some(errno), next };
                self.zeroing.trail.record(declined);
                Ok(false)
            }
            Err(libc::EINTR) => Err(self.place.error(Operation::Hole, libc::EINTR)),
            Ok(()) | Err(_) => Ok(true),
        }
    }

    /// Refuses a stream of this many bytes if it is known that it cannot be finished.
    fn admit(&self, total: u64) -> Result<()> {
        self.place.admit(total)?;
        let end = self.place.at() + total;
        let size = self.growth.size();
        let refused = |errno, why| {
            let (operation, side, offset) = (Operation::Open, Side::Sink, end);
            Err(Error::Because { operation, side, offset, errno, why })
        };
        if end > size && self.seals & libc::F_SEAL_GROW != 0 {
            return refused(libc::EPERM, "the file is sealed against growing");
        }
        if self.truncate && end < size {
            // To set the size that it has shows whether that is possible, and changes nothing.
            match sys::truncate(self.place.fd, size) {
                Ok(()) => {}
                Err(libc::EINTR) => return Err(self.place.error(Operation::Open, libc::EINTR)),
                Err(errno) => return refused(errno, "the size of the file cannot be set"),
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn make_durable_if_due(&mut self) -> Result<()> {
        if self.place.due() { self.make_durable() } else { Ok(()) }
    }

    #[cold]
    fn make_durable(&mut self) -> Result<()> {
        self.extend()?;
        self.place.make_durable()
    }

    /// Whether holes can be made here, as far as that can be known in advance.
    fn makes_holes(&mut self) -> Result<bool> {
        if self.place.at() >= self.growth.size() || self.known_zero {
            return Ok(true);
        }
        self.punches()
    }

    /// Whether this many bytes can be kept: only bytes that were there from the start.
    fn can_keep(&self, length: u64) -> Result<()> {
        let end = self.place.at().saturating_add(length);
        if end <= self.opened_size {
            return Ok(());
        }
        Err(not_there(self.place.at(), end, self.opened_size))
    }
}

impl<C: Checkpoint> Sink for FileSink<C> {
    fn open(&mut self, plan: &Plan) -> Result<SinkInfo> {
        self.requests.planned_end = plan.total.and_then(|total| self.place.at().checked_add(total));
        if let Some(total) = plan.total {
            self.admit(total)?;
            if plan.keeps {
                self.can_keep(total)?;
            }
        }
        self.place.admit_edges(plan.total)?;
        // A later write to a block that is shared needs a new block.
        self.may_share = plan.holes;
        let makes_holes = plan.holes && self.makes_holes()?;
        let (durable, keeps) = (self.place.durable().is_some(), self.place.keeps());
        Ok(SinkInfo { makes_holes, keeps, held: 0, durable })
    }

    fn write(&mut self, buffer: &[u8]) -> Result<usize> {
        self.prepare()?;
        let count = match self.place.write(buffer) {
            Ok(count) => count,
            Err(error) => self.write_again(buffer, error)?,
        };
        self.reached();
        Ok(count)
    }

    fn hole(&mut self, length: u64) -> Result<Made> {
        self.place.room(length, Operation::Hole)?;
        self.make_durable_if_due()?;
        let at = self.place.at();
        let within = length.min(self.growth.size().saturating_sub(at));
        // A hole past the end is skipped, whatever its alignment.
        let first = if within == 0 && !self.place.holds_edge() {
            0
        } else if within == 0 {
            length
        } else {
            within
        };
        let part = self.place.edge_part(first).min(first);
        if part > 0 {
            let length = self.place.write_edge_zeros(part)?;
            self.reached();
            return Ok(Made { length, way: HoleWay::Written });
        }
        let within = self.place.whole_blocks(within);
        let made = if within == 0 {
            let place = &mut self.place;
            self.growth.skip_hole(|| place.file_system(), at, length)
        } else if self.known_zero {
            Ok(Made { length: within, way: HoleWay::KnownZero })
        } else {
            let made = self.zeroing.zero(at, within);
            made.map(|length| Made { length, way: self.zeroing.way() })
        };
        let made = made.map_err(|errno| self.place.error(Operation::Hole, errno))?;
        self.place.advance(made.length);
        Ok(made)
    }

    fn keep(&mut self, length: u64) -> Result<u64> {
        self.place.room(length, Operation::Keep)?;
        self.can_keep(length)?;
        self.make_durable_if_due()?;
        self.place.leave_edge()?;
        self.place.advance(length);
        Ok(length)
    }

    fn durable(&self) -> Option<u64> {
        self.place.durable()
    }
}

impl<C: Checkpoint> SinkWays for FileSink<C> {
    fn fetch(&mut self) -> Option<&mut dyn Fetch> {
        if self.may_share && self.place.fetches() { Some(self) } else { None }
    }

    fn drain(&mut self) -> Option<&mut dyn Drain> {
        // Pages of a pipe are not aligned.
        if self.place.is_direct() { None } else { Some(self) }
    }

    fn addressed(&mut self) -> Option<&mut dyn Addressable> {
        if self.place.is_direct() { Some(self) } else { None }
    }
}

impl<C: Checkpoint> Fetch for FileSink<C> {
    fn fetch_extent(&mut self, extent: &Extent) -> Result<Attempt> {
        self.prepare()?;
        let attempt = self.place.fetch(extent)?;
        Ok(self.reached_by(attempt))
    }
}

impl<C: Checkpoint> Drain for FileSink<C> {
    fn drain_pipe(&mut self, pipe: &mut Pipe) -> Result<Attempt> {
        self.prepare()?;
        let attempt = self.place.drain(pipe)?;
        Ok(self.reached_by(attempt))
    }
}

impl<C: Checkpoint> End for FileSink<C> {
    fn finish(&mut self) -> Result<()> {
        if self.place.over() {
            return self.place.finish();
        }
        self.place.leave_edge()?;
        self.extend()?;
        let at = self.place.at();
        if self.truncate {
            self.cut(at)?;
        } else {
            self.cut_padding(at)?;
        }
        self.place.finish()
    }

    fn abort(&mut self, error: &Error) {
        self.place.queue.end(error);
        // A child made by fork must not cut the file that its parent still writes.
        if !self.place.over() && !self.place.queue.is_foreign() {
            // Where nothing was written, a hole before the first byte is not made either.
            let end = if self.place.has_moved() { self.place.at() } else { self.opened_size };
            // The stream has failed already, and that is the error to report.
            let _ = self.cut_padding(end);
        }
        self.place.abort();
    }

    fn waiting(&self) -> Waiting {
        self.place.queue.waiting()
    }

    fn peer(&mut self) -> Option<&mut dyn Peer> {
        self.growth.peer()
    }

    fn trail(&mut self) -> Option<&mut Trail> {
        Some(&mut self.zeroing.trail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Call;
    use crate::sys::inject::{self, Fault};
    use crate::testing::{self, BLOCK, Piece::*};
    use std::cell::RefCell;
    use std::fs::File;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::FileExt;
    use std::rc::Rc;
    use std::sync::{Arc, Mutex};

    fn sink(file: &File, options: &Options) -> Box<dyn Sink> {
        crate::sink::from_fd(file.as_raw_fd(), options, ()).unwrap()
    }

    fn plan(total: u64, keeps: bool) -> Plan {
        Plan { total: Some(total), holes: true, keeps }
    }

    fn put(sink: &mut dyn Sink, bytes: &[u8]) {
        let mut at = 0;
        while at < bytes.len() {
            at += sink.write(&bytes[at..]).unwrap();
        }
    }

    fn leave(sink: &mut dyn Sink, mut length: u64) {
        while length > 0 {
            length -= sink.hole(length).unwrap().length;
        }
    }

    fn content(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn a_hole_over_old_content_reads_zero_and_the_tail_is_kept() {
        let file = testing::sparse(&[Data(10)]);
        let before = content(&file);
        let offset = 2 * BLOCK + 100;
        let mut sink = sink(&file, &Options { offset, ..Options::default() });
        leave(sink.as_mut(), BLOCK + 1);
        put(sink.as_mut(), &[b'B'; 1000]);
        sink.finish().unwrap();
        let after = content(&file);
        let (a, b, c) = (offset as usize, (offset + BLOCK + 1) as usize, 1000);
        assert_eq!(after.len(), before.len());
        assert_eq!(after[..a], before[..a]);
        assert!(after[a..b].iter().all(|byte| *byte == 0));
        assert!(after[b..b + c].iter().all(|byte| *byte == b'B'));
        assert_eq!(after[b + c..], before[b + c..]);
    }

    #[test]
    fn a_hole_at_the_end_makes_the_size_with_one_call() {
        let file = testing::file();
        let seen = Rc::new(RefCell::new(Vec::new()));
        let calls = Rc::clone(&seen);
        let mut sink = sink(&file, &Options::default());
        inject::with(
            move |call| {
                calls.borrow_mut().push(call);
                Fault::None
            },
            || {
                for _ in 0..3 {
                    put(sink.as_mut(), b"data");
                    leave(sink.as_mut(), 1 << 40);
                }
                sink.finish().unwrap();
            },
        );
        assert_eq!(file.metadata().unwrap().len(), 3 * (4 + (1 << 40)));
        let count = |call| seen.borrow().iter().filter(|seen| **seen == call).count();
        assert_eq!(
            (count(Call::Pwrite), count(Call::Ftruncate), count(Call::Fallocate)),
            (3, 1, 0)
        );
    }

    #[test]
    fn truncate_cuts_after_the_end_and_only_if_asked() {
        for (truncate, size) in [(false, 4 * BLOCK), (true, 3)] {
            let file = testing::sparse(&[Data(4)]);
            let mut sink = sink(&file, &Options { truncate, ..Options::default() });
            put(sink.as_mut(), b"new");
            sink.finish().unwrap();
            assert_eq!(file.metadata().unwrap().len(), size);
        }
    }

    #[test]
    fn a_range_is_not_left() {
        let file = testing::sparse(&[Data(1)]);
        let options = Options { offset: 10, length: 5, ..Options::default() };
        let mut sink = sink(&file, &options);
        assert_eq!(sink.open(&plan(6, false)).unwrap_err().errno(), libc::EFBIG);
        assert_eq!(sink.hole(6).unwrap_err().errno(), libc::EFBIG);
        assert_eq!(sink.hole(u64::MAX).unwrap_err().errno(), libc::EFBIG);
        assert_eq!(sink.write(b"abcdefgh"), Ok(5));
        let error = sink.write(b"f").unwrap_err();
        assert_eq!((error.errno(), error.offset()), (libc::EFBIG, Some(15)));
        assert_eq!(content(&file)[10..16], *b"abcde\x10");
    }

    #[test]
    fn a_failed_finish_is_reported() {
        for (call, operation) in
            [(Call::Ftruncate, Operation::Truncate), (Call::Fsync, Operation::Sync)]
        {
            let file = testing::file();
            let mut sink = sink(&file, &Options { sync: true, ..Options::default() });
            leave(sink.as_mut(), 10);
            let error = inject::with(
                move |made| if made == call { Fault::Errno(libc::EIO) } else { Fault::None },
                || sink.finish(),
            )
            .unwrap_err();
            assert_eq!(error, Error::at(operation, Side::Sink, 10, libc::EIO));
        }
    }

    struct Log(Arc<Mutex<Vec<u64>>>);

    impl Checkpoint for Log {
        fn reached(&mut self, durable: u64) -> sys::Sys<()> {
            self.0.lock().unwrap().push(durable);
            Ok(())
        }
    }

    #[test]
    fn checkpoints_are_durable_and_in_order() {
        let file = testing::file();
        let log = Arc::new(Mutex::new(Vec::new()));
        let options = Options { offset: 8, sync_interval: 100, ..Options::default() };
        let mut sink =
            crate::sink::from_fd(file.as_raw_fd(), &options, Log(Arc::clone(&log))).unwrap();
        put(sink.as_mut(), &[1; 60]);
        put(sink.as_mut(), &[1; 60]);
        leave(sink.as_mut(), 500);
        put(sink.as_mut(), &[1; 10]);
        sink.finish().unwrap();
        assert_eq!(*log.lock().unwrap(), [128, 638]);
    }

    #[test]
    fn no_more_than_an_interval_is_ever_not_durable() {
        let file = testing::file();
        let log = Arc::new(Mutex::new(Vec::new()));
        let interval = 100_000;
        let options = Options { offset: 8, sync_interval: interval, ..Options::default() };
        let mut sink =
            crate::sink::from_fd(file.as_raw_fd(), &options, Log(Arc::clone(&log))).unwrap();
        put(sink.as_mut(), &[1; 70_000]);
        put(sink.as_mut(), &[1; 250_000]);
        leave(sink.as_mut(), 1 << 30);
        put(sink.as_mut(), &[1; 10]);
        sink.finish().unwrap();
        // Holes are not counted.
        let end = 320_018 + (1 << 30);
        assert_eq!(*log.lock().unwrap(), [100_008, 200_008, 300_008, end]);
    }

    #[test]
    fn kept_bytes_stay_and_everything_else_is_replaced() {
        let file = testing::sparse(&[Data(4)]);
        let before = content(&file);
        let mut sink = sink(&file, &Options::default());
        assert!(sink.open(&plan(4 * BLOCK, true)).unwrap().keeps);
        assert_eq!(sink.keep(BLOCK + 7), Ok(BLOCK + 7));
        put(sink.as_mut(), &[9; 10]);
        leave(sink.as_mut(), 100);
        let rest = 3 * BLOCK - 117;
        assert_eq!(sink.keep(rest), Ok(rest));
        sink.finish().unwrap();
        let after = content(&file);
        let at = BLOCK as usize + 7;
        assert_eq!(after[..at], before[..at]);
        assert_eq!(after[at..at + 10], [9; 10]);
        assert_eq!(after[at + 10..at + 110], [0; 100]);
        assert_eq!(after[at + 110..], before[at + 110..]);
    }

    #[test]
    fn nothing_beyond_the_size_at_opening_is_kept() {
        let file = testing::sparse(&[Data(1)]);
        let mut refused = sink(&file, &Options::default());
        let error = refused.open(&plan(BLOCK + 1, true)).unwrap_err();
        assert_eq!((error.errno(), error.operation()), (libc::ENODATA, Operation::Keep));
        // A file that this very stream has made longer is not longer for what is kept.
        let mut sink = sink(&file, &Options::default());
        put(sink.as_mut(), &[1; BLOCK as usize + 10]);
        let error = sink.keep(1).unwrap_err();
        assert_eq!((error.errno(), error.offset()), (libc::ENODATA, Some(BLOCK + 10)));
        sink.finish().unwrap();
        assert_eq!(file.metadata().unwrap().len(), BLOCK + 10);
    }

    /// The ways that were given up by a sink that makes a hole, writes, and makes another at its end.
    fn declined(file: &File, at: u64, fault: impl FnMut(Call) -> Fault + 'static) -> Vec<Event> {
        inject::with(fault, || {
            let options = Options { offset: at, ..Options::default() };
            let mut sink = sink(file, &options);
            sink.open(&plan(3 * BLOCK, false)).unwrap();
            leave(sink.as_mut(), BLOCK);
            put(sink.as_mut(), &[1; BLOCK as usize]);
            leave(sink.as_mut(), BLOCK);
            while sink.finish().is_err_and(|error| error.interrupted()) {}
            sink.trail().unwrap().take().collect()
        })
    }

    #[test]
    fn ways_to_make_holes_that_are_given_up_are_recorded() {
        let file = testing::sparse(&[Data(8)]);
        let refused = |way, errno, next| Event::HoleDeclined { way, errno: Some(errno), next };
        assert_eq!(declined(&file, 0, |_| Fault::None), []);
        let found = declined(&file, 0, |call| match call {
            Call::Fallocate => Fault::Errno(libc::EOPNOTSUPP),
            _ => Fault::None,
        });
        let (punched, written) = (HoleWay::Punched, HoleWay::Written);
        assert_eq!(found[0], refused(punched, libc::EOPNOTSUPP, written));
    }

    #[test]
    fn a_target_that_is_written_in_order_is_recorded_once() {
        let mut writes = 0;
        let found = declined(&testing::file(), 0, move |call| match call {
            Call::Pwrite => {
                writes += 1;
                if writes == 1 { Fault::Errno(libc::ESPIPE) } else { Fault::None }
            }
            _ => Fault::None,
        });
        let (way, next) = (HoleWay::Extended, HoleWay::Written);
        assert_eq!(found, [Event::HoleDeclined { way, errno: Some(libc::ESPIPE), next }]);
    }
}
