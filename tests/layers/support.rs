//! Services and small helpers for the tests of the layers.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use llm_batch::{ErrorKind, Item, ItemId, LlmError, LlmRequest, LlmResponse, TokenUsage};
use tokio::time::Instant;
use tower::Service;

pub(crate) type Request = LlmRequest<&'static str>;
pub(crate) type Outcome = Result<LlmResponse, LlmError>;

/// An answer with a usage of 10 tokens in and 1 out.
pub(crate) fn answer() -> Outcome {
    Ok(LlmResponse::new("ok".to_owned()).with_usage(TokenUsage::new(10, 1)))
}

pub(crate) fn throttled(retry_after: Option<u64>) -> Outcome {
    Err(LlmError::rate_limit("slow down", retry_after.map(Duration::from_secs)).with_status(429))
}

pub(crate) fn invalid() -> Outcome {
    Err(LlmError::validation("expected a number").with_usage(TokenUsage::new(10, 5)))
}

pub(crate) fn unavailable() -> Outcome {
    Err(LlmError::new(ErrorKind::ServerError, "out of order").with_status(500))
}

pub(crate) fn item() -> Arc<Item> {
    Item::new(ItemId::from("seven"), 7)
}

pub(crate) fn request(item: &Arc<Item>) -> Request {
    LlmRequest::for_item("hi", Arc::clone(item))
}

/// One step of a [`Script`].
pub(crate) enum Step {
    Say(Outcome),
    After(Duration, Outcome),
    Hang,
    Panic,
}

/// The time, the attempt and the input of a call.
type Seen = (Duration, u32, &'static str);

/// A strategy that plays its steps in order and records the time and the attempt of each call.
#[derive(Clone)]
pub(crate) struct Script {
    steps: Arc<Mutex<VecDeque<Step>>>,
    calls: Arc<Mutex<Vec<Seen>>>,
    created: Instant,
}

impl Script {
    pub(crate) fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self {
            steps: Arc::new(Mutex::new(steps.into_iter().collect())),
            calls: Arc::default(),
            created: Instant::now(),
        }
    }

    pub(crate) fn says(outcomes: impl IntoIterator<Item = Outcome>) -> Self {
        Self::new(outcomes.into_iter().map(Step::Say))
    }

    /// The attempt of each call.
    pub(crate) fn attempts(&self) -> Vec<u32> {
        self.calls.lock().unwrap().iter().map(|call| call.1).collect()
    }

    /// The time of each call, in seconds from the script's creation.
    pub(crate) fn times(&self) -> Vec<f64> {
        (self.calls.lock().unwrap().iter().map(|call| call.0.as_secs_f64())).collect()
    }

    pub(crate) fn inputs(&self) -> Vec<&'static str> {
        self.calls.lock().unwrap().iter().map(|call| call.2).collect()
    }

    pub(crate) fn count(&self) -> usize {
        self.calls.lock().unwrap().len()
    }
}

impl Service<Request> for Script {
    type Response = LlmResponse;
    type Error = LlmError;
    type Future = Pin<Box<dyn Future<Output = Outcome> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), LlmError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let call = (self.created.elapsed(), request.attempt(), *request.input());
        self.calls.lock().unwrap().push(call);
        let step = self
            .steps
            .lock()
            .unwrap()
            .pop_front()
            .unwrap_or(Step::Say(answer()));
        Box::pin(async move {
            match step {
                Step::Say(outcome) => outcome,
                Step::After(time, outcome) => {
                    tokio::time::sleep(time).await;
                    outcome
                }
                Step::Hang => std::future::pending().await,
                Step::Panic => panic!("as the script says"),
            }
        })
    }
}

/// A service whose instance must become ready before it is called: a clone is not ready. Its call takes a
/// millisecond.
pub(crate) struct Probe {
    ready: bool,
    pub(crate) violated: Arc<AtomicBool>,
    pub(crate) calls: Arc<AtomicUsize>,
}

impl Probe {
    pub(crate) fn new() -> Self {
        Self {
            ready: false,
            violated: Arc::default(),
            calls: Arc::default(),
        }
    }
}

impl Clone for Probe {
    fn clone(&self) -> Self {
        Self {
            ready: false,
            violated: Arc::clone(&self.violated),
            calls: Arc::clone(&self.calls),
        }
    }
}

impl Service<Request> for Probe {
    type Response = LlmResponse;
    type Error = LlmError;
    type Future = Pin<Box<dyn Future<Output = Outcome> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), LlmError>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request) -> Self::Future {
        if !std::mem::take(&mut self.ready) {
            self.violated.store(true, Ordering::SeqCst);
        }
        self.calls.fetch_add(1, Ordering::SeqCst);
        Box::pin(async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            answer()
        })
    }
}

/// Records the text of warnings.
#[derive(Clone, Default)]
pub(crate) struct Warnings(Arc<Mutex<Vec<String>>>);

impl Warnings {
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl tracing::field::Visit for Warnings {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0.lock().unwrap().push(format!("{value:?}"));
        }
    }
}

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut self.clone());
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}
