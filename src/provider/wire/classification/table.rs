//! The classification table: which reply is which kind of failure.
//!
//! A provider's own rows come first, then the ones below, which hold for all. Rows are read from the top; the first whose
//! conditions all hold decides. Typed facts (status, code, type) stand
//! before message text, and text counts by whole words only. Rows that read the text belong to statuses or codes that
//! say too little by themselves.

use std::time::Duration;

use super::facts::Facts;
use crate::error::ErrorKind;

/// One row: every condition that is set must hold.
#[derive(Debug)]
pub(crate) struct Row {
    /// One of these statuses; empty for any.
    pub(crate) status: &'static [u16],
    /// One of these codes, types or reasons, in lower case; empty for any.
    pub(crate) code: &'static [&'static str],
    /// One of these phrases in the message, in lower case; empty for any.
    pub(crate) text: &'static [&'static str],
    /// A condition that no list expresses.
    pub(crate) when: Option<fn(&Facts<'_>) -> bool>,
    pub(crate) kind: ErrorKind,
}

/// A row without conditions, to fill up the others.
pub(crate) const ANY: Row = Row {
    status: &[],
    code: &[],
    text: &[],
    when: None,
    kind: ErrorKind::Other,
};

/// A day's quota will not refill within a run. Where a hint says otherwise, up to this wait counts as a rate limit:
/// Google's own command line gives up above five minutes.
const LONGEST_QUOTA_WAIT: Duration = Duration::from_secs(300);

