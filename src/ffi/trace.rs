//! The events in which a transfer reports its decisions, and the ways in which bytes moved.

use super::guard;
use super::sized::{self, Sized0};
use crate::end::HoleWay;
use crate::error::{Error, Side};
use crate::trace::{Event, Limit, MapEvent, StageName, Way};
use libc::{c_char, c_int};
use std::fmt::{self, Display};

/// An event: a stage was entered. `what` is one of `SPARSESTREAM_STAGE_...`.
pub const SPARSESTREAM_EVENT_STAGE: i32 = 1;
/// An event: from here on, data moves in another way. `what` is one of `SPARSESTREAM_WAY_...`.
pub const SPARSESTREAM_EVENT_WAY: i32 = 2;
/// An event: a way to move data does not work and is not tried again. `what` is that way, `error` the errno
/// of the system or 0, and `next` the way that is tried next.
pub const SPARSESTREAM_EVENT_WAY_DECLINED: i32 = 3;
/// An event: from here on, holes are made in another way. `what` is one of `SPARSESTREAM_HOLE_...`.
pub const SPARSESTREAM_EVENT_HOLE: i32 = 4;
/// An event: a way to make holes does not work and is not tried again. `what` is that way, `error` the errno
/// of the system or 0, and `next` the way that is tried next.
pub const SPARSESTREAM_EVENT_HOLE_DECLINED: i32 = 5;
/// An event: a fact about the map of the source. `what` is one of `SPARSESTREAM_MAP_...`, and `error` the
/// errno of the system or 0.
pub const SPARSESTREAM_EVENT_MAP: i32 = 6;
/// An event: the disk was asked to read `value` bytes ahead in one step, more than in any step before.
pub const SPARSESTREAM_EVENT_LOOK_AHEAD: i32 = 7;
/// An event: an end is not ready. `what` is one of `SPARSESTREAM_SIDE_...`.
pub const SPARSESTREAM_EVENT_WAIT: i32 = 8;
/// An event: everything before the offset `value` of the stream is on the medium.
pub const SPARSESTREAM_EVENT_CHECKPOINT: i32 = 9;
/// An event: a limit delays or ends the transfer. `what` is one of `SPARSESTREAM_LIMIT_...`.
pub const SPARSESTREAM_EVENT_LIMIT: i32 = 10;
/// An event: an end produced events too fast, and `value` of them were dropped.
pub const SPARSESTREAM_EVENT_LOST: i32 = 11;
/// An event: requests for a file that was opened with O_DIRECT use io_uring(7). With an `error`, the system
/// refused io_uring, and the requests are made one after the other.
pub const SPARSESTREAM_EVENT_RING: i32 = 12;
/// An event: data is moved in memory before it is written, because the offsets in the source and in the sink
/// differ by `value` bytes within a block. Reported once.
pub const SPARSESTREAM_EVENT_REALIGNED: i32 = 13;
/// An event: a wire gave a sign of life while nothing moved. The other end has sent a valid frame that carries
/// no byte of the stream, or this end has read back a part of what it holds.
pub const SPARSESTREAM_EVENT_ALIVE: i32 = 14;

/// A stage: both ends are examined.
pub const SPARSESTREAM_STAGE_OPEN: i32 = 1;
/// A stage: the content that the sink already holds is compared with the source.
pub const SPARSESTREAM_STAGE_COMPARE: i32 = 2;
/// A stage: sections are moved.
pub const SPARSESTREAM_STAGE_MOVE: i32 = 3;
/// A stage: the source has ended, and data in flight is moved.
pub const SPARSESTREAM_STAGE_DRAIN: i32 = 4;
/// A stage: the sink is finished.
pub const SPARSESTREAM_STAGE_FINISH_SINK: i32 = 5;
/// A stage: the source is finished.
pub const SPARSESTREAM_STAGE_FINISH_SOURCE: i32 = 6;
/// A stage: the transfer succeeded.
pub const SPARSESTREAM_STAGE_FINISHED: i32 = 7;
/// A stage: the transfer failed.
pub const SPARSESTREAM_STAGE_FAILED: i32 = 8;

/// A way for data: the sink fetches the data from the source's file, by copy_file_range(2), sendfile(2) or
/// splice(2).
pub const SPARSESTREAM_WAY_FETCH: i32 = 1;
/// A way for data: through a pipe, by splice(2).
pub const SPARSESTREAM_WAY_SPLICE: i32 = 2;
/// A way for data: by several requests in flight.
pub const SPARSESTREAM_WAY_WINDOW: i32 = 3;
/// A way for data: directly from or to memory that an end lends.
pub const SPARSESTREAM_WAY_LEND: i32 = 4;
/// A way for data: through the transfer's buffer.
pub const SPARSESTREAM_WAY_COPY: i32 = 5;

