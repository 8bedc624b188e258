//! The overhead per item: the whole stack compared with bare futures, in the consumer's task and spawned.
//!
//! `cargo bench --bench stack`. Every ratio is the median of paired rounds: both sides run in turn in one
//! process, so that the machine's drift cancels out. The strategy is a no-op that yields once.

use std::hint::black_box;
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use llm_batch::layer::rate_limiter::{RateLimiter, RateLimiterLayer};
use llm_batch::layer::retry::{RetryLayer, RetryPolicy};
use llm_batch::layer::timeout::{CallTimeoutLayer, ItemTimeoutLayer};
use llm_batch::layer::token_accounting::{TokenAccountingLayer, TokenLedger};
use llm_batch::{LlmError, LlmRequest, LlmResponse, LlmStreamExt, TokenUsage, WorkItem};
use tower::{Service, ServiceBuilder, service_fn};

const ITEMS: u64 = 50_000;
const ROUNDS: usize = 11;

type Answer = LlmResponse<u64>;

async fn no_op(value: u64) -> Answer {
    tokio::task::yield_now().await;
    LlmResponse::new(value).with_usage(TokenUsage::new(10, 10))
}

/// Item timeout, retry, gate with RPM and TPM, accounting, call timeout, call metrics without a recorder.
fn stack() -> impl Service<
    LlmRequest<u64>,
    Response = Answer,
    Error = LlmError,
    Future = impl Future<Output = Result<Answer, LlmError>> + Send + 'static,
> + Clone
+ Send
+ Sync
+ 'static {
    let limiter = RateLimiter::builder()
        .requests_per_minute(4_000_000_000)
        .tokens_per_minute(4_000_000_000)
        .burst(Duration::from_secs(60))
        .without_start_ramp()
        .build()
        .expect("the numbers are valid");
    ServiceBuilder::new()
        .layer(ItemTimeoutLayer::new(Duration::from_secs(900)))
        .layer(RetryLayer::new(RetryPolicy::new(3)))
        .layer(RateLimiterLayer::new(limiter).estimate_with(|_: &LlmRequest<u64>| 20))
        .layer(TokenAccountingLayer::new(TokenLedger::new()))
        .layer(CallTimeoutLayer::new(Duration::from_secs(600)))
        .service(service_fn(|request: LlmRequest<u64>| async move {
            Ok::<_, LlmError>(no_op(request.into_input()).await)
        }))
}

/// Nanoseconds per item of one round.
async fn time(round: impl Future<Output = u64>) -> f64 {
    let start = Instant::now();
    assert_eq!(black_box(round.await), ITEMS);
    start.elapsed().as_nanos() as f64 / ITEMS as f64
}

async fn bare_in_task(n: usize) -> u64 {
    stream::iter(0..ITEMS)
        .map(no_op)
        .buffer_unordered(n)
        .count()
        .await as u64
}

async fn stack_in_task(n: usize) -> u64 {
    stream::iter((0..ITEMS).map(WorkItem::new))
        .with_strategy(stack())
        .llm_batch_local(n)
        .filter(ok)
        .count()
        .await as u64
}

async fn bare_spawned(n: usize) -> u64 {
    let spawned = stream::iter(0..ITEMS)
        .map(|value| tokio::spawn(no_op(value)))
        .buffer_unordered(n);
    spawned
        .filter(|joined| std::future::ready(joined.is_ok()))
        .count()
        .await as u64
}

async fn stack_spawned(n: usize) -> u64 {
    stream::iter((0..ITEMS).map(WorkItem::new))
        .with_strategy(stack())
        .llm_batch(n)
        .filter(ok)
        .count()
        .await as u64
}

fn ok<C>(outcome: &llm_batch::Outcome<Answer, LlmError, C>) -> std::future::Ready<bool> {
    std::future::ready(outcome.result.is_ok())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Runs both sides in turn and prints a row: medians, and the median of the paired ratios.
async fn row<A, B>(name: &str, n: usize, bare: impl Fn() -> A, whole: impl Fn() -> B)
where
    A: Future<Output = u64>,
    B: Future<Output = u64>,
{
    let (mut bares, mut wholes, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let (a, b) = (time(bare()).await, time(whole()).await);
        // The first round warms up.
        if round > 0 {
            bares.push(a);
            wholes.push(b);
            ratios.push(b / a);
        }
    }
    println!(
        "| {name} | {n} | {:.0} ns | {:.0} ns | {:.1} |",
        median(&mut bares),
        median(&mut wholes),
        median(&mut ratios)
    );
}

fn main() {
    // `cargo test --benches` and `cargo bench -- --list` pass flags; there is nothing to list.
    if std::env::args().any(|argument| argument == "--test" || argument == "--list") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .expect("a runtime with a timer");
    let consumer = async {
        println!("| one item | concurrency | bare | whole stack | ratio |");
        println!("|---|---|---|---|---|");
        for n in [10, 100, 1_000] {
            row(
                "in the task (buffer_unordered)",
                n,
                || bare_in_task(n),
                || stack_in_task(n),
            )
            .await;
        }
        for n in [10, 100, 1_000] {
            row(
                "spawned (tokio::spawn)",
                n,
                || bare_spawned(n),
                || stack_spawned(n),
            )
            .await;
        }
    };
    // Inside a task: `block_on`'s own thread is not a worker, and every wake-up of it crosses threads.
    runtime.block_on(async {
        tokio::spawn(consumer)
            .await
            .expect("the benchmark does not panic")
    });
}
