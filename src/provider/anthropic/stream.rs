//! Events of a streamed message, put together.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::provider::streaming::{Assemble, Piece};
use crate::provider::wire::digits::value_or_text;

/// A message that comes in events.
#[derive(Debug, Default)]
pub(super) struct Events {
    /// The message as it started, and what later events said of it: why it stopped, what it used.
    message: Map<String, Value>,
    /// The blocks of its content by their index.
    blocks: BTreeMap<u64, Block>,
    error: Option<Value>,
    stopped: bool,
}

#[derive(Debug, Default)]
struct Block {
    fields: Map<String, Value>,
    /// The input of a tool call, as far as it came.
    input: String,
}

impl Assemble for Events {
    fn push(&mut self, name: &str, data: &str) -> Piece {
        // What comes after the end cannot change the answer any more.
        if self.stopped {
            return Piece::Other;
        }
        let mut event = match serde_json::from_str(data) {
            Ok(Value::Object(event)) => event,
            _ if name == "error" => Map::from_iter([("error".to_owned(), data.into())]),
            // The terminator of chat completions, which some gateways send here too.
            _ if data.trim() == "[DONE]" => return Piece::Other,
            _ => return Piece::Unreadable,
        };
        if event.get("error").is_some_and(|error| !error.is_null()) {
            self.error = Some(event.into());
            self.stopped = true;
            return Piece::End;
        }
        let kind = event.remove("type");
        let index = event.get("index").and_then(Value::as_u64).unwrap_or_default();
        let mut take = |field: &str| match event.remove(field) {
            Some(Value::Object(fields)) => fields,
            _ => Map::new(),
        };
        match kind.as_ref().and_then(Value::as_str).unwrap_or(name) {
            "message_start" => self.message.extend(take("message")),
            "content_block_start" => {
                let block = self.blocks.entry(index).or_default();
                block.fields.extend(take("content_block"));
            }
            "content_block_delta" => return self.blocks.entry(index).or_default().push(&take("delta")),
            "message_delta" => {
                set(&mut self.message, take("delta"));
                self.push_usage(take("usage"));
            }
            "message_stop" => {
                self.stopped = true;
                return Piece::End;
            }
            _ => {}
        }
        Piece::Other
    }

    fn is_complete(&self) -> bool {
        // Some servers leave the last event out. A reason to stop says as much.
        self.stopped || self.message.get("stop_reason").is_some_and(Value::is_string)
    }

    fn into_body(self: Box<Self>) -> Value {
        if let Some(error) = self.error {
            return error;
        }
        let mut message = self.message;
        // An empty stream is not a message.
        if !message.is_empty() || !self.blocks.is_empty() {
            let blocks = self.blocks.into_values().map(Block::into_value);
            message.insert("content".to_owned(), blocks.collect());
        }
        Value::Object(message)
    }
}

impl Events {
    /// Counts of the whole message so far, in place of those at its start. What they leave out still holds.
    fn push_usage(&mut self, counts: Map<String, Value>) {
        if counts.is_empty() {
            return;
        }
        match self.message.get_mut("usage") {
            Some(Value::Object(usage)) => set(usage, counts),
            _ => {
                self.message.insert("usage".to_owned(), counts.into());
            }
        }
    }
}

/// Sets what is said; null says nothing.
fn set(fields: &mut Map<String, Value>, said: Map<String, Value>) {
    fields.extend(said.into_iter().filter(|(_, value)| !value.is_null()));
}

impl Block {
    fn push(&mut self, delta: &Map<String, Value>) -> Piece {
        let text = |field: &str| delta.get(field).and_then(Value::as_str).unwrap_or_default();
        let piece = match delta.get("type").and_then(Value::as_str) {
            Some("text_delta") => self.append("text", "text", text("text")),
            Some("thinking_delta") => self.append("thinking", "thinking", text("thinking")),
            Some("input_json_delta") => {
                self.input.push_str(text("partial_json"));
                text("partial_json")
            }
            Some("signature_delta") => {
                self.append("thinking", "signature", text("signature"));
                ""
            }
            Some("citations_delta") => {
                if let Some(citation) = delta.get("citation") {
                    self.cite(citation);
                }
                ""
            }
            _ => "",
        };
        if piece.is_empty() {
            Piece::Other
        } else {
            Piece::Token
        }
    }

