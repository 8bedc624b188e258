//! Strategies that make several calls for one item: a stop keeps their results, and each call is counted.

use std::time::Duration;

use futures::StreamExt;
use futures::future::{Either, select};
use llm_batch::recipe::Fallback;
use llm_batch::{
    ErrorKind, ItemTimeoutLayer, LlmError, LlmRequest, LlmResponse, LlmStreamExt, RateLimiter,
    RateLimiterLayer, RetryLayer, RetryPolicy, StandardLayer, StopMode, StrategyExt, TokenAccountingLayer,
    TokenLedger, lazy,
};
use tokio::time::sleep;
use tower::limit::ConcurrencyLimit;
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::support::{MS, Provider, Strategy, agent, numbers};

pub(crate) trait Model:
    Service<LlmRequest<u64>, Response = LlmResponse<u64>, Error = LlmError, Future: Send + 'static>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> Model for S where
    S: Service<LlmRequest<u64>, Response = LlmResponse<u64>, Error = LlmError, Future: Send + 'static>
        + Clone
        + Send
        + Sync
        + 'static
{
}

const LONG: Duration = Duration::from_secs(3_600);

pub(crate) fn gate() -> RateLimiter {
    RateLimiter::builder()
        .build()
        .expect("no settings, no contradictions")
}

/// Each layer that begins calls, holds them back, or passes them on.
pub(crate) fn stacks(provider: impl Model) -> Vec<(&'static str, Strategy)> {
    let made = provider.clone();
    vec![
        (
            "item timeout",
            ItemTimeoutLayer::new(LONG)
                .layer(provider.clone())
                .boxed_strategy(),
        ),
        (
            "accounting",
            TokenAccountingLayer::new(TokenLedger::new())
                .layer(provider.clone())
                .boxed_strategy(),
        ),
        (
            "gate",
            RateLimiterLayer::new(gate())
                .layer(provider.clone())
                .boxed_strategy(),
        ),
        (
            "standard",
            StandardLayer::new()
                .with_limiter(gate())
                .layer(provider.clone())
                .boxed_strategy(),
        ),
        (
            "retry",
            RetryLayer::new(RetryPolicy::new(3))
                .layer(provider.clone())
                .boxed_strategy(),
        ),
        (
            "fallback",
            Fallback::new(provider.clone(), provider).boxed_strategy(),
        ),
        (
            "lazy",
            lazy(move || {
                let made = made.clone();
                async move { Ok::<_, LlmError>(made) }
            })
            .boxed_strategy(),
        ),
    ]
}

/// Runs `count` items concurrently and drains them at time `at`. Returns the answers that arrived and the calls that were counted.
async fn drained(strategy: Strategy, count: u64, at: Duration) -> (u32, u32) {
    let mut results = numbers(count)
        .with_strategy(strategy)
        .llm_batch(8)
        .stop_mode(StopMode::Drain);
    let handle = results.handle();
    tokio::spawn(async move {
        sleep(at).await;
        handle.stop();
    });
    let (mut answers, mut calls) = (0, 0);
    while let Some(outcome) = results.next().await {
        answers += u32::from(outcome.is_ok());
        calls += outcome.report.calls;
    }
    (answers, calls)
}

/// Makes a second call after 100 ms, takes the first answer, and works on it.
fn hedge(stack: Strategy, work: Duration) -> Strategy {
    service_fn(move |request: LlmRequest<u64>| {
        let (first, second) = (stack.clone(), stack.clone());
        async move {
            let first = first.oneshot(request.clone());
            let second = async move {
                sleep(100 * MS).await;
                second.oneshot(request).await
            };
            let answer = match select(Box::pin(first), Box::pin(second)).await {
                Either::Left((answer, _)) | Either::Right((answer, _)) => answer?,
            };
            sleep(work).await;
            Ok::<_, LlmError>(answer)
        }
    })
    .boxed_strategy()
}

#[tokio::test(start_paused = true)]
async fn a_drain_keeps_the_first_call_of_a_hedge() {
    for (work, watched) in [
        (Duration::ZERO, true),
        (Duration::ZERO, false),
        (50 * MS, true),
        (50 * MS, false),
    ] {
        for index in 0..stacks(Provider::new(MS)).len() {
            let provider = Provider::new(200 * MS);
            let mut stacks = match watched {
                true => stacks(TokenAccountingLayer::new(TokenLedger::new()).layer(provider.clone())),
                false => stacks(provider.clone()),
            };
            let (name, stack) = stacks.swap_remove(index);
            let (answers, calls) = drained(hedge(stack, work), 4, 50 * MS).await;
            let case = format!("{name}, {work:?}, watched: {watched}");
            assert_eq!((provider.calls(), answers), (4, 4), "{case}");
            assert_eq!(calls, 4, "{case}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_keeps_what_it_has_at_a_drain_and_each_call_is_counted() {
    for (stop, made) in [(250 * MS, 3), (LONG, 5)] {
        for index in 0..stacks(Provider::new(MS)).len() {
            let provider = Provider::new(100 * MS);
            let (name, stack) = stacks(provider.clone()).swap_remove(index);
            let (answers, calls) = drained(agent(stack), 1, stop).await;
            assert_eq!(
                (provider.calls(), answers),
                (made, 1),
                "{name}, stopped after {stop:?}"
            );
            assert_eq!(calls, made, "{name}, stopped after {stop:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_keeps_what_it_has_when_a_stop_comes_in_a_backoff() {
    for name in ["standard", "retry"] {
        let provider = Provider::new(100 * MS).failing(|call| {
            (call == 3).then(|| LlmError::new(ErrorKind::ServerError, "down").with_retry_after(LONG))
        });
        let stack = if name == "standard" {
            StandardLayer::new().layer(provider.clone()).boxed_strategy()
        } else {
            RetryLayer::new(RetryPolicy::new(3))
                .layer(provider.clone())
                .boxed_strategy()
        };
        let (answers, calls) = drained(agent(stack), 1, 1_000 * MS).await;
        assert_eq!((provider.calls(), answers, calls), (3, 1, 3), "{name}");
    }
}

/// The second attempt of one item waits behind the first of another for the one permit when the stop comes.
#[tokio::test(start_paused = true)]
async fn a_second_attempt_that_waits_for_a_permit_is_not_sent_after_a_stop() {
    for watched in [false, true] {
        for mode in [StopMode::Drain, StopMode::Cancel] {
            let provider = Provider::new(10_000 * MS)
                .failing(|call| (call == 1).then(|| LlmError::new(ErrorKind::ServerError, "down")));
            let limited = ConcurrencyLimit::new(provider.clone(), 1);
            let retry = RetryLayer::new(RetryPolicy::new(3));
            let strategy = match watched {
                true => retry
                    .layer(TokenAccountingLayer::new(TokenLedger::new()).layer(limited))
                    .boxed_strategy(),
                false => ItemTimeoutLayer::new(LONG)
                    .layer(retry.layer(limited))
                    .boxed_strategy(),
            };
            let mut results = numbers(2).with_strategy(strategy).llm_batch(2).stop_mode(mode);
            let handle = results.handle();
            tokio::spawn(async move {
                sleep(15_000 * MS).await;
                handle.stop();
            });
            while results.next().await.is_some() {}
            assert_eq!(provider.calls(), 2, "watched: {watched}, {mode:?}");
            assert_eq!(results.summary().calls, 2, "watched: {watched}, {mode:?}");
        }
    }
}
