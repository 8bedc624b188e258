//! The numbers of the summary that people set limits by.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::{StreamExt, stream};
use llm_batch::batch::{Bottleneck, BottleneckCause};
use llm_batch::{LlmError, LlmRequest, LlmResponse, LlmStreamExt, StandardLayer, lazy};
use tokio::time::sleep;
use tower::{Layer, ServiceExt, service_fn};

/// One item, three calls of 10 ms, 20 ms and 3 s: the percentiles are those of calls, not of items.
#[tokio::test(start_paused = true)]
async fn percentiles_are_of_calls() {
    let calls = AtomicU64::new(0);
    let calls = std::sync::Arc::new(calls);
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

/// What no layer accounts for is named, too: here a layer of the user's own that waits around the stack.
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

/// The making of a strategy is not call time, also where no layer sees calls.
#[tokio::test(start_paused = true)]
async fn making_a_strategy_is_not_call_time() {
    let make = async || {
        sleep(Duration::from_secs(10)).await;
        let quick = service_fn(async |_: LlmRequest| {
            sleep(Duration::from_millis(100)).await;
            Ok::<_, LlmError>(LlmResponse::new("fine".to_owned()))
        });
        Ok::<_, LlmError>(StandardLayer::new().layer(quick))
    };
    let mut results = stream::iter(["a"; 4]).with_strategy(lazy(make)).llm_batch(4);
    while results.next().await.is_some() {}
    let summary = results.summary();
    assert_eq!(summary.call_time, Duration::from_millis(400));
    assert_eq!(summary.bottleneck().unwrap().cause, BottleneckCause::Elsewhere);
}
