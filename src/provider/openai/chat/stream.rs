//! Chunks of a streamed chat completion, put together.

use serde_json::{Map, Value, json};

use crate::provider::streaming::{Assemble, Piece};

/// A chat completion that comes in chunks.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    /// The fields of the last chunk that had them: id, model, provider.
    head: Map<String, Value>,
    content: String,
    reasoning: String,
    refusal: String,
    tool_calls: Vec<Value>,
    finish_reason: Option<Value>,
    /// The last usage that a chunk told. It may come in the last chunk of the answer, or in one of its own after it.
    usage: Option<Value>,
    groq: Option<Value>,
    error: Option<Value>,
    done: bool,
}

impl Assemble for Chunks {
    fn push(&mut self, _: &str, data: &str) -> Piece {
        if data.trim() == "[DONE]" {
            self.done = true;
            return Piece::End;
        }
        let Ok(Value::Object(mut chunk)) = serde_json::from_str(data) else {
            return Piece::Other;
        };
        if let Some(error) = chunk.get("error").filter(|error| !error.is_null()) {
            self.error = Some(json!({ "error": error }));
            return Piece::End;
        }
        if let Some(usage) = chunk.remove("usage").filter(|usage| !usage.is_null()) {
            self.usage = Some(usage);
        }
        if let Some(groq) = chunk.remove("x_groq").filter(|groq| groq.get("usage").is_some()) {
            self.groq = Some(groq);
        }
        let choice = match chunk.remove("choices") {
            Some(Value::Array(choices)) => choices.into_iter().next(),
            _ => None,
        };
        for name in ["id", "model", "provider", "created", "system_fingerprint"] {
            if let Some(value) = chunk.remove(name).filter(|value| !value.is_null()) {
                self.head.insert(name.to_owned(), value);
            }
        }
        choice.map_or(Piece::Other, |choice| self.push_choice(choice))
    }

    fn is_complete(&self) -> bool {
        // Some servers leave the terminator out. A reason to stop says as much.
        self.done || self.error.is_some() || self.finish_reason.is_some()
    }

    fn into_body(self: Box<Self>) -> Value {
        if let Some(error) = self.error {
            return error;
        }
        let text = |text: String| if text.is_empty() { Value::Null } else { text.into() };
        let mut message =
            json!({ "role": "assistant", "content": text(self.content), "refusal": text(self.refusal) });
        if !self.reasoning.is_empty() {
            message["reasoning_content"] = self.reasoning.into();
        }
        if !self.tool_calls.is_empty() {
            message["tool_calls"] = self.tool_calls.into();
        }
        let mut body = self.head;
        body.insert("object".to_owned(), "chat.completion".into());
        let choice = json!({ "index": 0, "message": message, "finish_reason": self.finish_reason });
        body.insert("choices".to_owned(), json!([choice]));
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
    fn push_choice(&mut self, mut choice: Value) -> Piece {
        if let Some(error) = choice.get("error").filter(|error| !error.is_null()) {
            self.error = Some(json!({ "error": error }));
            return Piece::End;
        }
        // Only the first choice is read, as in a whole reply.
        if choice.get("index").and_then(Value::as_u64).unwrap_or_default() != 0 {
            return Piece::Other;
        }
        if let Some(reason) = choice.get("finish_reason").filter(|reason| !reason.is_null()) {
            self.finish_reason = Some(reason.clone());
        }
        let Some(Value::Object(delta)) = choice.get_mut("delta").map(Value::take) else {
            return Piece::Other;
        };
        let mut piece = Piece::Other;
        for (name, value) in delta {
            match (name.as_str(), value) {
                ("content", Value::String(text)) if !text.is_empty() => {
                    self.content.push_str(&text);
                    piece = Piece::Token;
                }
                // Mistral's reasoning models send parts.
                ("content", Value::Array(parts)) => {
                    for part in &parts {
                        if let Some(text) = part.get("text").and_then(Value::as_str) {
                            self.content.push_str(text);
                        }
                        piece = Piece::Token;
                    }
                }
                ("reasoning" | "reasoning_content", Value::String(text)) if !text.is_empty() => {
                    self.reasoning.push_str(&text);
                    piece = Piece::Token;
                }
                ("refusal", Value::String(text)) if !text.is_empty() => {
                    self.refusal.push_str(&text);
                    piece = Piece::Token;
                }
                ("tool_calls", Value::Array(calls)) => {
                    for call in calls {
                        self.push_tool_call(call);
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
        let known = self
            .tool_calls
            .iter_mut()
            .find(|call| index.is_some() && call.get("index").and_then(Value::as_u64) == index);
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
