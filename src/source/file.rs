//! A regular file or a block device: its map is walked, its data is read by offset.

mod map;
mod requests;

use super::look_ahead::{LookAhead, SMALL};
use super::peek::{Blocks, Looker};
use super::{Options, range_end};
use crate::direct::{Alignment, Reader};
use crate::end::{
    Addressable, Attempt, End, Extent, Feed, Glimpse, Look, Mapped, Next, Peek, Rewind, Source,
    SourceInfo, SourceWays, Stored,
};
use crate::error::{Allowed, Error, Operation, Result, Side};
use crate::filesystem::FileSystem;
use crate::life::Life;
use crate::pipe::Pipe;
use crate::queue::Queue;
use crate::section::{Kind, Section, Seekable, holes_supported, steadily};
use crate::sys::{self, Fd, FileKind};
use crate::trace::Trail;
use crate::wait::Waiting;
use map::Map;

/// A descriptor that is read by offset.
///
/// Its file position moves while its map is walked, and is put back when it ends.
#[derive(Debug)]
pub struct FileSource {
    fd: Fd,
    start: u64,
    offset: u64,
    limit: Limit,
    map: Map,
    look_ahead: LookAhead,
    looker: Looker,
    /// It was opened with O_DIRECT.
    direct: Option<Reader>,
    /// Reads that are under way.
    queue: Queue,
    trail: Trail,
    ended: bool,
    life: Life,
}

/// Where a file source ends. Bytes that are added later are not read.
#[derive(Debug, Clone, Copy)]
enum Limit {
    /// At this offset. An earlier end is an error.
    At(u64),
    /// At this offset, or where a read returns nothing.
    AtMost(u64),
    /// Where a read returns nothing: the size does not show the content, as in /proc and /sys.
    Unknown {
        /// The size when it was examined.
        size: u64,
    },
}

impl Limit {
    /// The offset, if there is one.
    #[inline]
    fn end(self) -> Option<u64> {
        match self {
            Limit::At(end) | Limit::AtMost(end) => Some(end),
            Limit::Unknown { .. } => None,
        }
    }
}

impl FileSource {
    pub(super) fn new(fd: Fd, file: Seekable, options: &Options) -> Result<Self> {
        let Options { offset, length, ignore_map, at_most } = *options;
        // Nothing is stored: the content may be made while it is read.
        let made_up = file.map
            && !file.allocated
            && (file.end == 0 || steadily(|| FileSystem::of(fd)).is_ok_and(FileSystem::is_made_up));
        if !made_up && offset > file.end {
            return Err(Error::value("options.offset", offset, Allowed::Most(file.end)));
        }
        let limit = match length {
            0 if made_up => Limit::Unknown { size: file.end },
            0 => Limit::At(file.end),
            _ if made_up && at_most => Limit::AtMost(range_end(offset, length)?),
            _ if made_up => Limit::At(range_end(offset, length)?),
            _ if at_most => Limit::At(range_end(offset, length)?.min(file.end)),
            _ => Limit::At(range_end(offset, length)?),
        };
        match limit.end() {
            Some(expected) if !made_up && expected > file.end => {
                return Err(Error::EndedEarly { offset: file.end, expected });
            }
            _ => {}
        }
        let mapped = file.map && !ignore_map;
        let kind = if file.map { FileKind::Regular } else { FileKind::Block };
        let alignment = match made_up {
            true => None,
            false => steadily(|| Alignment::of(fd, kind))
                .map_err(|errno| Error::nowhere(Operation::Open, Side::Source, errno))?,
        };
        Ok(FileSource {
            fd,
            start: offset,
            offset,
            limit,
            map: Map::new(
                fd,
                limit.end().filter(|_| mapped && !made_up),
                mapped && (!made_up || holes_supported(fd)?),
            ),
            look_ahead: LookAhead::new(fd, offset),
            looker: Looker::new(fd),
            direct: alignment.map(|alignment| Reader::new(fd, alignment)),
            queue: Queue::new(fd),
            trail: Trail::default(),
            ended: false,
            life: Life::Open,
        })
    }

    fn error(&self, errno: i32) -> Error {
        if errno == libc::EAGAIN {
            // There is nothing to wait for.
            return Error::Because {
                operation: Operation::Read,
                side: Side::Source,
                offset: self.offset,
                errno: libc::EIO,
                why: "the file system returned EAGAIN, which cannot be waited for",
            };
        }
        Error::at(Operation::Read, Side::Source, self.offset, errno)
    }

