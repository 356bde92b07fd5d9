//! Requests that were submitted to the caller's functions, and their way back.

use super::super::answers::{self, Said};
use crate::end::{self, Ask, Failure, Reply, Request};
use crate::error::{Error, Result, lasting};
use crate::ffi::async_ops::{
    SPARSESTREAM_REQUEST_FAST_ZERO, SPARSESTREAM_REQUEST_FLUSH, SPARSESTREAM_REQUEST_READ,
    SPARSESTREAM_REQUEST_WRITE, SPARSESTREAM_REQUEST_ZERO, sparsestream_request,
};
use crate::ffi::guard::signed;
use crate::sys::{self, Arc};
use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicPtr, AtomicU8, Ordering};

/// Owned by the library.
const IDLE: u8 = 0;
/// Owned by the caller's end.
const UNDER_WAY: u8 = 1;
/// Being answered, or answered: once it is in the list of the answered ones, the library owns it again.
const ANSWERING: u8 = 2;

/// One request as the caller sees it, and its state. The caller's pointer points to its start.
#[repr(C)]
struct Entry {
    public: UnsafeCell<sparsestream_request>,
    state: AtomicU8,
    result: AtomicI64,
    /// The details of a failure, set with the answer.
    said: UnsafeCell<Option<Box<Said>>>,
    /// Its place.
    nth: usize,
    answered: Arc<Answered>,
    /// The next one in the list of those that were answered.
    next: AtomicPtr<Entry>,
}

/// The entry that was answered last, the first of a list. Any thread may add one; the transfer takes all at once.
type Answered = AtomicPtr<Entry>;

impl Entry {
    /// Answers it. The state is ANSWERING, set by the caller.
    ///
    /// # Safety
    /// The entry lives, and is the caller's alone. It is not used any more afterwards: it may have been freed.
    unsafe fn answer(this: *const Entry, result: i64, said: Option<Said>) {
        // SAFETY: as promised; nothing of the entry is used once it is in the list.
        let entry = unsafe { &*this };
        let answered = Arc::as_ptr(&entry.answered);
        // SAFETY: in this state the entry is the caller's alone.
        unsafe { *entry.said.get() = said.and_then(sys::boxed) };
        entry.result.store(result, Ordering::Relaxed);
        // SAFETY: the entry has a reference to the list, and lives until it is in it.
        let mut last = unsafe { (*answered).load(Ordering::Relaxed) };
        loop {
            entry.next.store(last, Ordering::Relaxed);
            let (yes, no) = (Ordering::Release, Ordering::Relaxed);
            // SAFETY: as above.
            match unsafe { (*answered).compare_exchange_weak(last, this.cast_mut(), yes, no) } {
                Ok(_) => return,
                Err(other) => last = other,
            }
        }
    }
}

/// All requests of one end. They stay where they are for as long as the end lives.
pub struct Requests {
    entries: Box<[Entry]>,
    /// The requests themselves, while they are under way.
    asked: Box<[Option<Request>]>,
    under_way: usize,
    /// The places that no request has.
    free: Vec<usize>,
    /// Those that were not submitted yet.
    waiting: VecDeque<usize>,
    answered: Arc<Answered>,
}

// SAFETY: the pointers in the entries point to memory of the requests beside them, or belong to the caller.
// State, result and list are atomic; the rest is used only by the owner that the state, or a place in the list, names.
unsafe impl Send for Requests {}

fn none() -> Error {
    Error::nowhere(crate::error::Operation::Allocate, crate::error::Side::None, libc::ENOMEM)
}

