//! `async_openai` with this crate's layers as its HTTP service.

use std::time::Duration;

use async_openai::Client;
use async_openai::config::OpenAIConfig;
use async_openai::error::OpenAIError;
use async_openai::middleware::ReqwestService;
use async_openai::types::chat::{
    ChatCompletionRequestUserMessageArgs, CreateChatCompletionRequest, CreateChatCompletionRequestArgs,
};
use llm_batch::layer::rate_limiter::{RateLimiter, RateLimiterLayer};
use llm_batch::layer::retry::{RetryLayer, RetryPolicy};
use llm_batch::layer::timeout::{CallTimeoutLayer, ItemTimeoutLayer};
use llm_batch::layer::token_accounting::{TokenAccountingLayer, TokenLedger};
use llm_batch::{BoxError, HttpClassifier};
use tower::{ServiceBuilder, ServiceExt};

use crate::server::serve;

fn question() -> CreateChatCompletionRequest {
    let message = ChatCompletionRequestUserMessageArgs::default()
        .content("6 times 7?")
        .build()
        .unwrap();
    CreateChatCompletionRequestArgs::default()
        .model("m-1")
        .messages([message.into()])
        .build()
        .unwrap()
}

fn client(url: &str, ledger: &TokenLedger, limiter: &RateLimiter) -> Client<OpenAIConfig> {
    let policy = RetryPolicy::new(3)
        .initial_backoff(Duration::from_millis(1))
        .classify_with(HttpClassifier)
        .untracked();
    let service = ServiceBuilder::new()
        .layer(ItemTimeoutLayer::new(Duration::from_secs(60)).untracked())
        .layer(RetryLayer::new(policy))
        .layer(
            RateLimiterLayer::new(limiter.clone())
                .classify_with(HttpClassifier)
                .untracked(),
        )
        .layer(
            TokenAccountingLayer::new(ledger.clone())
                // The body was not read yet, so the usage is unknown here.
                .usage_with(|_: Result<&reqwest::Response, &BoxError>| None)
                .untracked(),
        )
        .layer(CallTimeoutLayer::new(Duration::from_secs(30)))
        .service(ReqwestService::default().map_err(BoxError::from));
    Client::with_config(OpenAIConfig::new().with_api_base(url).with_api_key("none"))
        .with_http_service(service)
}

#[tokio::test]
async fn throttles_and_failures_are_cured_below_the_client() {
    let server = serve([429, 500, 429, 200]).await;
    let (ledger, limiter) = (TokenLedger::new(), RateLimiter::default());
    let answer = client(&server.url, &ledger, &limiter)
        .chat()
        .create(question())
        .await
        .unwrap();
    assert_eq!(answer.choices[0].message.content.as_deref(), Some("42"));
    assert!(server.is_played_out());
    assert_eq!(
        (ledger.snapshot().calls, ledger.snapshot().unknown_usage_calls),
        (4, 4)
    );
    let gate = limiter.snapshot();
    assert_eq!((gate.granted, gate.throttled, gate.in_flight), (4, 2, 0));
}

#[tokio::test]
async fn what_cannot_be_cured_reaches_the_caller_as_the_clients_own_error() {
    let server = serve([400]).await;
    let error = client(&server.url, &TokenLedger::new(), &RateLimiter::default())
        .chat()
        .create(question())
        .await
        .unwrap_err();
    assert!(matches!(error, OpenAIError::ApiError(_)), "{error:?}");
    assert!(server.is_played_out());
}
