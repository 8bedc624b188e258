//! The providers' wire formats: each parses requests and writes answers and rejections of one model.

mod cached_contents;
mod chat;
mod gemini;
mod messages;
pub(super) mod openai;
mod prompt;
mod responses;

use std::fmt::Display;

use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value};

use super::answer::{Answer, Question};
use super::cache::Mark;
use super::rejection::Rejection;
use crate::error::ReportedQuota;

pub(super) use self::chat::Chat;
pub(super) use self::gemini::{Gemini, count_tokens as count_content_tokens, model_and_method, query};
pub(super) use self::messages::{Messages, count_tokens};
pub(super) use self::responses::Responses;

/// The wire format of one provider.
pub(super) trait Wire: Send + Sync {
    /// The key in a request, from this provider's place for it.
    fn key(&self, head: &Parts) -> Option<String>;

    /// Reads a request.
    fn read(&self, head: &Parts, body: Map<String, Value>) -> Result<Asked, Box<Rejection>>;

    /// The answer as one body.
    fn whole(&self, reply: &Reply<'_>) -> Value;

    /// The answer as events, at least two. The stop reason and everything after it are in the last one, so that a stream
    /// without it is incomplete.
    fn events(&self, reply: &Reply<'_>) -> Vec<String>;

    /// The event, or its equivalent, that ends a stream with an error after the events `sent`.
    fn error_event(&self, number: u64, sent: &[String]) -> String;

    /// Returns the keep-alive text for a silent stream, if the provider's own clients tolerate one.
    fn keep_alive(&self) -> Option<&'static str> {
        Some(": keep-alive\n\n")
    }

    /// The headers of an answer.
    fn headers(&self, number: u64, quota: Option<&ReportedQuota>) -> HeaderMap;

    /// The reply to a rejected call.
    fn refuse(&self, rejection: &Rejection, number: u64) -> Refused;

    /// The list of models.
    fn models(&self, model: &str) -> Value;

    /// One model.
    fn model(&self, model: &str) -> Value;
}

/// The content of a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Asked {
    pub(super) question: Question,
    pub(super) streamed: bool,
    /// The wire format cannot express a refusal with a text.
    pub(super) refuses_without_words: bool,
    /// Anthropic's marks for the prompt cache, in order.
    pub(super) marks: Vec<Mark>,
    /// The name of a context cache to prepend to the question.
    pub(super) cached_content: Option<String>,
    /// The request itself, for the fields that an answer repeats.
    pub(super) body: Map<String, Value>,
}

/// An answer to be written.
#[derive(Clone, Copy)]
pub(super) struct Reply<'a> {
    pub(super) number: u64,
    pub(super) model: &'a str,
    pub(super) asked: &'a Asked,
    pub(super) answer: &'a Answer,
}

impl<'a> Reply<'a> {
    /// The call of a tool: its name and its arguments.
    fn call(&self) -> Option<(&'a str, &'a str)> {
        Some((self.answer.called.as_deref()?, &self.answer.text))
    }

    fn call_id(&self) -> String {
        call_id(self.number)
    }
}

pub(super) fn call_id(number: u64) -> String {
    format!("call_sim_{number}")
}

/// A rejection as a wire writes it.
pub(super) struct Refused {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Value,
}

/// The minimum number of characters in a piece of a stream.
const PIECE: usize = 24;
/// The maximum number of pieces in a stream.
const MOST_PIECES: usize = 16;

/// Splits a text into the pieces of a stream.
fn pieces(text: &str) -> Vec<&str> {
    let length = text.chars().count().div_ceil(MOST_PIECES).max(PIECE);
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((end, _)) = rest.char_indices().nth(length) {
        let (piece, tail) = rest.split_at(end);
        pieces.push(piece);
        rest = tail;
    }
    if !rest.is_empty() {
        pieces.push(rest);
    }
    pieces
}

/// The thoughts of the model, if a wire format returns them.
const THOUGHT: &str = "Let me read the question again and work it out step by step.";

fn event(name: &str, data: &Value) -> String {
    format!("event: {name}\ndata: {data}\n\n")
}

/// The texts of a message: a text, or a list of parts with texts, including results of tools.
fn texts(content: Option<&Value>) -> Vec<&str> {
    match content {
        Some(Value::String(text)) => vec![text],
        Some(Value::Array(parts)) => parts
            .iter()
            .flat_map(|part| match part.get("text").and_then(Value::as_str) {
                Some(text) => vec![text],
                // The result of a tool has its own content.
                None => texts(part.get("content")),
            })
            .collect(),
        _ => Vec::new(),
    }
}

/// The schema in an OpenAI-style response format. `at` is its location in there.
fn schema(format: Option<&Value>, at: &str) -> Option<Value> {
    let format = format.filter(|format| format["type"] != "text")?;
    Some(format.pointer(at).cloned().unwrap_or_default())
}

fn header<'a>(head: &'a Parts, name: &str) -> Option<&'a str> {
    head.headers.get(name)?.to_str().ok()
}

fn bearer(head: &Parts) -> Option<String> {
    let value = header(head, AUTHORIZATION.as_str())?;
    Some(value.strip_prefix("Bearer ")?.to_owned())
}

