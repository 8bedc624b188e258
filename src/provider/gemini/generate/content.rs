//! The content of a candidate: text, tool calls, reasoning, files, log probabilities and sources.

use serde_json::{Value, json};

use crate::provider::content::{file, file_at, owned, source, text};
use crate::response::{Citations, Logprobs, Media, MediaFile, ModelTurn, Reasoning, TokenLogprob, Wire};

/// The content of the parts of a candidate.
#[derive(Default)]
pub(super) struct Content {
    pub(super) text: String,
    /// The parts that are function calls.
    pub(super) tool_calls: Vec<Value>,
    pub(super) reasoning: Reasoning,
    pub(super) media: Media,
    pub(super) turn: Option<Box<ModelTurn>>,
}

impl Content {
    pub(super) fn take(candidate: &mut Value) -> Self {
        let mut content = Self::default();
        let parts = candidate.pointer_mut("/content/parts").map(Value::take);
        let Some(Value::Array(parts)) = parts else {
            return content;
        };
        content.turn = ModelTurn::unless_plain(Wire::GenerateContent, &parts);
        for part in parts {
            if part.get("functionCall").is_some() {
                content.tool_calls.push(part);
            } else if part.get("thought") == Some(&Value::Bool(true)) {
                let thought = text(&part, "text").unwrap_or_default();
                content.reasoning.text.push_str(thought);
                content.reasoning.parts.push(part);
            } else if let Some(piece) = part.get("text").and_then(Value::as_str) {
                content.text.push_str(piece);
            } else if let Some(inline) = part.get("inlineData") {
                let inline = file(owned(inline, "mimeType"), owned(inline, "data"));
                add_file(&mut content.media, inline);
            } else if let Some(data) = part.get("fileData")
                && let Some(address) = text(data, "fileUri")
            {
                let linked = MediaFile {
                    mime_type: owned(data, "mimeType"),
                    ..file_at(address)
                };
                add_file(&mut content.media, linked);
            }
        }
        content
    }
}

/// Files a file by its media type.
fn add_file(media: &mut Media, file: MediaFile) {
    let kind = file.mime_type.as_deref().unwrap_or_default();
    let list = match kind.split('/').next() {
        Some("image") => &mut media.images,
        Some("audio") => &mut media.audio,
        _ => &mut media.other,
    };
    list.push(file);
}

pub(super) fn logprobs(candidate: &Value) -> Logprobs {
    let list = |name: &str| {
        let list = candidate.get("logprobsResult")?.get(name)?.as_array();
        list.map(Vec::as_slice)
    };
    let top = list("topCandidates").unwrap_or_default();
    let top_of = |place: usize| top.get(place)?.get("candidates")?.as_array();
    let chosen = list("chosenCandidates").unwrap_or_default().iter().enumerate();
    let tokens = chosen.filter_map(|(place, token)| {
        let top = top_of(place).into_iter().flatten();
        Some(TokenLogprob {
            top: top.filter_map(token_logprob).collect(),
            ..token_logprob(token)?
        })
    });
    Logprobs {
        tokens: tokens.collect(),
        mean: candidate.get("avgLogprobs").and_then(Value::as_f64),
    }
}

/// A certain token may come without its log probability, which is zero then, as Google leaves out zeros.
fn token_logprob(value: &Value) -> Option<TokenLogprob> {
    let logprob = match value.get("logProbability") {
        Some(logprob) => logprob.as_f64()?,
        None => 0.0,
    };
    Some(TokenLogprob {
        token: value.get("token")?.as_str()?.to_owned(),
        logprob,
        ..TokenLogprob::default()
    })
}

/// The sources of the tools that ground an answer, and those that it was recognised to quote.
pub(super) fn citations(candidate: &mut Value) -> Citations {
    let mut citations = Citations::default();
    for name in ["groundingMetadata", "citationMetadata", "urlContextMetadata"] {
        let found = candidate.get_mut(name).map(Value::take).unwrap_or_default();
        if found.as_object().is_none_or(serde_json::Map::is_empty) {
            continue;
        }
        let lists = ["groundingChunks", "citationSources", "citations", "urlMetadata"];
        let entries = lists
            .into_iter()
            .filter_map(|name| found.get(name)?.as_array())
            .flatten();
        citations.sources.extend(entries.filter_map(|entry| {
            let kinds = ["web", "retrievedContext", "maps"];
            let entry = kinds
                .into_iter()
                .find_map(|kind| entry.get(kind))
                .unwrap_or(entry);
            source(
                owned(entry, "uri").or_else(|| owned(entry, "retrievedUrl")),
                owned(entry, "title"),
                owned(entry, "text"),
            )
        }));
        citations.parts.push(json!({ name: found }));
    }
    citations
}
