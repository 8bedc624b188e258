//! The meaning of a reply.

use serde_json::Value;

use crate::error::LlmError;
use crate::provider::content::{add_passage, file_at, owned, text, unless_empty};
use crate::provider::ending::{Ending, broken, filtered, nothing};
use crate::provider::openai::content::{citations, logprobs, recording, take_list};
use crate::provider::openai::json::Json;
use crate::provider::openai::reply::{Reading, refused, says_error, take_first};
use crate::provider::openai::usage;
use crate::provider::reply::with_usage;
use crate::provider::wire;
use crate::response::{
    Citations, FinishReason, FurtherChoices, LlmResponse, Media, Reasoning, ResponseMetadata,
};
use crate::usage::TokenUsage;

const WHAT: &str = "chat completion";

/// Reads a reply of any status.
pub(super) fn read(reading: Reading<'_>) -> Result<LlmResponse, LlmError> {
    let mut body = reading.body(WHAT)?;
    let usage = usage::of_chat(&body);
    if says_error(&body) {
        return Err(with_usage(reading.error_inside(body), usage));
    }
    let mut choices = match body.take("choices") {
        Some(Json::List(choices)) => choices,
        _ => Vec::new(),
    };
    let Some(choice) = take_first(&mut choices) else {
        return Err(with_usage(reading.unreadable(WHAT, "it has no choices"), usage));
    };
    let mut metadata = reading.metadata(&body);
    // Perplexity's and xAI's sources stand beside the choices.
    let mut found = take_list(&mut body, "search_results");
    let addresses = take_list(&mut body, "citations");
    if found.is_empty() {
        found = addresses;
    }
    metadata.citations = unless_empty(citations(found));
    metadata.further_choices = unless_empty(FurtherChoices {
        choices: choices.into_iter().map(Value::from).collect(),
    });
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
    let reason = choice
        .get("finish_reason")
        .and_then(Json::as_str)
        .unwrap_or_default()
        .to_owned();
    // Some servers send a whole reply in the form of a chunk.
    let message = choice.take("message").filter(|message| !message.is_null());
    let mut message = message.or_else(|| choice.take("delta")).unwrap_or_default();
    let refusal = message.get("refusal").and_then(Json::as_str).unwrap_or_default();
    if !refusal.trim().is_empty() {
        return Err(refused(refusal).into());
    }
    beside_text(&mut message, &mut metadata);
    metadata.logprobs = choice
        .take("logprobs")
        .and_then(|mut logprobs| logprobs.take("content"))
        .filter(|tokens| !tokens.is_null())
        .and_then(|tokens| logprobs(&tokens.into()));
    let mut tool_calls = tool_calls(&mut message);
    keep_digits(&mut tool_calls, &reading.reply.body);
    let content = message.take("content").unwrap_or_default();
    // The older completions put the text into the choice.
    let output = match (content, choice.take("text")) {
        (Json::Other(Value::Null), Some(Json::Text(text))) => text.into_owned(),
        (content, _) => text_of(content),
    };

    let has_content = !tool_calls.is_empty() || metadata.media.is_some();
    let is_empty = output.trim().is_empty() && !has_content;
    let finish_reason = match Ending::of(&reason) {
        Ending::Filtered => return Err(filtered(output).into()),
        Ending::Broken(kind) => return Err(broken(kind, &reason, output).into()),
        Ending::Cut => match reading.truncated(&output, has_content) {
            Some(error) => return Err(error.into()),
            None => Some(FinishReason::Length),
        },
        Ending::Whole(FinishReason::Other(_)) if reason.is_empty() => {
            if is_empty {
                let why = "it has neither an answer nor a reason to stop";
                return Err(reading.unreadable(WHAT, why).into());
            }
            None
        }
        Ending::Whole(FinishReason::Other(_)) if is_empty => return Err(nothing(&reason).into()),
        Ending::Whole(reason) => Some(reason),
    };
    metadata.finish_reason = finish_reason;
    metadata.tool_calls = tool_calls;
    let mut response = LlmResponse::new(output).with_metadata(metadata);
    response.usage = usage;
    Ok(response)
}

