//! The system text and the messages of a prompt, as requests and context caches carry them.

use serde::ser::{Error as _, SerializeSeq as _};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::error::LlmError;
use crate::prompt::{Message, Part, Prompt, Role};
use crate::provider::request::refuse;

/// Returns the parts of a context cache: the fields of its content.
pub(super) fn content_fields(content: &Prompt) -> Result<Map<String, Value>, LlmError> {
    let failed = |error| {
        refuse(format!(
            "the content of the context cache cannot be written as JSON: {error}"
        ))
    };
    let mut fields = Map::new();
    let contents = serde_json::to_value(Contents(content)).map_err(failed)?;
    if contents.get(0).is_some() {
        fields.insert("contents".to_owned(), contents);
    }
    if let Some(system) = SystemInstruction::of(content, None) {
        let system = serde_json::to_value(system).map_err(failed)?;
        fields.insert("systemInstruction".to_owned(), system);
    }
    fields.extend(content.extra().clone());
    Ok(fields)
}

/// The turns of user and model.
pub(super) struct Contents<'a>(pub(super) &'a Prompt);

impl Serialize for Contents<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        for Message { role, content } in self.0.messages() {
            let role = match role {
                Role::User => "user",
                Role::Assistant => "model",
                // Part of the system instruction.
                Role::System => continue,
            };
            list.serialize_element(&Turn {
                parts: Parts(content),
                role,
            })?;
        }
        list.end()
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
        messages.filter(|message| message.role == Role::System)
    }
}

impl Serialize for SystemInstruction<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = self.text.map(Part::text);
        let messages = self.messages().flat_map(|message| &message.content);
        let parts: Vec<&Part> = text.iter().chain(messages).collect();
        // Google's clients send this role, which means nothing here.
        Turn {
            parts: Parts(&parts),
            role: "user",
        }
        .serialize(serializer)
    }
}

#[derive(Serialize)]
#[serde(bound = "P: std::borrow::Borrow<Part>")]
struct Turn<'a, P> {
    parts: Parts<'a, P>,
    role: &'static str,
}

struct Parts<'a, P>(&'a [P]);

impl<P: std::borrow::Borrow<Part>> Serialize for Parts<'_, P> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.0.len()))?;
        for item in self.0 {
            let wire = part(std::borrow::Borrow::borrow(item)).map_err(S::Error::custom)?;
            list.serialize_element(&wire)?;
        }
        list.end()
    }
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
    Json(&'a Value),
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

fn part(part: &Part) -> Result<WirePart<'_>, &'static str> {
    Ok(match part {
        Part::Text { text } => WirePart::Text { text },
        Part::Image { url } => match url.strip_prefix("data:") {
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
        Part::Json { value } => WirePart::Json(value),
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
