//! Dry runs.

use std::time::Duration;

use llm_batch::layer::dry_run::DryRunLayer;
use llm_batch::layer::retry::{RetryLayer, RetryPolicy};
use llm_batch::layer::timeout::ItemTimeoutLayer;
use llm_batch::layer::token_accounting::{TokenAccountingLayer, TokenLedger};
use llm_batch::{BoxError, LlmResponse};
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{Request, Script, item, request};

#[tokio::test(start_paused = true)]
async fn nobody_is_called_and_nothing_is_counted() {
    let one = item();
    let ledger = TokenLedger::new();
    let script = Script::new([]);
    let stack = (
        ItemTimeoutLayer::new(Duration::from_secs(1)),
        RetryLayer::new(RetryPolicy::new(3)),
        TokenAccountingLayer::new(ledger.clone()),
    )
        .layer(script.clone());
    let answer = DryRunLayer::new()
        .layer(stack)
        .oneshot(request(&one))
        .await
        .unwrap();
    assert_eq!(answer, LlmResponse::default());
    assert_eq!(answer.usage, None);
    one.signals().settle_call(true, true);
    assert_eq!((one.report().calls, one.report().unknown_usage_calls), (0, 0));
    assert_eq!((script.count(), ledger.snapshot().calls), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn inside_a_retry_it_is_no_call_either() {
    let one = item();
    let model = (
        RetryLayer::new(RetryPolicy::new(3)),
        DryRunLayer::new().answer_with(|request: &Request| LlmResponse::new(request.input().to_string())),
    )
        .layer(Script::new([]));
    assert_eq!(model.oneshot(request(&one)).await.unwrap().output, "hi");
    one.signals().settle_call(true, true);
    assert_eq!(one.report().calls, 0);
}

#[tokio::test]
async fn untracked_requests_have_dry_runs_too() {
    let model = DryRunLayer::new()
        .untracked()
        .layer(service_fn(async |_: u8| -> Result<u32, BoxError> {
            Err("called".into())
        }));
    assert_eq!(model.oneshot(1).await.unwrap(), 0);
}
