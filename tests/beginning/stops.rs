//! Stops take effect immediately, independent of the consumer, and do not lose paid answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use futures::{StreamExt, poll};
use llm_batch::{
    ErrorKind, LlmError, LlmRequest, LlmStreamExt, RateLimiter, RateLimiterLayer, RetryLayer, RetryPolicy,
    StandardLayer, StopMode, Termination, TokenAccountingLayer, TokenLedger, WorkItem, lazy,
};
use tokio::time::sleep;
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};

use crate::support::{Answer, MS, Provider, numbers};

const LOOP_BODY: Duration = Duration::from_secs(30);

/// The calls that begin while the consumer does not poll, after `stop` took effect at 1 s.
async fn calls_after(
    stop: impl FnOnce(
        llm_batch::LlmBatch<
            llm_batch::batch::WithStrategy<futures::stream::BoxStream<'static, WorkItem<u64>>, Provider2>,
        >,
    ) -> Stopping,
) -> (u32, u32) {
    let provider = Provider::new(100 * MS);
    let strategy = Provider2(provider.clone());
    let Stopping { mut results, by_hand } = stop(numbers(1_000).boxed().with_strategy(strategy).llm_batch(8));
    assert!(poll!(results.next()).is_pending());
    sleep(1_001 * MS).await;
    if let Some(handle) = by_hand {
        handle.stop();
    }
    let before = provider.calls();
    sleep(LOOP_BODY).await;
    (before, provider.calls())
}

struct Stopping {
    results: llm_batch::LlmBatch<
        llm_batch::batch::WithStrategy<futures::stream::BoxStream<'static, WorkItem<u64>>, Provider2>,
    >,
    by_hand: Option<llm_batch::BatchHandle>,
}

/// An agent that calls repeatedly, so that calls continue without the consumer.
#[derive(Clone)]
struct Provider2(Provider);

