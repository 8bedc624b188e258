//! An `apalis` worker whose tasks run through this crate's layers.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use apalis::prelude::*;
use llm_batch::layer::rate_limiter::{RateLimiter, RateLimiterLayer};
use llm_batch::layer::retry::{RetryLayer, RetryPolicy};
use llm_batch::layer::timeout::{CallTimeoutLayer, ItemTimeoutLayer};
use llm_batch::layer::token_accounting::{TokenAccountingLayer, TokenLedger};
use llm_batch::{BoxError, LlmError, LlmResponse, TokenUsage};

#[tokio::test]
async fn a_worker_hosts_the_layers() {
    let (ledger, limiter) = (TokenLedger::new(), RateLimiter::default());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let answers = Arc::clone(&seen);
    let handler = move |prompt: String, worker: WorkerContext| {
        let answers = Arc::clone(&answers);
        async move {
            let (asked, all) = {
                let mut answers = answers.lock().unwrap();
                answers.push(prompt.clone());
                let asked = answers.iter().filter(|asked| **asked == prompt).count();
                (asked, answers.len())
            };
            match (prompt.as_str(), asked) {
                ("wrong at first", 1) => return Err(BoxError::from(LlmError::validation("no number"))),
                ("throttled at first", 1) => return Err(LlmError::rate_limit("later", None).into()),
                _ => {}
            }
            // A stopped worker does not start further tasks, so only the last call may stop it.
            if all == 5 {
                worker.stop()?;
            }
            Ok::<_, BoxError>(Answer(
                LlmResponse::new("42".to_owned()).with_usage(TokenUsage::new(10, 2)),
            ))
        }
    };
    let mut backend = MemoryStorage::new();
    for prompt in ["wrong at first", "throttled at first", "fine"] {
        backend.push(prompt.to_owned()).await.unwrap();
    }
    let policy = RetryPolicy::new(3)
        .initial_backoff(Duration::from_millis(1))
        .untracked();
    let accounting = TokenAccountingLayer::new(ledger.clone())
        .usage_with(|outcome: Result<&Answer, &BoxError>| match outcome {
            Ok(answer) => answer.0.usage,
            Err(error) => error.downcast_ref::<LlmError>().and_then(LlmError::usage),
        })
        .untracked();
    WorkerBuilder::new("prompts")
        .backend(backend)
        .layer(ItemTimeoutLayer::new(Duration::from_secs(60)).untracked())
        .layer(RetryLayer::new(policy))
        .layer(RateLimiterLayer::new(limiter.clone()).untracked())
        .layer(accounting)
        .layer(CallTimeoutLayer::new(Duration::from_secs(30)))
        .build(handler)
        .run()
        .await
        .unwrap();
    let asked = seen.lock().unwrap().len();
    let snapshot = ledger.snapshot();
    assert_eq!((asked, snapshot.calls), (5, 5));
    assert_eq!((snapshot.failed_calls, snapshot.unknown_usage_calls), (2, 1));
    assert_eq!(snapshot.usage, TokenUsage::new(30, 6));
    assert_eq!((limiter.snapshot().granted, limiter.snapshot().throttled), (5, 1));
}

#[derive(Clone)]
struct Answer(LlmResponse);
