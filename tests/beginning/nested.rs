//! Nested calls: a drain ends in any nesting of waits.

use std::time::Duration;

use futures::StreamExt;
use futures::future::{Either, join, select};
use futures::stream::FuturesUnordered;
use llm_batch::recipe::Fallback;
use llm_batch::{
    ErrorKind, ItemTimeoutLayer, LlmError, LlmRequest, LlmResponse, LlmStreamExt, RateLimiter,
    RateLimiterLayer, RetryLayer, RetryPolicy, StandardLayer, StopMode, StrategyExt, TokenAccountingLayer,
    TokenLedger, lazy,
};
use tokio::time::{Instant, sleep, timeout};
use tower::limit::ConcurrencyLimit;
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{MS, Provider, Strategy, agent, numbers};

const LONG: Duration = Duration::from_secs(36_000);

fn accounting() -> TokenAccountingLayer {
    TokenAccountingLayer::new(TokenLedger::new())
}

fn gate(cap: usize) -> RateLimiter {
    let gate = RateLimiter::builder().max_in_flight(cap).build();
    gate.expect("no contradictions")
}

/// Drains one item at time `at`. Returns the answers that arrived and the calls that were counted. Fails if the drain takes long.
async fn drained(strategy: Strategy, at: Duration) -> (u32, u64) {
    let mut results = numbers(1)
        .with_strategy(strategy)
        .llm_batch(1)
        .stop_mode(StopMode::Drain);
    let handle = results.handle();
    tokio::spawn(async move {
        sleep(at).await;
        handle.stop();
    });
    let begun = Instant::now();
    let mut answers = 0;
    let whole = async {
        while let Some(outcome) = results.next().await {
            answers += u32::from(outcome.is_ok());
        }
    };
    assert!(timeout(LONG, whole).await.is_ok(), "the drain hangs");
    assert!(begun.elapsed() < Duration::from_secs(60), "the drain is late");
    (answers, results.summary().calls)
}

/// Makes two calls, the second one after 100 ms.
fn twice(stack: Strategy, hedged: bool) -> Strategy {
    service_fn(move |request: LlmRequest<u64>| {
        let (first, second) = (stack.clone(), stack.clone());
        async move {
            let first = Box::pin(first.oneshot(request.clone()));
            let second = Box::pin(async move {
                sleep(100 * MS).await;
                second.oneshot(request).await
            });
            if hedged {
                return match select(first, second).await {
                    Either::Left((answer, _)) | Either::Right((answer, _)) => answer,
                };
            }
            let (first, second) = join(first, second).await;
            first.or(second)
        }
    })
    .boxed_strategy()
}

