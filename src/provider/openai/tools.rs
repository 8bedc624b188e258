//! Tools, as both wires describe them.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::{Value, json};

use crate::error::LlmError;
use crate::prompt::{ReasoningEffort, Tool, ToolChoice};
use crate::provider::request::refuse;
use crate::provider::wire::schema::{Dialect, for_wire};
use crate::provider::wire_format::Ask;

/// A function as OpenAI describes it.
#[derive(Debug, Serialize)]
pub(super) struct Function<'a> {
    pub(super) name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) description: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) parameters: Option<Cow<'a, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) strict: Option<bool>,
}

/// The functions of a question. A server that takes `any` schema is sent the schemas as they are.
pub(super) fn functions<'a>(ask: &Ask<'a>, any: bool) -> Result<Vec<Function<'a>>, LlmError> {
    ask.tools().iter().map(|tool| function(tool, any)).collect()
}

fn function(tool: &Tool, any: bool) -> Result<Function<'_>, LlmError> {
    let parameters = match &tool.parameters {
        Some(schema) if tool.strict == Some(true) && !any => match for_wire(schema, Dialect::OpenAi)? {
            Cow::Owned(strict) => Some(Cow::Owned(strict)),
            Cow::Borrowed(_) => {
                return Err(refuse(format!(
                    "the parameters of the tool {:?} have no strict form at OpenAI, which wants objects with named \
                     properties alone; leave strict out",
                    tool.name
                )));
            }
        },
        parameters => parameters.as_ref().map(Cow::Borrowed),
    };
    Ok(Function {
        name: &tool.name,
        description: tool.description.as_deref(),
        parameters,
        strict: tool.strict,
    })
}

/// The choice of a tool. `named` is the form of a choice by name.
pub(super) fn choice(choice: &ToolChoice, named: impl FnOnce(&str) -> Value) -> Value {
    match choice {
        ToolChoice::Auto => json!("auto"),
        ToolChoice::None => json!("none"),
        ToolChoice::Required => json!("required"),
        ToolChoice::Tool(name) => named(name),
    }
}

/// The name of an effort; a number of tokens has none here.
pub(super) fn effort(ask: &Ask<'_>) -> Result<Option<&'static str>, LlmError> {
    match ask.reasoning_effort() {
        None => Ok(None),
        Some(ReasoningEffort::Tokens(_)) => Err(refuse(
            "OpenAI's wires take a reasoning effort, not a number of tokens for reasoning; name an effort, or set the \
             server's own field as an extra one",
        )),
        Some(effort) => Ok(effort.name()),
    }
}
