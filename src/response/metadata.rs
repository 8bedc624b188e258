//! The metadata that a provider reports beside the text of an answer.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::content::{Citations, FurtherChoices, Logprobs, Media, Reasoning};
use super::turn::ModelTurn;

/// The metadata that a provider reports beside the text of the answer. Every field may be missing.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ResponseMetadata {
    /// The provider, by its OpenTelemetry name (`openai`, `anthropic`, ...).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// The model that answered, as the provider names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The provider's id of the response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_id: Option<String>,
    /// The reason why the model stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finish_reason: Option<FinishReason>,
    /// The cost of the call as the provider reports it, in US dollars.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<f64>,
    /// The model's tool calls, in the provider's form; [`LlmResponse::tool_calls`](crate::LlmResponse::tool_calls) has them in
    /// one form for all.
    ///
    /// Arguments that the provider sends as an object (Anthropic's `input`, Gemini's `args`) are JSON text in place of the
    /// object if they have an integer beyond 64 bits, so that it keeps its digits.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<Value>,
    /// The model's reasoning, where the provider reveals it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<Box<Reasoning>>,
    /// The answer's parts in the provider's form and order, where the other fields would not bring the turn back as it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub turn: Option<Box<ModelTurn>>,
    /// The choices after the first, where several were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub further_choices: Option<Box<FurtherChoices>>,
    /// The log probabilities of the answer's tokens, where they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<Box<Logprobs>>,
    /// The sources that the answer refers to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub citations: Option<Box<Citations>>,
    /// The images and audio of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media: Option<Box<Media>>,
    /// The reply's body, unmodified, where the client keeps it (`keep_raw_body`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raw_body: Option<Box<serde_json::value::RawValue>>,
    /// Further values of a provider or layer, by type. Not serialised, not compared.
    #[serde(skip)]
    pub extensions: http::Extensions,
}

impl fmt::Debug for ResponseMetadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            provider,
            model,
            response_id,
            finish_reason,
            cost,
            tool_calls,
            reasoning,
            turn,
            further_choices,
            logprobs,
            citations,
            media,
            raw_body,
            extensions: _,
        } = self;
        let mut debug = f.debug_struct("ResponseMetadata");
        debug
            .field("provider", provider)
            .field("model", model)
            .field("response_id", response_id);
        debug
            .field("finish_reason", finish_reason)
            .field("cost", cost)
            .field("tool_calls", tool_calls);
        debug
            .field("reasoning", reasoning)
            .field("turn", turn)
            .field("further_choices", further_choices)
            .field("logprobs", logprobs)
            .field("citations", citations)
            .field("media", media);
        debug
            .field("raw_body", &raw_body.as_ref().map(|body| body.get()))
            .finish_non_exhaustive()
    }
}

impl PartialEq for ResponseMetadata {
    fn eq(&self, other: &Self) -> bool {
        let raw = |metadata: &Self| metadata.raw_body.as_ref().map(|body| body.get().to_owned());
        self.provider == other.provider
            && self.model == other.model
            && self.response_id == other.response_id
            && self.finish_reason == other.finish_reason
            && self.cost == other.cost
            && self.tool_calls == other.tool_calls
            && self.reasoning == other.reasoning
            && self.turn == other.turn
            && self.further_choices == other.further_choices
            && self.logprobs == other.logprobs
            && self.citations == other.citations
            && self.media == other.media
            && raw(self) == raw(other)
    }
}

/// The reason why the model stopped, normalised over all providers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FinishReason {
    /// The answer is complete.
    Stop,
    /// The output token limit was reached.
    Length,
    /// The model calls a tool.
    ToolCalls,
    /// The provider's filter stopped it.
    ContentFilter,
    /// Any other reason, as sent.
    Other(String),
}

impl FinishReason {
    /// The name in JSON and metrics; for [`FinishReason::Other`] what the provider sent.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
            Self::ContentFilter => "content_filter",
            Self::Other(name) => name,
        }
    }
}

impl From<&str> for FinishReason {
    /// Parses the names of [`as_str`](FinishReason::as_str); anything else is [`FinishReason::Other`].
    fn from(name: &str) -> Self {
        match name {
            "stop" => Self::Stop,
            "length" => Self::Length,
            "tool_calls" => Self::ToolCalls,
            "content_filter" => Self::ContentFilter,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl fmt::Display for FinishReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for FinishReason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for FinishReason {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<'de, str>::deserialize(deserializer).map(|name| Self::from(&*name))
    }
}
