//! Strategies that play a script, and record their requests.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use llm_batch::{ErrorKind, Item, ItemId, LlmError, LlmRequest, LlmResponse, Prompt, TokenUsage};
use tower::Service;

pub(crate) type Outcome = Result<LlmResponse, LlmError>;

pub(crate) fn answer(text: &str) -> Outcome {
    Ok(LlmResponse::new(text.to_owned()).with_usage(TokenUsage::new(10, 1)))
}

pub(crate) fn invalid() -> Outcome {
    Err(LlmError::validation("expected a number").with_usage(TokenUsage::new(10, 5)))
}

pub(crate) fn throttled(seconds: u64) -> Outcome {
    Err(LlmError::rate_limit("slow down", Some(Duration::from_secs(seconds))).with_status(429))
}

pub(crate) fn unavailable() -> Outcome {
    Err(LlmError::new(ErrorKind::ServerError, "out of order").with_status(500))
}

pub(crate) fn item() -> Arc<Item> {
    Item::new(ItemId::Index(0), 0)
}

pub(crate) fn request(item: &Arc<Item>) -> LlmRequest {
    LlmRequest::for_item("hi".into(), Arc::clone(item))
}

/// Plays its outcomes in order and then always answers `done`, each after a time. Clones share the script and the record.
#[derive(Clone, Default)]
pub(crate) struct Script {
    time: Duration,
    steps: Arc<Mutex<VecDeque<Outcome>>>,
    asked: Arc<Mutex<Vec<Prompt>>>,
    attempts: Arc<Mutex<Vec<u32>>>,
}

impl Script {
    pub(crate) fn says(outcomes: impl IntoIterator<Item = Outcome>) -> Self {
        Self::says_after(Duration::ZERO, outcomes)
    }

    pub(crate) fn says_after(time: Duration, outcomes: impl IntoIterator<Item = Outcome>) -> Self {
        Self {
            steps: Arc::new(Mutex::new(outcomes.into_iter().collect())),
            time,
            ..Self::default()
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    pub(crate) fn asked(&self) -> Vec<Prompt> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn attempts(&self) -> Vec<u32> {
        self.attempts.lock().unwrap().clone()
    }
}

impl Service<LlmRequest> for Script {
    type Response = LlmResponse;
    type Error = LlmError;
    type Future = BoxFuture<'static, Outcome>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), LlmError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: LlmRequest) -> Self::Future {
        self.asked.lock().unwrap().push(request.input().clone());
        self.attempts.lock().unwrap().push(request.attempt());
        let step = self.steps.lock().unwrap().pop_front();
        let (time, outcome) = (self.time, step.unwrap_or_else(|| answer("done")));
        Box::pin(async move {
            tokio::time::sleep(time).await;
            outcome
        })
    }
}
