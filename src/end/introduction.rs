//! The report of a peer about the stream that it sends.

use crate::error::Result;

/// The properties of a stream that its sender reports before its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Description {
    /// Bytes of the stream, if known.
    pub length: Option<u64>,
    /// Bytes of the whole source, if known.
    pub source_size: Option<u64>,
    /// The offset in the source at which the stream starts.
    pub source_offset: u64,
    /// Bytes of the stream that are data, if known.
    pub data_bytes: Option<u64>,
    /// The sender's name for this transfer; zeros for none.
    pub transfer_id: [u8; 16],
    /// The identity that distinguishes this source, as it is now, from any other; zeros for none.
    pub identity: [u8; 32],
    /// With kept sections: the identity of the content that they refer to; zeros for none.
    pub base: [u8; 32],
}

/// A peer's report about its stream and the features of the conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Introduction {
    /// The properties of the stream.
    pub description: Description,
    /// The peer waits for answers.
    pub answers: bool,
    /// Data comes with checksums.
    pub checksum: bool,
    /// The stream comes with a digest of the whole.
    pub digest: bool,
    /// Keep sections may come.
    pub keeps: bool,
    /// The offset at which it starts: an earlier transfer moved everything before.
    pub start: u64,
}

/// See [`super::SourceWays::introduced`].
pub trait Introduced {
    /// The peer's report about the stream that it sends, once that has come.
    fn introduction(&mut self) -> Result<Introduction>;

    /// Whether that has come, even if it was refused.
    fn greeted(&self) -> bool;
}
