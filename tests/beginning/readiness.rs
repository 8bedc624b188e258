//! Strategies that are not ready: a request that waits for them at a stop or a deadline is not sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::{StreamExt, stream};
use llm_batch::layer::cache::{CacheLayer, ResponseCache};
use llm_batch::layer::timeout::ItemTimeoutLayer;
use llm_batch::recipe::{Escalate, Fallback};
use llm_batch::{
    BoxStrategy, Delivery, LlmError, LlmRequest, LlmResponse, LlmStreamExt, StopMode, StrategyExt, WorkItem,
    lazy,
};
use tower::limit::ConcurrencyLimit;
use tower::{Layer, Service, service_fn};

type Made = Arc<AtomicU64>;
type Strategy = BoxStrategy<u64, u64>;

const LONG: Duration = Duration::from_secs(3_600);

/// Answers after 100 ms; one call at a time.
fn one_at_a_time(
    made: &Made,
) -> ConcurrencyLimit<
    impl Service<
        LlmRequest<u64>,
        Response = LlmResponse<u64>,
        Error = LlmError,
        Future = impl Future<Output = Result<LlmResponse<u64>, LlmError>> + Send + 'static,
    > + Clone
    + Send
    + Sync
    + 'static,
> {
    let made = Arc::clone(made);
    let strategy = service_fn(move |request: LlmRequest<u64>| {
        made.fetch_add(1, Ordering::SeqCst);
        async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            Ok(LlmResponse::new(request.into_input()))
        }
    });
    ConcurrencyLimit::new(strategy, 1)
}

/// Everything that passes a request on, around a strategy that no layer watches.
fn stacks(made: &Made) -> Vec<(&'static str, Strategy)> {
    let (limited, inside_lazy) = (one_at_a_time(made), one_at_a_time(made));
    let unsent = service_fn(async |_: LlmRequest<u64>| {
        Err::<LlmResponse<u64>, _>(LlmError::fatal("no").with_delivery(Delivery::NotSent))
    });
    let cache = |keyed: bool| {
        CacheLayer::new(ResponseCache::<u64>::new(1_000))
            .key_with(move |request: &LlmRequest<u64>| keyed.then(|| request.input().to_string()))
    };
    vec![
        (
            "item timeout",
            ItemTimeoutLayer::new(LONG)
                .layer(limited.clone())
                .boxed_strategy(),
        ),
        (
            "fallback",
            Fallback::new(limited.clone(), unsent).boxed_strategy(),
        ),
        (
            "second of a fallback",
            Fallback::new(unsent, limited.clone()).boxed_strategy(),
        ),
        (
            "lazy",
            lazy(move || {
                let strategy = inside_lazy.clone();
                async move { Ok::<_, LlmError>(strategy) }
            })
            .boxed_strategy(),
        ),
        ("cache", cache(true).layer(limited.clone()).boxed_strategy()),
        (
            "cache without a key",
            cache(false).layer(limited.clone()).boxed_strategy(),
        ),
        (
            "escalate",
            Escalate::new([limited.clone(), limited]).boxed_strategy(),
        ),
    ]
}

/// Eight items, and a stop after 250 ms, when the third call is under way.
async fn stop(name: &str, model: Strategy, made: &Made, mode: StopMode) {
    let mut results = stream::iter((0..8).map(WorkItem::new))
        .with_strategy(model)
        .llm_batch(8)
        .stop_mode(mode);
    let handle = results.handle();
    let stopper = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(250)).await;
        handle.stop();
    });
    let mut answered = 0;
    while let Some(outcome) = results.next().await {
        answered += u64::from(outcome.is_ok());
    }
    stopper.await.expect("the stopper does not panic");
    assert_eq!(made.load(Ordering::SeqCst), 3, "{name}, {mode:?}");
    assert_eq!(results.summary().calls, 3, "{name}, {mode:?}");
    let kept = if mode == StopMode::Drain { 3 } else { 2 };
    assert_eq!(answered, kept, "{name}, {mode:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_what_waits_for_a_strategy_to_be_ready() {
    for mode in [StopMode::Drain, StopMode::Cancel] {
        for index in 0..stacks(&Made::default()).len() {
            let made = Made::default();
            let (name, model) = stacks(&made).swap_remove(index);
            stop(name, model, &made, mode).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_whose_deadline_passed_while_it_waited_for_a_strategy_to_be_ready() {
    for index in 0..stacks(&Made::default()).len() {
        let made = Made::default();
        let (name, model) = stacks(&made).swap_remove(index);
        let model = ItemTimeoutLayer::new(Duration::from_millis(250)).layer(model);
        let mut results = stream::iter((0..8).map(WorkItem::new))
            .with_strategy(model)
            .llm_batch(8);
        while results.next().await.is_some() {}
        assert_eq!(made.load(Ordering::SeqCst), 3, "{name}");
    }
}
