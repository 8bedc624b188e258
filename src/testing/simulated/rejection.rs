//! The reason for a rejection, independent of the wire format.

use std::time::Duration;

use super::hint::Hint;
use super::ledger::End;
use crate::error::{ErrorKind, QuotaDimension, ReportedQuota};

/// The reply to a rejected call.
#[derive(Debug)]
pub(super) struct Rejection {
    pub(super) cause: Cause,
    /// OpenAI's status. A wire format may use another one.
    pub(super) status: u16,
    pub(super) kind: ErrorKind,
    pub(super) message: String,
    pub(super) hint: Option<GivenHint>,
    pub(super) quota: Option<ReportedQuota>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    Invalid,
    WrongKey,
    NoMoney,
    /// A configured status, or an outage.
    Status,
    TooLarge {
        limit: u64,
    },
    Throttled {
        dimension: QuotaDimension,
        limit: u64,
        period: Duration,
    },
    /// A context cache that does not exist.
    NoCache,
    UnknownUrl,
}

/// The time to wait, and the form of the hint.
#[derive(Clone, Copy, Debug)]
pub(super) struct GivenHint {
    pub(super) form: Hint,
    pub(super) wait: Duration,
    pub(super) until_full: Duration,
}

impl Rejection {
    fn new(cause: Cause, status: u16, kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            cause,
            status,
            kind,
            message: message.into(),
            hint: None,
            quota: None,
        }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Cause::Invalid, 400, ErrorKind::InvalidRequest, message)
    }

    pub(super) fn unknown_url(method: &http::Method, path: &str) -> Self {
        let message = format!("Unknown request URL: {method} {path}.");
        Self::new(Cause::UnknownUrl, 404, ErrorKind::NotFound, message)
    }

    pub(super) fn no_cache() -> Self {
        let message = "CachedContent not found (or permission denied)";
        Self::new(Cause::NoCache, 403, ErrorKind::CacheMissing, message)
    }

    pub(super) fn wrong_key() -> Self {
        let message = "Incorrect API key provided.";
        Self::new(Cause::WrongKey, 401, ErrorKind::Authentication, message)
    }

    pub(super) fn no_money() -> Self {
        let message = "You exceeded your current quota, please check your plan and billing details.";
        Self::new(Cause::NoMoney, 429, ErrorKind::InsufficientBalance, message)
    }

    /// A rejection by status only.
    pub(super) fn failure(status: u16, overload_hint: Option<Duration>) -> Self {
        let (kind, message) = match status {
            401 => (ErrorKind::Authentication, "Incorrect API key provided."),
            402 => (ErrorKind::InsufficientBalance, "Insufficient balance."),
            403 => (ErrorKind::PermissionDenied, "You may not do this."),
            404 => (ErrorKind::NotFound, "The model does not exist."),
            408 | 504 | 524 => (ErrorKind::Timeout, "The upstream server took too long."),
            409 | 425 => (ErrorKind::Conflict, "The request collided with another one."),
            429 => (ErrorKind::RateLimit, "Too many requests."),
            503 | 529 => (
                ErrorKind::Overloaded,
                "The engine is currently overloaded, please try again later.",
            ),
            400..500 => (ErrorKind::InvalidRequest, "The request is wrong."),
            _ => (
                ErrorKind::ServerError,
                "The server had an error while processing your request.",
            ),
        };
        let mut rejection = Self::new(Cause::Status, status, kind, message);
        rejection.hint = overload_hint
            .filter(|_| kind == ErrorKind::Overloaded)
            .map(|wait| GivenHint {
                form: Hint::RetryAfterSeconds,
                wait,
                until_full: wait,
            });
        rejection
    }

    /// A call that never fits the token quota.
    pub(super) fn too_large(cost: u64, limit: u64) -> Self {
        let message = format!("Request too large for tokens per min (TPM): Limit {limit}, Requested {cost}.");
        Self::new(Cause::TooLarge { limit }, 429, ErrorKind::InvalidRequest, message)
    }

    pub(super) fn throttled(dimension: QuotaDimension, limit: u64, period: Duration) -> Self {
        let what = match dimension {
            QuotaDimension::Tokens => "tokens",
            QuotaDimension::InputTokens => "input tokens",
            QuotaDimension::OutputTokens => "output tokens",
            QuotaDimension::Requests => "requests",
            QuotaDimension::Concurrency => "concurrent requests",
        };
        let message = format!("Rate limit reached on {what}: Limit {limit}.");
        let cause = Cause::Throttled {
            dimension,
            limit,
            period,
        };
        let mut rejection = Self::new(cause, 429, ErrorKind::RateLimit, message);
        rejection.quota = Some(ReportedQuota {
            dimension: Some(dimension),
            ..ReportedQuota::default()
        });
        rejection
    }

    /// The entry in the ledger for a reply with `status`.
    pub(super) fn end(&self, status: u16) -> End {
        match self.cause {
            Cause::Throttled { .. } => End::Throttled,
            _ => End::Rejected(status),
        }
    }
}
