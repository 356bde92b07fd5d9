//! The C ABI. Everything that a C caller sees is declared here and nowhere else.
//!
//! Each export is one call of [`guard`], which checks for null, catches panics, sets the thread's message and
//! returns the negative errno.
//!
//! | module | subject |
//! |---|---|
//! | `guard` | the wrapper around every export |
//! | `sized` | size-first structs: reading them from, and writing them to, the caller |
//! | `options` | the structs of options, statistics, waits and errors |
//! | `opaque` | the caller's opaque pointers and their `free` |
//! | `callbacks` | the caller's functions as sources, sinks and observers |
//! | `transport` | the caller's functions as a transport of the wire |
//! | `wire_options` | the options of the wire |
//! | `counted` | counted references to a value that one call at a time may use |
//! | `handles` | the objects that the opaque pointers point to |
//! | `sections`, `sources`, `sinks`, `async_ops`, `channel`, `transfers`, `trace`, `digest`, `wire`, `errors` | the exports, by subject |

// The names in this module are C names.
#![allow(non_camel_case_types)]
// C has its own `enum`s of names here: plain integers.
#![allow(unsafe_code)]

pub mod async_ops;
pub mod callbacks;
pub mod channel;
mod counted;
pub mod digest;
pub mod errors;
pub mod guard;
pub mod handles;
mod opaque;
pub mod options;
pub mod sections;
pub mod sinks;
mod sized;
pub mod sources;
pub mod trace;
pub mod transfers;
pub mod transport;
pub mod wire;
pub mod wire_options;
