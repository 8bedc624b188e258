//! The request body.

use serde::ser::{Error as _, SerializeMap as _, SerializeSeq as _};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::open_api;
use crate::error::LlmError;
use crate::prompt::{Message, Part, Prompt, Role};
use crate::provider::gemini::options::{Options, SchemaForm};
use crate::provider::request::refuse;
use crate::provider::wire::schema::{Dialect, for_wire};
use crate::provider::wire_format::Ask;

/// What a context cache holds in place of the question.
const SHARED_FIELDS: [&str; 3] = ["systemInstruction", "tools", "toolConfig"];

/// The schema of the answer, as the field that carries it.
pub(super) fn schema_field(
    ask: &Ask<'_>,
    form: SchemaForm,
) -> Result<Option<(&'static str, Value)>, LlmError> {
    let Some(schema) = ask.output_schema() else {
        return Ok(None);
    };
    Ok(Some(match form {
        SchemaForm::JsonSchema => (
            "responseJsonSchema",
            for_wire(schema, Dialect::Gemini)?.into_owned(),
        ),
        SchemaForm::OpenApi => ("responseSchema", open_api::schema(schema)?),
    }))
}

/// A `generateContent` request, written straight from the prompt.
pub(super) struct Body<'a> {
    pub(super) ask: Ask<'a>,
    pub(super) options: &'a Options,
    pub(super) schema: Option<(&'static str, Value)>,
    /// A context cache has system text and tools.
    pub(super) without_shared: bool,
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
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in raw {
            map.serialize_entry(name, extra.get(name).unwrap_or(value))?;
        }
        for (name, value) in extra.iter().filter(|(name, _)| !raw.contains_key(*name)) {
            map.serialize_entry(name, value)?;
        }
        if let Some(cache) = self.ask.context_cache
            && !raw.contains_key("cachedContent")
            && !extra.contains_key("cachedContent")
        {
            map.serialize_entry("cachedContent", cache)?;
        }
        map.end()
    }

    fn serialize_prompt<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Ask {
            prompt,
            defaults,
            context_cache,
            ..
        } = self.ask;
        let mut fields = Fields {
            map: serializer.serialize_map(None)?,
            prompt,
            defaults,
        };
        fields.set("contents", Some(Contents(prompt)))?;
        let system = SystemInstruction::of(prompt, defaults.system());
        fields.set("systemInstruction", system.filter(|_| !self.without_shared))?;
        let safety = Some(&self.options.safety).filter(|safety| !safety.is_empty());
        fields.set("safetySettings", safety)?;
        fields.set("cachedContent", context_cache)?;
        let left_out: &[&str] = if self.without_shared { &SHARED_FIELDS } else { &[] };
        match self.generation_config() {
            Ok(config) => fields.end(Some(&config).filter(|config| !config.is_empty()), left_out),
            // Not an object: the user's word stands.
            Err(NotAnObject) => fields.end(None, left_out),
        }
    }

    /// `generationConfig`, with the fields of the extra ones over ours.
    fn generation_config(&self) -> Result<Map<String, Value>, NotAnObject> {
        let Ask { prompt, defaults, .. } = self.ask;
        let mut config = Map::new();
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                config.insert(name.to_owned(), value);
            }
        };
        let temperature = prompt.temperature().or(defaults.temperature());
        set("temperature", temperature.map(Value::from));
        set("topP", prompt.top_p().or(defaults.top_p()).map(Value::from));
        let limit = prompt.max_output_tokens().or(defaults.max_output_tokens());
        set("maxOutputTokens", limit.map(Value::from));
        let stop = [prompt.stop(), defaults.stop()]
            .into_iter()
            .find(|stop| !stop.is_empty());
        set("stopSequences", stop.map(|stop| json!(stop)));
        set("seed", prompt.seed().or(defaults.seed()).map(Value::from));
        if let Some((name, schema)) = &self.schema {
            set("responseMimeType", Some("application/json".into()));
            set(name, Some(schema.clone()));
        }
        let thinking = Some(self.options.thinking).filter(|thinking| thinking.is_set());
        set("thinkingConfig", thinking.map(|thinking| json!(thinking)));
        for extra in [defaults.extra(), prompt.extra()] {
            match extra.get("generationConfig") {
                None => {}
                Some(Value::Object(fields)) => config.extend(fields.clone()),
                Some(_) => return Err(NotAnObject),
            }
        }
        Ok(config)
    }
}

struct NotAnObject;

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

    fn end(mut self, config: Option<&Map<String, Value>>, left_out: &[&str]) -> Result<M::Ok, M::Error> {
        if let Some(config) = config {
            self.map.serialize_entry("generationConfig", config)?;
        }
        let (extra, defaults) = (self.prompt.extra(), self.defaults.extra());
        let defaults = defaults.iter().filter(|(name, _)| !extra.contains_key(*name));
        for (name, value) in defaults.chain(extra) {
            let merged = name == "generationConfig" && (config.is_some() || value.is_object());
            if !merged && !left_out.contains(&name.as_str()) {
                self.map.serialize_entry(name, value)?;
            }
        }
        self.map.end()
    }
}

/// What a context cache is made of: the fields of its content.
pub(in crate::provider::gemini) fn content_fields(content: &Prompt) -> Result<Map<String, Value>, LlmError> {
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
struct Contents<'a>(&'a Prompt);

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
struct SystemInstruction<'a> {
    text: Option<&'a str>,
    prompt: &'a Prompt,
}

impl<'a> SystemInstruction<'a> {
    fn of(prompt: &'a Prompt, default: Option<&'a str>) -> Option<Self> {
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
