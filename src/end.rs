//! The two ends of a transfer: the traits that every source and every sink has.
//!
//! ```text
//!     Source --next--> Transfer --write, hole, keep--> Sink
//! ```
//!
//! An end has one small trait that is always there ([`Source`] or [`Sink`], with [`End`]), and hands
//! out a further trait for each thing that it can do besides ([`SourceWays`], [`SinkWays`]). To add an
//! ability, add a trait, one accessor that returns `None` by default, and its one user in the loop.
//!
//! Any fallible call may fail with `EAGAIN` or `EINTR`. It is then made again with the same arguments,
//! and nothing is lost. Calls that commit (`consume`, `committed`) cannot fail: they come after bytes
//! have moved, and a failure there would move them twice.

use crate::error::{Error, Result};
use crate::pipe::Pipe;
use crate::section::Kind;
use crate::sys::memory::Slab;
use crate::sys::{Fd, Sys};
use crate::trace::Trail;
use crate::wait::Waiting;
use std::collections::VecDeque;
use std::time::Instant;

/// The part that sources and sinks share. A handle may move between threads, hence `Send`.
pub trait End: Send {
    /// Ends the stream with success. Everything that can still fail fails here.
    fn finish(&mut self) -> Result<()>;

    /// Ends the stream with this error. Does nothing after a `finish` that succeeded.
    fn abort(&mut self, error: &Error);

    /// Who or what the last `EAGAIN` waits for.
    fn waiting(&self) -> Waiting;

    /// The peer behind this end, if there is one that takes part in the transfer.
    fn peer(&mut self) -> Option<&mut dyn Peer> {
        None
    }

    /// The decisions of this end that were not traced yet, if it makes any.
    fn trail(&mut self) -> Option<&mut Trail> {
        None
    }
}

/// A peer behind an end.
pub trait Peer {
    /// The number of times that the peer has shown that it is alive, without sending stream content.
    fn signs(&self) -> u64;

    /// Sends everything that was kept back to be sent together with more, and a sign of life if one is
    /// due at `now`.
    fn flush(&mut self, now: Instant) -> Result<()>;

    /// The time at which [`Peer::flush`] is due even if nothing else happens.
    fn flush_by(&self) -> Option<Instant>;

    /// Reports to the peer of a source that everything before this offset is on the medium.
    fn durable(&mut self, offset: u64) {
        let _ = offset;
    }
}

/// The facts about a source that are known before the first byte moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SourceInfo {
    /// Bytes from its start to its end, if known.
    pub total: Option<u64>,
    /// It can distinguish holes from data.
    pub tells_holes: bool,
    /// Keep sections may come. One that comes undeclared is an error of the source.
    pub keeps: bool,
    /// The offset in the stream at which it begins: an earlier transfer moved everything before.
    pub start: u64,
}

/// One fact about the place in the stream that a source has reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// This many bytes of data, at least one, were read into the buffer and are consumed.
    Data(usize),
    /// A hole of this length, at least one byte, comes next. [`Source::consume`] moves past it.
    Hole(u64),
    /// The receiver keeps this many bytes, at least one, as they are. [`Source::consume`] moves past
    /// them.
    Keep(u64),
    /// The end.
    End,
}

/// The section that a source is in, as far as it is known without reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Its kind.
    pub kind: Kind,
    /// Bytes to its end; `None` if that is not known yet. 0 at the end of the stream only.
    pub length: Option<u64>,
}

/// A source of a stream. It is pulled.
pub trait Source: End + SourceWays {
    /// Learns the facts that must be known before the first byte. May be called again later, and then
    /// answers the same.
    fn open(&mut self) -> Result<SourceInfo>;

    /// Reads data into a buffer that is not empty, or reports what comes instead.
    fn next(&mut self, buffer: &mut [u8]) -> Result<Next>;

    /// The section that comes next. Consumes nothing, and needs no more from a stream than the next
    /// read returns.
    fn look(&mut self) -> Result<Look>;

    /// Moves past `length` bytes that this source reported and that were then moved otherwise: a hole
    /// or a kept section of [`Source::next`] or [`Source::look`], an extent of [`Stored`], or memory of
    /// [`Lent`]. `length` is at most the reported length, and no other call came in between.
    fn consume(&mut self, length: u64);
}

