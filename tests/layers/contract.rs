//! tower's contract, for every layer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use llm_batch::layer::cache::{CacheLayer, ResponseCache};
use llm_batch::layer::dry_run::DryRunLayer;
use llm_batch::layer::retry::{RetryLayer, RetryPolicy, RetryWait};
use llm_batch::layer::standard::StandardLayer;
use llm_batch::layer::timeout::{CallTimeoutLayer, ItemTimeoutLayer, TimedOut};
use llm_batch::layer::token_accounting::{TokenAccountingLayer, TokenLedger};
use llm_batch::{BoxError, ErrorKind, Lazy, LlmError, LlmResponse, lazy};
use tokio::sync::Semaphore;
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok};
use tower::limit::ConcurrencyLimit;
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::support::{Probe, Request, item, request};

type Limited = ConcurrencyLimit<Probe>;

/// Every rule, for one layer.
async fn holds<L>(layer: L)
where
    L: Layer<Probe> + Layer<Limited>,
    <L as Layer<Probe>>::Service: Strategy,
    <L as Layer<Limited>>::Service: Strategy,
{
    // (a) The instance that became ready is called, for each clone, repeatedly.
    let probe = Probe::new();
    let mut service = layer.layer(probe.clone());
    for _ in 0..3 {
        let mut clone = service.clone();
        service.ready().await.unwrap();
        clone.ready().await.unwrap();
        service.call(request(&item())).await.unwrap();
        clone.call(request(&item())).await.unwrap();
    }
    assert!(
        !probe.violated.load(Ordering::SeqCst),
        "an instance was called that was not ready"
    );
    assert_eq!(probe.calls.load(Ordering::SeqCst), 6);

    // (b) A real limit inside: ten concurrent calls through two permits.
    let permits = Arc::new(Semaphore::new(2));
    let limited = |probe: &Probe| ConcurrencyLimit::with_semaphore(probe.clone(), Arc::clone(&permits));
    let service = layer.layer(limited(&probe));
    let calls = (0..10).map(|_| service.clone().oneshot(request(&item())));
    for result in futures::future::join_all(calls).await {
        result.unwrap();
    }
    assert_eq!(probe.calls.load(Ordering::SeqCst), 16);
    drop(service);
    assert_eq!(permits.available_permits(), 2);

    // (c) Dropped readiness is released.
    let mut service = layer.layer(limited(&probe));
    service.ready().await.unwrap();
    drop(service);
    assert_eq!(permits.available_permits(), 2);

    // (d) So are the resources of a response future, polled or not.
    let mut service = layer.layer(limited(&probe));
    let one = item();
    let unpolled = service.ready().await.unwrap().call(request(&one));
    drop(unpolled);
    let polled = service.ready().await.unwrap().call(request(&one));
    assert!(tokio::time::timeout(Duration::ZERO, polled).await.is_err());
    drop(service);
    assert_eq!(permits.available_permits(), 2);
    assert!(!probe.violated.load(Ordering::SeqCst));
}

/// The traits of every stack in these tests. (e) The bounds are part of the contract.
trait Strategy:
    Service<Request, Response = LlmResponse, Error = LlmError, Future: Send + 'static>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> Strategy for S where
    S: Service<Request, Response = LlmResponse, Error = LlmError, Future: Send + 'static>
        + Clone
        + Send
        + Sync
        + 'static
{
}

#[tokio::test(start_paused = true)]
async fn item_timeout_holds_the_contract() {
    holds(ItemTimeoutLayer::new(Duration::from_secs(9))).await;
}

#[tokio::test(start_paused = true)]
async fn call_timeout_holds_the_contract() {
    holds(CallTimeoutLayer::new(Duration::from_secs(9))).await;
}

#[tokio::test(start_paused = true)]
async fn retry_holds_the_contract() {
    holds(RetryLayer::new(RetryPolicy::new(3))).await;
}

#[tokio::test(start_paused = true)]
async fn token_accounting_holds_the_contract() {
    holds(TokenAccountingLayer::new(TokenLedger::new())).await;
}

/// The cache gets a different request every time, or the strategy would not be called.
fn cache() -> CacheLayer<String, impl Fn(&Request) -> Option<String> + Clone> {
    let asked = Arc::new(AtomicUsize::new(0));
    CacheLayer::new(ResponseCache::default()).key_with(move |_: &Request| {
        let number = asked.fetch_add(1, Ordering::SeqCst);
        Some(number.to_string())
    })
}

#[tokio::test(start_paused = true)]
async fn cache_holds_the_contract() {
    holds(cache()).await;
    holds((cache(), StandardLayer::new())).await;
    holds((RetryLayer::new(RetryPolicy::new(3)), cache())).await;
}

