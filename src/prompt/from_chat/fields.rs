//! The fields of a request, each with its name for errors.

use serde_json::{Map, Value};

use crate::error::{Delivery, ErrorKind, LlmError};

pub(super) fn wrong(at: &str, what: &str) -> LlmError {
    LlmError::new(ErrorKind::InvalidRequest, format!("`{at}` {what}")).with_delivery(Delivery::NotSent)
}

pub(super) fn text(value: Value, at: &str) -> Result<String, LlmError> {
    match value {
        Value::String(text) => Ok(text),
        _ => Err(wrong(at, "is not text")),
    }
}

pub(super) fn list(value: Value, at: &str) -> Result<Vec<Value>, LlmError> {
    match value {
        Value::Array(values) => Ok(values),
        _ => Err(wrong(at, "is not a list")),
    }
}

pub(super) fn object(value: Value, at: &str) -> Result<Map<String, Value>, LlmError> {
    match value {
        Value::Object(fields) => Ok(fields),
        _ => Err(wrong(at, "is not an object")),
    }
}

pub(super) fn number(value: &Value, at: &str) -> Result<f64, LlmError> {
    value.as_f64().ok_or_else(|| wrong(at, "is not a number"))
}

pub(super) fn boolean(value: &Value, at: &str) -> Result<bool, LlmError> {
    value.as_bool().ok_or_else(|| wrong(at, "is not true or false"))
}

/// Takes a field that is text.
pub(super) fn take_text(fields: &mut Map<String, Value>, at: &str, name: &str) -> Result<String, LlmError> {
    let at = format!("{at}.{name}");
    match fields.remove(name) {
        Some(value) => text(value, &at),
        None => Err(wrong(&at, "is missing")),
    }
}

/// Takes a field that may be missing.
pub(super) fn take(fields: &mut Map<String, Value>, name: &str) -> Option<Value> {
    fields.remove(name).filter(|value| !value.is_null())
}

/// Refuses the fields that are left, which are not known. Null, an empty list and an empty text say nothing.
pub(super) fn nothing_left(fields: &Map<String, Value>, at: &str) -> Result<(), LlmError> {
    let says_nothing = |value: &Value| match value {
        Value::Null => true,
        Value::Array(values) => values.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    };
    match fields.iter().find(|(_, value)| !says_nothing(value)) {
        None => Ok(()),
        Some((name, _)) => Err(wrong(
            &format!("{at}.{name}"),
            "has no place in a prompt; leave it out",
        )),
    }
}
