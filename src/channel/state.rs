//! The state that both ends of a channel share.

use crate::buffer::Buffer;
use crate::error::{Error, Operation, Result, Side, Text, lasting};
use crate::life::Life;
use crate::sys::{self, Fd};
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes of a chunk.
pub(super) const CHUNK: usize = 64 << 10;

/// Data put into lent memory is appended to the last piece if it is no longer than this.
pub(super) const SMALL: usize = 16 << 10;

/// The most items that wait. Holes take no chunks, so their number has a limit of its own.
const ITEMS: usize = 256;

/// Memory, and the part of it that holds data.
#[derive(Debug)]
pub(super) struct Chunk {
    memory: Buffer,
    from: usize,
    to: usize,
}

impl Chunk {
    fn new() -> Result<Self> {
        Ok(Chunk { memory: Buffer::new(CHUNK)?, from: 0, to: 0 })
    }

    /// The data.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.memory.bytes()[self.from..self.to]
    }

    /// The memory behind the data.
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.memory.bytes_mut()[self.to..]
    }

    /// This many bytes were put into the room.
    pub(super) fn filled(&mut self, count: usize) {
        self.to = (self.to + count).min(CHUNK);
    }

    /// Adds as much of a piece as there is room for.
    pub(super) fn put(&mut self, piece: &[u8]) -> usize {
        let room = self.room();
        let count = piece.len().min(room.len());
        room[..count].copy_from_slice(&piece[..count]);
        self.filled(count);
        count
    }

    /// The first bytes were taken.
    pub(super) fn took(&mut self, count: usize) {
        self.from = (self.from + count).min(self.to);
    }

    fn clear(&mut self) {
        (self.from, self.to) = (0, 0);
    }
}

/// A part of the stream in the queue.
#[derive(Debug)]
pub(super) enum Item {
    Data(Chunk),
    Hole(u64),
    Keep(u64),
}

/// The phase of an end.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Open,
    Finished,
    Failed(Error),
}

/// The properties of the stream that the sink has announced.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Announced {
    pub(super) total: Option<u64>,
    pub(super) keeps: bool,
}

/// An eventfd that is readable while an end is ready.
#[derive(Debug)]
struct Light {
    fd: OwnedFd,
    on: bool,
}

impl Light {
    fn new(side: Side) -> Result<Self> {
        let fd = sys::eventfd().map_err(|errno| Error::nowhere(Operation::Open, side, errno))?;
        Ok(Light { fd, on: false })
    }

    fn switch(&mut self, on: bool) {
        if on != self.on {
            self.on = on;
            sys::set_eventfd(self.fd.as_raw_fd(), on);
        }
    }
}

/// The part under the lock.
#[derive(Debug)]
pub(super) struct State {
    queue: VecDeque<Item>,
    spare: Vec<Chunk>,
    /// Chunks that were not allocated yet.
    unmade: usize,
    chunks: usize,
    announced: Option<Announced>,
    /// The source has taken the announcement.
    heard: bool,
    /// The source owns a chunk with data.
    holds: bool,
    /// The sink owns a chunk to be filled.
    fills: bool,
    /// The sink waits until half of the channel is free.
    full: bool,
    sink: Phase,
    source: Phase,
    sink_light: Light,
    source_light: Light,
}

/// The part of a channel that both ends share.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    sink_fd: Fd,
    source_fd: Fd,
    /// The number of bytes that the source's side has made durable, plus 1; 0 if it has reported none.
    durable: AtomicU64,
}

impl Shared {
    pub(super) fn new(capacity: u64) -> Result<Self> {
        let none = |_| Error::nowhere(Operation::Allocate, Side::None, libc::ENOMEM);
        let chunks = usize::try_from(capacity / CHUNK as u64).unwrap_or(usize::MAX);
        let (mut queue, mut spare) = (VecDeque::new(), Vec::new());
        queue.try_reserve_exact(ITEMS + 1).map_err(none)?;
        spare.try_reserve_exact(chunks).map_err(none)?;
        let (sink_light, source_light) = (Light::new(Side::Sink)?, Light::new(Side::Source)?);
        let (sink_fd, source_fd) = (sink_light.fd.as_raw_fd(), source_light.fd.as_raw_fd());
        let mut state = State {
            queue,
            spare,
            unmade: chunks,
            chunks,
            announced: None,
            heard: false,
            holds: false,
            fills: false,
            full: false,
            sink: Phase::Open,
            source: Phase::Open,
            sink_light,
            source_light,
        };
        state.show();
        Ok(Shared { state: Mutex::new(state), sink_fd, source_fd, durable: AtomicU64::new(0) })
    }

