//! Which failures of this provider mean what, beside the rows that hold for every provider.

use std::time::Duration;

use serde_json::Value;

use crate::error::{ErrorKind, LlmError};
use crate::prompt::{Part, Prompt};
use crate::provider::http::Reply;
use crate::provider::model::Ask;
use crate::provider::wire::{self, ANY, Row};

/// Google's own command line takes a longer wait for a quota that is used up.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// The wait for a quota per minute where the reply names none.
const A_MINUTE: Duration = Duration::from_secs(60);

const RULES: &[Row] = &[
    // Money, under statuses of everything.
    Row {
        status: &[400, 402, 403, 429],
        text: &[
            "credits are depleted",
            "credits have been depleted",
            "prepayment credits",
            "out of credits",
            "spending cap",
            "billing is not enabled",
            "enable billing",
            "requires billing",
            "billing to be enabled",
            "billing account",
        ],
        kind: ErrorKind::InsufficientBalance,
        ..ANY
    },
    Row {
        code: &["insufficient_g1_credits_balance", "billing_disabled"],
        kind: ErrorKind::InsufficientBalance,
        ..ANY
    },
    // Where the caller is, and what a key is for: no mistake of the request's.
    Row {
        status: &[400],
        text: &["location is not supported"],
        kind: ErrorKind::PermissionDenied,
        ..ANY
    },
    Row {
        code: &[
            "api_key_service_blocked",
            "api_key_http_referrer_blocked",
            "api_key_ip_address_blocked",
            "consumer_suspended",
            "service_disabled",
        ],
        kind: ErrorKind::PermissionDenied,
        ..ANY
    },
    Row {
        status: &[400],
        text: &["api key expired"],
        kind: ErrorKind::Authentication,
        ..ANY
    },
    Row {
        status: &[429],
        when: Some(|facts| facts.hint.is_some_and(|wait| wait > LONGEST_WAIT)),
        kind: ErrorKind::QuotaExhausted,
        ..ANY
    },
];

/// The rows for a refusal that names the question's own context cache. A missing one answers 403, as if it were a matter
/// of permission.
const CACHE_RULES: &[Row] = &[Row {
    status: &[403, 404],
    kind: ErrorKind::CacheMissing,
    ..ANY
}];

/// The error that a reply with an error status is.
pub(super) fn error_of_reply(reply: &Reply, ask: &Ask<'_>) -> LlmError {
    let rules = if names_cache(reply, ask) {
        CACHE_RULES
    } else {
        RULES
    };
    let error = wire::error_of_reply(rules, reply.status, &reply.headers, &reply.body);
    match serde_json::from_slice(wire::trim(&reply.body)) {
        Ok(body) => refine(error, &body, ask),
        Err(_) => error,
    }
}

/// The error that stands inside a reply with a success status, as it does in streams.
pub(super) fn error_in_success(reply: &Reply, body: &Value, ask: &Ask<'_>) -> LlmError {
    let rules = if names_cache(reply, ask) {
        CACHE_RULES
    } else {
        RULES
    };
    refine(wire::error_in_success(rules, &reply.headers, body), body, ask)
}

/// The error of a request that was no question.
pub(super) fn error_of_resource(reply: &Reply) -> LlmError {
    wire::error_of_reply(RULES, reply.status, &reply.headers, &reply.body)
}

fn names_cache(reply: &Reply, ask: &Ask<'_>) -> bool {
    let Some(name) = ask.context_cache else {
        return false;
    };
    // The name alone, without the collection.
    let name = name.rsplit('/').next().unwrap_or(name);
    !name.is_empty() && std::str::from_utf8(&reply.body).is_ok_and(|text| text.contains(name))
}

