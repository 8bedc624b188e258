//! What both wires answer beside text: log probabilities, annotations, images and audio.

use serde_json::Value;

use super::json::Json;
use crate::provider::content::{file, owned, source, text, unless_empty};
use crate::response::{Citation, Citations, Logprobs, MediaFile, TokenLogprob};

/// The log probabilities in a list of tokens.
pub(super) fn logprobs(tokens: &Value) -> Option<Box<Logprobs>> {
    let mut logprobs = Logprobs::default();
    logprobs.tokens = token_logprobs(Some(tokens));
    unless_empty(logprobs)
}

fn token_logprobs(tokens: Option<&Value>) -> Vec<TokenLogprob> {
    let tokens = tokens.and_then(Value::as_array).into_iter().flatten();
    tokens.filter_map(token_logprob).collect()
}

fn token_logprob(value: &Value) -> Option<TokenLogprob> {
    let byte = |byte: &Value| u8::try_from(byte.as_u64()?).ok();
    let mut token = TokenLogprob::default();
    value.get("token")?.as_str()?.clone_into(&mut token.token);
    token.logprob = value.get("logprob")?.as_f64()?;
    token.bytes = value
        .get("bytes")
        .and_then(|bytes| bytes.as_array()?.iter().map(byte).collect());
    token.top = token_logprobs(value.get("top_logprobs"));
    Some(token)
}

/// The sources of annotations. Those of a chat completion stand in a field named as their type, those of a response in
/// the annotation itself.
pub(super) fn citations(parts: Vec<Value>) -> Citations {
    let mut citations = Citations::default();
    citations.sources = parts.iter().filter_map(annotated).collect();
    citations.parts = parts;
    citations
}

fn annotated(part: &Value) -> Option<Citation> {
    // Perplexity and xAI also send bare addresses.
    if let Some(url) = part.as_str() {
        return source(Some(url.to_owned()), None, None);
    }
    let inner = text(part, "type").and_then(|kind| part.get(kind));
    let part = inner.unwrap_or(part);
    source(
        owned(part, "url"),
        owned(part, "title").or_else(|| owned(part, "filename")),
        owned(part, "content").or_else(|| owned(part, "snippet")),
    )
}

/// A recording, as both wires send it.
pub(super) fn recording(audio: &Value) -> Option<MediaFile> {
    let mut recording = file(None, owned(audio, "data"));
    recording.id = owned(audio, "id");
    recording.transcript = owned(audio, "transcript");
    (recording != MediaFile::default()).then_some(recording)
}

/// Takes a list out of an object; null and anything else is an empty one.
pub(super) fn take_list(json: &mut Json<'_>, name: &str) -> Vec<Value> {
    match json.take(name) {
        Some(Json::List(list)) => list.into_iter().map(Value::from).collect(),
        _ => Vec::new(),
    }
}