#[tokio::test(start_paused = true)]
async fn the_layers_together_hold_the_contract() {
    holds((
        ItemTimeoutLayer::new(Duration::from_secs(9)),
        RetryLayer::new(RetryPolicy::new(3)),
        TokenAccountingLayer::new(TokenLedger::new()),
        CallTimeoutLayer::new(Duration::from_secs(9)),
    ))
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_standard_stack_holds_the_contract() {
    holds(StandardLayer::new()).await;
}

#[tokio::test(start_paused = true)]
async fn a_lazy_strategy_readies_the_instance_that_it_calls() {
    let probe = Probe::new();
    let made = probe.clone();
    let model = lazy(move || {
        let made = made.clone();
        async move { Ok::<_, LlmError>(made) }
    });
    for _ in 0..3 {
        model.clone().oneshot(request(&item())).await.unwrap();
    }
    assert!(!probe.violated.load(Ordering::SeqCst));
    assert_eq!(probe.calls.load(Ordering::SeqCst), 3);
}

/// Layers that do not wait forward readiness and use the same instance; checked step by step.
#[test]
fn readiness_is_that_of_the_service_inside() {
    use tower_test::mock;

    fn passes_on<L>(layer: L)
    where
        L: Layer<mock::Mock<Request, LlmResponse>>,
        L::Service: Service<Request, Response = LlmResponse, Error = BoxError>,
    {
        let (mut service, mut handle) = mock::spawn_layer::<Request, LlmResponse, _>(layer);
        handle.allow(0);
        assert_pending!(service.poll_ready());
        handle.allow(1);
        assert_ready_ok!(service.poll_ready());
        let mut answer = tokio_test::task::spawn(service.call(request(&item())));
        assert_pending!(answer.poll());
        let (asked, reply) = assert_ready!(tokio_test::task::spawn(handle.next_request()).poll()).unwrap();
        assert_eq!(*asked.input(), "hi");
        reply.send_response(LlmResponse::new("there".to_owned()));
        assert_eq!(assert_ready_ok!(answer.poll()).output, "there");
        assert_pending!(service.poll_ready());
        handle.send_error("broken");
        assert_eq!(assert_ready_err!(service.poll_ready()).to_string(), "broken");
    }

    // The timers need a runtime.
    tokio_test::block_on(async {
        passes_on(CallTimeoutLayer::new(Duration::from_secs(9)));
        passes_on(TokenAccountingLayer::new(TokenLedger::new()));
        passes_on(tower::retry::RetryLayer::new(RetryPolicy::new(3)));
    });
}

/// tower's own layer ends the item there, without consulting the policy.
#[tokio::test(start_paused = true)]
async fn an_error_of_readiness_is_a_failed_attempt() {
    let (service, mut handle) = tower_test::mock::pair::<Request, LlmResponse>();
    handle.allow(0);
    let model = RetryLayer::new(RetryPolicy::new(3)).layer(service);
    let answer = tokio::spawn(model.oneshot(request(&item())));
    tokio::task::yield_now().await;
    handle.send_error(LlmError::new(ErrorKind::ServerError, "broken"));
    tokio::time::sleep(Duration::from_secs(2)).await;
    handle.allow(1);
    let (_, reply) = handle.next_request().await.unwrap();
    reply.send_response(LlmResponse::new("there".to_owned()));
    assert_eq!(answer.await.unwrap().unwrap().output, "there");
}

#[test]
fn auto_traits() {
    fn everywhere<T: Send + Sync + Unpin + 'static>() {}
    fn sent<T: Send + Sync + 'static>() {}
    fn sent_value<T: Send + Sync + 'static>(_: &T) {}

    everywhere::<ItemTimeoutLayer>();
    everywhere::<CallTimeoutLayer>();
    everywhere::<RetryPolicy>();
    everywhere::<TokenAccountingLayer>();
    everywhere::<TokenLedger>();
    everywhere::<StandardLayer>();
    sent::<llm_batch::layer::standard::Standard<Probe>>();
    everywhere::<DryRunLayer>();
    everywhere::<CacheLayer>();
    everywhere::<ResponseCache>();
    everywhere::<llm_batch::layer::cache::SharedFailure>();
    everywhere::<TimedOut>();
    everywhere::<Lazy<Probe>>();
    sent::<RetryWait>();

    // The futures need only the bounds of the service they wrap.
    let leaf =
        service_fn(|_: Request| std::future::ready(Ok::<_, LlmError>(LlmResponse::new(String::new()))));
    let mut stack = (
        ItemTimeoutLayer::new(Duration::from_secs(9)),
        RetryLayer::new(RetryPolicy::new(3)),
        TokenAccountingLayer::new(TokenLedger::new()),
        CallTimeoutLayer::new(Duration::from_secs(9)),
    )
        .layer(leaf);
    sent_value(&stack);
    sent_value(&stack.call(request(&item())));
}