impl Requests {
    /// Room for this many requests.
    pub fn new(depth: usize) -> Result<Self> {
        let mut entries = Vec::new();
        entries.try_reserve_exact(depth).map_err(|_| none())?;
        let mut asked = Vec::new();
        asked.try_reserve_exact(depth).map_err(|_| none())?;
        let mut waiting = VecDeque::new();
        waiting.try_reserve_exact(depth).map_err(|_| none())?;
        let mut free = Vec::new();
        free.try_reserve_exact(depth).map_err(|_| none())?;
        let answered = Arc::new(Answered::new(std::ptr::null_mut())).ok_or_else(none)?;
        for nth in 0..depth {
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
                said: UnsafeCell::new(None),
                nth,
                answered: answered.clone(),
                next: AtomicPtr::new(std::ptr::null_mut()),
            });
            asked.push(None);
            free.push(depth - 1 - nth);
        }
        Ok(Requests {
            entries: entries.into_boxed_slice(),
            asked: asked.into_boxed_slice(),
            under_way: 0,
            free,
            waiting,
            answered,
        })
    }

    /// The number of requests that were added and did not come back.
    pub fn under_way(&self) -> usize {
        self.under_way
    }

    /// Adds a request, to be submitted. Returns it if there are too many.
    pub fn add(&mut self, request: Request) -> Option<Request> {
        let Some(nth) = self.free.pop() else { return Some(request) };
        self.asked[nth] = Some(request);
        self.under_way += 1;
        self.waiting.push_back(nth);
        None
    }

    /// Submits the waiting requests to the caller's function, until it returns -EAGAIN.
    pub fn submit(&mut self, mut submit: impl FnMut(*mut sparsestream_request) -> i32) {
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
                    Ask::FastZero => SPARSESTREAM_REQUEST_FAST_ZERO,
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
            let (answer, said) = answers::refusal(|| submit(pointer));
            if answer >= 0 {
                continue;
            }
            // If the request was answered in spite of that, the answer counts.
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
            // SAFETY: it was not answered, and is in this end's list only when this returns.
            unsafe { Entry::answer(entry, answer.into(), said) };
        }
    }

    /// Takes back the requests that were answered, in the order of the answers.
    pub fn take_back(&mut self, replies: &mut VecDeque<Reply>) {
        let mut next = self.take_answered();
        // SAFETY: entries in the list are this one's, and answered, so there is no other reference to them.
        while let Some(entry) = unsafe { next.as_ref() } {
            next = entry.next.load(Ordering::Relaxed);
            // SAFETY: as above.
            let said = unsafe { (*entry.said.get()).take() };
            let result = read_result(entry.result.load(Ordering::Relaxed), said);
            entry.state.store(IDLE, Ordering::Release);
            // After the end there is nothing to return.
            if let Some(request) = self.asked.get_mut(entry.nth).and_then(Option::take) {
                self.under_way -= 1;
                self.free.push(entry.nth);
                replies.push_back(Reply { request, result });
            }
        }
    }

    /// Empties the list of those that were answered. Returns its entries, the earliest first.
    fn take_answered(&mut self) -> *const Entry {
        if self.answered.load(Ordering::Relaxed).is_null() {
            return std::ptr::null();
        }
        let mut last = self.answered.swap(std::ptr::null_mut(), Ordering::Acquire);
        let mut first = std::ptr::null_mut();
        // SAFETY: entries in the list are this one's, and answered, so there is no other reference to them.
        while let Some(entry) = unsafe { last.as_ref() } {
            let before = entry.next.swap(first, Ordering::Relaxed);
            first = last;
            last = before;
        }
        first
    }

    /// The caller's end was finished or aborted: requests that it has not answered are never freed.
    pub fn end(&mut self) {
        self.waiting.clear();
        self.free.clear();
        let mut next = self.take_answered();
        // SAFETY: entries in the list are this one's, and live even if they were left behind.
        while let Some(entry) = unsafe { next.as_ref() } {
            next = entry.next.load(Ordering::Relaxed);
            entry.state.store(IDLE, Ordering::Relaxed);
        }
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

/// Memory that the caller's end may still use, because it did not answer.
struct Left {
    _entries: Box<[Entry]>,
    _asked: Box<[Option<Request>]>,
    next: *mut Left,
}

/// All such memory of the process. It stays reachable, so that leak checkers do not report it.
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

/// The errno of a negative result.
fn errno_of(result: i64) -> Option<i32> {
    let errno = result.checked_neg().and_then(|errno| i32::try_from(errno).ok());
    errno.filter(|errno| (1..4096).contains(errno))
}

/// The result of the caller: a count or a negative errno. Any other value becomes an I/O error.
fn read_result(result: i64, said: Option<Box<Said>>) -> std::result::Result<u64, Failure> {
    u64::try_from(result).map_err(|_| {
        let errno = errno_of(result).map_or(libc::EIO, lasting);
        let said = said.filter(|said| said.errno == errno).map(|said| end::Said {
            operation: said.operation,
            offset: said.offset,
            text: said.words.into(),
        });
        Failure { errno, said }
    })
}

/// Answers a request.
///
/// # Safety
/// `request` is null or was submitted by `Requests::submit` of requests that live.
pub unsafe fn request_done(request: *mut sparsestream_request, result: i64) -> Result<()> {
    // SAFETY: by the caller's promise; a request is the start of its entry, whose shared fields are atomic.
    let entry = unsafe { request.cast::<Entry>().as_ref() }.ok_or(Error::null("request"))?;
    entry
        .state
        .compare_exchange(UNDER_WAY, ANSWERING, Ordering::AcqRel, Ordering::Acquire)
        .map_err(|_| Error::argument("request", "is not under way", libc::EALREADY))?;
    let said = errno_of(result).and_then(answers::said_of_request);
    // SAFETY: the state has changed here, so the entry is this call's alone.
    unsafe { Entry::answer(request.cast(), result, said) };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::super::answers::Site;
    use super::*;
    use crate::error::{Operation, Side};
    use crate::sys::memory::Slab;
    use crate::text::Words;
    use std::cell::Cell;

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
        requests.submit(|request| {
            given.push(request);
            0
        });
        let mut replies = VecDeque::new();
        requests.take_back(&mut replies);
        assert!(replies.is_empty());
        // SAFETY: submitted, and the requests live.
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
        // The answer came too late.
        requests.take_back(&mut replies);
        assert!(replies.is_empty() && requests.under_way() == 0);
    }

    #[test]
    fn a_request_that_is_not_taken_comes_again() {
        let mut requests = Requests::new(2).unwrap();
        requests.add(request(1));
        requests.add(request(2));
        requests.submit(|_| -libc::EAGAIN);
        let mut given = 0;
        requests.submit(|_| {
            given += 1;
            -libc::EPERM
        });
        let mut replies = VecDeque::new();
        requests.take_back(&mut replies);
        let results: Vec<_> = replies.into_iter().map(|reply| reply.result).collect();
        assert_eq!((given, results), (2, vec![Err(libc::EPERM.into()); 2]));
        assert_eq!(read_result(i64::MIN, None), Err(libc::EIO.into()));
    }

    /// Says that this is the reason for this errno.
    fn say(errno: i32, operation: Option<Operation>, offset: Option<u64>) {
        answers::say(Said { errno, operation, offset, words: Words::new(b"quota") });
    }

    /// The errors of requests that are answered with this.
    fn errors(
        mut requests: Requests,
        answer: impl Fn(*mut sparsestream_request) -> i32,
    ) -> Vec<String> {
        requests.submit(answer);
        let mut replies = VecDeque::new();
        requests.take_back(&mut replies);
        let error = |reply: Reply| {
            reply.result.unwrap_err().at(Operation::Write, Side::Sink, reply.request.offset)
        };
        replies.into_iter().map(|reply| error(reply).to_string()).collect()
    }

    fn two() -> Requests {
        let mut requests = Requests::new(2).unwrap();
        assert!(requests.add(request(1)).is_none() && requests.add(request(2)).is_none());
        requests
    }

    #[test]
    fn the_details_of_a_failure_are_those_of_one_request() {
        let with = "sink: write at offset 0: quota: Disk quota exceeded";
        let without = "sink: write at offset 0: Disk quota exceeded";
        let refuses = |_| {
            say(libc::EDQUOT, None, None);
            -libc::EDQUOT
        };
        assert_eq!(errors(two(), refuses), [with, with]);
        // The second request is not the one that they are about.
        say(libc::EDQUOT, None, None);
        let answers = |request| {
            // SAFETY: submitted just now.
            unsafe { request_done(request, -i64::from(libc::EDQUOT)).unwrap() };
            0
        };
        assert_eq!(errors(two(), answers), [without, without], "they are older than the call");
        let says_once = Cell::new(true);
        let answers = |request| {
            if says_once.replace(false) {
                say(libc::EDQUOT, None, None);
            }
            answers(request)
        };
        assert_eq!(errors(two(), answers), [with, without]);
        let elsewhere = |_| {
            say(libc::EDQUOT, Some(Operation::Hole), Some(8192));
            -libc::EDQUOT
        };
        let expected = "sink: hole at offset 8192: quota: Disk quota exceeded";
        assert_eq!(errors(two(), elsewhere), [expected; 2]);
        // Of another errno, and of one that only means to try again.
        let other = |_| {
            say(libc::EIO, None, None);
            -libc::EDQUOT
        };
        assert_eq!(errors(two(), other), [without; 2]);
        let again = |request| {
            say(libc::EINTR, None, None);
            // SAFETY: submitted just now.
            unsafe { request_done(request, -i64::from(libc::EINTR)).unwrap() };
            0
        };
        assert_eq!(errors(two(), again), ["sink: write at offset 0: Input/output error"; 2]);
    }

    #[test]
    fn a_function_may_return_the_failure_of_a_request_that_it_answered() {
        let mut requests = two();
        let mut given = Vec::new();
        requests.submit(|request| {
            given.push(request);
            0
        });
        let site = Site { operation: Operation::Wait, side: Side::Sink, offset: 512 };
        let error = site.done(|| {
            say(libc::EDQUOT, None, None);
            // SAFETY: submitted, and the requests live.
            unsafe { request_done(given[0], -i64::from(libc::EDQUOT)).unwrap() };
            -libc::EDQUOT
        });
        let expected = "sink: wait at offset 512: quota: Disk quota exceeded";
        assert_eq!(error.unwrap_err().to_string(), expected);
        requests.end();
    }
}
