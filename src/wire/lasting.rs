//! The failure of an end of the wire: it lasts, and each later call reports it.

use crate::error::{Error, Result};

/// An end of the wire.
pub(super) trait Lasting {
    /// The failure, if there was one.
    fn failed(&mut self) -> &mut Option<Error>;

    /// The peer has reported its own failure: nothing more is sent.
    fn abandon(&mut self);

    /// Reports a failure to the peer, if that is possible without waiting. Nothing is sent after it.
    fn report(&mut self, error: &Error);

    /// Does work, and keeps its failure.
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
            // A failure may have been kept during work that succeeded.
            result => Err(self.settle(result.err())),
        }
    }

    /// Keeps this error, if it is a failure and the first. Returns the error to report.
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
