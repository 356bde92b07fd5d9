//! The ways in which data moves, and which of them are still tried.
//!
//! The ways are tried from the top. One that is declined is given up for this transfer, and the same data is
//! moved in the next way, which reports an error if it fails too. The last way is always possible.
//!
//! To add a way: add it to [`Way`], give its two ends a trait in `end/ways.rs`, and add one function here.

use super::meter::Part;
use super::pool::Pool;
use super::turn::{Done, Turn, checked};
use crate::end::{Attempt, Extent, Next, Sink, Source};
use crate::error::{Error, Operation, Result, Side};
use crate::pipe::Pipe;
use crate::trace::{Event, Way};

/// The ways that are left.
#[derive(Debug)]
pub(super) struct Ladder {
    left: [bool; Way::ALL.len()],
    /// The way that carried the last piece.
    last: Option<Way>,
    pipe: Option<Pipe>,
}

/// The result of trying to move the data that comes next without the pool.
pub(super) enum Tried {
    /// Something was done.
    Done(Done),
    /// The data has not moved, but the source has reported what comes next.
    Came(Next),
    /// No way is possible now: the data must be read into the pool.
    Nothing,
}

impl Ladder {
    /// The ways that two ends may have, before any was tried.
    pub(super) fn new(source: &mut dyn Source, sink: &mut dyn Sink, detects: bool) -> Self {
        let mut left = [false; Way::ALL.len()];
        left[Way::Fetch.index()] = source.stored().is_some() && sink.fetch().is_some();
        // Zeros are looked for in the pool, to which data in a pipe would have to be copied.
        left[Way::Splice.index()] = !detects && source.feed().is_some() && sink.drain().is_some();
        let lends = sink.lend().is_some() && !source.holds_buffer();
        left[Way::Lend.index()] = !detects && (source.lent().is_some() || lends);
        left[Way::Window.index()] = source.addressed().is_some() || sink.addressed().is_some();
        left[Way::Copy.index()] = true;
        Ladder { left, last: None, pipe: None }
    }

    #[inline]
    pub(super) fn may(&self, way: Way) -> bool {
        self.left[way.index()]
    }

    /// Bytes in flight outside the pool.
    #[inline]
    pub(super) fn under_way(&self) -> u64 {
        self.pipe.as_ref().map_or(0, Pipe::held)
    }

    /// Gives up a way.
    pub(super) fn decline(&mut self, way: Way, errno: Option<i32>, turn: &mut Turn) {
        self.left[way.index()] = false;
        let below = Way::ALL.into_iter().filter(|next| *next > way);
        let next = below.into_iter().find(|next| self.may(*next)).unwrap_or(Way::Copy);
        turn.trace(Event::WayDeclined { way, errno, next });
    }

    /// Moves everything this way from here on.
    pub(super) fn choose(&mut self, way: Way, turn: &mut Turn) {
        self.last = Some(way);
        turn.trace(Event::WayChosen(way));
    }

    /// Data moved this way.
    #[inline(never)]
    pub(super) fn moved(&mut self, way: Way, count: u64, turn: &mut Turn) -> Result<Done> {
        if self.last != Some(way) {
            self.last = Some(way);
            turn.trace(Event::WayChosen(way));
        }
        turn.pace.spend(count, turn.now);
        turn.moved(Part::Data(way), count)?;
        Ok(Done::Worked(count))
    }

    /// Moves the data that comes next, at most `most` bytes of it, without the pool.
    #[inline]
    pub(super) fn climb(&mut self, most: u64, detects: bool, turn: &mut Turn) -> Result<Tried> {
        if self.may(Way::Fetch) {
            if let Some(done) = self.fetch(most, turn)? {
                return Ok(Tried::Done(done));
            }
        }
        if self.may(Way::Splice) {
            if let Some(done) = self.feed(most, turn)? {
                return Ok(Tried::Done(done));
            }
        }
        if self.may(Way::Lend) && !detects {
            return self.lend(turn);
        }
        Ok(Tried::Nothing)
    }

    /// The sink fetches from the file that the source reads.
    fn fetch(&mut self, most: u64, turn: &mut Turn) -> Result<Option<Done>> {
        let Some(stored) = turn.source.stored() else { return Ok(None) };
        let Some(extent) = stored.extent()? else { return Ok(None) };
        if extent.length < Extent::LEAST {
            return Ok(None);
        }
        let most = match turn.pace.allowance(turn.now) {
            Ok(allowed) => extent.length.min(most).min(allowed).min(turn.most),
            Err(when) => return Ok(Some(Done::TooEarly(when))),
        };
        let attempt = match turn.sink.fetch() {
            Some(sink) => sink.fetch_extent(&Extent { length: most, ..extent })?,
            None => Attempt::Declined(None),
        };
        match attempt {
            Attempt::Moved(count) => {
                let count = turn.taken(Operation::Write, count, most)?;
                turn.source.consume(count);
                self.moved(Way::Fetch, count, turn).map(Some)
            }
            Attempt::Declined(errno) => {
                self.decline(Way::Fetch, errno, turn);
                Ok(None)
            }
        }
    }

