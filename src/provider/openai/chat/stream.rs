//! Chunks of a streamed chat completion, put together.

use serde_json::{Map, Value, json};

use super::fragments::{Parts, Recording};
use crate::provider::openai::json::Json;
use crate::provider::openai::reply::{says_error, take_first};
use crate::provider::streaming::{Assemble, Piece};

/// Fields of a chunk that belong to the whole reply.
const HEAD: [&str; 7] = [
    "id",
    "model",
    "provider",
    "created",
    "system_fingerprint",
    // The sources of Perplexity and xAI, which repeat.
    "citations",
    "search_results",
];

/// A chat completion that comes in chunks.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    /// The fields of the last chunk that had them: id, model, provider.
    head: Map<String, Value>,
    has_choice: bool,
    content: String,
    /// The content where it comes in parts, as that of Mistral's reasoning models; the text is in here as well then.
    parts: Parts,
    /// The reasoning under each of its names: some servers send both.
    reasoning: String,
    reasoning_content: String,
    reasoning_details: Parts,
    refusal: String,
    tool_calls: Vec<Value>,
    annotations: Vec<Value>,
    images: Vec<Value>,
    audio: Recording,
    /// The log probabilities of the tokens so far.
    logprobs: Vec<Value>,
    finish_reason: Option<Value>,
    /// The last usage that a chunk reported. It may come in the last chunk of the answer, or in one of its own after it.
    usage: Option<Value>,
    groq: Option<Value>,
    error: Option<Value>,
    done: bool,
}

impl Assemble for Chunks {
    fn push(&mut self, name: &str, data: &str) -> Piece {
        if data.trim() == "[DONE]" {
            self.done = true;
            return Piece::End;
        }
        let mut chunk: Json<'_> = match serde_json::from_str(data) {
            Ok(chunk @ Json::Object(_)) => chunk,
            _ if name == "error" => {
                self.error = Some(json!({ "error": data }));
                return Piece::End;
            }
            _ => return Piece::Unreadable,
        };
        if let Some(usage) = taken(&mut chunk, "usage") {
            self.usage = Some(usage);
        }
        if let Some(groq) = taken(&mut chunk, "x_groq").filter(|groq| groq.get("usage").is_some()) {
            self.groq = Some(groq);
        }
        if says_error(&chunk) {
            self.error = Some(chunk.into());
            return Piece::End;
        }
        if name == "error" {
            self.error = Some(json!({ "error": Value::from(chunk) }));
            return Piece::End;
        }
        for name in HEAD {
            if let Some(value) = taken(&mut chunk, name) {
                self.head.insert(name.to_owned(), value);
            }
        }
        let Some(Json::List(mut choices)) = chunk.take("choices") else {
            return Piece::Other;
        };
        take_first(&mut choices).map_or(Piece::Other, |choice| self.push_choice(choice))
    }

    fn is_complete(&self) -> bool {
        // Some servers leave the terminator out, and a stream may be cut between the last token and the usage. A reason
        // to stop says that the answer is whole: to ask again would pay for it twice. Its usage is unknown then.
        self.done || self.error.is_some() || self.finish_reason.is_some()
    }

    fn into_body(self: Box<Self>) -> Value {
        if let Some(mut error) = self.error {
            // What was used before the failure.
            for (name, value) in [("usage", self.usage), ("x_groq", self.groq)] {
                if let Some(value) = value {
                    error[name] = value;
                }
            }
            return error;
        }
        let text = |text: String| if text.is_empty() { Value::Null } else { text.into() };
        let content = if self.parts.is_empty() {
            text(self.content)
        } else {
            self.parts.into_value()
        };
        let mut message = json!({ "role": "assistant", "content": content, "refusal": text(self.refusal) });
        for (name, value) in [
            ("reasoning", text(self.reasoning)),
            ("reasoning_content", text(self.reasoning_content)),
            ("reasoning_details", self.reasoning_details.into_value()),
            ("annotations", list(self.annotations)),
            ("images", list(self.images)),
            ("audio", self.audio.into_value()),
        ] {
            if !value.is_null() {
                message[name] = value;
            }
        }
        let mut tool_calls = self.tool_calls;
        if !tool_calls.is_empty() {
            // Only fragments are numbered.
            for call in tool_calls.iter_mut().filter_map(Value::as_object_mut) {
                call.remove("index");
            }
            message["tool_calls"] = tool_calls.into();
        }
        let mut body = self.head;
        body.insert("object".to_owned(), "chat.completion".into());
        if self.has_choice {
            let mut choice = json!({ "index": 0, "message": message, "finish_reason": self.finish_reason });
            if !self.logprobs.is_empty() {
                choice["logprobs"] = json!({ "content": self.logprobs });
            }
            body.insert("choices".to_owned(), json!([choice]));
        }
        if let Some(usage) = self.usage {
            body.insert("usage".to_owned(), usage);
        }
        if let Some(groq) = self.groq {
            body.insert("x_groq".to_owned(), groq);
        }
        Value::Object(body)
    }
}

