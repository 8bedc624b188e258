//! Strategies that record their calls.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::StreamExt;
use llm_batch::{LlmError, LlmRequest, LlmResponse, Outcome};
use tower::Service;

pub(crate) type Answer = Result<LlmResponse, LlmError>;

/// Counts of a [`Sleeper`].
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) started: AtomicUsize,
    pub(crate) ended: AtomicUsize,
    pub(crate) dropped: AtomicUsize,
    pub(crate) peak: AtomicUsize,
}

impl Counts {
    pub(crate) fn started(&self) -> usize {
        self.started.load(Ordering::SeqCst)
    }

    pub(crate) fn ended(&self) -> usize {
        self.ended.load(Ordering::SeqCst)
    }

    pub(crate) fn dropped(&self) -> usize {
        self.dropped.load(Ordering::SeqCst)
    }

    pub(crate) fn peak(&self) -> usize {
        self.peak.load(Ordering::SeqCst)
    }
}

/// A strategy that sleeps for a time given by a function of the item, then answers with the item's index.
#[derive(Clone)]
pub(crate) struct Sleeper {
    counts: Arc<Counts>,
    latency: Arc<dyn Fn(u64) -> Duration + Send + Sync>,
}

impl Sleeper {
    pub(crate) fn new(latency: impl Fn(u64) -> Duration + Send + Sync + 'static) -> Self {
        Self {
            counts: Arc::default(),
            latency: Arc::new(latency),
        }
    }

    pub(crate) fn millis(latency: u64) -> Self {
        Self::new(move |_| Duration::from_millis(latency))
    }

    pub(crate) fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }
}

struct Running {
    counts: Arc<Counts>,
    ended: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended {
            self.counts.ended.fetch_add(1, Ordering::SeqCst);
        } else {
            self.counts.dropped.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl<I: Send + 'static> Service<LlmRequest<I>> for Sleeper {
    type Response = LlmResponse;
    type Error = LlmError;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), LlmError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: LlmRequest<I>) -> Self::Future {
        let counts = self.counts();
        let latency = (self.latency)(request.index());
        Box::pin(async move {
            let now = counts.started.fetch_add(1, Ordering::SeqCst) + 1
                - counts.ended.load(Ordering::SeqCst)
                - counts.dropped.load(Ordering::SeqCst);
            counts.peak.fetch_max(now, Ordering::SeqCst);
            let mut running = Running {
                counts: Arc::clone(&counts),
                ended: false,
            };
            tokio::time::sleep(latency).await;
            running.ended = true;
            Ok(LlmResponse::new(request.index().to_string()))
        })
    }
}

/// All outcomes of a batch.
pub(crate) async fn all<St, C>(results: St) -> Vec<Outcome<LlmResponse, LlmError, C>>
where
    St: futures::Stream<Item = Outcome<LlmResponse, LlmError, C>>,
{
    results.collect().await
}

/// The indices, in the order of the outcomes.
pub(crate) fn indices<R, E, C>(outcomes: &[Outcome<R, E, C>]) -> Vec<u64> {
    outcomes.iter().map(|outcome| outcome.index).collect()
}

/// Runs all other tasks until all of them wait.
pub(crate) async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}
