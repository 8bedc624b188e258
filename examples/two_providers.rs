//! Two providers in one batch: every item has its own strategy.
//!
//! `cargo run --features full --example two_providers`

use std::time::Duration;

use futures::{StreamExt, stream};
use llm_batch::testing::FakeStrategy;
use llm_batch::{LlmRequest, LlmStreamExt, Prompt, RateLimiter, RateLimiterLayer, StrategyExt, WorkItem};
use tower::ServiceBuilder;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let answer = |name: &'static str| {
        move |request: &LlmRequest<Prompt>| format!("{name} answers item {}", request.id())
    };
    // Each provider has its own gate: a throttle of one does not delay the other.
    let quick = ServiceBuilder::new()
        .layer(RateLimiterLayer::new(
            RateLimiter::builder().requests_per_minute(6_000).build()?,
        ))
        .service(FakeStrategy::new(answer("quick")).latency(Duration::from_millis(5)))
        .boxed_strategy();
    let careful = ServiceBuilder::new()
        .layer(RateLimiterLayer::new(
            RateLimiter::builder().requests_per_minute(600).build()?,
        ))
        .service(FakeStrategy::new(answer("careful")).latency(Duration::from_millis(50)))
        .boxed_strategy();

    let questions = [
        "short",
        "a rather long and difficult question",
        "brief",
        "another long and difficult one",
    ];
    let items = questions.into_iter().map(move |question| {
        let strategy = if question.len() > 10 {
            careful.clone()
        } else {
            quick.clone()
        };
        WorkItem::new(Prompt::from(question)).with_strategy(strategy)
    });

    let mut results = stream::iter(items).llm_batch(4).in_order();
    while let Some(outcome) = results.next().await {
        println!("{}", outcome.result?.output);
    }
    Ok(())
}
