//! The numbers of the summary that people set limits by.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::{StreamExt, stream};
use llm_batch::{LlmError, LlmRequest, LlmResponse, LlmStreamExt, StandardLayer};
use tokio::time::sleep;
use tower::{Layer, service_fn};

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
