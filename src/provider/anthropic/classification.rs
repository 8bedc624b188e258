//! The meaning of Anthropic's failures. The rows that hold for every provider come after these.
//!
//! The type stands in `error.type`; where it is not enough, `error.details.error_code` decides. Errors inside a stream have no
//! status, so most rows go by type alone.

use crate::error::ErrorKind;
use crate::provider::wire::{ANY, Facts, Row};

pub(super) const RULES: &[Row] = &[
    // The caps of account and contract come as rate limits. Their code distinguishes them.
    Row {
        code: &["enforced_spend_limit_reached", "contract_spend_limit_reached"],
        kind: ErrorKind::InsufficientBalance,
        ..ANY
    },
    Row {
        code: &["ramp_limit_exceeded"],
        kind: ErrorKind::RateLimit,
        ..ANY
    },
    // Without a code the missing retry-after distinguishes it: a rate limit has one.
    Row {
        status: &[429],
        code: &["rate_limit_error"],
        when: Some(is_without_end),
        kind: ErrorKind::InsufficientBalance,
        ..ANY
    },
    Row {
        code: &["rate_limit_error"],
        kind: ErrorKind::RateLimit,
        ..ANY
    },
    // An empty balance, and the limits that the customer set, come as mistakes in the request.
    Row {
        code: &["invalid_request_error"],
        text: &[
            "credit balance is too low",
            "api usage limits",
            "spend limit",
            "spending limit",
        ],
        kind: ErrorKind::InsufficientBalance,
        ..ANY
    },
    Row {
        code: &["billing_error"],
        kind: ErrorKind::InsufficientBalance,
        ..ANY
    },
    Row {
        status: &[402],
        kind: ErrorKind::InsufficientBalance,
        ..ANY
    },
    // No key of this organisation works until the hold is lifted.
    Row {
        code: &["organization_on_hold"],
        kind: ErrorKind::Authentication,
        ..ANY
    },
    Row {
        code: &["authentication_error"],
        kind: ErrorKind::Authentication,
        ..ANY
    },
    Row {
        code: &["permission_error"],
        kind: ErrorKind::PermissionDenied,
        ..ANY
    },
    Row {
        code: &["invalid_request_error"],
        text: &["prompt is too long", "exceed context limit"],
        kind: ErrorKind::ContextLength,
        ..ANY
    },
    Row {
        code: &["invalid_request_error"],
        text: &["content filtering policy"],
        kind: ErrorKind::ContentFilter,
        ..ANY
    },
    Row {
        code: &["request_too_large", "request_body_too_large_after_decoding"],
        kind: ErrorKind::InvalidRequest,
        ..ANY
    },
    Row {
        code: &["conflict_error"],
        kind: ErrorKind::Conflict,
        ..ANY
    },
    Row {
        code: &["overloaded_error"],
        kind: ErrorKind::Overloaded,
        ..ANY
    },
    Row {
        code: &["timeout_error"],
        kind: ErrorKind::Timeout,
        ..ANY
    },
    Row {
        code: &["api_error"],
        kind: ErrorKind::ServerError,
        ..ANY
    },
];

/// Returns `true` if a limit says neither when it ends nor which window was used up. A limit on calls at the same time
/// ends with them.
fn is_without_end(facts: &Facts<'_>) -> bool {
    let is_spent = |remaining: Option<u64>| remaining == Some(0);
    facts.hint.is_none()
        && !is_spent(facts.quota.requests.remaining)
        && !is_spent(facts.quota.tokens.remaining)
        && !facts.says(&["concurrent", "concurrency"])
}
