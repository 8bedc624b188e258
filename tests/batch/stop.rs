//! Early ends: finished items, aborted items, and reports.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{StreamExt, poll, stream};
use llm_batch::layer::rate_limiter::{RateLimiter, RateLimiterLayer};
use llm_batch::layer::retry::{RetryLayer, RetryPolicy};
use llm_batch::layer::token_accounting::{TokenAccountingLayer, TokenLedger};
use llm_batch::{
    BoxError, Disposition, ErrorKind, LlmError, LlmRequest, LlmResponse, LlmStreamExt, StopMode, Termination,
    TokenUsage,
};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, sleep};
use tower::{Layer, Service, ServiceBuilder, service_fn};

use crate::support::{Answer, Sleeper, all, indices, settle};

/// A simple gate: one call at a time, 100 ms each; the others wait and record it.
#[derive(Clone)]
struct OneAtATime {
    permits: Arc<Semaphore>,
    calls: Arc<AtomicUsize>,
}

impl OneAtATime {
    fn new() -> Self {
        Self {
            permits: Arc::new(Semaphore::new(1)),
            calls: Arc::default(),
        }
    }
}

impl Service<LlmRequest> for OneAtATime {
    type Response = LlmResponse;
    type Error = LlmError;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), LlmError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: LlmRequest) -> Self::Future {
        let hold = request.context_mut().hold();
        let Self { permits, calls } = self.clone();
        Box::pin(async move {
            let _permit = permits.acquire().await;
            let call = request.begin_call()?;
            drop(hold);
            calls.fetch_add(1, Ordering::SeqCst);
            sleep(Duration::from_millis(100)).await;
            call.observe(Some(TokenUsage::new(1, 1)));
            Ok(LlmResponse::new(String::new()))
        })
    }
}

