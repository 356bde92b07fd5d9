//! The ring where the crate io-uring does not know the machine: there is none, and plain calls are used.

pub use super::memory::Io;
use super::{Fd, Sys};

/// A ring that cannot exist.
#[derive(Debug)]
pub enum Ring {}

impl Ring {
    /// Always ENOSYS.
    pub fn new(_entries: u32, _workers: bool) -> Sys<Self> {
        Err(libc::ENOSYS)
    }

    /// Never called, as are the others.
    pub fn fd(&self) -> Fd {
        match *self {}
    }

    /// Whether this is a child of the process that made it.
    pub fn is_foreign(&self) -> bool {
        match *self {}
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        match *self {}
    }

    /// How many requests the kernel has.
    pub fn under_way(&self) -> usize {
        match *self {}
    }

    /// Takes a request.
    pub fn push(&mut self, _io: Io) -> Option<Io> {
        match *self {}
    }

    /// Hands requests to the kernel.
    pub fn enter(&mut self) -> Sys<()> {
        match *self {}
    }

    /// Takes back a request that the kernel did not take.
    pub fn take_undone(&mut self) -> Option<Io> {
        match *self {}
    }

    /// Takes in what is done.
    pub fn reap(&mut self, _done: impl FnMut(Io, Sys<usize>)) {
        match *self {}
    }

    /// Cancels all requests.
    pub fn cancel(&mut self) {
        match *self {}
    }

    /// Waits for all requests.
    pub fn wait_for_all(&mut self, _done: impl FnMut(Io, Sys<usize>)) -> Sys<()> {
        match *self {}
    }
}