    fn end(&mut self) -> Result<Next> {
        self.ended = true;
        self.map.restore()?;
        Ok(Next::End)
    }

    /// The section at the offset, known or asked for. None is known once it is over.
    #[inline(always)]
    fn current(&mut self, end: u64) -> Result<Section> {
        match self.map.section() {
            Some(section) => Ok(section),
            None => self.ask(end),
        }
    }

    /// Asks for the section at the offset.
    fn ask(&mut self, end: u64) -> Result<Section> {
        self.life.check(Operation::Map, Side::Source, self.offset)?;
        if self.offset == end {
            return Ok(Section::end(end));
        }
        let section = self.map.ask(self.offset, end, &mut self.trail)?;
        if section.kind == Kind::End {
            return Err(Error::EndedEarly { offset: self.offset, expected: end });
        }
        Ok(section)
    }

    /// Has the disk read a section ahead, and the next ones, before data of it is moved, if it is of more
    /// than `small` bytes.
    #[inline(always)]
    fn tell_disk(&mut self, section: &Section, end: u64, small: u64) {
        if section.length > small && self.direct.is_none() {
            let section_end = section.offset + section.length;
            self.look_ahead.long(section.offset, section_end, end, &mut self.trail);
        }
    }

    fn advance(&mut self, by: u64) {
        self.offset += by;
        self.map.advance(by);
    }

    /// Reads what is made while it is read. The file had this size when it was examined.
    fn read_made_up(&mut self, buffer: &mut [u8], examined: u64) -> Result<Next> {
        self.life.check(Operation::Read, Side::Source, self.offset)?;
        let count = sys::pread(self.fd, buffer, self.offset).map_err(|errno| self.error(errno))?;
        let size = sys::size(self.fd).map_err(|errno| self.error(errno))?;
        if count == 0 && size < examined {
            return Err(Error::EndedEarly { offset: self.offset, expected: examined });
        }
        // A size that grows is an ordinary file's, which was empty when this began.
        if count == 0 || size > examined {
            return self.end();
        }
        self.offset += count as u64;
        Ok(Next::Data(count))
    }

    /// Whether anything more is made, without moving on.
    fn look_at_made_up(&self) -> Result<Look> {
        let mut ahead = [0; 4096];
        let count = sys::pread(self.fd, &mut ahead, self.offset);
        let count = count.map_err(|errno| self.error(errno))? as u64;
        let kind = if count == 0 { Kind::End } else { Kind::Data };
        Ok(Look { kind, length: Some(count) })
    }
}

impl Source for FileSource {
    fn open(&mut self) -> Result<SourceInfo> {
        if let Some(end) = self.limit.end() {
            self.current(end)?;
        }
        let total = match self.limit {
            Limit::At(end) => Some(end - self.start),
            Limit::AtMost(_) | Limit::Unknown { .. } => None,
        };
        Ok(SourceInfo { total, tells_holes: self.map.tells_holes(), keeps: false, start: 0 })
    }

    fn next(&mut self, buffer: &mut [u8]) -> Result<Next> {
        let end = match self.limit {
            _ if self.ended => {
                self.life.check(Operation::Read, Side::Source, self.offset)?;
                return Ok(Next::End);
            }
            Limit::At(end) | Limit::AtMost(end) => end,
            Limit::Unknown { size } => return self.read_made_up(buffer, size),
        };
        let section = self.current(end)?;
        match section.kind {
            Kind::Hole => return Ok(Next::Hole(section.length)),
            Kind::Keep => return Ok(Next::Keep(section.length)),
            Kind::End => return self.end(),
            Kind::Data => self.tell_disk(&section, end, SMALL),
        }
        let most = section.length.min(buffer.len() as u64) as usize;
        let piece = &mut buffer[..most];
        let count = if let Some(direct) = &mut self.direct {
            direct.read(piece, self.offset)
        } else if section.length <= SMALL && most as u64 == section.length {
            self.look_ahead.read(piece, self.offset, end, &mut self.trail)
        } else {
            sys::pread(self.fd, piece, self.offset)
        }
        .map_err(|errno| self.error(errno))?;
        if count == 0 {
            return match self.limit {
                Limit::AtMost(_) => self.end(),
                Limit::At(_) | Limit::Unknown { .. } => {
                    Err(Error::EndedEarly { offset: self.offset, expected: end })
                }
            };
        }
        self.advance(count as u64);
        if count < most && self.direct.is_none() {
            // The file may have changed inside what its map called data: ask again.
            self.map.forget();
        }
        Ok(Next::Data(count))
    }