/// A way for holes: the hole is passed on to a peer or to the caller's functions.
pub const SPARSESTREAM_HOLE_PASSED: i32 = 1;
/// A way for holes: the hole is beyond the end of a file, which grows.
pub const SPARSESTREAM_HOLE_EXTENDED: i32 = 2;
/// A way for holes: nothing was done, because of `SPARSESTREAM_KNOWN_ZERO`.
pub const SPARSESTREAM_HOLE_KNOWN_ZERO: i32 = 3;
/// A way for holes: fallocate(2) with FALLOC_FL_PUNCH_HOLE.
pub const SPARSESTREAM_HOLE_PUNCHED: i32 = 4;
/// A way for holes: fallocate(2) with FALLOC_FL_ZERO_RANGE.
pub const SPARSESTREAM_HOLE_ZERO_RANGE: i32 = 5;
/// A way for holes: ioctl(2) BLKZEROOUT.
pub const SPARSESTREAM_HOLE_ZERO_OUT: i32 = 6;
/// A way for holes: zeros are written.
pub const SPARSESTREAM_HOLE_WRITTEN: i32 = 7;

/// A map: the file system reports data and holes.
pub const SPARSESTREAM_MAP_ASKED: i32 = 1;
/// A map: the file system does not report holes; everything is data.
pub const SPARSESTREAM_MAP_REFUSED: i32 = 2;
/// A map: an answer contradicts itself; the range is treated as data.
pub const SPARSESTREAM_MAP_DISTRUSTED: i32 = 3;
/// A map: dirty pages were written back before an answer was believed.
pub const SPARSESTREAM_MAP_FLUSHED: i32 = 4;

/// A limit: the budget of one call.
pub const SPARSESTREAM_LIMIT_BUDGET: i32 = 1;
/// A limit: `rate`.
pub const SPARSESTREAM_LIMIT_RATE: i32 = 2;
/// A limit: `stall_ms`.
pub const SPARSESTREAM_LIMIT_STALL: i32 = 3;
/// A limit: `idle_ms`.
pub const SPARSESTREAM_LIMIT_IDLE: i32 = 4;

/// A decision of a transfer, or something that happened to it. A later version may report other kinds.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct sparsestream_event {
    /// `sizeof(sparsestream_event)` of the library, which may be of another version.
    pub size: u64,
    /// The position in the stream, in bytes.
    pub position: i64,
    /// One of `SPARSESTREAM_EVENT_...`, which defines the other fields. Fields that have no meaning for the kind
    /// are 0.
    pub kind: i32,
    /// A number whose meaning depends on the kind.
    pub what: i32,
    /// The way that is tried next, if one was given up.
    pub next: i32,
    /// A positive errno, or 0.
    pub error: i32,
    /// Bytes, an offset or a count.
    pub value: i64,
}

// SAFETY: repr(C), u64 size first, integers only.
unsafe impl Sized0 for sparsestream_event {}

impl sparsestream_event {
    /// An event as C sees it.
    pub fn new(position: u64, event: Event) -> Self {
        let of = |kind: i32, what: i32| Self {
            size: size_of::<Self>() as u64,
            position: guard::signed(position),
            kind,
            what,
            ..Self::default()
        };
        let code = |errno: Option<i32>| errno.unwrap_or_default();
        match event {
            Event::Stage(stage) => of(SPARSESTREAM_EVENT_STAGE, stage as i32),
            Event::WayChosen(way) => of(SPARSESTREAM_EVENT_WAY, way as i32),
            Event::WayDeclined { way, errno, next } => Self {
                next: next as i32,
                error: code(errno),
                ..of(SPARSESTREAM_EVENT_WAY_DECLINED, way as i32)
            },
            Event::HoleChosen(way) => of(SPARSESTREAM_EVENT_HOLE, way as i32),
            Event::HoleDeclined { way, errno, next } => Self {
                next: next as i32,
                error: code(errno),
                ..of(SPARSESTREAM_EVENT_HOLE_DECLINED, way as i32)
            },
            Event::Map(map, errno) => {
                Self { error: code(errno), ..of(SPARSESTREAM_EVENT_MAP, map as i32) }
            }
            Event::LookAhead(bytes) => {
                Self { value: guard::signed(bytes), ..of(SPARSESTREAM_EVENT_LOOK_AHEAD, 0) }
            }
            Event::Ring(errno) => Self { error: code(errno), ..of(SPARSESTREAM_EVENT_RING, 0) },
            Event::Realigned(bytes) => {
                Self { value: guard::signed(bytes), ..of(SPARSESTREAM_EVENT_REALIGNED, 0) }
            }
            Event::Alive => of(SPARSESTREAM_EVENT_ALIVE, 0),
            Event::Waits(side) => of(SPARSESTREAM_EVENT_WAIT, side as i32),
            Event::Checkpoint(offset) => {
                Self { value: guard::signed(offset), ..of(SPARSESTREAM_EVENT_CHECKPOINT, 0) }
            }
            Event::Limit(limit) => of(SPARSESTREAM_EVENT_LIMIT, limit as i32),
            Event::Lost(count) => {
                Self { value: guard::signed(count), ..of(SPARSESTREAM_EVENT_LOST, 0) }
            }
        }
    }
}

