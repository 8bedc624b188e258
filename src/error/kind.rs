//! The categories of failures, and how far a failed call got.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Disposition;

/// The category of a failure, used by retry, gate, reports and metrics.
///
/// The first kinds are the categories of provider errors; the last ones are the
/// library's own. [`ErrorKind::disposition`] is the action for a kind unless an error overrides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// A rate or concurrency limit; waiting helps (429).
    RateLimit,
    /// A quota that will not reset during a run: per day, or a limit of zero.
    QuotaExhausted,
    /// The account has no money left, or a spend limit was reached (402, some 400 and 429).
    InsufficientBalance,
    /// The provider has no capacity at the moment (503, 529).
    Overloaded,
    /// The provider failed (500, 502).
    ServerError,
    /// The provider reported that the call took too long (408, 504, 524). It may have been billed.
    Timeout,
    /// No connection, or a broken one. [`LlmError::delivery`](crate::LlmError::delivery) distinguishes them.
    Connection,
    /// The key is wrong or missing (401).
    Authentication,
    /// The key does not have the permission (403).
    PermissionDenied,
    /// The model or the address does not exist (404). A missing object that one prompt refers to, such as a file, is
    /// [`InvalidRequest`](Self::InvalidRequest).
    NotFound,
    /// A referenced context cache no longer exists.
    CacheMissing,
    /// The request is invalid; a repeat cannot succeed (400, 413, 422).
    InvalidRequest,
    /// The prompt does not fit the model's context.
    ContextLength,
    /// The provider refused the prompt or the answer.
    ContentFilter,
    /// The model produced something unusable (a malformed tool call, a recitation stop).
    ModelFault,
    /// The answer was cut by the output token limit.
    Truncated,
    /// The answer did not parse or validate; another call may help.
    Validation,
    /// The request collided with another one (409, 425).
    Conflict,
    /// The answer is larger than the size bound set on the client.
    ResponseTooLarge,
    /// A time limit of this library passed: the call's or the item's.
    TimedOut,
    /// The batch was stopped before the item finished.
    Aborted,
    /// A token or cost budget was used up.
    BudgetExceeded,
    /// The strategy panicked.
    Panicked,
    /// The stream of inputs yielded an error instead of an item.
    Source,
    /// The strategy is misconfigured: a missing key, an unknown name, contradictory options.
    Configuration,
    /// Anything else.
    #[serde(other)]
    Other,
}

