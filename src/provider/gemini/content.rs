//! The system text and the messages of a prompt, as requests and context caches carry them.

use std::collections::HashMap;

use serde::ser::{Error as _, SerializeSeq as _};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::options::SchemaForm;
use super::tools;
use crate::error::LlmError;
use crate::prompt::{ImageDetail, Message, Part, Prompt, Role, ToolCall};
use crate::provider::content::NOTHING_LEFT;
use crate::provider::request::{arguments, check_message, refuse};
use crate::provider::wire::digits::{self, Restored};
use crate::response::Wire;

/// The fields that hold the arguments and the result of a call.
pub(super) const OBJECTS: &[&str] = &["args", "response"];

/// Returns the parts of a context cache: the fields of its content, in which [`Restored`] writes the [objects](OBJECTS) with all digits.
pub(super) fn content_fields(content: &Prompt, form: SchemaForm) -> Result<Map<String, Value>, LlmError> {
    let failed = |error| {
        refuse(format!(
            "the content of the context cache cannot be written as JSON: {error}"
        ))
    };
    content.messages().iter().try_for_each(check_message)?;
    let mut fields = Map::new();
    let text = serde_json::to_string(&Contents(content)).map_err(failed)?;
    let mut contents: Value = serde_json::from_str(&text).map_err(failed)?;
    digits::keep(&mut contents, text.as_bytes(), OBJECTS);
    if contents.get(0).is_some() {
        fields.insert("contents".to_owned(), contents);
    }
    if let Some(system) = SystemInstruction::of(content, None) {
        let system = serde_json::to_value(system).map_err(failed)?;
        fields.insert("systemInstruction".to_owned(), system);
    }
    if let Some(tools) = tools::tools(content.tools(), form)? {
        fields.insert("tools".to_owned(), tools);
    }
    fields.extend(content.extra().clone());
    Ok(fields)
}

/// The turns of user and model. Results of tools in a row are one turn, as the provider wants as many as there were calls.
pub(super) struct Contents<'a>(pub(super) &'a Prompt);

impl Serialize for Contents<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut calls = HashMap::new();
        let is_application = |message: &&Message| matches!(message.role, Role::System | Role::Developer);
        // Those are part of the system instruction. Reasoning of another provider alone is not a turn.
        let messages: Vec<_> = self
            .0
            .messages()
            .iter()
            .filter(|message| !is_application(message) && !is_foreign_reasoning(message))
            .collect();
        if self.0.messages().iter().any(|message| message.content.is_empty()) {
            return Err(S::Error::custom(NOTHING_LEFT));
        }
        if messages.is_empty() && self.0.messages().iter().any(is_foreign_reasoning) {
            return Err(S::Error::custom(NOTHING_LEFT));
        }
        let mut list = serializer.serialize_seq(None)?;
        let are_results = |a: &&Message, b: &&Message| a.role == Role::Tool && b.role == Role::Tool;
        for turn in messages.chunk_by(are_results) {
            let role = if turn[0].role == Role::Assistant {
                "model"
            } else {
                "user"
            };
            let parts = turn.iter().flat_map(|message| &message.content);
            // A result answers the nearest call of its identifier, as servers may number the calls of each answer anew.
            calls.extend(parts.clone().filter_map(called));
            let parts = parts_of(parts, &calls).map_err(S::Error::custom)?;
            list.serialize_element(&Turn { parts, role })?;
        }
        list.end()
    }
}

/// Returns `true` for a turn of reasoning alone that is not this provider's.
fn is_foreign_reasoning(message: &Message) -> bool {
    let own = |part: &Part| matches!(part, Part::Reasoning { parts, .. } if parts.iter().any(is_thought));
    message.is_reasoning_alone(Wire::GenerateContent) && !message.content.iter().any(own)
}

fn is_thought(part: &Value) -> bool {
    part.get("thought").is_some()
}

