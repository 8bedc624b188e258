//! The request body.

use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::open_api;
use crate::error::LlmError;
use crate::prompt::ReasoningEffort;
use crate::provider::body::{Fields, RawBody};
use crate::provider::gemini::content::{Contents, SystemInstruction};
use crate::provider::gemini::options::{Options, SchemaForm, ThinkingConfig, ThinkingLevel};
use crate::provider::request::refuse;
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

/// The amount of thinking: the prompt's in place of the client's. A level and a budget exclude each other.
pub(super) fn thinking(ask: &Ask<'_>, client: ThinkingConfig) -> Result<ThinkingConfig, LlmError> {
    let with = |thinking_budget, thinking_level| {
        Ok(ThinkingConfig {
            thinking_budget,
            thinking_level,
            ..client
        })
    };
    match ask.reasoning_effort() {
        None => Ok(client),
        Some(ReasoningEffort::None) => with(Some(0), None),
        Some(ReasoningEffort::Minimal) => with(None, Some(ThinkingLevel::Minimal)),
        Some(ReasoningEffort::Low) => with(None, Some(ThinkingLevel::Low)),
        Some(ReasoningEffort::Medium) => with(None, Some(ThinkingLevel::Medium)),
        Some(ReasoningEffort::High) => with(None, Some(ThinkingLevel::High)),
        Some(ReasoningEffort::XHigh) => with(None, Some(ThinkingLevel::XHigh)),
        Some(ReasoningEffort::Max) => Err(refuse(
            "Gemini has no reasoning effort `max`; the most is `xhigh`, or a number of tokens",
        )),
        Some(ReasoningEffort::Tokens(tokens)) => match i32::try_from(tokens) {
            Ok(tokens) => with(Some(tokens), None),
            Err(_) => Err(refuse(format!(
                "{tokens} tokens for reasoning are too many for Gemini"
            ))),
        },
    }
}

/// A `generateContent` request, written straight from the prompt.
pub(super) struct Body<'a> {
    pub(super) ask: Ask<'a>,
    pub(super) options: &'a Options,
    pub(super) schema: Option<(&'static str, Value)>,
    pub(super) tools: Option<Value>,
    pub(super) tool_config: Option<Value>,
    pub(super) thinking: ThinkingConfig,
    /// A context cache has system text and tools.
    pub(super) without_shared: bool,
}

impl Serialize for Body<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.ask.prompt.raw_body() {
            Some(raw) => {
                let cache = self.ask.context_cache;
                let cache = cache.map(|name| ("cachedContent", Value::from(name)));
                RawBody {
                    ask: &self.ask,
                    raw,
                    names_model: false,
                    added: cache.as_slice(),
                }
                .serialize(serializer)
            }
            None => self.serialize_prompt(serializer),
        }
    }
}

impl Body<'_> {
    fn serialize_prompt<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Ask {
            prompt,
            defaults,
            context_cache,
            ..
        } = self.ask;
        let mut fields = Fields::new(serializer.serialize_map(None)?, &self.ask);
        fields.set("contents", Some(Contents(prompt)))?;
        let system = SystemInstruction::of(prompt, defaults.system());
        fields.set("systemInstruction", system.filter(|_| !self.without_shared))?;
        let safety = Some(&self.options.safety).filter(|safety| !safety.is_empty());
        fields.set("safetySettings", safety)?;
        fields.set("tools", self.tools.as_ref().filter(|_| !self.without_shared))?;
        fields.set(
            "toolConfig",
            self.tool_config.as_ref().filter(|_| !self.without_shared),
        )?;
        fields.set("cachedContent", context_cache)?;
        let left_out: &[&str] = if self.without_shared { &SHARED_FIELDS } else { &[] };
        fields.merge("generationConfig", self.generation_config())?;
        fields.end(|name| !left_out.contains(&name))
    }

    /// `generationConfig`, as far as the prompt says.
    fn generation_config(&self) -> Map<String, Value> {
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
        let thinking = Some(self.thinking).filter(|thinking| thinking.is_set());
        set("thinkingConfig", thinking.map(|thinking| json!(thinking)));
        config
    }
}
