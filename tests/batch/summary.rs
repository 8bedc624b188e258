//! The numbers of the summary that are used to choose limits.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{StreamExt, stream};
use llm_batch::batch::{Bottleneck, BottleneckCause, FoundLimit};
use llm_batch::layer::retry::{RetryLayer, RetryPolicy};
use llm_batch::layer::timeout::ItemTimeoutLayer;
use llm_batch::{
    BatchSummary, ErrorKind, Lazy, LlmError, LlmRequest, LlmResponse, LlmStreamExt, RateLimiter,
    StandardLayer, StrategyExt, WaitReason, lazy,
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt, service_fn};

/// One item, three calls of 10 ms, 20 ms and 3 s: the percentiles are those of calls, not of items.
#[tokio::test(start_paused = true)]
async fn percentiles_are_of_calls() {
    let calls = AtomicU64::new(0);
    let calls = Arc::new(calls);
    let model = service_fn(move |_: LlmRequest| {
        let number = calls.fetch_add(1, Ordering::Relaxed) % 3;
        async move {
            sleep(Duration::from_millis([10, 20, 3_000][number as usize])).await;
            match number {
                2 => Ok(LlmResponse::new("fine".to_owned())),
                _ => Err(LlmError::validation("again")),
            }
        }
    });
    let mut results = stream::iter(["a"; 10])
        .with_strategy(StandardLayer::new().layer(model))
        .llm_batch(1);
    while results.next().await.is_some() {}
    let summary = results.summary();
    assert_eq!(summary.calls, 30);
    let percentiles = summary.call_percentiles.unwrap();
    let near = |found: Duration, expected: u64| {
        let expected = Duration::from_millis(expected);
        assert!(
            found.abs_diff(expected) <= expected / 50,
            "{found:?}, not {expected:?}"
        );
    };
    near(percentiles.p50, 20);
    near(percentiles.p95, 3_000);
    near(percentiles.p99, 3_000);
}

/// Time that no layer accounts for is reported, too: here by the user's own layer that waits around the stack.
#[tokio::test(start_paused = true)]
async fn the_unexplained_share_is_named() {
    let quick = service_fn(async |_: LlmRequest| {
        sleep(Duration::from_millis(10)).await;
        Ok::<_, LlmError>(LlmResponse::new("fine".to_owned()))
    });
    let stack = StandardLayer::new().layer(quick);
    let around = service_fn(move |request: LlmRequest| {
        let stack = stack.clone();
        async move {
            sleep(Duration::from_millis(990)).await;
            stack.oneshot(request).await
        }
    });
    let mut results = stream::iter(["a"; 4]).with_strategy(around).llm_batch(2);
    while results.next().await.is_some() {}
    let summary = results.summary();
    let bottleneck = summary.bottleneck().unwrap();
    assert_eq!(
        (bottleneck.percent, bottleneck.cause),
        (99, BottleneckCause::Elsewhere)
    );
    let line = "99 % elsewhere: in layers of your own, waiting for another item's answer, or while a lazy strategy was made";
    assert_eq!(bottleneck.to_string(), line);
    assert!(summary.to_string().ends_with(line));
    assert!(!format!("{summary:#}").contains("99 %"));

    let json = serde_json::to_string(&bottleneck).unwrap();
    assert_eq!(json, r#"{"cause":"elsewhere","percent":99}"#);
    assert_eq!(serde_json::from_str::<Bottleneck>(&json).unwrap(), bottleneck);
}

/// Takes 100 ms, and observes nothing.
async fn quick(_: LlmRequest) -> Result<LlmResponse, LlmError> {
    sleep(Duration::from_millis(100)).await;
    Ok(LlmResponse::new("fine".to_owned()))
}

/// A strategy whose creation takes ten seconds.
fn slowly_made<S: Clone + Send + Sync + 'static>(strategy: S) -> Lazy<S> {
    lazy(move || {
        let strategy = strategy.clone();
        async move {
            sleep(Duration::from_secs(10)).await;
            Ok::<_, LlmError>(strategy)
        }
    })
}

