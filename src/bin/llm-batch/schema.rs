//! `--schema`: the form of the answers.

use std::borrow::Cow;
use std::path::Path;

use serde_json::Value;

use crate::exit::UsageError;

/// Reads the schema's file.
pub(crate) fn read(path: &Path) -> Result<Value, UsageError> {
    let wrong =
        |error: &dyn std::fmt::Display| UsageError::new(format!("--schema {}: {error}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(&error))?;
    serde_json::from_str(&text).map_err(|error| wrong(&format_args!("not JSON: {error}")))
}

/// An answer as text: a text as it is, anything else as JSON.
pub(crate) fn text_of(output: &Value) -> Cow<'_, str> {
    match output {
        Value::String(text) => Cow::Borrowed(text),
        value => Cow::Owned(value.to_string()),
    }
}
