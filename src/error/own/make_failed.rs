//! The error of creating a lazy strategy.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use super::CallRefused;
use crate::error::{BoxError, Delivery, ErrorKind, LlmError};

/// A [`lazy`](crate::lazy()) strategy could not be created, or was closed; nothing was sent.
#[derive(Clone, Debug)]
pub struct MakeFailed(Option<Arc<BoxError>>);

impl MakeFailed {
    /// The strategy was closed.
    pub(crate) const CLOSED: Self = Self(None);

    /// The creation failed with `error`.
    pub(crate) fn of(error: BoxError) -> Self {
        Self(Some(Arc::new(error)))
    }

    pub(crate) fn panicked() -> Self {
        Self(Some(Arc::new("its creation panicked".into())))
    }

    /// The strategy exists, but the item may no longer begin a call.
    pub(crate) fn refused(refused: CallRefused) -> Self {
        Self(Some(Arc::new(LlmError::from(refused).into())))
    }

    /// The category: that of the [`LlmError`] with which the creation failed, else [`ErrorKind::Configuration`].
    pub fn kind(&self) -> ErrorKind {
        self.cause().map_or(ErrorKind::Configuration, LlmError::kind)
    }

    fn cause(&self) -> Option<&LlmError> {
        self.0.as_ref()?.downcast_ref()
    }

    /// Returns `true` if the strategy was closed, and `false` if its creation failed.
    pub const fn is_closed(&self) -> bool {
        self.0.is_none()
    }
}

impl fmt::Display for MakeFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(error) => write!(f, "the strategy could not be made: {error}"),
            None => f.write_str("the strategy was closed"),
        }
    }
}

impl StdError for MakeFailed {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0
            .as_ref()
            .map(|error| &***error as &(dyn StdError + 'static))
    }
}

/// Keeps the kind, status and hint of an [`LlmError`] with which the creation failed, so that it is retried accordingly;
/// any other failure is [`ErrorKind::Configuration`].
impl From<MakeFailed> for LlmError {
    fn from(error: MakeFailed) -> Self {
        let mut failed = Self::new(error.kind(), error.to_string());
        if let Some(cause) = error.cause() {
            failed = failed.with_disposition(cause.disposition());
            if let Some(status) = cause.status() {
                failed = failed.with_status(status);
            }
            if let Some(wait) = cause.retry_after() {
                failed = failed.with_retry_after(wait);
            }
        }
        failed = failed.with_delivery(Delivery::NotSent);
        failed.with_source(error)
    }
}