    fn look(&mut self) -> Result<Look> {
        self.life.check(Operation::Map, Side::Source, self.offset)?;
        let section = match self.limit {
            _ if self.ended => Section::end(self.offset),
            Limit::At(end) => self.current(end)?,
            Limit::AtMost(end) if self.offset == end => self.current(end)?,
            Limit::AtMost(_) | Limit::Unknown { .. } => return self.look_at_made_up(),
        };
        Ok(Look { kind: section.kind, length: Some(section.length) })
    }

    fn consume(&mut self, length: u64) {
        self.advance(length);
    }
}

impl SourceWays for FileSource {
    fn stored(&mut self) -> Option<&mut dyn Stored> {
        Some(self)
    }

    fn feed(&mut self) -> Option<&mut dyn Feed> {
        // With O_DIRECT, data that goes through a pipe has to be whole blocks.
        if self.direct.is_none() { Some(self) } else { None }
    }

    fn peek(&mut self) -> Option<&mut dyn Peek> {
        // With O_DIRECT, the data in the page cache is not the data that is read.
        if self.direct.is_none() { Some(self) } else { None }
    }

    fn rewind(&mut self) -> Option<&mut dyn Rewind> {
        Some(self)
    }

    fn mapped(&mut self) -> Option<&mut dyn Mapped> {
        Some(self)
    }

    fn addressed(&mut self) -> Option<&mut dyn Addressable> {
        if self.direct.is_some() { Some(self) } else { None }
    }
}

impl Mapped for FileSource {
    fn require(&mut self) -> Result<bool> {
        self.map.require(self.offset, &mut self.trail)
    }
}

impl Stored for FileSource {
    fn extent(&mut self) -> Result<Option<Extent>> {
        let Some(end) = self.limit.end().filter(|_| !self.ended) else { return Ok(None) };
        let section = self.current(end)?;
        if section.kind != Kind::Data {
            return Ok(None);
        }
        // Less will be read, in the way of small sections.
        self.tell_disk(&section, end, Extent::LEAST - 1);
        let Section { offset, length, .. } = section;
        Ok(Some(Extent { fd: self.fd, offset, length }))
    }
}

impl Feed for FileSource {
    fn feedable(&mut self) -> Result<u64> {
        match self.extent()? {
            Some(Extent { length, .. }) if length >= Extent::LEAST => Ok(length),
            Some(_) | None => Ok(0),
        }
    }

    fn feed_pipe(&mut self, pipe: &mut Pipe, most: u64) -> Result<Attempt> {
        match pipe.fill(self.fd, Some(self.offset), most) {
            Ok(0) => Ok(Attempt::Declined(None)),
            Ok(count) => {
                self.advance(count);
                Ok(Attempt::Moved(count))
            }
            Err(libc::EINTR) => Err(self.error(libc::EINTR)),
            Err(errno) => Ok(Attempt::Declined(Some(errno))),
        }
    }
}

impl Peek for FileSource {
    fn glimpse(&mut self, most: u64, first: u64, block: u64) -> Result<Option<Glimpse>> {
        let Some(Extent { offset, length, .. }) = self.extent()? else { return Ok(None) };
        if length < Extent::LEAST {
            return Ok(None);
        }
        Ok(self.looker.look(&Blocks { offset, length: length.min(most), first, block }))
    }
}

impl Rewind for FileSource {
    fn to_start(&mut self) -> Result<()> {
        self.offset = self.start;
        self.map.forget();
        self.look_ahead = LookAhead::new(self.fd, self.start);
        self.ended = false;
        Ok(())
    }
}

impl End for FileSource {
    fn finish(&mut self) -> Result<()> {
        self.map.restore()?;
        self.map.forget();
        self.life = Life::Finished;
        Ok(())
    }

    fn abort(&mut self, error: &Error) {
        self.queue.end(error);
        self.life.abort();
        self.map.forget();
        // The stream has failed already, and that is the error to report.
        let _ = self.map.restore();
    }

    fn waiting(&self) -> Waiting {
        self.queue.waiting()
    }

    fn trail(&mut self) -> Option<&mut Trail> {
        Some(&mut self.trail)
    }
}