fn kinds<C>(outcomes: &[llm_batch::Outcome<LlmResponse, LlmError, C>]) -> Vec<Option<ErrorKind>> {
    outcomes
        .iter()
        .map(|outcome| outcome.result.as_ref().err().map(LlmError::kind))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_drain_lets_calls_finish_and_aborts_what_waits() {
    let gate = OneAtATime::new();
    let calls = Arc::clone(&gate.calls);
    let mut results = stream::iter(vec!["hi"; 10]).with_strategy(gate).llm_batch(4);
    let handle = results.handle();
    assert!(poll!(results.next()).is_pending());
    sleep(Duration::from_millis(50)).await;
    handle.stop();
    let outcomes = all(results).await;
    assert_eq!(outcomes.len(), 4);
    let finished: Vec<_> = outcomes.iter().filter(|outcome| outcome.is_ok()).collect();
    assert_eq!(finished.len(), 1);
    assert_eq!(finished[0].report.usage, TokenUsage::new(1, 1));
    for outcome in outcomes.iter().filter(|outcome| !outcome.is_ok()) {
        assert_eq!(outcome.result.as_ref().unwrap_err().kind(), ErrorKind::Aborted);
        assert_eq!((outcome.report.calls, outcome.report.unknown_usage_calls), (0, 0));
    }
    assert_eq!(calls.load(Ordering::SeqCst), 1, "no call starts after a stop");
    let summary = handle.statistics();
    assert_eq!(summary.termination, Some(Termination::Stopped));
    assert_eq!((summary.accepted, summary.not_reached), (4, Some(6)));
}

/// Through the standard layers: one call is under way, one item backs off, the others wait at the gate.
#[tokio::test(start_paused = true)]
async fn a_drain_ends_waits_at_the_gate_and_in_backoff() {
    let limiter = RateLimiter::builder().max_in_flight(1).build().unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let model = service_fn(move |request: LlmRequest| {
        counted.fetch_add(1, Ordering::SeqCst);
        async move {
            if request.index() == 0 {
                return Err(LlmError::new(ErrorKind::ServerError, "oops"));
            }
            sleep(Duration::from_millis(1_000)).await;
            Ok(LlmResponse::new(String::new()).with_usage(TokenUsage::new(3, 4)))
        }
    });
    let strategy = ServiceBuilder::new()
        .layer(RetryLayer::new(
            RetryPolicy::new(3).initial_backoff(Duration::from_secs(60)),
        ))
        .layer(RateLimiterLayer::new(limiter.clone()))
        .layer(TokenAccountingLayer::new(TokenLedger::new()))
        .service(model);
    let mut results = stream::iter(vec!["hi"; 10])
        .with_strategy(strategy)
        .llm_batch(4)
        .in_order();
    let handle = results.handle();
    assert!(poll!(results.next()).is_pending());
    sleep(Duration::from_millis(500)).await;
    assert_eq!(limiter.snapshot().in_flight, 1);
    handle.stop();
    let started = Instant::now();
    let outcomes = all(results).await;
    assert!(started.elapsed() < Duration::from_millis(600));
    let aborted = Some(ErrorKind::Aborted);
    assert_eq!(kinds(&outcomes), [aborted, None, aborted, aborted]);
    let accounts: Vec<_> = outcomes
        .iter()
        .map(|outcome| (outcome.report.calls, outcome.report.unknown_usage_calls))
        .collect();
    // A server error may have been billed; waiting costs nothing.
    assert_eq!(accounts, [(1, 1), (1, 0), (0, 0), (0, 0)]);
    assert_eq!(outcomes[1].report.usage, TokenUsage::new(3, 4));
    assert_eq!(calls.load(Ordering::SeqCst), 2);
    settle().await;
    let snapshot = limiter.snapshot();
    assert_eq!((snapshot.waiting, snapshot.in_flight), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_cancel_aborts_everything_at_once() {
    let gate = OneAtATime::new();
    let mut results = stream::iter(vec!["hi"; 10])
        .with_strategy(gate)
        .llm_batch(4)
        .stop_mode(StopMode::Cancel);
    let handle = results.handle();
    assert!(poll!(results.next()).is_pending());
    sleep(Duration::from_millis(50)).await;
    let stopped = Instant::now();
    handle.stop();
    let outcomes = all(results).await;
    assert_eq!(stopped.elapsed(), Duration::ZERO);
    assert_eq!(kinds(&outcomes), [Some(ErrorKind::Aborted); 4]);
    let unknown: u32 = outcomes.iter().map(|o| o.report.unknown_usage_calls).sum();
    assert_eq!(unknown, 1, "the call that was cut may be billed");
}

#[tokio::test(start_paused = true)]
async fn a_drain_can_be_cut_short() {
    let strategy = Sleeper::millis(60_000);
    let mut results = stream::repeat("hi").with_strategy(strategy).llm_batch(3);
    let handle = results.handle();
    assert!(poll!(results.next()).is_pending());
    settle().await;
    handle.stop();
    assert!(poll!(results.next()).is_pending());
    let stopped = Instant::now();
    handle.cancel();
    let outcomes = all(results).await;
    assert_eq!(stopped.elapsed(), Duration::ZERO);
    assert_eq!(kinds(&outcomes), [Some(ErrorKind::Aborted); 3]);
    assert_eq!(handle.termination(), Some(Termination::Stopped));
}

/// Without layers it is unknown whether a call is running; it counts as running, since aborting it would waste it.
#[tokio::test(start_paused = true)]
async fn a_drain_lets_bare_strategies_finish() {
    let strategy = Sleeper::millis(100);
    let mut results = stream::repeat("hi").with_strategy(strategy).llm_batch(3);
    let handle = results.handle();
    assert!(poll!(results.next()).is_pending());
    settle().await;
    handle.stop();
    assert_eq!(kinds(&all(results).await), [None; 3]);
}

/// Items that wait for a permit in `poll_ready` do not have a call yet.
#[tokio::test(start_paused = true)]
async fn a_drain_aborts_items_that_wait_to_become_ready() {
    let limit = tower::limit::GlobalConcurrencyLimitLayer::new(1);
    let strategy = limit.layer(Sleeper::millis(100));
    let mut results = stream::repeat("hi").with_strategy(strategy).llm_batch(3);
    let handle = results.handle();
    assert!(poll!(results.next()).is_pending());
    settle().await;
    handle.stop();
    let outcomes = all(results).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    let calls: u32 = outcomes.iter().map(|outcome| outcome.report.calls).sum();
    assert_eq!(calls, 1);
}

#[tokio::test(start_paused = true)]
async fn no_retry_starts_after_a_stop() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    // One item is in its call when the stop comes, the other in its backoff.
    let model = service_fn(move |request: LlmRequest| {
        counted.fetch_add(1, Ordering::SeqCst);
        async move {
            sleep(Duration::from_millis(if request.index() == 0 {
                10
            } else {
                1_000
            }))
            .await;
            Err::<LlmResponse, _>(LlmError::new(ErrorKind::ServerError, "oops"))
        }
    });
    let strategy = ServiceBuilder::new()
        .layer(RetryLayer::new(
            RetryPolicy::new(10).initial_backoff(Duration::from_secs(60)),
        ))
        .service(model);
    let mut results = stream::iter(["a", "b"])
        .with_strategy(strategy)
        .llm_batch(2)
        .in_order();
    let handle = results.handle();
    assert!(poll!(results.next()).is_pending());
    sleep(Duration::from_millis(100)).await;
    handle.stop();
    let outcomes = all(results).await;
    assert_eq!(
        kinds(&outcomes),
        [Some(ErrorKind::Aborted), Some(ErrorKind::ServerError)]
    );
    assert_eq!(calls.load(Ordering::SeqCst), 2);
    assert_eq!([outcomes[0].report.calls, outcomes[1].report.calls], [1, 1]);
}

/// A retry without a wait, in a foreign policy that is unaware of stops, is ended as soon as it is seen.
#[tokio::test(start_paused = true)]
async fn a_foreign_retry_loop_ends_when_its_call_has() {
    let strategy = service_fn(async |request: LlmRequest| {
        loop {
            let mut attempt = request.clone();
            let _call = attempt.begin_call()?;
            sleep(Duration::from_millis(10)).await;
            drop(_call);
            tokio::task::yield_now().await;
        }
        #[allow(unreachable_code)]
        Ok::<LlmResponse, LlmError>(LlmResponse::new(String::new()))
    });
    let mut results = stream::iter(["a"]).with_strategy(strategy).llm_batch(1);
    let handle = results.handle();
    assert!(poll!(results.next()).is_pending());
    sleep(Duration::from_millis(25)).await;
    handle.stop();
    let outcomes = all(results).await;
    assert_eq!(kinds(&outcomes), [Some(ErrorKind::Aborted)]);
    assert_eq!(outcomes[0].report.calls, 3);
}

#[tokio::test(start_paused = true)]
async fn the_batch_timeout_ends_a_source_that_never_ends() {
    let results = stream::repeat("hi")
        .with_strategy(Sleeper::millis(100))
        .llm_batch(2)
        .batch_timeout(Duration::from_millis(450));
    let handle = results.handle();
    let started = Instant::now();
    let outcomes = all(results).await;
    // Four full waves, and a fifth whose calls finish.
    assert_eq!(
        (outcomes.len(), started.elapsed()),
        (10, Duration::from_millis(500))
    );
    let summary = handle.statistics();
    assert_eq!(summary.termination, Some(Termination::BatchTimeout));
    assert_eq!(summary.not_reached, None, "an endless source cannot tell");
}

#[tokio::test(start_paused = true)]
async fn the_batch_timeout_ends_a_source_that_is_silent() {
    let source = stream::iter(["a"]).chain(stream::pending());
    let results = source
        .with_strategy(Sleeper::millis(1))
        .llm_batch(2)
        .batch_timeout(Duration::from_secs(5));
    let outcomes = all(results).await;
    assert_eq!(kinds(&outcomes), [None]);
}

#[tokio::test(start_paused = true)]
async fn fail_fast_goes_by_the_final_failure() {
    let strategy = service_fn(async |request: LlmRequest| {
        sleep(Duration::from_millis(10 * request.index())).await;
        match request.index() {
            1 => Err(LlmError::new(ErrorKind::ContentFilter, "no")),
            3 => Err(LlmError::new(ErrorKind::Authentication, "bad key")),
            _ => Ok(LlmResponse::new(String::new())),
        }
    });
    let results = stream::iter(vec!["hi"; 100])
        .with_strategy(strategy)
        .llm_batch(1)
        .stop_when([ErrorKind::Authentication, ErrorKind::InsufficientBalance]);
    let handle = results.handle();
    let outcomes = all(results).await;
    assert_eq!(
        kinds(&outcomes),
        [
            None,
            Some(ErrorKind::ContentFilter),
            None,
            Some(ErrorKind::Authentication)
        ]
    );
    let summary = handle.statistics();
    assert_eq!(summary.termination, Some(Termination::FailFast));
    assert_eq!(summary.not_reached, Some(96));
}

/// A kind that usually concerns every item does not stop the batch if the error states that it concerns its own item only.
#[tokio::test(start_paused = true)]
async fn a_failure_of_one_item_alone_does_not_stop_the_batch() {
    let strategy = service_fn(async |request: LlmRequest| {
        let missing = LlmError::new(ErrorKind::NotFound, "no such model");
        match request.index() {
            1 => Err(BoxError::from(missing.with_disposition(Disposition::Fatal))),
            3 => Err(BoxError::from(missing)),
            _ => Ok(LlmResponse::new(String::new())),
        }
    });
    let results = stream::iter(vec!["hi"; 100])
        .with_strategy(strategy)
        .llm_batch(1)
        .stop_when([ErrorKind::NotFound]);
    let handle = results.handle();
    let outcomes: Vec<_> = results.collect().await;
    let failed: Vec<_> = outcomes.iter().map(|outcome| outcome.is_err()).collect();
    assert_eq!(failed, [false, true, false, true]);
    assert_eq!(handle.termination(), Some(Termination::FailFast));
}

#[tokio::test(start_paused = true)]
async fn a_signal_stops_the_batch_and_the_first_cause_is_kept() {
    let signal = Arc::new(Notify::new());
    let waits = Arc::clone(&signal);
    let results = stream::repeat("hi")
        .with_strategy(Sleeper::millis(100))
        .llm_batch(1)
        .batch_timeout(Duration::from_millis(220))
        .stop_on(async move { waits.notified().await });
    let handle = results.handle();
    let consumer = tokio::spawn(all(results));
    sleep(Duration::from_millis(210)).await;
    signal.notify_one();
    let outcomes = consumer.await.unwrap();
    assert_eq!(indices(&outcomes), [0, 1, 2]);
    assert_eq!(handle.termination(), Some(Termination::Stopped));
}

#[tokio::test(start_paused = true)]
async fn a_stop_after_the_end_changes_nothing() {
    let results = stream::iter(["a"]).with_strategy(Sleeper::millis(1)).llm_batch(1);
    let handle = results.handle();
    assert_eq!(all(results).await.len(), 1);
    handle.stop();
    handle.cancel();
    assert_eq!(handle.termination(), Some(Termination::Completed));
}

#[tokio::test(start_paused = true)]
async fn the_completion_work_runs_once_before_the_stream_ends() {
    for stopped in [false, true] {
        let runs = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&runs);
        let mut results = stream::iter(["a", "b"])
            .with_strategy(Sleeper::millis(1))
            .llm_batch(1)
            .on_complete(async move {
                sleep(Duration::from_millis(5)).await;
                counted.fetch_add(1, Ordering::SeqCst);
            });
        let handle = results.handle();
        assert!(results.next().await.is_some());
        if stopped {
            handle.stop();
        } else {
            assert!(results.next().await.is_some());
        }
        assert_eq!(runs.load(Ordering::SeqCst), 0);
        assert!(results.next().await.is_none());
        assert!(results.next().await.is_none());
        assert_eq!(runs.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn the_local_form_drains_and_cancels_too() {
    for mode in [StopMode::Drain, StopMode::Cancel] {
        let gate = OneAtATime::new();
        let mut results = stream::iter(vec!["hi"; 10])
            .with_strategy(gate)
            .llm_batch_local(4)
            .stop_mode(mode);
        let handle = results.handle();
        assert!(poll!(results.next()).is_pending());
        handle.stop();
        let outcomes: Vec<_> = results.collect().await;
        let finished = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        assert_eq!(
            (outcomes.len(), finished),
            (4, usize::from(mode == StopMode::Drain))
        );
    }
}
