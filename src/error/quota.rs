//! Quotas reported by a provider.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A quota dimension of a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum QuotaDimension {
    /// Requests per unit of time.
    Requests,
    /// Tokens per unit of time, input and output together.
    Tokens,
    /// Input tokens per unit of time.
    InputTokens,
    /// Output tokens per unit of time.
    OutputTokens,
    /// Concurrent calls.
    Concurrency,
}

impl QuotaDimension {
    /// The name in messages: `requests`, `input tokens`, ...
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
            Self::InputTokens => "input tokens",
            Self::OutputTokens => "output tokens",
            Self::Concurrency => "concurrent calls",
        }
    }
}

/// One window of a reported quota. A value that is missing, `-1` or invalid is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct QuotaWindow {
    /// The amount that the window allows.
    pub limit: Option<u64>,
    /// The remaining amount.
    pub remaining: Option<u64>,
    /// Time until it is full again, counted from the reply.
    #[serde(with = "crate::serde_seconds::option")]
    pub reset: Option<Duration>,
}

/// The quotas reported by the rate-limit headers or the error body of a reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ReportedQuota {
    /// The dimension of a rejection, if the provider named it.
    pub dimension: Option<QuotaDimension>,
    /// The window for requests.
    pub requests: QuotaWindow,
    /// The window for tokens.
    pub tokens: QuotaWindow,
}
