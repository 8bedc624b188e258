//! What a strategy answers.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::error::{BoxError, LlmError};
use crate::usage::TokenUsage;

/// The answer of a strategy, with what it used.
///
/// ```
/// use llm_batch::{LlmResponse, TokenUsage};
///
/// let response = LlmResponse::new("42".to_owned()).with_usage(TokenUsage::new(12, 1));
/// let number = response.try_map(|text| text.parse::<u32>()).unwrap();
/// assert_eq!(number.output, 42);
/// assert_eq!(number.usage.unwrap().total(), 13);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LlmResponse<O = String> {
    /// The answer itself.
    pub output: O,
    /// What the call used; `None` means unknown, which is not zero.
    pub usage: Option<TokenUsage>,
    /// What else the provider said.
    #[serde(default)]
    pub metadata: ResponseMetadata,
}

impl<O> LlmResponse<O> {
    /// An answer with unknown usage and no metadata.
    pub fn new(output: O) -> Self {
        Self {
            output,
            usage: None,
            metadata: ResponseMetadata::default(),
        }
    }

    /// Sets what the call used.
    #[must_use]
    pub fn with_usage(mut self, usage: TokenUsage) -> Self {
        self.usage = Some(usage);
        self
    }

    /// Sets the metadata.
    #[must_use]
    pub fn with_metadata(mut self, metadata: ResponseMetadata) -> Self {
        self.metadata = metadata;
        self
    }

    /// The same answer with another output.
    pub fn map<P>(self, f: impl FnOnce(O) -> P) -> LlmResponse<P> {
        LlmResponse {
            output: f(self.output),
            usage: self.usage,
            metadata: self.metadata,
        }
    }

    /// The same answer with an output that may fail to be made.
    ///
    /// # Errors
    /// The closure's.
    pub fn try_map<P, E>(self, f: impl FnOnce(O) -> Result<P, E>) -> Result<LlmResponse<P>, E> {
        Ok(LlmResponse {
            output: f(self.output)?,
            usage: self.usage,
            metadata: self.metadata,
        })
    }
}

/// What a provider says beside the answer. Every field may be missing.
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
    /// Why the model stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finish_reason: Option<FinishReason>,
    /// What the provider says the call cost, in US dollars.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<f64>,
    /// Tool calls that the model made in place of, or beside, text; in the provider's form.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<Value>,
    /// The reply's body, unmodified, where the provider was asked to keep it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raw_body: Option<Box<serde_json::value::RawValue>>,
    /// Whatever else a provider or layer wants to hand on, by type. Not serialised, not compared.
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
            && raw(self) == raw(other)
    }
}

/// Why the model stopped, over all providers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FinishReason {
    /// It was done.
    Stop,
    /// The output token limit was reached.
    Length,
    /// It wants a tool to be called.
    ToolCalls,
    /// The provider's filter stopped it.
    ContentFilter,
    /// A reason this crate does not know, as sent.
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
    /// Reads this crate's names; anything else is [`FinishReason::Other`].
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

/// Tells what the outcome of a call says it used.
///
/// `None` means unknown. Closures implement it, for responses and errors of other crates:
///
/// ```
/// use llm_batch::{ReportsUsage, TokenUsage};
///
/// struct Reply { tokens_in: u64, tokens_out: u64 }
/// let usage = |outcome: Result<&Reply, &std::io::Error>| {
///     outcome.ok().map(|reply| TokenUsage::new(reply.tokens_in, reply.tokens_out))
/// };
/// let reply = Reply { tokens_in: 3, tokens_out: 4 };
/// assert_eq!(usage.reported_usage(Ok(&reply)), Some(TokenUsage::new(3, 4)));
/// ```
pub trait ReportsUsage<Res, Err> {
    /// What the call used, as far as its outcome tells.
    fn reported_usage(&self, outcome: Result<&Res, &Err>) -> Option<TokenUsage>;

    /// What else the response says, for the call's span. None by default.
    fn metadata<'a>(&self, _response: &'a Res) -> Option<&'a ResponseMetadata> {
        None
    }
}

impl<Res, Err, F> ReportsUsage<Res, Err> for F
where
    F: Fn(Result<&Res, &Err>) -> Option<TokenUsage>,
{
    fn reported_usage(&self, outcome: Result<&Res, &Err>) -> Option<TokenUsage> {
        self(outcome)
    }
}

/// The default [`ReportsUsage`]: reads [`LlmResponse::usage`] and [`LlmError::usage`] (also inside a
/// [`BoxError`]); an error of any other type is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InResponse;

impl<O, E: 'static> ReportsUsage<LlmResponse<O>, E> for InResponse {
    fn reported_usage(&self, outcome: Result<&LlmResponse<O>, &E>) -> Option<TokenUsage> {
        match outcome {
            Ok(response) => response.usage,
            Err(error) => {
                let error: &dyn std::any::Any = error;
                error
                    .downcast_ref::<LlmError>()
                    .or_else(|| {
                        error
                            .downcast_ref::<BoxError>()
                            .and_then(|error| error.downcast_ref())
                    })
                    .and_then(LlmError::usage)
            }
        }
    }

    fn metadata<'a>(&self, response: &'a LlmResponse<O>) -> Option<&'a ResponseMetadata> {
        Some(&response.metadata)
    }
}

/// The [`ReportsUsage`] of layers around services of other crates: the usage is unknown, whatever the outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnknownUsage;

impl<Res, Err> ReportsUsage<Res, Err> for UnknownUsage {
    fn reported_usage(&self, _: Result<&Res, &Err>) -> Option<TokenUsage> {
        None
    }
}
