//! The common part of OpenAI's two wire formats: errors, headers, keys.

use http::HeaderMap;
use http::header::RETRY_AFTER;
use serde_json::{Value, json};

use super::super::hint::{Hint, moment, openai_duration, up_to_milliseconds, up_to_seconds};
use super::super::rejection::{Cause, GivenHint, Rejection};
use super::{Refused, insert};
use crate::error::{QuotaDimension, QuotaWindow, ReportedQuota};

/// `type` and `code` of the error body.
pub(in super::super) fn kind_and_code(rejection: &Rejection) -> (&'static str, Option<&'static str>) {
    match rejection.cause {
        Cause::Invalid => ("invalid_request_error", None),
        Cause::UnknownUrl => ("invalid_request_error", Some("unknown_url")),
        Cause::WrongKey => ("invalid_request_error", Some("invalid_api_key")),
        Cause::NoMoney => ("insufficient_quota", Some("insufficient_quota")),
        Cause::TooLarge { .. } => ("tokens", Some("rate_limit_exceeded")),
        Cause::Throttled { dimension, .. } => match dimension {
            QuotaDimension::Tokens | QuotaDimension::InputTokens | QuotaDimension::OutputTokens => {
                ("tokens", Some("rate_limit_exceeded"))
            }
            QuotaDimension::Requests | QuotaDimension::Concurrency => {
                ("requests", Some("rate_limit_exceeded"))
            }
        },
        Cause::NoCache => ("invalid_request_error", Some("not_found")),
        Cause::Status => match rejection.status {
            401 => ("invalid_request_error", Some("invalid_api_key")),
            402..=404 | 408 | 409 | 425 | 429 => ("server_error", None),
            400..500 => ("invalid_request_error", None),
            _ => ("server_error", None),
        },
    }
}

pub(super) fn error(message: &str, kind: &str, code: Option<&str>) -> Value {
    json!({ "error": { "message": message, "type": kind, "param": null, "code": code } })
}

/// An error in the middle of a stream, in the form of chat completions and of one variant of Responses.
pub(super) fn stream_error() -> Value {
    error(
        "The server had an error while processing your request. Sorry about that!",
        "server_error",
        None,
    )
}

pub(super) fn refuse(rejection: &Rejection, number: u64) -> Refused {
    let mut headers = headers(number, rejection.quota.as_ref());
    let mut message = rejection.message.clone();
    let mut details = None;
    match rejection.hint.map(|hint| (hint.form, hint.wait)) {
        Some((Hint::Message, wait)) => {
            message.push_str(&format!(" Please try again in {}.", openai_duration(wait)));
        }
        Some((Hint::RetryInfo, wait)) => {
            details = Some(json!([{
                "@type": "type.googleapis.com/google.rpc.RetryInfo",
                "retryDelay": format!("{}.{:09}s", wait.as_secs(), wait.subsec_nanos()),
            }]));
        }
        _ => {}
    }
    if let Some(hint) = rejection.hint {
        wait_headers(&mut headers, hint);
    }
    let (kind, code) = kind_and_code(rejection);
    let mut body = error(&message, kind, code);
    if let Some(details) = details {
        body["error"]["details"] = details;
    }
    Refused {
        status: rejection.status,
        headers,
        body,
    }
}

/// The hint as headers.
pub(super) fn wait_headers(headers: &mut HeaderMap, hint: GivenHint) {
    match hint.form {
        Hint::RetryAfterMs => {
            let wait = up_to_milliseconds(hint.wait);
            insert(headers, "retry-after-ms", &wait.as_millis());
        }
        Hint::RetryAfterSeconds => {
            insert(headers, RETRY_AFTER.as_str(), &up_to_seconds(hint.wait).as_secs());
        }
        Hint::HttpDate => {
            let date = httpdate::fmt_http_date(moment(hint.wait));
            insert(headers, RETRY_AFTER.as_str(), &date);
        }
        Hint::None | Hint::Message | Hint::ResetHeaders | Hint::RetryInfo => {}
    }
}

pub(super) fn headers(number: u64, quota: Option<&ReportedQuota>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    insert(&mut headers, "x-request-id", &format!("req-sim-{number}"));
    if let Some(quota) = quota {
        for (name, window) in [("requests", quota.requests), ("tokens", quota.tokens)] {
            let QuotaWindow {
                limit,
                remaining,
                reset,
            } = window;
            if let (Some(limit), Some(remaining), Some(reset)) = (limit, remaining, reset) {
                let reset = openai_duration(reset);
                insert(&mut headers, &format!("x-ratelimit-limit-{name}"), &limit);
                insert(&mut headers, &format!("x-ratelimit-remaining-{name}"), &remaining);
                insert(&mut headers, &format!("x-ratelimit-reset-{name}"), &reset);
            }
        }
    }
    headers
}

pub(super) fn model(model: &str) -> Value {
    json!({ "id": model, "object": "model", "created": 0, "owned_by": "simulated" })
}

pub(super) fn models(name: &str) -> Value {
    json!({ "object": "list", "data": [model(name)] })
}
