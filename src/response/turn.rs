//! The turn of a model as its provider sent it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::prompt::{Part, ToolCall};

/// The interface of a provider, in whose form a part of a turn is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Wire {
    /// Chat completions.
    ChatCompletions,
    /// OpenAI's Responses.
    Responses,
    /// Anthropic's Messages.
    Messages,
    /// Gemini's `generateContent`.
    GenerateContent,
}

/// The parts of an answer in the provider's form and order, kept where text, reasoning and tool calls alone would not bring
/// the turn back as it was: with parts of the provider's own tools, with thoughts between them, with signed or cited text.
///
/// [`Message::from`](crate::Message) takes the turn from here, so that the provider gets back what it sent.
///
/// ```
/// use llm_batch::LlmResponse;
///
/// /// The searches of an answer of Anthropic's.
/// fn searches(response: &LlmResponse) -> usize {
///     let parts = response.metadata.turn.as_ref().map_or(&[][..], |turn| &turn.parts);
///     parts.iter().filter(|part| part["type"] == "server_tool_use").count()
/// }
/// # assert_eq!(searches(&LlmResponse::new(String::new())), 0);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ModelTurn {
    /// The interface whose form it is.
    pub wire: Wire,
    /// Content blocks of Messages, output items of Responses, parts of `generateContent`.
    pub parts: Vec<Value>,
}

/// The kind of a part. The order is that in which a message without a kept turn has them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Thought,
    Text,
    Call,
    /// Anything else, or one of those with fields that the plain form has no place for.
    Own,
}

impl ModelTurn {
    /// The turn, unless its plain form says the same.
    #[cfg(any(feature = "anthropic", feature = "gemini"))]
    pub(crate) fn unless_plain(wire: Wire, parts: &[Value]) -> Option<Box<Self>> {
        let kinds: Vec<_> = parts.iter().map(|part| kind(wire, part)).collect();
        let is_plain = kinds.is_sorted() && !kinds.contains(&Kind::Own);
        (!is_plain).then(|| Self::new(wire, parts.to_vec()))
    }

    #[cfg(any(feature = "anthropic", feature = "gemini", feature = "openai"))]
    pub(crate) fn new(wire: Wire, parts: Vec<Value>) -> Box<Self> {
        Box::new(Self { wire, parts })
    }

    /// The parts of a message, in order. `response` is the answer's identifier.
    pub(crate) fn message_parts(&self, response: &str) -> Vec<Part> {
        let mut calls = 0;
        let mut message = Vec::with_capacity(self.parts.len());
        for value in &self.parts {
            let mut call = || {
                calls += 1;
                call_part(value, response, calls - 1)
            };
            let kind = kind(self.wire, value);
            message.extend(match kind {
                Kind::Thought => Some(Part::Reasoning {
                    text: thought(self.wire, value),
                    parts: vec![value.clone()],
                }),
                Kind::Text => text(self.wire, value),
                Kind::Call => Some(call()),
                Kind::Own => {
                    let elsewhere = if is_call(self.wire, value) {
                        Some(call())
                    } else {
                        text(self.wire, value)
                    };
                    Some(Part::Native {
                        wire: self.wire,
                        own: Box::new(Part::json(sendable(self.wire, value))),
                        elsewhere: elsewhere.map(Box::new),
                    })
                }
            });
        }
        message
    }
}

/// A call as a part of a message. A call whose input is text, which only OpenAI's wires have, is sent back as it is.
pub(crate) fn call_part(value: &Value, response: &str, number: usize) -> Part {
    let is_custom = matches!(kind_of(value), "custom" | "custom_tool_call");
    match ToolCall::from_wire(value, response, number) {
        Some(call) if !is_custom => Part::ToolCall(call),
        _ => Part::json(value.clone()),
    }
}

fn kind_of(value: &Value) -> &str {
    value.get("type").and_then(Value::as_str).unwrap_or_default()
}

fn is_call(wire: Wire, part: &Value) -> bool {
    match wire {
        Wire::GenerateContent => part.get("functionCall").is_some(),
        _ => matches!(kind_of(part), "tool_use" | "function_call" | "custom_tool_call"),
    }
}

fn kind(wire: Wire, part: &Value) -> Kind {
    // Null and an empty list say nothing.
    let has_only = |names: &[&str]| {
        let fields = part.as_object().into_iter().flatten();
        let mut said = fields.filter(|(_, value)| !value.is_null() && *value != &Value::Array(Vec::new()));
        said.all(|(name, _)| names.contains(&name.as_str()))
    };
    let plain = |kind, names: &[&str]| if has_only(names) { kind } else { Kind::Own };
    if wire == Wire::GenerateContent {
        return if is_call(wire, part) {
            plain(Kind::Call, &["functionCall", "thoughtSignature"])
        } else if part.get("thought") == Some(&Value::Bool(true)) {
            Kind::Thought
        } else if part.get("text").is_some_and(Value::is_string) {
            plain(Kind::Text, &["text", "thought"])
        } else {
            Kind::Own
        };
    }
    match kind_of(part) {
        "thinking" | "redacted_thinking" | "reasoning" => Kind::Thought,
        "text" => plain(Kind::Text, &["type", "text"]),
        "message" => plain(Kind::Text, &["type", "id", "role", "status", "content"]),
        "tool_use" => plain(Kind::Call, &["type", "id", "name", "input"]),
        "function_call" => plain(Kind::Call, CALL_FIELDS),
        "custom_tool_call" => Kind::Call,
        _ => Kind::Own,
    }
}

/// The fields of a call of Responses that its plain form has a place for, or need not have.
pub(crate) const CALL_FIELDS: &[&str] = &["type", "id", "call_id", "name", "arguments", "status"];

/// The text of a part for readers of any provider; none where that says nothing, or only what the model is about to do.
fn text(wire: Wire, part: &Value) -> Option<Part> {
    let string = |value: &Value| value.get("text").and_then(Value::as_str).map(str::to_owned);
    let text = match (wire, kind_of(part)) {
        (Wire::Responses, "message") => {
            if part.get("phase").is_some_and(|phase| phase == "commentary") {
                return None;
            }
            let content = part.get("content").and_then(Value::as_array);
            content.into_iter().flatten().filter_map(string).collect()
        }
        (Wire::Messages, "text") | (Wire::GenerateContent, _) => string(part)?,
        _ => return None,
    };
    (!text.trim().is_empty()).then(|| Part::text(text))
}

fn thought(wire: Wire, part: &Value) -> String {
    let string = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    match wire {
        Wire::GenerateContent => string(part, "text").unwrap_or_default(),
        Wire::Responses => {
            let passages = |name: &str| {
                let list = part.get(name).and_then(Value::as_array).into_iter().flatten();
                list.filter_map(|passage| string(passage, "text"))
                    .collect::<Vec<_>>()
            };
            let content = passages("content");
            let readable = if content.is_empty() {
                passages("summary")
            } else {
                content
            };
            readable.join("\n\n")
        }
        _ => string(part, "thinking").unwrap_or_default(),
    }
}

/// The form in which a part goes back. A message of Responses goes without its identifier, by which a server that keeps its
/// answers would ask for everything else that belongs to it.
fn sendable(wire: Wire, part: &Value) -> Value {
    let mut part = part.clone();
    if wire == Wire::Responses
        && kind_of(&part) == "message"
        && let Some(fields) = part.as_object_mut()
    {
        fields.retain(|name, _| name != "id" && name != "status");
    }
    part
}
