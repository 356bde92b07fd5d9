//! The caller's table of an end with several requests in flight.
//!
//! | module | subject |
//! |---|---|
//! | `source`, `sink` | the table as an end |
//! | `common` | the part that sources and sinks share |
//! | `requests` | the requests that the caller holds |

mod common;
mod requests;
mod sink;
mod source;

pub use requests::request_done;
pub use sink::AsyncSink;
pub use source::AsyncSource;
