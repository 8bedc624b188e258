//! Identical questions cause one call, even while that call is in flight.
//!
//! `cargo run --features full --example response_cache`

use std::time::Duration;

use futures::{StreamExt, stream};
use llm_batch::layer::cache::{CacheLayer, Cached, ResponseCache};
use llm_batch::testing::SimulatedProvider;
use llm_batch::{BoxError, LlmStreamExt, StandardLayer, TokenUsage};
use tower::Layer;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let provider = SimulatedProvider::builder()
        .latency(Duration::from_millis(20))
        .build()?;
    let cache = ResponseCache::builder()
        .max_bytes(16 * 1024 * 1024)
        .time_to_live(Duration::from_secs(3_600))
        .build();
    let standard = StandardLayer::new();
    let strategy = (CacheLayer::new(cache.clone()), standard.clone()).layer(provider.service());

    // Twenty questions, each asked ten times.
    let mut results = stream::iter((0..200).map(|n| format!("What is {} plus 1?", n % 20)))
        .with_strategy(strategy)
        .llm_batch(50);
    let (mut billed, mut saved) = (TokenUsage::ZERO, TokenUsage::ZERO);
    while let Some(outcome) = results.next().await {
        billed += outcome.report.usage;
        if let Some(cached) = outcome.result?.metadata.extensions.get::<Cached>() {
            saved += cached.usage.unwrap_or_default();
        }
    }
    let counted = cache.snapshot();
    println!(
        "{} asked, {} shared",
        counted.misses,
        counted.hits + counted.joined
    );
    let ledger = provider.ledger();
    println!("calls at the provider: {}", ledger.received);
    println!(
        "tokens: {} billed by the provider, {} in the items, {} in the ledger, {} saved",
        ledger.billed().total(),
        billed.total(),
        standard.ledger().snapshot().usage.total(),
        saved.total()
    );
    Ok(())
}
