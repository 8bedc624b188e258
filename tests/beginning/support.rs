//! A provider that counts the calls it receives.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use llm_batch::{BoxStrategy, LlmError, LlmRequest, LlmResponse, StrategyExt, TokenUsage, WorkItem};
use tokio::time::sleep;
use tower::{Service, ServiceExt, service_fn};

pub(crate) const MS: Duration = Duration::from_millis(1);

pub(crate) type Strategy = BoxStrategy<u64, u64>;
pub(crate) type Answer = Result<LlmResponse<u64>, LlmError>;

/// Answers after a time; each answer uses two tokens.
#[derive(Clone)]
pub(crate) struct Provider {
    latency: Duration,
    fails: fn(u32) -> Option<LlmError>,
    pub(crate) calls: Arc<AtomicU32>,
    pub(crate) answers: Arc<AtomicU32>,
}

impl Provider {
    pub(crate) fn new(latency: Duration) -> Self {
        Self {
            latency,
            fails: |_| None,
            calls: Arc::default(),
            answers: Arc::default(),
        }
    }

    /// Fails the calls, by their number from 1, for which `fails` has an error.
    pub(crate) fn failing(mut self, fails: fn(u32) -> Option<LlmError>) -> Self {
        self.fails = fails;
        self
    }

    pub(crate) fn calls(&self) -> u32 {
        self.calls.load(Ordering::SeqCst)
    }

    pub(crate) fn answers(&self) -> u32 {
        self.answers.load(Ordering::SeqCst)
    }
}

impl Service<LlmRequest<u64>> for Provider {
    type Response = LlmResponse<u64>;
    type Error = LlmError;
    type Future = BoxFuture<'static, Answer>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), LlmError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: LlmRequest<u64>) -> Self::Future {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        let provider = self.clone();
        Box::pin(async move {
            sleep(provider.latency).await;
            if let Some(error) = (provider.fails)(call) {
                return Err(error);
            }
            provider.answers.fetch_add(1, Ordering::SeqCst);
            Ok(LlmResponse::new(*request.input()).with_usage(TokenUsage::new(1, 1)))
        })
    }
}

pub(crate) fn numbers(count: u64) -> impl futures::Stream<Item = WorkItem<u64>> + Unpin {
    futures::stream::iter((0..count).map(WorkItem::new))
}

/// Makes five calls, and keeps the answers so far when a call fails.
pub(crate) fn agent(stack: Strategy) -> Strategy {
    service_fn(move |request: LlmRequest<u64>| {
        let stack = stack.clone();
        async move {
            let mut parts = 0;
            for _ in 0..5 {
                match stack.clone().oneshot(request.clone()).await {
                    Ok(_) => parts += 1,
                    Err(_) => break,
                }
            }
            Ok::<_, LlmError>(LlmResponse::new(parts))
        }
    })
    .boxed_strategy()
}
