//! Anthropic's Messages.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::RETRY_AFTER;
use http::request::Parts;
use serde_json::{Map, Value, json};

use super::super::super::hash;
use super::super::answer::{Question, join, tokens};
use super::super::cache::Mark;
use super::super::hint::{Hint, up_to_seconds};
use super::super::rejection::{Cause, GivenHint, Rejection};
use super::{
    Asked, Refused, Reply, THOUGHT, Wire, bearer, event, header, insert, list, openai, pieces, texts,
};
use crate::classify::{QuotaDimension, QuotaWindow, ReportedQuota};
use crate::response::FinishReason;

pub(in super::super) struct Messages;

const VERSIONS: [&str; 3] = ["2023-01-01", "2023-06-01", SAMPLING_ENDS];
/// The version under which nothing about sampling may be sent.
const SAMPLING_ENDS: &str = "2026-10-21";
const MOST_MARKS: usize = 4;
const LEAST_BUDGET: u64 = 1_024;

/// The question in a body, whether the rest of it is in order or not.
pub(super) fn question(body: &Map<String, Value>) -> Result<Question, Box<Rejection>> {
    let messages = match body.get("messages").and_then(Value::as_array) {
        Some(messages) if !messages.is_empty() => messages,
        Some(_) => return Err(Rejection::invalid("messages: at least one message is required").into()),
        None => return Err(Rejection::invalid("messages: Field required").into()),
    };
    let system = texts(body.get("system"));
    let turns = messages.iter().flat_map(|message| texts(message.get("content")));
    let format = body.get("output_config").and_then(|config| config.get("format"));
    let format = format.map(|format| format.get("schema").cloned().unwrap_or_default());
    Ok(Question {
        text: join(system.into_iter().chain(turns)),
        model: body.get("model").and_then(Value::as_str).map(str::to_owned),
        max_tokens: body.get("max_tokens").and_then(Value::as_u64),
        json: format.or_else(|| {
            Some(
                forced_tool(body)?
                    .get("input_schema")
                    .cloned()
                    .unwrap_or_default(),
            )
        }),
    })
}

/// The tool that has to be called.
fn forced_tool(body: &Map<String, Value>) -> Option<&Value> {
    let choice = body
        .get("tool_choice")
        .filter(|choice| choice["type"] == "tool")?;
    let tools = body.get("tools")?.as_array()?;
    tools.iter().find(|tool| tool["name"] == choice["name"])
}

/// What `/v1/messages/count_tokens` answers.
pub(in super::super) fn count_tokens(
    head: &Parts,
    body: &Map<String, Value>,
) -> Result<Value, Box<Rejection>> {
    version(head)?;
    Ok(json!({ "input_tokens": question(body)?.prompt_tokens() }))
}

fn version(head: &Parts) -> Result<&str, Box<Rejection>> {
    match header(head, "anthropic-version") {
        None => Err(Rejection::invalid("anthropic-version: header is required").into()),
        Some(version) if VERSIONS.contains(&version) => Ok(version),
        Some(version) => {
            let message = format!("anthropic-version: {version:?} is not a valid version");
            Err(Rejection::invalid(message).into())
        }
    }
}

/// What the body may not have.
fn check(version: &str, body: &Map<String, Value>) -> Result<(), String> {
    let Some(limit) = body.get("max_tokens") else {
        return Err("max_tokens: Field required".to_owned());
    };
    let Some(limit) = limit.as_u64() else {
        return Err("max_tokens: Input should be a valid integer".to_owned());
    };
    if let Some(thinking) = body
        .get("thinking")
        .filter(|thinking| thinking["type"] == "enabled")
    {
        let budget = thinking["budget_tokens"].as_u64().unwrap_or(0);
        if budget < LEAST_BUDGET {
            return Err(format!(
                "thinking.enabled.budget_tokens: Input should be greater than or equal to {LEAST_BUDGET}"
            ));
        }
        if limit <= budget {
            return Err("`max_tokens` must be greater than `thinking.budget_tokens`".to_owned());
        }
    }
    if version < SAMPLING_ENDS {
        return Ok(());
    }
    for name in ["temperature", "top_p", "top_k"] {
        if body.contains_key(name) {
            return Err(format!("{name}: not supported with anthropic-version {version}"));
        }
    }
    let turns = body.get("messages").and_then(Value::as_array);
    for (number, turn) in turns.into_iter().flatten().enumerate() {
        for block in turn["content"].as_array().into_iter().flatten() {
            if turn["role"] == "assistant" && block["type"] == "document" {
                return Err(format!(
                    "messages.{number}: a document may not be in an assistant message"
                ));
            }
            let cited = block["citations"]
                .as_array()
                .is_some_and(|citations| !citations.is_empty());
            if turn["role"] == "user" && block["type"] == "text" && cited {
                return Err(format!("messages.{number}: a user's text may not have citations"));
            }
        }
    }
    Ok(())
}

