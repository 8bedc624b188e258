//! Memory of long and wide batches: the peak for 10k, 100k and 1M items at concurrency 100, and the bytes per item
//! in flight at concurrency 100,000.
//!
//! `cargo bench --bench memory` (Linux: it reads `/proc/self/status` of a fresh process per row).

use std::process::Command;
use std::time::Duration;

use futures::{StreamExt, stream};
use llm_batch::{
    LlmError, LlmRequest, LlmResponse, LlmStreamExt, RateLimiter, StandardLayer, TokenUsage, WorkItem,
};
use tower::{Layer, service_fn};

/// The largest resident size so far, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap_or_default();
    line.split_whitespace()
        .nth(1)
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

async fn run(items: u64, n: usize, latency: Duration) {
    let limiter = RateLimiter::builder()
        .without_start_ramp()
        .build()
        .expect("the numbers are valid");
    let stack = StandardLayer::new().with_limiter(limiter).layer(service_fn(
        move |request: LlmRequest<String>| async move {
            tokio::time::sleep(latency).await;
            Ok::<_, LlmError>(LlmResponse::new(request.into_input()).with_usage(TokenUsage::new(10, 10)))
        },
    ));
    // Prompts of 1 KiB each, created when pulled.
    let prompts = stream::iter(0..items).map(|n| WorkItem::new(format!("{n:01024}")));
    let answered = prompts
        .with_strategy(stack)
        .llm_batch(n)
        .filter(|outcome| std::future::ready(outcome.result.is_ok()))
        .count()
        .await as u64;
    assert_eq!(answered, items);
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments
        .iter()
        .any(|argument| argument == "--test" || argument == "--list")
    {
        return;
    }
    if let Some(position) = arguments.iter().position(|argument| argument == "--child") {
        let number = |offset: usize| arguments[position + offset].parse::<u64>().expect("a number");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_time()
            .build();
        let (items, n, latency) = (number(1), number(2) as usize, Duration::from_millis(number(3)));
        runtime.expect("a runtime").block_on(async move {
            tokio::spawn(run(items, n, latency))
                .await
                .expect("the benchmark does not panic");
        });
        println!("{}", peak());
        return;
    }
    let child = |items: u64, n: u64, latency: u64| {
        let program = std::env::current_exe().expect("the path of this program");
        let arguments = [
            "--child".to_owned(),
            items.to_string(),
            n.to_string(),
            latency.to_string(),
        ];
        let output = Command::new(program)
            .args(arguments)
            .output()
            .expect("the child runs");
        String::from_utf8_lossy(&output.stdout)
            .trim()
            .parse::<u64>()
            .expect("the child prints its peak")
    };
    println!("| items | concurrency | peak memory |");
    println!("|---|---|---|");
    for items in [10_000, 100_000, 1_000_000] {
        println!(
            "| {items} | 100 | {:.1} MiB |",
            child(items, 100, 0) as f64 / 1024.0
        );
    }
    let (base, wide) = (child(100, 100, 1), child(100_000, 100_000, 2_000));
    println!("| 100000 | 100000 | {:.1} MiB |", wide as f64 / 1024.0);
    println!(
        "\n{:.0} bytes per item in flight, its prompt and answer of 1 KiB each included",
        wide.saturating_sub(base) as f64 * 1024.0 / 100_000.0
    );
}