/// A number as a name.
struct Named<'a>(&'a [(i32, &'static str)], i32);

impl Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.iter().find(|(number, _)| *number == self.1) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "number {}", self.1),
        }
    }
}

const STAGES: [(i32, &str); 8] = [
    (StageName::Open as i32, "open"),
    (StageName::Compare as i32, "compare"),
    (StageName::Move as i32, "move"),
    (StageName::Drain as i32, "drain"),
    (StageName::FinishSink as i32, "finish the sink"),
    (StageName::FinishSource as i32, "finish the source"),
    (StageName::Finished as i32, "finished"),
    (StageName::Failed as i32, "failed"),
];
const MAPS: [(i32, &str); 4] = [
    (MapEvent::Asked as i32, "asked"),
    (MapEvent::Refused as i32, "refused, everything is data"),
    (MapEvent::Distrusted as i32, "contradicts itself, treated as data"),
    (MapEvent::Flushed as i32, "dirty pages written back first"),
];
const LIMITS: [(i32, &str); 4] = [
    (Limit::Budget as i32, "budget"),
    (Limit::Rate as i32, "rate"),
    (Limit::Stall as i32, "stall"),
    (Limit::Idle as i32, "idle"),
];
const SIDES: [(i32, &str); 3] =
    [(Side::None as i32, "transfer"), (Side::Source as i32, "source"), (Side::Sink as i32, "sink")];

/// The name of a way for data.
fn way_name(number: i32) -> Option<&'static std::ffi::CStr> {
    let way = Way::ALL.into_iter().find(|way| *way as i32 == number)?;
    Some(match way {
        Way::Fetch => c"fetch",
        Way::Splice => c"splice",
        Way::Window => c"window",
        Way::Lend => c"lend",
        Way::Copy => c"copy",
    })
}

/// The name of a way for holes.
fn hole_name(number: i32) -> Option<&'static std::ffi::CStr> {
    let way = HoleWay::ALL.into_iter().find(|way| *way as i32 == number)?;
    Some(match way {
        HoleWay::Passed => c"passed",
        HoleWay::Extended => c"extended",
        HoleWay::KnownZero => c"known-zero",
        HoleWay::Punched => c"punched",
        HoleWay::ZeroRange => c"zero-range",
        HoleWay::ZeroOut => c"zero-out",
        HoleWay::Written => c"written",
    })
}

/// An event in words.
struct Words<'a>(&'a sparsestream_event);

impl Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let event = self.0;
        let text = |name: Option<&'static std::ffi::CStr>| {
            name.and_then(|name| name.to_str().ok()).unwrap_or("unknown")
        };
        let (way, hole) = (text(way_name(event.what)), text(hole_name(event.what)));
        match event.kind {
            SPARSESTREAM_EVENT_STAGE => write!(f, "stage: {}", Named(&STAGES, event.what))?,
            SPARSESTREAM_EVENT_WAY => write!(f, "data moves by {way}")?,
            SPARSESTREAM_EVENT_WAY_DECLINED => {
                write!(f, "{way} declined, next is {}", text(way_name(event.next)))?;
            }
            SPARSESTREAM_EVENT_HOLE => write!(f, "holes are {hole}")?,
            SPARSESTREAM_EVENT_HOLE_DECLINED => {
                let next = text(hole_name(event.next));
                write!(f, "holes cannot be {hole}, next is {next}")?;
            }
            SPARSESTREAM_EVENT_MAP => write!(f, "map: {}", Named(&MAPS, event.what))?,
            SPARSESTREAM_EVENT_LOOK_AHEAD => write!(f, "reads {} bytes ahead", event.value)?,
            SPARSESTREAM_EVENT_RING if event.error == 0 => write!(f, "requests by io_uring")?,
            SPARSESTREAM_EVENT_RING => write!(f, "requests one after the other")?,
            SPARSESTREAM_EVENT_REALIGNED => {
                let words = "data is moved in memory, because the offsets differ within a block by";
                write!(f, "{words} {}", event.value)?;
            }
            SPARSESTREAM_EVENT_ALIVE => write!(f, "a sign of life")?,
            SPARSESTREAM_EVENT_WAIT => {
                write!(f, "waits for the {}", Named(&SIDES, event.what))?;
            }
            SPARSESTREAM_EVENT_CHECKPOINT => {
                write!(f, "durable up to offset {}", event.value)?;
            }
            SPARSESTREAM_EVENT_LIMIT => {
                write!(f, "held up by the limit: {}", Named(&LIMITS, event.what))?;
            }
            SPARSESTREAM_EVENT_LOST => write!(f, "{} events were not kept", event.value)?,
            kind => write!(f, "event of kind {kind}")?,
        }
        if event.error != 0 {
            write!(f, ": {}", crate::error::Words(event.error))?;
        }
        Ok(())
    }
}

