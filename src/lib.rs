//! Moves disk images over any stream, holes included: the core of the C library libsparsestream.
//!
//! A sparse stream is a sequence of sections, each data or a hole, and an end. A [`end::Source`]
//! is pulled, a [`end::Sink`] is pushed, and [`transfer::Transfer`] is the only loop: sending is a
//! file to a stream, receiving a stream to a file, a copy a file to a file.
//!
//! | room | subject |
//! |---|---|
//! | [`section`] | where a descriptor's data and holes are |
//! | [`end`] | the traits of the two ends of a stream |
//! | [`source`], [`sink`] | descriptors as ends |
//! | [`trace`] | decisions as events |
//! | [`transfer`] | the loop, its options, statistics, progress, cancel |
//! | [`wire`] | frames over a pair of descriptors |
//! | [`zero`] | is this block all zeros |
//! | [`digest`] | the sparse tree digest of a stream |
//! | [`byte_end`] | a pipe, a socket or a character device, at either end |
//! | [`channel`] | a bounded channel in memory, with an end on either of two threads |
//! | [`pipe`] | a pipe between two descriptors, for data that is not copied |
//! | [`wait`] | what an end that is not ready waits for |
//! | [`filesystem`] | the file system that a file is on, and what is known of it |
//! | [`device`] | what a block device is asked for |
//! | [`direct`], [`edge`] | direct I/O at any offset and length |
//! | [`queue`] | requests for a file, several at once |
//! | [`error`] | what can go wrong |
//! | [`sys`] | every system call |
//! | [`ffi`] | the C ABI |
//!
//! Dependencies run one way: `ffi`, `transfer`, `wire`, `source` and `sink`, `section` and `zero`, `sys`
//! and `error`. There is no thread, no global state, and nothing is printed.

pub mod buffer;
pub mod byte_end;
pub mod channel;
pub mod device;
pub mod digest;
pub mod direct;
pub mod edge;
pub mod end;
pub mod error;
pub mod ffi;
pub mod filesystem;
pub mod life;
pub mod pipe;
pub mod queue;
pub mod section;
pub mod sink;
pub mod source;
pub mod sys;
#[cfg(test)]
mod testing;
pub mod text;
pub mod trace;
pub mod transfer;
pub mod wait;
pub mod wire;
pub mod zero;