impl Drop for FileSource {
    fn drop(&mut self) {
        // A failure cannot be reported here; `finish` reports it.
        let _ = self.map.restore();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Call;
    use crate::sys::inject::{self, Fault};
    use crate::testing::{self, BLOCK, Piece::*};
    use crate::trace::{Event, MapEvent};
    use std::cell::RefCell;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::FileExt;
    use std::rc::Rc;

    fn source(fd: Fd, options: Options) -> Box<dyn Source> {
        crate::source::from_fd(fd, &options).unwrap()
    }

    fn sections(source: &mut dyn Source) -> Vec<(Kind, u64)> {
        let mut found = Vec::new();
        loop {
            let Look { kind, length } = source.look().unwrap();
            if kind == Kind::End {
                return found;
            }
            let length = length.unwrap();
            found.push((kind, length));
            source.consume(length);
        }
    }

    #[test]
    fn a_walk_takes_one_lseek_a_boundary() {
        let layout = [Data(1), Hole(1), Data(2), Hole(1), Data(1), Hole(3), Data(1)];
        let file = testing::sparse(&layout);
        let fd = file.as_raw_fd();
        let seen = Rc::new(RefCell::new(0));
        let count = Rc::clone(&seen);
        let found = inject::with(
            move |call| {
                *count.borrow_mut() += usize::from(call == Call::Lseek);
                Fault::None
            },
            || {
                let mut source = source(fd, Options::default());
                let found = sections(source.as_mut());
                source.finish().unwrap();
                found
            },
        );
        assert_eq!(found.len(), layout.len());
        // One each, one more at the start, and two to keep the position.
        assert_eq!(*seen.borrow(), layout.len() + 1 + 2);
    }

    #[test]
    fn a_range_cuts_its_first_and_last_section() {
        let file = testing::sparse(&[Data(2), Hole(2), Data(2)]);
        let options = Options { offset: BLOCK / 2, length: 4 * BLOCK, ..Options::default() };
        let found = sections(source(file.as_raw_fd(), options).as_mut());
        assert_eq!(
            found,
            [(Kind::Data, BLOCK + BLOCK / 2), (Kind::Hole, 2 * BLOCK), (Kind::Data, BLOCK / 2)]
        );
    }

    #[test]
    fn the_position_is_put_back() {
        let file = testing::sparse(&[Data(1), Hole(1), Data(1)]);
        let fd = file.as_raw_fd();
        sys::set_position(fd, 77).unwrap();
        let mut a = source(fd, Options::default());
        a.look().unwrap();
        assert_ne!(sys::position(fd), Ok(77));
        a.finish().unwrap();
        assert_eq!(sys::position(fd), Ok(77));
        let mut b = source(fd, Options::default());
        b.look().unwrap();
        drop(b);
        assert_eq!(sys::position(fd), Ok(77));
    }

    #[test]
    fn a_file_that_shrinks_ends_early() {
        let file = testing::sparse(&[Data(4), Hole(4)]);
        let fd = file.as_raw_fd();
        let mut shrinking = source(fd, Options::default());
        let mut buffer = vec![0; 2 * BLOCK as usize];
        assert_eq!(shrinking.next(&mut buffer), Ok(Next::Data(buffer.len())));
        sys::truncate(fd, 2 * BLOCK).unwrap();
        let error = shrinking.next(&mut buffer).unwrap_err();
        assert_eq!(error, Error::EndedEarly { offset: 2 * BLOCK, expected: 8 * BLOCK });
    }

    #[test]
    fn a_file_that_grows_is_read_to_its_old_end() {
        let file = testing::sparse(&[Data(1)]);
        let mut growing = source(file.as_raw_fd(), Options::default());
        sys::pwrite(file.as_raw_fd(), &[1; 100], BLOCK).unwrap();
        assert_eq!(sections(growing.as_mut()), [(Kind::Data, BLOCK)]);
        let empty = testing::file();
        let mut growing = source(empty.as_raw_fd(), Options::default());
        sys::pwrite(empty.as_raw_fd(), &[1; 100], 0).unwrap();
        assert_eq!(growing.next(&mut [0; 10]), Ok(Next::End));
    }

    #[test]
    fn data_that_arrives_in_a_hole_is_read_though_the_disk_was_told_of_what_lies_behind() {
        let mib = 1024 * 1024 / BLOCK;
        let file = testing::sparse(&[Data(mib), Hole(mib), Data(mib)]);
        let mut source = source(file.as_raw_fd(), Options::default());
        let mut told = 0;
        let cold = move |call| match call {
            Call::Pread if told == 0 => {
                told += 1;
                Fault::Errno(libc::EAGAIN)
            }
            _ => Fault::None,
        };
        inject::with(cold, || {
            assert!(source.stored().unwrap().extent().unwrap().is_some());
        });
        source.consume(mib * BLOCK);
        file.write_all_at(&[7; 100], (mib + 3) * BLOCK).unwrap();
        let found = sections(source.as_mut());
        let kinds: Vec<Kind> = found.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [Kind::Hole, Kind::Data, Kind::Hole, Kind::Data]);
        assert_eq!(found[0].1, 3 * BLOCK);
    }

