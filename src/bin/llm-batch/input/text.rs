//! Plain text: a prompt a line.

use std::io::{self, BufRead};

use serde_json::Map;

use super::identity::Identity;
use super::item::{Content, Row};
use super::lines::Lines;

/// The fields of a line.
pub(super) const FIELDS: [&str; 2] = ["prompt", "text"];

/// The rows of a text; blank lines are skipped. The line is both `prompt` and `text`.
pub(crate) fn rows(reader: impl BufRead) -> impl Iterator<Item = io::Result<Row>> {
    Lines::new(reader).filter_map(|line| {
        let line = match line {
            Ok(line) => line,
            Err(error) => return Some(Err(error)),
        };
        let (identity, content) = match line.text {
            Ok(text) if text.trim().is_empty() => return None,
            Ok(text) => {
                let mut fields = Map::new();
                fields.insert("prompt".to_owned(), text.as_str().into());
                fields.insert("text".to_owned(), text.into());
                (Identity::Fields, Ok(Content::Fields(fields)))
            }
            Err(fault) => (Identity::Malformed(fault.digest), Err(fault.message)),
        };
        Some(Ok(Row {
            line: line.number,
            identity,
            content,
        }))
    })
}
