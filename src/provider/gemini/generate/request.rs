//! The request body.

use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::open_api;
use crate::error::LlmError;
use crate::prompt::Prompt;
use crate::provider::gemini::content::{Contents, SystemInstruction};
use crate::provider::gemini::options::{Options, SchemaForm};
use crate::provider::wire::schema::{Dialect, for_wire};
use crate::provider::wire_format::Ask;

/// The fields that a context cache holds in place of the question.
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
