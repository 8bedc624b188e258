//! The meaning of a reply.

use serde_json::Value;

use super::PROVIDER;
use super::content::{Content, citations, logprobs};
use super::stream::Chunks;
use super::usage::{billed_apart, usage};
use crate::error::{ErrorKind, LlmError};
use crate::provider::content::unless_empty;
use crate::provider::ending::{Ending, broken, useless_cut};
use crate::provider::gemini::classification;
use crate::provider::http::Reply;
use crate::provider::reply::{has_error, raw_body, unreadable, with_usage};
use crate::provider::streaming::{Assemble as _, Piece};
use crate::provider::wire;
use crate::provider::wire_format::Ask;
use crate::response::{FinishReason, FurtherChoices, LlmResponse, Media, ResponseMetadata};
use crate::usage::TokenUsage;

const WHAT: &str = "answer of Gemini's";

/// The field that holds the arguments of a call.
pub(super) const ARGUMENTS: [&str; 1] = ["args"];

/// The reason to stop that asks to be continued.
pub(super) const CONTINUATION: &str = "CONTINUATION";

/// Parses a body. A list is what the stream sends to those who do not ask for events: its elements are put together.
pub(super) fn parse(body: &[u8]) -> Result<Value, serde_json::Error> {
    let body = wire::trim(body);
    let mut value = serde_json::from_slice(body)?;
    wire::digits::keep(&mut value, body, &ARGUMENTS);
    match value {
        Value::Array(replies) => {
            let mut chunks = Box::<Chunks>::default();
            for reply in replies {
                if chunks.take(reply) == Piece::Unreadable {
                    return Err(serde::de::Error::custom(
                        "an element of the list is not an object",
                    ));
                }
            }
            Ok(chunks.into_body())
        }
        value => Ok(value),
    }
}

/// Reads a reply of any status.
pub(super) fn read(reply: &Reply, ask: &Ask<'_>, keep_raw_body: bool) -> Result<LlmResponse, LlmError> {
    if !(200..300).contains(&reply.status) {
        return Err(classification::error_of_reply(reply, ask));
    }
    let mut value = match parse(&reply.body) {
        Ok(value) => value,
        Err(error) => return Err(unreadable(reply, WHAT, &error.to_string())),
    };
    let usage = usage(&value);
    let with_usage = |error| with_usage(error, usage);
    if has_error(&value) {
        let error = classification::error_in_success(reply, &value, ask);
        return Err(with_usage(error));
    }
    let candidates = value.get_mut("candidates").map(Value::take);
    let mut candidates = match candidates {
        Some(Value::Array(candidates)) => candidates.into_iter(),
        _ => Vec::new().into_iter(),
    };
    let Some(candidate) = candidates.next().filter(Value::is_object) else {
        let error = match blocked_prompt(&value) {
            Some(error) => error,
            None => unreadable(reply, WHAT, "it has no candidates"),
        };
        return Err(with_usage(error));
    };
    let text = |name| value.get(name).and_then(Value::as_str).map(str::to_owned);
    let mut metadata = ResponseMetadata {
        provider: Some(PROVIDER.to_owned()),
        model: text("modelVersion"),
        response_id: text("responseId"),
        further_choices: unless_empty(FurtherChoices {
            choices: candidates.collect(),
        }),
        raw_body: raw_body(reply, keep_raw_body),
        ..ResponseMetadata::default()
    };
    billed_apart(&value, &candidate).note_in(&mut metadata);
    answer(candidate, metadata, usage, ask.output_schema().is_some()).map_err(with_usage)
}

/// The refusal of a prompt, which has no candidates.
fn blocked_prompt(reply: &Value) -> Option<LlmError> {
    let feedback = reply.get("promptFeedback")?;
    let reason = feedback.get("blockReason")?.as_str()?;
    let message = match feedback.get("blockReasonMessage").and_then(Value::as_str) {
        Some(message) => format!("the prompt was blocked ({reason}): {message}"),
        None => format!("the prompt was blocked ({reason})"),
    };
    Some(LlmError::new(ErrorKind::ContentFilter, message).with_code(reason))
}

/// The meaning of a reason to stop for the answer.
enum Meaning {
    /// One that other wires have too, or a gateway passes on.
    Known(Ending),
    /// The model made something unusable.
    Fault,
    /// There is more, which was not requested.
    Part,
}

fn meaning(reason: &str) -> Meaning {
    match reason {
        "RECITATION"
        | "LANGUAGE"
        | "OTHER"
        | "MALFORMED_FUNCTION_CALL"
        | "MALFORMED_RESPONSE"
        | "UNEXPECTED_TOOL_CALL"
        | "TOO_MANY_TOOL_CALLS"
        | "MISSING_THOUGHT_SIGNATURE"
        | "IMAGE_RECITATION"
        | "IMAGE_OTHER"
        | "NO_IMAGE" => Meaning::Fault,
        CONTINUATION => Meaning::Part,
        // The default of the field.
        "FINISH_REASON_UNSPECIFIED" => Meaning::Known(Ending::of("")),
        reason => Meaning::Known(Ending::of(reason)),
    }
}