    /// Adds to a text of a block, whose start may have been lost.
    fn append<'a>(&mut self, kind: &str, field: &str, piece: &'a str) -> &'a str {
        self.fields.entry("type").or_insert_with(|| kind.into());
        match self.fields.get_mut(field) {
            Some(Value::String(text)) => text.push_str(piece),
            _ => {
                self.fields.insert(field.to_owned(), piece.into());
            }
        }
        piece
    }

    fn cite(&mut self, citation: &Value) {
        match self.fields.get_mut("citations") {
            Some(Value::Array(citations)) => citations.push(citation.clone()),
            _ => {
                self.fields.insert("citations".to_owned(), json!([citation]));
            }
        }
    }

    fn into_value(mut self) -> Value {
        if !self.input.is_empty() {
            // Cut by a limit it is not JSON, and stays the text that came.
            self.fields.insert("input".to_owned(), value_or_text(self.input));
        }
        self.fields.into()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const EVENTS: [(&str, &str); 14] = [
        (
            "message_start",
            r#"{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"m","content":[],"stop_reason":null,"usage":{"input_tokens":10,"cache_creation":{"ephemeral_1h_input_tokens":3},"cache_creation_input_tokens":3,"output_tokens":1}}}   "#,
        ),
        (
            "content_block_start",
            r#"{"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}"#,
        ),
        ("ping", r#"{"type": "ping"}"#),
        (
            "content_block_delta",
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"hm"}}"#,
        ),
        (
            "content_block_delta",
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"sig"}}"#,
        ),
        (
            "content_block_start",
            r#"{"type":"content_block_start","index":1,"content_block":{"type":"text","text":""}}"#,
        ),
        (
            "content_block_delta",
            r#"{"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"so"}}  "#,
        ),
        (
            "content_block_delta",
            r#"{"type":"content_block_delta","index":1,"delta":{"type":"citations_delta","citation":{"cited_text":"x"}}}"#,
        ),
        (
            "content_block_start",
            r#"{"type":"content_block_start","index":2,"content_block":{"type":"tool_use","id":"t1","name":"f","input":{}}}"#,
        ),
        (
            "content_block_delta",
            r#"{"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"{\"a\":"}}"#,
        ),
        (
            "content_block_delta",
            r#"{"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":" [1]}"}}"#,
        ),
        ("content_block_stop", r#"{"type":"content_block_stop","index":2}"#),
        (
            "message_delta",
            r#"{"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"output_tokens":20}}"#,
        ),
        ("message_stop", r#"{"type":"message_stop"}"#),
    ];

    #[test]
    fn events_become_the_message_that_would_have_come_whole() {
        let mut events = Box::new(Events::default());
        let pieces: Vec<_> = EVENTS
            .iter()
            .map(|(name, data)| events.push(name, data))
            .collect();
        let tokens = [3, 6, 9, 10];
        for (number, piece) in pieces.iter().enumerate() {
            let expected = match number {
                13 => Piece::End,
                number if tokens.contains(&number) => Piece::Token,
                _ => Piece::Other,
            };
            assert_eq!(*piece, expected, "{number}");
        }
        assert!(events.is_complete());
        assert_eq!(
            events.into_body(),
            json!({
                "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_reason": "tool_use",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "sig"},
                    {"type": "text", "text": "so", "citations": [{"cited_text": "x"}]},
                    {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": [1]}},
                ],
                "usage": {"input_tokens": 10, "cache_creation": {"ephemeral_1h_input_tokens": 3},
                          "cache_creation_input_tokens": 3, "output_tokens": 20},
            })
        );
    }

    #[test]
    fn what_is_new_does_no_harm() {
        let mut events = Box::new(Events::default());
        for data in [
            r#"{"type":"content_block_delta","index":4,"delta":{"type":"text_delta","text":"b"}}"#,
            r#"{"type":"content_block_delta","delta":{"type":"input_json_delta","partial_json":"{\"cut"}}"#,
            r#"{"type":"content_block_delta","index":4,"delta":{"type":"smell_delta","smell":"rose"}}"#,
            r#"{"type":"weather_report","index":"x","delta":7}"#,
            r#"{"type":"message_delta","delta":{"stop_reason":"max_tokens"}}"#,
            r#"{"type":"message_delta","delta":{"stop_reason":null},"usage":null}"#,
            "[DONE]",
        ] {
            assert_ne!(events.push("message", data), Piece::Unreadable, "{data}");
        }
        assert_eq!(events.push("message", "7"), Piece::Unreadable);
        assert!(events.is_complete());
        assert_eq!(
            events.into_body(),
            json!({"stop_reason": "max_tokens",
                   "content": [{"input": "{\"cut"}, {"type": "text", "text": "b"}]})
        );

        let mut nothing = Box::new(Events::default());
        assert!(!nothing.is_complete());
        assert_eq!(nothing.push("message_stop", "{}"), Piece::End);
        assert_eq!(nothing.into_body(), json!({}));
    }

    #[test]
    fn an_error_event_is_the_body_unless_the_answer_was_complete() {
        let error = r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;
        let mut events = Box::new(Events::default());
        for (name, data) in &EVENTS[..7] {
            events.push(name, data);
        }
        assert_eq!(events.push("error", error), Piece::End);
        assert!(events.is_complete());
        assert_eq!(events.into_body(), serde_json::from_str::<Value>(error).unwrap());

        let mut plain = Box::new(Events::default());
        plain.push("error", "upstream died");
        assert_eq!(plain.into_body(), json!({"error": "upstream died"}));

        let mut late = Box::new(Events::default());
        for (name, data) in EVENTS {
            late.push(name, data);
        }
        late.push("error", error);
        assert!(late.into_body().get("error").is_none());
    }

    proptest::proptest! {
        #[test]
        fn mutated_events_never_panic(
            order in proptest::collection::vec(0usize..14, 0..30),
            position in 0usize..300,
            byte: u8,
            cut in 0usize..300,
        ) {
            let mut events = Box::new(Events::default());
            for number in order {
                let (name, data) = EVENTS[number];
                let mut data = data.as_bytes().to_vec();
                if let Some(slot) = data.get_mut(position) {
                    *slot = byte;
                }
                data.truncate(data.len().saturating_sub(cut / 4));
                events.push(name, data.as_slice().utf8_chunks().map(|chunk| chunk.valid()).collect::<String>().as_str());
            }
            let _ = events.is_complete();
            let _ = events.into_body();
        }
    }
}
