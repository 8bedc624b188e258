//! JSON lines: an object, or a string that is the prompt.

use std::collections::HashMap;
use std::io::{self, BufRead};

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::lines::Lines;
use super::{Content, Row, not_json, openai_batch};

/// The rows of JSON lines; blank lines are skipped.
pub(crate) fn rows(reader: impl BufRead) -> impl Iterator<Item = io::Result<Row>> {
    lines(reader, |text| (None, parse(text)))
}

/// The rows of OpenAI batch lines; blank lines are skipped.
pub(crate) fn batch_rows(reader: impl BufRead) -> impl Iterator<Item = io::Result<Row>> {
    lines(reader, |text| match openai_batch::parse(text) {
        Ok(line) => (Some(line.custom_id), Ok(Content::Body(line.body))),
        Err((id, message)) => (id, Err(message)),
    })
}

fn lines(
    reader: impl BufRead,
    parse: impl Fn(&str) -> (Option<String>, Result<Content, String>),
) -> impl Iterator<Item = io::Result<Row>> {
    Lines::new(reader).filter_map(move |line| {
        let line = match line {
            Ok(line) => line,
            Err(error) => return Some(Err(error)),
        };
        let (id, content) = match line.text {
            Ok(text) if text.trim().is_empty() => return None,
            Ok(text) => parse(&text),
            Err(message) => (None, Err(message)),
        };
        Some(Ok(Row {
            line: line.number,
            id,
            content,
        }))
    })
}

fn parse(text: &str) -> Result<Content, String> {
    match serde_json::from_str(text) {
        Ok(Value::Object(mut fields)) => {
            if fields.values().any(Value::is_f64) {
                keep_digits(text, &mut fields);
            }
            Ok(Content::Fields(fields))
        }
        Ok(Value::String(prompt)) => {
            let mut fields = Map::new();
            fields.insert("prompt".to_owned(), prompt.into());
            Ok(Content::Fields(fields))
        }
        Ok(_) => Err("neither a JSON object nor a string".to_owned()),
        Err(error) => Err(not_json(&error)),
    }
}

/// Integers beyond 64 bits, as ids often are, stay what they are: as text, since JSON's reader would round them.
fn keep_digits(text: &str, fields: &mut Map<String, Value>) {
    let Ok(raw) = serde_json::from_str::<HashMap<String, &RawValue>>(text) else {
        return;
    };
    for (name, value) in fields.iter_mut().filter(|(_, value)| value.is_f64()) {
        let digits = raw.get(name).map(|raw| raw.get()).unwrap_or_default();
        let fits = digits.parse::<i64>().is_ok();
        if !fits
            && !digits.is_empty()
            && digits
                .trim_start_matches('-')
                .bytes()
                .all(|byte| byte.is_ascii_digit())
        {
            *value = digits.into();
        }
    }
}