    /// The source puts data into the pipe.
    fn feed(&mut self, most: u64, turn: &mut Turn) -> Result<Option<Done>> {
        let Some(source) = turn.source.feed() else { return Ok(None) };
        let length = source.feedable()?;
        if length == 0 {
            return Ok(None);
        }
        let most = match turn.pace.allowance(turn.now) {
            Ok(allowed) => length.min(most).min(allowed).min(turn.most),
            Err(when) => return Ok(Some(Done::TooEarly(when))),
        };
        if self.pipe.is_none() {
            self.pipe = Pipe::new();
        }
        let attempt = match &mut self.pipe {
            Some(pipe) => {
                let most = most.min(pipe.room());
                source.feed_pipe(pipe, most)?
            }
            None => Attempt::Declined(None),
        };
        match attempt {
            Attempt::Moved(_) => Ok(Some(Done::Worked(0))),
            Attempt::Declined(errno) => {
                self.pipe = None;
                self.decline(Way::Splice, errno, turn);
                Ok(None)
            }
        }
    }

    /// The sink takes what is in the pipe. A sink that declines gets it from the pool.
    pub(super) fn drain(&mut self, pool: &mut Pool, turn: &mut Turn) -> Result<Done> {
        let Some(pipe) = &mut self.pipe else { return Err(Error::Internal) };
        if self.left[Way::Splice.index()] {
            let held = pipe.held();
            let attempt = match turn.sink.drain() {
                Some(sink) => sink.drain_pipe(pipe)?,
                None => Attempt::Declined(None),
            };
            match attempt {
                Attempt::Moved(count) => {
                    let count = turn.taken(Operation::Write, count, held)?;
                    return self.moved(Way::Splice, count, turn);
                }
                Attempt::Declined(errno) => self.decline(Way::Splice, errno, turn),
            }
        }
        self.empty(pool, turn)
    }

    /// Moves what is left in the pipe of a way that was given up into the pool.
    fn empty(&mut self, pool: &mut Pool, turn: &mut Turn) -> Result<Done> {
        let Some(pipe) = &mut self.pipe else { return Err(Error::Internal) };
        pool.clear();
        let size = pool.size();
        let read = pipe.read(pool.room(size)).and_then(|count| match count {
            0 => Err(libc::EIO),
            count => Ok(count),
        });
        let count = read.map_err(|errno| {
            // There is nothing to wait for: the pipe is the transfer's own.
            let errno = if errno == libc::EAGAIN { libc::EIO } else { errno };
            Error::at(Operation::Read, Side::Source, turn.meter.position(), errno)
        })?;
        pool.filled(count);
        Ok(Done::Worked(0))
    }

    /// Moves data from memory that the source lends, or into memory that the sink lends.
    fn lend(&mut self, turn: &mut Turn) -> Result<Tried> {
        // Even if the rate allows no data now, a hole or the end may come.
        let allowed = turn.pace.allowance(turn.now);
        let most = allowed.unwrap_or(0).min(turn.most);
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        if let Some(source) = turn.source.lent() {
            let lent = source.bytes()?;
            if !lent.is_empty() {
                if let Err(when) = allowed {
                    return Ok(Tried::Done(Done::TooEarly(when)));
                }
                // The whole piece is offered: if the sink is not ready, it must be offered again unchanged.
                let most = usize::try_from(allowed.unwrap_or(0)).unwrap_or(usize::MAX);
                let piece = &lent[..lent.len().min(most)];
                let length = piece.len() as u64;
                let count = turn.sink.write(piece)? as u64;
                let count = checked(Operation::Write, count, length, turn.meter.position())?;
                turn.source.consume(count);
                return self.moved(Way::Lend, count, turn).map(Tried::Done);
            }
        }
        if allowed.is_err() || turn.source.holds_buffer() {
            // A source that holds its buffer must be given the same memory again; a sink may lend another.
            return Ok(Tried::Nothing);
        }
        let Some(sink) = turn.sink.lend() else { return Ok(Tried::Nothing) };
        let Some(room) = sink.room()? else { return Ok(Tried::Nothing) };
        let most = room.len().min(most);
        match turn.source.next(&mut room[..most])? {
            Next::Data(count) => {
                let count = turn.came(count, most)?;
                if let Some(sink) = turn.sink.lend() {
                    sink.committed(count);
                }
                self.moved(Way::Lend, count as u64, turn).map(Tried::Done)
            }
            other => Ok(Tried::Came(other)),
        }
    }
}