impl ErrorKind {
    /// Every kind.
    pub const ALL: &'static [Self] = &[
        Self::RateLimit,
        Self::QuotaExhausted,
        Self::InsufficientBalance,
        Self::Overloaded,
        Self::ServerError,
        Self::Timeout,
        Self::Connection,
        Self::Authentication,
        Self::PermissionDenied,
        Self::NotFound,
        Self::CacheMissing,
        Self::InvalidRequest,
        Self::ContextLength,
        Self::ContentFilter,
        Self::ModelFault,
        Self::Truncated,
        Self::Validation,
        Self::Conflict,
        Self::ResponseTooLarge,
        Self::TimedOut,
        Self::Aborted,
        Self::BudgetExceeded,
        Self::Panicked,
        Self::Source,
        Self::Configuration,
        Self::Other,
    ];

    /// The name in logs, metrics and JSON: `rate_limit`, `server_error`, ...
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RateLimit => "rate_limit",
            Self::QuotaExhausted => "quota_exhausted",
            Self::InsufficientBalance => "insufficient_balance",
            Self::Overloaded => "overloaded",
            Self::ServerError => "server_error",
            Self::Timeout => "timeout",
            Self::Connection => "connection",
            Self::Authentication => "authentication",
            Self::PermissionDenied => "permission_denied",
            Self::NotFound => "not_found",
            Self::CacheMissing => "cache_missing",
            Self::InvalidRequest => "invalid_request",
            Self::ContextLength => "context_length",
            Self::ContentFilter => "content_filter",
            Self::ModelFault => "model_fault",
            Self::Truncated => "truncated",
            Self::Validation => "validation",
            Self::Conflict => "conflict",
            Self::ResponseTooLarge => "response_too_large",
            Self::TimedOut => "timed_out",
            Self::Aborted => "aborted",
            Self::BudgetExceeded => "budget_exceeded",
            Self::Panicked => "panicked",
            Self::Source => "source",
            Self::Configuration => "configuration",
            Self::Other => "other",
        }
    }

    /// The default disposition of a failure of this kind.
    pub const fn disposition(self) -> Disposition {
        match self {
            Self::RateLimit => Disposition::Throttled,
            Self::QuotaExhausted | Self::InsufficientBalance | Self::Authentication | Self::NotFound => {
                Disposition::ScopeFatal
            }
            Self::Overloaded
            | Self::ServerError
            | Self::Timeout
            | Self::TimedOut
            | Self::Connection
            | Self::CacheMissing
            | Self::Conflict
            | Self::Other => Disposition::Backoff,
            Self::Validation | Self::ModelFault => Disposition::RetryNow,
            Self::PermissionDenied
            | Self::InvalidRequest
            | Self::ContextLength
            | Self::ContentFilter
            | Self::Truncated
            | Self::ResponseTooLarge
            | Self::Aborted
            | Self::BudgetExceeded
            | Self::Panicked
            | Self::Source
            | Self::Configuration => Disposition::Fatal,
        }
    }

    /// Returns `true` if only a provider, or the connection to it, fails with this kind. A user's check before the call may use
    /// the other kinds.
    pub(super) const fn is_of_provider(self) -> bool {
        match self {
            Self::RateLimit
            | Self::QuotaExhausted
            | Self::InsufficientBalance
            | Self::Overloaded
            | Self::ServerError
            | Self::Timeout
            | Self::Connection
            | Self::Authentication
            | Self::PermissionDenied
            | Self::NotFound
            | Self::CacheMissing
            | Self::ContentFilter
            | Self::ModelFault
            | Self::Truncated
            | Self::Conflict
            | Self::ResponseTooLarge => true,
            Self::InvalidRequest
            | Self::ContextLength
            | Self::Validation
            | Self::TimedOut
            | Self::Aborted
            | Self::BudgetExceeded
            | Self::Panicked
            | Self::Source
            | Self::Configuration
            | Self::Other => false,
        }
    }

    /// The default delivery of a call that failed with this kind.
    pub(crate) const fn delivery(self) -> Delivery {
        match self {
            Self::Configuration | Self::Source | Self::BudgetExceeded => Delivery::NotSent,
            Self::RateLimit
            | Self::QuotaExhausted
            | Self::InsufficientBalance
            | Self::Overloaded
            | Self::Authentication
            | Self::PermissionDenied
            | Self::NotFound
            | Self::CacheMissing
            | Self::InvalidRequest
            | Self::ContextLength
            | Self::Conflict => Delivery::Rejected,
            _ => Delivery::MaybeBilled,
        }
    }

    /// A hint on how to fix it, if there is one.
    pub(super) const fn advice(self) -> Option<&'static str> {
        match self {
            Self::InsufficientBalance => Some("top up the account, raise its spend limit or use another key"),
            Self::QuotaExhausted => Some("wait until the quota resets, or use another key or model"),
            Self::Authentication => Some("check the API key"),
            Self::PermissionDenied => Some("check the permissions of the key"),
            Self::NotFound => Some("check the model name and the base URL"),
            Self::ContextLength => Some("shorten the prompt or use a model with a larger context"),
            Self::Truncated => Some("raise the output token limit"),
            Self::ResponseTooLarge => Some("raise the client's response size bound"),
            _ => None,
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, word) in self.as_str().split('_').enumerate() {
            if position > 0 {
                f.write_str(" ")?;
            }
            f.write_str(word)?;
        }
        Ok(())
    }
}

// `Other` is the last kind, so this proves that the list is complete.
const _: () = assert!(ErrorKind::ALL.len() == ErrorKind::Other as usize + 1);

/// The progress of a failed call, which decides whether it may have cost something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Delivery {
    /// The request did not reach the provider: it cost nothing and is safe to repeat.
    NotSent,
    /// The provider rejected it: it cost nothing.
    Rejected,
    /// The provider may have worked on it, and may bill it; a repeat may be billed again.
    #[default]
    MaybeBilled,
}
