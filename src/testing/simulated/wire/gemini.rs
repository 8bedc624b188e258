//! Gemini's generateContent.

use std::time::Duration;

use http::HeaderMap;
use http::request::Parts;
use serde_json::{Map, Value, json};

use super::super::answer::{Question, WantedTool, join, tokens};
use super::super::hint::Hint;
use super::super::rejection::{Cause, Rejection};
use super::{Asked, Refused, Reply, THOUGHT, Wire, header, insert, pieces, texts};
use crate::error::{QuotaDimension, ReportedQuota};
use crate::response::FinishReason;

pub(in super::super) struct Gemini;

const DAY: Duration = Duration::from_secs(86_400);

/// A field by its name in camel case or snake case: the API accepts both.
pub(super) fn field<'a>(fields: &'a Map<String, Value>, camel: &str) -> Option<&'a Value> {
    fields.get(camel).or_else(|| {
        let snake = camel.chars().fold(String::new(), |mut snake, letter| {
            if letter.is_ascii_uppercase() {
                snake.push('_');
            }
            snake.push(letter.to_ascii_lowercase());
            snake
        });
        fields.get(&snake)
    })
}

/// The texts of the system instruction and of all turns, without thoughts.
pub(super) fn prompt_texts(body: &Map<String, Value>) -> Vec<&str> {
    let system = field(body, "systemInstruction").into_iter();
    let turns = body
        .get("contents")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let contents = system.chain(turns);
    contents
        .flat_map(|content| match content {
            Value::String(text) => vec![text.as_str()],
            content => match content.get("parts") {
                Some(part @ Value::Object(_)) => {
                    part.get("text").and_then(Value::as_str).into_iter().collect()
                }
                Some(Value::Array(parts)) => parts
                    .iter()
                    .filter(|part| part["thought"] != true)
                    .filter_map(|part| {
                        let output = || part.pointer("/functionResponse/response/output");
                        part.get("text").or_else(output)?.as_str()
                    })
                    .collect(),
                other => texts(other),
            },
        })
        .collect()
}

pub(super) fn question(body: &Map<String, Value>, model: Option<&str>) -> Result<Question, Box<Rejection>> {
    if !matches!(body.get("contents"), Some(Value::Array(contents)) if !contents.is_empty()) {
        let message = "* GenerateContentRequest.contents: contents is not specified\n";
        return Err(Rejection::invalid(message).into());
    }
    let none = Map::new();
    let config = field(body, "generationConfig")
        .and_then(Value::as_object)
        .unwrap_or(&none);
    let is_json = field(config, "responseMimeType").is_some_and(|kind| kind == "application/json");
    let schema = field(config, "responseJsonSchema").or_else(|| field(config, "responseSchema"));
    if schema.is_some() && !is_json {
        let message = "A response schema needs the response mime type application/json.";
        return Err(Rejection::invalid(message).into());
    }
    Ok(Question {
        text: join(prompt_texts(body).into_iter()),
        model: model.map(str::to_owned),
        max_tokens: field(config, "maxOutputTokens").and_then(Value::as_u64),
        json: is_json.then(|| schema.cloned().unwrap_or_default()),
        tool: wanted_tool(body),
    })
}

fn wanted_tool(body: &Map<String, Value>) -> Option<WantedTool> {
    let object = |fields, name| field(fields, name)?.as_object();
    let config = object(object(body, "toolConfig")?, "functionCallingConfig")?;
    let names = field(config, "allowedFunctionNames").and_then(Value::as_array);
    let name = names.and_then(|names| names.first()?.as_str());
    let tools = field(body, "tools")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let declared = tools.filter_map(|tool| field(tool.as_object()?, "functionDeclarations")?.as_array());
    let tools = declared.flatten().filter_map(|tool| {
        let schema = field(tool.as_object()?, "parametersJsonSchema").or_else(|| tool.get("parameters"));
        Some(WantedTool {
            name: tool.get("name")?.as_str()?.to_owned(),
            parameters: schema.cloned(),
        })
    });
    (field(config, "mode")? == "ANY").then(|| WantedTool::of(tools, name))?
}

/// Model and method of a path such as `/v1beta/models/MODEL:generateContent`.
pub(in super::super) fn model_and_method(path: &str) -> Option<(&str, &str)> {
    path.rsplit('/').next()?.split_once(':')
}

pub(in super::super) fn query<'a>(head: &'a Parts, name: &str) -> Option<&'a str> {
    let pairs = head
        .uri
        .query()?
        .split('&')
        .filter_map(|pair| pair.split_once('='));
    pairs
        .into_iter()
        .find(|(other, _)| *other == name)
        .map(|(_, value)| value)
}

/// Returns the answer to `:countTokens`.
pub(in super::super) fn count_tokens(body: &Map<String, Value>) -> Result<Value, Box<Rejection>> {
    let body = match field(body, "generateContentRequest") {
        Some(Value::Object(body)) => body,
        _ => body,
    };
    Ok(json!({ "totalTokens": question(body, None)?.prompt_tokens() }))
}

