//! The error of the crate's own strategies, and its categories.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::classify::{Disposition, ReportedQuota};
use crate::usage::TokenUsage;

/// A boxed error that can cross threads: tower's `BoxError`.
pub type BoxError = Box<dyn StdError + Send + Sync + 'static>;

/// How many characters of a provider's message an error shows.
const MESSAGE_LIMIT: usize = 500;

/// What kind of failure it was: the category that retry, gate, reports and metrics go by.
///
/// The provider kinds are the categories that provider error bodies fall into; the last ones are the
/// library's own. [`ErrorKind::disposition`] says what a kind leads to unless an error says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// A rate or concurrency limit that waiting cures (429).
    RateLimit,
    /// A quota that no wait within a run cures: per day, or a limit of zero.
    QuotaExhausted,
    /// The account has no money left, or a spend limit was reached (402, some 400 and 429).
    InsufficientBalance,
    /// The provider has no capacity at the moment (503, 529).
    Overloaded,
    /// The provider failed (500, 502).
    ServerError,
    /// The provider said that the call took too long (408, 504, 524). It may have been billed.
    Timeout,
    /// No connection, or one that broke. [`LlmError::delivery`] tells which.
    Connection,
    /// The key is wrong or missing (401).
    Authentication,
    /// The key may not do this (403).
    PermissionDenied,
    /// The model or resource does not exist (404).
    NotFound,
    /// A context cache that was referred to is gone.
    CacheMissing,
    /// The request is wrong and will stay so (400, 413, 422).
    InvalidRequest,
    /// The prompt does not fit the model's context.
    ContextLength,
    /// The provider refused the prompt or the answer.
    ContentFilter,
    /// The model produced something unusable (a malformed tool call, a recitation stop).
    ModelFault,
    /// The answer was cut by the output token limit.
    Truncated,
    /// The answer did not parse or validate; asking again may help.
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
    /// The stream of inputs yielded an error in place of an item.
    Source,
    /// The strategy is set up wrongly: a missing key, an unknown name, contradictory options.
    Configuration,
    /// Anything else.
    #[serde(other)]
    Other,
}

impl ErrorKind {
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

    /// What a failure of this kind leads to by default.
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

    /// How far a call that failed like this got, unless the error says otherwise.
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

    /// What a person can do about it, where that is known.
    const fn advice(self) -> Option<&'static str> {
        match self {
            Self::InsufficientBalance => Some("top up the account, raise its spend limit or use another key"),
            Self::QuotaExhausted => Some("wait until the quota resets, or use another key or model"),
            Self::Authentication => Some("check the API key"),
            Self::PermissionDenied => Some("check what the key may do"),
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

/// How far a failed call got, which decides whether it may have cost something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Delivery {
    /// The request did not reach the provider: it cost nothing and is safe to repeat.
    NotSent,
    /// The provider answered that it will not do it: it cost nothing.
    Rejected,
    /// The provider may have worked on it, and may bill it; repeating may be billed again.
    #[default]
    MaybeBilled,
}

/// The error of this crate's strategies: one word wide, with everything a policy needs to decide.
///
/// Layers of this crate accept any error type; this one is what its providers and fakes return. Its
/// `Display` is one line: kind, the provider's message (cut at 500 characters), status, and what to do next
/// where that is known. It never contains a key or a prompt.
///
/// ```
/// use llm_batch::{Disposition, ErrorKind, LlmError};
///
/// let error = LlmError::new(ErrorKind::InsufficientBalance, "Insufficient Balance").with_status(402);
/// assert_eq!(error.disposition(), Disposition::ScopeFatal);
/// assert!(error.to_string().starts_with("insufficient balance: Insufficient Balance (HTTP 402)"));
///
/// // From a user's own check of an answer: ask again, at once.
/// let again = LlmError::validation("expected a number");
/// assert_eq!(again.disposition(), Disposition::RetryNow);
/// ```
pub struct LlmError {
    inner: Box<Inner>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Inner {
    kind: ErrorKind,
    message: Cow<'static, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "crate::serde_seconds::option"
    )]
    retry_after: Option<Duration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    usage: Option<TokenUsage>,
    delivery: Delivery,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    disposition: Option<Disposition>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    quota: Option<ReportedQuota>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    raw_output: Option<String>,
    #[serde(skip)]
    source: Option<BoxError>,
}

