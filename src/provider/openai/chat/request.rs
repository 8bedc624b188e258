//! The request body.

use std::borrow::Cow;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::messages::Messages;
use crate::provider::body::{Fields, RawBody};
use crate::provider::openai::presets::{Preset, TokenLimitField};
use crate::provider::openai::schema::NamedSchema;
use crate::provider::openai::tools::{Function, choice};
use crate::provider::wire_format::Ask;

/// A chat completion request, written straight from the prompt.
pub(super) struct Body<'a> {
    pub(super) ask: Ask<'a>,
    pub(super) preset: &'static Preset,
    pub(super) token_limit: TokenLimitField,
    pub(super) format: Option<Format<'a>>,
    pub(super) functions: Vec<Function<'a>>,
    pub(super) effort: Option<&'static str>,
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
                let for_stream = [
                    ("stream", json!(true)),
                    ("stream_options", stream_options().into()),
                ];
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
fn stream_options() -> Map<String, Value> {
    Map::from_iter([("include_usage".to_owned(), Value::Bool(true))])
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
                preset: self.preset,
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
        if !self.functions.is_empty() {
            let tools = self
                .functions
                .iter()
                .map(|function| json!({ "type": "function", "function": function }));
            fields.set("tools", Some(tools.collect::<Vec<_>>()))?;
        }
        let named = |name: &str| json!({ "type": "function", "function": { "name": name } });
        fields.set(
            "tool_choice",
            self.ask.tool_choice().map(|wanted| choice(wanted, named)),
        )?;
        fields.set("parallel_tool_calls", self.ask.parallel_tool_calls())?;
        fields.set("reasoning_effort", self.effort)?;
        fields.chat_fields(&self.ask, |_| true)?;
        if streamed {
            fields.set("stream", Some(true))?;
            if self.preset.stream_options {
                fields.merge("stream_options", stream_options())?;
            }
        }
        fields.end(|_| true)
    }

    /// The system text, which contains the schema where no field does.
    fn system(&self) -> Option<Cow<'_, str>> {
        let own = self.ask.prompt.system().or(self.ask.defaults.system());
        let Some(Format::JsonObject(schema)) = &self.format else {
            return own.map(Cow::Borrowed);
        };
        let instruction = format!("Answer with JSON alone, of this JSON Schema:\n{schema}");
        Some(match own {
            Some(own) => format!("{own}\n\n{instruction}").into(),
            None => instruction.into(),
        })
    }
}
