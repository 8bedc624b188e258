//! JSON lines: an object, or a string that is the prompt.

use std::io::{self, BufRead};

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
        Ok(Value::Object(fields)) => Ok(Content::Fields(fields)),
        Ok(Value::String(prompt)) => {
            let mut fields = Map::new();
            fields.insert("prompt".to_owned(), prompt.into());
            Ok(Content::Fields(fields))
        }
        Ok(_) => Err("neither a JSON object nor a string".to_owned()),
        Err(error) => Err(not_json(&error)),
    }
}
