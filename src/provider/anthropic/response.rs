//! The meaning of a reply.

use serde_json::Value;

use super::usage::{billed_apart, cache_writes, usage};
use crate::error::{Delivery, ErrorKind, LlmError};
use crate::provider::content::{add_passage, owned, source, text, unless_empty};
use crate::provider::ending::{Ending, broken, filtered, nothing, useless_cut};
use crate::provider::http::Reply;
use crate::provider::reply::{has_error, raw_body, unreadable, with_usage};
use crate::provider::wire;
use crate::response::{Citations, FinishReason, LlmResponse, ModelTurn, Reasoning, ResponseMetadata, Wire};

const WHAT: &str = "message";

/// The requirements of the caller for a reply.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// The provider's own classification.
    pub(super) rules: &'static [wire::Row],
    pub(super) keep_raw_body: bool,
    /// An answer in JSON of a schema, which is of no use when it is cut.
    pub(super) structured: bool,
    /// No answer at all, so that an empty one is not a failure.
    pub(super) nothing: bool,
}

/// Reads a reply of any status.
pub(super) fn read(reply: &Reply, wanted: Wanted) -> Result<LlmResponse, LlmError> {
    let body = wire::trim(&reply.body);
    let parsed: Result<Value, _> = serde_json::from_slice(body);
    let usage = parsed.as_ref().ok().and_then(usage);
    let with_usage = |error| with_usage(error, usage);
    if !(200..300).contains(&reply.status) {
        let error = wire::error_of_reply(wanted.rules, reply.status, &reply.headers, &reply.body);
        return Err(with_usage(error));
    }
    let mut value = parsed.map_err(|error| unreadable(reply, WHAT, &error.to_string()))?;
    wire::digits::keep(&mut value, body, &["input"]);
    if says_error(&value) {
        let error = wire::error_in_success(wanted.rules, &reply.headers, &value);
        return Err(with_usage(error));
    }
    let mut response = answer(value, wanted).map_err(|fault| match fault {
        Fault::NoMessage => {
            let why = "it has neither an answer nor a reason to stop";
            with_usage(unreadable(reply, WHAT, why))
        }
        Fault::Failed(error) => with_usage(error.with_delivery(Delivery::MaybeBilled)),
    })?;
    response.usage = usage;
    response.metadata.raw_body = raw_body(reply, wanted.keep_raw_body);
    Ok(response)
}

/// Returns `true` if a reply with a success status is an error all the same.
fn says_error(reply: &Value) -> bool {
    has_error(reply) || reply.get("type").is_some_and(|kind| kind == "error")
}

enum Fault {
    /// The reply is not a message at all.
    NoMessage,
    Failed(LlmError),
}

fn answer(mut reply: Value, wanted: Wanted) -> Result<LlmResponse, Fault> {
    let stop = reply
        .get("stop_reason")
        .and_then(Value::as_str)
        .map(str::to_owned);
    let Content {
        text: output,
        tool_calls,
        reasoning,
        citations,
        answered_by,
        turn,
    } = match (reply.get_mut("content").map(Value::take), &stop) {
        (Some(Value::Array(blocks)), _) => Content::new(blocks),
        (Some(Value::String(text)), _) => Content {
            text,
            ..Content::default()
        },
        (_, Some(_)) => Content::default(),
        (_, None) => return Err(Fault::NoMessage),
    };
    let is_empty = output.trim().is_empty() && tool_calls.is_empty();
    let cut = useless_cut(&output, is_empty && !wanted.nothing, wanted.structured);
    if is_empty && stop.is_none() && !wanted.nothing {
        return Err(Fault::NoMessage);
    }
    // A gateway may pass on another server's reason.
    let ending = stop.as_deref().map(Ending::of);
    let failure = match stop.as_deref() {
        Some("refusal") => Some(refusal(&reply)),
        Some("model_context_window_exceeded") => cut.map(|place| {
            let message = format!("the model's context was full {place}");
            LlmError::new(ErrorKind::ContextLength, message)
        }),
        // It was continued as long as that went.
        Some("pause_turn") => Some(LlmError::new(
            ErrorKind::Truncated,
            "the answer paused, and could not be continued to its end",
        )),
        Some(reason) => match &ending {
            Some(Ending::Cut) => cut.map(|place| {
                let message = format!("the output token limit was reached {place}");
                LlmError::new(ErrorKind::Truncated, message)
            }),
            Some(Ending::Filtered) => Some(filtered(String::new())),
            Some(Ending::Broken(kind)) => Some(broken(*kind, reason, String::new())),
            Some(Ending::Whole(FinishReason::Other(_))) if is_empty && !wanted.nothing => {
                Some(nothing(reason))
            }
            _ => None,
        },
        None => None,
    };
    if let Some(error) = failure {
        return Err(Fault::Failed(error.with_raw_output(output)));
    }
    let text = |name| reply.get(name).and_then(Value::as_str).map(str::to_owned);
    let mut metadata = ResponseMetadata {
        provider: Some("anthropic".to_owned()),
        model: answered_by.or_else(|| text("model")),
        response_id: text("id"),
        finish_reason: ending.map(|ending| match ending {
            Ending::Whole(reason) => reason,
            // The answer is cut, by whichever limit.
            _ => FinishReason::Length,
        }),
        tool_calls,
        reasoning: unless_empty(reasoning),
        turn,
        citations: unless_empty(citations),
        ..ResponseMetadata::default()
    };
    if let Some(writes) = cache_writes(&reply) {
        metadata.extensions.insert(writes);
    }
    billed_apart(&reply).note_in(&mut metadata);
    Ok(LlmResponse::new(output).with_metadata(metadata))
}

