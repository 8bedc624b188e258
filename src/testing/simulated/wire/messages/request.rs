//! The parsing and validation of a request.

use http::request::Parts;
use serde_json::{Map, Value, json};

use super::super::super::super::hash;
use super::super::super::answer::{Question, WantedTool, join, tokens};
use super::super::super::cache::Mark;
use super::super::super::rejection::Rejection;
use super::super::{header, texts};

const VERSIONS: [&str; 3] = ["2023-01-01", "2023-06-01", SAMPLING_ENDS];
/// The version from which sampling parameters are rejected.
const SAMPLING_ENDS: &str = "2026-10-21";
const MOST_MARKS: usize = 4;
const LEAST_BUDGET: u64 = 1_024;

/// The question in a body, without validation of the rest.
pub(in super::super) fn question(body: &Map<String, Value>) -> Result<Question, Box<Rejection>> {
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
        json: format,
        tool: wanted_tool(body),
    })
}

fn wanted_tool(body: &Map<String, Value>) -> Option<WantedTool> {
    let choice = body.get("tool_choice")?;
    let name = choice["name"].as_str().filter(|_| choice["type"] == "tool");
    let tools = body.get("tools").and_then(Value::as_array).into_iter().flatten();
    // Those of the provider's own have a type, and no schema.
    let tools = tools.filter(|tool| name.is_some() || tool.get("input_schema").is_some());
    let tools = tools.filter_map(|tool| WantedTool::read(tool, "input_schema"));
    (name.is_some() || choice["type"] == "any").then(|| WantedTool::of(tools, name))?
}

/// Returns the answer to `/v1/messages/count_tokens`.
pub(in super::super::super) fn count_tokens(
    head: &Parts,
    body: &Map<String, Value>,
) -> Result<Value, Box<Rejection>> {
    version(head)?;
    Ok(json!({ "input_tokens": question(body)?.prompt_tokens() }))
}

pub(super) fn version(head: &Parts) -> Result<&str, Box<Rejection>> {
    match header(head, "anthropic-version") {
        None => Err(Rejection::invalid("anthropic-version: header is required").into()),
        Some(version) if VERSIONS.contains(&version) => Ok(version),
        Some(version) => {
            let message = format!("anthropic-version: {version:?} is not a valid version");
            Err(Rejection::invalid(message).into())
        }
    }
}

/// Checks that the body has only allowed fields.
pub(super) fn check(version: &str, body: &Map<String, Value>) -> Result<(), String> {
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

/// The positions up to which the prompt is to be cached, in order.
pub(super) fn marks(body: &Map<String, Value>) -> Result<Vec<Mark>, String> {
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
    // A mark at the top level covers the whole prompt.
    mark(body.get("cache_control"), prefix, &text);
    if marks.len() > MOST_MARKS {
        return Err(format!(
            "A maximum of {MOST_MARKS} blocks with cache_control may be provided. Found {}.",
            marks.len()
        ));
    }
    Ok(marks)
}
