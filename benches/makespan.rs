//! The length of a batch relative to the shortest possible run, and the share of rejected calls, for providers
//! of different kinds; in virtual time, so it takes only seconds.
//!
//! `cargo bench --bench makespan` prints the table.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use futures::{StreamExt, stream};
use llm_batch::layer::rate_limiter::{Cooldown, RateLimiter, RateLimiterBuilder, RateLimiterLayer};
use llm_batch::layer::retry::{RetryLayer, RetryPolicy};
use llm_batch::layer::token_accounting::{TokenAccountingLayer, TokenLedger};
use llm_batch::testing::{Hint, Quota, SimulatedProvider, SimulatedProviderBuilder, TokenCharge};
use llm_batch::{LlmRequest, LlmStreamExt, Prompt};
use tokio::time::{Instant, sleep};
use tower::{ServiceBuilder, ServiceExt};

/// The duration of an accepted call.
const LATENCY: Duration = Duration::from_secs(1);
/// The duration of a rejected call.
const REJECTION: Duration = Duration::from_millis(20);
const SEEDS: [u64; 3] = [1, 2, 3];

/// A provider, and the client's configuration for it.
struct Model {
    name: &'static str,
    items: u64,
    concurrency: usize,
    provider: fn(SimulatedProviderBuilder) -> SimulatedProviderBuilder,
    told: fn(RateLimiterBuilder) -> RateLimiterBuilder,
    limits: Limits,
    counts_tokens: bool,
}

/// The limit that the shortest possible run has to obey.
#[derive(Clone, Copy)]
struct Limits {
    /// Calls per second and burst.
    bucket: Option<(f64, f64)>,
    /// Calls per window, and its length in seconds.
    window: Option<(u64, f64)>,
    concurrency: Option<usize>,
    /// Start and end, in seconds.
    outage: Option<(f64, f64)>,
}

const FREE: Limits = Limits {
    bucket: None,
    window: None,
    concurrency: None,
    outage: None,
};

const TEN_A_SECOND: Limits = Limits {
    bucket: Some((10.0, 10.0)),
    ..FREE
};

fn ten_a_second(sim: SimulatedProviderBuilder) -> SimulatedProviderBuilder {
    sim.request_quota(Quota::per_second(10))
}

fn nothing(limiter: RateLimiterBuilder) -> RateLimiterBuilder {
    limiter
}

fn models() -> Vec<Model> {
    let model = |name, provider, limits| Model {
        name,
        items: 2_000,
        concurrency: 100,
        provider,
        told: nothing,
        limits,
        counts_tokens: false,
    };
    vec![
        model("no limit", |sim| sim, FREE),
        Model {
            told: |limiter| limiter.requests_per_minute(600),
            ..model("known quota, 10/s", ten_a_second, TEN_A_SECOND)
        },
        Model {
            told: |limiter| limiter.tokens_per_minute(60_000),
            counts_tokens: true,
            ..model(
                "known token quota, 60,000/min",
                |sim| {
                    sim.token_quota(Quota::per_second(1_000))
                        .token_charge(TokenCharge::Actual)
                },
                Limits {
                    bucket: Some((1_000.0, 1_000.0)),
                    ..FREE
                },
            )
        },
        model(
            "unknown quota, 10/s, hints to the millisecond",
            |sim| ten_a_second(sim).hint(Hint::RetryAfterMs),
            TEN_A_SECOND,
        ),
        model(
            "unknown quota, 10/s, hints in whole seconds",
            |sim| ten_a_second(sim).hint(Hint::RetryAfterSeconds),
            TEN_A_SECOND,
        ),
        model(
            "unknown quota, 10/s, no hints",
            |sim| ten_a_second(sim).hint(Hint::None),
            TEN_A_SECOND,
        ),
        Model {
            items: 10_000,
            concurrency: 200,
            ..model(
                "unknown quota, 100/s, no hints",
                |sim| sim.request_quota(Quota::per_second(100)).hint(Hint::None),
                Limits {
                    bucket: Some((100.0, 100.0)),
                    ..FREE
                },
            )
        },
        model(
            "unknown quota, 10/s, rejected calls count, no hints",
            |sim| ten_a_second(sim).count_rejected(true).hint(Hint::None),
            TEN_A_SECOND,
        ),
        model(
            "fixed window, 100 per 10 s, hints in whole seconds",
            |sim| sim.request_quota(Quota::new(100, Duration::from_secs(10)).fixed_window()),
            Limits {
                window: Some((100, 10.0)),
                ..FREE
            },
        ),
        model(
            "fixed window, 600 per minute, no hints",
            |sim| {
                sim.request_quota(Quota::per_minute(600).fixed_window())
                    .hint(Hint::None)
            },
            Limits {
                window: Some((600, 60.0)),
                ..FREE
            },
        ),
        model(
            "concurrency limit of 20",
            |sim| sim.concurrency(20),
            Limits {
                concurrency: Some(20),
                ..FREE
            },
        ),
        Model {
            items: 10_000,
            ..model(
                "60 s outage of 503s",
                |sim| sim.outage(Duration::from_secs(30), Duration::from_secs(60), 503),
                Limits {
                    outage: Some((30.0, 90.0)),
                    ..FREE
                },
            )
        },
    ]
}

fn prompt(index: u64) -> Prompt {
    Prompt::from(format!("What is {index} and 7 together?")).with_max_output_tokens(100)
}

