//! The consequences of a failed reply: its kind by the [table](self::table), how far the call got, how long to wait.

use std::time::{Duration, SystemTime};

use http::HeaderMap;

use super::error_body::ErrorBody;
use super::{headers, message};
use crate::classify::Verdict;
use crate::error::{Delivery, Disposition, ErrorKind, LlmError, QuotaDimension, ReportedQuota};

mod facts;
mod table;

pub(crate) use facts::Facts;
pub(crate) use table::{ANY, Row, judge};

/// Returns whether the provider may have worked on a call that it answered with this status. Timeouts and broken gateways
/// stand between us and a provider that may have gone on.
fn delivery(status: u16, kind: ErrorKind) -> Delivery {
    match (status, kind) {
        (408 | 499 | 502 | 504 | 520 | 524, _) | (_, ErrorKind::Timeout | ErrorKind::ModelFault) => {
            Delivery::MaybeBilled
        }
        _ => Delivery::Rejected,
    }
}

/// Returns the disposition that the provider's own word on a repeat makes of a kind's default.
fn disposition(kind: ErrorKind, should_retry: Option<bool>) -> Option<Disposition> {
    match (kind.disposition(), should_retry?) {
        (Disposition::Fatal | Disposition::ScopeFatal, true) => Some(Disposition::Backoff),
        (Disposition::Backoff | Disposition::RetryNow | Disposition::Throttled, false) => {
            Some(Disposition::Fatal)
        }
        _ => None,
    }
}

/// The dimension that a rate limit was about.
fn dimension(facts: &Facts<'_>) -> Option<QuotaDimension> {
    if facts.coded(&["tokens"])
        || facts.says(&[
            "tpm",
            "tpd",
            "tokens per min",
            "tokens per minute",
            "tokens per day",
        ])
    {
        Some(QuotaDimension::Tokens)
    } else if facts.coded(&["requests"])
        || facts.says(&[
            "rpm",
            "rpd",
            "requests per min",
            "requests per minute",
            "requests per day",
        ])
    {
        Some(QuotaDimension::Requests)
    } else if facts.says(&["concurrency", "concurrent", "concurrent requests"]) {
        Some(QuotaDimension::Concurrency)
    } else {
        None
    }
}

/// The wait until every quota that a rate limit was about is full again: what is left when nothing else gave a hint.
fn wait_of_reset(quota: &ReportedQuota) -> Option<Duration> {
    let named = match quota.dimension {
        Some(QuotaDimension::Tokens) => Some(quota.tokens),
        Some(QuotaDimension::Requests) => Some(quota.requests),
        _ => None,
    };
    let spent = [quota.requests, quota.tokens]
        .into_iter()
        .filter(|window| window.remaining == Some(0));
    named
        .into_iter()
        .chain(spent)
        .filter_map(|window| window.reset)
        .max()
        .or(quota.requests.reset)
        .filter(|wait| !wait.is_zero())
}

/// The error that a reply with an error status is, by a provider's own rows and the common ones.
#[cfg(feature = "reqwest")]
pub(crate) fn error_of_reply(own: &[Row], status: u16, headers: &HeaderMap, body: &[u8]) -> LlmError {
    let now = headers::server_time(headers);
    let body = ErrorBody::parse(body, now);
    let error = error_of(own, status, headers, &body, headers::retry_after(headers), now);
    let kind = error.kind();
    error.with_delivery(delivery(status, kind))
}

/// The error that stands inside a reply with a success status.
///
/// A rejection cost nothing; a failure on the way may have. The header `retry-after` says nothing of it: Anthropic sends
/// it on successes, too.
#[cfg(feature = "reqwest")]
pub(crate) fn error_in_success(own: &[Row], headers: &HeaderMap, body: &serde_json::Value) -> LlmError {
    let now = headers::server_time(headers);
    let body = ErrorBody::from_value(body, now);
    error_of(own, body.status.unwrap_or(200), headers, &body, None, now)
}

fn error_of(
    own: &[Row],
    status: u16,
    headers: &HeaderMap,
    body: &ErrorBody,
    retry_after: Option<Duration>,
    now: SystemTime,
) -> LlmError {
    let text_hint = || message::wait(&message::normalised(&body.message), now).filter(|wait| !wait.is_zero());
    let mut hint = retry_after.or(body.wait).or_else(text_hint);
    let mut quota = headers::reported_quota(headers).unwrap_or_default();
    let facts = Facts::new(status, body, hint, quota);
    let kind = judge(own, &facts);

    if kind == ErrorKind::RateLimit {
        quota.dimension = dimension(&facts);
        hint = hint.or_else(|| wait_of_reset(&quota));
    }

    let message = if body.message.is_empty() {
        http::StatusCode::from_u16(status)
            .ok()
            .and_then(|status| status.canonical_reason())
            .unwrap_or("no message")
            .to_owned()
    } else {
        body.message.clone()
    };
    let mut error = LlmError::new(kind, message).with_status(status);
    if let Some(code) = &body.code {
        error = error.with_code(code.clone());
    }
    if let Some(wait) = hint {
        error = error.with_retry_after(wait);
    }
    if quota != ReportedQuota::default() {
        error = error.with_quota(quota);
    }
    match disposition(kind, headers::should_retry(headers).or(body.retryable)) {
        Some(disposition) => error.with_disposition(disposition),
        None => error,
    }
}

/// The verdict on a reply of which only status and headers are known.
pub(crate) fn verdict_of(status: u16, headers: &HeaderMap) -> Verdict {
    if status < 300 {
        let verdict = Verdict::SUCCESS;
        return headers::reported_quota(headers).map_or(verdict, |quota| verdict.with_quota(quota));
    }
    let mut error = error_of(
        &[],
        status,
        headers,
        &ErrorBody::default(),
        headers::retry_after(headers),
        headers::server_time(headers),
    );
    let kind = error.kind();
    error = error.with_delivery(delivery(status, kind));
    if kind == ErrorKind::NotFound {
        // The body would say whether it is the model. Without it, nothing is said about other requests.
        error = error.with_disposition(Disposition::Fatal);
    }
    Verdict::from(&error)
}
