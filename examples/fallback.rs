//! Two providers: the second one answers while the first one throttles, and if the first one finally fails.
//!
//! `cargo run --features full --example fallback`

use std::time::Duration;

use futures::{StreamExt, stream};
use llm_batch::recipe::Fallback;
use llm_batch::testing::SimulatedProvider;
use llm_batch::{BoxError, LlmStreamExt, RateLimiter, RetryPolicy, StandardLayer, TokenLedger, TokenUsage};
use tower::Layer;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    // The first one allows 300 calls a minute and sends a wait hint in whole seconds above that; the second one is slow.
    let first = SimulatedProvider::builder()
        .requests_per_minute(300)
        .latency(Duration::from_millis(20))
        .build()?;
    let second = SimulatedProvider::builder()
        .latency(Duration::from_millis(60))
        .build()?;

    let (gate, ledger) = (RateLimiter::default(), TokenLedger::new());
    let strategy = Fallback::new(
        StandardLayer::new()
            .with_limiter(gate.clone())
            // A throttled item does not return to the first provider: it goes to the second one immediately.
            .with_retry(RetryPolicy::new(3).max_throttles(0))
            .with_ledger(ledger.clone())
            .layer(first.service()),
        StandardLayer::new()
            .with_ledger(ledger.clone())
            .layer(second.service()),
    )
    .gate(&gate);

    let mut results = stream::iter((0..200).map(|n| format!("What is {n} plus {n}?")))
        .with_strategy(strategy)
        .llm_batch(20);
    let mut usage = TokenUsage::ZERO;
    let mut calls = 0;
    while let Some(outcome) = results.next().await {
        usage += outcome.report.usage;
        calls += u64::from(outcome.report.calls);
    }
    let summary = results.summary();
    let (one, two) = (first.ledger(), second.ledger());
    println!("{} of 200 answered", summary.succeeded);
    println!(
        "the first answered {} and throttled {}, the second answered {}",
        one.answered, one.throttled, two.answered
    );
    println!(
        "calls: {} at the providers, {calls} in the items, {} in the ledger",
        one.received + two.received,
        ledger.snapshot().calls
    );
    println!(
        "tokens: {} at the providers, {} in the items, {} in the ledger",
        one.billed().total() + two.billed().total(),
        usage.total(),
        ledger.snapshot().usage.total()
    );
    Ok(())
}
