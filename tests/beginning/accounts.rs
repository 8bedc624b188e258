//! Accounts: exactly the sent calls are counted.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use futures::{StreamExt, poll};
use llm_batch::recipe::Fallback;
use llm_batch::{
    BoxError, ErrorKind, Item, ItemId, ItemTimeoutLayer, LlmError, LlmRequest, LlmStreamExt, RateLimiter,
    RateLimiterLayer, RetryLayer, RetryPolicy, StandardLayer, StrategyExt, TokenAccountingLayer, TokenLedger,
    lazy,
};
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{Answer, MS, Provider, Strategy, numbers};

fn one() -> Arc<Item> {
    Item::new(ItemId::from(0), 0)
}

/// With a full gate each call that is cut passes its permit to a waiting one; an item without time left does not take it.
#[tokio::test(start_paused = true)]
async fn no_call_begins_that_is_already_lost() {
    let provider = Provider::new(Duration::from_secs(3_600));
    let limiter = RateLimiter::builder().max_in_flight(1).build().unwrap();
    let standard = StandardLayer::new()
        .with_limiter(limiter)
        .with_item_timeout(Duration::from_secs(10))
        .with_call_timeout(Duration::from_secs(10));
    let outcomes: Vec<_> = numbers(20)
        .with_strategy(standard.layer(provider.clone()))
        .llm_batch(20)
        .collect()
        .await;
    let kinds = outcomes
        .iter()
        .map(|outcome| outcome.result.as_ref().unwrap_err().kind());
    assert!(kinds.eq([ErrorKind::TimedOut; 20]));
    assert_eq!(provider.calls(), 1);
    assert_eq!(standard.ledger().snapshot().calls, 1);
    assert_eq!(
        outcomes.iter().map(|outcome| outcome.report.calls).sum::<u32>(),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn a_filter_below_the_gate_sends_nothing() {
    let provider = Provider::new(10 * MS);
    let ledger = TokenLedger::new();
    let limiter = RateLimiter::builder()
        .tokens_per_minute(60_000)
        .burst(Duration::from_secs(60))
        .build()
        .unwrap();
    let counted = TokenAccountingLayer::new(ledger.clone()).layer(provider.clone());
    let filter = service_fn(move |request: LlmRequest<u64>| {
        let call = (request.index() == 0).then(|| counted.clone().oneshot(request));
        async move {
            match call {
                Some(call) => call.await.map_err(BoxError::from),
                None => Err(BoxError::from("not this one")),
            }
        }
    });
    let strategy = RateLimiterLayer::new(limiter.clone())
        .estimate_with(|_: &LlmRequest<u64>| 100)
        .layer(filter);
    let outcomes: Vec<_> = numbers(50).with_strategy(strategy).llm_batch(1).collect().await;
    assert_eq!((provider.calls(), ledger.snapshot().calls), (1, 1));
    assert_eq!(
        outcomes.iter().map(|outcome| outcome.report.calls).sum::<u32>(),
        1
    );
    // Calls that were not sent refund their tokens.
    assert!(limiter.snapshot().tokens_available.unwrap() > 59_900.0);
}

#[tokio::test(start_paused = true)]
async fn a_single_call_that_its_item_timeout_cuts_is_counted() {
    let item = one();
    let model = ItemTimeoutLayer::new(Duration::from_secs(1)).layer(Provider::new(Duration::from_secs(9)));
    model
        .oneshot(LlmRequest::for_item(1, Arc::clone(&item)))
        .await
        .unwrap_err();
    let report = item.report();
    assert_eq!((report.calls, report.unknown_usage_calls), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_bare_call_is_never_a_false_zero() {
    let item = one();
    Provider::new(MS)
        .oneshot(LlmRequest::for_item(1, Arc::clone(&item)))
        .await
        .unwrap();
    let report = item.report();
    assert_eq!((report.calls, report.unknown_usage_calls), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn clones_of_a_request_below_the_gate_are_as_many_calls_as_are_sent() {
    let provider = Provider::new(MS);
    let ledger = TokenLedger::new();
    let counted = TokenAccountingLayer::new(ledger.clone()).layer(provider.clone());
    // Two calls below one gate, one after the other and side by side.
    let twice = service_fn(move |request: LlmRequest<u64>| {
        let counted = counted.clone();
        async move {
            counted.clone().oneshot(request.clone()).await?;
            let (one, two) = futures::join!(
                counted.clone().oneshot(request.clone()),
                counted.clone().oneshot(request)
            );
            one.and(two)
        }
    });
    let strategy = RateLimiterLayer::new(RateLimiter::default()).layer(twice);
    let outcomes: Vec<_> = numbers(1).with_strategy(strategy).llm_batch(1).collect().await;
    assert_eq!((provider.calls(), ledger.snapshot().calls), (3, 3));
    let report = outcomes[0].report;
    assert_eq!(
        (report.calls, report.unknown_usage_calls, report.usage.total()),
        (3, 0, 6)
    );
}

/// A judge above the stack makes its own request for the same item.
#[tokio::test(start_paused = true)]
async fn a_second_request_for_an_item_is_in_its_account() {
    let (answerer, judge) = (Provider::new(MS), Provider::new(MS));
    let standard = StandardLayer::new();
    let (model, judging) = (standard.layer(answerer), standard.layer(judge));
    let strategy = service_fn(move |request: LlmRequest<u64>| {
        let (model, judging) = (model.clone(), judging.clone());
        async move {
            let item = Arc::clone(request.item());
            let answer = model.oneshot(request).await?;
            judging.oneshot(LlmRequest::for_item(answer.output, item)).await?;
            Answer::Ok(answer)
        }
    });
    let mut results = numbers(3).with_strategy(strategy).llm_batch(1);
    while results.next().await.is_some() {}
    assert_eq!(
        (results.summary().calls, results.summary().unknown_usage_calls),
        (6, 0)
    );
    assert_eq!(standard.ledger().snapshot().calls, 6);
}

/// The stream is dropped while its items run on other threads: summary and ledger still agree.
#[test]
fn a_stream_dropped_on_several_threads_leaves_equal_books() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .unwrap();
    for round in 0..300_u32 {
        let standard = StandardLayer::new();
        let strategy = standard.layer(service_fn(|request: LlmRequest<u64>| async move {
            for _ in 0..request.index() % 5 {
                tokio::task::yield_now().await;
            }
            let usage = llm_batch::TokenUsage::new(1, 1);
            Ok::<_, LlmError>(llm_batch::LlmResponse::new(1_u64).with_usage(usage))
        }));
        let (handle, ledger) = runtime.block_on(async {
            let mut results = numbers(1_000).with_strategy(strategy).llm_batch(16);
            let handle = results.handle();
            for _ in 0..round % 11 {
                let _ = poll!(results.next());
                tokio::task::yield_now().await;
            }
            drop(results);
            (handle, standard.ledger().clone())
        });
        // Tasks that were aborted end on their own threads.
        let summary = handle.statistics();
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while ledger.snapshot().calls < summary.calls && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        let snapshot = ledger.snapshot();
        assert_eq!(
            (summary.calls, summary.unknown_usage_calls, summary.usage),
            (snapshot.calls, snapshot.unknown_usage_calls, snapshot.usage),
            "round {round}"
        );
    }
}

/// The stream is dropped while a strategy that no layer watches is in the poll in which it got the request.
#[test]
fn a_stream_dropped_inside_the_first_poll_of_a_call_counts_that_call() {
    let wait = Duration::from_secs(20);
    for name in ["item timeout", "fallback", "lazy", "retry"] {
        let (enters, entered) = mpsc::channel::<()>();
        let (leaves, left) = mpsc::channel::<()>();
        let made = Arc::new(AtomicU32::new(0));
        let channels = Arc::new(Mutex::new((enters, left)));
        let counted = Arc::clone(&made);
        let strategy = service_fn(move |_: LlmRequest<u64>| {
            let (made, channels) = (Arc::clone(&counted), Arc::clone(&channels));
            async move {
                // The retry's second attempt is dropped.
                if made.fetch_add(1, Ordering::SeqCst) == 0 && name == "retry" {
                    return Err(LlmError::new(ErrorKind::ServerError, "down"));
                }
                {
                    let channels = channels.lock().expect("one call at a time");
                    let _ = channels.0.send(());
                    let _ = channels.1.recv_timeout(wait);
                }
                std::future::pending::<Answer>().await
            }
        });
        let inside = strategy.clone();
        let strategy: Strategy = match name {
            "item timeout" => ItemTimeoutLayer::new(wait).layer(strategy).boxed_strategy(),
            "fallback" => Fallback::new(strategy.clone(), strategy).boxed_strategy(),
            "lazy" => lazy(move || {
                let made = inside.clone();
                async move { Ok::<_, LlmError>(made) }
            })
            .boxed_strategy(),
            _ => RetryLayer::new(RetryPolicy::new(3).initial_backoff(Duration::ZERO))
                .layer(strategy)
                .boxed_strategy(),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let handle = runtime.block_on(async {
            let mut results = numbers(1).with_strategy(strategy).llm_batch(1);
            let handle = results.handle();
            assert!(poll!(results.next()).is_pending());
            entered.recv_timeout(wait).expect("the call begins");
            drop(results);
            let _ = leaves.send(());
            handle
        });
        let calls = handle.statistics().calls;
        assert_eq!(calls, u64::from(made.load(Ordering::SeqCst)), "{name}");
    }
}
