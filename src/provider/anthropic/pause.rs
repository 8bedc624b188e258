//! Answers in several parts: Anthropic's own tools pause after some rounds (`pause_turn`), and go on when what came is
//! sent back.

use serde_json::{Map, Value, json};

use crate::provider::wire;

/// The request that continues a paused answer: the same one with what came so far as the last turn.
pub(super) fn continuation(request: &[u8], reply: &[u8]) -> Option<Vec<u8>> {
    // Nearly no reply is one. A look at the text is cheaper than to parse them all.
    let text = std::str::from_utf8(reply).ok()?;
    if !text.contains("\"pause_turn\"") {
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
    let mut request: Value = serde_json::from_slice(request).ok()?;
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

/// Both parts as one body: the content of both, and what they used together. None if the second is no part of an answer.
pub(super) fn join(first: &[u8], second: &[u8]) -> Option<Vec<u8>> {
    let (mut before, mut whole) = (object(first)?, object(second)?);
    let (Some(Value::Array(mut content)), Some(Value::Array(more))) =
        (before.remove("content"), whole.get_mut("content"))
    else {
        return None;
    };
    content.append(more);
    *more = content;
    // Where one part does not say what it used, the sum is unknown.
    let used = whole.remove("usage").filter(|used| !used.is_null());
    if let (Some(before), Some(used)) = (before.remove("usage"), used) {
        let iterations = iterations(&before, &used);
        let mut used = sum(before, used);
        if let (Some(iterations), Some(used)) = (iterations, used.as_object_mut()) {
            used.insert("iterations".to_owned(), iterations);
        }
        whole.insert("usage".to_owned(), used);
    }
    serde_json::to_vec(&whole).ok()
}

/// The runs of models of both parts, where one of them lists its own.
fn iterations(first: &Value, second: &Value) -> Option<Value> {
    let of = |usage: &Value| usage.get("iterations")?.as_array().cloned();
    let lists = [of(first), of(second)];
    if lists.iter().all(Option::is_none) {
        return None;
    }
    let all = lists
        .into_iter()
        .zip([first, second])
        .flat_map(|(list, usage)| list.unwrap_or_else(|| vec![usage.clone()]));
    Some(all.collect())
}

fn object(body: &[u8]) -> Option<Map<String, Value>> {
    serde_json::from_slice(wire::trim(body)).ok()
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const REQUEST: &str = r#"{"model":"m","messages":[{"role":"user","content":"x"}]}"#;
    const PAUSED: &str = r#"{"content":[{"type":"text","text":"a"}],"stop_reason":"pause_turn","usage":{"input_tokens":5,"output_tokens":1,"cache_creation":{"ephemeral_5m_input_tokens":2},"service_tier":"standard"}}"#;

    fn json(body: Option<Vec<u8>>) -> Value {
        body.map_or(Value::Null, |body| serde_json::from_slice(&body).unwrap())
    }

    #[test]
    fn a_paused_turn_is_sent_back_as_one_turn() {
        let first = continuation(REQUEST.as_bytes(), PAUSED.as_bytes());
        let turn = json!({"role": "assistant", "content": [{"type": "text", "text": "a"}]});
        assert_eq!(json(first.clone())["messages"][1], turn);
        let second = json(continuation(&first.unwrap(), PAUSED.as_bytes()));
        assert_eq!(second["messages"].as_array().unwrap().len(), 2);
        assert_eq!(second["messages"][1]["content"].as_array().unwrap().len(), 2);

        let prefilled = r#"{"messages":[{"role":"assistant","content":"{"}]}"#;
        let next = json(continuation(prefilled.as_bytes(), PAUSED.as_bytes()));
        assert_eq!(
            next["messages"],
            json!([{"role": "assistant", "content": [{"type": "text", "text": "{"}, {"type": "text", "text": "a"}]}])
        );

        for other in [
            PAUSED.replace("pause_turn", "end_turn"),
            PAUSED.replace(r#"{"type":"text","text":"a"}"#, ""),
            r#"{"content":[{"text":"\"pause_turn\""}],"stop_reason":"end_turn"}"#.to_owned(),
        ] {
            assert_eq!(
                continuation(REQUEST.as_bytes(), other.as_bytes()),
                None,
                "{other}"
            );
        }
    }

    #[test]
    fn runs_of_models_are_joined() {
        let second = r#"{"content":[],"stop_reason":"end_turn","usage":{"input_tokens":7,"output_tokens":3,"iterations":[{"type":"compaction","input_tokens":90,"output_tokens":9},{"type":"message","input_tokens":7,"output_tokens":3}]}}"#;
        let whole = join(PAUSED.as_bytes(), second.as_bytes()).unwrap();
        let whole: Value = serde_json::from_slice(&whole).unwrap();
        let used = crate::provider::anthropic::usage::usage(&whole).unwrap();
        // 5 and 2 written to the cache, 90, 7.
        assert_eq!((used.input, used.output), (104, 13));
    }

    #[test]
    fn a_usage_of_another_form_is_no_reason_to_panic() {
        let first = r#"{"content":[],"usage":{"iterations":[{"input_tokens":1,"output_tokens":1}]}}"#;
        for usage in ["5", "\"x\"", "[]", "{}"] {
            let second = format!(r#"{{"content":[],"usage":{usage}}}"#);
            assert!(join(first.as_bytes(), second.as_bytes()).is_some(), "{usage}");
        }
    }

    #[test]
    fn parts_are_joined_and_their_usage_added() {
        let second = r#"{"id":"2","content":[{"type":"text","text":"b"}],"stop_reason":"end_turn","usage":{"input_tokens":7,"output_tokens":3,"cache_creation":{"ephemeral_5m_input_tokens":1},"service_tier":"priority"}}"#;
        assert_eq!(
            json(join(PAUSED.as_bytes(), second.as_bytes())),
            json!({"id": "2", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "stop_reason": "end_turn",
                   "usage": {"input_tokens": 12, "output_tokens": 4, "cache_creation": {"ephemeral_5m_input_tokens": 3},
                             "service_tier": "priority"}})
        );
        for silent in [r#"{"content":[]}"#, r#"{"content":[],"usage":null}"#] {
            let whole = json(join(PAUSED.as_bytes(), silent.as_bytes()));
            assert_eq!(
                (&whole["content"][0]["text"], &whole["usage"]),
                (&json!("a"), &Value::Null)
            );
        }
        for other in [r#"{"error":{"type":"rate_limit_error"}}"#, "<html>", ""] {
            assert_eq!(join(PAUSED.as_bytes(), other.as_bytes()), None, "{other}");
        }
    }

    proptest::proptest! {
        #[test]
        fn mutated_parts_never_panic(position in 0usize..200, byte: u8, cut in 0usize..200) {
            let mutate = |text: &str| {
                let mut body = text.as_bytes().to_vec();
                if let Some(slot) = body.get_mut(position) {
                    *slot = byte;
                }
                body.truncate(body.len().saturating_sub(cut / 8));
                body
            };
            let _ = continuation(&mutate(REQUEST), PAUSED.as_bytes());
            let _ = continuation(REQUEST.as_bytes(), &mutate(PAUSED));
            let _ = join(&mutate(PAUSED), PAUSED.as_bytes());
            let _ = join(PAUSED.as_bytes(), &mutate(PAUSED));
        }
    }
}
