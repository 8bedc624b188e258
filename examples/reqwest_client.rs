//! Our layers around a plain `reqwest::Client`, which is a tower service; our provider is not used.
//!
//! `cargo run --features full --example reqwest_client` (against the simulated provider)

use std::time::Duration;

use futures::{StreamExt, stream};
use llm_batch::testing::SimulatedProvider;
use llm_batch::{
    BoxError, CallTimeoutLayer, HttpCallLayer, HttpClassifier, RateLimiter, RateLimiterLayer, RetryLayer,
    RetryPolicy,
};
use serde_json::{Value, json};
use tower::{ServiceBuilder, ServiceExt};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let provider = SimulatedProvider::builder()
        .seed(7)
        .status_rate(503, 0.25)
        .build()?;
    let server = provider.serve("127.0.0.1:0").await?;

    let client = reqwest::Client::new();
    let url = format!("{}/chat/completions", server.base_url());
    let request = {
        let client = client.clone();
        // Retry needs a request that can be cloned. A `reqwest::Request` cannot; the data from which it is built can.
        move |body: Value| {
            client
                .post(&url)
                .body(body.to_string())
                .header("content-type", "application/json")
                .build()
        }
    };
    let service = ServiceBuilder::new()
        .layer(RetryLayer::new(
            RetryPolicy::new(8).classify_with(HttpClassifier).untracked(),
        ))
        // The layers per call see the call until its body has been read.
        .layer(HttpCallLayer::new((
            RateLimiterLayer::new(RateLimiter::default())
                .classify_with(HttpClassifier)
                .untracked(),
            CallTimeoutLayer::new(Duration::from_secs(60)),
        )))
        .service(tower::service_fn(move |body: Value| {
            let (client, request) = (client.clone(), request(body));
            async move { Ok::<_, BoxError>(client.execute(request?).await?) }
        }));

    let questions = (1..=20)
        .map(|n| json!({ "model": "sim", "messages": [{ "role": "user", "content": format!("{n}?") }] }));
    let answers = stream::iter(questions)
        .map(|body| service.clone().oneshot(body))
        .buffer_unordered(5);
    let answered = answers
        .filter(|reply| std::future::ready(reply.as_ref().is_ok_and(|reply| reply.status().is_success())));
    println!("{} of 20 questions answered", answered.count().await);
    println!(
        "{} calls were rejected with 503 and repeated",
        server.shutdown().await.rejections()
    );
    Ok(())
}
