//! Responses of strategies: output, usage, and what else a provider reports.

mod billed_apart;
mod content;
mod metadata;
mod turn;

use serde::{Deserialize, Serialize};

pub use billed_apart::BilledApart;
pub use content::{Citation, Citations, FurtherChoices, Logprobs, Media, MediaFile, Reasoning, TokenLogprob};
pub use metadata::{FinishReason, ResponseMetadata};
#[cfg(feature = "openai")]
pub(crate) use turn::CALL_FIELDS;
pub(crate) use turn::call_part;
pub use turn::{ModelTurn, Wire};

use crate::error::{BoxError, LlmError};
use crate::prompt::ToolCall;
use crate::usage::TokenUsage;

/// The response of a strategy: output, usage and metadata.
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
    /// The tokens that the call used; `None` means unknown, which is not zero.
    pub usage: Option<TokenUsage>,
    /// Everything else that the provider reported.
    #[serde(default)]
    pub metadata: ResponseMetadata,
}

impl<O> LlmResponse<O> {
    /// A response with unknown usage and no metadata.
    pub fn new(output: O) -> Self {
        Self {
            output,
            usage: None,
            metadata: ResponseMetadata::default(),
        }
    }

    /// Sets the usage.
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

    /// The model's tool calls, in the form of this crate. [`Message::from`](crate::Message) makes the turn of them, and
    /// [`Message::tool_result`](crate::Message::tool_result) answers each by its identifier.
    ///
    /// The provider's own form is in [`ResponseMetadata::tool_calls`]. A call without a name, which no provider
    /// documents, has an empty one here. A call without an identifier gets one of the response's and its number.
    pub fn tool_calls(&self) -> Vec<ToolCall> {
        let response = self.metadata.response_id.as_deref().unwrap_or_default();
        let calls = self.metadata.tool_calls.iter().enumerate();
        calls
            .map(|(number, value)| {
                ToolCall::from_wire(value, response, number)
                    .unwrap_or_else(|| ToolCall::new("", "", value.to_string()))
            })
            .collect()
    }

    /// Maps the output.
    pub fn map<P>(self, f: impl FnOnce(O) -> P) -> LlmResponse<P> {
        LlmResponse {
            output: f(self.output),
            usage: self.usage,
            metadata: self.metadata,
        }
    }

    /// Maps the output by a closure that may fail.
    ///
    /// # Errors
    /// The error of the closure.
    pub fn try_map<P, E>(self, f: impl FnOnce(O) -> Result<P, E>) -> Result<LlmResponse<P>, E> {
        Ok(LlmResponse {
            output: f(self.output)?,
            usage: self.usage,
            metadata: self.metadata,
        })
    }
}

/// Reads the usage from the outcome of a call.
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
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot read the usage of calls with the response `{Res}` and the error `{Err}`",
    label = "`{Self}` does not read this usage",
    note = "the default reads the usage of an `LlmResponse`: for another response give the layer a closure whose argument has \
            its type written out: `.usage_with(|outcome: Result<&{Res}, &{Err}>| ...)`"
)]
pub trait ReportsUsage<Res, Err> {
    /// The usage of the call, if its outcome reports it.
    fn reported_usage(&self, outcome: Result<&Res, &Err>) -> Option<TokenUsage>;

    /// Returns the other data that the response reports, for the call's span. None by default.
    fn metadata<'a>(&self, _response: &'a Res) -> Option<&'a ResponseMetadata> {
        None
    }
}

#[diagnostic::do_not_recommend]
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
