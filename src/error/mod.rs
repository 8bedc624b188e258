//! The error of this crate's strategies, its categories, and the errors of the batch, the layers and `lazy`.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::usage::TokenUsage;

mod disposition;
mod kind;
mod own;
mod quota;

pub use disposition::Disposition;
pub use kind::{Delivery, ErrorKind};
#[cfg(any(feature = "reqwest", feature = "structured"))]
pub(crate) use own::chain;
pub use own::{BatchError, CallRefused, MakeFailed, Refused, TimedOut, TimeoutScope};
pub(crate) use own::{OwnError, caught_text, describe, kind_of, own_error, refusal, was_sent, was_shed};
pub use quota::{QuotaDimension, QuotaWindow, ReportedQuota};

/// A boxed error that can cross threads: tower's `BoxError`.
pub type BoxError = Box<dyn StdError + Send + Sync + 'static>;

/// The number of characters of a provider's message that an error shows.
const MESSAGE_LIMIT: usize = 500;

/// The error of this crate's strategies: pointer-sized, with everything that a policy needs to decide.
///
/// Layers of this crate accept any error type; its providers and fakes return this one. Its
/// `Display` is one line: kind, the provider's message (truncated at 500 characters), status, and a hint on how to fix
/// it, if there is one. It never contains a key or a prompt.
///
/// ```
/// use llm_batch::{Disposition, ErrorKind, LlmError};
///
/// let error = LlmError::new(ErrorKind::InsufficientBalance, "Insufficient Balance").with_status(402);
/// assert_eq!(error.disposition(), Disposition::ScopeFatal);
/// assert!(error.to_string().starts_with("insufficient balance: Insufficient Balance (HTTP 402)"));
///
/// // From a user's own check of an answer: retry immediately.
/// let again = LlmError::validation("expected a number");
/// assert_eq!(again.disposition(), Disposition::RetryNow);
/// ```
#[derive(Clone)]
pub struct LlmError {
    inner: Box<Inner>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    raw_body: Option<Box<RawValue>>,
    #[serde(skip)]
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl LlmError {
    /// Creates an error of `kind` with a message for people.
    ///
    /// Its delivery is [`Delivery::MaybeBilled`] with unknown usage, except for kinds of which it is certain that nothing was
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
                raw_body: None,
                source: None,
            }),
        }
    }

    /// Creates an error for an unusable answer, which is retried immediately. Use it for your own checks of an output.
    pub fn validation(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Validation, message)
    }

    /// Creates an error for a failure that is retried after a backoff.
    pub fn transient(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Other, message).with_disposition(Disposition::Backoff)
    }

    /// Creates an error for a failure that retrying cannot help: the item fails without a retry.
    pub fn fatal(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Other, message).with_disposition(Disposition::Fatal)
    }

    /// Creates a rate-limit error, with the provider's wait hint if it gave one.
    pub fn rate_limit(message: impl Into<Cow<'static, str>>, retry_after: Option<Duration>) -> Self {
        let mut error = Self::new(ErrorKind::RateLimit, message);
        error.inner.retry_after = retry_after;
        error
    }

    /// Sets the HTTP status of the reply.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        self.inner.status = Some(status);
        self
    }

    /// Sets the provider's own error code, as sent.
    #[must_use]
    pub fn with_code(mut self, code: impl Into<String>) -> Self {
        self.inner.code = Some(code.into());
        self
    }

    /// Sets the wait that the provider requested.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.inner.retry_after = Some(wait);
        self
    }

    /// Sets the usage of the failed call.
    #[must_use]
    pub fn with_usage(mut self, usage: TokenUsage) -> Self {
        self.inner.usage = Some(usage);
        self
    }

    /// Sets how far the call got, which decides whether it may be billed.
    #[must_use]
    pub fn with_delivery(mut self, delivery: Delivery) -> Self {
        self.inner.delivery = delivery;
        self
    }

    /// Overrides the disposition of the kind: by the provider's own statement (`x-should-retry`), or by yours.
    #[must_use]
    pub fn with_disposition(mut self, disposition: Disposition) -> Self {
        self.inner.disposition = Some(disposition);
        self
    }

    /// Sets the quotas that the rate-limit headers reported.
    #[must_use]
    pub fn with_quota(mut self, quota: ReportedQuota) -> Self {
        self.inner.quota = Some(quota);
        self
    }

    /// Sets the model's text that failed validation.
    #[must_use]
    pub fn with_raw_output(mut self, text: impl Into<String>) -> Self {
        self.inner.raw_output = Some(text.into());
        self
    }

    /// Sets the body of the reply that caused the error.
    #[must_use]
    pub fn with_raw_body(mut self, body: Box<RawValue>) -> Self {
        self.inner.raw_body = Some(body);
        self
    }

    /// Sets the source of the error. Clones share it.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.inner.source = Some(source.into().into());
        self
    }

    /// A copy without the source, the reply's body and the model's text.
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
            raw_body: _,
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
                raw_body: None,
                source: None,
            }),
        }
    }

    /// The category.
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// The whole message, not truncated.
    pub fn message(&self) -> &str {
        &self.inner.message
    }

    /// The HTTP status, if there was one.
    pub fn status(&self) -> Option<u16> {
        self.inner.status
    }

    /// The provider's own error code, if it sent one. For [`ErrorKind::Configuration`] it identifies the problem, such as
    /// `missing_base_url`; the documentation of `strategy` (any provider's feature) lists the codes.
    pub fn code(&self) -> Option<&str> {
        self.inner.code.as_deref()
    }

    /// Returns the wait that the provider requested, if any.
    pub fn retry_after(&self) -> Option<Duration> {
        self.inner.retry_after
    }

    /// The usage of the failed call: known, known zero (not sent or rejected), or `None` for unknown.
    pub fn usage(&self) -> Option<TokenUsage> {
        match (self.inner.usage, self.inner.delivery) {
            (Some(usage), _) => Some(usage),
            (None, Delivery::NotSent | Delivery::Rejected) => Some(TokenUsage::ZERO),
            (None, Delivery::MaybeBilled) => None,
        }
    }

    /// Returns how far the call got, which decides whether it may be billed.
    pub fn delivery(&self) -> Delivery {
        self.inner.delivery
    }

    /// Returns `true` if it comes from a call that was made, and not from a check of the request before it.
    pub(crate) fn is_of_provider(&self) -> bool {
        self.inner.usage.is_some() || self.inner.status.is_some() || self.inner.kind.is_of_provider()
    }

    /// The disposition of the error: its kind's default unless it was overridden.
    pub fn disposition(&self) -> Disposition {
        self.inner
            .disposition
            .unwrap_or_else(|| self.inner.kind.disposition())
    }

    /// The quotas reported by the rate-limit headers of the reply.
    pub fn quota(&self) -> Option<&ReportedQuota> {
        self.inner.quota.as_ref()
    }

    /// The model's text that failed validation.
    pub fn raw_output(&self) -> Option<&str> {
        self.inner.raw_output.as_deref()
    }

    /// The body of the reply, if it was JSON and the client keeps it (`keep_raw_body`): as sent, with the request's own
    /// secrets removed.
    pub fn raw_body(&self) -> Option<&RawValue> {
        self.inner.raw_body.as_deref()
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

/// The first 500 characters, with every run of white space replaced by one space.
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

/// Shows what is set.
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
            raw_body,
            source,
        } = &*self.inner;
        let raw_body = raw_body.as_ref().map(|body| body.get());
        let set: [(&str, Option<&dyn fmt::Debug>); 9] = [
            ("status", status.as_ref().map(|value| value as _)),
            ("code", code.as_ref().map(|value| value as _)),
            ("retry_after", retry_after.as_ref().map(|value| value as _)),
            ("usage", usage.as_ref().map(|value| value as _)),
            ("disposition", disposition.as_ref().map(|value| value as _)),
            ("quota", quota.as_ref().map(|value| value as _)),
            ("raw_output", raw_output.as_ref().map(|value| value as _)),
            ("raw_body", raw_body.as_ref().map(|value| value as _)),
            ("source", source.as_ref().map(|value| value as _)),
        ];
        let mut debug = f.debug_struct("LlmError");
        debug
            .field("kind", kind)
            .field("message", message)
            .field("delivery", delivery);
        for (name, value) in set {
            if let Some(value) = value {
                debug.field(name, value);
            }
        }
        debug.finish()
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

/// Serialises everything except the source, whose text is not part of the message.
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

/// Converts an error of unknown type: kind [`ErrorKind::Other`], unless it is one of this crate's own.
impl From<BoxError> for LlmError {
    fn from(error: BoxError) -> Self {
        match error.downcast::<Self>() {
            Ok(own) => *own,
            Err(other) => Self::new(ErrorKind::Other, caught_text(&other)).with_source(other),
        }
    }
}

/// For `?` on files and sockets in your own strategy: kind [`ErrorKind::Other`].
impl From<std::io::Error> for LlmError {
    fn from(error: std::io::Error) -> Self {
        Self::from(BoxError::from(error))
    }
}
