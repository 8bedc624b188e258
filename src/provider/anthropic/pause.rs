//! Answers in several parts: Anthropic's own tools pause after some rounds (`pause_turn`), and go on when what came is
//! sent back.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use crate::provider::wire;

/// The fields of an object as JSON text, in which the inputs of tools keep their digits.
type Fields = BTreeMap<String, Box<RawValue>>;

/// The request that continues a paused answer: the same one with what came so far as the last turn.
pub(super) fn continuation(request: &[u8], reply: &[u8]) -> Option<Vec<u8>> {
    // Nearly no reply is one. A look at the text is cheaper than to parse them all.
    let text = std::str::from_utf8(reply).ok()?;
    if !text.contains("\"pause_turn\"") {
        return None;
    }
    let reply = fields(reply)?;
    let stop: String = read(reply.get("stop_reason")?)?;
    let content: Vec<&RawValue> = read(reply.get("content")?)?;
    if stop != "pause_turn" || content.is_empty() {
        return None;
    }
    let mut request = fields(request)?;
    let mut messages: Vec<Box<RawValue>> = read(request.get("messages")?)?;
    // The part before came after a pause, too: the turn goes on.
    match messages.last_mut() {
        Some(last) if read::<Turn<'_>>(last)?.role == "assistant" => {
            let mut turn: Fields = read(last)?;
            let before = turn.get("content")?;
            let mut whole: Vec<Box<RawValue>> = match read::<String>(before) {
                Some(text) => vec![to_raw_value(&serde_json::json!({ "type": "text", "text": text })).ok()?],
                None => read(before)?,
            };
            whole.extend(content.into_iter().map(ToOwned::to_owned));
            turn.insert("content".to_owned(), to_raw_value(&whole).ok()?);
            *last = to_raw_value(&turn).ok()?;
        }
        _ => {
            let mut turn = Fields::new();
            turn.insert("role".to_owned(), to_raw_value("assistant").ok()?);
            turn.insert("content".to_owned(), to_raw_value(&content).ok()?);
            messages.push(to_raw_value(&turn).ok()?);
        }
    }
    request.insert("messages".to_owned(), to_raw_value(&messages).ok()?);
    serde_json::to_vec(&request).ok()
}

/// The speaker of a turn.
#[derive(Deserialize)]
struct Turn<'a> {
    #[serde(borrow)]
    role: std::borrow::Cow<'a, str>,
}

/// Both parts as one body: the content of both, and what they used together. None if the second is not part of an answer.
pub(super) fn join(first: &[u8], second: &[u8]) -> Option<Vec<u8>> {
    let (before, mut whole) = (fields(first)?, fields(second)?);
    let mut content: Vec<&RawValue> = read(before.get("content")?)?;
    content.extend(read::<Vec<&RawValue>>(whole.get("content")?)?);
    let content = to_raw_value(&content).ok()?;
    // Where one part does not say what it used, the sum is unknown.
    let used = |fields: &Fields| read::<Value>(fields.get("usage")?).filter(|used| !used.is_null());
    let (first_used, second_used) = (used(&before), used(&whole));
    whole.remove("usage");
    whole.insert("content".to_owned(), content);
    if let (Some(before), Some(used)) = (first_used, second_used) {
        let iterations = iterations(&before, &used);
        let mut used = sum(before, used);
        if let (Some(iterations), Some(used)) = (iterations, used.as_object_mut()) {
            used.insert("iterations".to_owned(), iterations);
        }
        whole.insert("usage".to_owned(), to_raw_value(&used).ok()?);
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

fn fields(body: &[u8]) -> Option<Fields> {
    serde_json::from_slice(wire::trim(body)).ok()
}

fn read<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Option<T> {
    serde_json::from_str(raw.get()).ok()
}

/// Two usages, count by count; of anything else the second.
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
    use serde_json::json;

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
