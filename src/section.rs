//! Where the data and the holes of a descriptor are.
//!
//! The map that a file system gives is a hint: it may be outdated before it is used, and it may
//! be wrong. What is answered here always makes progress, and never calls data a hole unless the
//! file system said so without contradicting itself, and could know what is in the page cache.

use crate::device;
use crate::error::{Error, Operation, Result, Side};
use crate::filesystem;
use crate::sys::{self, Fd, FileKind, Sys};
use crate::trace::{Event, MapEvent, Trail};

/// The kind of a section. As wide as its neighbours in a [`Section`], so that one is copied in whole words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Kind {
    /// Nothing: the end is reached.
    End,
    /// Bytes.
    Data,
    /// A hole: it reads as zeros and is not stored.
    Hole,
    /// Bytes that the receiver keeps as they are. A file never has such a section.
    Keep,
}

/// A run of bytes of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section {
    /// Its kind.
    pub kind: Kind,
    /// Its first byte.
    pub offset: u64,
    /// Bytes in it; 0 only at the end.
    pub length: u64,
}

impl Section {
    /// A section.
    #[must_use]
    pub fn new(kind: Kind, offset: u64, length: u64) -> Self {
        Section { kind, offset, length }
    }

    /// The end, at `offset`.
    #[must_use]
    pub fn end(offset: u64) -> Self {
        Section::new(Kind::End, offset, 0)
    }
}

/// The most that is called data where the map contradicts itself, before it is asked again.
const DOUBTFUL: u64 = 1024 * 1024;

/// How often a call that a signal interrupted is made again, so that nothing loops for ever.
const INTERRUPTIONS: usize = 100;

/// A walk along a file's map: one lseek(2) a boundary.
///
/// It moves the file position; whoever makes it puts that back.
#[derive(Debug)]
pub struct Walk {
    fd: Fd,
    end: u64,
    /// Where the last answer said that data begins.
    data: Option<u64>,
    mapped: Option<bool>,
    belief: Belief,
    doubts: Doubts,
}

/// Whether a map was seen to contradict itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubts {
    None,
    /// It was, and that was recorded.
    Recorded,
}

/// Whether a hole is believed that a map tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Belief {
    /// No hole was told of, and no question failed.
    Unasked,
    /// The map follows the page cache.
    Native,
    /// The content of the cache was written back before the map was asked again.
    Flushed,
    /// It cannot be written back: all is data.
    Never,
}

impl Walk {
    /// A walk over a file that ends at `end`.
    #[must_use]
    pub fn new(fd: Fd, end: u64) -> Self {
        Walk { fd, end, data: None, mapped: None, belief: Belief::Unasked, doubts: Doubts::None }
    }

    /// Whether the file system answered when it was asked for its map, and is believed; `None`
    /// before it was asked.
    #[must_use]
    pub fn mapped(&self) -> Option<bool> {
        self.mapped
    }

    /// Forgets what the last answer said of the next section.
    pub fn forget(&mut self) {
        self.data = None;
    }

    /// The section at `offset`, cut to it and to the end. The end itself before `end` means that
    /// the file is shorter now. What is found out about the map is recorded in the trail, once.
    pub fn at(&mut self, offset: u64, trail: &mut Trail) -> Result<Section> {
        if offset >= self.end {
            return Ok(Section::end(offset));
        }
        let known = self.data.take() == Some(offset);
        let first = match self.belief {
            Belief::Never => Ok(Section::new(Kind::Data, offset, self.end - offset)),
            _ => probe(self.fd, offset, self.end, known, || self.doubts.record(trail)),
        };
        let section = match first {
            Ok(section) if self.belief.takes(section.kind) => section,
            first => {
                let answer = reconsider(self.fd, offset, self.end, first, &mut self.belief, trail)?;
                let Some(section) = answer else {
                    self.mapped = Some(false);
                    return Ok(Section::new(Kind::Data, offset, self.end - offset));
                };
                section
            }
        };
        if self.mapped.is_none() {
            self.mapped = Some(true);
            trail.record(Event::Map(MapEvent::Asked, None));
        }
        let next = section.offset + section.length;
        if section.kind == Kind::Hole && next < self.end {
            self.data = Some(next);
        }
        Ok(section)
    }
}