/// The further abilities of a source.
pub trait SourceWays {
    /// Its data lies in a file.
    fn stored(&mut self) -> Option<&mut dyn Stored> {
        None
    }
    /// It can put data into a pipe.
    fn feed(&mut self) -> Option<&mut dyn Feed> {
        None
    }
    /// It may have data in memory already.
    fn lent(&mut self) -> Option<&mut dyn Lent> {
        None
    }
    /// It can look for zeros without reading everything.
    fn peek(&mut self) -> Option<&mut dyn Peek> {
        None
    }
    /// It can go back to its start.
    fn rewind(&mut self) -> Option<&mut dyn Rewind> {
        None
    }
    /// A read that is not ready may go on filling its buffer: the next read is given the same buffer, which
    /// nothing else uses meanwhile.
    fn holds_buffer(&self) -> bool {
        false
    }
    /// It answers to offsets, with several requests under way.
    fn addressed(&mut self) -> Option<&mut dyn Addressable> {
        None
    }
    /// Its peer has introduced the stream.
    fn introduced(&mut self) -> Option<&mut dyn Introduced> {
        None
    }
}

/// Data that lies in a file, where a sink can fetch it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The descriptor of the file.
    pub fd: Fd,
    /// The offset of the first byte in the file.
    pub offset: u64,
    /// Its length in bytes. All of it is data as far as is known.
    pub length: u64,
}

impl Extent {
    /// Less than this many bytes are read and written: to pass on so few pages costs more than a copy.
    pub const LEAST: u64 = 64 << 10;
}

/// The answer of a way of moving data that may not be possible here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// This many bytes, at least one, were moved.
    Moved(u64),
    /// Nothing was moved, and this way is not to be tried again in this transfer. The errno, where there
    /// is one, is traced. The same data then goes another way, which reports a failure if it is one.
    Declined(Option<i32>),
}

/// See [`SourceWays::stored`].
pub trait Stored {
    /// The data that comes next, if the next section is data. [`Source::consume`] moves past what was
    /// fetched of it.
    fn extent(&mut self) -> Result<Option<Extent>>;
}

/// See [`SourceWays::feed`].
pub trait Feed {
    /// The number of bytes that can be put into a pipe now and are worth it; 0 if none are.
    fn feedable(&mut self) -> Result<u64>;

    /// Puts at most `most` of those bytes into the pipe. They are consumed.
    fn feed_pipe(&mut self, pipe: &mut Pipe, most: u64) -> Result<Attempt>;
}

/// See [`SourceWays::lent`].
pub trait Lent {
    /// The start of the data that comes next, as far as it is in memory; empty if it is not.
    /// [`Source::consume`] moves past what was used of it.
    fn bytes(&mut self) -> Result<&[u8]>;
}

/// The appearance of blocks of data that were not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Glimpse {
    /// Each of them surely holds more than zeros. If not, each of them may be all zeros.
    pub solid: bool,
    /// Bytes in them, at least one.
    pub length: u64,
}

/// See [`SourceWays::peek`].
pub trait Peek {
    /// Looks at the data that comes next, block by block, up to `most` bytes. The first block has
    /// `first` bytes, the others `block`. The last may be cut off by `most` or by the end of the data.
    /// `None` if nothing can be known without reading.
    fn glimpse(&mut self, most: u64, first: u64, block: u64) -> Result<Option<Glimpse>>;
}

/// See [`SourceWays::rewind`].
pub trait Rewind {
    /// Goes back to the start of the source.
    fn to_start(&mut self) -> Result<()>;
}

/// See [`SourceWays::introduced`].
pub trait Introduced {
    /// The peer's report about the stream that it sends, once that has come.
    fn introduction(&mut self) -> Result<Introduction>;
}

/// The properties of a stream that its sender reports before its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Description {
    /// Bytes of the stream, if known.
    pub length: Option<u64>,
    /// Bytes of the whole source, if known.
    pub source_size: Option<u64>,
    /// The offset in the source at which the stream starts.
    pub source_offset: u64,
    /// Bytes of the stream that are data, if known.
    pub data_bytes: Option<u64>,
    /// The sender's name for this transfer; zeros for none.
    pub transfer_id: [u8; 16],
    /// The identity that distinguishes this source, as it is now, from any other; zeros for none.
    pub identity: [u8; 32],
    /// With kept sections: the identity of the content that they refer to; zeros for none.
    pub base: [u8; 32],
}