/// The identifier of a call and the name of its tool, for a part that is a call.
fn called(part: &Part) -> Option<(&str, &str)> {
    // The plain form has the identifier also of a call that was given none.
    let part = match part {
        Part::Native { elsewhere, .. } => elsewhere.as_deref()?,
        part => part,
    };
    match part {
        Part::ToolCall(call) => Some((call.id.as_str(), call.name.as_str())),
        Part::Json { value } => {
            let call = value.get("functionCall")?;
            Some((call.get("id")?.as_str()?, call.get("name")?.as_str()?))
        }
        _ => None,
    }
}

/// The system text, and the messages of the application: this wire has one place for both.
pub(super) struct SystemInstruction<'a> {
    text: Option<&'a str>,
    prompt: &'a Prompt,
}

impl<'a> SystemInstruction<'a> {
    pub(super) fn of(prompt: &'a Prompt, default: Option<&'a str>) -> Option<Self> {
        let instruction = Self {
            text: prompt.system().or(default),
            prompt,
        };
        let is_empty = instruction.text.is_none() && instruction.messages().next().is_none();
        (!is_empty).then_some(instruction)
    }

    fn messages(&self) -> impl Iterator<Item = &'a Message> + use<'a> {
        let messages = self.prompt.messages().iter();
        messages.filter(|message| matches!(message.role, Role::System | Role::Developer))
    }
}

impl Serialize for SystemInstruction<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = self.text.map(Part::text);
        let messages = self.messages().flat_map(|message| &message.content);
        let parts = parts_of(text.iter().chain(messages), &HashMap::new()).map_err(S::Error::custom)?;
        // Google's clients send this role, which means nothing here.
        Turn { parts, role: "user" }.serialize(serializer)
    }
}

#[derive(Serialize)]
struct Turn<'a> {
    parts: Vec<WirePart<'a>>,
    role: &'static str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum WirePart<'a> {
    Text {
        text: &'a str,
    },
    #[serde(rename_all = "camelCase")]
    Inline {
        inline_data: InlineData<'a>,
    },
    #[serde(rename_all = "camelCase")]
    File {
        file_data: FileData<'a>,
    },
    #[serde(rename_all = "camelCase")]
    Call {
        function_call: FunctionCall<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        thought_signature: Option<&'a str>,
    },
    #[serde(rename_all = "camelCase")]
    Response {
        function_response: FunctionResponse<'a>,
    },
    #[serde(serialize_with = "restored")]
    Json(&'a Value),
}

/// Writes a value with all digits of the calls and results in it.
fn restored<S: Serializer>(value: &&Value, serializer: S) -> Result<S::Ok, S::Error> {
    let names = OBJECTS;
    Restored { value, names }.serialize(serializer)
}

#[derive(Serialize)]
struct FunctionCall<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    name: &'a str,
    args: &'a RawValue,
}

#[derive(Serialize)]
struct FunctionResponse<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    name: &'a str,
    response: Response<'a>,
}