impl Doubts {
    #[cold]
    fn record(&mut self, trail: &mut Trail) {
        if *self == Doubts::None {
            *self = Doubts::Recorded;
            trail.record(Event::Map(MapEvent::Distrusted, None));
        }
    }
}

impl Belief {
    /// Whether an answer of this kind needs no second look.
    #[inline]
    fn takes(self, kind: Kind) -> bool {
        kind != Kind::Hole || matches!(self, Belief::Native | Belief::Flushed)
    }
}

/// Decides on a hole that is not believed yet, or on a question that failed. `None` means that
/// there is no map that could be used: everything from here on is data.
///
/// A map may be a server's, which has not seen what is in the page cache of this machine; then a
/// hole may have data in it. What is not on its way yet has no place in some maps either: ext4
/// answers ENOENT for a file that it is about to store within its inode. Writing back what is in the
/// cache settles both.
#[cold]
fn reconsider(
    fd: Fd,
    offset: u64,
    end: u64,
    first: Sys<Section>,
    belief: &mut Belief,
    trail: &mut Trail,
) -> Result<Option<Section>> {
    let failed = |errno| Err(Error::at(Operation::Map, Side::Source, offset, errno));
    let mut refused = |errno| {
        trail.record(Event::Map(MapEvent::Refused, errno));
        Ok(None)
    };
    match first.map_err(Refusal::of) {
        Ok(section) => {
            if filesystem::map_follows_cache(fd, offset) {
                *belief = Belief::Native;
                return Ok(Some(section));
            }
        }
        Err(Refusal::NoMap(errno)) => return refused(Some(errno)),
        Err(Refusal::Failure(errno)) => return failed(errno),
        Err(Refusal::Other(errno)) if *belief == Belief::Flushed => return refused(Some(errno)),
        Err(Refusal::Other(_)) => {}
    }
    match steadily(|| sys::sync_data(fd)) {
        Ok(()) => *belief = Belief::Flushed,
        Err(libc::EINTR) => return failed(libc::EINTR),
        Err(errno) => {
            *belief = Belief::Never;
            return refused(Some(errno));
        }
    }
    trail.record(Event::Map(MapEvent::Flushed, None));
    match probe(fd, offset, end, false, || ()).map_err(Refusal::of) {
        Ok(section) => Ok(Some(section)),
        Err(Refusal::NoMap(errno) | Refusal::Other(errno)) => {
            trail.record(Event::Map(MapEvent::Refused, Some(errno)));
            Ok(None)
        }
        Err(Refusal::Failure(errno)) => failed(errno),
    }
}

/// The section at `offset`, which is before `end`, by lseek(2). `known`: it is said to be in data. An
/// answer that contradicts itself is data, and `doubt` is called.
#[inline(always)]
fn probe(fd: Fd, offset: u64, end: u64, known: bool, mut doubt: impl FnMut()) -> Sys<Section> {
    let to = |kind, to: u64| Ok(Section::new(kind, offset, to.min(end) - offset));
    let mut doubtful = |end| {
        doubt();
        to(Kind::Data, end)
    };
    let mut data_first = !known;
    // The section found at an offset may be gone when the map is asked for its end: ask twice,
    // and not a third time.
    for _ in 0..2 {
        if data_first {
            match sys::seek_data(fd, offset) {
                Ok(data) if data < offset => return doubtful(end),
                Ok(data) if data > end && data > sys::size(fd)? => return doubtful(end),
                Ok(data) if data > offset => return to(Kind::Hole, data),
                Ok(_) => {}
                Err(libc::ENXIO) => return rest(fd, offset, end, Kind::Hole),
                Err(errno) => return Err(errno),
            }
        }
        match sys::seek_hole(fd, offset) {
            Ok(hole) if hole > offset => return to(Kind::Data, hole),
            Ok(hole) if hole < offset => return doubtful(end),
            Ok(_) => {}
            Err(libc::ENXIO) => return rest(fd, offset, end, Kind::Data),
            Err(errno) => return Err(errno),
        }
        data_first = true;
    }
    doubtful(offset.saturating_add(DOUBTFUL))
}

/// The section that is left when the map has nothing more to say: to the end, or to where the end is now if
/// that is less.
#[cold]
fn rest(fd: Fd, offset: u64, end: u64, kind: Kind) -> Sys<Section> {
    let end = end.min(sys::size(fd)?);
    Ok(if end > offset { Section::new(kind, offset, end - offset) } else { Section::end(offset) })
}