impl LlmError {
    /// An error of `kind` with a message for people.
    ///
    /// Its delivery is [`Delivery::MaybeBilled`] with unknown usage, except for kinds that say that nothing was
    /// generated (a rejection, or a failure before sending).
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            inner: Box::new(Inner {
                kind,
                message: message.into(),
                status: None,
                code: None,
                retry_after: None,
                usage: None,
                delivery: kind.delivery(),
                disposition: None,
                quota: None,
                raw_output: None,
                source: None,
            }),
        }
    }

    /// The answer is not what was asked for; ask again, at once. Use it for your own checks of an output.
    pub fn validation(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Validation, message)
    }

    /// Something failed that a later try may cure: retried after a backoff.
    pub fn transient(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Other, message).with_disposition(Disposition::Backoff)
    }

    /// Something failed that no try will cure: the item fails at once.
    pub fn fatal(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Other, message).with_disposition(Disposition::Fatal)
    }

    /// A rate limit, with the provider's wait hint if it gave one.
    pub fn rate_limit(message: impl Into<Cow<'static, str>>, retry_after: Option<Duration>) -> Self {
        let mut error = Self::new(ErrorKind::RateLimit, message);
        error.inner.retry_after = retry_after;
        error
    }

    /// The HTTP status it came with.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        self.inner.status = Some(status);
        self
    }

    /// The provider's own error code, as sent.
    #[must_use]
    pub fn with_code(mut self, code: impl Into<String>) -> Self {
        self.inner.code = Some(code.into());
        self
    }

    /// How long the provider asked to wait.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.inner.retry_after = Some(wait);
        self
    }

    /// What the failed call is known to have used.
    #[must_use]
    pub fn with_usage(mut self, usage: TokenUsage) -> Self {
        self.inner.usage = Some(usage);
        self
    }

    /// How far the call got.
    #[must_use]
    pub fn with_delivery(mut self, delivery: Delivery) -> Self {
        self.inner.delivery = delivery;
        self
    }

    /// Overrides what the kind would lead to: the provider's own word (`x-should-retry`), or yours.
    #[must_use]
    pub fn with_disposition(mut self, disposition: Disposition) -> Self {
        self.inner.disposition = Some(disposition);
        self
    }

    /// What the rate-limit headers said.
    #[must_use]
    pub fn with_quota(mut self, quota: ReportedQuota) -> Self {
        self.inner.quota = Some(quota);
        self
    }

    /// The model's text that failed validation.
    #[must_use]
    pub fn with_raw_output(mut self, text: impl Into<String>) -> Self {
        self.inner.raw_output = Some(text.into());
        self
    }

    /// The error underneath.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.inner.source = Some(source.into());
        self
    }

    /// A copy of all but the source and the model's text.
    pub(crate) fn without_source(&self) -> Self {
        let Inner {
            kind,
            ref message,
            status,
            ref code,
            retry_after,
            usage,
            delivery,
            disposition,
            quota,
            raw_output: _,
            source: _,
        } = *self.inner;
        Self {
            inner: Box::new(Inner {
                kind,
                message: message.clone(),
                status,
                code: code.clone(),
                retry_after,
                usage,
                delivery,
                disposition,
                quota,
                raw_output: None,
                source: None,
            }),
        }
    }

    /// The category.
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// The whole message, uncut.
    pub fn message(&self) -> &str {
        &self.inner.message
    }

    /// The HTTP status, if there was one.
    pub fn status(&self) -> Option<u16> {
        self.inner.status
    }

    /// The provider's own error code, if it sent one.
    pub fn code(&self) -> Option<&str> {
        self.inner.code.as_deref()
    }

    /// How long the provider asked to wait, if it did.
    pub fn retry_after(&self) -> Option<Duration> {
        self.inner.retry_after
    }

    /// What the failed call used: known, known zero (not sent or rejected), or `None` for unknown.
    pub fn usage(&self) -> Option<TokenUsage> {
        match (self.inner.usage, self.inner.delivery) {
            (Some(usage), _) => Some(usage),
            (None, Delivery::NotSent | Delivery::Rejected) => Some(TokenUsage::ZERO),
            (None, Delivery::MaybeBilled) => None,
        }
    }

    /// How far the call got.
    pub fn delivery(&self) -> Delivery {
        self.inner.delivery
    }

    /// What the error leads to: its kind's default unless it was overridden.
    pub fn disposition(&self) -> Disposition {
        self.inner
            .disposition
            .unwrap_or_else(|| self.inner.kind.disposition())
    }

    /// What the rate-limit headers of the reply said.
    pub fn quota(&self) -> Option<&ReportedQuota> {
        self.inner.quota.as_ref()
    }

    /// The model's text that failed validation.
    pub fn raw_output(&self) -> Option<&str> {
        self.inner.raw_output.as_deref()
    }
}

impl fmt::Display for LlmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner {
            kind,
            message,
            status,
            ..
        } = &*self.inner;
        write!(f, "{kind}")?;
        if !message.is_empty() {
            f.write_str(": ")?;
            write_one_line(f, message)?;
        }
        if let Some(status) = status {
            write!(f, " (HTTP {status})")?;
        }
        if let Some(advice) = kind.advice() {
            write!(f, "; {advice}")?;
        }
        Ok(())
    }
}

/// The first 500 characters with every run of white space as one space.
fn write_one_line(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    use fmt::Write as _;
    let mut written = 0;
    for word in text.split_whitespace() {
        if written > 0 {
            f.write_char(' ')?;
            written += 1;
        }
        for character in word.chars() {
            if written >= MESSAGE_LIMIT {
                return f.write_str("...");
            }
            f.write_char(if character.is_control() { ' ' } else { character })?;
            written += 1;
        }
    }
    Ok(())
}

impl fmt::Debug for LlmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner {
            kind,
            message,
            status,
            code,
            retry_after,
            usage,
            delivery,
            disposition,
            quota,
            raw_output,
            source,
        } = &*self.inner;
        let mut debug = f.debug_struct("LlmError");
        debug
            .field("kind", kind)
            .field("message", message)
            .field("status", status);
        debug
            .field("code", code)
            .field("retry_after", retry_after)
            .field("usage", usage);
        debug
            .field("delivery", delivery)
            .field("disposition", disposition)
            .field("quota", quota);
        debug
            .field("raw_output", raw_output)
            .field("source", source)
            .finish()
    }
}

impl StdError for LlmError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner
            .source
            .as_deref()
            .map(|source| source as &(dyn StdError + 'static))
    }
}

/// Serialises all but the source, whose text is not part of the message.
impl Serialize for LlmError {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.inner.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for LlmError {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Inner::deserialize(deserializer).map(|inner| Self {
            inner: Box::new(inner),
        })
    }
}

/// An error of unknown type: kind [`ErrorKind::Other`], unless it is one of this crate's own.
impl From<BoxError> for LlmError {
    fn from(error: BoxError) -> Self {
        match error.downcast::<Self>() {
            Ok(own) => *own,
            Err(other) => Self::new(ErrorKind::Other, other.to_string()).with_source(other),
        }
    }
}
