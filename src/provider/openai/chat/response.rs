//! What a reply means.

use serde_json::Value;

use super::json::Json;
use super::usage::{cost, usage};
use crate::error::{Delivery, ErrorKind, LlmError};
use crate::provider::http::Reply;
use crate::provider::wire;
use crate::response::{FinishReason, LlmResponse, ResponseMetadata};
use crate::usage::TokenUsage;

/// What the caller wants from a reply.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) provider: &'a str,
    /// The provider's own classification.
    pub(super) rules: &'static [wire::Row],
    pub(super) keep_raw_body: bool,
    /// An answer in JSON of a schema, which is of no use when it is cut.
    pub(super) structured: bool,
}

/// Reads a reply of any status.
pub(super) fn read(reply: &Reply, wanted: Wanted<'_>) -> Result<LlmResponse, LlmError> {
    if !(200..300).contains(&reply.status) {
        return Err(wire::error_of_reply(
            wanted.rules,
            reply.status,
            &reply.headers,
            &reply.body,
        ));
    }
    let body = wire::trim(&reply.body);
    let mut value: Json<'_> = match serde_json::from_slice(body) {
        Ok(value) => value,
        Err(error) => return Err(unreadable(reply, &error.to_string())),
    };
    let usage = usage(&value);
    let with_usage = |error: LlmError| match usage {
        Some(usage) => error.with_usage(usage).with_delivery(Delivery::MaybeBilled),
        None => error,
    };
    if says_error(&value) {
        return Err(with_usage(wire::error_in_success(
            wanted.rules,
            &reply.headers,
            &value.into(),
        )));
    }
    let choice = match value.take("choices") {
        Some(Json::List(choices)) => choices.into_iter().next(),
        _ => None,
    };
    let Some(choice) = choice else {
        return Err(with_usage(unreadable(reply, "it has no choices")));
    };
    let raw_body = if wanted.keep_raw_body { raw(body) } else { None };
    let metadata = metadata(&value, wanted.provider, raw_body);
    answer(choice, metadata, usage, wanted.structured).map_err(|error| match error {
        Fault::Error(error) => with_usage(*error),
        Fault::Inside(choice) => with_usage(wire::error_in_success(wanted.rules, &reply.headers, &choice)),
    })
}

/// Whether a reply with a success status is an error all the same.
fn says_error(reply: &Json<'_>) -> bool {
    let has_error = match reply.get("error") {
        None | Some(Json::Other(Value::Null | Value::Bool(false))) => false,
        Some(Json::Text(text)) => !text.is_empty(),
        Some(_) => true,
    };
    // Mistral's shape.
    let is_error = reply.get("object").and_then(Json::as_str) == Some("error");
    has_error || is_error
}

fn metadata(
    reply: &Json<'_>,
    provider: &str,
    raw_body: Option<Box<serde_json::value::RawValue>>,
) -> ResponseMetadata {
    let text = |name| reply.get(name).and_then(Json::as_str).map(str::to_owned);
    ResponseMetadata {
        provider: Some(provider.to_owned()),
        model: text("model"),
        response_id: text("id"),
        cost: cost(reply),
        raw_body,
        ..ResponseMetadata::default()
    }
}

fn raw(body: &[u8]) -> Option<Box<serde_json::value::RawValue>> {
    serde_json::from_slice(body).ok()
}

enum Fault {
    Error(Box<LlmError>),
    /// An error object in the choice itself.
    Inside(Value),
}

impl From<LlmError> for Fault {
    fn from(error: LlmError) -> Self {
        Self::Error(Box::new(error))
    }
}

/// The answer in the first choice.
fn answer(
    mut choice: Json<'_>,
    mut metadata: ResponseMetadata,
    usage: Option<TokenUsage>,
    structured: bool,
) -> Result<LlmResponse, Fault> {
    if says_error(&choice) {
        return Err(Fault::Inside(choice.into()));
    }
    let finish_reason = choice
        .get("finish_reason")
        .and_then(Json::as_str)
        .map(finish_reason);
    let mut message = choice.take("message").unwrap_or_default();
    let refusal = message.get("refusal").and_then(Json::as_str).unwrap_or_default();
    if !refusal.trim().is_empty() {
        let message = format!("the model refused: {refusal}");
        return Err(LlmError::new(ErrorKind::ContentFilter, message).into());
    }
    let tool_calls = tool_calls(&mut message);
    let content = message.take("content").unwrap_or_default();
    // The older completions put the text into the choice.
    let output = match (content, choice.take("text")) {
        (Json::Other(Value::Null), Some(Json::Text(text))) => text.into_owned(),
        (content, _) => text_of(content),
    };

    match &finish_reason {
        Some(FinishReason::ContentFilter) => {
            let error = LlmError::new(
                ErrorKind::ContentFilter,
                "the provider's filter stopped the answer",
            );
            return Err(error.with_raw_output(output).into());
        }
        Some(FinishReason::Length) if structured || (output.trim().is_empty() && tool_calls.is_empty()) => {
            let what = if output.trim().is_empty() {
                "before any text came"
            } else {
                "inside the JSON"
            };
            let error = LlmError::new(
                ErrorKind::Truncated,
                format!("the output token limit was reached {what}"),
            );
            return Err(error.with_raw_output(output).into());
        }
        Some(FinishReason::Other(reason)) if reason == "error" => {
            let error = LlmError::new(ErrorKind::ServerError, "the provider failed while it answered");
            return Err(error.with_raw_output(output).into());
        }
        _ => {}
    }
    metadata.finish_reason = finish_reason;
    metadata.tool_calls = tool_calls;
    let mut response = LlmResponse::new(output).with_metadata(metadata);
    response.usage = usage;
    Ok(response)
}

fn finish_reason(name: &str) -> FinishReason {
    match name {
        // The name before tools.
        "function_call" => FinishReason::ToolCalls,
        name => FinishReason::from(name),
    }
}

/// The tool calls, the older single function call among them.
fn tool_calls(message: &mut Json<'_>) -> Vec<Value> {
    match message.take("tool_calls") {
        Some(Json::List(calls)) => calls.into_iter().map(Value::from).collect(),
        _ => match message.take("function_call") {
            Some(call @ Json::Object(_)) => vec![call.into()],
            _ => Vec::new(),
        },
    }
}

/// The text of a content: a text, a list of parts of which those with text count, or nothing.
fn text_of(content: Json<'_>) -> String {
    match content {
        Json::Text(text) => text.into_owned(),
        Json::List(parts) => parts
            .iter()
            .filter_map(|part| match part {
                Json::Text(text) => Some(&**text),
                // Thoughts have a type of their own, and their text under another name.
                part => part.get("text").and_then(Json::as_str),
            })
            .collect(),
        _ => String::new(),
    }
}

/// A success status with a body that is no answer: the call may have been billed.
fn unreadable(reply: &Reply, why: &str) -> LlmError {
    let message = match wire::excerpt(&reply.body) {
        excerpt if excerpt.is_empty() => "the reply is empty".to_owned(),
        excerpt => format!("the reply is no chat completion ({why}): {excerpt}"),
    };
    LlmError::new(ErrorKind::ServerError, message)
        .with_status(reply.status)
        .with_delivery(Delivery::MaybeBilled)
}
