//! The caller's functions as ends and observers.
//!
//! | module | subject |
//! |---|---|
//! | `tables` | the tables and structs as C sees them |
//! | `answers` | the results of a function, and its details of a failure |
//! | `party` | the life of an end, and the events it waits for |
//! | `source`, `stream`, `sink` | tables as ends |
//! | `asynchronous` | the table of an end with several requests in flight, as ends |
//! | `observer` | progress, sections, the trace and checkpoints |

pub mod answers;
mod asynchronous;
mod observer;
mod party;
mod sink;
mod source;
mod stream;
pub mod tables;

pub use asynchronous::{AsyncSink, AsyncSource, request_done};
pub use observer::{Checkpoint, Observer};
pub use sink::TableSink;
pub use source::TableSource;
pub use stream::StreamSource;