fn fails_once(call: u32) -> Option<LlmError> {
    (call == 1).then(|| LlmError::new(ErrorKind::ServerError, "down").with_retry_after(300_000 * MS))
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_an_agent_inside_an_outer_call() {
    for (name, outer) in ["accounting", "gate", "standard"].into_iter().zip(0..3) {
        for inner in 0..4 {
            let provider = Provider::new(100 * MS);
            let made = provider.clone();
            let inside = match inner {
                0 => accounting().layer(provider.clone()).boxed_strategy(),
                1 => StandardLayer::new().layer(provider.clone()).boxed_strategy(),
                2 => ItemTimeoutLayer::new(LONG)
                    .layer(provider.clone())
                    .boxed_strategy(),
                _ => lazy(move || {
                    let made = made.clone();
                    async move { Ok::<_, LlmError>(made) }
                })
                .boxed_strategy(),
            };
            let agent = agent(inside);
            let strategy = match outer {
                0 => accounting().layer(agent).boxed_strategy(),
                1 => RateLimiterLayer::new(gate(1)).layer(agent).boxed_strategy(),
                _ => StandardLayer::new().layer(agent).boxed_strategy(),
            };
            let (answers, _) = drained(strategy, 250 * MS).await;
            assert_eq!((provider.calls(), answers), (3, 1), "{name}, {inner}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_a_backoff_inside_an_outer_call() {
    for outer in 0..4 {
        let provider = Provider::new(100 * MS).failing(fails_once);
        let retried = RetryLayer::new(RetryPolicy::new(3)).layer(provider.clone());
        let strategy = match outer {
            0 => accounting().layer(retried).boxed_strategy(),
            1 => RateLimiterLayer::new(gate(1)).layer(retried).boxed_strategy(),
            2 => StandardLayer::new().layer(retried).boxed_strategy(),
            _ => {
                let inner = StandardLayer::new().layer(provider.clone());
                StandardLayer::new().layer(inner).boxed_strategy()
            }
        };
        drained(strategy, 1_000 * MS).await;
        assert_eq!(provider.calls(), 1, "{outer}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_keeps_the_first_of_two_calls_inside_an_outer_call() {
    for hedged in [false, true] {
        for outer in 0..3 {
            let provider = Provider::new(200 * MS);
            let twice = twice(accounting().layer(provider.clone()).boxed_strategy(), hedged);
            let limiter = gate(1);
            let strategy = match outer {
                0 => accounting().layer(twice).boxed_strategy(),
                1 => RateLimiterLayer::new(limiter.clone())
                    .layer(twice)
                    .boxed_strategy(),
                _ => StandardLayer::new().layer(twice).boxed_strategy(),
            };
            let (answers, calls) = drained(strategy, 50 * MS).await;
            assert_eq!(
                (provider.calls(), answers, calls),
                (1, 1, 1),
                "hedged: {hedged}, {outer}"
            );
            let gate = limiter.snapshot();
            assert_eq!((gate.in_flight, gate.waiting), (0, 0));
        }
    }
}

/// A second strategy without a free permit, inside an outer call.
#[tokio::test(start_paused = true)]
async fn a_drain_ends_a_fallback_that_waits_inside_an_outer_call() {
    let first = Provider::new(200 * MS).failing(|_| Some(LlmError::new(ErrorKind::InvalidRequest, "no")));
    let second = ConcurrencyLimit::new(Provider::new(MS), 1);
    let mut taken = second.clone();
    taken.ready().await.expect("one permit is free");
    let strategy = accounting().layer(Fallback::new(first, second));
    drained(strategy.boxed_strategy(), 1_000 * MS).await;
}

/// The item already has an answer, so a drain lets it continue; it then waits for a service that is not ready.
#[tokio::test(start_paused = true)]
async fn a_drain_ends_the_wait_for_a_service_that_is_not_ready() {
    for standard in [false, true] {
        let limited = ConcurrencyLimit::new(Provider::new(MS), 1);
        let inner = match standard {
            true => StandardLayer::new().layer(limited.clone()).boxed_strategy(),
            false => RateLimiterLayer::new(gate(8))
                .layer(limited.clone())
                .boxed_strategy(),
        };
        let strategy = service_fn(move |request: LlmRequest<u64>| {
            let (inner, mut other) = (inner.clone(), limited.clone());
            async move {
                let first = inner.clone().oneshot(request.clone()).await?;
                other.ready().await?;
                tokio::spawn(async move {
                    sleep(LONG).await;
                    drop(other);
                });
                Ok::<_, LlmError>(inner.oneshot(request).await.unwrap_or(first))
            }
        });
        assert_eq!(drained(strategy.boxed_strategy(), 1_000 * MS).await, (1, 1));
    }
}

/// After the deadline a call is refused immediately, even beside another one, and even without a time limit around it.
#[tokio::test(start_paused = true)]
async fn a_call_that_a_deadline_refuses_does_not_wait() {
    let limited = ItemTimeoutLayer::new(1_000 * MS).layer(accounting().layer(Provider::new(MS)));
    let open = accounting().layer(Provider::new(10_000 * MS));
    let strategy = service_fn(move |request: LlmRequest<u64>| {
        let (limited, first, second) = (limited.clone(), open.clone(), open.clone());
        async move {
            limited.oneshot(request.clone()).await?;
            let late = request.clone();
            let all: FuturesUnordered<_> = [
                Box::pin(async move { first.oneshot(request).await }) as futures::future::BoxFuture<'_, _>,
                Box::pin(async move {
                    sleep(2_000 * MS).await;
                    second.oneshot(late).await
                }),
            ]
            .into_iter()
            .collect();
            let answers: Vec<Result<LlmResponse<u64>, LlmError>> = all.collect().await;
            Ok::<_, LlmError>(LlmResponse::new(
                answers.iter().filter(|answer| answer.is_ok()).count() as u64,
            ))
        }
    });
    let outcome = timeout(LONG, numbers(1).with_strategy(strategy).llm_batch(1).next()).await;
    let outcome = outcome.expect("it ends").expect("one item has one outcome");
    assert_eq!(outcome.result.map(|response| response.output).ok(), Some(1));
}

/// A call that an agent cuts has unknown usage, independent of the agent's own error.
#[tokio::test(start_paused = true)]
async fn a_call_that_an_agent_cuts_stays_of_unknown_usage() {
    for outer in [false, true] {
        let ledger = TokenLedger::new();
        let layer = TokenAccountingLayer::new(ledger.clone());
        let inner = layer.layer(Provider::new(10_000 * MS)).boxed_strategy();
        let agent = service_fn(move |request: LlmRequest<u64>| {
            let call = inner.clone().oneshot(request);
            async move {
                drop(timeout(50 * MS, call).await);
                Err::<LlmResponse<u64>, _>(LlmError::new(ErrorKind::BudgetExceeded, "enough"))
            }
        });
        let strategy = match outer {
            true => layer.layer(agent).boxed_strategy(),
            false => agent.boxed_strategy(),
        };
        let mut results = numbers(1).with_strategy(strategy).llm_batch(1);
        while results.next().await.is_some() {}
        let summary = results.summary();
        assert_eq!((summary.calls, summary.unknown_usage_calls), (1, 1));
        let ledger = ledger.snapshot();
        assert_eq!((ledger.calls, ledger.unknown_usage_calls), (1, 1));
    }
}

/// A call that a layer inside has begun counts, even if its connection was refused.
#[tokio::test(start_paused = true)]
async fn a_refused_connection_inside_an_outer_call_is_a_call_everywhere() {
    let provider = Provider::new(MS).failing(|_| {
        let error = LlmError::new(ErrorKind::Connection, "refused");
        Some(error.with_delivery(llm_batch::Delivery::NotSent))
    });
    let ledger = TokenLedger::new();
    let layer = TokenAccountingLayer::new(ledger.clone());
    let strategy = layer.layer(ItemTimeoutLayer::new(LONG).layer(layer.layer(provider)));
    let mut results = numbers(1).with_strategy(strategy).llm_batch(1);
    while results.next().await.is_some() {}
    assert_eq!((results.summary().calls, ledger.snapshot().calls), (1, 1));
}

/// After a stop nothing is sent inside an outer call either, and the outer call is not counted.
#[tokio::test(start_paused = true)]
async fn nothing_is_sent_after_a_stop_inside_an_outer_call() {
    let provider = Provider::new(100 * MS);
    let inner = accounting().layer(provider.clone());
    let strategy = accounting().layer(service_fn(move |request: LlmRequest<u64>| {
        let inner = inner.clone();
        async move {
            sleep(100 * MS).await;
            inner.oneshot(request).await
        }
    }));
    assert_eq!(drained(strategy.boxed_strategy(), 50 * MS).await, (0, 0));
    assert_eq!(provider.calls(), 0);
}

/// Inside an accounting layer a fallback whose first strategy sends nothing makes one call.
#[tokio::test(start_paused = true)]
async fn what_was_not_sent_first_leaves_its_place_to_the_second() {
    let provider = Provider::new(MS);
    let first = service_fn(async |_: LlmRequest<u64>| {
        Err::<LlmResponse<u64>, _>(LlmError::new(ErrorKind::Configuration, "no key"))
    });
    let ledger = TokenLedger::new();
    let strategy = TokenAccountingLayer::new(ledger.clone()).layer(Fallback::new(first, provider.clone()));
    let mut results = numbers(1).with_strategy(strategy).llm_batch(1);
    while results.next().await.is_some() {}
    assert_eq!(
        (provider.calls(), results.summary().calls, ledger.snapshot().calls),
        (1, 1, 1)
    );
}

/// Inside an accounting layer a retry whose first attempt was not sent makes one call.
#[tokio::test(start_paused = true)]
async fn what_was_not_sent_first_leaves_its_place_to_the_next_attempt() {
    let provider = Provider::new(MS).failing(|call| {
        let error = LlmError::new(ErrorKind::Connection, "refused");
        (call == 1).then(|| error.with_delivery(llm_batch::Delivery::NotSent))
    });
    let ledger = TokenLedger::new();
    let retry = RetryLayer::new(RetryPolicy::new(3));
    let strategy = TokenAccountingLayer::new(ledger.clone()).layer(retry.layer(provider.clone()));
    let mut results = numbers(1).with_strategy(strategy).llm_batch(1);
    while let Some(outcome) = results.next().await {
        assert!(outcome.is_ok(), "{:?}", outcome.result);
    }
    assert_eq!(
        (
            provider.answers(),
            results.summary().calls,
            ledger.snapshot().calls
        ),
        (1, 1, 1)
    );
}
