//! A typed answer of several fields, and a model that gets some of them wrong.

use std::collections::BTreeSet;
use std::task::{Context, Poll};

use futures::future::{Ready, ready};
use llm_batch::{LlmError, LlmRequest, LlmResponse, Part, Prompt, TokenUsage};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use tower::Service;

#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq)]
pub(crate) struct Profile {
    pub(crate) name: String,
    #[schemars(range(min = 0, max = 150))]
    pub(crate) age: u8,
    pub(crate) biography: String,
    pub(crate) address: Address,
    pub(crate) tags: Vec<String>,
    pub(crate) nickname: Option<String>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq)]
pub(crate) struct Address {
    pub(crate) street: String,
    pub(crate) city: String,
}

pub(crate) fn right() -> Value {
    json!({
        "name": "Ada",
        "age": 36,
        "biography": "She wrote the first program, for a machine that was never built. ".repeat(8),
        "address": {"street": "Ockham Park", "city": "London"},
        "tags": ["mathematics", "engines"],
        "nickname": "Countess",
    })
}

pub(crate) fn profile() -> Profile {
    serde_json::from_value(right()).unwrap()
}

/// The fields that this model gets wrong, and its values there; `None` omits the field.
pub(crate) fn mistakes() -> [(&'static str, Option<Value>); 4] {
    [
        ("/age", None),
        ("/name", Some(json!(7))),
        ("/address/city", Some(json!(["London"]))),
        ("/tags/1", Some(json!(false))),
    ]
}

/// The mistakes that item `index` begins with; never none.
pub(crate) fn wrong_of(index: u64) -> BTreeSet<&'static str> {
    let mask = index % 15 + 1;
    let mistakes = mistakes().into_iter().enumerate();
    mistakes
        .filter(|(bit, _)| mask >> bit & 1 == 1)
        .map(|(_, (path, _))| path)
        .collect()
}

pub(crate) fn with_mistakes(wrong: &BTreeSet<&str>) -> Value {
    let mut value = right();
    for (path, mistake) in mistakes() {
        if wrong.contains(path) {
            match mistake {
                Some(mistake) => *value.pointer_mut(path).unwrap() = mistake,
                None => drop(value.as_object_mut().unwrap().shift_remove(&path[1..])),
            }
        }
    }
    value
}

pub(crate) fn texts(prompt: &Prompt) -> Vec<String> {
    let parts = prompt.messages().iter().flat_map(|message| &message.content);
    parts
        .filter_map(|part| match part {
            Part::Text { text } => Some(text.clone()),
            _ => None,
        })
        .collect()
}

/// The paths in lines such as `- /age: is missing`.
pub(crate) fn named(text: &str) -> BTreeSet<&str> {
    text.lines()
        .filter_map(|line| line.strip_prefix("- "))
        .map(|line| line.split(": ").next().unwrap_or(line))
        .collect()
}

/// A token for every four characters, in and out.
pub(crate) fn usage(prompt: &Prompt, answer: &str) -> TokenUsage {
    let input: usize = texts(prompt).iter().map(String::len).sum();
    TokenUsage::new(input as u64 / 4, answer.len() as u64 / 4)
}

/// Makes its mistakes, and corrects exactly those that the feedback lists.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mender;

impl Service<LlmRequest> for Mender {
    type Response = LlmResponse;
    type Error = LlmError;
    type Future = Ready<Result<LlmResponse, LlmError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), LlmError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: LlmRequest) -> Self::Future {
        let mut wrong = wrong_of(request.index());
        let texts = texts(request.input());
        if let [_, _, told] = &texts[..] {
            let told = told.split("What is right").next().unwrap();
            let told = named(told);
            wrong.retain(|path| !told.contains(path));
        }
        let text = with_mistakes(&wrong).to_string();
        let usage = usage(request.input(), &text);
        ready(Ok(LlmResponse::new(text).with_usage(usage)))
    }
}
