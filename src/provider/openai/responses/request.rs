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
    /// Returns `true` if the answer may be a turn that has to go back whole: the model may call tools, the prompt's functions
    /// or those in the body's own field, and reasons before it does. Other models refuse the question for encrypted reasoning.
    fn wants_reasoning_back(&self) -> bool {
        let has_tools = match self.extra("tools") {
            Some(tools) => tools.as_array().is_some_and(|tools| !tools.is_empty()),
            None => !self.functions.is_empty(),
        };
        has_tools && self.reasons()
    }

    /// Returns `true` if the model is asked to reason, or does so without being asked.
    fn reasons(&self) -> bool {
        let Ask { prompt, defaults, .. } = self.ask;
        let own = [prompt, defaults].map(|prompt| prompt.extra().get("reasoning"));
        let effort = own.iter().flatten().find_map(|reasoning| reasoning.get("effort"));
        let effort = match effort {
            Some(effort) => Some(effort != "none" && !effort.is_null()),
            None => (self.ask.reasoning_effort()).map(|effort| effort != ReasoningEffort::None),
        };
        let is_set = own.iter().flatten().any(|reasoning| reasoning.is_object());
        effort.unwrap_or_else(|| is_set || reasons_unasked(self.ask.model))
    }

    /// An extra field of the prompt, or else of the defaults.
    fn extra(&self, name: &str) -> Option<&Value> {
        let Ask { prompt, defaults, .. } = self.ask;
        prompt.extra().get(name).or_else(|| defaults.extra().get(name))
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
        if self.wants_reasoning_back() {
            // The next turn has to send it back, as nothing is kept.
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

/// Returns `true` for the models of OpenAI's that reason by default: the o series, and GPT from the fifth generation on but
/// for its chat models.
fn reasons_unasked(model: &str) -> bool {
    let starts_with_digit = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
    if model.strip_prefix('o').is_some_and(starts_with_digit) {
        return true;
    }
    let Some(version) = model.strip_prefix("gpt-") else {
        return false;
    };
    let digits = version
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(version.len());
    let generation: Option<u32> = version[..digits].parse().ok();
    generation.is_some_and(|generation| generation >= 5) && !version.contains("chat")
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
