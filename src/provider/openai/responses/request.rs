//! The request body.

use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::prompt::{Message, Part, Role};
use crate::provider::body::{Fields, RawBody};
use crate::provider::openai::schema::NamedSchema;
use crate::provider::wire_format::Ask;

/// A request for a response, written straight from the prompt.
pub(super) struct Body<'a> {
    pub(super) ask: Ask<'a>,
    pub(super) schema: Option<NamedSchema<'a>>,
}

impl Serialize for Body<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.ask.prompt.raw_body() {
            Some(raw) => RawBody {
                ask: &self.ask,
                raw,
                names_model: true,
                added: if self.ask.streamed {
                    &[("stream", Value::Bool(true))]
                } else {
                    &[]
                },
            }
            .serialize(serializer),
            None => self.serialize_prompt(serializer),
        }
    }
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
        fields.set("input", Some(Input(prompt.messages())))?;
        fields.set("instructions", prompt.system().or(defaults.system()))?;
        fields.set("temperature", prompt.temperature().or(defaults.temperature()))?;
        fields.set("top_p", prompt.top_p().or(defaults.top_p()))?;
        fields.set(
            "max_output_tokens",
            prompt.max_output_tokens().or(defaults.max_output_tokens()),
        )?;
        fields.set("text", self.schema.as_ref().map(Text))?;
        // By default OpenAI keeps every response for 30 days, to be fetched or continued. Here neither happens.
        fields.set("store", Some(false))?;
        if streamed {
            fields.set("stream", Some(true))?;
        }
        fields.end(|_, _| true)
    }
}

/// The form of a structured answer. Unlike in a chat completion, name and schema stand in the format itself.
struct Text<'a>(&'a NamedSchema<'a>);

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Format<'a> {
            r#type: &'static str,
            #[serde(flatten)]
            schema: &'a NamedSchema<'a>,
        }

        #[derive(Serialize)]
        struct Text<'a> {
            format: Format<'a>,
        }

        let format = Format {
            r#type: "json_schema",
            schema: self.0,
        };
        Text { format }.serialize(serializer)
    }
}

/// A single text of the user, or the list of messages.
struct Input<'a>(&'a [Message]);

impl Serialize for Input<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            [
                Message {
                    role: Role::User,
                    content,
                },
            ] if matches!(content.as_slice(), [Part::Text { .. }]) => {
                Content(content, "").serialize(serializer)
            }
            messages => serializer.collect_seq(messages.iter().map(item)),
        }
    }
}

#[derive(Serialize)]
struct Item<'a> {
    /// OpenAI does without it; llama.cpp's server takes no words of the assistant that lack it.
    r#type: &'static str,
    role: &'static str,
    content: Content<'a>,
}

fn item(Message { role, content }: &Message) -> Item<'_> {
    // What the model said itself has a type of its own.
    let (role, text_type) = match role {
        Role::System => ("system", "input_text"),
        Role::User => ("user", "input_text"),
        Role::Assistant => ("assistant", "output_text"),
    };
    Item {
        r#type: "message",
        role,
        content: Content(content, text_type),
    }
}

/// Parts, of which texts have this type. A text alone needs none.
struct Content<'a>(&'a [Part], &'static str);

impl Serialize for Content<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(parts, text_type) = self;
        match parts {
            [Part::Text { text }] => serializer.serialize_str(text),
            parts => serializer.collect_seq(parts.iter().map(|part| WirePart::new(part, text_type))),
        }
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum WirePart<'a> {
    Text { r#type: &'a str, text: &'a str },
    Image { r#type: &'a str, image_url: &'a str },
    Json(&'a Value),
}

impl<'a> WirePart<'a> {
    fn new(part: &'a Part, text_type: &'static str) -> Self {
        match part {
            Part::Text { text } => Self::Text {
                r#type: text_type,
                text,
            },
            Part::Image { url } => Self::Image {
                r#type: "input_image",
                image_url: url,
            },
            Part::Json { value } => Self::Json(value),
        }
    }
}