/// The creation of a strategy is not call time, with and without layers that watch calls inside.
#[tokio::test(start_paused = true)]
async fn making_a_strategy_is_not_call_time() {
    let bare = slowly_made(service_fn(quick)).boxed_strategy();
    let layered = slowly_made(StandardLayer::new().layer(service_fn(quick))).boxed_strategy();
    for strategy in [bare, layered] {
        let mut results = stream::iter(["a"; 4]).with_strategy(strategy).llm_batch(4);
        while results.next().await.is_some() {}
        let summary = results.summary();
        assert_eq!(summary.calls, 4);
        assert_eq!(summary.call_time, Duration::from_millis(400));
        assert_eq!(summary.bottleneck().unwrap().cause, BottleneckCause::Elsewhere);
    }
}

/// The time of calls that no layer observes is the strategy's whole time, without its creation, the waits and a layer's own
/// answers.
#[tokio::test(start_paused = true)]
async fn bare_calls_are_timed_one_by_one() {
    let bare = || {
        let failures = Arc::new(AtomicU32::new(0));
        service_fn(move |request: LlmRequest| {
            let fails = failures.fetch_add(1, Ordering::SeqCst) < 2;
            async move {
                let answer = quick(request).await?;
                if fails {
                    return Err(LlmError::transient("once more"));
                }
                Ok(answer)
            }
        })
    };
    let retry = RetryLayer::new(RetryPolicy::new(3));
    let made = retry.clone().layer(slowly_made(bare())).boxed_strategy();
    for (inner, making) in [(made, 10), (retry.layer(bare()).boxed_strategy(), 0)] {
        let waits = service_fn(move |request: LlmRequest| {
            let inner = inner.clone();
            async move {
                let since = Instant::now();
                sleep(Duration::from_secs(3)).await;
                let item = request.item();
                item.signals().add_wait(WaitReason::Pace, since, Instant::now());
                inner.oneshot(request).await
            }
        });
        let mut results = stream::iter(["a"]).with_strategy(waits).llm_batch(1);
        let outcome = results.next().await.unwrap();
        assert!(outcome.is_ok());
        let report = outcome.report;
        assert_eq!((report.calls, report.attempts), (3, 3));
        assert_eq!(report.call_time, Duration::from_millis(300));
        assert_eq!(
            report.total_time - report.waits.total() - report.call_time,
            Duration::from_secs(making)
        );
    }
}

/// A bare call that is cut has the time up to the cut; one that did not begin has none.
#[tokio::test(start_paused = true)]
async fn a_bare_call_that_is_cut_is_timed_up_to_its_end() {
    let stalls = service_fn(|_: LlmRequest| std::future::pending::<Result<LlmResponse, LlmError>>());
    let results = |limit| {
        let strategy = ItemTimeoutLayer::new(Duration::from_secs(limit)).layer(slowly_made(stalls));
        stream::iter(["a"]).with_strategy(strategy).llm_batch(1)
    };
    let cut = results(15).next().await.unwrap();
    assert_eq!(
        (cut.report.calls, cut.report.call_time),
        (1, Duration::from_secs(5))
    );
    let unsent = results(5).next().await.unwrap();
    assert_eq!(
        (unsent.report.calls, unsent.report.call_time),
        (0, Duration::ZERO)
    );
}

/// A provider of this many calls a second, that holds as many, or of this many calls at a time.
fn limited(
    per_second: f64,
    at_once: usize,
) -> impl tower::Service<LlmRequest, Response = LlmResponse, Error = LlmError, Future: Send>
+ Clone
+ Send
+ Sync
+ 'static {
    let state = Arc::new(Mutex::new((per_second, Instant::now(), 0_usize)));
    service_fn(move |_: LlmRequest| {
        let state = Arc::clone(&state);
        async move {
            sleep(Duration::from_millis(20)).await;
            {
                let (level, last, running) = &mut *state.lock().unwrap();
                let now = Instant::now();
                *level = (*level + per_second * (now - *last).as_secs_f64()).min(per_second);
                *last = now;
                if *level < 1.0 || *running >= at_once {
                    return Err(LlmError::new(ErrorKind::RateLimit, "too many"));
                }
                *level -= 1.0;
                *running += 1;
            }
            sleep(Duration::from_millis(180)).await;
            state.lock().unwrap().2 -= 1;
            Ok(LlmResponse::new("fine".to_owned()))
        }
    })
}

