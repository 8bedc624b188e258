//! The recommended stack as a whole.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::{StreamExt, stream};
use llm_batch::layer::ServiceBuilderExt;
use llm_batch::layer::rate_limiter::{RateLimiter, RateLimiterLayer, Refused};
use llm_batch::layer::retry::RetryPolicy;
use llm_batch::layer::standard::StandardLayer;
use llm_batch::layer::timeout::TimedOut;
use llm_batch::layer::token_accounting::TokenLedger;
use llm_batch::{
    ErrorKind, Event, EventKind, Events, LlmError, LlmRequest, LlmResponse, LlmStreamExt, TokenUsage,
    Verdict, WorkItem,
};
use tokio::time::Instant;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

use crate::support::{
    Outcome, Request, Script, Step, answer, invalid, item, request, throttled, unavailable,
};

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn unpaced() -> RateLimiter {
    RateLimiter::builder().without_start_ramp().build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn after_a_throttle_the_gate_waits_and_the_policy_does_not() {
    let one = item();
    let standard = StandardLayer::new().with_limiter(unpaced());
    let script = Script::says([throttled(Some(30)), answer()]);
    standard
        .layer(script.clone())
        .oneshot(request(&one))
        .await
        .unwrap();
    let waits = one.report().waits;
    assert_eq!(waits.backoff, Duration::ZERO);
    assert!(
        waits.cooldown >= seconds(30) && waits.cooldown < seconds(40),
        "{waits:?}"
    );
    assert!(script.times()[1] >= 30.0);
    assert_eq!(script.attempts(), [1, 1]);
    assert_eq!(one.report().throttled_calls, 1);
}

#[tokio::test(start_paused = true)]
async fn no_wait_counts_as_time_of_the_call() {
    // One start a second; each call takes 0.9 s and may take 1 s.
    let limiter = RateLimiter::builder()
        .requests_per_minute(60)
        .without_start_ramp()
        .build()
        .unwrap();
    let standard = StandardLayer::new()
        .with_limiter(limiter)
        .with_call_timeout(seconds(1));
    let model = standard.layer(Script::new(
        (0..20).map(|_| Step::After(Duration::from_millis(900), answer())),
    ));
    let items: Vec<_> = (0..20).map(|_| item()).collect();
    let calls = items.iter().map(|item| model.clone().oneshot(request(item)));
    for result in futures::future::join_all(calls).await {
        result.unwrap();
    }
    for item in &items {
        let report = item.report();
        assert!(report.call_time >= Duration::from_millis(900) && report.call_time < seconds(1));
        assert_eq!(report.waits.backoff, Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn an_item_that_runs_out_of_time_at_the_gate_made_no_second_call() {
    let one = item();
    let standard = StandardLayer::new()
        .with_limiter(unpaced())
        .with_item_timeout(seconds(20));
    let model = standard.layer(Script::says([throttled(None), answer()]));
    // Another item keeps the gate closed for longer than this one has.
    let mut blocked = model.clone();
    let script = Script::says([throttled(Some(60))]);
    let start = Instant::now();
    let other = standard.layer(script);
    let other = tokio::spawn(other.oneshot(request(&item())));
    tokio::task::yield_now().await;
    let error = blocked
        .ready()
        .await
        .unwrap()
        .call(request(&one))
        .await
        .unwrap_err();
    assert_eq!(start.elapsed(), seconds(20));
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    one.signals().settle_call(true, true);
    let report = one.report();
    assert_eq!(
        (report.calls, report.unknown_usage_calls),
        (0, 0),
        "it never left the gate"
    );
    assert_eq!(report.waits.cooldown, seconds(20));
    // The other one failed immediately, as the pause does not fit.
    let error = other.await.unwrap().unwrap_err();
    assert!(error.source().unwrap().source().is_some());
    assert_eq!(standard.ledger().snapshot().calls, 1);
}

/// Fails in turn with every retryable failure, and answers otherwise.
fn shaky() -> impl Service<LlmRequest<u32>, Response = LlmResponse, Error = LlmError, Future: Send>
+ Clone
+ Send
+ Sync
+ 'static {
    let calls = Arc::new(AtomicU32::new(0));
    service_fn(move |_: LlmRequest<u32>| {
        let number = calls.fetch_add(1, Ordering::SeqCst);
        async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            match number % 11 {
                2 => throttled(None),
                5 => invalid(),
                8 => unavailable(),
                _ => answer(),
            }
        }
    })
}

#[tokio::test(start_paused = true)]
async fn a_batch_through_the_stack_accounts_for_every_call() {
    let standard = StandardLayer::new()
        .with_limiter(unpaced())
        .with_retry(RetryPolicy::new(9).max_throttles(99));
    let mut results = stream::iter((0..200_u32).map(WorkItem::new))
        .with_strategy(standard.layer(shaky()))
        .llm_batch(10);
    let (mut items, mut calls, mut unknown, mut usage) = (0, 0, 0, TokenUsage::ZERO);
    while let Some(outcome) = results.next().await {
        assert!(outcome.result.is_ok(), "{:?}", outcome.result);
        items += 1;
        calls += u64::from(outcome.report.calls);
        unknown += u64::from(outcome.report.unknown_usage_calls);
        usage += outcome.report.usage;
    }
    assert_eq!(items, 200);
    let snapshot = standard.ledger().snapshot();
    assert!(calls > 240, "{calls}");
    assert_eq!(
        (snapshot.calls, snapshot.unknown_usage_calls, snapshot.usage),
        (calls, unknown, usage)
    );
    assert_eq!(snapshot.failed_calls, calls - 200);
    let gate = standard.limiter().snapshot();
    assert_eq!(gate.in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn the_builder_makes_the_same_stack() {
    let ledger = TokenLedger::new();
    let model = ServiceBuilder::new()
        .item_timeout(seconds(900))
        .llm_retry(RetryPolicy::new(3))
        .rate_limiter(unpaced())
        .token_accounting(ledger.clone())
        .call_timeout(seconds(5))
        .service(Script::new([Step::Hang, Step::Say(answer())]));
    let one = item();
    model.oneshot(request(&one)).await.unwrap();
    assert_eq!(ledger.snapshot().calls, 2);
    assert_eq!(one.report().call_time, seconds(5));
}

#[tokio::test(start_paused = true)]
async fn the_stack_tells_what_it_does_whether_the_gate_does_or_not() {
    for told_by_gate in [false, true] {
        let events = Events::new();
        let mut receiver = events.subscribe();
        let mut limiter = RateLimiter::builder().without_start_ramp();
        if told_by_gate {
            limiter = limiter.events(&events);
        }
        let standard = StandardLayer::new()
            .with_limiter(limiter.build().unwrap())
            .with_events(&events)
            .with_max_attempts(2);
        let model = standard.layer(Script::says([invalid(), invalid()]));
        let error = model.oneshot(request(&item())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Validation);
        let mut names = Vec::new();
        while let Some(Event { kind, .. }) = receiver.try_recv().unwrap() {
            match kind {
                EventKind::CallStarted { call, attempt } => names.push(format!("start {call}/{attempt}")),
                EventKind::CallFailed { call, .. } => names.push(format!("fail {call}")),
                EventKind::RetryScheduled { attempt, .. } => names.push(format!("retry {attempt}")),
                EventKind::QuotaAdmitted { .. } | EventKind::QuotaSettled { .. } if told_by_gate => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(names, ["start 1/1", "fail 1", "retry 2", "start 2/2", "fail 2"]);
    }
}

#[tokio::test(start_paused = true)]
async fn one_layer_has_one_limiter_and_one_ledger() {
    let standard = StandardLayer::new().with_limiter(unpaced());
    let (first, second) = (
        standard.layer(Script::new([])),
        standard.clone().layer(Script::new([])),
    );
    first.oneshot(request(&item())).await.unwrap();
    second.oneshot(request(&item())).await.unwrap();
    assert_eq!(standard.ledger().snapshot().calls, 2);
    assert_eq!(standard.limiter().snapshot().granted, 2);

    // Another layer, another scope.
    let other = StandardLayer::new();
    assert_eq!(other.limiter().snapshot().granted, 0);
}

#[tokio::test(start_paused = true)]
async fn a_panic_gives_everything_back() {
    let limiter = RateLimiter::builder()
        .max_in_flight(1)
        .without_start_ramp()
        .build()
        .unwrap();
    let standard = StandardLayer::new().with_limiter(limiter);
    let model = standard.layer(service_fn(|request: Request| async move {
        assert!(*request.input() != "panic", "as asked");
        answer() as Outcome
    }));
    let one = item();
    let bad = LlmRequest::for_item("panic", Arc::clone(&one));
    assert!(
        tokio::spawn(model.clone().oneshot(bad))
            .await
            .unwrap_err()
            .is_panic()
    );
    assert_eq!((one.report().calls, one.report().unknown_usage_calls), (1, 1));
    model.oneshot(request(&item())).await.unwrap();
    assert_eq!(standard.limiter().snapshot().in_flight, 0);
}

/// A custom error type passes through the whole stack; it needs one variant for each layer that may fail.
#[tokio::test(start_paused = true)]
async fn an_error_type_of_ones_own_passes_through() {
    #[derive(Debug, thiserror::Error)]
    enum Mine {
        #[error(transparent)]
        Late(#[from] TimedOut),
        #[error(transparent)]
        Refused(#[from] Refused),
        #[error("busy")]
        Busy,
    }
    let verdict = |outcome: Result<&LlmResponse, &Mine>| match outcome {
        Ok(_) => Verdict::SUCCESS,
        Err(Mine::Busy) => Verdict::of_kind(ErrorKind::RateLimit),
        Err(Mine::Late(_)) => Verdict::of_kind(ErrorKind::TimedOut).with_maybe_billed(true),
        Err(Mine::Refused(_)) => Verdict::of_kind(ErrorKind::InvalidRequest),
    };
    let calls = Arc::new(AtomicU32::new(0));
    let strategy = service_fn(move |_: LlmRequest<u32>| {
        let number = calls.fetch_add(1, Ordering::SeqCst);
        async move {
            match number {
                0 => Err(Mine::Busy),
                1 => std::future::pending().await,
                _ => Ok(LlmResponse::new("mine".to_owned())),
            }
        }
    });
    let limiter = RateLimiter::builder()
        .tokens_per_minute(1_000)
        .burst(seconds(60))
        .without_start_ramp()
        .build()
        .unwrap();
    let model = ServiceBuilder::new()
        .item_timeout(seconds(900))
        .llm_retry(RetryPolicy::new(3).classify_with(verdict))
        .layer(
            RateLimiterLayer::new(limiter.clone())
                .classify_with(verdict)
                .estimate_with(|_: &LlmRequest<u32>| 1_000),
        )
        .token_accounting(TokenLedger::new())
        .call_timeout(seconds(5))
        .service(strategy);
    let one = item();
    let answer = model
        .oneshot(LlmRequest::for_item(1, Arc::clone(&one)))
        .await
        .unwrap();
    assert_eq!(answer.output, "mine");
    let report = one.report();
    assert_eq!((report.calls, report.attempts, report.throttled_calls), (3, 2, 1));
    // Only the error could report the usage of the throttled call; the gate knows by the verdict that it is zero.
    assert_eq!(report.unknown_usage_calls, 3);
    assert!(report.waits.tokens < seconds(65), "{:?}", report.waits);
}
