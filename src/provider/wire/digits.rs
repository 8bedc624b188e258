//! Integers beyond 64 bits in the arguments of tool calls, which JSON's reader would round.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

/// The number of digits from which on an integer may be beyond 64 bits.
const LONG: usize = 19;

/// Puts the JSON text in place of the fields of these names wherever reading them lost digits. `value` is what `text` was
/// read as.
pub(crate) fn keep(value: &mut Value, text: &[u8], names: &[&str]) {
    if !has_long_number(text) {
        return;
    }
    if let Ok(raw) = serde_json::from_slice::<&RawValue>(text) {
        walk(value, raw, names);
    }
}

/// JSON text as a value, or as the text that it is if it would lose digits or is not JSON.
#[cfg(any(feature = "anthropic", test))]
pub(crate) fn value_or_text(text: String) -> Value {
    match serde_json::from_str(&text) {
        Ok(value) if !loses_digits(&text) => value,
        _ => Value::String(text),
    }
}

/// A value that is written as it was read: where [`keep`] put a text, the JSON of that text.
#[cfg(any(feature = "anthropic", feature = "gemini"))]
pub(crate) struct Restored<'a> {
    pub(crate) value: &'a Value,
    pub(crate) names: &'static [&'static str],
}

#[cfg(any(feature = "anthropic", feature = "gemini"))]
impl Serialize for Restored<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap as _;
        let Self { value, names } = *self;
        let inner = |value| Restored { value, names };
        match value {
            Value::Object(fields) => {
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                for (name, value) in fields {
                    match value.as_str().and_then(kept) {
                        Some(raw) if names.contains(&name.as_str()) => map.serialize_entry(name, raw)?,
                        _ => map.serialize_entry(name, &inner(value))?,
                    }
                }
                map.end()
            }
            Value::Array(values) => serializer.collect_seq(values.iter().map(inner)),
            value => value.serialize(serializer),
        }
    }
}

/// The JSON in a text that [`keep`] made of an object or a list.
#[cfg(any(feature = "anthropic", feature = "gemini"))]
fn kept(text: &str) -> Option<&RawValue> {
    let raw: &RawValue = serde_json::from_str(text).ok()?;
    (raw.get().starts_with(['{', '[']) && loses_digits(raw.get())).then_some(raw)
}

fn walk(value: &mut Value, raw: &RawValue, names: &[&str]) {
    match value {
        Value::Object(fields) => {
            let Ok(raw) = serde_json::from_str::<BTreeMap<String, &RawValue>>(raw.get()) else {
                return;
            };
            for (name, value) in fields {
                let Some(raw) = raw.get(name) else { continue };
                let is_nested = value.is_object() || value.is_array();
                if is_nested && names.contains(&name.as_str()) && loses_digits(raw.get()) {
                    *value = raw.get().into();
                } else if is_nested {
                    walk(value, raw, names);
                }
            }
        }
        Value::Array(values) => {
            let raw: Vec<&RawValue> = serde_json::from_str(raw.get()).unwrap_or_default();
            for (value, raw) in values.iter_mut().zip(raw) {
                walk(value, raw, names);
            }
        }
        _ => {}
    }
}

/// A quick look: hardly any reply has so long a number.
fn has_long_number(text: &[u8]) -> bool {
    text.chunk_by(|a, b| a.is_ascii_digit() == b.is_ascii_digit())
        .any(|run| run.len() >= LONG && run[0].is_ascii_digit())
}

/// Returns `true` if valid JSON has an integer that 64 bits do not hold.
fn loses_digits(json: &str) -> bool {
    let mut rest = json;
    while let Some(start) = rest.find(|c: char| c == '"' || c == '-' || c.is_ascii_digit()) {
        rest = &rest[start..];
        if rest.starts_with('"') {
            rest = after_string(rest);
            continue;
        }
        let is_part = |c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.' | 'e' | 'E');
        let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let number = &rest[..end];
        let is_integer = !number.contains(['.', 'e', 'E']);
        if is_integer && number.parse::<i64>().is_err() && number.parse::<u64>().is_err() {
            return true;
        }
        rest = &rest[end..];
    }
    false
}

/// The rest after the string that the text begins with.
fn after_string(text: &str) -> &str {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return &text[at + 1..],
            _ => {}
        }
    }
    ""
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn what_would_lose_digits_stays_text() {
        for (json, loses) in [
            ("18446744073709551615", false),
            ("18446744073709551616", true),
            ("-9223372036854775808", false),
            ("-9223372036854775809", true),
            (
                r#"{"a": "18446744073709551616\" 1", "b": [1, 2.5e300, -0.00000000000000000001]}"#,
                false,
            ),
            (
                r#"{"18446744073709551616": [{"a": 123456789012345678901234567890}]}"#,
                true,
            ),
        ] {
            assert_eq!(loses_digits(json), loses, "{json}");
        }
        let text = r#"[{"input": {"a": 1, "b": 18446744073709551616}}, {"input": {"a": 1}, "other": {"x": 18446744073709551616}}]"#;
        let mut value: Value = serde_json::from_str(text).unwrap();
        keep(&mut value, text.as_bytes(), &["input"]);
        assert_eq!(value[0]["input"], json!(r#"{"a": 1, "b": 18446744073709551616}"#));
        assert_eq!(value[1]["input"], json!({"a": 1}));
        assert!(value[1]["other"]["x"].is_f64());
    }

    proptest::proptest! {
        #[test]
        fn any_json_text_is_survived(text in "[-+.eE0-9{}\\[\\]\":,\\\\ü ]{0,60}") {
            let _ = loses_digits(&text);
            if let Ok(mut value) = serde_json::from_str::<Value>(&text) {
                keep(&mut value, text.as_bytes(), &["e"]);
            }
            let _ = value_or_text(text);
        }
    }
}
