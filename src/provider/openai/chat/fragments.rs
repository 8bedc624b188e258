//! Parts of a message whose texts come in fragments.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

/// The fields of a part whose value grows with each fragment; any other field is replaced.
const GROWING: [&str; 4] = ["text", "summary", "thinking", "data"];

/// A list of typed parts: pieces of content, or OpenRouter's details of the reasoning.
#[derive(Debug, Default)]
pub(super) struct Parts(Vec<Value>);

impl Parts {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a fragment to the last part if it goes on there: it has the same type, and the same number where it has one.
    pub(super) fn push(&mut self, fragment: Value) {
        match (self.0.last_mut(), fragment) {
            (Some(Value::Object(last)), Value::Object(fragment)) if goes_on(last, &fragment) => {
                for (name, value) in fragment {
                    add(last, name, value);
                }
            }
            (_, fragment) => self.0.push(fragment),
        }
    }

    /// The parts, or null if there are none.
    pub(super) fn into_value(self) -> Value {
        if self.0.is_empty() {
            Value::Null
        } else {
            self.0.into()
        }
    }
}

fn goes_on(last: &Map<String, Value>, fragment: &Map<String, Value>) -> bool {
    let same = |name| last.get(name) == fragment.get(name);
    // What was signed or has an identifier of its own is a whole.
    let other = |name| {
        let fragment = fragment.get(name).filter(|value| !value.is_null());
        fragment.is_some_and(|value| {
            last.get(name)
                .is_some_and(|last| !last.is_null() && last != value)
        })
    };
    let grows = GROWING.iter().any(|name| last.contains_key(*name)) || last.contains_key("signature");
    grows
        && fragment.get("type").is_some_and(Value::is_string)
        && same("type")
        && same("index")
        && !other("id")
        && !other("signature")
        // Encrypted content comes whole.
        && fragment.get("type").is_none_or(|kind| kind != "reasoning.encrypted")
}

fn add(part: &mut Map<String, Value>, name: String, value: Value) {
    match (part.get_mut(&name), value) {
        (_, Value::Null) => {}
        (Some(Value::String(text)), Value::String(more)) if GROWING.contains(&name.as_str()) => {
            text.push_str(&more);
        }
        // The thoughts of Mistral's are parts themselves.
        (Some(Value::Array(inner)), Value::Array(more)) if GROWING.contains(&name.as_str()) => {
            let mut parts = Parts(std::mem::take(inner));
            more.into_iter().for_each(|part| parts.push(part));
            *inner = parts.0;
        }
        (_, value) => {
            part.insert(name, value);
        }
    }
}

/// A recording: its bytes come in pieces, each of which is base64 by itself.
#[derive(Debug, Default)]
pub(super) struct Recording {
    fields: Map<String, Value>,
    bytes: Vec<u8>,
    /// `true` if a piece was not base64: the bytes are left out rather than wrong.
    broken: bool,
    transcript: String,
}

impl Recording {
    pub(super) fn push(&mut self, fragment: Value) {
        let Value::Object(fragment) = fragment else { return };
        for (name, value) in fragment {
            match (name.as_str(), value) {
                (_, Value::Null) => {}
                ("transcript", Value::String(words)) => self.transcript.push_str(&words),
                ("data", Value::String(data)) => match STANDARD.decode(data) {
                    Ok(bytes) => self.bytes.extend(bytes),
                    Err(_) => self.broken = true,
                },
                (_, value) => {
                    self.fields.insert(name, value);
                }
            }
        }
    }

    /// The recording as it would have come whole, or null if there is none.
    pub(super) fn into_value(mut self) -> Value {
        if !self.bytes.is_empty() && !self.broken {
            let data = STANDARD.encode(&self.bytes);
            self.fields.insert("data".to_owned(), data.into());
        }
        if !self.transcript.is_empty() {
            self.fields
                .insert("transcript".to_owned(), self.transcript.into());
        }
        if self.fields.is_empty() {
            Value::Null
        } else {
            self.fields.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn joined(fragments: impl IntoIterator<Item = Value>) -> Value {
        let mut parts = Parts::default();
        fragments.into_iter().for_each(|fragment| parts.push(fragment));
        parts.into_value()
    }

    #[test]
    fn fragments_of_one_part_become_one() {
        assert_eq!(
            joined([
                json!({"type": "reasoning.text", "index": 0, "text": "let me ", "signature": null}),
                json!({"type": "reasoning.text", "index": 0, "text": "think"}),
                json!({"type": "reasoning.text", "index": 0, "signature": "sig", "format": "f"}),
                json!({"type": "reasoning.text", "index": 1, "text": "again"}),
                json!({"type": "reasoning.encrypted", "index": 2, "data": "one"}),
                json!({"type": "reasoning.encrypted", "index": 2, "data": "two"}),
                json!({"type": "reasoning.summary", "summary": "a"}),
                json!({"type": "reasoning.summary", "summary": "b"}),
                json!(7),
            ]),
            json!([
                {"type": "reasoning.text", "index": 0, "text": "let me think", "signature": "sig", "format": "f"},
                {"type": "reasoning.text", "index": 1, "text": "again"},
                {"type": "reasoning.encrypted", "index": 2, "data": "one"},
                {"type": "reasoning.encrypted", "index": 2, "data": "two"},
                {"type": "reasoning.summary", "summary": "ab"},
                7,
            ])
        );
        assert_eq!(
            joined([
                json!({"type": "thinking", "thinking": [{"type": "text", "text": "h"}]}),
                json!({"type": "thinking", "thinking": [{"type": "text", "text": "m"}]}),
                json!({"type": "text", "text": "s"}),
                json!({"type": "text", "text": "o"}),
            ]),
            json!([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "so"}])
        );
        // Parts that are not texts are not fragments.
        let image = json!({"type": "image_url", "image_url": {"url": "u"}});
        assert_eq!(joined([image.clone(), image.clone()]), json!([image, image]));
        assert_eq!(joined([]), Value::Null);
    }

    #[test]
    fn pieces_of_a_recording_are_joined_by_their_bytes() {
        let mut recording = Recording::default();
        for fragment in [
            json!({"id": "audio_1", "transcript": "Hi"}),
            json!({"transcript": " there"}),
            json!({"data": STANDARD.encode("one")}),
            // Padded inside.
            json!({"data": STANDARD.encode("two!")}),
            json!({"data": STANDARD.encode("three"), "expires_at": 5}),
            json!(null),
        ] {
            recording.push(fragment);
        }
        assert_eq!(
            recording.into_value(),
            json!({"id": "audio_1", "transcript": "Hi there", "expires_at": 5, "data": STANDARD.encode("onetwo!three")})
        );
        assert_eq!(Recording::default().into_value(), Value::Null);

        let mut broken = Recording::default();
        for fragment in [
            json!({"data": STANDARD.encode("one"), "transcript": "One"}),
            json!({"data": "%"}),
        ] {
            broken.push(fragment);
        }
        assert_eq!(broken.into_value(), json!({"transcript": "One"}));
    }
}
