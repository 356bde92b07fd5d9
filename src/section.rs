//! Where the data and the holes of a descriptor are.
//!
//! The map that a file system gives is a hint: it may be outdated before it is used, and it may
//! be wrong. What is answered here always makes progress, and never calls data a hole unless the
//! file system said so without contradicting itself.

use crate::error::{Error, Operation, Result, Side};
use crate::sys::{self, Fd, FileKind, Sys};

/// What a section is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing: the end is reached.
    End,
    /// Bytes.
    Data,
    /// A hole: it reads as zeros and is not stored.
    Hole,
}

/// A run of bytes of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section {
    /// What it is.
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
    hint: Option<(u64, Kind)>,
    mapped: Option<bool>,
}

impl Walk {
    /// A walk over a file that ends at `end`.
    #[must_use]
    pub fn new(fd: Fd, end: u64) -> Self {
        Walk { fd, end, hint: None, mapped: None }
    }

    /// Whether the file system answered when it was asked for its map; `None` before it was asked.
    #[must_use]
    pub fn mapped(&self) -> Option<bool> {
        self.mapped
    }

    /// Forgets what the last answer said of the next section.
    pub fn forget(&mut self) {
        self.hint = None;
    }

    /// The section at `offset`, cut to it and to the end. The end itself before `end` means that
    /// the file is shorter now.
    pub fn at(&mut self, offset: u64) -> Result<Section> {
        if offset >= self.end {
            return Ok(Section::end(offset));
        }
        match self.probe(offset) {
            Ok(section) => {
                self.mapped.get_or_insert(true);
                Ok(section)
            }
            Err(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOTTY) => {
                self.mapped.get_or_insert(false);
                Ok(self.data(offset, self.end))
            }
            Err(errno) => Err(Error::at(Operation::Map, Side::Source, offset, errno)),
        }
    }

    fn probe(&mut self, offset: u64) -> Sys<Section> {
        let known = self.hint.take().filter(|hint| hint.0 == offset).map(|hint| hint.1);
        let mut data_first = known != Some(Kind::Data);
        // What it said of an offset may be gone when it is asked for the end of it: ask twice,
        // and not a third time.
        for _ in 0..2 {
            if data_first {
                match sys::seek_data(self.fd, offset) {
                    Ok(data) if data < offset => return Ok(self.data(offset, self.end)),
                    Ok(data) if data > self.end && data > sys::size(self.fd)? => {
                        return Ok(self.data(offset, self.end));
                    }
                    Ok(data) if data > offset => return Ok(self.hole(offset, data)),
                    Ok(_) => {}
                    Err(libc::ENXIO) => return self.rest(offset, Kind::Hole),
                    Err(errno) => return Err(errno),
                }
            }
            match sys::seek_hole(self.fd, offset) {
                Ok(hole) if hole > offset => return Ok(self.data(offset, hole)),
                Ok(hole) if hole < offset => return Ok(self.data(offset, self.end)),
                Ok(_) => {}
                Err(libc::ENXIO) => return self.rest(offset, Kind::Data),
                Err(errno) => return Err(errno),
            }
            data_first = true;
        }
        self.hint = None;
        Ok(Section::new(Kind::Data, offset, DOUBTFUL.min(self.end - offset)))
    }

    /// What is left when the map has nothing more to say: to the end, or to where the end is now
    /// if that is less.
    fn rest(&self, offset: u64, kind: Kind) -> Sys<Section> {
        let end = self.end.min(sys::size(self.fd)?);
        Ok(if end > offset {
            Section::new(kind, offset, end - offset)
        } else {
            Section::end(offset)
        })
    }

    fn data(&mut self, offset: u64, to: u64) -> Section {
        if to < self.end {
            self.hint = Some((to, Kind::Hole));
        }
        Section::new(Kind::Data, offset, to.min(self.end) - offset)
    }

