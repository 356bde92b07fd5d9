//! Requests for a file: by io_uring, or one after the other where that is not to be had.

use crate::end::{Ask, Reply, Request};
use crate::error::Error;
use crate::sys::uring::{Io, Ring};
use crate::sys::{self, Fd, Sys};
use crate::trace::Event;
use crate::wait::Waiting;
use std::collections::VecDeque;

/// The most requests under way.
pub const DEPTH: usize = 128;

/// The most bytes of one request.
pub const REQUEST: u64 = 16 << 20;

/// How often a request is made again that came back undone.
const TRIES: u8 = 16;

/// How requests are made.
#[derive(Debug)]
enum Engine {
    /// Nothing was asked yet.
    Unknown,
    Ring(Box<Ring>),
    /// pread(2) and pwrite(2).
    Plain,
}

/// A request that is in the ring, but for its memory.
#[derive(Debug)]
struct Asked {
    request: Request,
    tries: u8,
}

/// The requests for one descriptor.
#[derive(Debug)]
pub struct Queue {
    fd: Fd,
    engine: Engine,
    /// The index is the token in the ring.
    asked: Vec<Option<Asked>>,
    done: VecDeque<Reply>,
    cancelled: bool,
    /// Whether io_uring is used, and why not.
    pub event: Option<Event>,
}

impl Queue {
    /// None yet.
    pub fn new(fd: Fd) -> Self {
        Queue {
            fd,
            engine: Engine::Unknown,
            asked: Vec::new(),
            done: VecDeque::new(),
            cancelled: false,
            event: None,
        }
    }

    fn begin(&mut self) {
        let room = self.asked.try_reserve_exact(DEPTH).and(self.done.try_reserve_exact(DEPTH));
        let ring = match room {
            Ok(()) => Ring::new(DEPTH as u32).and_then(|ring| sys::boxed(ring).ok_or(libc::ENOMEM)),
            Err(_) => Err(libc::ENOMEM),
        };
        self.engine = match ring {
            Ok(ring) => {
                self.asked.resize_with(DEPTH, || None);
                self.event = Some(Event::Ring(None));
                Engine::Ring(ring)
            }
            Err(errno) => {
                self.event = Some(Event::Ring(Some(errno)));
                Engine::Plain
            }
        };
    }

    /// Takes a READ or a WRITE.
    pub fn submit(&mut self, request: Request) {
        if matches!(self.engine, Engine::Unknown) {
            self.begin();
        }
        self.ask(request, 0);
    }

    fn ask(&mut self, mut request: Request, tries: u8) {
        let place = self.asked.iter().position(Option::is_none);
        let (Engine::Ring(ring), Some(token), Some(slab)) =
            (&mut self.engine, place, request.memory.take())
        else {
            return self.make(request);
        };
        let io = Io {
            token,
            write: request.ask == Ask::Write,
            fd: self.fd,
            offset: request.offset,
            slab,
            start: request.start,
            length: request.length as usize,
        };
        match ring.push(io) {
            None => self.asked[token] = Some(Asked { request, tries }),
            Some(Io { slab, .. }) => {
                request.memory = Some(slab);
                self.make(request);
            }
        }
    }

    /// Makes a request at once.
    fn make(&mut self, mut request: Request) {
        let result = loop {
            let result = match request.ask {
                Ask::Read => {
                    let offset = request.offset;
                    sys::pread(self.fd, request.bytes_mut(), offset)
                }
                Ask::Write => sys::pwrite(self.fd, request.bytes(), request.offset),
                Ask::Zero | Ask::Flush => Err(libc::EOPNOTSUPP),
            };
            if result != Err(libc::EINTR) {
                break result;
            }
        };
        self.answer(request, result.map(|count| count as u64));
    }

    /// A request is back with this result.
    pub fn answer(&mut self, request: Request, result: Sys<u64>) {
        self.done.push_back(Reply { request, result });
    }

    /// Hands on what was taken, and hands back what is done. `EBUSY` in a child of the process that began it.
    pub fn advance(&mut self, replies: &mut VecDeque<Reply>) -> Sys<()> {
        let entered = match &mut self.engine {
            Engine::Ring(ring) => ring.enter(),
            Engine::Unknown | Engine::Plain => Ok(()),
        };
        match entered {
            // The kernel has no memory just now, or much to take in: what it has comes back first.
            Ok(()) | Err(libc::EINTR) => {}
            Err(libc::EAGAIN | libc::EBUSY) if self.reaped() => {}
            Err(libc::EBUSY) => return Err(libc::EBUSY),
            Err(errno) => self.fall_back(errno),
        }
        self.reap();
        replies.append(&mut self.done);
        Ok(())
    }

    /// Whether something was taken back.
    fn reaped(&mut self) -> bool {
        let before = self.done.len();
        self.reap();
        self.done.len() > before
    }

    /// The kernel cannot be given anything any more: the rest is done without it.
    fn fall_back(&mut self, errno: i32) {
        self.event = Some(Event::Ring(Some(errno)));
        while let Engine::Ring(ring) = &mut self.engine {
            let Some(Io { token, slab, .. }) = ring.take_undone() else { break };
            if let Some(Asked { mut request, .. }) = self.asked[token].take() {
                request.memory = Some(slab);
                self.make(request);
            }
        }
        if let Engine::Ring(ring) = &mut self.engine {
            if ring.is_empty() {
                self.engine = Engine::Plain;
            }
        }
    }

    fn reap(&mut self) {
        let mut again = Vec::new();
        let Engine::Ring(ring) = &mut self.engine else { return };
        let (asked, done, cancelled) = (&mut self.asked, &mut self.done, self.cancelled);
        ring.reap(|Io { token, slab, .. }, result| {
            let Some(Asked { mut request, tries }) = asked[token].take() else { return };
            request.memory = Some(slab);
            // The thread that submitted it is gone, or a signal came: nobody asked for that.
            let undone =
                matches!(result, Err(libc::ECANCELED | libc::EFAULT | libc::EINTR | libc::EAGAIN));
            if undone && !cancelled && tries < TRIES && again.try_reserve(1).is_ok() {
                again.push((request, tries + 1));
            } else {
                done.push_back(Reply { request, result: result.map(|count| count as u64) });
            }
        });
        for (request, tries) in again {
            self.ask(request, tries);
        }
    }

    /// Whether it has a request that is not back.
    pub fn has_requests(&self) -> bool {
        !self.done.is_empty() || matches!(&self.engine, Engine::Ring(ring) if !ring.is_empty())
    }

    /// Has everything come back soon.
    pub fn cancel(&mut self) {
        self.cancelled = true;
        if let Engine::Ring(ring) = &mut self.engine {
            while let Some(Io { token, slab, .. }) = ring.take_undone() {
                if let Some(Asked { mut request, .. }) = self.asked[token].take() {
                    request.memory = Some(slab);
                    self.done.push_back(Reply { request, result: Err(libc::ECANCELED) });
                }
            }
            ring.cancel();
        }
    }

    /// Waits until nothing is under way any more.
    pub fn end(&mut self, _error: &Error) {
        self.cancel();
        if let Engine::Ring(ring) = &mut self.engine {
            // Where that cannot be waited for, the ring keeps the memory.
            let _ = ring.wait_for_all(|_, _| {});
        }
    }

    /// What it waits for.
    pub fn waiting(&self) -> Waiting {
        match &self.engine {
            Engine::Ring(ring) if !ring.is_empty() => {
                Waiting::Descriptor { fd: ring.fd(), events: libc::POLLIN, blocking: true }
            }
            _ => Waiting::Owner,
        }
    }
}
