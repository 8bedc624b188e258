//! Under the retry layer, in a batch.

use std::time::Duration;

use futures::{StreamExt, stream};
use llm_batch::layer::standard::StandardLayer;
use llm_batch::testing::SimulatedProvider;
use llm_batch::{
    ErrorKind, FinishReason, InvalidOutput, LlmRequest, LlmStreamExt, Message, RetryLayer, RetryPolicy,
    StructuredExt, TokenUsage,
};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::time::Instant;
use tower::{Layer, ServiceExt};

use crate::support::{GOOD, Review, Script, ends_with, good, says};

#[tokio::test(start_paused = true)]
async fn an_invalid_answer_is_asked_for_again_at_once_and_both_calls_count() {
    let script = Script::new([says(r#"{"product": "lamp"}"#), says(GOOD)]);
    let standard = StandardLayer::new();
    let model = standard.layer(script.clone().structured::<Review>());
    let begun = Instant::now();
    let mut results = stream::iter(["?"]).with_strategy(model).llm_batch(1);
    let outcome = results.next().await.unwrap();
    assert_eq!(outcome.result.unwrap().output, good());
    assert_eq!((outcome.report.attempts, outcome.report.calls), (2, 2));
    assert_eq!(outcome.report.usage, TokenUsage::new(20, 10));
    assert_eq!(outcome.report.unknown_usage_calls, 0);
    assert_eq!(outcome.report.waits.total(), Duration::ZERO);
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert_eq!(standard.ledger().snapshot().usage, TokenUsage::new(20, 10));
}

#[tokio::test(start_paused = true)]
async fn the_last_failure_tells_what_was_wrong() {
    let script = Script::new((0..3).map(|_| says("{}")));
    let model = StandardLayer::new().layer(script.clone().structured::<Review>());
    let error = model.oneshot(LlmRequest::new("?".into())).await.unwrap_err();
    assert_eq!(script.calls(), 3);
    assert_eq!(error.kind(), ErrorKind::Validation);
    let paths: Vec<_> = InvalidOutput::of(&error)
        .unwrap()
        .faults
        .iter()
        .map(|fault| fault.path.clone())
        .collect();
    assert_eq!(paths, ["/product", "/stars"]);
}

#[tokio::test(start_paused = true)]
async fn a_cut_answer_is_not_asked_for_again() {
    let script = Script::new([ends_with("{\"product\":", FinishReason::Length)]);
    let model = StandardLayer::new().layer(script.clone().structured::<Review>());
    let error = model.oneshot(LlmRequest::new("?".into())).await.unwrap_err();
    assert_eq!((error.kind(), script.calls()), (ErrorKind::Truncated, 1));
}

#[tokio::test(start_paused = true)]
async fn a_hook_can_tell_the_model_what_was_wrong() {
    let script = Script::new([says(r#"{"product": "lamp", "stars": 7}"#), says(GOOD)]);
    let policy = RetryPolicy::new(2).on_error(|error, next: &mut LlmRequest| {
        if let Some(invalid) = InvalidOutput::of(error) {
            next.input_mut()
                .messages_mut()
                .push(Message::user(format!("Wrong: {invalid}")));
        }
    });
    let model = RetryLayer::new(policy).layer(script.clone().structured::<Review>());
    model.oneshot(LlmRequest::new("?".into())).await.unwrap();
    let requests = script.requests.lock().unwrap();
    let messages = requests[1].input().messages();
    assert_eq!(
        messages[1],
        Message::user("Wrong: /stars: 7 is greater than the maximum of 5")
    );
}

#[tokio::test(start_paused = true)]
async fn every_item_of_a_batch_is_typed_in_the_end_and_the_books_agree() {
    #[derive(Deserialize, JsonSchema)]
    struct Answer {
        text: String,
        #[schemars(range(min = 1, max = 9))]
        count: u8,
    }
    let provider = SimulatedProvider::builder()
        .invalid_json_rate(0.3)
        .seed(7)
        .build()
        .unwrap();
    let standard = StandardLayer::new().with_max_attempts(12);
    let model = standard.layer(provider.service().structured::<Answer>());
    let prompts = stream::iter((0..200).map(|n| format!("question {n}")));
    let mut results = prompts.with_strategy(model).llm_batch(20);
    let mut used = TokenUsage::ZERO;
    let mut calls = 0;
    while let Some(outcome) = results.next().await {
        let answer = outcome.result.unwrap().output;
        assert!(!answer.text.is_empty() && (1..=9).contains(&answer.count));
        used += outcome.report.usage;
        calls += u64::from(outcome.report.calls);
    }
    let ledger = provider.ledger();
    assert!(calls > 230, "{calls}");
    assert_eq!((ledger.received, ledger.billed_answered), (calls, used));
}
