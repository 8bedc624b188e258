//! The accounts with tower's own services: requests that they reject or hold back were not sent.

use std::time::Duration;

use futures::StreamExt;
use llm_batch::recipe::Fallback;
use llm_batch::{
    BoxError, ErrorKind, ItemTimeoutLayer, LlmError, LlmRequest, LlmResponse, LlmStreamExt, RateLimiter,
    RateLimiterLayer, RetryLayer, RetryPolicy, StandardLayer, TokenAccountingLayer, TokenLedger, TokenUsage,
};
use tokio::time::sleep;
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};

use crate::support::{MS, Provider, numbers};

type Stack = BoxCloneSyncService<LlmRequest<u64>, LlmResponse<u64>, BoxError>;

fn bare(provider: &Provider) -> Stack {
    Stack::new(provider.clone().map_err(BoxError::from))
}

fn accounted(provider: &Provider, ledger: &TokenLedger) -> Stack {
    Stack::new(TokenAccountingLayer::new(ledger.clone()).layer(bare(provider)))
}

/// Runs 40 items, 8 at a time, and cancels at time `at`. Returns the calls made, in the summary and in the ledger.
async fn calls(stack: Stack, provider: &Provider, ledger: &TokenLedger, at: Duration) -> [u64; 3] {
    let mut results = numbers(40).with_strategy(stack).llm_batch(8);
    let handle = results.handle();
    let stop = handle.clone();
    let stopper = tokio::spawn(async move {
        sleep(at).await;
        stop.cancel();
    });
    while results.next().await.is_some() {}
    drop(results);
    stopper.abort();
    sleep(Duration::from_secs(10)).await;
    [
        u64::from(provider.calls()),
        handle.statistics().calls,
        ledger.snapshot().calls,
    ]
}

const NEVER: Duration = Duration::from_secs(3_600);

#[tokio::test(start_paused = true)]
async fn what_is_shed_is_no_call() {
    type Around = fn(Stack) -> Stack;
    let shed: Around = |inner| {
        Stack::new(
            ServiceBuilder::new()
                .load_shed()
                .concurrency_limit(3)
                .service(inner),
        )
    };
    let timed: Around = |inner| Stack::new(ItemTimeoutLayer::new(NEVER).layer(inner));
    let retried: Around = |inner| Stack::new(RetryLayer::new(RetryPolicy::new(1)).layer(inner));
    let gated: Around =
        |inner| Stack::new(RateLimiterLayer::new(RateLimiter::builder().build().unwrap()).layer(inner));
    for around in [None, Some(timed), Some(retried), Some(gated)] {
        let (provider, ledger) = (Provider::new(50 * MS), TokenLedger::new());
        let shedding = shed(accounted(&provider, &ledger));
        let stack = match around {
            Some(around) => around(shedding),
            None => shedding,
        };
        let [made, summary, ledger] = calls(stack, &provider, &ledger, NEVER).await;
        assert!(made < 40);
        assert_eq!((summary, ledger), (made, made));
    }
    // Inside the accounting.
    let (provider, ledger) = (Provider::new(50 * MS), TokenLedger::new());
    let stack = Stack::new(TokenAccountingLayer::new(ledger.clone()).layer(shed(bare(&provider))));
    let [made, summary, ledger] = calls(stack, &provider, &ledger, NEVER).await;
    assert_eq!((summary, ledger), (made, made));
}