/// The places up to which the prompt is to be kept, in order.
fn marks(body: &Map<String, Value>) -> Result<Vec<Mark>, String> {
    let mut marks = Vec::new();
    let mut prefix = hash(
        0,
        body.get("model")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .as_bytes(),
    );
    let mut text = String::new();
    let mut mark = |control: Option<&Value>, prefix: u64, text: &str| {
        if let Some(control) = control.filter(|control| control["type"] == "ephemeral") {
            let (tokens, long) = (tokens(text), control["ttl"] == "1h");
            marks.push(Mark { prefix, tokens, long });
        }
    };
    for tool in body.get("tools").and_then(Value::as_array).into_iter().flatten() {
        prefix = hash(prefix, tool.to_string().as_bytes());
        mark(tool.get("cache_control"), prefix, &text);
    }
    let turns = body
        .get("messages")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let system = body.get("system").into_iter();
    for content in system.chain(turns.filter_map(|turn| turn.get("content"))) {
        let one = [content.clone()];
        let blocks = content.as_array().map_or(one.as_slice(), Vec::as_slice);
        for block in blocks {
            let words = block.as_str().or_else(|| block.get("text")?.as_str());
            if let Some(words) = words {
                if !text.is_empty() {
                    text.push('\n');
                }
                text.push_str(words);
            }
            prefix = hash(
                prefix,
                words.map_or_else(|| block.to_string(), str::to_owned).as_bytes(),
            );
            mark(block.get("cache_control"), prefix, &text);
        }
    }
    // At the top level: everything there is.
    mark(body.get("cache_control"), prefix, &text);
    if marks.len() > MOST_MARKS {
        return Err(format!(
            "A maximum of {MOST_MARKS} blocks with cache_control may be provided. Found {}.",
            marks.len()
        ));
    }
    Ok(marks)
}

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
        let content = blocks(reply).iter().map(Block::whole).collect();
        message(reply, content, Some(stop(reply)), usage(reply))
    }

    fn events(&self, reply: &Reply<'_>) -> Vec<String> {
        let mut at_first = usage(reply);
        at_first["output_tokens"] = 1.into();
        if let Some(fields) = at_first.as_object_mut() {
            fields.remove("output_tokens_details");
        }
        let begun = message(reply, Vec::new(), None, at_first);
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
                waiting.push_str(self.keep_alive());
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

    fn keep_alive(&self) -> &'static str {
        "event: ping\ndata: {\"type\": \"ping\"}\n\n"
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
                // A moment, rounded up to a second.
                let since_epoch = SystemTime::now()
                    .duration_since(SystemTime::UNIX_EPOCH)
                    .unwrap_or_default();
                let moment = SystemTime::UNIX_EPOCH + up_to_seconds(since_epoch.saturating_add(reset));
                set("reset", &humantime::format_rfc3339_seconds(moment));
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
        let mut models = list(self.model(model));
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
            QuotaDimension::Requests => {
                format!(
                    "This request would exceed the rate limit of {limit} requests {}.",
                    per(period)
                )
            }
            QuotaDimension::Tokens => {
                format!(
                    "This request would exceed the rate limit of {limit} tokens {}.",
                    per(period)
                )
            }
            QuotaDimension::Concurrency => {
                format!("This request would exceed the limit of {limit} concurrent requests.")
            }
        },
        _ => rejection.message.clone(),
    };
    (kind, message, None)
}

