//! The common part of the replies of all wires.

#[cfg(any(feature = "anthropic", feature = "gemini"))]
use serde_json::Value;
use serde_json::value::RawValue;

use super::http::Reply;
use super::wire;
use crate::error::{Delivery, ErrorKind, LlmError};
use crate::usage::TokenUsage;

/// A success status with a body that is not an answer: the call may have been billed. `what` is what was expected.
pub(super) fn unreadable(reply: &Reply, what: &str, why: &str) -> LlmError {
    let message = match (coding(reply), wire::excerpt(&reply.body)) {
        (Some(coding), _) => format!("the reply is compressed ({coding}), which was not asked for"),
        (None, excerpt) if excerpt.is_empty() => "the reply is empty".to_owned(),
        (None, excerpt) => format!("the reply is no {what} ({why}): {excerpt}"),
    };
    LlmError::new(ErrorKind::ServerError, message)
        .with_status(reply.status)
        .with_delivery(Delivery::MaybeBilled)
}

/// The coding of a compressed body.
fn coding(reply: &Reply) -> Option<&str> {
    let coding = reply.headers.get(http::header::CONTENT_ENCODING)?;
    coding.to_str().ok().filter(|coding| *coding != "identity")
}

/// A failed call that is known to have used something.
pub(super) fn with_usage(error: LlmError, usage: Option<TokenUsage>) -> LlmError {
    match usage {
        Some(usage) => error.with_usage(usage).with_delivery(Delivery::MaybeBilled),
        None => error,
    }
}

/// A count, also where a gateway writes it as a text or as `12.0`.
#[cfg(any(feature = "anthropic", feature = "gemini"))]
pub(super) fn number(value: &Value) -> Option<u64> {
    count(value.as_u64(), value.as_f64(), value.as_str())
}

/// The count that a value is: a whole number, any number, or a text.
pub(super) fn count(whole: Option<u64>, number: Option<f64>, text: Option<&str>) -> Option<u64> {
    let is_count = |number: &f64| *number >= 0.0 && number.fract() == 0.0 && *number < 1e15;
    whole
        .or_else(|| number.filter(is_count).map(|number| number as u64))
        .or_else(|| text?.parse().ok())
}

/// Returns `true` if a reply with a success status has an error in it all the same.
#[cfg(any(feature = "anthropic", feature = "gemini"))]
pub(super) fn has_error(reply: &Value) -> bool {
    match reply.get("error") {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(_) => true,
    }
}

/// The body as it came, where it is to be kept.
pub(super) fn raw_body(reply: &Reply, keep: bool) -> Option<Box<RawValue>> {
    let body = || serde_json::from_slice(wire::trim(&reply.body)).ok();
    keep.then(body).flatten()
}
