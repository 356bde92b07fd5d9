//! Requests for a file: by io_uring, or one after the other where that is not to be had.

use crate::end::{Ask, Failure, Reply, Request};
use crate::error::{Error, Operation, Result, Side};
use crate::filesystem::FileSystem;
use crate::sys::uring::{Io, Ring};
use crate::sys::{self, Fd, Sys};
use crate::trace::Event;
use crate::wait::{Waiting, Watch};
use std::collections::VecDeque;
use std::time::Duration;

/// The most requests under way.
pub const DEPTH: usize = 128;

/// The most bytes of one request.
pub const REQUEST: u64 = 16 << 20;

/// How often a request is made again that came back undone.
const TRIES: u8 = 16;

/// Until requests are handed on again that the kernel did not take.
const AGAIN: Duration = Duration::from_millis(1);

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

    /// Makes room for the answers to as many requests as may be under way. Called before the first one.
    pub fn reserve(&mut self) -> Result<()> {
        self.done
            .try_reserve(DEPTH)
            .map_err(|_| Error::nowhere(Operation::Allocate, Side::None, libc::ENOMEM))
    }

    fn begin(&mut self) {
        let room = self.asked.try_reserve_exact(DEPTH);
        // FUSE waits for its server even if asked not to, one request after the other.
        let workers = !FileSystem::of(self.fd).is_ok_and(FileSystem::is_native);
        let ring = match room {
            Ok(()) => Ring::new(DEPTH as u32, workers)
                .and_then(|ring| sys::boxed(ring).ok_or(libc::ENOMEM)),
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
        let (Engine::Ring(ring), Some(token)) = (&mut self.engine, place) else {
            return self.make(request);
        };
        let Some(slab) = request.memory.take() else {
            return self.answer(request, Err(libc::EINVAL));
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
            None => {
                self.asked[token] = Some(Asked { request, tries });
                // A disk that has nothing to do gets it at once. Others are handed on with one call.
                if ring.under_way() == 0 {
                    self.enter_now();
                }
            }
            Some(Io { slab, .. }) => {
                request.memory = Some(slab);
                self.make(request);
            }
        }
    }

    /// Hands on what was taken.
    fn enter_now(&mut self) {
        let Engine::Ring(ring) = &mut self.engine else { return };
        match ring.enter() {
            // These come again, and are dealt with then.
            Ok(()) | Err(libc::EINTR | libc::EAGAIN | libc::EBUSY) => {}
            Err(errno) => self.fall_back(errno),
        }
    }

    /// Makes a request at once.
    fn make(&mut self, mut request: Request) {
        let result = loop {
            let result = match request.ask {
                Ask::Read => {
                    let offset = request.offset;
                    sys::pread_blocks(self.fd, request.bytes_mut(), offset)
                }
                Ask::Write => sys::pwrite_blocks(self.fd, request.bytes(), request.offset),
                Ask::Zero | Ask::FastZero | Ask::Flush => Err(libc::EOPNOTSUPP),
            };
            if result != Err(libc::EINTR) {
                break result;
            }
        };
        self.answer(request, result.map(|count| count as u64));
    }

    /// A request is back with this result.
    pub fn answer(&mut self, request: Request, result: Sys<u64>) {
        self.done.push_back(reply(request, result));
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
            // The thread that submitted it has ended, or a signal arrived. The caller did not cancel it.
            let undone =
                matches!(result, Err(libc::ECANCELED | libc::EFAULT | libc::EINTR | libc::EAGAIN));
            if undone && !cancelled && tries < TRIES && again.try_reserve(1).is_ok() {
                again.push((request, tries + 1));
            } else {
                done.push_back(reply(request, result.map(|count| count as u64)));
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

    /// Whether its requests are those of the parent of this process: they never come back here.
    pub fn is_foreign(&self) -> bool {
        matches!(&self.engine, Engine::Ring(ring) if ring.is_foreign())
    }

    /// Has everything come back soon.
    pub fn cancel(&mut self) {
        self.cancelled = true;
        if let Engine::Ring(ring) = &mut self.engine {
            while let Some(Io { token, slab, .. }) = ring.take_undone() {
                if let Some(Asked { mut request, .. }) = self.asked[token].take() {
                    request.memory = Some(slab);
                    self.done.push_back(reply(request, Err(libc::ECANCELED)));
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

    /// The event that it waits for.
    pub fn waiting(&self) -> Waiting {
        match &self.engine {
            Engine::Ring(ring) if ring.is_empty() => Waiting::Owner,
            // The kernel took nothing, and so answers nothing.
            Engine::Ring(ring) if ring.under_way() == 0 => Waiting::Watch(Watch::time(AGAIN)),
            Engine::Ring(ring) => {
                Waiting::Descriptor { fd: ring.fd(), events: libc::POLLIN, blocking: true }
            }
            Engine::Unknown | Engine::Plain => Waiting::Owner,
        }
    }
}

fn reply(request: Request, result: Sys<u64>) -> Reply {
    Reply { request, result: result.map_err(Failure::from) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Call;
    use crate::sys::inject::{self, Fault};
    use crate::sys::memory::Slab;
    use crate::testing;
    use std::fs::File;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::FileExt;

    const PIECE: u64 = 65_536;

    fn file() -> File {
        let file = testing::file();
        for nth in 0..16 {
            file.write_all_at(&[nth as u8 + 1; PIECE as usize], nth * PIECE).unwrap();
        }
        file
    }

    fn reads(queue: &mut Queue) {
        for (nth, slab) in Slab::many(16, PIECE as usize).unwrap().into_iter().enumerate() {
            let (token, offset) = (nth as u64, nth as u64 * PIECE);
            let memory = Some(slab);
            let request =
                Request { token, ask: Ask::Read, offset, length: PIECE, memory, start: 0 };
            queue.submit(request);
        }
    }

    fn wait(queue: &mut Queue) -> Vec<Reply> {
        let mut replies = VecDeque::new();
        for _ in 0..1000 {
            queue.advance(&mut replies).unwrap();
            if !queue.has_requests() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        replies.into()
    }

    fn all_right(replies: &[Reply]) {
        assert_eq!(replies.len(), 16);
        for Reply { request, result } in replies {
            assert_eq!(*result, Ok(PIECE));
            assert!(request.bytes().iter().all(|byte| u64::from(*byte) == request.token + 1));
        }
    }

    #[test]
    fn every_read_comes_back_with_or_without_a_ring() {
        let file = file();
        for errno in [0, libc::ENOSYS, libc::EPERM, libc::ENOMEM] {
            let refused = move |call| match call {
                Call::UringSetup if errno != 0 => Fault::Errno(errno),
                _ => Fault::None,
            };
            let mut queue = Queue::new(file.as_raw_fd());
            inject::with(refused, || {
                reads(&mut queue);
                all_right(&wait(&mut queue));
            });
            if errno != 0 {
                assert_eq!(queue.event, Some(Event::Ring(Some(errno))));
            }
        }
    }

    #[test]
    fn a_kernel_that_refuses_in_the_middle_is_done_without() {
        let file = file();
        let mut queue = Queue::new(file.as_raw_fd());
        reads(&mut queue);
        let refused = |call| match call {
            Call::UringEnter => Fault::Errno(libc::EPERM),
            _ => Fault::None,
        };
        inject::with(refused, || all_right(&wait(&mut queue)));
        reads(&mut queue);
        all_right(&wait(&mut queue));
    }

    #[test]
    fn a_request_that_nobody_cancelled_is_made_again() {
        let file = file();
        for errno in [libc::ECANCELED, libc::EFAULT, libc::EINTR] {
            let mut queue = Queue::new(file.as_raw_fd());
            let mut left = 20;
            let undone = move |call| match call {
                Call::UringResult if left > 0 => {
                    left -= 1;
                    Fault::Errno(errno)
                }
                _ => Fault::None,
            };
            inject::with(undone, || {
                reads(&mut queue);
                all_right(&wait(&mut queue));
            });
        }
    }

    #[test]
    fn requests_survive_the_thread_that_submitted_them() {
        let file = file();
        for _ in 0..20 {
            let fd = file.as_raw_fd();
            let thread = std::thread::spawn(move || {
                let mut queue = Queue::new(fd);
                let mut replies = VecDeque::new();
                reads(&mut queue);
                queue.advance(&mut replies).unwrap();
                (queue, Vec::from(replies))
            });
            let (mut queue, mut replies) = thread.join().unwrap();
            replies.extend(wait(&mut queue));
            all_right(&replies);
        }
    }

    #[test]
    fn a_queue_may_be_dropped_or_cancelled_with_requests_under_way() {
        let file = file();
        for cancels in [false, true] {
            let mut queue = Queue::new(file.as_raw_fd());
            let mut replies = VecDeque::new();
            reads(&mut queue);
            queue.advance(&mut replies).unwrap();
            reads(&mut queue);
            if cancels {
                queue.cancel();
                let back = wait(&mut queue);
                assert_eq!(back.len() + replies.len(), 32);
            }
            drop(queue);
        }
    }
}