#[tokio::test(start_paused = true)]
async fn what_a_filter_rejects_is_no_call() {
    let filter = || {
        tower::filter::FilterLayer::new(|request: LlmRequest<u64>| match request.input() % 5 {
            0 => Err(BoxError::from("not this one")),
            _ => Ok(request),
        })
    };
    // Around the whole stack.
    let (provider, ledger) = (Provider::new(5 * MS), TokenLedger::new());
    let standard = StandardLayer::new()
        .with_ledger(ledger.clone())
        .layer(bare(&provider));
    let stack = Stack::new(filter().layer(standard));
    assert_eq!(calls(stack, &provider, &ledger, NEVER).await, [32, 32, 32]);
    // Around its calls, of which the very first is rejected.
    let (provider, ledger) = (Provider::new(5 * MS), TokenLedger::new());
    let standard = StandardLayer::new()
        .with_ledger(ledger.clone())
        .with_retry(RetryPolicy::new(1))
        .with_call_layer(filter());
    let mut results = numbers(1)
        .with_strategy(standard.layer(bare(&provider)))
        .llm_batch(1);
    while results.next().await.is_some() {}
    assert_eq!(
        (provider.calls(), results.summary().calls, ledger.snapshot().calls),
        (0, 0, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn what_waits_in_a_buffer_when_a_stop_comes_is_no_call() {
    for timed in [false, true] {
        let (provider, ledger) = (Provider::new(50 * MS), TokenLedger::new());
        let buffer = ServiceBuilder::new()
            .buffer(20)
            .concurrency_limit(2)
            .service(accounted(&provider, &ledger));
        let stack = match timed {
            true => Stack::new(ItemTimeoutLayer::new(NEVER).layer(buffer)),
            false => Stack::new(buffer),
        };
        let [made, summary, ledger] = calls(stack, &provider, &ledger, 120 * MS).await;
        assert_eq!((summary, ledger), (made, made), "in an item timeout: {timed}");
    }
}

/// tower's timeout is ready while its call still exists.
#[tokio::test(start_paused = true)]
async fn one_ledger_around_and_inside_a_timeout_counts_a_call_once() {
    let (provider, ledger) = (Provider::new(500 * MS), TokenLedger::new());
    let timed = ServiceBuilder::new()
        .timeout(70 * MS)
        .service(accounted(&provider, &ledger));
    let stack = Stack::new(TokenAccountingLayer::new(ledger.clone()).layer(Stack::new(timed)));
    assert_eq!(calls(stack, &provider, &ledger, NEVER).await, [40, 40, 40]);
}

/// If a retry or a fallback makes several calls inside an accounting layer, the outcome is that of the last one.
#[tokio::test(start_paused = true)]
async fn one_ledger_around_and_inside_a_retry_books_each_usage_once() {
    for fallback in [false, true] {
        let provider = Provider::new(MS)
            .failing(|call| (call % 2 == 1).then(|| LlmError::new(ErrorKind::ServerError, "down")));
        let ledger = TokenLedger::new();
        let inside = accounted(&provider, &ledger);
        let between = match fallback {
            true => Stack::new(Fallback::new(inside.clone(), inside)),
            false => Stack::new(RetryLayer::new(RetryPolicy::new(3)).layer(inside)),
        };
        let stack = TokenAccountingLayer::new(ledger.clone()).layer(between);
        let mut results = numbers(10).with_strategy(stack).llm_batch(1);
        while results.next().await.is_some() {}
        let (summary, ledger) = (results.summary(), ledger.snapshot());
        let books = (summary.calls, summary.usage.total(), summary.unknown_usage_calls);
        assert_eq!(books, (20, 20, 10), "fallback: {fallback}");
        let books = (ledger.calls, ledger.usage.total(), ledger.unknown_usage_calls);
        assert_eq!(books, (20, 20, 10), "fallback: {fallback}");
    }
}

/// Behind one gate, one path is watched; the other is the user's own client, whose calls fail after they were billed.
#[tokio::test(start_paused = true)]
async fn a_failing_call_beside_watched_ones_is_counted() {
    let watched = Provider::new(5 * MS);
    let own = Provider::new(5 * MS)
        .failing(|_| Some(LlmError::new(ErrorKind::ServerError, "down").with_usage(TokenUsage::new(10, 0))));
    let (first, second) = (TokenAccountingLayer::new(TokenLedger::new()).layer(watched), own);
    let route = service_fn(move |request: LlmRequest<u64>| {
        let (first, second) = (first.clone(), second.clone());
        async move {
            match request.input() % 2 {
                0 => first.oneshot(request).await,
                _ => second.oneshot(request).await,
            }
        }
    });
    let gate = RateLimiter::builder().build().unwrap();
    let mut results = numbers(20)
        .with_strategy(RateLimiterLayer::new(gate).layer(route))
        .llm_batch(1);
    while results.next().await.is_some() {}
    let summary = results.summary();
    assert_eq!((summary.calls, summary.usage.total()), (20, 120));
}
