//! The meaning of a reply.

use serde_json::Value;

use crate::error::{Delivery, ErrorKind, LlmError};
use crate::provider::content::{self, add_passage, file, owned, unless_empty};
use crate::provider::ending::{Ending, broken, filtered};
use crate::provider::openai::content::{citations, logprobs, recording, take_list};
use crate::provider::openai::json::Json;
use crate::provider::openai::reply::{Reading, refused, says_error};
use crate::provider::openai::usage;
use crate::provider::openai::usage::billed_apart;
use crate::provider::reply::with_usage;
use crate::response::{
    BilledApart, CALL_FIELDS, FinishReason, LlmResponse, Media, MediaFile, ModelTurn, Reasoning, Wire,
};

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
    let apart = tool_calls_billed_apart(&items);
    let turn =
        (!is_plain(&items)).then(|| ModelTurn::new(Wire::Responses, items.iter().map(Value::from).collect()));
    let Output {
        mut text,
        refusal,
        tool_calls,
        reasoning,
        logprobs: tokens,
        annotations,
        media,
    } = Output::new(items);
    if !refusal.trim().is_empty() {
        return Err(refused(&refusal));
    }
    if text.is_empty()
        && let Some(joined) = body.get("output_text").and_then(Json::as_str)
    {
        // What the SDKs add to a response, and some servers send.
        text.push_str(joined);
    }
    let has_content = !tool_calls.is_empty() || media != Media::default();
    let finish_reason = match reason {
        None if tool_calls.is_empty() => FinishReason::Stop,
        None => FinishReason::ToolCalls,
        Some(reason) => match Ending::of(reason) {
            Ending::Cut => match reading.truncated(&text, has_content) {
                Some(error) => return Err(error),
                None => FinishReason::Length,
            },
            Ending::Filtered => return Err(filtered(text)),
            Ending::Broken(kind) => return Err(broken(kind, reason, text)),
            Ending::Whole(_) => {
                let message = format!("the response is incomplete ({reason})");
                return Err(LlmError::new(ErrorKind::ServerError, message).with_raw_output(text));
            }
        },
    };
    if status.is_empty() && text.trim().is_empty() && !has_content {
        return Err(reading.unreadable(WHAT, "it has neither an answer nor a status"));
    }
    let mut metadata = reading.metadata(&body);
    metadata.finish_reason = Some(finish_reason);
    metadata.tool_calls = tool_calls;
    metadata.reasoning = unless_empty(reasoning);
    metadata.turn = turn;
    metadata.logprobs = logprobs(&tokens.into());
    metadata.citations = unless_empty(citations(annotations));
    metadata.media = unless_empty(media);
    if let Some(tools) = apart {
        let mut apart = billed_apart(&body);
        for (name, count) in tools.counts() {
            apart.add(name, *count);
        }
        apart.note_in(&mut metadata);
    }
    Ok(LlmResponse::new(text).with_metadata(metadata))
}

/// Returns `true` if reasoning, text and calls say all, in this order: the turn need not be kept beside them.
fn is_plain(items: &[Json<'_>]) -> bool {
    let has_only = |item: &Json<'_>, names: &[&str]| match item {
        Json::Object(fields) => {
            (fields.iter()).all(|(name, value)| names.contains(&name.as_str()) || value.is_null())
        }
        _ => false,
    };
    let place = |item: &Json<'_>| match text(item, "type") {
        "reasoning" => Some(0),
        "message" if text(item, "phase").is_empty() => Some(1),
        "function_call" if has_only(item, CALL_FIELDS) => Some(2),
        "custom_tool_call" => Some(2),
        _ => None,
    };
    items.iter().all(|item| place(item).is_some()) && items.iter().is_sorted_by_key(place)
}

/// The calls of OpenAI's own tools that are billed by the call or the session; none if there were none.
fn tool_calls_billed_apart(items: &[Json<'_>]) -> Option<BilledApart> {
    const BILLED: [&str; 4] = [
        "web_search_call",
        "file_search_call",
        "code_interpreter_call",
        "image_generation_call",
    ];
    let mut apart = BilledApart::default();
    for item in items {
        let kind = item.get("type").and_then(Json::as_str);
        if let Some(kind) = kind.filter(|kind| BILLED.contains(kind)) {
            apart.add(kind, 1);
        }
    }
    (apart != BilledApart::default()).then_some(apart)
}

/// The content of the output items.
#[derive(Default)]
struct Output {
    text: String,
    refusal: String,
    tool_calls: Vec<Value>,
    reasoning: Reasoning,
    logprobs: Vec<Value>,
    annotations: Vec<Value>,
    media: Media,
}

/// A field that is text, or the empty one.
fn text<'a>(item: &'a Json<'_>, name: &str) -> &'a str {
    item.get(name).and_then(Json::as_str).unwrap_or_default()
}

impl Output {
    fn new(items: Vec<Json<'_>>) -> Self {
        // Newer models also say what they are about to do. Where messages have a phase, only the final answer counts.
        let is_phased = |item: &Json<'_>| text(item, "type") == "message" && !text(item, "phase").is_empty();
        let phased = items.iter().any(is_phased);
        let mut output = Self::default();
        for mut item in items {
            match text(&item, "type") {
                "function_call" | "custom_tool_call" => output.tool_calls.push(item.into()),
                "reasoning" => output.add_reasoning(item),
                "image_generation_call" => output.media.images.extend(image(&item.into())),
                "message" => {
                    let counts = !phased || text(&item, "phase") == "final_answer";
                    if let Some(Json::List(parts)) = item.take("content") {
                        for part in parts {
                            output.add_part(part, counts);
                        }
                    }
                }
                _ => {}
            }
        }
        output
    }

    /// Adds a part of a message. A refusal counts wherever it stands.
    fn add_part(&mut self, mut part: Json<'_>, counts: bool) {
        match text(&part, "type") {
            "output_text" if counts => {
                self.text.push_str(text(&part, "text"));
                self.logprobs.extend(take_list(&mut part, "logprobs"));
                self.annotations.extend(take_list(&mut part, "annotations"));
            }
            "output_audio" if counts => self.media.audio.extend(recording(&part.into())),
            "refusal" => self.refusal.push_str(text(&part, "refusal")),
            _ => {}
        }
    }

    /// Adds a reasoning item: the reasoning itself where the server reveals it, else its summary. Most items of OpenAI's
    /// hold neither, and nothing that a later turn could use.
    fn add_reasoning(&mut self, item: Json<'_>) {
        let item = Value::from(item);
        let passages = |name: &str| {
            let parts = item.get(name).and_then(Value::as_array);
            parts
                .into_iter()
                .flatten()
                .filter_map(|part| content::text(part, "text"))
        };
        let mut is_readable = false;
        for name in ["content", "summary"] {
            if !is_readable {
                for passage in passages(name) {
                    add_passage(&mut self.reasoning.text, passage);
                    is_readable = true;
                }
            }
        }
        if is_readable || content::text(&item, "encrypted_content").is_some() {
            self.reasoning.parts.push(item);
        }
    }
}

/// The image that a tool of the server's made.
fn image(item: &Value) -> Option<MediaFile> {
    let data = owned(item, "result")?;
    let format = content::text(item, "output_format").unwrap_or("png");
    Some(MediaFile {
        id: owned(item, "id"),
        ..file(Some(format!("image/{format}")), Some(data))
    })
}