pub(super) fn insert(headers: &mut HeaderMap, name: &str, value: &dyn Display) {
    let name = HeaderName::from_bytes(name.as_bytes());
    if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value.to_string())) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::prompt::question;
    use super::*;
    use crate::prompt::Prompt;
    use proptest::prelude::*;
    use serde_json::json;

    fn head(path: &str) -> Parts {
        let request = http::Request::post(path).header("anthropic-version", "2023-06-01");
        request.body(()).unwrap().into_parts().0
    }

    const PATHS: [(&dyn Wire, &str); 4] = [
        (&Chat, "/v1/chat/completions"),
        (&Responses, "/v1/responses"),
        (&Messages, "/v1/messages"),
        (&Gemini, "/v1beta/models/m:generateContent"),
    ];

    #[test]
    fn the_same_prompt_is_the_same_question_on_every_wire() {
        let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}});
        let parameters = json!({"type": "object", "properties": {"at": {"type": "string"}}});
        let tool = |name: &str| json!({"type": "function", "name": name, "parameters": parameters});
        let prompt = Prompt::new("What is 2 + 3?")
            .with_tool(crate::prompt::Tool::new("look", parameters.clone()))
            .with_tool_choice(crate::prompt::ToolChoice::Required)
            .with_system("Be brief.")
            .with_message(crate::prompt::Message::assistant("5"))
            .with_message(crate::prompt::Message::user("Sure? é日本"))
            .with_model("m")
            .with_max_output_tokens(64)
            .with_output_schema(schema.clone());
        let turns = |roles: [&str; 3], content: fn(&str) -> (&str, Value)| -> Value {
            let turns = roles.into_iter().zip(["What is 2 + 3?", "5", "Sure? é日本"]);
            turns
                .map(|(role, text)| {
                    let (name, content) = content(text);
                    json!({ "role": role, name: content })
                })
                .collect()
        };
        let roles = ["user", "assistant", "user"];
        let mut chat = turns(roles, |text| ("content", text.into()));
        chat.as_array_mut()
            .unwrap()
            .insert(0, json!({"role": "system", "content": "Be brief."}));
        let bodies = [
            json!({"model": "m", "messages": chat, "max_completion_tokens": 64,
                "tools": [tool("other"), {"type": "function", "function": tool("look")}],
                "tool_choice": {"type": "function", "function": {"name": "look"}},
                "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}}),
            json!({"model": "m", "instructions": "Be brief.", "max_output_tokens": 64,
                "tools": [{"type": "web_search"}, tool("look"), tool("other")], "tool_choice": "required",
                "input": turns(roles, |text| ("content", json!([{"type": "input_text", "text": text}]))),
                "text": {"format": {"type": "json_schema", "name": "n", "schema": schema}}}),
            json!({"model": "m", "system": "Be brief.", "max_tokens": 64,
                "tools": [{"type": "web_search_20250305", "name": "web_search"}, {"name": "look", "input_schema": parameters}],
                "tool_choice": {"type": "any"},
                "messages": turns(roles, |text| ("content", json!([{"type": "text", "text": text}]))),
                "output_config": {"format": {"type": "json_schema", "schema": schema}}}),
            json!({"systemInstruction": {"parts": [{"text": "Be brief."}]},
                "contents": turns(["user", "model", "user"], |text| ("parts", json!([{"text": text}]))),
                "tools": [{"functionDeclarations": [{"name": "other"}, {"name": "look", "parametersJsonSchema": parameters}]}],
                "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["look"]}},
                "generationConfig": {"maxOutputTokens": 64, "responseMimeType": "application/json",
                    "responseJsonSchema": schema}}),
        ];
        for ((wire, path), body) in PATHS.into_iter().zip(bodies) {
            let body = body.as_object().unwrap().clone();
            let asked = wire.read(&head(path), body.clone()).unwrap();
            assert_eq!(asked.question, Question::from_prompt(&prompt), "{path}");
            // Also for a raw prompt in the wire format's dialect, except for Gemini's model, which is in the path.
            let mut raw = question(&body);
            raw.model = Some("m".to_owned());
            assert_eq!(raw, asked.question, "{path}");
        }
    }

    #[test]
    fn pieces_are_the_text() {
        for text in ["", "a", &"é日本🙂".repeat(13), &"x".repeat(10_000)] {
            let pieces = pieces(text);
            assert_eq!(pieces.concat(), text);
            assert!(pieces.len() <= MOST_PIECES);
        }
    }

    /// Generates JSON with the field names that the wire formats use.
    fn body() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "(tool|text|ephemeral|1h|enabled|json_schema|#|object|array|-1s|é|)".prop_map(Value::from),
        ];
        let names = "(messages|content|role|parts|text|contents|input|instructions|system|type|schema|format|stream|tools|\
            tool_choice|name|cache_control|ttl|max_tokens|thinking|budget_tokens|generationConfig|responseSchema|\
            responseMimeType|output_config|input_schema|properties|items|anyOf|allOf|[$]ref|minItems|minimum|required)";
        let inside = move |inner: BoxedStrategy<Value>| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::vec((names, inner), 0..6)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        };
        leaf.prop_recursive(6, 60, 6, move |inner| inside(inner.boxed()))
    }

    proptest! {
        #[test]
        fn any_body_is_answered_or_refused(body in body()) {
            let Value::Object(body) = body else { return Ok(()) };
            for (wire, path) in PATHS {
                let reading = wire.read(&head(path), body.clone());
                let config = super::super::SimulatedProvider::builder().config;
                match reading {
                    Ok(asked) => {
                        let answer = Answer::new(&asked.question, &config, super::super::answer::Variant::Proper);
                        let reply = Reply { number: 1, model: "m", asked: &asked, answer: &answer };
                        wire.whole(&reply);
                        prop_assert!(wire.events(&reply).len() >= 2);
                    }
                    Err(rejection) => drop(wire.refuse(&rejection, 1)),
                }
            }
        }
    }
}
