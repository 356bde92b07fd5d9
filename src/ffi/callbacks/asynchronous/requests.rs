//! Requests that the caller's functions have, and how they come back.

use crate::end::{Ask, Reply, Request};
use crate::error::{Error, Result, lasting};
use crate::ffi::async_ops::{
    SPARSESTREAM_REQUEST_FLUSH, SPARSESTREAM_REQUEST_READ, SPARSESTREAM_REQUEST_WRITE,
    SPARSESTREAM_REQUEST_ZERO, sparsestream_request,
};
use crate::ffi::guard::signed;
use crate::sys::Sys;
use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicPtr, AtomicU8, Ordering};

/// The library's.
const IDLE: u8 = 0;
/// The caller's.
const UNDER_WAY: u8 = 1;
/// Being answered.
const ANSWERING: u8 = 2;
/// The library's again, with a result.
const DONE: u8 = 3;

/// One request as the caller sees it, and its state. The caller's pointer is to the start of it.
#[repr(C)]
struct Entry {
    public: UnsafeCell<sparsestream_request>,
    state: AtomicU8,
    result: AtomicI64,
}

/// All requests of one end. They stay where they are for as long as the end lives.
pub struct Requests {
    entries: Box<[Entry]>,
    /// The requests themselves, while they are under way.
    asked: Box<[Option<Request>]>,
    under_way: usize,
    /// Those that the caller did not take yet.
    waiting: VecDeque<usize>,
}

// SAFETY: the pointers in the entries are to memory of the requests beside them, and to what the caller put
// there for itself. State and result are atomic; the rest is used by its owner only.
unsafe impl Send for Requests {}

fn none() -> Error {
    Error::nowhere(crate::error::Operation::Allocate, crate::error::Side::None, libc::ENOMEM)
}

impl Requests {
    /// Room for this many.
    pub fn new(depth: usize) -> Result<Self> {
        let mut entries = Vec::new();
        entries.try_reserve_exact(depth).map_err(|_| none())?;
        let mut asked = Vec::new();
        asked.try_reserve_exact(depth).map_err(|_| none())?;
        let mut waiting = VecDeque::new();
        waiting.try_reserve_exact(depth).map_err(|_| none())?;
        for _ in 0..depth {
            entries.push(Entry {
                public: UnsafeCell::new(sparsestream_request {
                    size: 0,
                    kind: 0,
                    reserved: 0,
                    offset: 0,
                    length: 0,
                    buffer: std::ptr::null_mut(),
                    user: std::ptr::null_mut(),
                }),
                state: AtomicU8::new(IDLE),
                result: AtomicI64::new(0),
            });
            asked.push(None);
        }
        Ok(Requests {
            entries: entries.into_boxed_slice(),
            asked: asked.into_boxed_slice(),
            under_way: 0,
            waiting,
        })
    }

    /// Requests that are the caller's.
    pub fn under_way(&self) -> usize {
        self.under_way
    }

    /// Takes a request, to be handed to the caller. Gives it back if there are too many.
    pub fn add(&mut self, request: Request) -> Option<Request> {
        let Some(nth) = self.asked.iter().position(Option::is_none) else { return Some(request) };
        self.asked[nth] = Some(request);
        self.under_way += 1;
        self.waiting.push_back(nth);
        None
    }

    /// Hands the caller what is waiting. `submit` is its function; -EAGAIN ends it for now.
    pub fn hand_out(&mut self, mut submit: impl FnMut(*mut sparsestream_request) -> i32) {
        while let Some(nth) = self.waiting.pop_front() {
            let (entry, Some(request)) = (&self.entries[nth], &self.asked[nth]) else { continue };
            let buffer = request.memory.as_ref().map_or(std::ptr::null_mut(), |slab| {
                slab.start().wrapping_add(request.start).cast()
            });
            let public = sparsestream_request {
                size: size_of::<sparsestream_request>() as u64,
                kind: match request.ask {
                    Ask::Read => SPARSESTREAM_REQUEST_READ,
                    Ask::Write => SPARSESTREAM_REQUEST_WRITE,
                    Ask::Zero => SPARSESTREAM_REQUEST_ZERO,
                    Ask::Flush => SPARSESTREAM_REQUEST_FLUSH,
                },
                reserved: 0,
                offset: signed(request.offset),
                length: signed(request.length),
                buffer,
                user: std::ptr::null_mut(),
            };
            // SAFETY: the entry is idle, so there is no other reference to it.
            unsafe { entry.public.get().write(public) };
            entry.state.store(UNDER_WAY, Ordering::Release);
            let pointer = (&raw const *entry).cast_mut().cast::<sparsestream_request>();
            let answer = submit(pointer);
            if answer >= 0 {
                continue;
            }
            // If it was answered nevertheless, that counts.
            if entry
                .state
                .compare_exchange(UNDER_WAY, ANSWERING, Ordering::AcqRel, Ordering::Acquire)
                .is_err()
            {
                continue;
            }
            if answer == -libc::EAGAIN {
                entry.state.store(IDLE, Ordering::Release);
                self.waiting.push_front(nth);
                return;
            }
            entry.result.store(answer.into(), Ordering::Relaxed);
            entry.state.store(DONE, Ordering::Release);
        }
    }

