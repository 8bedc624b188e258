//! What a reply means.

use serde_json::Value;

use crate::error::{Delivery, ErrorKind, LlmError};
use crate::provider::openai::json::Json;
use crate::provider::openai::reply::{Reading, filtered, refused, says_error};
use crate::provider::openai::usage;
use crate::provider::reply::with_usage;
use crate::response::{FinishReason, LlmResponse};

const WHAT: &str = "response";

/// Reads a reply of any status.
pub(super) fn read(reading: Reading<'_>) -> Result<LlmResponse, LlmError> {
    let body = reading.body(WHAT)?;
    let usage = usage::of_response(&body);
    answer(body, reading)
        .map(|mut response| {
            response.usage = usage;
            response
        })
        .map_err(|error| with_usage(error, usage))
}

/// The answer in a body with a success status, which may be none.
fn answer(mut body: Json<'_>, reading: Reading<'_>) -> Result<LlmResponse, LlmError> {
    if says_error(&body) {
        return Err(reading.error_inside(body));
    }
    let output = body.take("output");
    let status = body.get("status").and_then(Json::as_str).unwrap_or_default();
    let unfinished = |kind, message: String| {
        let error = LlmError::new(kind, message).with_status(reading.reply.status);
        Err(error.with_delivery(Delivery::MaybeBilled))
    };
    let reason = match status {
        "failed" => return unfinished(ErrorKind::ServerError, "the response failed".to_owned()),
        "cancelled" => return unfinished(ErrorKind::ServerError, "the response was cancelled".to_owned()),
        // Asked for in the background, or by a server that does so on its own: asking again would not wait either.
        "queued" | "in_progress" => {
            let message =
                format!("the response is not there yet (status {status}), and is not fetched later");
            return unfinished(ErrorKind::InvalidRequest, message);
        }
        "incomplete" => {
            let details = body.get("incomplete_details");
            let reason = details
                .and_then(|details| details.get("reason"))
                .and_then(Json::as_str);
            Some(reason.unwrap_or("unknown"))
        }
        _ => None,
    };
    let Some(Json::List(items)) = output else {
        return Err(reading.unreadable(WHAT, "it has no output"));
    };
    let Output {
        text,
        refusal,
        tool_calls,
    } = Output::new(items);
    if !refusal.trim().is_empty() {
        return Err(refused(&refusal));
    }
    let finish_reason = match reason {
        None if tool_calls.is_empty() => FinishReason::Stop,
        None => FinishReason::ToolCalls,
        Some("max_output_tokens") => match reading.truncated(&text, !tool_calls.is_empty()) {
            Some(error) => return Err(error),
            None => FinishReason::Length,
        },
        Some("content_filter") => return Err(filtered(text)),
        Some(reason) => {
            let message = format!("the response is incomplete ({reason})");
            return Err(LlmError::new(ErrorKind::ServerError, message).with_raw_output(text));
        }
    };
    let mut metadata = reading.metadata(&body);
    metadata.finish_reason = Some(finish_reason);
    metadata.tool_calls = tool_calls;
    Ok(LlmResponse::new(text).with_metadata(metadata))
}

/// What the output items hold.
#[derive(Default)]
struct Output {
    text: String,
    refusal: String,
    tool_calls: Vec<Value>,
}

impl Output {
    fn new(items: Vec<Json<'_>>) -> Self {
        fn text<'a>(item: &'a Json<'_>, name: &str) -> &'a str {
            item.get(name).and_then(Json::as_str).unwrap_or_default()
        }
        // Newer models also say what they are about to do. Where messages have a phase, only the final answer counts.
        let is_phased = |item: &Json<'_>| text(item, "type") == "message" && !text(item, "phase").is_empty();
        let phased = items.iter().any(is_phased);
        let mut output = Self::default();
        for mut item in items {
            match text(&item, "type") {
                "function_call" | "custom_tool_call" => output.tool_calls.push(item.into()),
                "message" => {
                    let counts = !phased || text(&item, "phase") == "final_answer";
                    if let Some(Json::List(parts)) = item.take("content") {
                        for part in &parts {
                            match text(part, "type") {
                                "output_text" if counts => output.text.push_str(text(part, "text")),
                                // A refusal counts wherever it stands.
                                "refusal" => output.refusal.push_str(text(part, "refusal")),
                                _ => {}
                            }
                        }
                    }
                }
                _ => {}
            }
        }
        output
    }
}
