//! The shared failure of identical requests.

use std::fmt;
use std::sync::Arc;

use crate::error::{BoxError, Delivery, ErrorKind, LlmError, describe};
use crate::usage::TokenUsage;

/// An identical request was under way and failed; this one shares the failure and sent nothing itself.
///
/// Its source is an [`LlmError`] of the same kind, status and hint, so that it is classified like the failure that it
/// shares. The source of that failure is not shared.
#[derive(Clone, Debug)]
pub struct SharedFailure {
    failure: Arc<LlmError>,
    /// The leading request was stopped, which does not concern the others.
    stopped: bool,
}

impl SharedFailure {
    /// Creates the failure for the waiting requests; `stopped` if it concerns only the item of the leading request.
    pub(super) fn of<E: fmt::Display + 'static>(error: &E, stopped: bool) -> Self {
        let failure = describe(error, None)
            .with_delivery(Delivery::NotSent)
            .with_usage(TokenUsage::ZERO);
        Self {
            failure: Arc::new(failure),
            stopped,
        }
    }

    pub(super) fn stopped() -> Self {
        let failure = LlmError::new(ErrorKind::Aborted, "not sent, because the batch is stopping")
            .with_delivery(Delivery::NotSent);
        Self {
            failure: Arc::new(failure),
            stopped: true,
        }
    }

    pub(super) const fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// The category of the failure.
    pub fn kind(&self) -> ErrorKind {
        self.failure.kind()
    }
}

impl fmt::Display for SharedFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the same request was under way and failed: {}", self.failure)
    }
}

impl std::error::Error for SharedFailure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.failure)
    }
}

/// Keeps kind, status and hint, with known zero usage.
impl From<SharedFailure> for LlmError {
    fn from(error: SharedFailure) -> Self {
        error.failure.without_source().with_source(BoxError::from(error))
    }
}
