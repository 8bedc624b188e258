//! The meaning of this provider's failures, beside the rows that hold for every provider.

mod pacific;

use std::time::Duration;

use serde_json::{Map, Value};

use crate::error::{ErrorKind, LlmError, QuotaDimension, ReportedQuota};
use crate::prompt::{Part, Prompt};
use crate::provider::http::Reply;
use crate::provider::wire::{self, ANY, Row};
use crate::provider::wire_format::Ask;
use crate::response::Wire;

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
            "prepaid credits",
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

/// The row for a question that names nothing but its model, so that only the model can be what is missing.
const MODEL_RULES: &[Row] = &[Row {
    status: &[404],
    text: &["requested entity was not found"],
    kind: ErrorKind::NotFound,
    ..ANY
}];

fn rules(reply: &Reply, ask: &Ask<'_>) -> &'static [Row] {
    if names_cache(reply, ask) {
        CACHE_RULES
    } else if reply.status == 404 && !names_objects(ask) {
        MODEL_RULES
    } else {
        RULES
    }
}

/// The error that a reply with an error status is.
pub(super) fn error_of_reply(reply: &Reply, ask: &Ask<'_>) -> LlmError {
    let rules = rules(reply, ask);
    let error = wire::error_of_reply(rules, reply.status, &reply.headers, &reply.body);
    match serde_json::from_slice(wire::trim(&reply.body)) {
        Ok(body) => refine(error, reply, &body, ask),
        Err(_) => error,
    }
}

/// The error that stands inside a reply with a success status, as it does in streams.
pub(super) fn error_in_success(reply: &Reply, body: &Value, ask: &Ask<'_>) -> LlmError {
    let rules = rules(reply, ask);
    let error = wire::error_in_success(rules, &reply.headers, body);
    refine(error, reply, body, ask)
}

/// The error of a request that was not a question.
pub(super) fn error_of_resource(reply: &Reply) -> LlmError {
    wire::error_of_reply(RULES, reply.status, &reply.headers, &reply.body)
}

fn names_cache(reply: &Reply, ask: &Ask<'_>) -> bool {
    let Some(name) = ask.context_cache else {
        return false;
    };
    std::str::from_utf8(&reply.body).is_ok_and(|text| text.contains(name))
}

/// Returns `true` if the question refers to a file, a cache or a store at the provider.
fn names_objects(ask: &Ask<'_>) -> bool {
    fn is_named(value: &Value) -> bool {
        match value {
            Value::Object(fields) => names_object(fields) || fields.values().any(is_named),
            Value::Array(values) => values.iter().any(is_named),
            _ => false,
        }
    }
    fn names_object(fields: &Map<String, Value>) -> bool {
        const NAMES: [&str; 7] = [
            "cachedContent",
            "cached_content",
            "fileData",
            "file_data",
            "fileSearch",
            "file_search",
            "retrieval",
        ];
        NAMES.iter().any(|name| fields.contains_key(*name))
    }
    fn is_linked(part: &Part) -> bool {
        match part {
            Part::Native { .. } => part.on(Wire::GenerateContent).is_some_and(is_linked),
            Part::Text { .. } | Part::ToolCall(_) | Part::ToolResult { .. } | Part::Reasoning { .. } => false,
            Part::Image { url, .. } => !url.starts_with("data:"),
            Part::Json { value } => is_named(value),
        }
    }
    let bodies = [
        Some(ask.prompt.extra()),
        Some(ask.defaults.extra()),
        ask.prompt.raw_body(),
    ];
    ask.prompt
        .messages()
        .iter()
        .flat_map(|message| &message.content)
        .any(is_linked)
        || bodies
            .into_iter()
            .flatten()
            .any(|fields| names_object(fields) || fields.values().any(is_named))
}

/// Refines an error by the quotas that a refusal names.
fn refine(error: LlmError, reply: &Reply, body: &Value, ask: &Ask<'_>) -> LlmError {
    let quotas = quotas(body);
    match error.kind() {
        ErrorKind::QuotaExhausted
            if quotas
                .iter()
                .any(|quota| quota.is_daily && quota.limit != Some(0)) =>
        {
            // The wait that comes with it is too short.
            error.with_retry_after(pacific::until_midnight(wire::server_time(&reply.headers)))
        }
        ErrorKind::RateLimit => refine_rate_limit(error, &quotas, ask),
        _ => error,
    }
}

fn refine_rate_limit(error: LlmError, quotas: &[Quota], ask: &Ask<'_>) -> LlmError {
    let minutely = || quotas.iter().filter(|quota| quota.is_minutely);
    let input = minutely().find(|quota| quota.is_of_input_tokens);
    if let Some(limit) = input.and_then(|quota| quota.limit)
        && exceeds(ask, limit)
    {
        return too_large(&error, limit);
    }
    let Some(first) = minutely().next() else {
        return error;
    };
    let mut reported = error.quota().copied().unwrap_or_else(ReportedQuota::default);
    let (dimension, window) = if first.is_of_tokens {
        (QuotaDimension::Tokens, &mut reported.tokens)
    } else {
        (QuotaDimension::Requests, &mut reported.requests)
    };
    window.limit = first.limit;
    reported.dimension = Some(dimension);
    let wait = error.retry_after().unwrap_or(A_MINUTE);
    error.with_quota(reported).with_retry_after(wait)
}

/// The error for a prompt that no wait helps.
fn too_large(error: &LlmError, limit: u64) -> LlmError {
    let message = format!(
        "the prompt alone is larger than the quota of {limit} input tokens per minute; shorten it, or use a model or \
         tier with a larger quota: {}",
        error.message()
    );
    let mut too_large = LlmError::new(ErrorKind::InvalidRequest, message);
    if let Some(status) = error.status() {
        too_large = too_large.with_status(status);
    }
    match error.code() {
        Some(code) => too_large.with_code(code),
        None => too_large,
    }
}

/// A quota that a reply says was exceeded.
#[derive(Clone, Copy, Debug)]
struct Quota {
    is_daily: bool,
    is_minutely: bool,
    is_of_tokens: bool,
    is_of_input_tokens: bool,
    limit: Option<u64>,
}

fn quotas(body: &Value) -> Vec<Quota> {
    let body = body.get(0).unwrap_or(body);
    let details = body.pointer("/error/details").and_then(Value::as_array);
    let violations = details
        .into_iter()
        .flatten()
        .filter_map(|detail| detail.get("violations")?.as_array())
        .flatten();
    violations
        .map(|violation| {
            let text = |name| violation.get(name).and_then(Value::as_str).unwrap_or_default();
            let (id, metric) = (text("quotaId"), text("quotaMetric"));
            let value = violation.get("quotaValue");
            Quota {
                is_daily: id.contains("PerDay"),
                is_minutely: id.contains("PerMinute"),
                is_of_tokens: id.contains("Token") || metric.contains("token"),
                is_of_input_tokens: id.contains("InputToken") || metric.contains("input_token"),
                limit: value.and_then(|value| value.as_u64().or_else(|| value.as_str()?.parse().ok())),
            }
        })
        .collect()
}

/// No language comes near this many characters a token: beyond it a prompt is larger than the limit for certain.
const MOST_CHARACTERS_PER_TOKEN: u64 = 8;

/// English has 4 to 4.7 characters a token, and no other language more.
const MANY_CHARACTERS_PER_TOKEN: u64 = 5;

/// Returns `true` if the prompt alone has more input tokens than the quota of a minute, so that no wait helps.
///
/// The provider does not report how many tokens it counted, and answers such a prompt like any other rate limit, with a wait.
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
    parts.map(characters_in).sum::<u64>()
        + prompt
            .raw_body()
            .into_iter()
            .flat_map(|body| body.values())
            .map(texts_in)
            .sum::<u64>()
}

fn characters_in(part: &Part) -> u64 {
    match part {
        Part::Text { text } | Part::Reasoning { text, .. } => characters_of(text),
        Part::ToolCall(call) => characters_of(&call.arguments),
        Part::ToolResult { content, .. } => content.iter().map(characters_in).sum(),
        Part::Json { value } => texts_in(value),
        Part::Native { .. } => part.on(Wire::GenerateContent).map_or(0, characters_in),
        Part::Image { .. } => 0,
    }
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