    fn hole(&mut self, offset: u64, to: u64) -> Section {
        if to < self.end {
            self.hint = Some((to, Kind::Data));
        }
        Section::new(Kind::Hole, offset, to.min(self.end) - offset)
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

/// What a descriptor is to a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readable {
    /// It has offsets.
    Seekable(Seekable),
    /// It is a stream of bytes.
    Stream(FileKind),
}

/// Finds out what a descriptor is.
pub fn readable(fd: Fd) -> Result<Readable> {
    let error = |errno| Error::nowhere(Operation::Open, Side::Source, errno);
    let stat = steadily(|| sys::stat(fd)).map_err(error)?;
    let opened_for_nothing =
        || Ok(steadily(|| sys::flags(fd)).map_err(error)? & libc::O_PATH == libc::O_PATH);
    match stat.kind {
        FileKind::Regular => Ok(Readable::Seekable(Seekable {
            end: stat.size,
            map: true,
            allocated: stat.allocated,
        })),
        _ if opened_for_nothing()? => Err(error(libc::EBADF)),
        FileKind::Block => {
            let end = steadily(|| sys::device_size(fd)).map_err(error)?;
            Ok(Readable::Seekable(Seekable { end, map: false, allocated: true }))
        }
        FileKind::Directory => Err(error(libc::EISDIR)),
        FileKind::Other => Err(error(libc::ESPIPE)),
        kind @ (FileKind::Pipe | FileKind::Socket | FileKind::Character) => {
            Ok(Readable::Stream(kind))
        }
    }
}

fn seekable(fd: Fd) -> Result<Seekable> {
    match readable(fd)? {
        Readable::Seekable(seekable) => Ok(seekable),
        Readable::Stream(_) => Err(Error::nowhere(Operation::Open, Side::Source, libc::ESPIPE)),
    }
}

/// Makes a call that a signal may interrupt.
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
    pub fn save(fd: Fd) -> Result<Self> {
        let saved = steadily(|| sys::position(fd))
            .map_err(|errno| Error::nowhere(Operation::Map, Side::Source, errno))?;
        Ok(Position { fd, saved })
    }

    /// Where it was.
    #[must_use]
    pub fn saved(&self) -> u64 {
        self.saved
    }

    /// Puts it back.
    pub fn restore(&self) -> Result<()> {
        steadily(|| sys::set_position(self.fd, self.saved)).map_err(|errno| Error::Because {
            operation: Operation::Seek,
            side: Side::Source,
            offset: self.saved,
            errno,
            why: "the file position is lost",
        })
    }

    /// Does something that moves it, and puts it back whatever comes of it.
    fn around<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let answer = work();
        self.restore()?;
        answer
    }
}

/// The section at the file position.
pub fn in_data(fd: Fd) -> Result<Section> {
    let file = seekable(fd)?;
    let position = Position::save(fd)?;
    section_of(fd, file, position.saved(), &position)
}

/// The section at `offset`. The position is kept.
pub fn section_at(fd: Fd, offset: u64) -> Result<Section> {
    let file = seekable(fd)?;
    let position = Position::save(fd)?;
    section_of(fd, file, offset, &position)
}

fn section_of(fd: Fd, file: Seekable, offset: u64, position: &Position) -> Result<Section> {
    if offset >= file.end {
        return Ok(Section::end(offset));
    }
    if !file.map {
        return Ok(Section::new(Kind::Data, offset, file.end - offset));
    }
    position.around(|| again(|| Walk::new(fd, file.end).at(offset)))
}

/// Hands each section of the range to `each`, which returns whether to go on. Length 0 means to
/// the end. The position is kept.
pub fn map(fd: Fd, offset: u64, length: u64, mut each: impl FnMut(Section) -> bool) -> Result<()> {
    let file = seekable(fd)?;
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
        let mut walk = Walk::new(fd, file.end);
        let mut at = offset;
        while at < end {
            let mut section = again(|| walk.at(at))?;
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
    let file = seekable(fd)?;
    let position = Position::save(fd)?;
    if !file.map {
        return Ok(false);
    }
    // At offset 0, whatever the size: an empty file answers ENXIO where there is a map.
    position.around(|| match steadily(|| sys::seek_hole(fd, 0)) {
        Ok(_) | Err(libc::ENXIO) => Ok(true),
        Err(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOTTY) => Ok(false),
        Err(errno) => Err(Error::at(Operation::Map, Side::Source, 0, errno)),
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