    pub(super) fn sink_fd(&self) -> Fd {
        self.sink_fd
    }

    pub(super) fn source_fd(&self) -> Fd {
        self.source_fd
    }

    pub(super) fn set_durable(&self, offset: u64) {
        self.durable.fetch_max(offset.saturating_add(1), Ordering::Relaxed);
    }

    pub(super) fn durable(&self) -> Option<u64> {
        self.durable.load(Ordering::Relaxed).checked_sub(1)
    }

    /// Uses the state, and then updates both eventfds.
    pub(super) fn with<T>(&self, body: impl FnOnce(&mut State) -> T) -> T {
        let mut state: MutexGuard<State> =
            self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = body(&mut state);
        state.show();
        answer
    }
}

impl State {
    fn free(&self) -> usize {
        self.spare.len() + self.unmade
    }

    /// Updates both eventfds.
    fn show(&mut self) {
        let (free, items) = (self.free(), self.queue.len());
        // Once it is full, it counts as full until half of it is free: a waiting sink is not woken for each
        // piece.
        self.full = if self.fills {
            false
        } else if self.full {
            items > 0 && (free * 2 < self.chunks || items * 2 > ITEMS)
        } else {
            free == 0 && !self.has_room_behind() || items >= ITEMS
        };
        let failed =
            matches!(self.sink, Phase::Failed(_)) || matches!(self.source, Phase::Failed(_));
        let sink_ready = match self.sink {
            Phase::Open => !self.full || self.source == Phase::Finished,
            Phase::Finished => self.source == Phase::Finished,
            Phase::Failed(_) => true,
        };
        let source_ready = items > 0
            || self.holds
            || self.sink == Phase::Finished
            || self.announced.is_some() && !self.heard;
        self.sink_light.switch(sink_ready || failed);
        self.source_light.switch(source_ready || failed);
    }

    /// The failure that the other side has reported.
    pub(super) fn check_source(&self) -> Result<()> {
        match &self.source {
            Phase::Failed(error) => Err(error.clone()),
            // The source was finished before the sink: no reader is left.
            Phase::Finished if self.sink == Phase::Open => Err(no_reader()),
            Phase::Open | Phase::Finished => Ok(()),
        }
    }

    /// Fails if the other end has failed, or if the stream has ended. The pair is the operation and the offset.
    pub(super) fn check_put(&self, (operation, offset): (Operation, u64)) -> Result<()> {
        self.check_source()?;
        if self.has_ended() { Life::Finished.check(operation, Side::Sink, offset) } else { Ok(()) }
    }

    /// The failure that the other side has reported.
    pub(super) fn check_sink(&self) -> Result<()> {
        if let Phase::Failed(error) = &self.sink { Err(error.clone()) } else { Ok(()) }
    }

    /// The sink announces its stream, or begins without an announcement.
    pub(super) fn announce(&mut self, announced: Announced) -> Announced {
        *self.announced.get_or_insert(announced)
    }

    /// The announcement, once there is one.
    pub(super) fn hear(&mut self) -> Option<Announced> {
        self.heard |= self.announced.is_some();
        self.announced
    }

    /// There is room for another item.
    pub(super) fn has_room(&self) -> bool {
        !self.full && self.queue.len() < ITEMS
    }

    fn has_room_behind(&self) -> bool {
        matches!(self.queue.back(), Some(Item::Data(chunk)) if chunk.to < CHUNK)
    }

    /// Appends a piece to the last one, as far as its chunk has room, so that small pieces fill chunks too.
    /// Returns how much.
    pub(super) fn put_behind(&mut self, piece: &[u8]) -> usize {
        match self.queue.back_mut() {
            Some(Item::Data(chunk)) => chunk.put(piece),
            _ => 0,
        }
    }