/// A block of the answer's content.
enum Block<'a> {
    Thinking,
    Text(&'a str),
    Tool { name: &'a str, input: Value, id: u64 },
}

fn blocks<'a>(reply: &Reply<'a>) -> Vec<Block<'a>> {
    let (answer, body) = (reply.answer, &reply.asked.body);
    let mut blocks = Vec::new();
    let thinks = body
        .get("thinking")
        .is_some_and(|thinking| !["disabled", ""].contains(&thinking["type"].as_str().unwrap_or_default()));
    if thinks && answer.usage.reasoning > 0 {
        blocks.push(Block::Thinking);
    }
    if answer.refused || answer.text.is_empty() {
        return blocks;
    }
    let tool = called_tool(reply);
    blocks.push(match tool {
        Some((name, input)) => Block::Tool {
            name,
            input,
            id: reply.number,
        },
        None => Block::Text(&answer.text),
    });
    blocks
}

/// The tool that the answer calls, if one has to be called and the answer is its input.
fn called_tool<'a>(reply: &Reply<'a>) -> Option<(&'a str, Value)> {
    let body = &reply.asked.body;
    if reply.answer.refused
        || body
            .get("output_config")
            .is_some_and(|config| config.get("format").is_some())
    {
        return None;
    }
    let name = forced_tool(body)?.get("name")?.as_str()?;
    Some((name, serde_json::from_str(&reply.answer.text).ok()?))
}

impl Block<'_> {
    fn whole(&self) -> Value {
        match self {
            Self::Thinking => json!({ "type": "thinking", "thinking": THOUGHT, "signature": "c2lt" }),
            Self::Text(text) => json!({ "type": "text", "text": text }),
            Self::Tool { input, .. } => {
                let mut block = self.empty();
                block["input"] = input.clone();
                block
            }
        }
    }

    fn empty(&self) -> Value {
        match self {
            Self::Thinking => json!({ "type": "thinking", "thinking": "", "signature": "" }),
            Self::Text(_) => json!({ "type": "text", "text": "" }),
            Self::Tool { name, id, .. } => {
                json!({ "type": "tool_use", "id": format!("toolu_sim_{id}"), "name": name, "input": {} })
            }
        }
    }

    fn deltas(&self) -> Vec<Value> {
        match self {
            Self::Thinking => vec![
                json!({ "type": "thinking_delta", "thinking": THOUGHT }),
                json!({ "type": "signature_delta", "signature": "c2lt" }),
            ],
            Self::Text(text) => pieces(text)
                .into_iter()
                .map(|piece| json!({ "type": "text_delta", "text": piece }))
                .collect(),
            Self::Tool { input, .. } => pieces(&input.to_string())
                .into_iter()
                .map(|piece| json!({ "type": "input_json_delta", "partial_json": piece }))
                .collect(),
        }
    }
}

fn message(reply: &Reply<'_>, content: Vec<Value>, stop: Option<Value>, usage: Value) -> Value {
    let stop = stop.unwrap_or_default();
    let why = |name: &str| stop.get(name).cloned().unwrap_or_default();
    json!({
        "id": format!("msg_sim_{}", reply.number),
        "type": "message",
        "role": "assistant",
        "model": reply.model,
        "content": content,
        "stop_reason": why("stop_reason"),
        "stop_sequence": why("stop_sequence"),
        "stop_details": why("stop_details"),
        "usage": usage,
    })
}

fn stop(reply: &Reply<'_>) -> Value {
    let reason = match reply.answer.finish {
        _ if reply.answer.refused => "refusal",
        FinishReason::Length => "max_tokens",
        _ if called_tool(reply).is_some() => "tool_use",
        _ => "end_turn",
    };
    let details = reply
        .answer
        .refused
        .then(|| json!({ "type": "refusal", "category": "general_harms", "explanation": reply.answer.text }));
    json!({ "stop_reason": reason, "stop_sequence": null, "stop_details": details })
}

fn usage(reply: &Reply<'_>) -> Value {
    let usage = reply.answer.usage;
    let long = reply.answer.long_cache_write;
    let mut written = json!({
        "input_tokens": usage.input - usage.cached_input - usage.cache_write,
        "cache_creation_input_tokens": usage.cache_write,
        "cache_read_input_tokens": usage.cached_input,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_write - long, "ephemeral_1h_input_tokens": long,
        },
        "output_tokens": usage.output,
        "service_tier": "standard",
        "inference_geo": "not_available",
    });
    if usage.reasoning > 0 {
        written["output_tokens_details"] = json!({ "thinking_tokens": usage.reasoning });
    }
    written
}
