//! The C ABI. Everything that a C caller sees is declared here and nowhere else.
//!
//! Each export is one call of [`guard`]: null checks, a panic caught at the boundary, the
//! thread's error message and the negative errno are made there.
//!
//! | room | subject |
//! |---|---|
//! | `guard` | the wrapper around every export |
//! | `options` | size-first structs: reading them from, and writing them to, the caller |
//! | `callbacks` | the caller's callback tables as sources and sinks |
//! | `transport` | the caller's functions as a transport of the wire |
//! | `wire_options` | the options of the wire |
//! | `handles` | what the opaque pointers point to, and who may use them |
//! | `sections`, `sources`, `sinks`, `transfers`, `digest`, `wire`, `errors` | the exports, by subject |

// The names in this module are C names.
#![allow(non_camel_case_types)]
// C has its own `enum`s of names here: plain integers.
#![allow(unsafe_code)]

pub mod callbacks;
pub mod digest;
pub mod errors;
pub mod guard;
pub mod handles;
pub mod options;
pub mod sections;
pub mod sinks;
pub mod sources;
pub mod transfers;
pub mod transport;
pub mod wire;
pub mod wire_options;
