//! A line of text an item.
//!
//! A line break, a carriage return and a backslash inside an answer are written as `\n`, `\r` and `\\`. So the lines of the
//! output are those of the input, and no answer can begin as a failure does: with a backslash alone.

use std::fs::File;
use std::io;

use super::Row;
use super::format::{Facts, Format, Include, Settings};
use crate::resume::Visitor;
use crate::schema::text_of;

pub(super) const FACTS: Facts = Facts {
    keeps_fields: false,
    keeps_choices: false,
    includes: &[Include::Id],
    is_resumable: false,
    is_in_order: true,
    needs_raw_body: false,
};

#[derive(Debug)]
pub(super) struct Text(pub(super) Settings);

impl Format for Text {
    fn row(&mut self, row: &Row<'_>) -> io::Result<Vec<u8>> {
        let mut line = String::new();
        if self.0.includes(Include::Id) {
            push_escaped(&mut line, row.id, true);
            line.push('\t');
        }
        match row.result {
            Ok(response) => push_escaped(&mut line, &text_of(&response.output), false),
            // Its text is one line.
            Err(error) => line.push_str(&format!("\\error {error}")),
        }
        line.push('\n');
        Ok(line.into_bytes())
    }

    fn scan(&mut self, _: File, _: &mut Visitor<'_>) -> io::Result<Result<(), String>> {
        Ok(Err(
            "lines of text do not show which items they belong to".to_owned()
        ))
    }
}

fn push_escaped(line: &mut String, text: &str, tabs: bool) {
    for character in text.chars() {
        match character {
            '\\' => line.push_str("\\\\"),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' if tabs => line.push_str("\\t"),
            other => line.push(other),
        }
    }
}