/// The meaning of a failure of lseek(2).
enum Refusal {
    /// There is no map: all is data.
    NoMap(i32),
    /// The medium, the memory or the connection to it failed, or a signal came.
    Failure(i32),
    /// Nothing that is known of the medium.
    Other(i32),
}

impl Refusal {
    fn of(errno: i32) -> Self {
        match errno {
            libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOTTY => Refusal::NoMap(errno),
            libc::EIO
            | libc::ENOMEM
            | libc::EINTR
            | libc::EBADF
            | libc::ESTALE
            | libc::ENODEV
            | libc::ENOTCONN
            | libc::ECONNABORTED
            | libc::ETIMEDOUT
            | libc::EREMOTEIO
            | libc::EBADMSG
            | libc::EUCLEAN => Refusal::Failure(errno),
            _ => Refusal::Other(errno),
        }
    }
}

/// A descriptor whose content has offsets, and how its map is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seekable {
    /// Its end, when it was asked.
    pub end: u64,
    /// Whether it has a map to be asked for.
    pub map: bool,
    /// Whether its size is to be believed: /proc has files of size 0 that have content.
    pub allocated: bool,
}

/// The kind of source that a descriptor is to a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readable {
    /// It has offsets.
    Seekable(Seekable),
    /// It is a stream of bytes.
    Stream(FileKind),
}

/// Finds out what a descriptor is.
pub fn readable(fd: Fd) -> Result<Readable> {
    let stat = steadily(|| sys::stat(fd)).map_err(unopened)?;
    match stat.kind {
        FileKind::Regular => Ok(Readable::Seekable(regular(&stat))),
        kind => special(fd, kind).map_err(unopened),
    }
}

/// As [`readable`], for what has offsets.
#[inline]
fn seekable(fd: Fd) -> Sys<Seekable> {
    let stat = steadily(|| sys::stat(fd))?;
    if stat.kind == FileKind::Regular {
        return Ok(regular(&stat));
    }
    match special(fd, stat.kind)? {
        Readable::Seekable(seekable) => Ok(seekable),
        Readable::Stream(_) => Err(libc::ESPIPE),
    }
}

fn regular(stat: &sys::Stat) -> Seekable {
    Seekable { end: stat.size, map: true, allocated: stat.allocated }
}

/// As [`readable`], for a descriptor that is not a regular file.
#[cold]
fn special(fd: Fd, kind: FileKind) -> Sys<Readable> {
    if steadily(|| sys::flags(fd))? & libc::O_PATH == libc::O_PATH {
        return Err(libc::EBADF);
    }
    match kind {
        FileKind::Regular | FileKind::Other => Err(libc::ESPIPE),
        FileKind::Directory => Err(libc::EISDIR),
        FileKind::Block => {
            let end = steadily(|| device::size(fd))?;
            Ok(Readable::Seekable(Seekable { end, map: false, allocated: true }))
        }
        FileKind::Pipe | FileKind::Socket | FileKind::Character => Ok(Readable::Stream(kind)),
    }
}

#[cold]
fn unopened(errno: i32) -> Error {
    Error::nowhere(Operation::Open, Side::Source, errno)
}

/// Makes a call that a signal may interrupt.
///
/// In line, as all that a query goes through: a return that follows a system call is mispredicted,
/// and an answer that goes through memory waits for it.
#[inline(always)]
pub fn steadily<T>(mut make: impl FnMut() -> Sys<T>) -> Sys<T> {
    for _ in 0..INTERRUPTIONS {
        match make() {
            Err(libc::EINTR) => {}
            answer => return answer,
        }
    }
    Err(libc::EINTR)
}

/// A file position, put back when told to. A failure to do so is an error of its own.
#[derive(Debug)]
pub struct Position {
    fd: Fd,
    saved: u64,
}

impl Position {
    /// Keeps where the position is.
    #[inline]
    pub fn save(fd: Fd) -> Result<Self> {
        match steadily(|| sys::position(fd)) {
            Ok(saved) => Ok(Position { fd, saved }),
            Err(errno) => Err(Self::unknown(errno)),
        }
    }