/// The content of the blocks. Blocks of other types, those of the provider's own tools among them, are in the turn alone.
#[derive(Default)]
struct Content {
    text: String,
    tool_calls: Vec<Value>,
    reasoning: Reasoning,
    citations: Citations,
    /// The model that took the answer over from the one that was asked.
    answered_by: Option<String>,
    turn: Option<Box<ModelTurn>>,
}

impl Content {
    fn new(blocks: Vec<Value>) -> Self {
        let mut content = Self {
            turn: ModelTurn::unless_plain(Wire::Messages, &blocks),
            ..Self::default()
        };
        for mut block in blocks {
            match block.get("type").and_then(Value::as_str) {
                Some("text") => {
                    content.text.push_str(text(&block, "text").unwrap_or_default());
                    if let Some(Value::Array(citations)) = block.get_mut("citations").map(Value::take) {
                        content.cite(citations);
                    }
                }
                Some("tool_use") => content.tool_calls.push(block),
                Some("fallback") => {
                    content.answered_by = block.get("to").and_then(|to| owned(to, "model"));
                }
                Some("thinking" | "redacted_thinking") => {
                    let thought = text(&block, "thinking").unwrap_or_default();
                    add_passage(&mut content.reasoning.text, thought);
                    content.reasoning.parts.push(block);
                }
                _ => {}
            }
        }
        content
    }

    fn cite(&mut self, citations: Vec<Value>) {
        for citation in citations {
            let own = |name| owned(&citation, name);
            // A web page has a URL, a search result of the user's a source, a document only a title.
            self.citations.sources.extend(source(
                own("url").or_else(|| own("source")),
                own("title").or_else(|| own("document_title")),
                own("cited_text"),
            ));
            self.citations.parts.push(citation);
        }
    }
}

fn refusal(reply: &Value) -> LlmError {
    let detail = |name: &str| {
        let text = reply.get("stop_details")?.get(name)?.as_str()?.trim();
        (!text.is_empty()).then_some(text)
    };
    let category = detail("category");
    let mut message = "the model refused".to_owned();
    if let Some(category) = category {
        message = format!("{message} ({category})");
    }
    if let Some(explanation) = detail("explanation") {
        message = format!("{message}: {explanation}");
    }
    LlmError::new(ErrorKind::ContentFilter, message).with_code(category.unwrap_or("refusal"))
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn mutated_replies_never_panic(position in 0usize..400, byte: u8, cut in 0usize..400, structured: bool) {
            let mut body = br#"{"id":"m","type":"message","model":"x","content":[{"type":"thinking","thinking":"h"},{"type":"text","text":"t"},{"type":"tool_use","id":"1","input":{}},7],"stop_reason":"refusal","stop_details":{"category":"bio","explanation":null},"usage":{"input_tokens":3,"cache_creation":{"ephemeral_5m_input_tokens":1e3},"cache_read_input_tokens":18446744073709551615,"output_tokens":2,"output_tokens_details":{"thinking_tokens":9}}}"#.to_vec();
            if let Some(slot) = body.get_mut(position) {
                *slot = byte;
            }
            body.truncate(body.len().saturating_sub(cut / 8));
            if let Ok(value) = serde_json::from_slice::<Value>(&body) {
                let _ = (says_error(&value), usage(&value), cache_writes(&value));
                let wanted = Wanted { rules: &[], keep_raw_body: false, structured, nothing: false };
                let _ = answer(value, wanted);
            }
        }
    }
}
