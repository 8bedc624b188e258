//! The throughput of the whole stack relative to a bare spawning loop, with slow calls.
//!
//! `cargo bench --bench throughput`. 50 ms calls at concurrency 1,000 and 1 s calls at 10,000; both sides run in
//! turn in one process.

use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use llm_batch::layer::rate_limiter::{RateLimiter, RateLimiterLayer};
use llm_batch::layer::retry::{RetryLayer, RetryPolicy};
use llm_batch::layer::timeout::{CallTimeoutLayer, ItemTimeoutLayer};
use llm_batch::layer::token_accounting::{TokenAccountingLayer, TokenLedger};
use llm_batch::{LlmError, LlmRequest, LlmResponse, LlmStreamExt, TokenUsage, WorkItem};
use tower::{ServiceBuilder, service_fn};

async fn bare(items: u64, n: usize, latency: Duration) -> u64 {
    let calls = stream::iter(0..items).map(|value| {
        tokio::spawn(async move {
            tokio::time::sleep(latency).await;
            value
        })
    });
    calls
        .buffer_unordered(n)
        .filter(|joined| std::future::ready(joined.is_ok()))
        .count()
        .await as u64
}

async fn whole(items: u64, n: usize, latency: Duration) -> u64 {
    let limiter = RateLimiter::builder()
        .requests_per_minute(4_000_000_000)
        .tokens_per_minute(4_000_000_000)
        .burst(Duration::from_secs(60))
        .without_start_ramp()
        .build()
        .expect("the numbers are valid");
    let stack = ServiceBuilder::new()
        .layer(ItemTimeoutLayer::new(Duration::from_secs(900)))
        .layer(RetryLayer::new(RetryPolicy::new(3)))
        .layer(RateLimiterLayer::new(limiter).estimate_with(|_: &LlmRequest<u64>| 20))
        .layer(TokenAccountingLayer::new(TokenLedger::new()))
        .layer(CallTimeoutLayer::new(Duration::from_secs(600)))
        .service(service_fn(move |request: LlmRequest<u64>| async move {
            tokio::time::sleep(latency).await;
            Ok::<_, LlmError>(LlmResponse::new(request.into_input()).with_usage(TokenUsage::new(10, 10)))
        }));
    let results = stream::iter((0..items).map(WorkItem::new))
        .with_strategy(stack)
        .llm_batch(n);
    results
        .filter(|outcome| std::future::ready(outcome.result.is_ok()))
        .count()
        .await as u64
}

async fn rate(items: u64, run: impl Future<Output = u64>) -> f64 {
    let start = Instant::now();
    assert_eq!(run.await, items);
    items as f64 / start.elapsed().as_secs_f64()
}

fn main() {
    if std::env::args().any(|argument| argument == "--test" || argument == "--list") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .expect("a runtime with a timer");
    let consumer = async {
        println!("| calls | concurrency | items | bare spawning loop | whole stack | ratio |");
        println!("|---|---|---|---|---|---|");
        for (latency, n, waves, rounds) in [(50, 1_000, 10, 7), (1_000, 10_000, 5, 3)] {
            let latency = Duration::from_millis(latency);
            let items = n * waves;
            let (mut bares, mut wholes, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..rounds {
                let a = rate(items, bare(items, n as usize, latency)).await;
                let b = rate(items, whole(items, n as usize, latency)).await;
                bares.push(a);
                wholes.push(b);
                ratios.push(b / a);
            }
            for values in [&mut bares, &mut wholes, &mut ratios] {
                values.sort_by(f64::total_cmp);
            }
            let middle = rounds / 2;
            println!(
                "| {latency:?} | {n} | {items} | {:.0}/s | {:.0}/s | {:.1} % |",
                bares[middle],
                wholes[middle],
                100.0 * ratios[middle]
            );
        }
    };
    runtime.block_on(async {
        tokio::spawn(consumer)
            .await
            .expect("the benchmark does not panic")
    });
}