const TABLE: &[Row] = &[
    // Codes that say it all, whatever the status.
    Row {
        code: &[
            "billing_error",
            "insufficient_balance",
            "enforced_spend_limit_reached",
            "contract_spend_limit_reached",
        ],
        kind: ErrorKind::InsufficientBalance,
        ..ANY
    },
    Row {
        code: &[
            "model_context_window_exceeded",
            "context_length_exceeded",
            "exceed_context_size_error",
            "context_window_exceeded",
        ],
        kind: ErrorKind::ContextLength,
        ..ANY
    },
    // Rate limits that will not reset during a run.
    Row {
        code: &["quota_per_day"],
        kind: ErrorKind::QuotaExhausted,
        ..ANY
    },
    Row {
        status: &[429],
        text: &[
            "rpd",
            "tpd",
            "requests per day",
            "tokens per day",
            "daily limit",
            "daily quota",
            "requests per month",
            "tokens per month",
            "monthly limit",
            "monthly quota",
        ],
        when: Some(|facts| facts.hint.is_none_or(|wait| wait > LONGEST_QUOTA_WAIT)),
        kind: ErrorKind::QuotaExhausted,
        ..ANY
    },
    Row {
        status: &[429],
        text: &["limit: 0"],
        kind: ErrorKind::QuotaExhausted,
        ..ANY
    },
    Row {
        code: &[
            "rate_limit_exceeded",
            "rate_limit_error",
            "resource_exhausted",
            "too_many_requests",
            "ramp_limit_exceeded",
        ],
        kind: ErrorKind::RateLimit,
        ..ANY
    },
    // Keys: some servers answer 400 or 403 for a wrong one.
    Row {
        code: &[
            "invalid_api_key",
            "api_key_invalid",
            "authentication_error",
            "authentication",
            "unauthenticated",
        ],
        kind: ErrorKind::Authentication,
        ..ANY
    },
    Row {
        status: &[400, 403],
        text: &["invalid api key", "api key not valid", "api key is invalid"],
        kind: ErrorKind::Authentication,
        ..ANY
    },
    // Money under other statuses than 402.
    Row {
        status: &[400, 403, 429],
        text: &[
            "credit balance is too low",
            "insufficient balance",
            "insufficient credits",
            "billing hard limit",
            "spend limit",
            "spending limit",
        ],
        kind: ErrorKind::InsufficientBalance,
        ..ANY
    },
    Row {
        status: &[429],
        text: &["exceeded your current quota"],
        when: Some(|facts| facts.hint.is_none()),
        kind: ErrorKind::InsufficientBalance,
        ..ANY
    },
    // A context cache that is gone answers like a missing permission.
    Row {
        status: &[403, 404],
        text: &["cachedcontent not found", "cached content not found"],
        kind: ErrorKind::CacheMissing,
        ..ANY
    },
    // Prompts that do not fit: mostly a 400 with nothing but text.
    Row {
        status: &[400, 413, 422, 500],
        text: &[
            "prompt is too long",
            "input is too long",
            "maximum context length",
            "context length exceeded",
            "context window",
            "contextwindowexceedederror",
            "exceeds the available context size",
            "exceeds the maximum number of tokens allowed",
            "too many tokens",
            "maximum model length",
            "maximum input length",
            "max input length",
            "range of input length",
            "reduce the length of the messages",
            "reduce the length of the prompt",
            "reduce the length of your prompt",
            "exceeds max length",
            "too long to fit",
            "max_new_tokens` must be",
        ],
        kind: ErrorKind::ContextLength,
        ..ANY
    },
    Row {
        status: &[400, 403],
        text: &[
            "content management policy",
            "content policy",
            "usage policies",
            "was flagged",
        ],
        kind: ErrorKind::ContentFilter,
        ..ANY
    },
    // What does not exist: the model or the address, or else an object that the prompt refers to.
    Row {
        status: &[403],
        text: &["permission to access the file"],
        kind: ErrorKind::InvalidRequest,
        ..ANY
    },
    Row {
        when: Some(|facts| facts.is_missing() && facts.is_missing_for_all()),
        kind: ErrorKind::NotFound,
        ..ANY
    },
    Row {
        when: Some(|facts| facts.is_missing()),
        kind: ErrorKind::InvalidRequest,
        ..ANY
    },
    // Unknown models, where the status does not say so.
    Row {
        status: &[400],
        text: &["model does not exist"],
        kind: ErrorKind::NotFound,
        ..ANY
    },
    // Codes that come with a status of their own, read where the status is missing (an error inside a 200) or vague.
    Row {
        code: &[
            "overloaded_error",
            "overloaded",
            "unavailable",
            "model_capacity_exhausted",
        ],
        kind: ErrorKind::Overloaded,
        ..ANY
    },
    Row {
        code: &["timeout_error", "timeout", "deadline_exceeded"],
        kind: ErrorKind::Timeout,
        ..ANY
    },
    Row {
        status: &[401],
        kind: ErrorKind::Authentication,
        ..ANY
    },
    Row {
        status: &[402],
        kind: ErrorKind::InsufficientBalance,
        ..ANY
    },
    Row {
        status: &[403],
        kind: ErrorKind::PermissionDenied,
        ..ANY
    },
    Row {
        status: &[408, 499, 504, 524],
        kind: ErrorKind::Timeout,
        ..ANY
    },
    Row {
        status: &[409, 425],
        kind: ErrorKind::Conflict,
        ..ANY
    },
    Row {
        status: &[429],
        kind: ErrorKind::RateLimit,
        ..ANY
    },
    Row {
        status: &[501, 505],
        kind: ErrorKind::InvalidRequest,
        ..ANY
    },
    Row {
        status: &[503, 529],
        kind: ErrorKind::Overloaded,
        ..ANY
    },
    Row {
        when: Some(|facts| (500..600).contains(&facts.status)),
        kind: ErrorKind::ServerError,
        ..ANY
    },
    Row {
        when: Some(|facts| (300..500).contains(&facts.status)),
        kind: ErrorKind::InvalidRequest,
        ..ANY
    },
    // From here on there is no error status: an error inside a 200.
    Row {
        code: &["permission_denied", "permission_error"],
        kind: ErrorKind::PermissionDenied,
        ..ANY
    },
    Row {
        code: &[
            "invalid_request_error",
            "invalid_request",
            "invalid_prompt",
            "invalid_argument",
            "unprocessable",
        ],
        kind: ErrorKind::InvalidRequest,
        ..ANY
    },
    Row {
        kind: ErrorKind::ServerError,
        ..ANY
    },
];

/// The kind of a failed reply of a provider with these rows of its own.
pub(crate) fn judge(own: &[Row], facts: &Facts<'_>) -> ErrorKind {
    own.iter()
        .chain(TABLE)
        .find(|row| {
            (row.status.is_empty() || row.status.contains(&facts.status))
                && (row.code.is_empty() || facts.coded(row.code))
                && (row.text.is_empty() || facts.says(row.text))
                && row.when.is_none_or(|when| when(facts))
        })
        .map_or(ErrorKind::Other, |row| row.kind)
}