/// What the gate has found is in the summary of its batch.
#[tokio::test(start_paused = true)]
async fn the_limit_that_was_found_is_in_the_summary() {
    let summary = async |stack: StandardLayer| {
        let strategy = stack.layer(limited(20.0, usize::MAX));
        let prompts = stream::iter((0..2_000).map(|number| number.to_string()));
        let mut results = prompts.with_strategy(strategy).llm_batch(60);
        while results.next().await.is_some() {}
        results.summary()
    };
    let found = summary(StandardLayer::new()).await;
    assert!(found.throttled_calls > 0 && found.failed == 0, "{found}");
    let learned = found.learned.unwrap();
    assert!(learned.rejections > 0 && learned.rejections <= found.throttled_calls);
    let json = serde_json::to_string(&found).unwrap();
    assert_eq!(serde_json::from_str::<BatchSummary>(&json).unwrap(), found);

    // The limit that was stated is kept, and nothing is left to be found.
    let limiter = RateLimiter::builder().requests_per_minute(1_190).build().unwrap();
    let stated = summary(StandardLayer::new().with_limiter(limiter)).await;
    assert_eq!((stated.throttled_calls, stated.learned), (0, None), "{stated}");
    assert_eq!(stated.bottleneck().unwrap().limit, None);
}

/// The last line of the summary names the limit that was found, if it was what the items waited for.
#[test]
fn the_bottleneck_names_the_limit_that_was_found() {
    let summary = |throttled: u64, wait: &str, learned: Value| {
        let mut limit = json!({"rejections": 14, "confirmed": true, "at": "2026-03-01T12:00:00Z"});
        limit
            .as_object_mut()
            .unwrap()
            .extend(learned.as_object().unwrap().clone());
        let summary = json!({
            "accepted": 100, "succeeded": 100, "concurrency": 10, "calls": 114, "throttled_calls": throttled,
            "item_time": 100.0, "call_time": 20.0, "waits": {wait: 80.0}, "learned": limit,
        });
        serde_json::from_value::<BatchSummary>(summary).unwrap()
    };
    let rate = json!({"kind": "rate", "starts_per_second": 9.68});
    for wait in ["pace", "cooldown"] {
        let found = summary(14, wait, rate.clone());
        let bottleneck = found.bottleneck().unwrap();
        let limit = bottleneck.limit.unwrap();
        assert!(matches!(
            limit,
            FoundLimit::RequestsPerMinute {
                requests: 580,
                rejections: 14,
                ..
            }
        ));
        let line = "the provider's limit is about 580 requests a minute (found by 14 rejections); state it with requests_per_minute(580)";
        assert!(found.to_string().ends_with(line), "{found}");
        let json = serde_json::to_string(&bottleneck).unwrap();
        assert_eq!(serde_json::from_str::<Bottleneck>(&json).unwrap(), bottleneck);
    }
    let capped = json!({"kind": "in_flight", "max_in_flight": 20});
    for wait in ["pace", "cooldown", "in_flight"] {
        let line = "the provider takes about 20 calls at once (found by 14 rejections); state it with max_in_flight(20)";
        let found = summary(14, wait, capped.clone());
        assert!(found.to_string().ends_with(line), "{found}");
    }
    // A rate that the gate keeps to by a cap of its own.
    let both = json!({"kind": "rate", "starts_per_second": 9.68, "max_in_flight": 8});
    assert!(
        summary(14, "in_flight", both)
            .bottleneck()
            .unwrap()
            .limit
            .is_some()
    );

    // Nothing was rejected, something else was waited for, or the limit is not one that these settings state.
    for (throttled, wait, learned) in [
        (0, "pace", rate.clone()),
        (14, "in_flight", rate.clone()),
        (14, "requests", rate.clone()),
        (14, "backoff", rate.clone()),
        (14, "requests", capped),
        (
            14,
            "pace",
            json!({"kind": "rate", "starts_per_second": 9.68, "confirmed": false}),
        ),
        (
            14,
            "pace",
            json!({"kind": "rate", "starts_per_second": 9.68, "dimension": "tokens"}),
        ),
        (14, "pace", json!({"kind": "rate", "starts_per_second": 0.01})),
        (14, "pace", json!({"kind": "stray"})),
    ] {
        let bottleneck = summary(throttled, wait, learned.clone()).bottleneck().unwrap();
        assert_eq!(bottleneck.limit, None, "{wait} {learned}");
    }
}
