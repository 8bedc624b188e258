//! The common part of the requests of all wires.

use serde::Serialize;

use crate::error::{Delivery, ErrorKind, LlmError};

/// The body as JSON.
pub(super) fn write(body: &impl Serialize) -> Result<Vec<u8>, LlmError> {
    serde_json::to_vec(body).map_err(|error| refuse(format!("the prompt cannot be written as JSON: {error}")))
}

/// A prompt that cannot be sent.
pub(super) fn refuse(message: impl Into<String>) -> LlmError {
    LlmError::new(ErrorKind::InvalidRequest, message.into()).with_delivery(Delivery::NotSent)
}
