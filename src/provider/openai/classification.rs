//! The meaning of the failures of this family of providers, beside the rows that hold for every provider.
//!
//! One list for all of them: they forward each other's errors, and OpenRouter or a LiteLLM proxy may stand before any.
//! The rows of a provider need its own codes or words, so no other's reply is taken for it.

use std::time::Duration;

use crate::error::ErrorKind;
use crate::provider::wire::{ANY, Row};

/// A quota that is refilled later than this is exhausted: the run is not worth holding for it.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

pub(super) const RULES: &[Row] = &[
    // OpenAI. Money and rate limits share a status.
    Row {
        code: &[
            "insufficient_quota",
            "billing_hard_limit_reached",
            "billing_not_active",
        ],
        kind: ErrorKind::InsufficientBalance,
        ..ANY
    },
    // A rate limit that waiting does not help against: the request alone is larger than the limit. Groq sends it with a 413, a failed
    // response inside a 200.
    Row {
        status: &[200, 413, 429],
        text: &["request too large"],
        kind: ErrorKind::InvalidRequest,
        ..ANY
    },
    Row {
        status: &[200, 413, 429],
        when: Some(|facts| facts.asks_more_than_the_limit()),
        kind: ErrorKind::InvalidRequest,
        ..ANY
    },
    Row {
        code: &["model_not_found"],
        kind: ErrorKind::NotFound,
        ..ANY
    },
    // OpenAI's flex processing, and the servers that say under a rate limit's status that they are full.
    Row {
        code: &["resource_unavailable"],
        kind: ErrorKind::Overloaded,
        ..ANY
    },
    Row {
        status: &[429],
        text: &[
            "overloaded",
            "at capacity",
            "server is busy",
            "server busy",
            "queue is full",
        ],
        kind: ErrorKind::Overloaded,
        ..ANY
    },
    // Groq's capacity.
    Row {
        status: &[498],
        kind: ErrorKind::Overloaded,
        ..ANY
    },
    // Moonshot, DashScope, Fireworks: accounts without money.
    Row {
        code: &["exceeded_current_quota_error", "arrearage"],
        kind: ErrorKind::InsufficientBalance,
        ..ANY
    },
    Row {
        status: &[400, 402, 403, 412, 429],
        text: &[
            "account is suspended",
            "account has been suspended",
            "is suspended, possibly due to",
            "account is not in good standing",
            "account is in good standing",
            "in arrears",
            "overdue payment",
        ],
        kind: ErrorKind::InsufficientBalance,
        ..ANY
    },
    // DeepSeek, xAI, Zhipu, DashScope: content that they refuse.
    Row {
        code: &["data_inspection_failed", "datainspectionfailed"],
        kind: ErrorKind::ContentFilter,
        ..ANY
    },
    Row {
        status: &[400, 403],
        text: &[
            "content exists risk",
            "violates usage guidelines",
            "usage guidelines",
            "unsafe or sensitive content",
            "inappropriate content",
        ],
        kind: ErrorKind::ContentFilter,
        ..ANY
    },
    // Azure's API management.
    Row {
        status: &[403, 429],
        text: &["out of call volume quota"],
        when: Some(|facts| facts.hint.is_none_or(|wait| wait > LONGEST_WAIT)),
        kind: ErrorKind::QuotaExhausted,
        ..ANY
    },
    Row {
        status: &[403, 429],
        text: &["out of call volume quota"],
        kind: ErrorKind::RateLimit,
        ..ANY
    },
    // What a failed response of the Responses says inside a 200.
    Row {
        code: &["invalid_prompt"],
        text: &["flagged", "usage policy", "usage policies"],
        kind: ErrorKind::ContentFilter,
        ..ANY
    },
    Row {
        code: &[
            "bio_policy",
            "misalignment_policy_violation",
            "image_content_policy_violation",
        ],
        kind: ErrorKind::ContentFilter,
        ..ANY
    },
    Row {
        code: &[
            "data_residency_mismatch",
            "empty_image_file",
            "failed_to_download_image",
            "image_file_not_found",
            "image_file_too_large",
            "image_parse_error",
            "image_too_large",
            "image_too_small",
            "invalid_base64_image",
            "invalid_image",
            "invalid_image_format",
            "invalid_image_mode",
            "invalid_image_url",
            "unsupported_image_media_type",
        ],
        kind: ErrorKind::InvalidRequest,
        ..ANY
    },
    // Azure.
    Row {
        code: &["content_filter", "responsibleaipolicyviolation"],
        kind: ErrorKind::ContentFilter,
        ..ANY
    },
    Row {
        code: &["deploymentnotfound", "deployment_not_found"],
        kind: ErrorKind::NotFound,
        ..ANY
    },
    // OpenRouter: its stable `error_type` before anything else.
    Row {
        code: &["payment_required", "insufficient_credits"],
        kind: ErrorKind::InsufficientBalance,
        ..ANY
    },
    Row {
        code: &["token_limit_exceeded", "string_too_long"],
        kind: ErrorKind::ContextLength,
        ..ANY
    },
    Row {
        code: &["content_policy_violation", "refusal", "moderation"],
        kind: ErrorKind::ContentFilter,
        ..ANY
    },
    Row {
        code: &["max_tokens_exceeded", "payload_too_large", "precondition_failed"],
        kind: ErrorKind::InvalidRequest,
        ..ANY
    },
    Row {
        code: &["provider_overloaded"],
        kind: ErrorKind::Overloaded,
        ..ANY
    },
    Row {
        code: &["provider_unavailable"],
        kind: ErrorKind::ServerError,
        ..ANY
    },
    // What this prompt asks for, no provider of the model does: tools, images.
    Row {
        status: &[404],
        text: &["no endpoints found that"],
        kind: ErrorKind::InvalidRequest,
        ..ANY
    },
    Row {
        status: &[400],
        text: &[
            "not a valid model id",
            "invalid model",
            "unknown model",
            "model not found",
        ],
        kind: ErrorKind::NotFound,
        ..ANY
    },
    // DeepSeek.
    Row {
        status: &[400],
        text: &["supported api model names are", "model not exist"],
        kind: ErrorKind::NotFound,
        ..ANY
    },
    // Groq: the model's fault, not the caller's.
    Row {
        code: &["tool_use_failed"],
        kind: ErrorKind::ModelFault,
        ..ANY
    },
    // Mistral.
    Row {
        code: &["invalid_model"],
        kind: ErrorKind::NotFound,
        ..ANY
    },
    // xAI: a wrong key is no 401, and an empty account no 402.
    Row {
        status: &[400],
        text: &["incorrect api key"],
        kind: ErrorKind::Authentication,
        ..ANY
    },
    Row {
        status: &[403, 429],
        text: &[
            "used all available credits",
            "doesn't have any credits",
            "run out of credits",
        ],
        kind: ErrorKind::InsufficientBalance,
        ..ANY
    },
    // llama.cpp, which answers some mistakes of the caller with a 500.
    Row {
        code: &["not_supported_error"],
        kind: ErrorKind::InvalidRequest,
        ..ANY
    },
    Row {
        status: &[500],
        text: &["requires --jinja flag", "cannot use both"],
        kind: ErrorKind::InvalidRequest,
        ..ANY
    },
    // LiteLLM's proxy: budgets of its own, under 400 or 429.
    Row {
        code: &["budget_exceeded"],
        kind: ErrorKind::InsufficientBalance,
        ..ANY
    },
    Row {
        status: &[400, 429],
        text: &["budget has been exceeded", "exceeded budget", "crossed budget"],
        kind: ErrorKind::InsufficientBalance,
        ..ANY
    },
    Row {
        status: &[400],
        text: &["invalid model name passed in"],
        kind: ErrorKind::NotFound,
        ..ANY
    },
];
