//! The request body.

use std::borrow::Cow;

use serde::ser::SerializeSeq as _;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use crate::prompt::{Message, Part, Prompt, Role};
use crate::provider::body::{Fields, RawBody};
use crate::provider::openai::presets::{Preset, TokenLimitField};
use crate::provider::openai::schema::NamedSchema;
use crate::provider::wire_format::Ask;

/// A chat completion request, written straight from the prompt.
pub(super) struct Body<'a> {
    pub(super) ask: Ask<'a>,
    pub(super) preset: &'static Preset,
    pub(super) token_limit: TokenLimitField,
    pub(super) format: Option<Format<'a>>,
}

/// The form of a structured answer.
pub(super) enum Format<'a> {
    JsonSchema(NamedSchema<'a>),
    /// JSON of any kind. The system text contains the schema.
    JsonObject(&'a Value),
}

impl Serialize for Format<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::JsonSchema(schema) => json!({ "type": "json_schema", "json_schema": schema }),
            Self::JsonObject(_) => json!({ "type": "json_object" }),
        }
        .serialize(serializer)
    }
}

impl Serialize for Body<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.ask.prompt.raw_body() {
            Some(raw) => {
                let for_stream = [("stream", json!(true)), ("stream_options", stream_options())];
                let asks_for_usage = usize::from(self.preset.stream_options);
                RawBody {
                    ask: &self.ask,
                    raw,
                    names_model: true,
                    added: if self.ask.streamed {
                        &for_stream[..=asks_for_usage]
                    } else {
                        &[]
                    },
                }
                .serialize(serializer)
            }
            None => self.serialize_prompt(serializer),
        }
    }
}

/// Without it OpenAI's stream reports no usage. Most servers that always do ignore it.
fn stream_options() -> Value {
    json!({ "include_usage": true })
}

impl Body<'_> {
    fn serialize_prompt<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Ask {
            model,
            prompt,
            defaults,
            streamed,
            ..
        } = self.ask;
        let mut fields = Fields::new(serializer.serialize_map(None)?, &self.ask);
        fields.set("model", Some(model))?;
        fields.set(
            "messages",
            Some(Messages {
                system: self.system(),
                prompt,
            }),
        )?;
        fields.set("temperature", prompt.temperature().or(defaults.temperature()))?;
        fields.set("top_p", prompt.top_p().or(defaults.top_p()))?;
        let name = match self.token_limit {
            TokenLimitField::MaxCompletionTokens => "max_completion_tokens",
            TokenLimitField::MaxTokens => "max_tokens",
        };
        fields.set(name, prompt.max_output_tokens().or(defaults.max_output_tokens()))?;
        let stop = [prompt.stop(), defaults.stop()]
            .into_iter()
            .find(|stop| !stop.is_empty());
        fields.set("stop", stop)?;
        fields.set(self.preset.seed, prompt.seed().or(defaults.seed()))?;
        fields.set("response_format", self.format.as_ref())?;
        if streamed {
            fields.set("stream", Some(true))?;
            fields.set("stream_options", self.preset.stream_options.then(stream_options))?;
        }
        fields.end(|_, _| true)
    }

    /// The system text, which contains the schema where no field does.
    fn system(&self) -> Option<Cow<'_, str>> {
        let own = self.ask.prompt.system().or(self.ask.defaults.system());
        let Some(Format::JsonObject(schema)) = &self.format else {
            return own.map(Cow::Borrowed);
        };
        let told = format!("Answer with JSON alone, of this JSON Schema:\n{schema}");
        Some(match own {
            Some(own) => format!("{own}\n\n{told}").into(),
            None => told.into(),
        })
    }
}

struct Messages<'a> {
    system: Option<Cow<'a, str>>,
    prompt: &'a Prompt,
}

impl Serialize for Messages<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let messages = self.prompt.messages();
        let mut list = serializer.serialize_seq(Some(messages.len() + usize::from(self.system.is_some())))?;
        if let Some(text) = &self.system {
            list.serialize_element(&Turn {
                role: "system",
                content: Content::Text(text),
            })?;
        }
        for Message { role, content } in messages {
            let role = match role {
                Role::System => "system",
                Role::User => "user",
                Role::Assistant => "assistant",
            };
            let content = match content.as_slice() {
                [Part::Text { text }] => Content::Text(text),
                parts => Content::Parts(parts.iter().map(part).collect()),
            };
            list.serialize_element(&Turn { role, content })?;
        }
        list.end()
    }
}

#[derive(Serialize)]
struct Turn<'a> {
    role: &'static str,
    content: Content<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Text(&'a str),
    Parts(Vec<WirePart<'a>>),
}

#[derive(Serialize)]
#[serde(untagged)]
enum WirePart<'a> {
    Text {
        r#type: &'static str,
        text: &'a str,
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
}

fn part(part: &Part) -> WirePart<'_> {
    match part {
        Part::Text { text } => WirePart::Text { r#type: "text", text },
        Part::Image { url } => WirePart::Image {
            r#type: "image_url",
            image_url: ImageUrl { url },
        },
        Part::Json { value } => WirePart::Json(value),
    }
}
