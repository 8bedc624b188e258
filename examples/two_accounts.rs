//! Two accounts of one provider: each call goes where it can start first, and each account has its own limits and totals.
//!
//! `cargo run --example two_accounts --features testing`

use std::time::Duration;

use futures::{StreamExt, stream};
use llm_batch::recipe::Balance;
use llm_batch::testing::{Quota, SimulatedProvider};
use llm_batch::{
    BoxError, LlmStreamExt, RateLimiter, RateLimiterLayer, RetryLayer, RetryPolicy, TokenAccountingLayer,
    TokenLedger,
};
use tower::{Layer, ServiceBuilder};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut ledgers = Vec::new();
    let mut accounts = Vec::new();
    for (name, requests_per_minute) in [("small", 600), ("large", 2_400)] {
        // For a real provider: OpenAi::builder().api_key_env(..).build()?.model(..)
        let provider = SimulatedProvider::builder()
            .request_quota(Quota::per_minute(requests_per_minute.into()))
            .latency(Duration::from_millis(200))
            .build()?;
        let gate = RateLimiter::builder()
            .name(name)
            .requests_per_minute(requests_per_minute)
            .build()?;
        let ledger = TokenLedger::new();
        let strategy = ServiceBuilder::new()
            .layer(RateLimiterLayer::new(gate.clone()))
            .layer(TokenAccountingLayer::new(ledger.clone()))
            .service(provider.service());
        ledgers.push((name, ledger));
        accounts.push((gate, strategy));
    }
    let model = RetryLayer::new(RetryPolicy::new(3)).layer(Balance::new(accounts));

    let mut results = stream::iter((0..250).map(|n| format!("What is {n} plus {n}?")))
        .with_strategy(model)
        .llm_batch(20);
    while let Some(outcome) = results.next().await {
        if let Err(error) = outcome.result {
            eprintln!("item {}: {error}", outcome.id);
        }
    }
    println!("{:#}", results.summary());
    for (name, ledger) in ledgers {
        let totals = ledger.snapshot();
        println!("{name}: {} calls, {} tokens", totals.calls, totals.usage.total());
    }
    Ok(())
}
