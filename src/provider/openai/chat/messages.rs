//! The messages of a request.

use std::borrow::Cow;

use serde::ser::{Error as _, SerializeSeq as _};
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::prompt::{ImageDetail, Message, Part, Prompt, Role, ToolCall};
use crate::provider::content::NOTHING_LEFT;
use crate::provider::openai::presets::Preset;
use crate::response::Wire;

/// The system text and the messages of a prompt.
pub(super) struct Messages<'a> {
    pub(super) system: Option<Cow<'a, str>>,
    pub(super) prompt: &'a Prompt,
    pub(super) preset: &'static Preset,
}

impl Serialize for Messages<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        if let Some(text) = &self.system {
            list.serialize_element(&Turn::new("system", Content::Text(text)))?;
        }
        let mut is_empty = !self.prompt.messages().is_empty();
        for message in self.prompt.messages() {
            if message.content.is_empty() {
                return Err(S::Error::custom(NOTHING_LEFT));
            }
            if message.role == Role::Tool {
                is_empty = false;
                for part in &message.content {
                    if let Part::ToolResult { id, content, .. } = part {
                        let turn = tool_turn(id, content).map_err(S::Error::custom)?;
                        list.serialize_element(&turn)?;
                    }
                }
            } else {
                let turn = self.turn(message).map_err(S::Error::custom)?;
                is_empty &= turn.is_none();
                if let Some(turn) = turn {
                    list.serialize_element(&turn)?;
                }
            }
        }
        if is_empty {
            return Err(S::Error::custom(NOTHING_LEFT));
        }
        list.end()
    }
}

#[derive(Serialize)]
struct Turn<'a> {
    role: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<&'a str>,
    content: Content<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Call<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reasoning_details: Vec<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    audio: Option<&'a Value>,
}

impl<'a> Turn<'a> {
    const fn new(role: &'static str, content: Content<'a>) -> Self {
        Self {
            role,
            tool_call_id: None,
            content,
            tool_calls: Vec::new(),
            reasoning_content: None,
            reasoning_details: Vec::new(),
            audio: None,
        }
    }

    fn has_more_than_content(&self) -> bool {
        !self.tool_calls.is_empty()
            || self.reasoning_content.is_some()
            || !self.reasoning_details.is_empty()
            || self.audio.is_some()
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum Content<'a> {
    /// A turn without words: of calls, reasoning or a recording alone.
    Nothing,
    Text(&'a str),
    Parts(Vec<WirePart<'a>>),
}

#[derive(Serialize)]
#[serde(untagged)]
enum Call<'a> {
    Function {
        id: &'a str,
        r#type: &'static str,
        function: CalledFunction<'a>,
    },
    Json(&'a Value),
}

#[derive(Serialize)]
struct CalledFunction<'a> {
    name: &'a str,
    arguments: &'a str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum WirePart<'a> {
    Text {
        r#type: &'static str,
        text: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache_control: Option<Value>,
    },
    Image {
        r#type: &'static str,
        image_url: ImageUrl<'a>,
    },
    Json(&'a Value),
}

#[derive(Serialize)]
struct ImageUrl<'a> {
    url: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<ImageDetail>,
}

fn call(call: &ToolCall) -> Call<'_> {
    Call::Function {
        id: &call.id,
        r#type: "function",
        function: CalledFunction {
            name: &call.name,
            arguments: call.arguments_or_empty(),
        },
    }
}

fn part(part: &Part) -> Option<WirePart<'_>> {
    Some(match part {
        Part::Text { text } => WirePart::Text {
            r#type: "text",
            text,
            cache_control: None,
        },
        Part::Image { url, detail } => WirePart::Image {
            r#type: "image_url",
            image_url: ImageUrl { url, detail: *detail },
        },
        Part::Json { value } => WirePart::Json(value),
        Part::ToolCall(_) | Part::ToolResult { .. } | Part::Reasoning { .. } | Part::Native { .. } => {
            return None;
        }
    })
}

/// The result of a call: a message of its own.
fn tool_turn<'a>(id: &'a str, content: &'a [Part]) -> Result<Turn<'a>, &'static str> {
    if content.iter().any(|part| matches!(part, Part::Image { .. })) {
        return Err("a tool result has an image, but chat completions take texts alone there");
    }
    if content.iter().any(|item| part(item).is_none()) {
        return Err("a tool result has a part that only a message of the assistant may have");
    }
    let content = match content {
        [] => Content::Text(""),
        [Part::Text { text }] => Content::Text(text),
        parts => Content::Parts(parts.iter().filter_map(part).collect()),
    };
    Ok(Turn {
        tool_call_id: Some(id),
        ..Turn::new("tool", content)
    })
}