/// The answer in the first candidate.
fn answer(
    mut candidate: Value,
    mut metadata: ResponseMetadata,
    usage: Option<TokenUsage>,
    structured: bool,
) -> Result<LlmResponse, LlmError> {
    let reason = candidate
        .get("finishReason")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let Content {
        text: output,
        tool_calls,
        reasoning,
        media,
        turn,
    } = Content::take(&mut candidate);
    let is_empty = output.trim().is_empty() && tool_calls.is_empty() && media == Media::default();
    let fail = |kind, what: &str| {
        let message = match candidate.get("finishMessage").and_then(Value::as_str) {
            Some(message) if !message.is_empty() => format!("{what} ({reason}): {message}"),
            _ => format!("{what} ({reason})"),
        };
        Err(LlmError::new(kind, message)
            .with_code(reason.clone())
            .with_raw_output(output.clone()))
    };
    let ending = match meaning(&reason) {
        Meaning::Known(ending) => ending,
        Meaning::Fault => return fail(ErrorKind::ModelFault, "the model stopped without a usable answer"),
        Meaning::Part => {
            return fail(
                ErrorKind::Truncated,
                "the answer is not complete and was not continued",
            );
        }
    };
    let finish_reason = match ending {
        Ending::Filtered => {
            return fail(
                ErrorKind::ContentFilter,
                "the provider's filter stopped the answer",
            );
        }
        Ending::Broken(kind) => return Err(broken(kind, &reason, output)),
        Ending::Cut => match useless_cut(&output, is_empty, structured) {
            Some(place) => {
                return fail(
                    ErrorKind::Truncated,
                    &format!("the output token limit was reached {place}"),
                );
            }
            None => Some(FinishReason::Length),
        },
        Ending::Whole(FinishReason::Other(name)) if name.is_empty() => {
            if is_empty {
                let message = "the reply has neither an answer nor a reason to stop";
                return Err(LlmError::new(ErrorKind::ServerError, message));
            }
            (!tool_calls.is_empty()).then_some(FinishReason::ToolCalls)
        }
        Ending::Whole(FinishReason::Other(_)) if is_empty => {
            return fail(ErrorKind::ModelFault, "the model stopped without an answer");
        }
        Ending::Whole(FinishReason::Stop) if !tool_calls.is_empty() => Some(FinishReason::ToolCalls),
        Ending::Whole(reason) => Some(reason),
    };
    metadata.finish_reason = finish_reason;
    metadata.tool_calls = tool_calls;
    metadata.reasoning = unless_empty(reasoning);
    metadata.turn = turn;
    metadata.logprobs = unless_empty(logprobs(&candidate));
    metadata.citations = unless_empty(citations(&mut candidate));
    metadata.media = unless_empty(media);
    let mut response = LlmResponse::new(output).with_metadata(metadata);
    response.usage = usage;
    Ok(response)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::prompt::Prompt;

    const WHOLE: &str = r#"{"candidates":[{"content":{"parts":[{"text":"thought","thought":true},{"text":"4"},{"functionCall":{"name":"f","args":{}}}],"role":"model"},"finishReason":"CONTINUATION","continuationToken":"t","index":0}],"promptFeedback":{"blockReason":"SAFETY"},"usageMetadata":{"promptTokenCount":10,"candidatesTokenCount":8,"totalTokenCount":41,"thoughtsTokenCount":23},"modelVersion":"m","responseId":"r"}"#;
    const ERROR: &str = r#"[{"error":{"code":429,"message":"limit: 7","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaMetric":"input_token_count","quotaId":"TokensPerMinute","quotaValue":"1"}]},{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"48s"}]}}]"#;

    /// The text with one character put in, cut, or doubled somewhere.
    fn mutated(text: &'static str) -> impl Strategy<Value = Vec<u8>> {
        (0..text.len(), 0..text.len(), any::<u8>(), 0..4).prop_map(move |(from, to, byte, how)| {
            let mut body = text.as_bytes().to_vec();
            let (from, to) = (from.min(to), from.max(to));
            match how {
                0 => body[from] = byte,
                1 => drop(body.drain(from..to)),
                2 => body.truncate(from),
                _ => {
                    let piece = body[from..to].to_vec();
                    body.splice(from..from, piece);
                }
            }
            body
        })
    }

    fn reply(status: u16, body: Vec<u8>) -> Reply {
        Reply::for_test(status, body)
    }

    proptest! {
        #[test]
        fn mutated_bodies_never_panic(
            whole in mutated(WHOLE),
            error in mutated(ERROR),
            status in prop_oneof![Just(200u16), Just(429), Just(403)],
        ) {
            let prompt = Prompt::new("x".repeat(100));
            let ask = Ask {
                model: "m",
                prompt: &prompt,
                defaults: &Prompt::default(),
                streamed: false,
                context_cache: Some("cachedContents/1"),
                throttled_before: true,
            };
            let first = reply(200, WHOLE.as_bytes().to_vec());
            for body in [whole, error] {
                let mut reply = reply(status, body);
                let _ = read(&reply, &ask, true);
                let _ = super::super::continuation::next(b"{\"contents\":[]}", &reply);
                if super::super::continuation::join(&first, &mut reply) {
                    let _ = read(&reply, &ask, false);
                }
            }
        }

        #[test]
        fn mutated_streams_never_panic(chunks in prop::collection::vec(prop_oneof![mutated(WHOLE), mutated(ERROR)], 0..4)) {
            let mut assembled = Box::<Chunks>::default();
            for chunk in &chunks {
                let _ = assembled.push("message", &String::from_utf8_lossy(chunk));
            }
            let _ = (assembled.is_complete(), assembled.into_body());
        }
    }
}
