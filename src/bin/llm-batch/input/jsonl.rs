//! JSON: an object, or a string that is the prompt; one a line, or over any number of lines.

use std::collections::HashMap;
use std::io::{self, BufRead};

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::identity::{Digest, Identity};
use super::item::{Content, Row};
use super::lines::Lines;
use super::values::Values;
use super::{not_json, openai_batch};

/// The rows of JSON lines; blank lines are skipped. `id_field` keeps the digits of a number as they are written.
pub(super) fn rows(reader: impl BufRead, id_field: String) -> impl Iterator<Item = io::Result<Row>> {
    lines(reader, move |text| fields(text, &id_field))
}

/// The rows of OpenAI batch lines; blank lines are skipped.
pub(super) fn batch_rows(reader: impl BufRead) -> impl Iterator<Item = io::Result<Row>> {
    lines(reader, batch_line)
}

/// The items of a JSON array, or of values one behind the other. If the first one is an OpenAI batch line, all are.
pub(super) fn value_rows(reader: impl BufRead, id_field: String) -> impl Iterator<Item = io::Result<Row>> {
    let mut is_batch = None;
    Values::new(reader).map(move |value| {
        let value = value?;
        let text = match (&value.fault, str::from_utf8(&value.bytes)) {
            (Some(fault), _) => Err(fault.clone()),
            (None, Ok(text)) => Ok(text),
            (None, Err(_)) => Err("the value is not UTF-8 text".to_owned()),
        };
        let (identity, content) = match text {
            Ok(text) => {
                let is_batch = *is_batch.get_or_insert_with(
                    || matches!(serde_json::from_str(text), Ok(Value::Object(fields)) if openai_batch::is_line(&fields)),
                );
                if is_batch {
                    batch_line(text)
                } else {
                    fields(text, &id_field)
                }
            }
            Err(message) => (malformed(&value.bytes), Err(message)),
        };
        Ok(Row {
            line: value.line,
            identity,
            content,
        })
    })
}

type Parsed = (Identity, Result<Content, String>);

fn lines(reader: impl BufRead, parse: impl Fn(&str) -> Parsed) -> impl Iterator<Item = io::Result<Row>> {
    Lines::new(reader).filter_map(move |line| {
        let line = match line {
            Ok(line) => line,
            Err(error) => return Some(Err(error)),
        };
        let (identity, content) = match line.text {
            Ok(text) if text.trim().is_empty() => return None,
            Ok(text) => parse(&text),
            Err(fault) => (Identity::Malformed(fault.digest), Err(fault.message)),
        };
        Some(Ok(Row {
            line: line.number,
            identity,
            content,
        }))
    })
}

fn malformed(bytes: &[u8]) -> Identity {
    Identity::Malformed(Digest::of_malformed(bytes))
}

fn batch_line(text: &str) -> Parsed {
    match openai_batch::parse(text) {
        Ok(line) => (
            Identity::Named(line.custom_id),
            Ok(Content::Body(line.endpoint, line.body)),
        ),
        Err((Some(id), message)) => (Identity::Named(id), Err(message)),
        Err((None, message)) => (malformed(text.as_bytes()), Err(message)),
    }
}

fn fields(text: &str, id_field: &str) -> Parsed {
    let fields = match serde_json::from_str(text) {
        Ok(Value::Object(mut fields)) => {
            keep_digits(text, &mut fields, Some(id_field));
            Ok(fields)
        }
        Ok(Value::String(prompt)) => Ok(Map::from_iter([("prompt".to_owned(), prompt.into())])),
        Ok(Value::Array(_)) => Err(
            "neither a JSON object nor a string, but an array; --format json reads a file that is one array"
                .to_owned(),
        ),
        Ok(_) => Err("neither a JSON object nor a string".to_owned()),
        Err(error) => Err(not_json(&error)),
    };
    match fields {
        Ok(fields) => (Identity::Fields, Ok(Content::Fields(fields))),
        Err(message) => (malformed(text.as_bytes()), Err(message)),
    }
}

/// JSON's reader rounds integers beyond 64 bits, and writes `1e3` as `1000.0`. Such integers, as ids often are, stay what they
/// are: as text. So does any number that is the id.
fn keep_digits(text: &str, fields: &mut Map<String, Value>, id_field: Option<&str>) {
    if !fields.values().any(has_float) {
        return;
    }
    let Ok(raw) = serde_json::from_str::<HashMap<String, &RawValue>>(text) else {
        return;
    };
    // A conversation is sent as it is, not put into a template.
    let is_chat = fields.contains_key("messages");
    let is_sent = |name: &str| {
        is_chat
            && matches!(
                name,
                "functions" | "messages" | "response_format" | "tool_choice" | "tools"
            )
    };
    for (name, value) in fields.iter_mut().filter(|(name, _)| !is_sent(name)) {
        match raw.get(name).map(|raw| raw.get()) {
            Some(raw) if value.is_f64() && id_field == Some(name) => *value = raw.into(),
            Some(raw) => keep_integer(raw, value),
            None => {}
        }
    }
}

fn keep_integer(raw: &str, value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            let digits = raw.trim_start_matches('-');
            let is_zero = digits == "0";
            if !is_zero && digits.bytes().all(|byte| byte.is_ascii_digit()) {
                *value = raw.into();
            }
        }
        Value::Array(items) if items.iter().any(has_float) => {
            if let Ok(raw) = serde_json::from_str::<Vec<&RawValue>>(raw) {
                for (raw, item) in raw.iter().zip(items) {
                    keep_integer(raw.get(), item);
                }
            }
        }
        Value::Object(fields) => keep_digits(raw, fields, None),
        _ => {}
    }
}

fn has_float(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(items) => items.iter().any(has_float),
        Value::Object(fields) => fields.values().any(has_float),
        _ => false,
    }
}
