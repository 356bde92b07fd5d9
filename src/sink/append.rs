//! A regular file that was opened with O_APPEND: each write goes to its end.

use super::growth::Growth;
use super::place::Place;
use super::zeroing::write_zeros;
use super::{Checkpoint, Options};
use crate::direct::Alignment;
use crate::end::{End, HoleWay, Made, Plan, Sink, SinkInfo, SinkWays};
use crate::error::{Allowed, Error, Operation, Result, Side};
use crate::sys::{self, Fd, FileKind};
use crate::trace::{Event, Trail};
use crate::wait::Waiting;

/// A regular file that is written at its end.
///
/// A hole makes it longer with ftruncate(2), if its end is where this sink left it. If another process
/// has appended, zeros are written from then on: they go to the end, wherever that is.
#[derive(Debug)]
pub struct AppendSink<C> {
    /// The offset of the end, if no other process appends.
    place: Place<C>,
    growth: Growth,
    appenders: Appenders,
    trail: Trail,
}

/// The processes that append, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Appenders {
    /// This sink alone.
    One,
    /// Another process too; or the size cannot be set, which is handled in the same way.
    Several,
}

impl<C: Checkpoint> AppendSink<C> {
    pub(super) fn new(fd: Fd, size: u64, options: &Options, checkpoint: C) -> Result<Self> {
        if options.offset != 0 {
            let allowed = Allowed::Only(&"0, because the file was opened with O_APPEND");
            return Err(Error::value("options.offset", options.offset, allowed));
        }
        if super::file::check_seals(fd, false)? & libc::F_SEAL_GROW != 0 {
            return Err(Error::argument("fd", "is sealed against growing", libc::EPERM));
        }
        refuse_direct(fd, size)?;
        let limit = super::file::size_limit(size)?;
        let options = Options { offset: size, ..*options };
        Ok(AppendSink {
            place: Place::new(fd, &options, limit, libc::EFBIG, checkpoint)?,
            growth: Growth::new(fd, size, size),
            appenders: Appenders::One,
            trail: Trail::default(),
        })
    }

    /// The steps before data is written or a hole is made.
    fn prepare(&mut self, length: u64, operation: Operation) -> Result<()> {
        self.place.room(length, operation)?;
        if self.place.due() {
            self.place.make_durable()?;
        }
        Ok(())
    }

    /// Makes the file longer, if its end is still here and its size can be set.
    fn lengthen(&mut self, length: u64) -> Result<bool> {
        let fd = self.place.fd;
        let at = self.place.at();
        let error = |errno| Error::at(Operation::Hole, Side::Sink, at, errno);
        if sys::size(fd).map_err(error)? != at {
            self.decline(None);
            return Ok(false);
        }
        let place = &mut self.place;
        self.growth.release(|| place.file_system(), at + length);
        match sys::truncate(fd, at + length) {
            Ok(()) => Ok(true),
            Err(errno) if sys::is_refusal(errno) => {
                self.decline(Some(errno));
                Ok(false)
            }
            Err(errno) => Err(error(errno)),
        }
    }

    /// From here on holes are written.
    fn decline(&mut self, errno: Option<i32>) {
        self.appenders = Appenders::Several;
        let (way, next) = (HoleWay::Extended, HoleWay::Written);
        self.trail.record(Event::HoleDeclined { way, errno, next });
    }
}

/// Refuses a descriptor with O_DIRECT: the last block that is written is a part of one, sooner or later, and what
/// follows it would have to be written into that block.
fn refuse_direct(fd: Fd, size: u64) -> Result<()> {
    let (operation, side) = (Operation::Open, Side::Sink);
    let alignment = Alignment::of(fd, FileKind::Regular);
    match alignment.map_err(|errno| Error::nowhere(operation, side, errno))? {
        None => Ok(()),
        Some(Alignment { block, .. }) => {
            let why = "with O_APPEND a part of a block cannot be written";
            Err(Error::Unaligned { operation, side, offset: size, block, why })
        }
    }
}

impl<C: Checkpoint> Sink for AppendSink<C> {
    fn open(&mut self, plan: &Plan) -> Result<SinkInfo> {
        if let Some(total) = plan.total {
            self.place.admit(total)?;
        }
        let durable = self.place.durable().is_some();
        // Nothing lies behind the end that could be kept.
        Ok(SinkInfo { makes_holes: true, keeps: false, held: 0, durable })
    }

    fn write(&mut self, buffer: &[u8]) -> Result<usize> {
        self.prepare(1, Operation::Write)?;
        let count = self.place.write(buffer)?;
        self.growth.reached(self.place.at());
        Ok(count)
    }

    fn hole(&mut self, length: u64) -> Result<Made> {
        self.prepare(length, Operation::Hole)?;
        let made = if self.appenders == Appenders::One && self.lengthen(length)? {
            Made { length, way: HoleWay::Extended }
        } else {
            let length = write_zeros(self.place.fd, self.place.at(), length)
                .map_err(|errno| self.place.error(Operation::Hole, errno))?;
            Made { length, way: HoleWay::Written }
        };
        self.place.advance(made.length);
        self.growth.reached(self.place.at());
        Ok(made)
    }

    fn keep(&mut self, _length: u64) -> Result<u64> {
        Err(self.place.error(Operation::Keep, libc::EOPNOTSUPP))
    }

    fn durable(&self) -> Option<u64> {
        self.place.durable()
    }
}

impl<C: Checkpoint> SinkWays for AppendSink<C> {}

impl<C: Checkpoint> End for AppendSink<C> {
    fn finish(&mut self) -> Result<()> {
        self.place.finish()
    }

