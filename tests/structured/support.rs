//! A type, and models with scripted answers.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;
use llm_batch::{
    FinishReason, InvalidOutput, LlmError, LlmRequest, LlmResponse, ResponseMetadata, StructuredExt,
    TokenUsage,
};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tower::ServiceExt;

/// What most of these tests ask for.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub(crate) struct Review {
    pub(crate) product: String,
    #[schemars(range(min = 1, max = 5))]
    pub(crate) stars: u8,
    #[serde(default)]
    pub(crate) tags: Vec<String>,
    pub(crate) author: Option<Author>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub(crate) struct Author {
    pub(crate) name: String,
    pub(crate) age: u32,
}

pub(crate) const GOOD: &str =
    r#"{"product": "lamp", "stars": 4, "tags": ["a"], "author": {"name": "Ann", "age": 33}}"#;

pub(crate) fn good() -> Review {
    Review {
        product: "lamp".into(),
        stars: 4,
        tags: vec!["a".into()],
        author: Some(Author {
            name: "Ann".into(),
            age: 33,
        }),
    }
}

/// An answer of 10 tokens in and 5 out.
pub(crate) fn says(text: &str) -> LlmResponse {
    LlmResponse::new(text.to_owned()).with_usage(TokenUsage::new(10, 5))
}

pub(crate) fn ends_with(text: &str, reason: FinishReason) -> LlmResponse {
    let mut metadata = ResponseMetadata::default();
    metadata.finish_reason = Some(reason);
    says(text).with_metadata(metadata)
}

/// A model that plays its answers in order.
#[derive(Clone)]
pub(crate) struct Script {
    answers: Arc<Mutex<VecDeque<LlmResponse>>>,
    pub(crate) requests: Arc<Mutex<Vec<LlmRequest>>>,
}

impl Script {
    pub(crate) fn new(answers: impl IntoIterator<Item = LlmResponse>) -> Self {
        Self {
            answers: Arc::new(Mutex::new(answers.into_iter().collect())),
            requests: Arc::default(),
        }
    }

    pub(crate) fn calls(&self) -> usize {
        self.requests.lock().unwrap().len()
    }
}

impl tower::Service<LlmRequest> for Script {
    type Response = LlmResponse;
    type Error = LlmError;
    type Future = BoxFuture<'static, Result<LlmResponse, LlmError>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), LlmError>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: LlmRequest) -> Self::Future {
        self.requests.lock().unwrap().push(request);
        let answer = self.answers.lock().unwrap().pop_front().unwrap();
        Box::pin(async move { Ok(answer) })
    }
}

/// The result for one answer.
pub(crate) async fn read<T>(answer: LlmResponse) -> Result<T, LlmError>
where
    T: JsonSchema + DeserializeOwned + 'static,
{
    let model = Script::new([answer]).structured::<T>();
    let response = model.oneshot(LlmRequest::new("?".into())).await?;
    Ok(response.output)
}

/// The faults of one answer, as lines.
pub(crate) async fn faults_of<T>(text: &str) -> Vec<String>
where
    T: JsonSchema + DeserializeOwned + 'static,
{
    let error = read::<T>(says(text)).await.err().unwrap();
    let invalid = InvalidOutput::of(&error).unwrap();
    invalid.faults.iter().map(ToString::to_string).collect()
}
