//! The content beside text in the answers of both wires: log probabilities, annotations, images and audio.

use serde_json::Value;

use super::json::Json;
use crate::provider::content::{file, owned, source, text, unless_empty};
use crate::response::{Citation, Citations, Logprobs, MediaFile, TokenLogprob};

/// The log probabilities in a list of tokens.
pub(super) fn logprobs(tokens: &Value) -> Option<Box<Logprobs>> {
    unless_empty(Logprobs {
        tokens: token_logprobs(Some(tokens)),
        mean: None,
    })
}

fn token_logprobs(tokens: Option<&Value>) -> Vec<TokenLogprob> {
    let tokens = tokens.and_then(Value::as_array).into_iter().flatten();
    tokens.filter_map(token_logprob).collect()
}

fn token_logprob(value: &Value) -> Option<TokenLogprob> {
    let byte = |byte: &Value| u8::try_from(byte.as_u64()?).ok();
    let bytes = value.get("bytes").and_then(Value::as_array);
    Some(TokenLogprob {
        token: value.get("token")?.as_str()?.to_owned(),
        logprob: value.get("logprob")?.as_f64()?,
        bytes: bytes.and_then(|bytes| bytes.iter().map(byte).collect()),
        top: token_logprobs(value.get("top_logprobs")),
    })
}

/// The sources of annotations. Those of a chat completion stand in a field named as their type, those of a response in
/// the annotation itself.
pub(super) fn citations(parts: Vec<Value>) -> Citations {
    Citations {
        sources: parts.iter().filter_map(annotated).collect(),
        parts,
    }
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
    let recording = MediaFile {
        id: owned(audio, "id"),
        transcript: owned(audio, "transcript"),
        ..file(None, owned(audio, "data"))
    };
    (recording != MediaFile::default()).then_some(recording)
}

/// Takes a list out of an object; null and anything else is an empty one.
pub(super) fn take_list(json: &mut Json<'_>, name: &str) -> Vec<Value> {
    match json.take(name) {
        Some(Json::List(list)) => list.into_iter().map(Value::from).collect(),
        _ => Vec::new(),
    }
}