impl Chunks {
    fn push_choice(&mut self, mut choice: Json<'_>) -> Piece {
        if let Some(error) = taken(&mut choice, "error") {
            self.error = Some(json!({ "error": error }));
            return Piece::End;
        }
        self.has_choice = true;
        if let Some(reason) = taken(&mut choice, "finish_reason") {
            self.finish_reason = Some(reason);
        }
        if let Some(Json::List(tokens)) = choice
            .take("logprobs")
            .and_then(|mut logprobs| logprobs.take("content"))
        {
            self.logprobs.extend(tokens.into_iter().map(Value::from));
        }
        // Some servers put a whole message into a stream.
        let delta = choice.take("delta").filter(|delta| !delta.is_null());
        let Some(Json::Object(delta)) = delta.or_else(|| choice.take("message")) else {
            return Piece::Other;
        };
        let mut piece = Piece::Other;
        for (name, value) in delta {
            match (name.as_str(), value) {
                ("content", Json::Text(text)) if !text.is_empty() => {
                    if self.parts.is_empty() {
                        self.content.push_str(&text);
                    } else {
                        self.parts.push(json!({ "type": "text", "text": text }));
                    }
                    piece = Piece::Token;
                }
                // Mistral's reasoning models send parts.
                ("content", Json::List(parts)) => {
                    if self.parts.is_empty() && !self.content.is_empty() {
                        let text = std::mem::take(&mut self.content);
                        self.parts.push(json!({ "type": "text", "text": text }));
                    }
                    for part in parts {
                        self.parts.push(part.into());
                        piece = Piece::Token;
                    }
                }
                ("reasoning", Json::Text(text)) if !text.is_empty() => {
                    self.reasoning.push_str(&text);
                    piece = Piece::Token;
                }
                ("reasoning_content", Json::Text(text)) if !text.is_empty() => {
                    self.reasoning_content.push_str(&text);
                    piece = Piece::Token;
                }
                ("reasoning_details", Json::List(details)) => {
                    for detail in details {
                        self.reasoning_details.push(detail.into());
                        piece = Piece::Token;
                    }
                }
                ("annotations", Json::List(annotations)) => {
                    self.annotations.extend(annotations.into_iter().map(Value::from));
                }
                ("images", Json::List(images)) => {
                    self.images.extend(images.into_iter().map(Value::from));
                    piece = Piece::Token;
                }
                ("audio", audio @ Json::Object(_)) => {
                    self.audio.push(audio.into());
                    piece = Piece::Token;
                }
                ("refusal", Json::Text(text)) if !text.is_empty() => {
                    self.refusal.push_str(&text);
                    piece = Piece::Token;
                }
                ("tool_calls", Json::List(calls)) => {
                    for call in calls {
                        self.push_tool_call(call.into());
                    }
                    piece = Piece::Token;
                }
                _ => {}
            }
        }
        piece
    }

    /// A fragment of a tool call: the first has id and name, the others pieces of the arguments.
    fn push_tool_call(&mut self, mut fragment: Value) {
        let index = fragment.get("index").and_then(Value::as_u64);
        let id = fragment
            .get("id")
            .and_then(Value::as_str)
            .filter(|id| !id.is_empty());
        // Another id under the same number is another call: some servers number each of them 0.
        let known = self.tool_calls.iter_mut().rev().find(|call| {
            index.is_some()
                && call.get("index").and_then(Value::as_u64) == index
                && id.is_none_or(|id| call.get("id").is_none_or(|known| known == id))
        });
        let Some(call) = known else {
            if fragment.is_object() {
                self.tool_calls.push(fragment);
            }
            return;
        };
        let Some(Value::Object(function)) = fragment.get_mut("function").map(Value::take) else {
            return;
        };
        for (name, value) in function {
            let Value::String(piece) = value else { continue };
            match call.pointer_mut(&format!("/function/{name}")) {
                Some(Value::String(text)) if name == "arguments" => text.push_str(&piece),
                Some(_) => {}
                None => {
                    if let Some(Value::Object(function)) = call.get_mut("function") {
                        function.insert(name, piece.into());
                    }
                }
            }
        }
    }
}

/// A list, or null for an empty one.
fn list(values: Vec<Value>) -> Value {
    if values.is_empty() {
        Value::Null
    } else {
        values.into()
    }
}

/// Takes a field's value unless it is null.
fn taken(json: &mut Json<'_>, name: &str) -> Option<Value> {
    json.take(name).filter(|value| !value.is_null()).map(Value::from)
}
