//! Answers for a person to read.

use std::fmt::Write as _;
use std::fs::File;
use std::io;

use clap::builder::styling::{AnsiColor, Style};

use super::Row;
use super::format::{Facts, Format, Include, Settings};
use crate::resume::Visitor;
use crate::schema::text_of;

pub(super) const FACTS: Facts = Facts {
    keeps_fields: true,
    keeps_choices: false,
    includes: &[Include::Reasoning, Include::Raw, Include::Id],
    is_resumable: false,
    is_in_order: false,
    needs_raw_body: false,
};

const HEADER: Style = AnsiColor::Cyan.on_default().bold();
const ERROR: Style = AnsiColor::Red.on_default().bold();
const ASIDE: Style = Style::new().dimmed();

#[derive(Debug)]
pub(super) struct Terminal(pub(super) Settings);

impl Format for Terminal {
    fn row(&mut self, row: &Row<'_>) -> io::Result<Vec<u8>> {
        let mut text = String::new();
        push(&mut text, HEADER, row.id);
        for (name, value) in row.kept {
            text.push_str("  ");
            push(&mut text, ASIDE, &format!("{name}: {}", text_of(value)));
        }
        text.push('\n');
        if let Some(reasoning) = row.reasoning(&self.0) {
            push(&mut text, ASIDE, reasoning.trim());
            text.push('\n');
        }
        match row.result {
            Ok(response) => push(&mut text, Style::new(), text_of(&response.output).trim_end()),
            Err(error) => {
                push(&mut text, ERROR, "error");
                push(&mut text, Style::new(), &format!(": {error}"));
                if let Some(raw) = row.raw_output(&self.0) {
                    text.push('\n');
                    push(&mut text, ASIDE, raw.trim_end());
                }
            }
        }
        text.push_str("\n\n");
        Ok(text.into_bytes())
    }

    fn scan(&mut self, _: File, _: &mut Visitor<'_>) -> io::Result<Result<(), String>> {
        Ok(Err("it is text for people".to_owned()))
    }
}

/// Adds a text in a style. What would control the terminal is shown as a sign.
fn push(line: &mut String, style: Style, text: &str) {
    let plain = text.chars().map(|character| match character {
        '\n' | '\t' => character,
        other if other.is_control() => '\u{fffd}',
        other => other,
    });
    let _ = write!(line, "{style}");
    line.extend(plain);
    let _ = write!(line, "{style:#}");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::SystemTime;

    use llm_batch::{ItemReport, LlmError, LlmResponse};
    use serde_json::{Map, Value, json};

    use super::*;

    #[test]
    fn answers_are_read_and_do_not_control_the_terminal() {
        let kept = Map::from_iter([("stars".to_owned(), json!(3))]);
        let answer = LlmResponse::new(Value::String("one\ntwo \u{1b}[2J\r".to_owned()));
        let failure = LlmError::fatal("no").with_status(400);
        let text = |result| {
            let row = Row {
                id: "a\u{7}",
                index: 0,
                kept: &kept,
                result,
                report: &ItemReport::default(),
                time: SystemTime::UNIX_EPOCH,
                priced: false,
            };
            let bytes = Terminal(Settings::default()).row(&row).unwrap();
            anstream::adapter::strip_str(std::str::from_utf8(&bytes).unwrap()).to_string()
        };
        assert_eq!(text(Ok(&answer)), "a\u{fffd}  stars: 3\none\ntwo \u{fffd}[2J\n\n");
        assert_eq!(
            text(Err(&failure)),
            "a\u{fffd}  stars: 3\nerror: other: no (HTTP 400)\n\n"
        );
    }
}