impl Messages<'_> {
    /// The turn of a message; none for one of reasoning alone that this server does not take back.
    fn turn<'m>(&self, message: &'m Message) -> Result<Option<Turn<'m>>, &'static str> {
        let role = match message.role {
            Role::Developer if self.preset.developer_role => "developer",
            Role::System | Role::Developer => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        };
        // Only a server that passes the mark on takes it.
        let mark = message.cache.filter(|_| self.preset.cache_marks);
        if let ([Part::Text { text }], None) = (message.content.as_slice(), mark) {
            return Ok(Some(Turn::new(role, Content::Text(text))));
        }
        let mut turn = Turn::new(role, Content::Nothing);
        let mut parts = Vec::new();
        for item in message
            .content
            .iter()
            .filter_map(|part| part.on(Wire::ChatCompletions))
        {
            match item {
                Part::ToolCall(called) => turn.tool_calls.push(call(called)),
                Part::Json { value } if role == "assistant" && is_call(value) => {
                    turn.tool_calls.push(Call::Json(value));
                }
                Part::Json { value } if role == "assistant" && recording(value).is_some() => {
                    turn.audio = recording(value);
                }
                Part::Reasoning { text, parts: details } => {
                    self.set_reasoning(&mut turn, &mut parts, text, details);
                }
                other => parts.extend(part(other)),
            }
        }
        if let Some(ttl) = mark {
            let texts = parts.iter_mut().rev();
            let last = texts.into_iter().find_map(|part| match part {
                WirePart::Text { cache_control, .. } => Some(cache_control),
                _ => None,
            });
            if let Some(last) = last {
                *last = Some(ttl.mark());
            }
        }
        let has_thoughts = parts.iter().any(|part| matches!(part, WirePart::Json(_)));
        let is_left_out = !has_thoughts && !turn.has_more_than_content();
        if is_left_out && message.is_reasoning_alone(Wire::ChatCompletions) {
            return Ok(None);
        }
        turn.content = match parts.as_slice() {
            [
                WirePart::Text {
                    text,
                    cache_control: None,
                    ..
                },
            ] => Content::Text(text),
            [] if turn.has_more_than_content() => Content::Nothing,
            [] => return Err(NOTHING_LEFT),
            _ => Content::Parts(parts),
        };
        Ok(Some(turn))
    }

    /// Sends back the reasoning in the form in which this kind of server sends it.
    fn set_reasoning<'m>(
        &self,
        turn: &mut Turn<'m>,
        parts: &mut Vec<WirePart<'m>>,
        text: &'m str,
        details: &'m [Value],
    ) {
        for detail in details {
            let kind = detail.get("type").and_then(Value::as_str).unwrap_or_default();
            if let Some(Value::String(text)) = detail.get("reasoning_content") {
                // Of a chat completion that was read as a prompt: it goes out as it was.
                turn.reasoning_content = Some(text);
            } else if kind.starts_with("reasoning.") {
                turn.reasoning_details.push(detail);
            } else if kind == "thinking" && detail.get("thinking").is_some_and(Value::is_array) {
                // Mistral's thoughts are parts of the content.
                parts.push(WirePart::Json(detail));
            }
        }
        if details.is_empty() && !text.is_empty() && self.preset.reasoning_content {
            turn.reasoning_content = Some(text);
        }
    }
}

/// The recording that a part refers to, in a field of its own.
fn recording(value: &Value) -> Option<&Value> {
    value.get("audio").filter(|audio| audio.get("id").is_some())
}

/// Returns `true` for a tool call in this wire's form.
fn is_call(value: &Value) -> bool {
    let kind = value.get("type").and_then(Value::as_str);
    matches!(kind, Some("function" | "custom"))
}
