//! The events of a streamed answer, put together.

use serde_json::{Map, Value, json};

use super::response::ARGUMENTS;
use crate::provider::streaming::{Assemble, Piece};
use crate::provider::wire::digits;

/// An answer that comes in chunks, each of the form of a whole reply.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    /// The fields of the last chunk that had them: usage, id, model, feedback on the prompt. Usage repeats and grows, so
    /// that the last one counts.
    head: Map<String, Value>,
    /// The fields of the first candidate that are not content: the reason to stop, its message, a token.
    candidate: Map<String, Value>,
    parts: Vec<Value>,
    error: Option<Value>,
}

impl Chunks {
    pub(super) fn take(&mut self, chunk: Value) -> Piece {
        let Value::Object(mut chunk) = chunk else {
            return Piece::Unreadable;
        };
        if let Some(error) = chunk.get("error").filter(|error| !error.is_null()) {
            self.error = Some(json!({ "error": error }));
            return Piece::Other;
        }
        let candidates = chunk.remove("candidates");
        for (name, value) in chunk {
            if !value.is_null() {
                self.head.insert(name, value);
            }
        }
        let Some(Value::Array(candidates)) = candidates else {
            return Piece::Other;
        };
        // Only the first candidate is read, as in a whole reply.
        let is_first = |candidate: &Value| {
            let index = candidate.get("index").and_then(Value::as_u64);
            index.unwrap_or_default() == 0
        };
        match candidates.into_iter().find(is_first) {
            Some(Value::Object(candidate)) => self.take_candidate(candidate),
            _ => Piece::Other,
        }
    }

    fn take_candidate(&mut self, mut candidate: Map<String, Value>) -> Piece {
        let content = candidate.remove("content");
        merge(&mut self.candidate, candidate);
        let parts = match content {
            Some(Value::Object(mut content)) => content.remove("parts"),
            _ => None,
        };
        let Some(Value::Array(parts)) = parts else {
            return Piece::Other;
        };
        let mut piece = Piece::Other;
        for part in parts {
            let is_empty = part.get("text").is_some_and(|text| text == "");
            if !is_empty {
                piece = Piece::Token;
            }
            self.take_part(part);
        }
        piece
    }

    /// Adds a part, to the last one where both are nothing but text.
    fn take_part(&mut self, part: Value) {
        if let (Some(last), Some(piece)) = (self.parts.last_mut(), plain_text(&part))
            && plain_text(last).is_some()
            && is_thought(last) == is_thought(&part)
            && let Some(Value::String(text)) = last.get_mut("text")
        {
            text.push_str(piece);
            return;
        }
        self.parts.push(part);
    }
}

/// Fields of a candidate that go on from chunk to chunk.
pub(super) const GROWING: [&str; 4] = [
    "logprobsResult",
    "groundingMetadata",
    "citationMetadata",
    "urlContextMetadata",
];

/// Adds the fields of a later chunk's candidate. The last value counts, but log probabilities and sources go on: the numbers
/// by which a passage names its sources count over all chunks.
pub(super) fn merge(candidate: &mut Map<String, Value>, later: Map<String, Value>) {
    for (name, value) in later {
        match (candidate.get_mut(&name), value) {
            (_, Value::Null) => {}
            (Some(Value::Object(before)), Value::Object(after)) if GROWING.contains(&name.as_str()) => {
                // Sources may be repeated from the first on; equal tokens are other tokens.
                extend(before, after, name != "logprobsResult");
            }
            (_, value) => {
                candidate.insert(name, value);
            }
        }
    }
}

/// Appends the lists of `after` to those of `before`, and replaces any other field. With `may_repeat`, a list that begins
/// with what is there already is the whole list once more.
fn extend(before: &mut Map<String, Value>, after: Map<String, Value>, may_repeat: bool) {
    for (name, value) in after {
        match (before.get_mut(&name), value) {
            (Some(Value::Array(list)), Value::Array(more)) if !(may_repeat && more.starts_with(list)) => {
                list.extend(more);
            }
            (_, value) => {
                before.insert(name, value);
            }
        }
    }
}

fn is_thought(part: &Value) -> bool {
    part.get("thought") == Some(&Value::Bool(true))
}

/// The text of a part that is nothing else.
fn plain_text(part: &Value) -> Option<&str> {
    let fields = part.as_object()?;
    let only_text = fields.keys().all(|name| name == "text" || name == "thought");
    fields.get("text").filter(|_| only_text)?.as_str()
}

impl Assemble for Chunks {
    fn push(&mut self, _: &str, data: &str) -> Piece {
        let mut chunk = serde_json::from_str(data);
        if let Ok(chunk) = &mut chunk {
            digits::keep(chunk, data.as_bytes(), &ARGUMENTS);
        }
        match chunk {
            // An error may come as the one element of a list.
            Ok(Value::Array(chunks)) => {
                chunks
                    .into_iter()
                    .fold(Piece::Other, |piece, chunk| match (piece, self.take(chunk)) {
                        (piece, Piece::Other) | (piece @ Piece::Unreadable, _) => piece,
                        (_, piece) => piece,
                    })
            }
            Ok(chunk) => self.take(chunk),
            // The terminator of chat completions, which some gateways send here too.
            Err(_) if data.trim() == "[DONE]" => Piece::Other,
            Err(_) => Piece::Unreadable,
        }
    }

    fn is_complete(&self) -> bool {
        self.error.is_some()
            || self.candidate.contains_key("finishReason")
            || self
                .head
                .get("promptFeedback")
                .is_some_and(|feedback| feedback.get("blockReason").is_some())
    }

    // There is no terminator, and text may come after a reason to stop.
    fn ends_with_stream(&self) -> bool {
        self.error.is_none()
    }

    fn into_body(self: Box<Self>) -> Value {
        if let Some(error) = self.error {
            return error;
        }
        let mut body = Map::new();
        if !self.candidate.is_empty() || !self.parts.is_empty() {
            let mut candidate = self.candidate;
            let mut content = Map::new();
            if !self.parts.is_empty() {
                content.insert("parts".to_owned(), self.parts.into());
                content.insert("role".to_owned(), "model".into());
            }
            candidate.insert("content".to_owned(), content.into());
            body.insert("candidates".to_owned(), json!([candidate]));
        }
        body.extend(self.head);
        Value::Object(body)
    }
}
