//! Answers that come in several replies, each asked for with the token of the one before.

use std::collections::BTreeMap;

use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};

use super::response::CONTINUATION;
use super::{response, stream, usage};
use crate::provider::http::Reply;

/// The question that gets the next part of the answer: the same, with the token.
pub(super) fn next(body: &[u8], reply: &Reply) -> Option<Vec<u8>> {
    // Hardly any reply is a part, and a look at the bytes is much cheaper than reading it.
    let is_part = reply
        .body
        .windows(CONTINUATION.len())
        .any(|window| window == CONTINUATION.as_bytes());
    if !is_part || !(200..300).contains(&reply.status) {
        return None;
    }
    let reply = response::parse(&reply.body).ok()?;
    let candidate = reply.get("candidates")?.get(0)?;
    if candidate.get("finishReason")? != CONTINUATION {
        return None;
    }
    let token = candidate
        .get("continuationToken")
        .or_else(|| reply.get("continuationToken"))?;
    // As text, in which arguments of calls keep their digits.
    let mut question: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(body).ok()?;
    question.insert("continuationToken".to_owned(), to_raw_value(token).ok()?);
    serde_json::to_vec(&question).ok()
}

/// Puts the parts of `first` before those of `next`, and adds their usage. `false` if `next` has no candidate.
pub(super) fn join(first: &Reply, next: &mut Reply) -> bool {
    match joined(first, next) {
        Some(body) => {
            next.body = body.into();
            true
        }
        None => false,
    }
}

fn joined(first: &Reply, next: &Reply) -> Option<Vec<u8>> {
    if !(200..300).contains(&next.status) {
        return None;
    }
    let mut first = response::parse(&first.body).ok()?;
    let mut next = response::parse(&next.body).ok()?;
    let candidate = next.get_mut("candidates")?.get_mut(0)?.as_object_mut()?;
    let content = candidate
        .entry("content")
        .or_insert_with(|| Value::Object(Map::new()));
    if !content.is_object() {
        *content = Value::Object(Map::new());
    }
    let later = match content.get_mut("parts").map(Value::take) {
        Some(Value::Array(parts)) => parts,
        _ => Vec::new(),
    };
    let mut parts = match first.pointer_mut("/candidates/0/content/parts").map(Value::take) {
        Some(Value::Array(parts)) => parts,
        _ => Vec::new(),
    };
    parts.extend(later);
    content.as_object_mut()?.insert("parts".to_owned(), parts.into());
    if let Some(Value::Object(mut before)) = first.pointer_mut("/candidates/0").map(Value::take) {
        let has_mean = before.contains_key("avgLogprobs");
        before.retain(|name, _| stream::GROWING.contains(&name.as_str()));
        stream::merge(&mut before, std::mem::take(candidate));
        *candidate = before;
        if has_mean {
            // The mean over one part is not that over both.
            candidate.remove("avgLogprobs");
        }
    }

    let body = next.as_object_mut()?;
    // A sum of which a part is not known is not known.
    match (first.get("usageMetadata"), body.get_mut("usageMetadata")) {
        (Some(Value::Object(before)), Some(Value::Object(counts))) => usage::add(before, counts),
        _ => {
            body.remove("usageMetadata");
        }
    }
    serde_json::to_vec(&next).ok()
}
