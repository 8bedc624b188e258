//! The size of an answer in bytes.

use std::any::Any;

use serde::Serialize;
use serde_json::Value;

use crate::response::{FinishReason, LlmResponse, ResponseMetadata};

/// The key, and the store's bookkeeping for one answer.
const ENTRY: usize = 512;

/// Counted for each extension, whose size is unknown.
const EXTENSION: usize = 256;

/// The bytes that an answer takes in the cache; `output` is the heap size of its output.
pub(super) fn of_answer<O>(answer: &LlmResponse<O>, output: usize) -> usize {
    (ENTRY + size_of_val(answer))
        .saturating_add(output)
        .saturating_add(of_metadata(&answer.metadata))
}

/// Counted for an output of a type whose heap size is unknown.
const OUTPUT: usize = 2 * 1024;

/// The bytes that an output holds on the heap.
pub(super) fn of_output<O: 'static>(output: &O) -> usize {
    let output: &dyn Any = output;
    if let Some(text) = output.downcast_ref::<String>() {
        text.len()
    } else if let Some(bytes) = output.downcast_ref::<Vec<u8>>() {
        bytes.len()
    } else if let Some(value) = output.downcast_ref::<Value>() {
        of_value(value)
    } else {
        OUTPUT
    }
}

fn of_metadata(metadata: &ResponseMetadata) -> usize {
    let ResponseMetadata {
        provider,
        model,
        response_id,
        finish_reason,
        cost: _,
        tool_calls,
        reasoning,
        turn,
        further_choices,
        logprobs,
        citations,
        media,
        raw_body,
        extensions,
    } = metadata;
    let texts = [provider, model, response_id].into_iter().flatten();
    let reason = match finish_reason {
        Some(FinishReason::Other(reason)) => reason.len(),
        _ => 0,
    };
    texts.map(String::len).sum::<usize>()
        + reason
        + tool_calls.iter().map(of_value).sum::<usize>()
        + as_json(further_choices.as_deref())
        + as_json(reasoning.as_deref())
        + as_json(turn.as_deref())
        + as_json(logprobs.as_deref())
        + as_json(citations.as_deref())
        + as_json(media.as_deref())
        + raw_body.as_ref().map_or(0, |body| body.get().len())
        + extensions.len() * EXTENSION
}

/// Estimates a rare part by the length of its JSON.
fn as_json<T: Serialize>(part: Option<&T>) -> usize {
    part.map_or(0, |part| {
        size_of::<T>() + serde_json::to_value(part).map_or(EXTENSION, |value| of_value(&value))
    })
}

fn of_value(value: &Value) -> usize {
    let outside = match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(of_value).sum(),
        // Beside name and value, an object holds a hash and an entry for each field.
        Value::Object(fields) => (fields.iter())
            .map(|(name, value)| size_of::<(String, u64, usize)>() + name.len() + of_value(value))
            .sum(),
    };
    size_of::<Value>() + outside
}
