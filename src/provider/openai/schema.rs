//! The JSON Schema of an answer, as OpenAI's wires name it.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::Value;

use crate::error::LlmError;
use crate::prompt::OutputFormat;
use crate::provider::wire::schema::{Dialect, for_wire};

/// A schema with its name, and whether the answer is held to it.
#[derive(Debug, Serialize)]
pub(super) struct NamedSchema<'a> {
    name: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    schema: Cow<'a, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    strict: Option<bool>,
}

impl<'a> NamedSchema<'a> {
    /// The schema as it is for a server that takes `any`, else in OpenAI's strict form, if it has one. With a `format` of
    /// the user's own, it is sent as that says.
    pub(super) fn new(
        schema: &'a Value,
        any: bool,
        format: Option<&'a OutputFormat>,
    ) -> Result<Self, LlmError> {
        if let Some(format) = format {
            return Ok(Self {
                name: Cow::Borrowed(&format.name),
                description: format.description.as_deref(),
                schema: Cow::Borrowed(schema),
                strict: format.strict,
            });
        }
        let name = Cow::Owned(name(schema));
        // What is wrong with a schema is wrong everywhere.
        let for_openai = for_wire(schema, Dialect::OpenAi)?;
        if any {
            return Ok(Self {
                name,
                description: None,
                schema: Cow::Borrowed(schema),
                strict: Some(true),
            });
        }
        let schema = for_openai;
        Ok(Self {
            name,
            description: None,
            // What has no strict form is left as it is.
            strict: matches!(schema, Cow::Owned(_)).then_some(true),
            schema,
        })
    }
}

/// The schema's title in up to 64 of the characters that OpenAI takes.
fn name(schema: &Value) -> String {
    let title = schema.get("title").and_then(Value::as_str).unwrap_or_default();
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let name: String = title
        .chars()
        .map(|c| if allowed(c) { c } else { '_' })
        .take(64)
        .collect();
    if name.is_empty() {
        "output".to_owned()
    } else {
        name
    }
}