/// The facts about an end that answers to offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// The offset in the end at which the next byte of the stream lies.
    pub at: u64,
    /// The end of what it holds. Nothing is read beyond it.
    pub size: u64,
    /// Offsets and lengths of READ and WRITE are multiples of this power of two, which is at most 65536.
    pub block: u64,
    /// Addresses of memory are multiples of this power of two, which is at most `block`.
    pub memory: u64,
    /// The most bytes of one READ or WRITE.
    pub request: u64,
    /// The most bytes of one ZERO. It need not be aligned if this is a file.
    pub zero: u64,
    /// The most requests that may be under way.
    pub depth: usize,
    /// A sink: it grows with what is written, and everything beyond `size` reads zero. If not, nothing can
    /// be written beyond `size`.
    pub grows: bool,
    /// A sink: it can be read, so that the rest of a block can be kept.
    pub reads: bool,
}

/// The kind of a request to an end that answers to offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Ask {
    /// To read into the memory.
    Read = 1,
    /// To write from the memory.
    Write = 2,
    /// To make a range read zero.
    Zero = 3,
    /// To bring everything that was written to the medium.
    Flush = 4,
}

/// A request. It owns its memory, so that nobody uses it before the request is back.
#[derive(Debug)]
pub struct Request {
    /// The number that whoever asked knows it by.
    pub token: u64,
    /// The kind of the request.
    pub ask: Ask,
    /// The offset in the end.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// READ and WRITE: the memory.
    pub memory: Option<Slab>,
    /// READ and WRITE: where in the memory the bytes begin.
    pub start: usize,
}

impl Request {
    /// The bytes to be written.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        let range = self.start..self.start + self.length as usize;
        self.memory.as_ref().and_then(|slab| slab.bytes().get(range)).unwrap_or_default()
    }

    /// The bytes to be read into.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let range = self.start..self.start + self.length as usize;
        self.memory.as_mut().and_then(|slab| slab.bytes_mut().get_mut(range)).unwrap_or_default()
    }
}

/// A request that is back.
#[derive(Debug)]
pub struct Reply {
    /// The request.
    pub request: Request,
    /// Bytes that were read, written or zeroed, which may be fewer than were asked for; 0 of a READ at the
    /// end.
    pub result: Sys<u64>,
}

/// See [`SourceWays::addressed`] and [`SinkWays::addressed`].
///
/// While requests are under way the other calls of an end work as always: a source is still asked for the
/// section that comes next, and [`Source::consume`] moves past what is being read.
pub trait Addressable {
    /// Learns the facts. Called before the first request.
    fn describe(&mut self) -> Result<Geometry>;

    /// Learns the memory of all requests that will come, as one of its slabs.
    fn memory(&mut self, slab: &Slab) {
        let _ = slab;
    }

    /// Whether the stream may have a section of this kind that ends at this offset of the end.
    fn reach(&mut self, kind: Kind, end: u64) -> Result<()> {
        let _ = (kind, end);
        Ok(())
    }

    /// Takes a request. There are never more under way than the end has said. A failure is a reply.
    fn submit(&mut self, request: Request);

    /// Hands back the requests that are done, in any order. Never waits.
    fn advance(&mut self, replies: &mut VecDeque<Reply>) -> Result<()>;

    /// A sink: the stream has moved on by this many bytes, of which everything is done. `written`: data lies
    /// there.
    fn passed(&mut self, length: u64, written: bool) -> Result<()> {
        let _ = (length, written);
        Ok(())
    }

    /// A sink: how the last ZERO was done.
    fn zero_way(&self) -> HoleWay {
        HoleWay::Passed
    }

    /// The stream has failed: all requests are to come back soon.
    fn cancel(&mut self, error: &Error);
}

/// A peer's report about its stream, and how the stream comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Introduction {
    /// The properties of the stream.
    pub description: Description,
    /// The peer waits for answers.
    pub answers: bool,
    /// Data comes with checksums.
    pub checksum: bool,
    /// The stream comes with a digest of the whole.
    pub digest: bool,
    /// Keep sections may come.
    pub keeps: bool,
    /// The offset at which it starts: an earlier transfer moved everything before.
    pub start: u64,
}

/// The intentions of a transfer, reported to a sink before the first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Plan {
    /// Bytes that will come, if known. The sink refuses them here if it cannot take them.
    pub total: Option<u64>,
    /// Holes may come. If not, zeros are written instead.
    pub holes: bool,
    /// Keep sections may come. A sink that cannot keep fails with `EOPNOTSUPP`.
    pub keeps: bool,
}

