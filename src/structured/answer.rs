//! From a text to a value of the type.

use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::Segment;

use super::fault::{Fault, InvalidOutput, error_of};
use super::schema::Schema;
use super::text::{bare, only_json, strip_code_fence};
use crate::error::{BoxError, ErrorKind, LlmError};
use crate::response::{FinishReason, LlmResponse};
use crate::schema::pointer::member;

/// Makes a value of a text.
pub(super) trait Read<T>: Send + Sync {
    fn read(&self, text: &str) -> Result<T, LlmError>;
}

/// The answer with its text read.
pub(super) fn answer<T>(mut response: LlmResponse, reader: &dyn Read<T>) -> Result<LlmResponse<T>, LlmError> {
    let text = std::mem::take(&mut response.output);
    let usage = response.usage;
    let error = match unread(&response) {
        Some(error) => error,
        None => match reader.read(&text) {
            Ok(output) => return Ok(response.map(|_| output)),
            Err(error) => why(error, &text, &response),
        },
    };
    let error = error.with_raw_output(text);
    Err(match usage {
        Some(usage) => error.with_usage(usage),
        None => error,
    })
}

/// Returns the reason why the text is not worth reading, if there is one.
fn unread(response: &LlmResponse) -> Option<LlmError> {
    let filtered = response.metadata.finish_reason == Some(FinishReason::ContentFilter);
    filtered.then(|| {
        LlmError::new(
            ErrorKind::ContentFilter,
            "the provider's filter stopped the answer",
        )
    })
}

/// Returns the reason why a text could not be read: `error`, unless the end of the answer says more.
fn why(error: LlmError, text: &str, response: &LlmResponse) -> LlmError {
    let is_whole = error.kind() != ErrorKind::Validation
        || InvalidOutput::of(&error).is_some_and(|invalid| invalid.value.is_some());
    if is_whole {
        return error;
    }
    let metadata = &response.metadata;
    if metadata.finish_reason == Some(FinishReason::Length) {
        return LlmError::new(
            ErrorKind::Truncated,
            "the output token limit was reached inside the answer",
        );
    }
    if !text.trim().is_empty() {
        return error;
    }
    // Chat completions put the name into `function`, the others beside the type.
    let name = metadata.tool_calls.first().map(|call| {
        let name = call.pointer("/function/name").or_else(|| call.get("name"));
        name.and_then(Value::as_str).unwrap_or_default()
    });
    match name {
        Some(name) => InvalidOutput::whole(format!("the model called a tool ({name}) in place of an answer")),
        None => InvalidOutput::whole("the answer is empty"),
    }
    .into()
}

/// A rule: what it finds wrong with a value that was made of this JSON.
pub(super) type Rule<T> = Arc<dyn Fn(&T, &Value) -> Vec<Fault> + Send + Sync>;

/// Reads JSON of a schema.
pub(super) struct Reader<T> {
    pub(super) schema: Arc<Schema>,
    pub(super) recovers: bool,
    pub(super) rules: Vec<Rule<T>>,
    make: fn(&Value) -> Result<T, Fault>,
}

impl<T: DeserializeOwned> Reader<T> {
    pub(super) fn new(schema: Schema) -> Self {
        Self {
            schema: Arc::new(schema),
            recovers: false,
            rules: Vec::new(),
            make,
        }
    }
}

impl<T> Reader<T> {
    fn json(&self, text: &str) -> Result<Value, InvalidOutput> {
        let text = strip_code_fence(bare(text));
        serde_json::from_str(text).or_else(|error| {
            let recovered = self.recovers.then(|| only_json(text)).flatten();
            recovered.ok_or_else(|| InvalidOutput::whole(format!("the answer is not JSON: {error}")))
        })
    }

    fn value(&self, text: &str) -> Result<T, InvalidOutput> {
        let whole = self.json(text)?;
        let mut checked = self.schema.check(whole);
        let mut faults = std::mem::take(&mut checked.faults);
        let value = checked.value();
        let base = checked.base();
        let found = match (self.make)(value) {
            Ok(output) => {
                let broken = self.rules.iter().flat_map(|rule| rule(&output, value));
                let broken: Vec<Fault> = broken.map(|fault| fault.below(base)).collect();
                if faults.is_empty() && broken.is_empty() {
                    return Ok(output);
                }
                broken
            }
            Err(fault) => vec![fault.below(base)],
        };
        // What the schema has named already is left out: bounds, which rules repeat, and where serde stopped because of it.
        let is_new = |fault: &Fault| !faults.iter().any(|known| is_related(&known.path, &fault.path));
        let found: Vec<Fault> = found.into_iter().filter(is_new).collect();
        faults.extend(found);
        Err(InvalidOutput::new(faults).with_value(checked.whole))
    }
}

impl<T> Read<T> for Reader<T> {
    fn read(&self, text: &str) -> Result<T, LlmError> {
        self.value(text).map_err(LlmError::from)
    }
}

impl<T> Clone for Reader<T> {
    fn clone(&self) -> Self {
        Self {
            schema: Arc::clone(&self.schema),
            recovers: self.recovers,
            rules: self.rules.clone(),
            make: self.make,
        }
    }
}

impl<T> fmt::Debug for Reader<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("recovers", &self.recovers)
            .field("rules", &self.rules.len())
            .finish_non_exhaustive()
    }
}

/// Returns `true` if one path leads to the other, or on from it.
fn is_related(one: &str, other: &str) -> bool {
    let (short, long) = if one.len() < other.len() {
        (one, other)
    } else {
        (other, one)
    };
    long.strip_prefix(short)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The value of the type, or where serde stopped.
fn make<T: DeserializeOwned>(value: &Value) -> Result<T, Fault> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let mut path = String::new();
        let mut at = Some(value);
        for segment in error.path() {
            let name = match segment {
                Segment::Seq { index } => index.to_string(),
                Segment::Map { key } => key.clone(),
                // An externally tagged variant is a member; any other is not in the JSON.
                Segment::Enum { variant } if at.is_some_and(|at| at.get(variant).is_some()) => {
                    variant.clone()
                }
                Segment::Enum { .. } => continue,
                Segment::Unknown => break,
            };
            path = member(&path, &name);
            at = value.pointer(&path);
        }
        let message = error.inner().to_string();
        match message
            .strip_prefix("missing field `")
            .and_then(|rest| rest.strip_suffix('`'))
        {
            Some(name) => Fault::new(member(&path, name), "is missing"),
            None => Fault::new(path, message),
        }
    })
}

/// Reads by a closure.
pub(super) struct Parse<F>(pub(super) F);

impl<T, E, F> Read<T> for Parse<F>
where
    F: Fn(&str) -> Result<T, E> + Send + Sync,
    E: Into<BoxError>,
{
    fn read(&self, text: &str) -> Result<T, LlmError> {
        (self.0)(text).map_err(|error| error_of(error.into()))
    }
}
