//! `--schema`: the form of the answers.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::path::Path;

use llm_batch::{InvalidOutput, LlmError, LlmRequest, Message};
use serde_json::Value;

use crate::exit::UsageError;

/// Reads the schema's file.
pub(crate) fn read(path: &Path) -> Result<Value, UsageError> {
    let wrong =
        |error: &dyn std::fmt::Display| UsageError::new(format!("--schema {}: {error}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(&error))?;
    serde_json::from_str(&text).map_err(|error| wrong(&format_args!("not JSON: {error}")))
}

/// How many messages the item's own prompt has.
#[derive(Default)]
struct Own(Option<usize>);

/// Tells the model what was wrong with its last answer. What it was told before is dropped.
pub(crate) fn tell_faults(error: &LlmError, next: &mut LlmRequest) {
    let Some(invalid) = InvalidOutput::of(error) else {
        return;
    };
    let messages = next.input().messages().len();
    let own = next
        .state()
        .update(|Own(own): &mut Own| *own.get_or_insert(messages));
    let mut text = "That answer is not valid:\n".to_owned();
    for fault in &invalid.faults {
        // Writing to a string does not fail.
        let _ = writeln!(text, "- {fault}");
    }
    text.push_str("Answer again, with JSON of the schema only.");
    let messages = next.input_mut().messages_mut();
    messages.truncate(own);
    if let Some(answer) = error.raw_output().filter(|answer| !answer.trim().is_empty()) {
        messages.push(Message::assistant(answer));
    }
    messages.push(Message::user(text));
}

/// An answer as text: a text as it is, anything else as JSON.
pub(crate) fn text_of(output: &Value) -> Cow<'_, str> {
    match output {
        Value::String(text) => Cow::Borrowed(text),
        value => Cow::Owned(value.to_string()),
    }
}