impl Wire for Gemini {
    fn key(&self, head: &Parts) -> Option<String> {
        let key = header(head, "x-goog-api-key").or_else(|| query(head, "key"));
        key.map(str::to_owned)
    }

    fn read(&self, head: &Parts, body: Map<String, Value>) -> Result<Asked, Box<Rejection>> {
        let (model, method) = model_and_method(head.uri.path()).unwrap_or_default();
        let streamed = method == "streamGenerateContent";
        if streamed && query(head, "alt") != Some("sse") {
            return Err(Rejection::invalid("The simulated provider streams with alt=sse only.").into());
        }
        let question = question(&body, Some(model))?;
        let cached_content = field(&body, "cachedContent")
            .and_then(Value::as_str)
            .map(str::to_owned);
        if cached_content.is_some()
            && ["systemInstruction", "tools", "toolConfig"]
                .iter()
                .any(|name| field(&body, name).is_some_and(|value| !value.is_null()))
        {
            let message = "CachedContent can not be used with GenerateContent request setting system_instruction, \
                tools or tool_config.";
            return Err(Rejection::invalid(message).into());
        }
        Ok(Asked {
            question,
            streamed,
            refuses_without_words: true,
            cached_content,
            body,
            ..Asked::default()
        })
    }

    fn whole(&self, reply: &Reply<'_>) -> Value {
        let mut parts = thoughts(reply);
        if let Some(call) = function_call(reply) {
            parts.push(call);
        } else if !reply.answer.text.is_empty() {
            parts.push(json!({ "text": reply.answer.text }));
        }
        chunk(reply, parts, true, tokens(&reply.answer.text))
    }

    fn events(&self, reply: &Reply<'_>) -> Vec<String> {
        let data = |chunk: Value| format!("data: {chunk}\r\n\r\n");
        let mut events = Vec::new();
        let mut parts = thoughts(reply);
        let mut sent = String::new();
        let text = match function_call(reply) {
            Some(call) => {
                sent.push_str(&reply.answer.text);
                parts.push(call);
                events.push(data(chunk(
                    reply,
                    std::mem::take(&mut parts),
                    false,
                    tokens(&sent),
                )));
                ""
            }
            None => reply.answer.text.as_str(),
        };
        for piece in pieces(text) {
            sent.push_str(piece);
            parts.push(json!({ "text": piece }));
            events.push(data(chunk(
                reply,
                std::mem::take(&mut parts),
                false,
                tokens(&sent),
            )));
        }
        if events.is_empty() {
            events.push(data(chunk(reply, parts, false, 0)));
        }
        events.push(data(chunk(reply, Vec::new(), true, tokens(&sent))));
        events
    }

    fn error_event(&self, _: u64, _: &[String]) -> String {
        let error = error(503, "The model is overloaded. Please try again later.", None);
        // Several lines, and no `data:`.
        format!("{error:#}\r\n")
    }

    /// Gemini does not send keep-alives, and Google's client treats a comment as an error.
    fn keep_alive(&self) -> Option<&'static str> {
        None
    }

    fn headers(&self, _: u64, _: Option<&ReportedQuota>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        insert(&mut headers, "x-gemini-service-tier", &"standard");
        insert(&mut headers, "server-timing", &"gfet4t7; dur=1");
        headers
    }

    fn refuse(&self, rejection: &Rejection, number: u64) -> Refused {
        let status = match rejection.cause {
            Cause::WrongKey => 400,
            Cause::NoMoney => 402,
            _ => rejection.status,
        };
        let (message, details) = words(rejection);
        Refused {
            status,
            headers: self.headers(number, None),
            body: error(status, &message, details),
        }
    }

    fn models(&self, model: &str) -> Value {
        json!({ "models": [self.model(model)] })
    }

    fn model(&self, model: &str) -> Value {
        json!({
            "name": format!("models/{model}"),
            "version": "001",
            "displayName": model,
            "inputTokenLimit": 1_048_576,
            "outputTokenLimit": 65_536,
            "supportedGenerationMethods": ["generateContent", "countTokens", "createCachedContent"],
        })
    }
}

fn error(status: u16, message: &str, details: Option<Value>) -> Value {
    let name = match status {
        401 => "UNAUTHENTICATED",
        402 => "FAILED_PRECONDITION",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        408 | 504 | 524 => "DEADLINE_EXCEEDED",
        409 | 425 => "ABORTED",
        429 => "RESOURCE_EXHAUSTED",
        499 => "CANCELLED",
        501 => "UNIMPLEMENTED",
        503 | 529 => "UNAVAILABLE",
        status if status < 500 => "INVALID_ARGUMENT",
        _ => "INTERNAL",
    };
    let mut error = json!({ "error": {"code": status, "message": message, "status": name} });
    if let Some(details) = details {
        error["error"]["details"] = details;
    }
    error
}

