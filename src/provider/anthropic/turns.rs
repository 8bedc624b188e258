//! The messages of a request.

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::error::LlmError;
use crate::prompt::{CacheTtl, ImageDetail, Message, Part, Role, ToolCall};
use crate::provider::content::{NOTHING_LEFT, with_ends};
use crate::provider::request::{arguments, refuse};
use crate::provider::wire::digits::Restored;
use crate::response::Wire;

/// The messages as JSON text, in which the inputs of tool calls keep their digits. Results in a row are one turn; a
/// turn of reasoning alone is left out.
pub(super) fn turns(messages: &[Message]) -> Result<Box<RawValue>, LlmError> {
    let mut turns: Vec<Turn<'_>> = Vec::with_capacity(messages.len());
    let mut after_results = false;
    for (message, is_end) in with_ends(messages) {
        if is_end && message.cache.is_none() && message.is_reasoning_alone(Wire::Messages) {
            continue;
        }
        let turn = turn(message, is_end)?;
        let is_results = message.role == Role::Tool;
        match turns.last_mut() {
            Some(last) if is_results && after_results => last.content.append(turn.content),
            _ => turns.push(turn),
        }
        after_results = is_results;
    }
    if turns.is_empty() && !messages.is_empty() {
        return Err(refuse(NOTHING_LEFT));
    }
    serde_json::value::to_raw_value(&turns)
        .map_err(|error| refuse(format!("the messages cannot be written as JSON: {error}")))
}

/// The system text with the application's messages before the first turn: this wire has one place for both.
pub(super) fn system(
    text: Option<&str>,
    cache: Option<CacheTtl>,
    first: &[Message],
) -> Result<Option<Value>, LlmError> {
    let mut blocks = Vec::new();
    if let Some(text) = text {
        blocks.push(text_block(text, cache));
    }
    for message in first {
        let mut own = Vec::new();
        for part in message.content.iter().filter_map(|part| part.on(Wire::Messages)) {
            own.push(block(part)?);
        }
        let own = finished(own, message.cache)?;
        blocks.extend(own.into_iter().map(Block::into_value));
    }
    Ok(match (text, blocks.len()) {
        (_, 0) => None,
        // As text, as people write it.
        (Some(text), 1) if cache.is_none() => Some(text.into()),
        _ => Some(blocks.into()),
    })
}

fn text_block(text: &str, cache: Option<CacheTtl>) -> Value {
    let mut block = json!({ "type": "text", "text": text });
    if let Some(ttl) = cache {
        block["cache_control"] = ttl.mark();
    }
    block
}

