//! Plain text: a prompt a line.

use std::io::{self, BufRead};

use serde_json::Map;

use super::lines::Lines;
use super::{Content, Row};

/// The rows of a text; blank lines are skipped. The line is both `prompt` and `text`.
pub(crate) fn rows(reader: impl BufRead) -> impl Iterator<Item = io::Result<Row>> {
    Lines::new(reader).filter_map(|line| {
        let line = match line {
            Ok(line) => line,
            Err(error) => return Some(Err(error)),
        };
        let content = match line.text {
            Ok(text) if text.trim().is_empty() => return None,
            Ok(text) => {
                let mut fields = Map::new();
                fields.insert("prompt".to_owned(), text.as_str().into());
                fields.insert("text".to_owned(), text.into());
                Ok(Content::Fields(fields))
            }
            Err(message) => Err(message),
        };
        Some(Ok(Row {
            line: line.number,
            id: None,
            content,
        }))
    })
}
