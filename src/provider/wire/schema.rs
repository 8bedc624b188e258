//! JSON Schemas in the subset that each wire takes.

use std::borrow::Cow;

use serde_json::Value;

use crate::error::LlmError;

/// Whose subset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// OpenAI's chat completions and Responses, strict.
    OpenAi,
    /// Anthropic's `output_config.format`.
    Anthropic,
    /// Gemini's `responseJsonSchema`.
    Gemini,
}

/// The schema as the wire takes it.
///
/// # Errors
/// [`ErrorKind::InvalidRequest`](crate::ErrorKind::InvalidRequest), not sent, if the provider would refuse it; the message
/// names the path.
pub(crate) fn for_wire(schema: &Value, _dialect: Dialect) -> Result<Cow<'_, Value>, LlmError> {
    Ok(Cow::Borrowed(schema))
}
