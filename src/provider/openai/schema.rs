//! The JSON Schema of an answer, as OpenAI's wires name it.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::Value;

use crate::error::LlmError;
use crate::provider::wire::schema::{Dialect, for_wire};

/// A schema with its name, and whether the answer is held to it.
#[derive(Debug, Serialize)]
pub(super) struct NamedSchema<'a> {
    name: String,
    schema: Cow<'a, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    strict: Option<bool>,
}

impl<'a> NamedSchema<'a> {
    /// The schema in OpenAI's subset. It is strict where it is fit for that.
    pub(super) fn new(schema: &'a Value) -> Result<Self, LlmError> {
        let name = name(schema);
        let schema = for_wire(schema, Dialect::OpenAi)?;
        Ok(Self {
            name,
            strict: is_closed(&schema).then_some(true),
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

/// Whether every object in the schema lists all its properties as required and allows no others: what OpenAI demands of
/// a strict schema, and rejects otherwise.
fn is_closed(schema: &Value) -> bool {
    match schema {
        Value::Object(fields) => {
            let closed = match fields.get("properties") {
                Some(Value::Object(properties)) => {
                    let required = fields.get("required").and_then(Value::as_array);
                    fields.get("additionalProperties") == Some(&Value::Bool(false))
                        && properties.keys().all(|name| {
                            required.is_some_and(|list| list.iter().any(|entry| entry == name.as_str()))
                        })
                }
                _ => fields.get("type").is_none_or(|kind| kind != "object"),
            };
            closed
                && fields
                    .iter()
                    .filter(|(name, _)| *name != "properties")
                    .all(|(_, value)| is_closed(value))
                && fields
                    .get("properties")
                    .and_then(Value::as_object)
                    .is_none_or(|properties| properties.values().all(is_closed))
        }
        Value::Array(values) => values.iter().all(is_closed),
        _ => true,
    }
}
