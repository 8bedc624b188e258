//! Truncated and empty answers and the most frequent errors, for the closing summary.

use std::collections::HashMap;
use std::fmt;

use llm_batch::{ErrorKind, FinishReason, LlmError, LlmResponse};
use serde::Serialize;
use serde_json::Value;

use crate::output::is_blank;

/// The number of messages that are counted separately. Further ones are counted together.
const GROUPS: usize = 1_000;

/// The number of messages in the summary, most frequent first.
const NAMED: usize = 5;

/// Characters of a message that the account shows.
const SHOWN: usize = 200;

/// The counts of incomplete answers and of errors.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    cut: Counted,
    empty: Counted,
    groups: HashMap<(ErrorKind, String), Group>,
    others: u64,
}

/// A number of items, and one of them.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Counted {
    count: u64,
    example_id: Option<String>,
}

/// The failures with one message, but for its numbers and ids.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Group {
    kind: ErrorKind,
    /// That of the first one.
    message: String,
    count: u64,
    example_id: String,
}

impl Counted {
    fn add(&mut self, id: &str) {
        self.count += 1;
        self.example_id.get_or_insert_with(|| id.to_owned());
    }
}

/// The reason why an answer is incomplete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lack {
    Cut,
    Empty,
}

fn lack(response: &LlmResponse<Value>) -> Option<Lack> {
    let metadata = &response.metadata;
    if metadata.finish_reason == Some(FinishReason::Length) {
        return Some(Lack::Cut);
    }
    let has_more = !metadata.tool_calls.is_empty() || metadata.media.is_some();
    (is_blank(&response.output) && !has_more).then_some(Lack::Empty)
}

/// `--require-complete`: an answer that is cut or empty is a failure. One that is cut would be cut again.
pub(crate) fn require_complete(
    result: Result<LlmResponse<Value>, LlmError>,
) -> Result<LlmResponse<Value>, LlmError> {
    let response = result?;
    let error = match lack(&response) {
        None => return Ok(response),
        Some(Lack::Cut) => LlmError::new(
            ErrorKind::Truncated,
            "the output token limit was reached inside the answer",
        ),
        Some(Lack::Empty) => LlmError::new(ErrorKind::ModelFault, "the answer is empty"),
    };
    let error = match response.usage {
        Some(usage) => error.with_usage(usage),
        None => error,
    };
    Err(match response.output {
        Value::String(text) => error.with_raw_output(text),
        other => error.with_raw_output(other.to_string()),
    })
}

impl Tally {
    /// Takes note of an outcome.
    pub(crate) fn note(&mut self, id: &str, result: Result<&LlmResponse<Value>, &LlmError>) {
        match result.map(lack) {
            Ok(None) => {}
            Ok(Some(Lack::Cut)) => self.cut.add(id),
            Ok(Some(Lack::Empty)) => self.empty.add(id),
            Err(error) => self.note_failure(id, error),
        }
    }

    fn note_failure(&mut self, id: &str, error: &LlmError) {
        let message = error.to_string();
        let key = (error.kind(), folded(&message));
        if let Some(group) = self.groups.get_mut(&key) {
            group.count += 1;
        } else if self.groups.len() < GROUPS {
            let message = match message.char_indices().nth(SHOWN) {
                Some((end, _)) => format!("{}...", &message[..end]),
                None => message,
            };
            let group = Group {
                kind: error.kind(),
                message,
                count: 1,
                example_id: id.to_owned(),
            };
            self.groups.insert(key, group);
        } else {
            self.others += 1;
        }
    }

    /// The most frequent messages, and how many failures have others.
    fn errors(&self) -> (Vec<&Group>, u64) {
        let mut groups: Vec<_> = self.groups.values().collect();
        groups.sort_by(|one, other| {
            let by_count = other.count.cmp(&one.count);
            by_count.then_with(|| one.message.cmp(&other.message))
        });
        let left = groups.split_off(groups.len().min(NAMED));
        (
            groups,
            left.iter().map(|group| group.count).sum::<u64>() + self.others,
        )
    }

    /// The fields that the JSON account has of it.
    pub(crate) fn fields(&self) -> [(&'static str, Value); 4] {
        let json = |value: serde_json::Result<Value>| value.unwrap_or_default();
        let (errors, others) = self.errors();
        [
            ("cut", json(serde_json::to_value(&self.cut))),
            ("empty", json(serde_json::to_value(&self.empty))),
            ("errors", json(serde_json::to_value(errors))),
            ("other_errors", others.into()),
        ]
    }
}

/// The lines of the account, each after a line break.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (errors, others) = self.errors();
        for group in errors {
            let Group {
                message,
                count,
                example_id,
                ..
            } = group;
            write!(
                f,
                "\n  {:<10} {count} x {message}, such as item {example_id}",
                "error"
            )?;
        }
        if others > 0 {
            write!(f, "\n  {:<10} {others} with other messages", "error")?;
        }
        let advice = "; raise --max-output-tokens, or make them failures with --require-complete";
        for (name, lack, counted, advice) in [
            ("cut", "reached the output token limit", &self.cut, advice),
            ("empty", "with nothing in it", &self.empty, ""),
        ] {
            if let Some(example) = &counted.example_id {
                let answers = if counted.count == 1 { "answer" } else { "answers" };
                let count = counted.count;
                write!(
                    f,
                    "\n  {name:<10} {count} {answers} {lack}, such as item {example}{advice}"
                )?;
            }
        }
        Ok(())
    }
}

/// A message without what differs from call to call: words with a digit are numbers, or the ids of requests and models.
fn folded(message: &str) -> String {
    let mut folded = String::with_capacity(message.len());
    let is_in_word = |character: char| character.is_alphanumeric() || matches!(character, '_' | '-');
    let mut rest = message;
    while let Some(first) = rest.chars().next() {
        let end = if is_in_word(first) {
            rest.find(|character| !is_in_word(character))
                .unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        let (word, after) = rest.split_at(end);
        folded.push_str(if word.contains(|c: char| c.is_ascii_digit()) {
            "#"
        } else {
            word
        });
        rest = after;
    }
    folded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_that_differ_in_numbers_and_ids_are_one() {
        for (one, other) in [
            (
                "no such file file-abc1 (HTTP 404)",
                "no such file file-xyz77 (HTTP 404)",
            ),
            ("limit 3000, used 2999.5", "limit 1, used 2.75"),
            ("at 127.0.0.1:80", "at 10.2.3.4:65000"),
        ] {
            assert_eq!(folded(one), folded(other));
        }
        assert_ne!(folded("no such file"), folded("no such model"));
        assert_eq!(folded("é 7ü."), "é #.");
    }

    #[test]
    fn the_most_frequent_come_first_and_none_is_lost() {
        let mut tally = Tally::default();
        for group in 0..8_u8 {
            let message = char::from(b'a' + group).to_string();
            for item in 0..=group {
                tally.note(&format!("{group}/{item}"), Err(&LlmError::fatal(message.clone())));
            }
        }
        let (errors, others) = tally.errors();
        assert_eq!(
            errors.iter().map(|group| group.count).collect::<Vec<_>>(),
            [8, 7, 6, 5, 4]
        );
        assert_eq!(errors[0].example_id, "7/0");
        assert_eq!(others, 1 + 2 + 3);
    }
}