    #[test]
    fn a_file_of_proc_is_read_to_its_end() {
        let file = std::fs::File::open("/proc/self/cmdline").unwrap();
        let expected = std::fs::read("/proc/self/cmdline").unwrap();
        let mut source = source(file.as_raw_fd(), Options::default());
        let mut found = Vec::new();
        let mut buffer = [0; 5];
        while let Next::Data(count) = source.next(&mut buffer).unwrap() {
            found.extend_from_slice(&buffer[..count]);
        }
        assert_eq!(found, expected);
        assert!(!found.is_empty());
    }

    #[test]
    fn a_file_of_sys_is_read_to_its_end() {
        let path = "/sys/devices/system/cpu/online";
        let Ok(file) = std::fs::File::open(path) else {
            println!("skipped: there is no {path}");
            return;
        };
        let mut source = source(file.as_raw_fd(), Options::default());
        let mut buffer = [0; 8192];
        let Next::Data(count) = source.next(&mut buffer).unwrap() else {
            panic!("it has content");
        };
        assert_eq!(buffer[..count], std::fs::read(path).unwrap());
        assert_eq!(source.next(&mut buffer), Ok(Next::End));
    }

    #[test]
    fn a_range_must_lie_within_the_file() {
        let file = testing::sparse(&[Data(1)]);
        let make = |offset, length| {
            crate::source::from_fd(
                file.as_raw_fd(),
                &Options { offset, length, ..Options::default() },
            )
            .map(drop)
            .map_err(|error| error.errno())
        };
        assert_eq!(make(BLOCK, 0), Ok(()));
        assert_eq!(make(BLOCK + 1, 0), Err(libc::EINVAL));
        assert_eq!(make(0, BLOCK + 1), Err(libc::ENODATA));
        assert_eq!(make(1, i64::MAX as u64), Err(libc::EINVAL));
    }

    #[test]
    fn a_file_system_without_a_map_is_all_data() {
        let file = testing::sparse(&[Hole(4), Data(1)]);
        for errno in [libc::EINVAL, libc::EOPNOTSUPP, libc::ENOSYS, libc::ENOTTY] {
            let mut asked = 0;
            let found = inject::with(
                move |call| match call {
                    Call::Lseek => {
                        asked += 1;
                        // The first keeps the position.
                        if asked == 2 { Fault::Errno(errno) } else { Fault::None }
                    }
                    _ => Fault::None,
                },
                || sections(source(file.as_raw_fd(), Options::default()).as_mut()),
            );
            assert_eq!(found, [(Kind::Data, 5 * BLOCK)]);
        }
    }
    /// The events of a source whose map answers so, when it is walked.
    fn events(file: &std::fs::File, fault: impl FnMut(Call) -> Fault + 'static) -> Vec<Event> {
        inject::with(fault, || {
            let mut source = source(file.as_raw_fd(), Options::default());
            sections(source.as_mut());
            source.trail().unwrap().take().collect()
        })
    }

    #[test]
    fn what_becomes_of_the_map_is_recorded_once() {
        let file = testing::sparse(&[Data(1), Hole(1), Data(1), Hole(1), Data(1)]);
        assert_eq!(events(&file, |_| Fault::None), [Event::Map(MapEvent::Asked, None)]);
        let mut asked = 0;
        let refusing = move |call| {
            asked += usize::from(call == Call::Lseek);
            // The first keeps the position.
            if call == Call::Lseek && asked == 2 { Fault::Errno(libc::EINVAL) } else { Fault::None }
        };
        let refused = Event::Map(MapEvent::Refused, Some(libc::EINVAL));
        assert_eq!(events(&file, refusing), [refused]);
    }

    #[test]
    fn a_map_that_is_asked_again_after_a_flush_is_recorded() {
        let file = testing::sparse(&[Data(1)]);
        for (flush, second) in [(None, MapEvent::Flushed), (Some(libc::EROFS), MapEvent::Refused)] {
            let mut asked = 0;
            let unsynced = move |call| match call {
                Call::Lseek => {
                    asked += 1;
                    if asked == 2 { Fault::Errno(libc::ENOENT) } else { Fault::None }
                }
                Call::Fdatasync => flush.map_or(Fault::None, Fault::Errno),
                _ => Fault::None,
            };
            assert_eq!(events(&file, unsynced)[0], Event::Map(second, flush));
        }
    }
}
