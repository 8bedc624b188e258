//! The request body.

use serde::ser::{SerializeMap as _, SerializeSeq as _};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use crate::prompt::{Message, Part, Prompt, Role};
use crate::provider::model::Ask;
use crate::provider::openai::TokenLimitField;

/// A chat completion request, written straight from the prompt.
pub(super) struct Body<'a> {
    pub(super) ask: Ask<'a>,
    pub(super) token_limit: TokenLimitField,
}

impl Serialize for Body<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.ask.prompt.raw_body() {
            Some(raw) => self.serialize_raw(raw, serializer),
            None => self.serialize_prompt(serializer),
        }
    }
}

impl Body<'_> {
    /// The user's own body, unchanged but for what the prompt sets besides.
    fn serialize_raw<S: Serializer>(
        &self,
        raw: &Map<String, Value>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let extra = self.ask.prompt.extra();
        let model = self.ask.prompt.model().filter(|_| !extra.contains_key("model"));
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in raw {
            match (extra.get(name), model) {
                (Some(value), _) => map.serialize_entry(name, value)?,
                (None, Some(model)) if name == "model" => map.serialize_entry(name, model)?,
                (None, _) => map.serialize_entry(name, value)?,
            }
        }
        if !raw.contains_key("model") && !extra.contains_key("model") {
            map.serialize_entry("model", model.unwrap_or(self.ask.model))?;
        }
        for (name, value) in extra.iter().filter(|(name, _)| !raw.contains_key(*name)) {
            map.serialize_entry(name, value)?;
        }
        if self.ask.streamed {
            for (name, value) in [
                ("stream", json!(true)),
                ("stream_options", json!({ "include_usage": true })),
            ] {
                if !raw.contains_key(name) && !extra.contains_key(name) {
                    map.serialize_entry(name, &value)?;
                }
            }
        }
        map.end()
    }

    fn serialize_prompt<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Ask {
            model,
            prompt,
            defaults,
            streamed,
            ..
        } = self.ask;
        let mut fields = Fields {
            map: serializer.serialize_map(None)?,
            prompt,
            defaults,
        };
        fields.set("model", Some(model))?;
        fields.set(
            "messages",
            Some(Messages {
                system: prompt.system().or(defaults.system()),
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
        fields.set("seed", prompt.seed().or(defaults.seed()))?;
        let schema = prompt.output_schema().or(defaults.output_schema());
        fields.set("response_format", schema.map(response_format))?;
        if streamed {
            fields.set("stream", Some(true))?;
            // Without it OpenAI's stream tells no usage. Servers that always do ignore it.
            fields.set("stream_options", Some(json!({ "include_usage": true })))?;
        }
        fields.end()
    }
}

/// Writes fields, except those that an extra field of the same name replaces; these come last.
struct Fields<'a, M> {
    map: M,
    prompt: &'a Prompt,
    defaults: &'a Prompt,
}

impl<M: serde::ser::SerializeMap> Fields<'_, M> {
    fn set(&mut self, name: &str, value: Option<impl Serialize>) -> Result<(), M::Error> {
        let replaced = self.prompt.extra().contains_key(name) || self.defaults.extra().contains_key(name);
        match value {
            Some(value) if !replaced => self.map.serialize_entry(name, &value),
            _ => Ok(()),
        }
    }

    fn end(mut self) -> Result<M::Ok, M::Error> {
        let (extra, defaults) = (self.prompt.extra(), self.defaults.extra());
        let defaults = defaults.iter().filter(|(name, _)| !extra.contains_key(*name));
        for (name, value) in defaults.chain(extra) {
            self.map.serialize_entry(name, value)?;
        }
        self.map.end()
    }
}

fn response_format(schema: &Value) -> Value {
    // OpenAI takes up to 64 of these characters.
    let name: String = schema
        .get("title")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '_' || c == '-' {
                c
            } else {
                '_'
            }
        })
        .take(64)
        .collect();
    let name = if name.is_empty() {
        "output".to_owned()
    } else {
        name
    };
    let mut format = json!({ "name": name, "schema": schema });
    if is_closed(schema) {
        format["strict"] = Value::Bool(true);
    }
    json!({ "type": "json_schema", "json_schema": format })
}

/// Whether every object in the schema lists all its properties as required and allows no others: what OpenAI demands of
/// a strict schema, and rejects otherwise.
fn is_closed(schema: &Value) -> bool {
    match schema {
        Value::Object(fields) => {
            let closed = match fields.get("properties") {
                Some(Value::Object(properties)) => {
                    let required = fields.get("required").and_then(Value::as_array);
                    fields.get("additionalProperties") == Some(&Value::Bool(false))
                        && properties.keys().all(|name| {
                            required.is_some_and(|list| list.iter().any(|entry| entry == name.as_str()))
                        })
                }
                _ => fields.get("type").is_none_or(|kind| kind != "object"),
            };
            closed
                && fields
                    .iter()
                    .filter(|(name, _)| *name != "properties")
                    .all(|(_, value)| is_closed(value))
                && fields
                    .get("properties")
                    .and_then(Value::as_object)
                    .is_none_or(|properties| properties.values().all(is_closed))
        }
        Value::Array(values) => values.iter().all(is_closed),
        _ => true,
    }
}

struct Messages<'a> {
    system: Option<&'a str>,
    prompt: &'a Prompt,
}

impl Serialize for Messages<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let messages = self.prompt.messages();
        let mut list = serializer.serialize_seq(Some(messages.len() + usize::from(self.system.is_some())))?;
        if let Some(text) = self.system {
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
