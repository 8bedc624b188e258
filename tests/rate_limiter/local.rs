//! The start ramp and servers on a machine of the user's own.

use futures::future::join_all;
use llm_batch::layer::rate_limiter::{RateLimiterLayer, StartRamp};
use llm_batch::provider::openai::OpenAi;
use llm_batch::{LlmRequest, Prompt, RateLimiter};
use tower::{ServiceBuilder, ServiceExt};

/// How many of 100 calls start at once at a server of this kind, where nothing listens.
async fn at_once(prefix: &str, limiter: &RateLimiter) -> u64 {
    let client = OpenAi::builder().base_url("http://127.0.0.1:9/v1");
    let client = client.server(prefix).unwrap().build().unwrap();
    let service = ServiceBuilder::new()
        .layer(RateLimiterLayer::new(limiter.clone()))
        .service(client.model("any"));
    let calls = (0..100).map(|_| Box::pin(service.clone().oneshot(LlmRequest::new(Prompt::from("hi")))));
    let mut calls = join_all(calls);
    let _ = futures::poll!(&mut calls);
    limiter.snapshot().granted
}

#[tokio::test]
async fn the_default_ramp_ends_at_a_local_server_and_nowhere_else() {
    for (prefix, expected) in [("vllm", 100), ("ollama", 100), ("openai-compatible", 16)] {
        assert_eq!(
            at_once(prefix, &RateLimiter::default()).await,
            expected,
            "{prefix}"
        );
    }
    // What was asked for stays.
    let limiter = RateLimiter::builder()
        .start_ramp(StartRamp::new(3, 1.0))
        .build()
        .unwrap();
    assert_eq!(at_once("vllm", &limiter).await, 3);
}
