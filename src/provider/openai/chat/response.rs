//! What a reply means.

use serde_json::Value;

use crate::error::{ErrorKind, LlmError};
use crate::provider::openai::json::Json;
use crate::provider::openai::reply::{Reading, filtered, refused, says_error};
use crate::provider::openai::usage;
use crate::provider::reply::with_usage;
use crate::response::{FinishReason, LlmResponse, ResponseMetadata};
use crate::usage::TokenUsage;

const WHAT: &str = "chat completion";

/// Reads a reply of any status.
pub(super) fn read(reading: Reading<'_>) -> Result<LlmResponse, LlmError> {
    let mut body = reading.body(WHAT)?;
    let usage = usage::of_chat(&body);
    if says_error(&body) {
        return Err(with_usage(reading.error_inside(body), usage));
    }
    let choice = match body.take("choices") {
        Some(Json::List(choices)) => choices.into_iter().next(),
        _ => None,
    };
    let Some(choice) = choice else {
        return Err(with_usage(reading.unreadable(WHAT, "it has no choices"), usage));
    };
    let metadata = reading.metadata(&body);
    answer(choice, metadata, usage, reading).map_err(|error| {
        let error = match error {
            Fault::Error(error) => *error,
            Fault::Inside(choice) => reading.error_inside(choice),
        };
        with_usage(error, usage)
    })
}

enum Fault<'a> {
    Error(Box<LlmError>),
    /// An error object in the choice itself.
    Inside(Json<'a>),
}

impl From<LlmError> for Fault<'_> {
    fn from(error: LlmError) -> Self {
        Self::Error(Box::new(error))
    }
}

/// The answer in the first choice.
fn answer<'a>(
    mut choice: Json<'a>,
    mut metadata: ResponseMetadata,
    usage: Option<TokenUsage>,
    reading: Reading<'_>,
) -> Result<LlmResponse, Fault<'a>> {
    if says_error(&choice) {
        return Err(Fault::Inside(choice));
    }
    let finish_reason = choice
        .get("finish_reason")
        .and_then(Json::as_str)
        .map(finish_reason);
    let mut message = choice.take("message").unwrap_or_default();
    let refusal = message.get("refusal").and_then(Json::as_str).unwrap_or_default();
    if !refusal.trim().is_empty() {
        return Err(refused(refusal).into());
    }
    let tool_calls = tool_calls(&mut message);
    let content = message.take("content").unwrap_or_default();
    // The older completions put the text into the choice.
    let output = match (content, choice.take("text")) {
        (Json::Other(Value::Null), Some(Json::Text(text))) => text.into_owned(),
        (content, _) => text_of(content),
    };

    match &finish_reason {
        Some(FinishReason::ContentFilter) => return Err(filtered(output).into()),
        Some(FinishReason::Length) => {
            if let Some(error) = reading.truncated(&output, !tool_calls.is_empty()) {
                return Err(error.into());
            }
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
