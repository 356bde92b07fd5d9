//! The transport: it carries the bytes of a stream of frames.
//!
//! A transport delivers bytes in order, in one direction or in both, and never waits. [`Descriptors`] is the
//! built-in one: a socket, or one or two of pipe, character device and regular file. A C caller provides
//! others, such as a TLS session or an SSH channel, as a table of functions.

use crate::byte_end::ByteEnd;
use crate::error::{Error, Operation, Result, Side, Text};
use crate::sys::{Fd, Sys};
use crate::wait::Waiting;

/// A direction, or both, in which something is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wants {
    /// Something to read.
    Input,
    /// Room to write.
    Output,
    /// Either.
    Both,
}

/// A carrier of bytes. Everything may fail with `EAGAIN` or `EINTR`, and is then called again.
pub trait Transport: Send {
    /// Whether it can be read.
    fn reads(&self) -> bool;

    /// Whether it can be written.
    fn writes(&self) -> bool;

    /// Reads available bytes into the first buffer, and the rest into the second. One of them is not empty. 0
    /// means the end.
    fn read(&mut self, first: &mut [u8], second: &mut [u8]) -> Sys<usize>;

    /// Writes some of one buffer and then of the next. One of them is not empty. Never 0.
    fn write(&mut self, first: &[u8], second: &[u8]) -> Sys<usize>;

    /// Closes it: nothing is written or read any more. Called again while it fails with `EAGAIN` or `EINTR`.
    fn close(&mut self) -> Sys<()>;

    /// The events that the last `EAGAIN` in these directions waits for.
    fn waiting(&self, wants: Wants) -> Waiting;

    /// Details of the last failure, if there are any beside its errno.
    fn words(&mut self) -> Option<Text> {
        None
    }

    /// After `EAGAIN` or `EINTR`, a write must be repeated with the same bytes at the same address.
    fn steady(&self) -> bool {
        false
    }

    /// The length of the write that must be repeated now; 0 if none must.
    fn insists(&self) -> usize {
        0
    }

    /// The descriptor that may be read instead, so that data need not pass through memory.
    fn plain_input(&mut self) -> Option<&mut ByteEnd> {
        None
    }

    /// The descriptor that may be written instead.
    fn plain_output(&mut self) -> Option<&mut ByteEnd> {
        None
    }
}

/// A descriptor for each direction that is used; the same twice for a socket.
#[derive(Debug)]
pub struct Descriptors {
    input: Option<ByteEnd>,
    output: Option<ByteEnd>,
    /// Both are one descriptor.
    one: bool,
}

impl Descriptors {
    /// Examines them. Both must stay open for as long as this lives. `side` is the end of a transfer
    /// that they carry.
    pub fn new(input: Option<Fd>, output: Option<Fd>, side: Side) -> Result<Self> {
        let open = |fd: Option<Fd>, direction| {
            let opened = fd.map(|fd| ByteEnd::open(fd, direction)).transpose();
            opened.map_err(|error| Error::nowhere(Operation::Open, side, error.errno()))
        };
        let one = input.is_some() && input == output;
        Ok(Descriptors {
            input: open(input, Side::Source)?,
            output: open(output, Side::Sink)?,
            one,
        })
    }
}

impl Transport for Descriptors {
    fn reads(&self) -> bool {
        self.input.is_some()
    }

    fn writes(&self) -> bool {
        self.output.is_some()
    }

    fn read(&mut self, first: &mut [u8], second: &mut [u8]) -> Sys<usize> {
        self.input.as_mut().map_or(Err(libc::EBADF), |input| input.read(first, second))
    }

    fn write(&mut self, first: &[u8], second: &[u8]) -> Sys<usize> {
        self.output.as_mut().map_or(Err(libc::EBADF), |output| output.write(first, second))
    }

    fn close(&mut self) -> Sys<()> {
        // The caller owns the descriptors.
        Ok(())
    }

    fn waiting(&self, wants: Wants) -> Waiting {
        let input = self.input.as_ref().map(|input| input.waiting(libc::POLLIN));
        let output = self.output.as_ref().map(|output| output.waiting(libc::POLLOUT));
        let found = match (wants, input, output) {
            (Wants::Both, Some(_), Some(Waiting::Descriptor { fd, blocking, .. })) if self.one => {
                let events = libc::POLLIN | libc::POLLOUT;
                Some(Waiting::Descriptor { fd, events, blocking })
            }
            (Wants::Input, input, _) => input,
            (Wants::Output | Wants::Both, input, output) => output.or(input),
        };
        found.unwrap_or(Waiting::Owner)
    }

    fn plain_input(&mut self) -> Option<&mut ByteEnd> {
        self.input.as_mut()
    }

    fn plain_output(&mut self) -> Option<&mut ByteEnd> {
        self.output.as_mut()
    }
}

/// A transport, which is closed once.
pub(super) struct Link {
    transport: Box<dyn Transport>,
    closed: bool,
}

impl Link {
    pub(super) fn new(transport: Box<dyn Transport>) -> Self {
        Link { transport, closed: false }
    }

    /// Closes it, once.
    pub(super) fn close(&mut self) -> Sys<()> {
        if self.closed {
            return Ok(());
        }
        let result = self.transport.close();
        self.closed = !matches!(result, Err(libc::EAGAIN | libc::EINTR));
        result
    }

    /// Closes it as far as is possible without waiting.
    pub(super) fn close_now(&mut self) {
        // Another failure is the reason for the close, and is the one to report.
        let _ = self.close();
        self.closed = true;
    }

    /// The error of a call that failed.
    #[cold]
    pub(super) fn error(
        &mut self,
        operation: Operation,
        side: Side,
        offset: u64,
        errno: i32,
    ) -> Error {
        let text = match errno {
            libc::EAGAIN | libc::EINTR => None,
            _ => self.transport.words(),
        };
        match text {
            Some(text) => Error::Said { operation, side, offset: Some(offset), errno, text },
            None => Error::at(operation, side, offset, errno),
        }
    }
}

impl std::ops::Deref for Link {
    type Target = dyn Transport;

    fn deref(&self) -> &Self::Target {
        &*self.transport
    }
}

impl std::ops::DerefMut for Link {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut *self.transport
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.close_now();
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("closed", &self.closed).finish_non_exhaustive()
    }
}
