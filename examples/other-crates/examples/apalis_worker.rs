//! Our layers inside another tower host: an `apalis` worker runs its tasks through them.
//!
//! `cargo run -p other-crates --example apalis_worker`

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use apalis::prelude::*;
use llm_batch::{BoxError, LlmError, RateLimiter, RateLimiterLayer, RetryLayer, RetryPolicy};

const TASKS: u32 = 20;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut tasks = MemoryStorage::new();
    for n in 0..TASKS {
        tasks.push(format!("prompt {n}")).await?;
    }

    let (calls, answers) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let counters = (Arc::clone(&calls), Arc::clone(&answers));
    let handler = move |prompt: String, worker: WorkerContext| {
        let (calls, answers) = (Arc::clone(&calls), Arc::clone(&answers));
        async move {
            // Every fifth call is throttled, like by a provider.
            if calls.fetch_add(1, Ordering::Relaxed) % 5 == 4 {
                return Err(BoxError::from(LlmError::rate_limit("slow down", None)));
            }
            if answers.fetch_add(1, Ordering::Relaxed) + 1 == TASKS {
                worker.stop()?;
            }
            Ok(format!("answer to {prompt}"))
        }
    };
    let limiter = RateLimiter::default();
    WorkerBuilder::new("prompts")
        .backend(tasks)
        .layer(RetryLayer::new(RetryPolicy::new(3).untracked()))
        .layer(RateLimiterLayer::new(limiter.clone()).untracked())
        .build(handler)
        .run()
        .await?;

    let (calls, answers) = (
        counters.0.load(Ordering::Relaxed),
        counters.1.load(Ordering::Relaxed),
    );
    println!(
        "{answers} tasks answered in {calls} calls, {} of them throttled",
        limiter.snapshot().throttled
    );
    Ok(())
}