/// The shortest possible run: every call starts at the first instant at which it can be accepted.
fn ideal(model: &Model, cost: &dyn Fn(u64) -> f64) -> Duration {
    let Limits {
        bucket,
        window,
        concurrency,
        outage,
    } = model.limits;
    let slots = concurrency.map_or(model.concurrency, |limit| limit.min(model.concurrency));
    let (mut level, mut at) = (bucket.map_or(0.0, |(_, burst)| burst), 0.0_f64);
    let mut starts: Vec<f64> = Vec::new();
    for index in 0..model.items {
        let mut start = at;
        if let Some(before) = (index as usize).checked_sub(slots) {
            start = start.max(starts[before] + LATENCY.as_secs_f64());
        }
        if let Some((from, to)) = outage
            && start >= from
            && start < to
        {
            start = to;
        }
        if let Some((limit, period)) = window {
            start = start.max((index / limit) as f64 * period);
        }
        if let Some((rate, burst)) = bucket {
            level = (level + (start - at) * rate).min(burst);
            let lacking = (cost(index) - level).max(0.0);
            (start, level) = (start + lacking / rate, level + lacking - cost(index));
        }
        at = start;
        starts.push(start);
    }
    Duration::from_secs_f64(at) + LATENCY
}

struct Run {
    makespan: Duration,
    /// Calls throttled, or rejected during an outage.
    turned_away: u64,
    failed: u64,
}

fn simulate(model: &Model, seed: u64) -> SimulatedProvider {
    let sim = SimulatedProvider::builder()
        .seed(seed)
        .latency(LATENCY)
        .rejection_latency(REJECTION);
    (model.provider)(sim).build().unwrap()
}

/// Our side: the recommended stack, with budgets large enough that every item succeeds.
async fn batch(model: &Model, seed: u64, cooldown: Cooldown) -> Run {
    let provider = simulate(model, seed);
    let limiter = (model.told)(RateLimiter::builder())
        .cooldown(cooldown)
        .build()
        .unwrap();
    let strategy = ServiceBuilder::new()
        .layer(RetryLayer::new(RetryPolicy::new(100).max_throttles(100_000)))
        .layer(RateLimiterLayer::new(limiter))
        .layer(TokenAccountingLayer::new(TokenLedger::new()))
        .service(provider.service());
    let start = Instant::now();
    let failed = stream::iter((0..model.items).map(prompt))
        .with_strategy(strategy)
        .llm_batch(model.concurrency)
        .filter(|outcome| std::future::ready(outcome.result.is_err()))
        .count()
        .await;
    Run {
        makespan: start.elapsed(),
        turned_away: provider.ledger().rejections(),
        failed: failed as u64,
    }
}

/// The usual hand-written code: a cap on calls in flight, and each call backs off independently, by the hint or
/// doubling from 1 s to 60 s with jitter.
async fn semaphore_and_backoff(model: &Model, seed: u64) -> Run {
    let provider = simulate(model, seed);
    let start = Instant::now();
    let failed = stream::iter(0..model.items)
        .map(|index| {
            let provider = provider.clone();
            async move {
                for attempt in 0..100_000_u32 {
                    match provider.service().oneshot(LlmRequest::new(prompt(index))).await {
                        Ok(_) => return 0,
                        Err(error) => {
                            let backoff =
                                Duration::from_secs(1 << attempt.min(6)).min(Duration::from_secs(60));
                            let backoff = backoff.mul_f64(0.5 + 0.5 * fastrand::f64());
                            sleep(error.retry_after().unwrap_or(backoff)).await;
                        }
                    }
                }
                1
            }
        })
        .buffer_unordered(model.concurrency)
        .fold(0, async |sum, failed| sum + failed)
        .await;
    Run {
        makespan: start.elapsed(),
        turned_away: provider.ledger().rejections(),
        failed,
    }
}

/// The mean over the seeds, each in its own virtual time.
fn measure<F: Future<Output = Run>>(model: &Model, ideal: Duration, run: impl Fn(u64) -> F) -> String {
    let (mut makespan, mut turned_away, mut failed) = (Duration::ZERO, 0, 0);
    for seed in SEEDS {
        fastrand::seed(seed);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build();
        let run = runtime.unwrap().block_on(run(seed));
        makespan += run.makespan;
        turned_away += run.turned_away;
        failed += run.failed;
    }
    let runs = SEEDS.len() as u32;
    let ratio = makespan.as_secs_f64() / f64::from(runs) / ideal.as_secs_f64();
    let share = 100.0 * turned_away as f64 / (f64::from(runs) * model.items as f64);
    let failed = if failed > 0 {
        format!(", {failed} failed")
    } else {
        String::new()
    };
    format!("{ratio:.2}, {share:.1}{failed}")
}

/// The amount that each call takes from the model's quota: its tokens, or 1.
fn costs(model: &Model) -> Vec<f64> {
    if !model.counts_tokens {
        return vec![1.0; model.items as usize];
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        let free = SimulatedProvider::builder().build().unwrap();
        let ask = |index| free.service().oneshot(LlmRequest::new(prompt(index)));
        let usage = stream::iter(0..model.items)
            .then(ask)
            .map(|answer| answer.unwrap().usage.unwrap());
        usage.map(|usage| usage.total() as f64).collect().await
    })
}

fn main() {
    println!(
        "Makespan in multiples of the shortest possible run, and calls throttled or rejected per 100 items.\n"
    );
    println!("| provider | ideal | default | `Cooldown::classic()` | semaphore and backoff |");
    println!("|---|---|---|---|---|");
    for model in models() {
        let costs = costs(&model);
        let ideal = ideal(&model, &|index| costs[index as usize]);
        let model = &model;
        println!(
            "| {} | {:.0} s | {} | {} | {} |",
            model.name,
            ideal.as_secs_f64(),
            measure(model, ideal, |seed| batch(model, seed, Cooldown::default())),
            measure(model, ideal, |seed| batch(model, seed, Cooldown::classic())),
            measure(model, ideal, |seed| semaphore_and_backoff(model, seed)),
        );
    }
}
