//! The failure of an end of the wire, which lasts: what is broken stays so.

use crate::error::{Error, Result};

/// An end of the wire.
pub(super) trait Lasting {
    /// The failure that is kept, if there was one.
    fn failed(&mut self) -> &mut Option<Error>;

    /// The peer has failed, and knows: nothing more is sent.
    fn abandon(&mut self);

    /// Reports a failure to the peer, if that is possible without waiting. Nothing is sent after it.
    fn report(&mut self, error: &Error);

    /// Does something, and keeps its failure.
    #[inline(always)]
    fn lasting<T>(&mut self, body: impl FnOnce(&mut Self) -> Result<T>) -> Result<T>
    where
        Self: Sized,
    {
        if self.failed().is_some() {
            return Err(self.settle(None));
        }
        match body(self) {
            Ok(value) if self.failed().is_none() => Ok(value),
            // A failure may show in the midst of something else.
            result => Err(self.settle(result.err())),
        }
    }

    /// Keeps this error, if it is a failure and none was kept before. Returns the one to report.
    #[cold]
    fn settle(&mut self, error: Option<Error>) -> Error {
        if let Some(failed) = self.failed() {
            return failed.clone();
        }
        let error = error.unwrap_or(Error::Internal);
        if error.is_peers() {
            *self.failed() = Some(error.clone());
            self.abandon();
        } else if !error.would_block() && !error.interrupted() {
            self.fail(error.clone());
        }
        error
    }

    /// Ends it with a failure.
    fn fail(&mut self, error: Error) {
        self.report(&error);
        *self.failed() = Some(error);
    }
}