    fn abort(&mut self, _error: &Error) {
        self.place.abort();
    }

    fn waiting(&self) -> Waiting {
        Waiting::Owner
    }

    fn trail(&mut self) -> Option<&mut Trail> {
        Some(&mut self.trail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::from_fd;
    use crate::sys::Call;
    use crate::sys::inject::{self, Fault};
    use crate::testing::{self, BLOCK, Piece::*};
    use std::fs::File;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::{FileExt, MetadataExt};

    /// A file with 100 bytes in it, opened to be appended to.
    fn appended() -> (File, File) {
        let file = testing::file();
        file.write_all_at(&[b'H'; 100], 0).unwrap();
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let appending = File::options().append(true).open(path).unwrap();
        (file, appending)
    }

    fn content(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    fn leave(sink: &mut dyn Sink, mut length: u64) {
        while length > 0 {
            length -= sink.hole(length).unwrap().length;
        }
    }

    fn expected(parts: &[(u8, usize)]) -> Vec<u8> {
        parts.iter().flat_map(|(byte, count)| vec![*byte; *count]).collect()
    }

    #[test]
    fn data_and_holes_go_behind_what_is_there() {
        let (file, appending) = appended();
        let mut sink = from_fd(appending.as_raw_fd(), &Options::default(), ()).unwrap();
        leave(sink.as_mut(), 16 * BLOCK);
        assert_eq!(sink.write(b"BBB"), Ok(3));
        leave(sink.as_mut(), 7);
        sink.finish().unwrap();
        let hole = 16 * BLOCK as usize;
        assert!(content(&file) == expected(&[(b'H', 100), (0, hole), (b'B', 3), (0, 7)]));
        assert!(file.metadata().unwrap().blocks() * 512 < 2 * BLOCK);
        // The next one begins after it.
        let mut sink = from_fd(appending.as_raw_fd(), &Options::default(), ()).unwrap();
        assert_eq!(sink.write(b"C"), Ok(1));
        sink.finish().unwrap();
        assert_eq!(content(&file).last(), Some(&b'C'));
    }

    #[test]
    fn bytes_that_another_appends_are_kept() {
        let (file, appending) = appended();
        let mut sink = from_fd(appending.as_raw_fd(), &Options::default(), ()).unwrap();
        assert_eq!(sink.write(b"BB"), Ok(2));
        file.write_all_at(b"other", 102).unwrap();
        leave(sink.as_mut(), 5000);
        assert_eq!(sink.write(b"CC"), Ok(2));
        leave(sink.as_mut(), 3);
        sink.finish().unwrap();
        let mut bytes = expected(&[(b'H', 100), (b'B', 2)]);
        bytes.extend(b"other");
        bytes.extend(expected(&[(0, 5000), (b'C', 2), (0, 3)]));
        assert!(content(&file) == bytes);
    }

    #[test]
    fn a_size_that_cannot_be_set_is_written() {
        let (file, appending) = appended();
        let mut sink = from_fd(appending.as_raw_fd(), &Options::default(), ()).unwrap();
        let refusing = |call| match call {
            Call::Ftruncate => Fault::Errno(libc::EPERM),
            _ => Fault::None,
        };
        inject::with(refusing, || {
            leave(sink.as_mut(), 3 << 20);
            sink.finish().unwrap();
        });
        assert!(content(&file) == expected(&[(b'H', 100), (0, 3 << 20)]));
    }

    #[test]
    fn an_offset_and_too_much_are_refused() {
        let (file, appending) = appended();
        let fd = appending.as_raw_fd();
        let offset = Options { offset: 100, ..Options::default() };
        assert_eq!(from_fd(fd, &offset, ()).err().unwrap().errno(), libc::EINVAL);
        let length = Options { length: 10, ..Options::default() };
        let mut sink = from_fd(fd, &length, ()).unwrap();
        assert_eq!(
            sink.open(&Plan { total: Some(11), ..Plan::default() }).unwrap_err().errno(),
            libc::EFBIG
        );
        assert_eq!(sink.hole(11).unwrap_err().errno(), libc::EFBIG);
        assert_eq!(sink.write(&[b'B'; 20]), Ok(10));
        assert_eq!(content(&file).len(), 110);
    }

    #[test]
    fn the_layout_is_kept() {
        let from = testing::sparse(&[Data(2), Hole(8), Data(1), Hole(4)]);
        let (file, appending) = appended();
        let mut sink = from_fd(appending.as_raw_fd(), &Options::default(), ()).unwrap();
        let mut source =
            crate::source::from_fd(from.as_raw_fd(), &crate::source::Options::default()).unwrap();
        let mut transfer = crate::transfer::Transfer::new(&Default::default()).unwrap();
        let patience = crate::transfer::Patience::Any;
        transfer.run(source.as_mut(), sink.as_mut(), &mut (), None, patience).unwrap();
        assert!(content(&file)[100..] == content(&from));
        assert!(file.metadata().unwrap().blocks() * 512 <= 5 * BLOCK);
    }

    #[test]
    fn another_appender_is_recorded_once() {
        let (file, appending) = appended();
        let mut sink =
            crate::sink::from_fd(appending.as_raw_fd(), &Options::default(), ()).unwrap();
        leave(sink.as_mut(), BLOCK);
        file.write_all_at(b"another", 100 + BLOCK).unwrap();
        leave(sink.as_mut(), BLOCK);
        leave(sink.as_mut(), BLOCK);
        let (way, next) = (HoleWay::Extended, HoleWay::Written);
        let events: Vec<_> = sink.trail().unwrap().take().collect();
        assert_eq!(events, [Event::HoleDeclined { way, errno: None, next }]);
    }
}
