//! The good part of an answer.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::schema::subset;
use crate::prompt::{IDEMPOTENCY_KEY, Message, Prompt};
use crate::schema::pointer::unescaped;
use crate::structured::{Fault, strip_code_fence};

/// The good parts of the last answer, and the missing ones.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    value: Map<String, Value>,
    missing: Vec<Missing>,
}

#[derive(Clone, Debug)]
struct Missing {
    /// The path of member names to it.
    path: Vec<String>,
    fault: Fault,
}

impl Kept {
    /// Returns the answer without its faulty parts; `None` if nothing is left.
    pub(super) fn of(answer: &Map<String, Value>, faults: &[Fault]) -> Option<Self> {
        let mut value = answer.clone();
        let mut missing = Vec::new();
        for fault in faults {
            let path = members(answer, &fault.path);
            if path.is_empty() {
                return None;
            }
            remove(&mut value, &path);
            missing.push(Missing {
                path,
                fault: fault.clone(),
            });
        }
        (!missing.is_empty() && !is_hollow(&value)).then_some(Self { value, missing })
    }

    /// Changes the prompt to request only the missing part. Returns `false` if that is not possible.
    pub(super) fn ask(&self, prompt: &mut Prompt) -> bool {
        if prompt.raw_body().is_some() {
            return false;
        }
        let mut next = std::mem::take(prompt);
        if let Some(schema) = next.output_schema() {
            let paths: Vec<&[String]> = self.missing.iter().map(|missing| &*missing.path).collect();
            match subset(schema, &paths) {
                Some(schema) => next = next.with_output_schema(schema),
                None => {
                    *prompt = next;
                    return false;
                }
            }
        }
        let mut text = "The answer is known but for these fields:\n".to_owned();
        for missing in &self.missing {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "- {}", missing.fault);
        }
        text.push_str("Answer with a JSON object of these fields alone, each where it is in the whole.");
        *prompt = next.with_message(Message::user(text));
        // The key belongs to the request for the whole answer.
        prompt.remove_header(IDEMPOTENCY_KEY);
        true
    }

    /// The kept part as JSON, merged with the missing members from `answer`; `None` if that is not a JSON object.
    pub(super) fn merge(mut self, answer: &str) -> Option<String> {
        let mut answer: Map<String, Value> = serde_json::from_str(strip_code_fence(answer)).ok()?;
        for missing in &self.missing {
            if let Some(part) = remove(&mut answer, &missing.path) {
                insert(&mut self.value, &missing.path, part);
            }
        }
        serde_json::to_string(&self.value).ok()
    }
}

/// The members on the path of a JSON pointer, up to a list: elements of a list cannot be requested separately.
fn members(answer: &Map<String, Value>, pointer: &str) -> Vec<String> {
    let mut path = Vec::new();
    let mut at = Some(answer);
    let mut in_list = false;
    for name in pointer.split('/').skip(1) {
        if in_list {
            break;
        }
        let name = unescaped(name);
        let value = at.and_then(|at| at.get(&name));
        in_list = value.is_some_and(Value::is_array);
        at = value.and_then(Value::as_object);
        path.push(name);
    }
    path
}

fn remove(value: &mut Map<String, Value>, path: &[String]) -> Option<Value> {
    let (last, outer) = path.split_last()?;
    let mut at = value;
    for name in outer {
        at = at.get_mut(name)?.as_object_mut()?;
    }
    at.shift_remove(last)
}

fn insert(value: &mut Map<String, Value>, path: &[String], part: Value) {
    let Some((last, outer)) = path.split_last() else {
        return;
    };
    let mut at = value;
    for name in outer {
        let next = at.entry(name.clone()).or_insert_with(|| Map::new().into());
        if !next.is_object() {
            *next = Map::new().into();
        }
        let Value::Object(next) = next else { return };
        at = next;
    }
    at.insert(last.clone(), part);
}

/// Returns `true` if it contains only empty objects.
fn is_hollow(value: &Map<String, Value>) -> bool {
    value
        .values()
        .all(|value| value.as_object().is_some_and(is_hollow))
}