impl tower::Service<LlmRequest<u64>> for Provider2 {
    type Response = llm_batch::LlmResponse<u64>;
    type Error = LlmError;
    type Future = futures::future::BoxFuture<'static, Answer>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), LlmError>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: LlmRequest<u64>) -> Self::Future {
        let model = StandardLayer::new().layer(self.0.clone());
        Box::pin(async move {
            loop {
                model.clone().oneshot(request.clone()).await?;
            }
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_takes_effect_while_the_consumer_is_busy() {
    let by_hand = calls_after(|results| Stopping {
        by_hand: Some(results.handle()),
        results,
    })
    .await;
    assert_eq!(by_hand.0, by_hand.1, "calls after `stop`");
    let by_time = calls_after(|results| Stopping {
        results: results.batch_timeout(Duration::from_secs(1)),
        by_hand: None,
    })
    .await;
    assert_eq!(by_time.0, by_time.1, "calls after the batch timeout");
    let by_signal = calls_after(|results| Stopping {
        results: results.stop_on(sleep(Duration::from_secs(1))),
        by_hand: None,
    })
    .await;
    assert_eq!(by_signal.0, by_signal.1, "calls after the signal");
    assert!(
        by_hand.0 > 8 && by_time.0 > 8 && by_signal.0 > 8,
        "there were calls before"
    );
}

#[tokio::test(start_paused = true)]
async fn fail_fast_takes_effect_while_the_consumer_is_busy() {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let strategy = StandardLayer::new().layer(service_fn(move |request: LlmRequest<u64>| {
        counted.fetch_add(1, Ordering::SeqCst);
        async move {
            match request.index() {
                0 => {
                    sleep(5 * MS).await;
                    Err::<llm_batch::LlmResponse<u64>, _>(LlmError::new(ErrorKind::InvalidRequest, "no"))
                }
                _ => {
                    sleep(10 * MS).await;
                    Err(LlmError::validation("again"))
                }
            }
        }
    }));
    let mut results = numbers(3)
        .with_strategy(strategy)
        .llm_batch(3)
        .stop_when([ErrorKind::InvalidRequest]);
    assert!(poll!(results.next()).is_pending());
    sleep(LOOP_BODY).await;
    assert_eq!(calls.load(Ordering::SeqCst), 3, "none of the others asks again");
    assert_eq!(results.handle().termination(), Some(Termination::FailFast));
    assert_eq!(results.count().await, 3);
}

#[tokio::test(start_paused = true)]
async fn a_drain_keeps_answers_that_are_being_worked_on() {
    for stop_at in [50, 120] {
        let provider = Provider::new(100 * MS);
        let strategy = StandardLayer::new()
            .layer(provider.clone())
            .then(|answer: Answer| async move {
                sleep(50 * MS).await;
                answer
            });
        let mut results = numbers(4).with_strategy(strategy).llm_batch(4);
        let handle = results.handle();
        assert!(poll!(results.next()).is_pending());
        sleep(stop_at * MS).await;
        handle.stop();
        let outcomes: Vec<_> = results.collect().await;
        assert_eq!(provider.answers(), 4);
        assert!(
            outcomes.iter().all(llm_batch::Outcome::is_ok),
            "stopped at {stop_at} ms"
        );
    }
}

/// An agent whose second call is refused at the gate still returns its first answer.
#[tokio::test(start_paused = true)]
async fn an_agent_that_waits_for_its_second_call_keeps_its_first_answer() {
    let provider = Provider::new(100 * MS);
    let limiter = RateLimiter::builder().requests_per_minute(1).build().unwrap();
    let model = StandardLayer::new().with_limiter(limiter).layer(provider.clone());
    let agent = service_fn(move |request: LlmRequest<u64>| {
        let model = model.clone();
        async move {
            let first = model.clone().oneshot(request.clone()).await?;
            match model.oneshot(request).await {
                Ok(second) => Ok(second),
                Err(error) if error.kind() == ErrorKind::Aborted => Ok(first),
                Err(error) => Err(error),
            }
        }
    });
    let mut results = numbers(1).with_strategy(agent).llm_batch(1);
    let handle = results.handle();
    assert!(poll!(results.next()).is_pending());
    sleep(1_000 * MS).await;
    handle.stop();
    let outcomes: Vec<_> = results.collect().await;
    assert!(outcomes[0].is_ok());
    assert_eq!((provider.calls(), outcomes[0].report.calls), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn nothing_begins_after_a_stop_from_any_layer() {
    type Wait = fn(Provider) -> llm_batch::BoxStrategy<u64, u64>;
    use llm_batch::StrategyExt as _;
    let stacks: [(&str, Wait); 4] = [
        ("a strategy that is being made", |provider| {
            lazy(move || {
                let provider = provider.clone();
                async move {
                    sleep(1_000 * MS).await;
                    Ok::<_, LlmError>(provider)
                }
            })
            .boxed_strategy()
        }),
        ("a lookup before the stack", |provider| {
            let model = StandardLayer::new().layer(provider);
            service_fn(move |request: LlmRequest<u64>| {
                let model = model.clone();
                async move {
                    sleep(1_000 * MS).await;
                    model.oneshot(request).await
                }
            })
            .boxed_strategy()
        }),
        ("a gate inside a gate", |provider| {
            let inner = RateLimiter::builder().requests_per_minute(1).build().unwrap();
            // Its only permit is taken.
            let taken = inner.acquire(1);
            let _ = futures::FutureExt::now_or_never(taken).unwrap().unwrap().start();
            ServiceBuilder::new()
                .layer(RateLimiterLayer::new(RateLimiter::default()))
                .layer(RateLimiterLayer::new(inner))
                .service(provider)
                .boxed_strategy()
        }),
        ("a lookup before an accounting layer", |provider| {
            let counted = TokenAccountingLayer::new(TokenLedger::new()).layer(provider);
            service_fn(move |request: LlmRequest<u64>| {
                let counted = counted.clone();
                async move {
                    sleep(1_000 * MS).await;
                    counted.oneshot(request).await
                }
            })
            .boxed_strategy()
        }),
    ];
    for (name, stack) in stacks {
        let provider = Provider::new(10 * MS);
        let mut results = numbers(5).with_strategy(stack(provider.clone())).llm_batch(5);
        let handle = results.handle();
        assert!(poll!(results.next()).is_pending());
        sleep(500 * MS).await;
        handle.stop();
        let outcomes: Vec<_> = results.collect().await;
        assert_eq!(outcomes.len(), 5, "{name}");
        assert_eq!(provider.calls(), 0, "{name}");
        assert!(outcomes.iter().all(|outcome| outcome.report.calls == 0), "{name}");
    }
}

/// Retries of a bare strategy race with a stop on another thread. A call that had begun right before the stop may reach the strategy
/// right after it; a second one of the same item must not.
#[test]
fn no_retry_begins_beside_a_stop() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    for round in 0..200_u64 {
        let stopped = Arc::new(AtomicBool::new(false));
        let late: Arc<[AtomicU32; 8]> = Arc::default();
        let (seen, counted) = (Arc::clone(&stopped), Arc::clone(&late));
        let policy = RetryPolicy::new(1_000).initial_backoff(Duration::ZERO);
        let strategy = RetryLayer::new(policy).layer(service_fn(move |request: LlmRequest<u64>| {
            if seen.load(Ordering::SeqCst) {
                counted[usize::try_from(request.index()).unwrap()].fetch_add(1, Ordering::SeqCst);
            }
            async {
                tokio::task::yield_now().await;
                Err::<llm_batch::LlmResponse<u64>, _>(LlmError::transient("again"))
            }
        }));
        let results = numbers(8).with_strategy(strategy).llm_batch(8);
        let handle = results.handle();
        let outcomes = runtime.block_on(async move {
            let outcomes = tokio::spawn(results.collect::<Vec<_>>());
            for _ in 0..round % 7 {
                tokio::task::yield_now().await;
            }
            handle.stop();
            stopped.store(true, Ordering::SeqCst);
            outcomes.await.unwrap()
        });
        assert!(outcomes.len() <= 8);
        assert!(
            late.iter().all(|late| late.load(Ordering::SeqCst) <= 1),
            "round {round}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_finished_batch_is_complete_whatever_its_consumer_does() {
    let mut results = numbers(3)
        .with_strategy(Provider::new(10 * MS))
        .llm_batch(3)
        .batch_timeout(Duration::from_secs(1));
    assert!(results.next().await.is_some());
    // Two outcomes are not taken yet when the time is over.
    sleep(Duration::from_secs(2)).await;
    assert_eq!(results.by_ref().count().await, 2);
    assert_eq!(results.summary().termination, Some(Termination::Completed));
}

#[tokio::test(start_paused = true)]
async fn work_of_completion_runs_when_the_stream_is_left_early() {
    let done = Arc::new(AtomicBool::new(false));
    let at_the_end = |done: &Arc<AtomicBool>| {
        let done = Arc::clone(done);
        async move { done.store(true, Ordering::SeqCst) }
    };
    // Dropped: in a task, after the items.
    let provider = Provider::new(1_000 * MS);
    let mut results = numbers(9)
        .with_strategy(provider.clone())
        .llm_batch(3)
        .on_complete(at_the_end(&done));
    assert!(poll!(results.next()).is_pending());
    sleep(MS).await;
    drop(results);
    sleep(MS).await;
    assert!(done.swap(false, Ordering::SeqCst));
    assert_eq!((provider.calls(), provider.answers()), (3, 0));
    // Closed: awaited.
    let mut results = numbers(9)
        .with_strategy(provider.clone())
        .llm_batch(3)
        .on_complete(at_the_end(&done));
    let handle = results.handle();
    assert!(poll!(results.next()).is_pending());
    results.close().await;
    assert!(done.load(Ordering::SeqCst));
    assert_eq!(handle.termination(), Some(Termination::Stopped));
    assert_eq!(handle.statistics().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_cancel_ends_even_what_is_answered() {
    let strategy = StandardLayer::new()
        .layer(Provider::new(10 * MS))
        .then(|answer: Answer| async move {
            sleep(LOOP_BODY).await;
            answer
        });
    let mut results = numbers(1)
        .with_strategy(strategy)
        .llm_batch(1)
        .stop_mode(StopMode::Drain);
    let handle = results.handle();
    assert!(poll!(results.next()).is_pending());
    sleep(20 * MS).await;
    handle.stop();
    handle.cancel();
    let started = tokio::time::Instant::now();
    let outcomes: Vec<_> = results.collect().await;
    assert_eq!(started.elapsed(), Duration::ZERO);
    assert_eq!(
        outcomes[0].result.as_ref().unwrap_err().kind(),
        ErrorKind::Aborted
    );
    assert_eq!(outcomes[0].report.usage.total(), 2, "its call is in the report");
}
