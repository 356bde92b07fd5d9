//! Where a stream comes from.

mod bytes;
mod file;

use crate::error::{Error, Operation, Result, Side};
use crate::section::{Readable, Section, readable};
use crate::sys::{self, Fd};
use crate::wait::Waiting;
pub use bytes::ByteSource;
pub use file::FileSource;

/// What a read gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// So many bytes of data, at least one.
    Data(usize),
    /// Nothing: a hole comes next. [`Source::section`] gives its length, [`Source::skip`] passes it.
    AtHole,
    /// Nothing: the end.
    End,
}

/// Data that lies in a file, for a sink that can fetch it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The file's descriptor.
    pub fd: Fd,
    /// Its first byte there.
    pub offset: u64,
    /// Bytes of it, all data as far as is known.
    pub length: u64,
}

/// The source of a stream: data, holes, and an end.
///
/// Any call but `total`, `waiting` and `abort` may fail with `EAGAIN` or `EINTR`, and is then made
/// again; nothing is lost by that.
pub trait Source {
    /// Whether it can tell holes from data at all.
    fn tells_holes(&mut self) -> Result<bool>;

    /// The bytes from its start to its end, if that is known.
    fn total(&self) -> Option<u64>;

    /// The section that it is in, from where it is. A stream knows it only at a hole.
    fn section(&mut self) -> Result<Section>;

    /// Reads data into a buffer that is not empty.
    fn read(&mut self, buffer: &mut [u8]) -> Result<Read>;

    /// Where the data that comes next lies, if it lies in a file. [`Source::skip`] passes over what
    /// was fetched there.
    fn extent(&mut self) -> Result<Option<Extent>> {
        Ok(None)
    }

    /// Passes over a part of the section that it is in.
    fn skip(&mut self, length: u64) -> Result<()>;

    /// All of it was taken, and the sink is finished.
    fn finish(&mut self) -> Result<()>;

    /// The stream failed, with this errno. Does nothing after a `finish` that succeeded.
    fn abort(&mut self, errno: i32);

    /// What `EAGAIN` means here.
    fn waiting(&self) -> Waiting;
}

/// How a descriptor is read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// The first byte.
    pub offset: u64,
    /// How many; 0 means to the end.
    pub length: u64,
    /// Read all of it, whatever its map says.
    pub ignore_map: bool,
}

/// A descriptor as a source.
#[derive(Debug)]
pub enum FdSource {
    /// A regular file or a block device.
    File(FileSource),
    /// A pipe, a socket or a character device.
    Bytes(ByteSource),
}

impl FdSource {
    /// Examines a descriptor, which must stay open for as long as the source lives.
    pub fn new(fd: Fd, options: &Options) -> Result<Self> {
        let found = readable(fd)?;
        let error = |errno| Error::nowhere(Operation::Open, Side::Source, errno);
        let flags = sys::flags(fd).map_err(error)?;
        if flags & libc::O_ACCMODE == libc::O_WRONLY || flags & libc::O_PATH == libc::O_PATH {
            return Err(error(libc::EBADF));
        }
        match found {
            Readable::Seekable(file) => FileSource::new(fd, file, options).map(FdSource::File),
            Readable::Stream(kind) => ByteSource::new(fd, kind, options).map(FdSource::Bytes),
        }
    }

    fn inner(&self) -> &dyn Source {
        match self {
            FdSource::File(file) => file,
            FdSource::Bytes(bytes) => bytes,
        }
    }

    fn inner_mut(&mut self) -> &mut dyn Source {
        match self {
            FdSource::File(file) => file,
            FdSource::Bytes(bytes) => bytes,
        }
    }
}

impl Source for FdSource {
    fn tells_holes(&mut self) -> Result<bool> {
        self.inner_mut().tells_holes()
    }

    fn total(&self) -> Option<u64> {
        self.inner().total()
    }

    fn section(&mut self) -> Result<Section> {
        self.inner_mut().section()
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<Read> {
        self.inner_mut().read(buffer)
    }

    fn extent(&mut self) -> Result<Option<Extent>> {
        self.inner_mut().extent()
    }

    fn skip(&mut self, length: u64) -> Result<()> {
        self.inner_mut().skip(length)
    }

    fn finish(&mut self) -> Result<()> {
        self.inner_mut().finish()
    }

    fn abort(&mut self, errno: i32) {
        self.inner_mut().abort(errno);
    }

    fn waiting(&self) -> Waiting {
        self.inner().waiting()
    }
}

/// The end of a range, checked.
fn range_end(offset: u64, length: u64) -> Result<u64> {
    offset
        .checked_add(length)
        .filter(|end| i64::try_from(*end).is_ok())
        .ok_or_else(|| Error::argument("options.length", "ends beyond every file", libc::EINVAL))
}