/// Writes an event as text into a buffer, for example "splice declined, next is copy: Invalid argument". The
/// text is cut to fit and ended by a NUL byte. It may change with each version.
///
/// Returns the length of the whole text without the NUL byte, as snprintf(3) does, or -EINVAL (`event` is
/// NULL, or `buffer` is NULL and `size` is not 0). Any thread may call this.
///
/// # Safety
/// `event` is NULL or a struct of its `size`; `buffer` is writable for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sparsestream_event_text(
    event: *const sparsestream_event,
    buffer: *mut c_char,
    size: usize,
) -> i64 {
    guard::count(|| {
        if event.is_null() {
            return Err(Error::null("event"));
        }
        // SAFETY: the caller promises a struct of its size.
        let event = unsafe { sized::read(event, "event") }?;
        // SAFETY: the caller promises `size` writable bytes.
        let bytes = unsafe { guard::bytes_mut(buffer.cast(), size, "buffer") }?;
        Ok(guard::signed(guard::format(bytes, &Words(&event)) as u64))
    })
}

/// Returns the name of a `SPARSESTREAM_WAY_` number, such as "copy". For any other number it is "unknown".
///
/// The string is constant. Any thread may call this.
#[unsafe(no_mangle)]
pub extern "C" fn sparsestream_way_name(way: c_int) -> *const c_char {
    guard::text(|| way_name(way).unwrap_or(c"unknown").as_ptr())
}

/// Returns the name of a `SPARSESTREAM_HOLE_` number, such as "punched". For any other number it is
/// "unknown".
///
/// The string is constant. Any thread may call this.
#[unsafe(no_mangle)]
pub extern "C" fn sparsestream_hole_way_name(way: c_int) -> *const c_char {
    guard::text(|| hole_name(way).unwrap_or(c"unknown").as_ptr())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(event: Event) -> String {
        Words(&sparsestream_event::new(4096, event)).to_string()
    }

    #[test]
    fn events_have_words() {
        let declined =
            Event::WayDeclined { way: Way::Splice, errno: Some(libc::EINVAL), next: Way::Copy };
        assert_eq!(words(declined), "splice declined, next is copy: Invalid argument");
        assert_eq!(words(Event::Stage(StageName::Move)), "stage: move");
        assert_eq!(words(Event::HoleChosen(HoleWay::ZeroRange)), "holes are zero-range");
        assert_eq!(words(Event::Waits(Side::Sink)), "waits for the sink");
        assert_eq!(words(Event::LookAhead(65536)), "reads 65536 bytes ahead");
        let moved = words(Event::Realigned(512));
        let words = "data is moved in memory, because the offsets differ within a block by";
        assert_eq!(moved, format!("{words} 512"));
        let later = sparsestream_event { kind: 99, ..sparsestream_event::default() };
        assert_eq!(Words(&later).to_string(), "event of kind 99");
    }

    #[test]
    fn numbers_are_the_cores() {
        for way in Way::ALL {
            assert!(way_name(way as i32).is_some());
        }
        for way in HoleWay::ALL {
            assert!(hole_name(way as i32).is_some());
        }
        assert_eq!(way_name(0), None);
        assert_eq!(hole_name(8), None);
        for (event, kind, what) in [
            (Event::WayChosen(Way::Copy), SPARSESTREAM_EVENT_WAY, SPARSESTREAM_WAY_COPY),
            (
                Event::HoleChosen(HoleWay::Written),
                SPARSESTREAM_EVENT_HOLE,
                SPARSESTREAM_HOLE_WRITTEN,
            ),
            (Event::Map(MapEvent::Flushed, None), SPARSESTREAM_EVENT_MAP, SPARSESTREAM_MAP_FLUSHED),
            (Event::Limit(Limit::Idle), SPARSESTREAM_EVENT_LIMIT, SPARSESTREAM_LIMIT_IDLE),
            (Event::Stage(StageName::Failed), SPARSESTREAM_EVENT_STAGE, SPARSESTREAM_STAGE_FAILED),
        ] {
            let event = sparsestream_event::new(0, event);
            assert_eq!((event.kind, event.what), (kind, what));
        }
    }
}
