//! Answers in several parts: Anthropic's own tools pause after some rounds (`pause_turn`), and go on when what came is
//! sent back.

use serde_json::{Map, Value, json};

use crate::provider::http::Reply;
use crate::provider::wire;

/// The request that continues a paused answer: the same one with what came so far as the last turn.
pub(super) fn continuation(body: &[u8], reply: &Reply) -> Option<Vec<u8>> {
    // Nearly no reply is one. A look at the text is cheaper than to parse them all.
    let text = std::str::from_utf8(&reply.body).ok()?;
    if !(200..300).contains(&reply.status) || !text.contains("\"pause_turn\"") {
        return None;
    }
    let mut reply: Value = serde_json::from_str(text).ok()?;
    if reply.get("stop_reason")? != "pause_turn" {
        return None;
    }
    let content = reply.get_mut("content")?.take();
    if content.as_array()?.is_empty() {
        return None;
    }
    let mut request: Value = serde_json::from_slice(body).ok()?;
    let messages = request.get_mut("messages")?.as_array_mut()?;
    // The part before came after a pause, too: the turn goes on.
    match messages.last_mut() {
        Some(last) if last.get("role").is_some_and(|role| role == "assistant") => {
            let turn = last.get_mut("content")?;
            if let Some(text) = turn.as_str() {
                *turn = json!([{ "type": "text", "text": text }]);
            }
            turn.as_array_mut()?.extend(content.as_array()?.iter().cloned());
        }
        _ => messages.push(json!({ "role": "assistant", "content": content })),
    }
    serde_json::to_vec(&request).ok()
}

/// Both parts as one reply: the content of both, and what they used together. A failure of the second part keeps what the
/// first one used.
pub(super) fn join(first: Reply, mut second: Reply) -> Reply {
    let Some(mut before) = object(&first) else {
        return second;
    };
    let mut whole = object(&second)
        .unwrap_or_else(|| Map::from_iter([("error".to_owned(), wire::excerpt(&second.body).into())]));
    if let Some(Value::Array(more)) = whole.get_mut("content")
        && let Some(Value::Array(mut content)) = before.remove("content")
    {
        content.append(more);
        *more = content;
    }
    let is_answer = (200..300).contains(&second.status) && !whole.contains_key("error");
    match (before.remove("usage"), whole.remove("usage")) {
        (Some(before), Some(used)) => {
            whole.insert("usage".to_owned(), sum(before, used));
        }
        // Of an answer that does not say what its second part used, the sum is unknown.
        (Some(before), None) if !is_answer => {
            whole.insert("usage".to_owned(), before);
        }
        _ => {}
    }
    if let Ok(body) = serde_json::to_vec(&whole) {
        second.body = body.into();
    }
    second
}

fn object(reply: &Reply) -> Option<Map<String, Value>> {
    serde_json::from_slice(wire::trim(&reply.body)).ok()
}

/// Two usages, count by count; of what is no count the second.
fn sum(first: Value, second: Value) -> Value {
    match (first, second) {
        (Value::Object(mut first), Value::Object(second)) => {
            for (name, value) in second {
                let before = first.remove(&name).unwrap_or_default();
                first.insert(name, sum(before, value));
            }
            Value::Object(first)
        }
        (first, Value::Null) => first,
        (first, second) => match (first.as_u64(), second.as_u64()) {
            (Some(first), Some(second)) => first.saturating_add(second).into(),
            _ => second,
        },
    }
}