/// Moves what a message holds beside text and tool calls to the metadata. The text stays.
fn beside_text(message: &mut Json<'_>, metadata: &mut ResponseMetadata) {
    metadata.reasoning = unless_empty(reasoning(message));
    let annotations = take_list(message, "annotations");
    if !annotations.is_empty() {
        let mut cited = metadata
            .citations
            .take()
            .map_or_else(Citations::default, |cited| *cited);
        let more = citations(annotations);
        cited.sources.extend(more.sources);
        cited.parts.extend(more.parts);
        metadata.citations = Some(Box::new(cited));
    }
    metadata.media = unless_empty(media(message));
}

/// The reasoning beside the text: as one text under either of two names, of which newer servers send both; in
/// OpenRouter's details; and as Mistral's parts of the content.
fn reasoning(message: &mut Json<'_>) -> Reasoning {
    let mut reasoning = Reasoning::default();
    for name in ["reasoning_content", "reasoning"] {
        if let Some(Json::Text(text)) = message.take(name)
            && !text.is_empty()
        {
            reasoning.text = text.into_owned();
        }
    }
    let is_readable = !reasoning.text.is_empty();
    let mut parts = take_list(message, "reasoning_details");
    if let Some(Json::List(content)) = message.get("content") {
        let is_thought = |part: &&Json<'_>| part.get("type").and_then(Json::as_str) == Some("thinking");
        parts.extend(content.iter().filter(is_thought).map(Value::from));
    }
    if !is_readable {
        for part in &parts {
            let thought = match part.get("thinking") {
                Some(Value::Array(texts)) => texts.iter().filter_map(|part| text(part, "text")).collect(),
                Some(Value::String(text)) => text.clone(),
                _ => owned(part, "text")
                    .or_else(|| owned(part, "summary"))
                    .unwrap_or_default(),
            };
            add_passage(&mut reasoning.text, &thought);
        }
    }
    reasoning.parts = parts;
    reasoning
}

/// The images and the recording of a message.
fn media(message: &mut Json<'_>) -> Media {
    let mut media = Media::default();
    let mut images = take_list(message, "images");
    if let Some(Json::List(content)) = message.get("content") {
        let is_image = |part: &&Json<'_>| part.get("type").and_then(Json::as_str) == Some("image_url");
        images.extend(content.iter().filter(is_image).map(Value::from));
    }
    let address = |image: &Value| {
        let image = image.get("image_url")?;
        let url = image.as_str().or_else(|| text(image, "url"))?;
        Some(file_at(url))
    };
    media.images = images.iter().filter_map(address).collect();
    let audio = message.take("audio").map(Value::from);
    media.audio.extend(audio.as_ref().and_then(recording));
    media
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

/// Arguments are text, in which integers keep their digits; some servers send an object.
fn keep_digits(tool_calls: &mut Vec<Value>, body: &[u8]) {
    if tool_calls
        .iter()
        .all(|call| !call.pointer("/function/arguments").is_some_and(Value::is_object))
    {
        return;
    }
    // As a body again, of which only the first choice counts.
    let Ok(mut body_value) = serde_json::from_slice::<Value>(wire::trim(body)) else {
        return;
    };
    wire::digits::keep(&mut body_value, wire::trim(body), &["arguments"]);
    let choices = body_value.get_mut("choices").and_then(Value::as_array_mut);
    let index = |choice: &Value| choice.get("index").and_then(Value::as_u64).unwrap_or_default();
    let first = choices.and_then(|choices| choices.iter_mut().find(|choice| index(choice) == 0));
    let kept = first.and_then(|choice| choice.pointer_mut("/message/tool_calls"));
    if let Some(Value::Array(kept)) = kept.map(Value::take) {
        *tool_calls = kept;
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