    /// An empty chunk, if there is room.
    pub(super) fn empty_chunk(&mut self) -> Result<Option<Chunk>> {
        if self.full {
            return Ok(None);
        }
        let chunk = match self.spare.pop() {
            Some(chunk) => chunk,
            None if self.unmade == 0 => return Ok(None),
            None => {
                let chunk = Chunk::new()?;
                self.unmade -= 1;
                chunk
            }
        };
        self.fills = true;
        Ok(Some(chunk))
    }

    /// The sink has filled its chunk.
    pub(super) fn push_chunk(&mut self, chunk: Chunk) {
        self.fills = false;
        self.push(Item::Data(chunk));
    }

    /// The sink does not need its chunk any more.
    pub(super) fn unused(&mut self, chunk: Chunk) {
        self.fills = false;
        self.give_back(chunk);
    }

    fn give_back(&mut self, mut chunk: Chunk) {
        chunk.clear();
        self.spare.push(chunk);
    }

    /// Adds an item, behind the others.
    pub(super) fn push(&mut self, item: Item) {
        match (self.queue.back_mut(), item) {
            (Some(Item::Hole(length)), Item::Hole(more))
            | (Some(Item::Keep(length)), Item::Keep(more)) => *length += more,
            (_, item) => self.queue.push_back(item),
        }
    }

    /// The item that comes next.
    pub(super) fn front(&self) -> Option<&Item> {
        self.queue.front()
    }

    /// Takes the chunk that comes next.
    pub(super) fn take_chunk(&mut self) -> Option<Chunk> {
        match self.queue.pop_front() {
            Some(Item::Data(chunk)) => {
                self.holds = true;
                Some(chunk)
            }
            Some(other) => {
                self.queue.push_front(other);
                None
            }
            None => None,
        }
    }

    /// The source has emptied its chunk.
    pub(super) fn emptied(&mut self, chunk: Chunk) {
        self.holds = false;
        self.give_back(chunk);
    }

    /// The first bytes of the hole or the kept section that comes next were taken.
    pub(super) fn took(&mut self, count: u64) {
        if let Some(Item::Hole(length) | Item::Keep(length)) = self.queue.front_mut() {
            *length = length.saturating_sub(count);
            if *length == 0 {
                self.queue.pop_front();
            }
        }
    }

    /// Nothing more comes behind what is in the queue.
    pub(super) fn has_ended(&self) -> bool {
        self.sink == Phase::Finished
    }

    /// The sink has reached the end of the stream. Returns whether the other side has finished too.
    pub(super) fn finish_sink(&mut self) -> bool {
        if self.sink == Phase::Open {
            self.sink = Phase::Finished;
            self.announce(Announced::default());
        }
        self.source == Phase::Finished
    }

    /// The source's side has stored everything that it took. The rest of the queue has no reader now.
    pub(super) fn finish_source(&mut self) {
        if self.source != Phase::Open {
            return;
        }
        let all = self.queue.is_empty() && !self.holds;
        self.source = if all { Phase::Finished } else { Phase::Failed(no_reader()) };
        self.drop_queue();
    }

    /// The sink's side failed. The queue is dropped.
    pub(super) fn fail_sink(&mut self, error: &Error) {
        if !matches!(self.sink, Phase::Failed(_)) {
            self.sink = Phase::Failed(as_peers(error));
            self.drop_queue();
        }
    }

    /// The source's side failed.
    pub(super) fn fail_source(&mut self, error: &Error) {
        if self.source == Phase::Open {
            self.source = Phase::Failed(as_peers(error));
            self.drop_queue();
        }
    }

    fn drop_queue(&mut self) {
        while let Some(item) = self.queue.pop_front() {
            if let Item::Data(chunk) = item {
                self.give_back(chunk);
            }
        }
    }
}

/// The error of a sink whose data is not read by any source.
fn no_reader() -> Error {
    Error::nowhere(Operation::Write, Side::Sink, libc::EPIPE)
}

/// A failure, as the other end of the channel reports it.
fn as_peers(error: &Error) -> Error {
    Error::Peer {
        operation: error.operation(),
        side: error.side(),
        offset: error.offset(),
        errno: lasting(error.errno()),
        text: Text::of(error),
    }
}