#[derive(Serialize)]
struct Turn<'a> {
    role: &'static str,
    content: Content<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Text(&'a str),
    Blocks(Vec<Block<'a>>),
}

impl<'a> Content<'a> {
    fn append(&mut self, more: Self) {
        if let (Self::Blocks(blocks), Self::Blocks(more)) = (self, more) {
            blocks.extend(more);
        }
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum Block<'a> {
    #[serde(serialize_with = "restored")]
    Json(&'a Value),
    #[serde(serialize_with = "restored")]
    Made(Value),
    ToolUse {
        r#type: &'static str,
        id: &'a str,
        name: &'a str,
        input: &'a RawValue,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache_control: Option<Value>,
    },
}

/// Writes a block with the digits of the inputs of the provider's own tools.
fn restored<S: Serializer>(
    value: &impl std::borrow::Borrow<Value>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let value = value.borrow();
    let names = &["input"];
    Restored { value, names }.serialize(serializer)
}

fn turn(message: &Message, is_end: bool) -> Result<Turn<'_>, LlmError> {
    let role = match message.role {
        Role::System | Role::Developer => "system",
        Role::User | Role::Tool => "user",
        Role::Assistant => "assistant",
    };
    if let ([Part::Text { text }], None) = (message.content.as_slice(), message.cache) {
        let content = Content::Text(text);
        return Ok(Turn { role, content });
    }
    let mut blocks = Vec::with_capacity(message.content.len());
    for part in message.content.iter().filter_map(|part| part.on(Wire::Messages)) {
        match part {
            Part::Reasoning { parts, .. } => blocks.extend(parts.iter().filter(is_thought).map(Block::Json)),
            Part::ToolCall(call) => blocks.push(tool_use(call)?),
            part => blocks.push(block(part)?),
        }
    }
    let mut blocks = finished(blocks, message.cache)?;
    // The provider refuses a turn that ends with a thought.
    while is_end && blocks.len() > 1 && blocks.last().is_some_and(Block::is_thought) {
        blocks.pop();
    }
    let content = Content::Blocks(blocks);
    Ok(Turn { role, content })
}

/// The blocks without blank texts, which the provider refuses and others put beside tool calls, and with the mark for the
/// prompt cache on the last block that can have one.
fn finished(mut blocks: Vec<Block<'_>>, cache: Option<CacheTtl>) -> Result<Vec<Block<'_>>, LlmError> {
    if !blocks.iter().all(Block::is_blank) {
        blocks.retain(|block| !block.is_blank());
    }
    if blocks.is_empty() {
        return Err(refuse(NOTHING_LEFT));
    }
    let Some(ttl) = cache else { return Ok(blocks) };
    let last = blocks.iter_mut().rfind(|block| block.takes_mark());
    let Some(last) = last else {
        return Err(refuse(
            "a message has no part that can be marked for the cache; give it a text, or leave the mark out",
        ));
    };
    match last {
        Block::ToolUse { cache_control, .. } => *cache_control = Some(ttl.mark()),
        Block::Made(block) => block["cache_control"] = ttl.mark(),
        Block::Json(block) => {
            let mut block = block.clone();
            block["cache_control"] = ttl.mark();
            *last = Block::Made(block);
        }
    }
    Ok(blocks)
}

impl Block<'_> {
    fn into_value(self) -> Value {
        match self {
            Self::Json(value) => value.clone(),
            Self::Made(value) => value,
            call @ Self::ToolUse { .. } => json!(call),
        }
    }

    fn value(&self) -> Option<&Value> {
        match self {
            Self::Json(value) => Some(value),
            Self::Made(value) => Some(value),
            Self::ToolUse { .. } => None,
        }
    }

    fn is_blank(&self) -> bool {
        let is_blank = |block: &Value| {
            let text = block.get("text").and_then(Value::as_str);
            block.get("type").is_some_and(|kind| kind == "text")
                && text.is_some_and(|text| text.trim().is_empty())
        };
        self.value().is_some_and(is_blank)
    }

    /// Returns `false` for thoughts, which the provider takes no mark on, and for what is not a block.
    fn takes_mark(&self) -> bool {
        !self.is_thought() && self.value().is_none_or(Value::is_object)
    }

    fn is_thought(&self) -> bool {
        let kind = self.value().and_then(|block| block.get("type")?.as_str());
        matches!(kind, Some("thinking" | "redacted_thinking"))
    }
}

/// Returns `true` for a thought of this provider's, with its signature.
fn is_thought(part: &&Value) -> bool {
    match part.get("type").and_then(Value::as_str) {
        Some("thinking") => part.get("signature").is_some_and(Value::is_string),
        Some("redacted_thinking") => true,
        _ => false,
    }
}

fn tool_use(call: &ToolCall) -> Result<Block<'_>, LlmError> {
    Ok(Block::ToolUse {
        r#type: "tool_use",
        id: &call.id,
        name: &call.name,
        input: arguments(call)?,
        cache_control: None,
    })
}

fn block(part: &Part) -> Result<Block<'_>, LlmError> {
    Ok(match part {
        Part::Text { text } => Block::Made(text_block(text, None)),
        Part::Image { url, detail } => {
            if *detail == Some(ImageDetail::Low) {
                return Err(refuse(
                    "Anthropic looks at every image in full, so an image cannot have low detail; leave the detail out, or \
                     make the image smaller",
                ));
            }
            Block::Made(json!({ "type": "image", "source": image_source(url)? }))
        }
        Part::Json { value } => Block::Json(value),
        Part::ToolResult {
            id,
            content,
            is_error,
        } => Block::Made(tool_result(id, content, *is_error)?),
        Part::ToolCall(call) => tool_use(call)?,
        Part::Reasoning { .. } | Part::Native { .. } => {
            return Err(refuse("reasoning stands in messages of the assistant alone"));
        }
    })
}

fn tool_result(id: &str, content: &[Part], is_error: bool) -> Result<Value, LlmError> {
    let mut result = json!({ "type": "tool_result", "tool_use_id": id });
    match content {
        [] => {}
        [Part::Text { text }] => result["content"] = text.as_str().into(),
        parts => {
            let blocks: Result<Vec<_>, LlmError> =
                parts.iter().map(|part| Ok(block(part)?.into_value())).collect();
            result["content"] = blocks?.into();
        }
    }
    if is_error {
        result["is_error"] = true.into();
    }
    Ok(result)
}

fn image_source(url: &str) -> Result<Value, LlmError> {
    // Nothing of the URL goes into a message: it is long, or may be signed.
    let malformed = |what: &str| refuse(format!("an image {what}"));
    let scheme = url.split(':').next().unwrap_or_default();
    if scheme.eq_ignore_ascii_case("https") || scheme.eq_ignore_ascii_case("http") {
        return Ok(json!({ "type": "url", "url": url }));
    }
    if !scheme.eq_ignore_ascii_case("data") {
        return Err(malformed("is neither an https: nor a data: URL"));
    }
    // `data:image/png;base64,AAAA`
    let rest = url.get("data:".len()..).unwrap_or_default();
    let (kind, data) = rest
        .split_once(',')
        .ok_or_else(|| malformed("is a data: URL without data"))?;
    let (media_type, encoding) = kind.split_once(';').unwrap_or((kind, ""));
    if !encoding
        .rsplit(';')
        .next()
        .is_some_and(|word| word.trim().eq_ignore_ascii_case("base64"))
    {
        return Err(malformed(
            "is a data: URL that is not in base64; write data:image/png;base64,...",
        ));
    }
    if media_type.trim().is_empty() {
        return Err(malformed(
            "is a data: URL without a media type; write data:image/png;base64,...",
        ));
    }
    Ok(json!({ "type": "base64", "media_type": media_type.trim(), "data": data }))
}
