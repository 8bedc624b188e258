//! JSON Schemas in the subset that each wire takes.
//!
//! A rule that a subset has no keyword for is left out of the schema and put in the description instead, so that the model still
//! knows it; the reader of the answer checks it against the original schema. Nothing is left out that would change the
//! answer's shape, but for OpenAI's strict form, where an optional property becomes one that may be null.

mod anthropic;
mod gemini;
mod keyword;
mod merge;
mod nullable;
mod openai;
mod recursion;
mod rewrite;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;

use serde_json::Value;

use crate::error::{Delivery, ErrorKind, LlmError};
use crate::schema::reference::{reference_of, target};
use crate::schema::walk::visit;

/// The wire that a subset belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// OpenAI's chat completions and Responses: the strict form, or the schema itself (borrowed) where there is none.
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
pub(crate) fn for_wire(schema: &Value, dialect: Dialect) -> Result<Cow<'_, Value>, LlmError> {
    check(schema).map_err(|refusal| refusal.into_error("no provider"))?;
    match dialect {
        Dialect::OpenAi => Ok(openai::strict(schema).map_or(Cow::Borrowed(schema), Cow::Owned)),
        Dialect::Anthropic => anthropic::subset(schema)
            .map(Cow::Owned)
            .map_err(|refusal| refusal.into_error("Anthropic does not")),
        Dialect::Gemini => gemini::subset(schema)
            .map(Cow::Owned)
            .map_err(|refusal| refusal.into_error("Gemini does not")),
    }
}

/// Refuses a schema with a reference that leads nowhere, or outside the schema.
fn check(root: &Value) -> Result<(), Refusal> {
    let mut wrong = None;
    visit(root, "", &mut |schema, path| {
        if let Some(reference) = reference_of(schema)
            && target(root, reference).is_none()
        {
            wrong.get_or_insert_with(|| Refusal::new(path, format!("a reference to nothing ({reference})")));
        }
    });
    wrong.map_or(Ok(()), Err)
}

/// The place in a schema of something that a subset has no form for.
#[derive(Debug)]
struct Refusal {
    /// A JSON pointer.
    path: String,
    what: Cow<'static, str>,
}

impl Refusal {
    fn new(path: &str, what: impl Into<Cow<'static, str>>) -> Self {
        Self {
            path: path.to_owned(),
            what: what.into(),
        }
    }

    fn into_error(self, who: &str) -> LlmError {
        let message = format!("the output schema has {self}, which {who} take");
        LlmError::new(ErrorKind::InvalidRequest, message).with_delivery(Delivery::NotSent)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.path.is_empty() { "/" } else { &self.path };
        write!(f, "{} at {path}", self.what)
    }
}
