//! `async_openai` with streamed answers: a call ends with its stream.

use std::time::Duration;

use async_openai::Client;
use async_openai::config::OpenAIConfig;
use async_openai::middleware::ReqwestService;
use async_openai::types::chat::{
    ChatCompletionRequestUserMessageArgs, CreateChatCompletionRequest, CreateChatCompletionRequestArgs,
};
use futures::{StreamExt, stream};
use llm_batch::layer::http::{FinishedBody, HttpCallLayer};
use llm_batch::layer::rate_limiter::{RateLimiter, RateLimiterLayer};
use llm_batch::layer::retry::{RetryLayer, RetryPolicy};
use llm_batch::layer::timeout::{CallTimeoutLayer, ItemTimeoutLayer};
use llm_batch::layer::token_accounting::{TokenAccountingLayer, TokenLedger};
use llm_batch::{BoxError, HttpClassifier, TokenUsage};
use tower::{ServiceBuilder, ServiceExt};

use crate::streaming_server::{serve, until};

fn usage(outcome: Result<&http::Response<FinishedBody>, &BoxError>) -> Option<TokenUsage> {
    outcome.ok()?.body().json().rev().find_map(|value| {
        let usage = value.get("usage")?;
        Some(TokenUsage::new(
            usage["prompt_tokens"].as_u64()?,
            usage["completion_tokens"].as_u64()?,
        ))
    })
}

fn client(url: &str, ledger: &TokenLedger, limiter: &RateLimiter) -> Client<OpenAIConfig> {
    let policy = RetryPolicy::new(3).classify_with(HttpClassifier).untracked();
    let per_call = (
        RateLimiterLayer::new(limiter.clone())
            .classify_with(HttpClassifier)
            .untracked(),
        TokenAccountingLayer::new(ledger.clone())
            .usage_with(usage)
            .untracked(),
        CallTimeoutLayer::new(Duration::from_secs(60)),
    );
    let service = ServiceBuilder::new()
        .layer(ItemTimeoutLayer::new(Duration::from_secs(90)).untracked())
        .layer(RetryLayer::new(policy))
        .layer(HttpCallLayer::new(per_call))
        .service(ReqwestService::default().map_err(BoxError::from));
    Client::with_config(OpenAIConfig::new().with_api_base(url).with_api_key("none"))
        .with_http_service(service)
}

fn question() -> CreateChatCompletionRequest {
    let message = ChatCompletionRequestUserMessageArgs::default()
        .content("6 times 7?")
        .build()
        .unwrap();
    CreateChatCompletionRequestArgs::default()
        .model("m-1")
        .messages([message.into()])
        .stream(true)
        .build()
        .unwrap()
}

#[tokio::test]
async fn the_cap_holds_while_answers_stream_and_their_usage_is_known() {
    let (url, under_way) = serve().await;
    let limiter = RateLimiter::builder().max_in_flight(5).build().unwrap();
    let ledger = TokenLedger::new();
    let client = client(&url, &ledger, &limiter);
    let answers = stream::iter(0..60).map(|_| {
        let client = client.clone();
        async move {
            let mut pieces = client.chat().create_stream(question()).await.unwrap();
            let mut text = String::new();
            while let Some(piece) = pieces.next().await {
                for choice in piece.unwrap().choices {
                    text.extend(choice.delta.content);
                }
            }
            text
        }
    });
    let texts: Vec<_> = answers.buffer_unordered(60).collect().await;
    assert!(texts.iter().all(|text| text == "42"));
    assert_eq!(under_way.most(), 5);
    // The client stops reading at the last event; the calls are still complete.
    until(|| ledger.snapshot().calls == 60).await;
    let counted = ledger.snapshot();
    assert_eq!((counted.failed_calls, counted.unknown_usage_calls), (0, 0));
    assert_eq!(counted.usage, TokenUsage::new(600, 120));
    assert_eq!(
        (limiter.snapshot().in_flight, limiter.snapshot().settled),
        (0, 60)
    );
}

#[tokio::test]
async fn an_answer_that_is_left_is_a_cancelled_call() {
    let (url, under_way) = serve().await;
    let limiter = RateLimiter::default();
    let ledger = TokenLedger::new();
    let client = client(&format!("{url}/stalls"), &ledger, &limiter);
    let mut pieces = client.chat().create_stream(question()).await.unwrap();
    pieces.next().await.unwrap().unwrap();
    assert_eq!((under_way.now(), limiter.snapshot().in_flight), (1, 1));
    drop(pieces);
    until(|| ledger.snapshot().calls == 1).await;
    let counted = ledger.snapshot();
    assert_eq!((counted.failed_calls, counted.unknown_usage_calls), (1, 1));
    until(|| under_way.now() == 0 && limiter.snapshot().in_flight == 0).await;
}
