//! The request body.

use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::input::Input;
use crate::prompt::ReasoningEffort;
use crate::provider::body::{Fields, RawBody};
use crate::provider::openai::schema::NamedSchema;
use crate::provider::openai::tools::{Function, choice};
use crate::provider::wire_format::Ask;

/// The fields that mean the same in a chat completion.
pub(super) const SHARED: [&str; 9] = [
    "metadata",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "top_logprobs",
    "user",
];

/// A request for a response, written straight from the prompt.
pub(super) struct Body<'a> {
    pub(super) ask: Ask<'a>,
    pub(super) schema: Option<NamedSchema<'a>>,
    pub(super) functions: Vec<Function<'a>>,
    pub(super) effort: Option<&'static str>,
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
    /// Returns `true` if the model is asked to reason, which only models that can may be.
    fn reasons(&self) -> bool {
        let effort = self.ask.reasoning_effort();
        effort.is_some_and(|effort| effort != ReasoningEffort::None)
    }

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
        let mut text = Map::new();
        if let Some(schema) = &self.schema {
            text.insert("format".to_owned(), format(schema));
        }
        fields.merge("text", text)?;
        if !self.functions.is_empty() {
            let tools = self.functions.iter().map(WireTool::new);
            fields.set("tools", Some(tools.collect::<Vec<_>>()))?;
        }
        let named = |name: &str| json!({ "type": "function", "name": name });
        fields.set(
            "tool_choice",
            self.ask.tool_choice().map(|wanted| choice(wanted, named)),
        )?;
        fields.set("parallel_tool_calls", self.ask.parallel_tool_calls())?;
        let mut reasoning = Map::new();
        if let Some(effort) = self.effort {
            reasoning.insert("effort".to_owned(), effort.into());
        }
        fields.merge("reasoning", reasoning)?;
        if !self.functions.is_empty() && self.reasons() {
            // What the next turn has to send back, as nothing is kept.
            fields.set("include", Some(["reasoning.encrypted_content"]))?;
        }
        fields.chat_fields(&self.ask, |name| SHARED.contains(&name))?;
        // By default OpenAI keeps every response for 30 days, to be fetched or continued. Here neither happens.
        if !self.ask.chat_fields().any(|(name, _)| name == "store") {
            fields.set("store", Some(false))?;
        }
        if streamed {
            fields.set("stream", Some(true))?;
        }
        fields.end(|_| true)
    }
}

/// The form of a structured answer. Unlike in a chat completion, name and schema stand in the format itself.
fn format(schema: &NamedSchema<'_>) -> Value {
    let mut format = json!({ "type": "json_schema" });
    if let (Value::Object(format), Value::Object(named)) = (&mut format, json!(schema)) {
        format.extend(named);
    }
    format
}

/// A function. Unlike in a chat completion it stands in the tool itself, and is strict unless that is declined.
#[derive(Serialize)]
struct WireTool<'a> {
    r#type: &'static str,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    parameters: Value,
    strict: bool,
}

impl<'a> WireTool<'a> {
    fn new(function: &Function<'a>) -> Self {
        let nothing = || json!({ "type": "object", "properties": {}, "additionalProperties": false });
        Self {
            r#type: "function",
            name: function.name,
            description: function.description,
            parameters: function.parameters.as_deref().cloned().unwrap_or_else(nothing),
            strict: function.strict.unwrap_or(false),
        }
    }
}
