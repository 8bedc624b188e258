//! The failure of a body.

use std::fmt;

use crate::error::{BoxError, Delivery, ErrorKind, LlmError};

/// The body of a reply broke off, or its call could not be made through the layers around it.
///
/// Its source is an [`LlmError`], by which it is classified: [`ErrorKind::Connection`] for a body that broke off, whose usage is
/// unknown, and [`ErrorKind::Configuration`] for layers that do not support the call.
#[derive(Debug)]
pub struct BodyFailed {
    failure: LlmError,
}

impl BodyFailed {
    /// The body broke off with `error`. The caller gets the error itself.
    pub(super) fn broken(error: &BoxError) -> Self {
        let failure = LlmError::new(ErrorKind::Connection, format!("the body broke off: {error}"))
            .with_delivery(Delivery::MaybeBilled);
        Self { failure }
    }

    pub(super) fn misplaced(why: &'static str) -> Self {
        let failure = LlmError::new(ErrorKind::Configuration, why).with_delivery(Delivery::NotSent);
        Self { failure }
    }

    /// Of two concurrent calls (a hedge inside) the other one's body is already being delivered to the caller.
    pub(super) fn overtaken() -> Self {
        let why =
            "the body of another call is already being delivered; a hedge belongs outside of `HttpCallLayer`";
        let failure = LlmError::new(ErrorKind::Configuration, why).with_delivery(Delivery::MaybeBilled);
        Self { failure }
    }

    pub(super) fn abandoned() -> Self {
        let failure = LlmError::new(ErrorKind::Aborted, "the body was dropped before its end")
            .with_delivery(Delivery::MaybeBilled);
        Self { failure }
    }

    /// The category of the failure.
    pub fn kind(&self) -> ErrorKind {
        self.failure.kind()
    }
}

impl fmt::Display for BodyFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.failure.message(), f)
    }
}

impl std::error::Error for BodyFailed {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.failure)
    }
}

impl From<BodyFailed> for LlmError {
    fn from(error: BodyFailed) -> Self {
        error.failure
    }
}
