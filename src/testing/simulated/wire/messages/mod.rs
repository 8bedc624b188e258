//! Anthropic's Messages.

mod answer;
mod request;

use std::time::Duration;

use http::HeaderMap;
use http::header::RETRY_AFTER;
use http::request::Parts;
use serde_json::{Map, Value, json};

use self::answer::{Block, blocks, message, stop, usage};
use self::request::{check, marks, version};
use super::super::hint::{Hint, moment, up_to_seconds};
use super::super::rejection::{Cause, GivenHint, Rejection};
use super::{Asked, Refused, Reply, Wire, bearer, event, header, insert, openai};
use crate::error::{QuotaDimension, QuotaWindow, ReportedQuota};

pub(in super::super) use self::request::count_tokens;
pub(super) use self::request::question;

pub(in super::super) struct Messages;

const PING: &str = "event: ping\ndata: {\"type\": \"ping\"}\n\n";

impl Wire for Messages {
    fn key(&self, head: &Parts) -> Option<String> {
        header(head, "x-api-key")
            .map(str::to_owned)
            .or_else(|| bearer(head))
    }

    fn read(&self, head: &Parts, body: Map<String, Value>) -> Result<Asked, Box<Rejection>> {
        let version = version(head)?;
        let question = question(&body)?;
        check(version, &body).map_err(Rejection::invalid)?;
        Ok(Asked {
            question,
            streamed: body.get("stream") == Some(&Value::Bool(true)),
            marks: marks(&body).map_err(Rejection::invalid)?,
            body,
            ..Asked::default()
        })
    }

    fn whole(&self, reply: &Reply<'_>) -> Value {
        let content: Vec<_> = blocks(reply).iter().map(Block::whole).collect();
        message(reply, &content, Some(&stop(reply)), &usage(reply))
    }

    fn events(&self, reply: &Reply<'_>) -> Vec<String> {
        let mut at_first = usage(reply);
        at_first["output_tokens"] = 1.into();
        if let Some(fields) = at_first.as_object_mut() {
            fields.remove("output_tokens_details");
        }
        let begun = message(reply, &[], None, &at_first);
        let mut waiting = event(
            "message_start",
            &json!({ "type": "message_start", "message": begun }),
        );
        let mut events = Vec::new();
        for (index, block) in blocks(reply).iter().enumerate() {
            let start =
                json!({ "type": "content_block_start", "index": index, "content_block": block.empty() });
            waiting.push_str(&event("content_block_start", &start));
            if index == 0 {
                waiting.push_str(PING);
            }
            events.push(std::mem::take(&mut waiting));
            for delta in block.deltas() {
                let delta = json!({ "type": "content_block_delta", "index": index, "delta": delta });
                events.push(event("content_block_delta", &delta));
            }
            let stop = json!({ "type": "content_block_stop", "index": index });
            waiting.push_str(&event("content_block_stop", &stop));
        }
        if events.is_empty() {
            events.push(std::mem::take(&mut waiting));
        }
        let mut usage = usage(reply);
        if let Some(fields) = usage.as_object_mut() {
            fields.retain(|name, _| name.ends_with("_tokens") || name == "output_tokens_details");
        }
        let delta = json!({ "type": "message_delta", "delta": stop(reply), "usage": usage });
        waiting.push_str(&event("message_delta", &delta));
        waiting.push_str(&event("message_stop", &json!({ "type": "message_stop" })));
        events.push(waiting);
        events
    }

    fn error_event(&self, number: u64, _: &[String]) -> String {
        event("error", &error("overloaded_error", "Overloaded", None, number))
    }

    fn keep_alive(&self) -> Option<&'static str> {
        Some(PING)
    }

    fn headers(&self, number: u64, quota: Option<&ReportedQuota>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        insert(&mut headers, "request-id", &request_id(number));
        let Some(quota) = quota else { return headers };
        for (name, window) in [("requests", quota.requests), ("tokens", quota.tokens)] {
            let QuotaWindow {
                limit,
                remaining,
                reset,
            } = window;
            if let (Some(limit), Some(remaining), Some(reset)) = (limit, remaining, reset) {
                let mut set = |what: &str, value: &dyn std::fmt::Display| {
                    insert(&mut headers, &format!("anthropic-ratelimit-{name}-{what}"), value);
                };
                set("limit", &limit);
                set("remaining", &remaining);
                set("reset", &humantime::format_rfc3339_seconds(moment(reset)));
            }
        }
        headers
    }

    fn refuse(&self, rejection: &Rejection, number: u64) -> Refused {
        let mut headers = self.headers(number, rejection.quota.as_ref());
        let status = rejection.status;
        if matches!(status, 400 | 401) {
            insert(&mut headers, "x-should-retry", &false);
        }
        let limited = matches!(rejection.cause, Cause::Throttled { .. })
            || (rejection.cause == Cause::Status && status == 429);
        match rejection.hint {
            Some(hint) if matches!(hint.form, Hint::RetryAfterMs | Hint::HttpDate) => {
                openai::wait_headers(&mut headers, hint);
            }
            Some(GivenHint { wait, .. }) => {
                let wait = up_to_seconds(wait.max(Duration::from_secs(1)));
                insert(&mut headers, RETRY_AFTER.as_str(), &wait.as_secs());
            }
            None if limited => insert(&mut headers, RETRY_AFTER.as_str(), &1),
            None => {}
        }
        let (kind, message, code) = words(rejection);
        Refused {
            status,
            headers,
            body: error(kind, &message, code, number),
        }
    }

    fn models(&self, model: &str) -> Value {
        let mut models = json!({ "data": [self.model(model)] });
        models["has_more"] = false.into();
        models["first_id"] = model.into();
        models["last_id"] = model.into();
        models
    }

    fn model(&self, model: &str) -> Value {
        json!({ "type": "model", "id": model, "display_name": model, "created_at": "2026-01-01T00:00:00Z" })
    }
}

fn request_id(number: u64) -> String {
    format!("req_sim_{number}")
}

fn error(kind: &str, message: &str, code: Option<&str>, number: u64) -> Value {
    let mut body = json!({
        "type": "error", "error": {"type": kind, "message": message}, "request_id": request_id(number),
    });
    if let Some(code) = code {
        body["error"]["details"] = json!({ "error_code": code });
    }
    body
}

/// Type, message and code of an error.
fn words(rejection: &Rejection) -> (&'static str, String, Option<&'static str>) {
    let kind = match rejection.status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        408 | 504 | 524 => "timeout_error",
        409 | 425 => "conflict_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 | 529 => "overloaded_error",
        400..500 => "invalid_request_error",
        _ => "api_error",
    };
    let per = |period: Duration| match period.as_secs() {
        60 => "per minute".to_owned(),
        _ => format!("per {}", humantime::format_duration(period)),
    };
    let message = match rejection.cause {
        Cause::WrongKey => "invalid x-api-key".to_owned(),
        Cause::NoMoney => {
            let message = "This organization has reached the spend limit that was set for it.";
            return (kind, message.to_owned(), Some("enforced_spend_limit_reached"));
        }
        Cause::Throttled {
            dimension,
            limit,
            period,
        } => match dimension {
            QuotaDimension::Concurrency => {
                format!("This request would exceed the limit of {limit} concurrent requests.")
            }
            _ => format!(
                "This request would exceed the rate limit of {limit} {} {}.",
                dimension.words(),
                per(period)
            ),
        },
        _ => rejection.message.clone(),
    };
    (kind, message, None)
}