/// The result of a function, which has to be an object.
#[derive(Serialize)]
#[serde(untagged)]
enum Response<'a> {
    Object(&'a RawValue),
    Output { output: Output<'a> },
    Error { error: Output<'a> },
}

#[derive(Serialize)]
#[serde(untagged)]
enum Output<'a> {
    Text(&'a str),
    Texts(Vec<&'a str>),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct InlineData<'a> {
    mime_type: &'a str,
    data: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FileData<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    mime_type: Option<&'static str>,
    file_uri: &'a str,
}

/// The parts of a turn. `calls` has the names of the tools by the calls' identifiers.
fn parts_of<'a>(
    parts: impl Iterator<Item = &'a Part>,
    calls: &HashMap<&'a str, &'a str>,
) -> Result<Vec<WirePart<'a>>, String> {
    let mut wire = Vec::new();
    for item in parts.filter_map(|part| part.on(Wire::GenerateContent)) {
        match item {
            Part::Reasoning { parts, .. } => {
                let own = parts.iter().filter(|part| is_thought(part));
                wire.extend(own.map(WirePart::Json));
            }
            Part::ToolResult {
                id,
                content,
                is_error,
            } => {
                let name = calls.get(id.as_str()).ok_or_else(|| {
                    format!("the tool result {id:?} answers no call of the prompt; Gemini needs the name of its tool")
                })?;
                wire.push(WirePart::Response {
                    function_response: FunctionResponse {
                        id: ToolCall::given_id(id),
                        name,
                        response: response(content, *is_error)?,
                    },
                });
            }
            item => wire.push(part(item)?),
        }
    }
    // A blank text beside other parts, as other servers put it beside calls, says nothing.
    if !wire.iter().all(is_blank) {
        wire.retain(|part| !is_blank(part));
    }
    if wire.is_empty() {
        return Err(NOTHING_LEFT.to_owned());
    }
    Ok(wire)
}

fn is_blank(part: &WirePart<'_>) -> bool {
    matches!(part, WirePart::Text { text } if text.trim().is_empty())
}

fn response(content: &[Part], is_error: bool) -> Result<Response<'_>, &'static str> {
    let mut texts = Vec::new();
    for part in content {
        match part {
            Part::Text { text } => texts.push(text.as_str()),
            _ => {
                return Err(
                    "a tool result has a part that is not text, which is all that Gemini takes there",
                );
            }
        }
    }
    let output = match texts.as_slice() {
        [text] => {
            let object = serde_json::from_str::<&RawValue>(text.trim());
            if let (Ok(object), true, false) = (object, text.trim().starts_with('{'), is_error) {
                return Ok(Response::Object(object));
            }
            Output::Text(text)
        }
        [] => Output::Text(""),
        _ => Output::Texts(texts),
    };
    Ok(if is_error {
        Response::Error { error: output }
    } else {
        Response::Output { output }
    })
}

fn part(part: &Part) -> Result<WirePart<'_>, String> {
    Ok(match part {
        Part::Text { text } => WirePart::Text { text },
        Part::Image {
            detail: Some(ImageDetail::Low),
            ..
        } => {
            return Err(
                "Gemini has no detail of one image, so it cannot be low; leave the detail out, or set \
                 generationConfig.mediaResolution for all of them"
                    .to_owned(),
            );
        }
        Part::Image { url, .. } => match url.strip_prefix("data:") {
            Some(data) => {
                let (head, data) = data.split_once(',').ok_or("an image's data URL has no data")?;
                let head = head
                    .strip_suffix(";base64")
                    .ok_or("an image's data URL is not base64")?;
                let kind = head.split(';').next().unwrap_or_default();
                WirePart::Inline {
                    inline_data: InlineData {
                        mime_type: if kind.is_empty() { "image/png" } else { kind },
                        data,
                    },
                }
            }
            None => WirePart::File {
                file_data: FileData {
                    mime_type: mime_type(url),
                    file_uri: url,
                },
            },
        },
        Part::ToolCall(call) => WirePart::Call {
            function_call: FunctionCall {
                id: ToolCall::given_id(&call.id),
                name: &call.name,
                args: arguments(call).map_err(|error| error.message().to_owned())?,
            },
            thought_signature: call.signature.as_deref(),
        },
        Part::Json { value } => WirePart::Json(value),
        Part::ToolResult { .. } | Part::Reasoning { .. } | Part::Native { .. } => {
            return Err("a system text may hold texts and images alone".to_owned());
        }
    })
}

/// The type of a file by the end of its address; none if that says nothing.
fn mime_type(url: &str) -> Option<&'static str> {
    let path = url.split(['?', '#']).next().unwrap_or(url);
    let name = path.rsplit('/').next()?;
    let (_, extension) = name.rsplit_once('.')?;
    Some(match extension.to_ascii_lowercase().as_str() {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "webp" => "image/webp",
        "gif" => "image/gif",
        "heic" => "image/heic",
        "heif" => "image/heif",
        "pdf" => "application/pdf",
        _ => return None,
    })
}