    /// Puts it back.
    #[inline]
    pub fn restore(&self) -> Result<()> {
        match steadily(|| sys::set_position(self.fd, self.saved)) {
            Ok(()) => Ok(()),
            Err(errno) => Err(self.lost(errno)),
        }
    }

    #[cold]
    fn unknown(errno: i32) -> Error {
        Error::nowhere(Operation::Map, Side::Source, errno)
    }

    #[cold]
    fn lost(&self, errno: i32) -> Error {
        Error::Because {
            operation: Operation::Seek,
            side: Side::Source,
            offset: self.saved,
            errno,
            why: "the file position is lost",
        }
    }

    /// Does something that moves it, and puts it back whatever comes of it.
    fn around<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let answer = work();
        self.restore()?;
        answer
    }
}

/// The section at `offset`, or at the file position, which is kept.
#[inline(always)]
pub fn section_at(fd: Fd, offset: Option<u64>) -> Result<Section> {
    let file = seekable(fd).map_err(unopened)?;
    let position = Position::save(fd)?;
    let offset = offset.unwrap_or(position.saved);
    if offset >= file.end {
        return Ok(Section::end(offset));
    }
    if !file.map {
        return Ok(Section::new(Kind::Data, offset, file.end - offset));
    }
    match steadily(|| probe(fd, offset, file.end, false, || ())) {
        Ok(section) if Belief::Unasked.takes(section.kind) => {
            position.restore()?;
            Ok(section)
        }
        first => section_reconsidered(fd, offset, file.end, first, &position),
    }
}

/// The rest of [`section_at`] where the first answer is not final.
#[cold]
fn section_reconsidered(
    fd: Fd,
    offset: u64,
    end: u64,
    first: Sys<Section>,
    position: &Position,
) -> Result<Section> {
    position.around(|| {
        let (mut belief, mut trail) = (Belief::Unasked, Trail::default());
        let answer = again(|| reconsider(fd, offset, end, first, &mut belief, &mut trail))?;
        Ok(answer.unwrap_or(Section::new(Kind::Data, offset, end - offset)))
    })
}

/// Hands each section of the range to `each`, which returns whether to go on. Length 0 means to
/// the end. The position is kept.
pub fn map(fd: Fd, offset: u64, length: u64, mut each: impl FnMut(Section) -> bool) -> Result<()> {
    let file = seekable(fd).map_err(unopened)?;
    let end = match length {
        0 => file.end,
        _ => file.end.min(offset.saturating_add(length)),
    };
    let position = Position::save(fd)?;
    if !file.map {
        if offset < end {
            each(Section::new(Kind::Data, offset, end - offset));
        }
        return Ok(());
    }
    position.around(|| {
        let (mut walk, mut trail) = (Walk::new(fd, file.end), Trail::default());
        let mut at = offset;
        while at < end {
            let mut section = again(|| walk.at(at, &mut trail))?;
            if section.kind == Kind::End {
                break;
            }
            section.length = section.length.min(end - at);
            at += section.length;
            if !each(section) {
                break;
            }
        }
        Ok(())
    })
}

/// Whether the file system can be asked for the map of this file. The position is kept.
pub fn holes_supported(fd: Fd) -> Result<bool> {
    let file = seekable(fd).map_err(unopened)?;
    let position = Position::save(fd)?;
    if !file.map {
        return Ok(false);
    }
    // At offset 0, whatever the size: an empty file answers ENXIO where there is a map.
    position.around(|| match steadily(|| sys::seek_hole(fd, 0)) {
        Ok(_) | Err(libc::ENXIO) => Ok(true),
        Err(errno) => match Refusal::of(errno) {
            Refusal::NoMap(_) => Ok(false),
            Refusal::Failure(errno) => Err(Error::at(Operation::Map, Side::Source, 0, errno)),
            Refusal::Other(_) => Ok(sys::sync_data(fd).is_ok()
                && matches!(steadily(|| sys::seek_hole(fd, 0)), Ok(_) | Err(libc::ENXIO))),
        },
    })
}

/// As [`steadily`], for what answers with an [`Error`].
fn again<T>(mut make: impl FnMut() -> Result<T>) -> Result<T> {
    let mut answer = make();
    for _ in 1..INTERRUPTIONS {
        match answer {
            Err(error) if error.interrupted() => answer = make(),
            _ => break,
        }
    }
    answer
}
