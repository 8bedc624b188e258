//! The input of a request: a text, or a list of items.

use std::collections::HashSet;

use serde::ser::{Error as _, SerializeSeq as _};
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::prompt::{ImageDetail, Message, Part, Role, ToolCall};
use crate::provider::content::{NOTHING_LEFT, with_ends};
use crate::response::Wire;

/// A single text of the user, or the list of items: messages, calls and their results.
pub(super) struct Input<'a>(pub(super) &'a [Message]);

impl Serialize for Input<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let [message] = self.0
            && message.role == Role::User
            && let [Part::Text { text }] = message.content.as_slice()
        {
            return serializer.serialize_str(text);
        }
        let custom = custom_calls(self.0);
        let mut list = serializer.serialize_seq(None)?;
        let mut is_empty = !self.0.is_empty();
        for (message, is_end) in with_ends(self.0) {
            for item in items(message, is_end, &custom).map_err(S::Error::custom)? {
                is_empty = false;
                list.serialize_element(&item)?;
            }
        }
        if is_empty {
            return Err(S::Error::custom(NOTHING_LEFT));
        }
        list.end()
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum Item<'a> {
    Message {
        /// OpenAI does without it; llama.cpp's server takes no words of the assistant that lack it.
        r#type: &'static str,
        role: &'static str,
        content: Content<'a>,
    },
    Call {
        r#type: &'static str,
        call_id: &'a str,
        name: &'a str,
        arguments: &'a str,
    },
    Result {
        r#type: &'static str,
        call_id: &'a str,
        output: Content<'a>,
    },
    Json(&'a Value),
}

impl<'a> Item<'a> {
    const fn message(role: &'static str, content: Content<'a>) -> Self {
        Self::Message {
            r#type: "message",
            role,
            content,
        }
    }
}

/// The calls whose input is text, which have results of a type of their own.
fn custom_calls(messages: &[Message]) -> HashSet<&str> {
    let parts = messages.iter().flat_map(|message| &message.content);
    let parts = parts.filter_map(|part| part.on(Wire::Responses));
    parts
        .filter_map(|part| match part {
            Part::Json { value } if value.get("type")? == "custom_tool_call" => {
                value.get("call_id")?.as_str()
            }
            _ => None,
        })
        .collect()
}

/// The items of a message, which may end the turn; none for reasoning alone. A part that cannot be message content is an item
/// of its own.
fn items<'a>(
    message: &'a Message,
    is_end: bool,
    custom: &HashSet<&str>,
) -> Result<Vec<Item<'a>>, &'static str> {
    if is_end && message.is_reasoning_alone(Wire::Responses) {
        return Ok(Vec::new());
    }
    // What the model said itself has a type of its own.
    let (role, text_type) = match message.role {
        Role::System => ("system", "input_text"),
        Role::Developer => ("developer", "input_text"),
        Role::User | Role::Tool => ("user", "input_text"),
        Role::Assistant => ("assistant", "output_text"),
    };
    if let [Part::Text { text }] = message.content.as_slice() {
        let content = Content::Text(text);
        return Ok(vec![Item::message(role, content)]);
    }
    let mut items = Vec::new();
    let mut content = Vec::new();
    for part in &message.content {
        let is_own = matches!(
            part,
            Part::Native {
                wire: Wire::Responses,
                ..
            }
        );
        let Some(part) = part.on(Wire::Responses) else {
            continue;
        };
        let before = items.len();
        match part {
            Part::ToolCall(ToolCall { id, name, .. }) => {
                let Part::ToolCall(call) = part else { continue };
                items.push(Item::Call {
                    r#type: "function_call",
                    call_id: id,
                    name,
                    arguments: call.arguments_or_empty(),
                });
            }
            Part::ToolResult { id, content, .. } => items.push(Item::Result {
                r#type: if custom.contains(id.as_str()) {
                    "custom_tool_call_output"
                } else {
                    "function_call_output"
                },
                call_id: id,
                output: Content::of_result(content)?,
            }),
            // Without its encrypted content the server would look for an item that it did not keep.
            Part::Reasoning { parts, .. } => {
                items.extend(parts.iter().filter(|part| is_encrypted(part)).map(Item::Json))
            }
            Part::Json { value } if is_own || is_item(value) => items.push(Item::Json(value)),
            part => content.extend(WirePart::new(part, text_type)),
        }
        if items.len() > before && !content.is_empty() {
            let content = Content::Parts(std::mem::take(&mut content));
            items.insert(before, Item::message(role, content));
        }
    }
    if !content.is_empty() {
        let content = match content.as_slice() {
            [WirePart::Text { text, .. }] => Content::Text(text),
            _ => Content::Parts(content),
        };
        items.push(Item::message(role, content));
    }
    if items.is_empty() && !message.is_reasoning_alone(Wire::Responses) {
        return Err(NOTHING_LEFT);
    }
    // The provider refuses reasoning that nothing follows.
    while is_end && matches!(items.last(), Some(Item::Json(item)) if is_encrypted(item)) {
        items.pop();
    }
    Ok(items)
}

fn is_encrypted(part: &Value) -> bool {
    part.get("type").is_some_and(|kind| kind == "reasoning")
        && part.get("encrypted_content").is_some_and(Value::is_string)
}

/// Returns `true` for a JSON part that is an item, not a piece of a message's content.
fn is_item(value: &Value) -> bool {
    let kind = value.get("type").and_then(Value::as_str).unwrap_or_default();
    matches!(kind, "message" | "reasoning" | "item_reference" | "compaction")
        || kind.ends_with("_call")
        || kind.ends_with("_call_output")
}

/// A text, or parts. A text alone needs no type.
#[derive(Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Text(&'a str),
    Parts(Vec<WirePart<'a>>),
}

impl<'a> Content<'a> {
    fn of_result(parts: &'a [Part]) -> Result<Self, &'static str> {
        Ok(match parts {
            [] => Self::Text(""),
            [Part::Text { text }] => Self::Text(text),
            parts => {
                let parts: Option<_> = parts
                    .iter()
                    .map(|part| WirePart::new(part, "input_text"))
                    .collect();
                Self::Parts(
                    parts.ok_or("a tool result has a part that only a message of the assistant may have")?,
                )
            }
        })
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum WirePart<'a> {
    Text {
        r#type: &'a str,
        text: &'a str,
    },
    Image {
        r#type: &'a str,
        image_url: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        detail: Option<ImageDetail>,
    },
    Json(&'a Value),
}

impl<'a> WirePart<'a> {
    fn new(part: &'a Part, text_type: &'static str) -> Option<Self> {
        Some(match part {
            Part::Text { text } => Self::Text {
                r#type: text_type,
                text,
            },
            Part::Image { url, detail } => Self::Image {
                r#type: "input_image",
                image_url: url,
                detail: *detail,
            },
            Part::Json { value } => Self::Json(value),
            Part::ToolCall(_) | Part::ToolResult { .. } | Part::Reasoning { .. } | Part::Native { .. } => {
                return None;
            }
        })
    }
}
