//! The meaning of Anthropic's failures. The rows that hold for every provider come after these.
//!
//! The type stands in `error.type`; where it is not enough, `error.details.error_code` decides. Errors inside a stream have no
//! status, so most rows go by type alone.

use crate::error::ErrorKind;
use crate::provider::wire::{ANY, Facts, Row};

/// The rows for every server that speaks this wire: those after the ones of Anthropic's own.
pub(super) const RULES: &[Row] = OWN.split_at(1).1;

/// The rows for Anthropic's own servers.
pub(super) const OWN: &[Row] = &[
    // Only there, and only the first. Without a code the missing retry-after distinguishes a spend limit: a rate limit has one.
    Row {
        status: &[429],
        code: &["rate_limit_error"],
        when: Some(is_without_end),
        kind: ErrorKind::InsufficientBalance,
        ..ANY
    },
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
        && !facts.coded(&["ramp_limit_exceeded"])
        && !facts.says(&["concurrent", "concurrency"])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use http::HeaderMap;

    use super::*;
    use crate::provider::wire::error_of_reply;

    /// Anthropic's servers name the wait for a rate limit; a gateway need not.
    #[test]
    fn a_rate_limit_without_a_wait_is_a_spend_limit_at_anthropic_alone() {
        let body = br#"{"type":"error","error":{"type":"rate_limit_error","message":"This request would exceed your organization's rate limit."}}"#;
        let kind = |rules, wait: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.extend(wait.map(|wait| (http::header::RETRY_AFTER, wait.parse().unwrap())));
            error_of_reply(rules, 429, &headers, body).kind()
        };
        assert_eq!(kind(OWN, None), ErrorKind::InsufficientBalance);
        assert_eq!(kind(OWN, Some("7")), ErrorKind::RateLimit);
        assert_eq!(kind(RULES, None), ErrorKind::RateLimit);
        assert_eq!(OWN.len(), RULES.len() + 1);
    }
}
