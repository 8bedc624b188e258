//! The gate alone: a call through an open gate, compared with a fair semaphore; a queue of 10,000; and calls from several
//! threads.
//!
//! `cargo bench --bench rate_limiter`

use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures::future::join_all;
use llm_batch::{RateLimiter, Verdict};
use tokio::sync::Semaphore;

fn open_gate() -> RateLimiter {
    let quotas = RateLimiter::builder()
        .requests_per_minute(4_000_000_000)
        .tokens_per_minute(4_000_000_000);
    quotas
        .burst(Duration::from_secs(60))
        .without_start_ramp()
        .build()
        .expect("the numbers are valid")
}

fn unlimited_gate() -> RateLimiter {
    let gate = RateLimiter::builder().without_start_ramp();
    gate.build().expect("the numbers are valid")
}

type MakeGate = fn() -> RateLimiter;

async fn one_call(limiter: &RateLimiter) {
    let grant = limiter.acquire(20).await.expect("the gate is open");
    let call = grant.start().expect("nothing closes the gate");
    call.settle(&Verdict::SUCCESS, Some(20));
}

fn uncontended(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    let mut group = criterion.benchmark_group("a call that need not wait");
    let limiter = open_gate();
    group.bench_function("gate with RPM and TPM", |bencher| {
        bencher.to_async(&runtime).iter(|| one_call(&limiter));
    });
    let semaphore = Arc::new(Semaphore::new(1));
    group.bench_function("tokio's fair semaphore", |bencher| {
        bencher
            .to_async(&runtime)
            .iter(async || drop(Arc::clone(&semaphore).acquire_owned().await));
    });
    group.finish();
}

fn queue(criterion: &mut Criterion) {
    const WAITERS: u64 = 10_000;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    let mut group = criterion.benchmark_group("ten thousand waiters, one at a time");
    group.throughput(Throughput::Elements(WAITERS)).sample_size(10);
    group.bench_function("gate", |bencher| {
        bencher.to_async(&runtime).iter_batched(
            || {
                RateLimiter::builder()
                    .max_in_flight(1)
                    .without_start_ramp()
                    .build()
                    .expect("the numbers are valid")
            },
            |limiter| async move {
                join_all((0..WAITERS).map(|_| one_call(&limiter))).await;
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("tokio's fair semaphore", |bencher| {
        bencher.to_async(&runtime).iter_batched(
            || Arc::new(Semaphore::new(1)),
            |semaphore| async move {
                join_all((0..WAITERS).map(|_| async { drop(Arc::clone(&semaphore).acquire_owned().await) }))
                    .await;
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

/// One task per worker thread, each with its share of the calls: the wall-clock time of one call.
fn threads(criterion: &mut Criterion) {
    const CALLS: u64 = 40_000;
    let mut group = criterion.benchmark_group("a call from several threads");
    group.throughput(Throughput::Elements(CALLS)).sample_size(10);
    let gates: [(&str, MakeGate); 2] = [("RPM and TPM", open_gate), ("no limits", unlimited_gate)];
    for workers in [1, 2, 4, 8, 16] {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(workers)
            .enable_time()
            .build()
            .expect("a runtime");
        for (name, gate) in gates {
            group.bench_function(BenchmarkId::new(name, workers), |bencher| {
                bencher.iter_batched(
                    gate,
                    |limiter| {
                        runtime.block_on(async {
                            let tasks = (0..workers).map(|_| {
                                let limiter = limiter.clone();
                                tokio::spawn(async move {
                                    for _ in 0..CALLS / workers as u64 {
                                        one_call(&limiter).await;
                                    }
                                })
                            });
                            for task in tasks.collect::<Vec<_>>() {
                                task.await.expect("no call panics");
                            }
                        });
                    },
                    BatchSize::PerIteration,
                );
            });
        }
    }
    group.finish();
}

criterion_group!(benches, uncontended, queue, threads);
criterion_main!(benches);