/// What the quotas that a rate limit names make of it.
fn refine(error: LlmError, body: &Value, ask: &Ask<'_>) -> LlmError {
    if error.kind() != ErrorKind::RateLimit {
        return error;
    }
    let quotas = minute_quotas(body);
    if let Some(limit) = quotas.iter().find_map(|quota| quota.input_tokens)
        && exceeds(ask, limit)
    {
        let message = format!(
            "the prompt alone is larger than the quota of {limit} input tokens per minute; shorten it, or use a model or \
             tier with a larger quota: {}",
            error.message()
        );
        let mut too_large = LlmError::new(ErrorKind::InvalidRequest, message);
        if let Some(status) = error.status() {
            too_large = too_large.with_status(status);
        }
        return match error.code() {
            Some(code) => too_large.with_code(code),
            None => too_large,
        };
    }
    if !quotas.is_empty() && error.retry_after().is_none() {
        return error.with_retry_after(A_MINUTE);
    }
    error
}

/// A quota per minute that a reply says was exceeded.
struct MinuteQuota {
    /// The limit, if it is one of input tokens.
    input_tokens: Option<u64>,
}

fn minute_quotas(body: &Value) -> Vec<MinuteQuota> {
    let body = body.get(0).unwrap_or(body);
    let details = body.pointer("/error/details").and_then(Value::as_array);
    let violations = details
        .into_iter()
        .flatten()
        .filter_map(|detail| detail.get("violations")?.as_array())
        .flatten();
    violations
        .filter_map(|violation| {
            let text = |name| violation.get(name).and_then(Value::as_str).unwrap_or_default();
            let id = text("quotaId");
            if !id.contains("PerMinute") {
                return None;
            }
            let of_tokens = id.contains("InputToken") || text("quotaMetric").contains("input_token");
            let value = violation.get("quotaValue");
            let limit = value.and_then(|value| value.as_u64().or_else(|| value.as_str()?.parse().ok()));
            Some(MinuteQuota {
                input_tokens: limit.filter(|limit| of_tokens && *limit > 0),
            })
        })
        .collect()
}

/// No language comes near this many characters a token: beyond it a prompt is larger than the limit for certain.
const MOST_CHARACTERS_PER_TOKEN: u64 = 8;

/// English has 4 to 4.7 characters a token, and no other language more.
const MANY_CHARACTERS_PER_TOKEN: u64 = 5;

/// Whether the prompt alone has more input tokens than the quota of a minute, so that no wait helps.
///
/// The provider does not tell how many tokens it counted, and answers such a prompt like any other rate limit, with a wait.
/// So it is judged by its text: at once where it must exceed the limit, and where it does in all likelihood, when it
/// is refused again after the wait that the provider asked for.
fn exceeds(ask: &Ask<'_>, limit: u64) -> bool {
    let characters = text_characters(ask.prompt)
        + ask
            .prompt
            .system()
            .or(ask.defaults.system())
            .map_or(0, characters_of);
    let per_token = if ask.throttled_before {
        MANY_CHARACTERS_PER_TOKEN
    } else {
        MOST_CHARACTERS_PER_TOKEN
    };
    characters / per_token > limit
}

/// White space counts little: a run of it is one token or none.
fn characters_of(text: &str) -> u64 {
    let word = |word: &str| word.chars().count() as u64 + 1;
    text.split_whitespace().map(word).sum()
}

/// Characters of the texts of a prompt; images and files count otherwise, and not by the length of their bytes.
fn text_characters(prompt: &Prompt) -> u64 {
    let parts = prompt.messages().iter().flat_map(|message| &message.content);
    let texts: u64 = parts
        .map(|part| match part {
            Part::Text { text } => characters_of(text),
            Part::Json { value } => texts_in(value),
            Part::Image { .. } => 0,
        })
        .sum();
    texts
        + prompt
            .raw_body()
            .into_iter()
            .flat_map(|body| body.values())
            .map(texts_in)
            .sum::<u64>()
}

/// Characters of the fields named `text` in a value.
fn texts_in(value: &Value) -> u64 {
    match value {
        Value::Array(values) => values.iter().map(texts_in).sum(),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| match value {
                Value::String(text) if name == "text" => characters_of(text),
                Value::String(_) => 0,
                value => texts_in(value),
            })
            .sum(),
        _ => 0,
    }
}