/// The facts about a sink that are known before the first byte moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SinkInfo {
    /// It can make holes, as far as is known.
    pub makes_holes: bool,
    /// It can keep bytes as they are.
    pub keeps: bool,
    /// Bytes from the start of the stream that it holds already; see [`Held`].
    pub held: u64,
    /// [`Sink::durable`] may report something.
    pub durable: bool,
}

/// How a hole was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum HoleWay {
    /// Handed on, as a hole, to a peer or to the caller's functions.
    Passed = 1,
    /// Beyond the end of a file, whose size grows over it.
    Extended = 2,
    /// The caller has promised that the target reads zero there.
    KnownZero = 3,
    /// fallocate(2) with PUNCH_HOLE.
    Punched = 4,
    /// fallocate(2) with ZERO_RANGE.
    ZeroRange = 5,
    /// BLKZEROOUT of a block device.
    ZeroOut = 6,
    /// Zeros were written.
    Written = 7,
}

impl HoleWay {
    /// All of them.
    pub const ALL: [HoleWay; 7] = [
        HoleWay::Passed,
        HoleWay::Extended,
        HoleWay::KnownZero,
        HoleWay::Punched,
        HoleWay::ZeroRange,
        HoleWay::ZeroOut,
        HoleWay::Written,
    ];

    /// Its place in [`HoleWay::ALL`].
    #[must_use]
    pub fn index(self) -> usize {
        self as usize - 1
    }
}

/// A hole, or the first part of one, that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// Its length, at least one byte. One call makes one bounded step.
    pub length: u64,
    /// How.
    pub way: HoleWay,
}

/// A sink of a stream. It is pushed.
pub trait Sink: End + SinkWays {
    /// Checks the plan, refuses everything that can be refused, and reports what the sink can do. May be
    /// called again later, and then answers the same.
    fn open(&mut self, plan: &Plan) -> Result<SinkInfo>;

    /// Takes some of the data, which is not empty; at least one byte.
    fn write(&mut self, buffer: &[u8]) -> Result<usize>;

    /// Makes a hole of at most `length` bytes, which is more than 0.
    fn hole(&mut self, length: u64) -> Result<Made>;

    /// Moves past at most `length` bytes, which is more than 0, that are to stay as they are. Returns how
    /// many, at least one.
    fn keep(&mut self, length: u64) -> Result<u64>;

    /// Everything before this offset of the stream is on the medium, if anything is known about that. Asked
    /// after each step if [`SinkInfo::durable`] says so.
    fn durable(&self) -> Option<u64> {
        None
    }
}

/// The further abilities of a sink.
pub trait SinkWays {
    /// It can fetch data from a file.
    fn fetch(&mut self) -> Option<&mut dyn Fetch> {
        None
    }
    /// It can take data from a pipe.
    fn drain(&mut self) -> Option<&mut dyn Drain> {
        None
    }
    /// It may lend memory to read into.
    fn lend(&mut self) -> Option<&mut dyn Lend> {
        None
    }
    /// It answers to offsets, with several requests under way.
    fn addressed(&mut self) -> Option<&mut dyn Addressable> {
        None
    }
    /// It may hold a part of the stream already.
    fn held(&mut self) -> Option<&mut dyn Held> {
        None
    }
}

/// See [`SinkWays::fetch`].
pub trait Fetch {
    /// Fetches some of an extent without a copy through memory.
    fn fetch_extent(&mut self, extent: &Extent) -> Result<Attempt>;
}

/// See [`SinkWays::drain`].
pub trait Drain {
    /// Takes some of what is in the pipe.
    fn drain_pipe(&mut self, pipe: &mut Pipe) -> Result<Attempt>;
}

/// See [`SinkWays::lend`].
pub trait Lend {
    /// Memory to put data into, not empty, if there is some now.
    fn room(&mut self) -> Result<Option<&mut [u8]>>;

    /// This many bytes, at least one, were put at the start of the memory of [`Lend::room`], with no
    /// other call in between: they count as written.
    fn committed(&mut self, count: usize);
}

/// See [`SinkWays::held`]. The loop shows the sink, in order, the part of the stream that it says it
/// holds, and then asks whether it agrees.
pub trait Held {
    /// Compares data with what is held.
    fn check(&mut self, buffer: &[u8]);

    /// Compares a hole with what is held.
    fn check_hole(&mut self, length: u64);

    /// Whether everything shown is what is held. If not, everything is written from the start.
    fn agrees(&mut self) -> Result<bool>;
}
