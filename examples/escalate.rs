//! A ladder of models: the cheap one first, a better one only after a bad answer. Prints the saving.
//!
//! `cargo run --features full --example escalate`

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt, stream};
use llm_batch::layer::rate_limiter::RateLimiters;
use llm_batch::recipe::models;
use llm_batch::testing::SimulatedProvider;
use llm_batch::{
    BoxError, LlmError, LlmRequest, LlmStreamExt, RateLimiter, RateLimiterLayer, RetryLayer, RetryPolicy,
    TokenUsage,
};
use tower::{ServiceBuilder, ServiceExt, service_fn};

/// Name, US dollars per million tokens in and out, and the items that it answers badly: one in five of those that the model
/// before it answers badly too.
const MODELS: [(&str, f64, f64, u64); 3] = [
    ("small", 0.10, 0.40, 5),
    ("medium", 0.50, 2.00, 25),
    ("large", 2.50, 10.00, 125),
];

type Books = Arc<Mutex<BTreeMap<String, (u64, TokenUsage)>>>;

async fn run(ladder: &[&str]) -> Result<f64, BoxError> {
    let books = Books::default();
    let model = {
        let provider = SimulatedProvider::builder().build()?;
        let books = Arc::clone(&books);
        service_fn(move |request: LlmRequest| {
            let (provider, books) = (provider.service(), Arc::clone(&books));
            async move {
                let name = request.input().model().unwrap_or_default().to_owned();
                let index = request.index();
                let answer = provider.oneshot(request).await?;
                let usage = answer.usage.unwrap_or_default();
                let bad = MODELS
                    .iter()
                    .any(|(model, _, _, every)| *model == name && index % every == 0);
                {
                    let mut books = books.lock().unwrap_or_else(PoisonError::into_inner);
                    let (calls, used) = books.entry(name).or_default();
                    *calls += 1;
                    *used += usage;
                }
                if bad {
                    return Err(LlmError::validation("not what was asked for").with_usage(usage));
                }
                Ok(answer)
            }
        })
    };
    // Each model has its own gate: the ladder sets the model before the gate is selected.
    let gates = RateLimiters::new(|_: &String| {
        RateLimiter::builder()
            .without_start_ramp()
            .build()
            .unwrap_or_default()
    });
    let strategy = ServiceBuilder::new()
        .layer(RetryLayer::new(RetryPolicy::new(3)))
        .layer(models(ladder.iter().copied()))
        .layer(RateLimiterLayer::keyed(move |request: &LlmRequest| {
            gates.get(request.input().model().unwrap_or_default())
        }))
        .service(model);

    let mut results = stream::iter((0..1_000).map(|n| format!("What is {n} plus {n}?")))
        .with_strategy(strategy)
        .llm_batch(100);
    while results.next().await.is_some() {}
    let summary = results.summary();

    let books = books.lock().unwrap_or_else(PoisonError::into_inner);
    let mut dollars = 0.0;
    let mut calls = Vec::new();
    for (name, input, output, _) in MODELS {
        if let Some((count, usage)) = books.get(name) {
            dollars += (usage.input as f64 * input + usage.output as f64 * output) / 1e6;
            calls.push(format!("{count} {name}"));
        }
    }
    println!(
        "{} of {} answered; calls: {}; ${dollars:.3}",
        summary.succeeded,
        summary.succeeded + summary.failed,
        calls.join(", ")
    );
    Ok(dollars)
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    print!("a ladder:        ");
    let ladder = run(&["small", "medium", "large"]).await?;
    print!("always the best: ");
    let best = run(&["large"]).await?;
    println!("the ladder costs {:.0} % of that", ladder / best * 100.0);
    Ok(())
}
