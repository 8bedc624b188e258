//! tower's contract.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use llm_batch::structured::{Parsed, Structured};
use llm_batch::{LlmError, LlmRequest, LlmResponse, StructuredExt};
use tokio::sync::Semaphore;
use tower::limit::ConcurrencyLimit;
use tower::{Service, ServiceExt};

use crate::support::{GOOD, Review, Script};

/// A strategy whose clones are not ready.
struct Probe {
    ready: bool,
    violated: Arc<AtomicBool>,
}

impl Clone for Probe {
    fn clone(&self) -> Self {
        Self {
            ready: false,
            violated: Arc::clone(&self.violated),
        }
    }
}

impl Service<LlmRequest> for Probe {
    type Response = LlmResponse;
    type Error = LlmError;
    type Future = BoxFuture<'static, Result<LlmResponse, LlmError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), LlmError>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: LlmRequest) -> Self::Future {
        if !std::mem::take(&mut self.ready) {
            self.violated.store(true, Ordering::SeqCst);
        }
        Box::pin(async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok(LlmResponse::new(GOOD.to_owned()))
        })
    }
}

fn request() -> LlmRequest {
    LlmRequest::new("?".into())
}

async fn holds<S, T>(over: impl Fn(ConcurrencyLimit<Probe>) -> S)
where
    S: Service<LlmRequest, Response = LlmResponse<T>, Error = LlmError, Future: Send + 'static>
        + Clone
        + Send
        + Sync,
    T: std::fmt::Debug,
{
    let permits = Arc::new(Semaphore::new(2));
    let violated = Arc::<AtomicBool>::default();
    let probe = Probe {
        ready: false,
        violated: Arc::clone(&violated),
    };
    let mut service = over(ConcurrencyLimit::with_semaphore(probe, Arc::clone(&permits)));
    // The instance that became ready is called.
    let mut clone = service.clone();
    service.ready().await.unwrap();
    clone.ready().await.unwrap();
    service.call(request()).await.unwrap();
    clone.call(request()).await.unwrap();
    // Ten concurrent calls through two permits.
    let calls = (0..10).map(|_| service.clone().oneshot(request()));
    for result in futures::future::join_all(calls).await {
        result.unwrap();
    }
    // Drops release the permit: of readiness, of a future that was not polled, and of one that was.
    clone.ready().await.unwrap();
    drop(clone);
    drop(service.ready().await.unwrap().call(request()));
    let polled = service.ready().await.unwrap().call(request());
    assert!(tokio::time::timeout(Duration::ZERO, polled).await.is_err());
    assert_eq!(permits.available_permits(), 2);
    assert!(!violated.load(Ordering::SeqCst));
}

#[tokio::test(start_paused = true)]
async fn a_typed_strategy_holds_the_contract() {
    holds(|inner| inner.structured::<Review>()).await;
    holds(|inner| inner.parse_with(|text| Ok::<_, LlmError>(text.len()))).await;
}

#[test]
fn auto_traits() {
    fn everywhere<T: Send + Sync + Unpin + 'static>() {}
    everywhere::<Structured<Script, Review>>();
    everywhere::<Parsed<Script, Review>>();
    everywhere::<llm_batch::InvalidOutput>();
    // Also for values that are bound to a thread.
    everywhere::<Structured<Script, std::rc::Rc<u8>>>();
}