    /// Takes back what was answered.
    pub fn take_back(&mut self, replies: &mut VecDeque<Reply>) {
        if self.under_way == 0 {
            return;
        }
        for (entry, asked) in self.entries.iter().zip(&mut self.asked) {
            if entry.state.load(Ordering::Acquire) != DONE {
                continue;
            }
            let result = read_result(entry.result.load(Ordering::Relaxed));
            entry.state.store(IDLE, Ordering::Release);
            if let Some(request) = asked.take() {
                self.under_way -= 1;
                replies.push_back(Reply { request, result });
            }
        }
    }

    /// The caller's end is over: what it never took comes back failed, and what it has not answered is never
    /// freed.
    pub fn end(&mut self) {
        self.waiting.clear();
        let lost = self
            .entries
            .iter()
            .any(|entry| matches!(entry.state.load(Ordering::Acquire), UNDER_WAY | ANSWERING));
        if lost {
            leave(std::mem::take(&mut self.entries), std::mem::take(&mut self.asked));
        }
        self.under_way = 0;
        for asked in &mut self.asked {
            *asked = None;
        }
    }
}

/// Memory that the caller's end may still use, because it never answered.
struct Left {
    _entries: Box<[Entry]>,
    _asked: Box<[Option<Request>]>,
    next: *mut Left,
}

/// All such memory of the process. It stays reachable, so that a tool that looks for lost memory can name
/// the faults of the program alone.
static LEFT: AtomicPtr<Left> = AtomicPtr::new(std::ptr::null_mut());

/// Keeps requests, and the memory that they refer to, for the rest of the process.
fn leave(entries: Box<[Entry]>, asked: Box<[Option<Request>]>) {
    let mut room = Vec::new();
    if room.try_reserve_exact(1).is_err() {
        std::mem::forget((entries, asked));
        return;
    }
    room.push(Left { _entries: entries, _asked: asked, next: std::ptr::null_mut() });
    let Some(left) = room.leak().first_mut() else { return };
    loop {
        left.next = LEFT.load(Ordering::Acquire);
        let swapped = LEFT.compare_exchange(left.next, left, Ordering::AcqRel, Ordering::Acquire);
        if swapped.is_ok() {
            return;
        }
    }
}

/// A result as the caller gave it: a count, or a negative errno. Any other value becomes an I/O error.
fn read_result(result: i64) -> Sys<u64> {
    let errno = result.checked_neg().and_then(|errno| i32::try_from(errno).ok());
    let errno = errno.filter(|errno| *errno < 4096);
    u64::try_from(result).map_err(|_| errno.map_or(libc::EIO, lasting))
}

/// Answers a request.
///
/// # Safety
/// `request` is null or was handed out by `Requests::hand_out` of requests that live.
pub unsafe fn request_done(request: *mut sparsestream_request, result: i64) -> Result<()> {
    // SAFETY: by the caller's promise; a request is the start of its entry, which is shared by atomics.
    let entry = unsafe { request.cast::<Entry>().as_ref() }.ok_or(Error::null("request"))?;
    entry
        .state
        .compare_exchange(UNDER_WAY, ANSWERING, Ordering::AcqRel, Ordering::Acquire)
        .map_err(|_| Error::argument("request", "is not under way", libc::EALREADY))?;
    entry.result.store(result, Ordering::Relaxed);
    entry.state.store(DONE, Ordering::Release);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::memory::Slab;

    fn request(token: u64) -> Request {
        let memory = Slab::many(1, 4096).unwrap().pop();
        Request { token, ask: Ask::Write, offset: 0, length: 512, memory, start: 512 }
    }

    #[test]
    fn a_request_is_answered_once_and_only_while_it_is_under_way() {
        let mut requests = Requests::new(2).unwrap();
        assert!(requests.add(request(1)).is_none() && requests.add(request(2)).is_none());
        assert!(requests.add(request(3)).is_some());
        let mut given = Vec::new();
        requests.hand_out(|request| {
            given.push(request);
            0
        });
        let mut replies = VecDeque::new();
        requests.take_back(&mut replies);
        assert!(replies.is_empty());
        // SAFETY: handed out, and the requests live.
        unsafe {
            assert_eq!((*given[1]).length, 512);
            assert!(request_done(given[1], 512).is_ok());
            let again = request_done(given[1], 512).unwrap_err();
            assert_eq!(again.errno(), libc::EALREADY);
        }
        requests.take_back(&mut replies);
        let reply = replies.pop_front().unwrap();
        assert_eq!((reply.request.token, reply.result, requests.under_way()), (2, Ok(512), 1));
        requests.end();
        assert_eq!(requests.under_way(), 0);
        // SAFETY: the entry is never freed, because it was not answered.
        unsafe { assert!(request_done(given[0], -5).is_ok()) };
    }

    #[test]
    fn what_is_not_taken_comes_again() {
        let mut requests = Requests::new(2).unwrap();
        requests.add(request(1));
        requests.add(request(2));
        requests.hand_out(|_| -libc::EAGAIN);
        let mut given = 0;
        requests.hand_out(|_| {
            given += 1;
            -libc::EPERM
        });
        let mut replies = VecDeque::new();
        requests.take_back(&mut replies);
        let results: Vec<_> = replies.iter().map(|reply| reply.result).collect();
        assert_eq!((given, results), (2, vec![Err(libc::EPERM); 2]));
        assert_eq!(read_result(i64::MIN), Err(libc::EIO));
    }
}
