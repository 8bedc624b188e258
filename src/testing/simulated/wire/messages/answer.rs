//! The parts of an answer.

use serde_json::{Value, json};

use super::super::{Reply, THOUGHT, pieces};
use crate::response::FinishReason;

/// A block of the answer's content.
pub(super) enum Block<'a> {
    Thinking,
    Text(&'a str),
    Tool { name: &'a str, input: Value, id: u64 },
}

pub(super) fn blocks<'a>(reply: &Reply<'a>) -> Vec<Block<'a>> {
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
    blocks.push(match reply.call() {
        Some((name, arguments)) => Block::Tool {
            name,
            input: serde_json::from_str(arguments).unwrap_or_default(),
            id: reply.number,
        },
        None => Block::Text(&answer.text),
    });
    blocks
}

impl Block<'_> {
    pub(super) fn whole(&self) -> Value {
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

    pub(super) fn empty(&self) -> Value {
        match self {
            Self::Thinking => json!({ "type": "thinking", "thinking": "", "signature": "" }),
            Self::Text(_) => json!({ "type": "text", "text": "" }),
            Self::Tool { name, id, .. } => {
                json!({ "type": "tool_use", "id": format!("toolu_sim_{id}"), "name": name, "input": {} })
            }
        }
    }

    pub(super) fn deltas(&self) -> Vec<Value> {
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

pub(super) fn message(reply: &Reply<'_>, content: &[Value], stop: Option<&Value>, usage: &Value) -> Value {
    let why = |name: &str| stop.and_then(|stop| stop.get(name)).cloned().unwrap_or_default();
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

pub(super) fn stop(reply: &Reply<'_>) -> Value {
    let reason = match reply.answer.finish {
        _ if reply.answer.refused => "refusal",
        FinishReason::Length => "max_tokens",
        _ if reply.call().is_some() => "tool_use",
        _ => "end_turn",
    };
    let details = reply
        .answer
        .refused
        .then(|| json!({ "type": "refusal", "category": "general_harms", "explanation": reply.answer.text }));
    json!({ "stop_reason": reason, "stop_sequence": null, "stop_details": details })
}

pub(super) fn usage(reply: &Reply<'_>) -> Value {
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