/// Message and details of an error.
fn words(rejection: &Rejection) -> (String, Option<Value>) {
    let retry_info = |wait: Duration| {
        let delay = format!("{}.{:09}s", wait.as_secs(), wait.subsec_nanos());
        json!({ "@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay })
    };
    match rejection.cause {
        Cause::WrongKey => {
            let message = "API key not valid. Please pass a valid API key.";
            let details = json!([{
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "API_KEY_INVALID",
                "domain": "googleapis.com",
                "metadata": {"service": "generativelanguage.googleapis.com"},
            }]);
            (message.to_owned(), Some(details))
        }
        Cause::NoMoney => ("The project's prepaid credits are used up.".to_owned(), None),
        // The provider does not distinguish it from a limit for which waiting helps.
        Cause::TooLarge { limit } => {
            let wait = Duration::from_secs(48);
            quota_exceeded(
                QuotaDimension::Tokens,
                limit,
                Duration::ZERO,
                Some(wait),
                Some(retry_info(wait)),
            )
        }
        Cause::Throttled {
            dimension,
            limit,
            period,
        } => match rejection.hint {
            Some(hint) if hint.form != Hint::None => {
                let details = (hint.form != Hint::Message).then(|| retry_info(hint.wait));
                quota_exceeded(dimension, limit, period, Some(hint.wait), details)
            }
            _ => ("Resource has been exhausted (e.g. check quota).".to_owned(), None),
        },
        _ => {
            let details = rejection.hint.map(|hint| json!([retry_info(hint.wait)]));
            (rejection.message.clone(), details)
        }
    }
}

fn quota_exceeded(
    dimension: QuotaDimension,
    limit: u64,
    period: Duration,
    wait: Option<Duration>,
    retry_info: Option<Value>,
) -> (String, Option<Value>) {
    let (metric, id) = match dimension {
        QuotaDimension::Tokens | QuotaDimension::InputTokens | QuotaDimension::OutputTokens => (
            "generate_content_paid_tier_input_token_count",
            "GenerateContentPaidTierInputTokensPerModel",
        ),
        QuotaDimension::Requests | QuotaDimension::Concurrency => (
            "generate_content_paid_tier_requests",
            "GenerateContentPaidTierRequestsPerModel",
        ),
    };
    let metric = format!("generativelanguage.googleapis.com/{metric}");
    let per = if period >= DAY { "PerDay" } else { "PerMinute" };
    let mut message =
        format!("You exceeded your current quota.\n* Quota exceeded for metric: {metric}, limit: {limit}");
    if let Some(wait) = wait {
        message.push_str(&format!("\nPlease retry in {}s.", wait.as_secs_f64()));
    }
    let failure = json!({
        "@type": "type.googleapis.com/google.rpc.QuotaFailure",
        "violations": [{"quotaMetric": metric, "quotaId": format!("{id}{per}"), "quotaValue": limit.to_string()}],
    });
    let details = std::iter::once(failure).chain(retry_info).collect();
    (message, Some(Value::Array(details)))
}

/// A call is one part, streamed or not.
fn function_call(reply: &Reply<'_>) -> Option<Value> {
    let (name, arguments) = reply.call()?;
    let arguments: Value = serde_json::from_str(arguments).unwrap_or_default();
    Some(json!({ "functionCall": {"id": reply.call_id(), "name": name, "args": arguments} }))
}

fn thoughts(reply: &Reply<'_>) -> Vec<Value> {
    let config = field(&reply.asked.body, "generationConfig").and_then(Value::as_object);
    let thinking = config.and_then(|config| field(config, "thinkingConfig")?.as_object());
    let shown = thinking
        .and_then(|thinking| field(thinking, "includeThoughts"))
        .is_some_and(|shown| shown == true);
    if shown && reply.answer.usage.reasoning > 0 {
        vec![json!({ "text": THOUGHT, "thought": true })]
    } else {
        Vec::new()
    }
}

/// One object of a stream, or the only one. `candidate` is the number of the answer's tokens so far.
fn chunk(reply: &Reply<'_>, parts: Vec<Value>, last: bool, candidate: u64) -> Value {
    let answer = reply.answer;
    let mut content = json!({ "role": "model" });
    if !parts.is_empty() {
        content["parts"] = parts.into();
    }
    let mut choice = json!({ "content": content, "index": 0 });
    if last {
        choice["finishReason"] = match answer.finish {
            _ if answer.refused => "SAFETY",
            FinishReason::Length => "MAX_TOKENS",
            _ => "STOP",
        }
        .into();
    }
    if answer.refused {
        choice["content"] = json!({});
        choice["safetyRatings"] = json!([{ "category": "HARM_CATEGORY_DANGEROUS_CONTENT", "probability": "HIGH", "blocked": true }]);
    }
    let usage = answer.usage;
    let mut told = json!({
        "promptTokenCount": usage.input,
        "totalTokenCount": usage.input.saturating_add(candidate).saturating_add(usage.reasoning),
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": usage.input}],
        "serviceTier": "standard",
    });
    for (name, count) in [
        ("candidatesTokenCount", candidate),
        ("thoughtsTokenCount", usage.reasoning),
        ("cachedContentTokenCount", usage.cached_input),
    ] {
        if count > 0 {
            told[name] = count.into();
        }
    }
    json!({
        "candidates": [choice],
        "usageMetadata": told,
        "modelVersion": reply.model,
        "responseId": format!("sim-{}", reply.number),
    })
}
