//! A batch without a configured quota is not too slow.

use std::time::Duration;

use futures::{StreamExt, stream};
use llm_batch::layer::rate_limiter::{RateLimiter, RateLimiterLayer};
use llm_batch::layer::retry::{RetryLayer, RetryPolicy};
use llm_batch::testing::{Hint, Quota, SimulatedProvider};
use llm_batch::{LlmStreamExt, Prompt};
use tokio::time::Instant;
use tower::ServiceBuilder;

/// A throttle soon after a pause is weak evidence about the rate: the starts since then are few, but not slow.
#[tokio::test(start_paused = true)]
async fn a_throttle_soon_after_a_pause_does_not_collapse_the_pace() {
    let provider = SimulatedProvider::builder()
        .request_quota(Quota::per_second(100))
        .hint(Hint::None)
        .latency(Duration::from_secs(1))
        .rejection_latency(Duration::from_millis(20))
        .build()
        .unwrap();
    let limiter = RateLimiter::builder().build().unwrap();
    let strategy = ServiceBuilder::new()
        .layer(RetryLayer::new(RetryPolicy::new(1).max_throttles(100)))
        .layer(RateLimiterLayer::new(limiter.clone()))
        .service(provider.service());
    let start = Instant::now();
    let prompts = (0..5_000).map(|index| Prompt::from(format!("question {index}")));
    let done = stream::iter(prompts).with_strategy(strategy).llm_batch(200);
    assert_eq!(
        done.filter(|outcome| std::future::ready(outcome.is_ok()))
            .count()
            .await,
        5_000
    );
    // The quota allows it in 50 s.
    assert!(start.elapsed() < Duration::from_secs(65), "{:?}", start.elapsed());
    assert!(limiter.snapshot().generation >= 2, "nothing was tested");
}
