//! `async_openai` with this crate's layers as its HTTP service.

use std::time::Duration;

use async_openai::Client;
use async_openai::config::OpenAIConfig;
use async_openai::error::OpenAIError;
use async_openai::middleware::ReqwestService;
use async_openai::types::chat::{
    ChatCompletionRequestUserMessageArgs, CreateChatCompletionRequest, CreateChatCompletionRequestArgs,
};
use llm_batch::layer::retry::{RetryLayer, RetryPolicy};
use llm_batch::layer::timeout::{CallTimeoutLayer, ItemTimeoutLayer};
use llm_batch::layer::token_accounting::{TokenAccountingLayer, TokenLedger};
use llm_batch::{BoxError, Disposition, ErrorKind, Verdict};
use tower::{ServiceBuilder, ServiceExt};

use crate::server::serve;

/// What the status says, where the provider answered; a connection that failed is tried again.
fn by_status<E>(outcome: Result<&reqwest::Response, &E>) -> Verdict {
    match outcome.map(|response| response.status().as_u16()) {
        Ok(429) => Verdict::of_kind(ErrorKind::RateLimit),
        Ok(500..) => Verdict::of_kind(ErrorKind::ServerError),
        Ok(400..) => Verdict::of_kind(ErrorKind::InvalidRequest),
        Ok(_) => Verdict::SUCCESS,
        Err(_) => Verdict::new(Disposition::Backoff),
    }
}

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

fn client(url: &str, ledger: &TokenLedger) -> Client<OpenAIConfig> {
    let policy = RetryPolicy::new(3)
        .initial_backoff(Duration::from_millis(1))
        .classify_with(by_status::<BoxError>)
        .untracked();
    let service = ServiceBuilder::new()
        .layer(ItemTimeoutLayer::new(Duration::from_secs(60)).untracked())
        .layer(RetryLayer::new(policy))
        .layer(
            TokenAccountingLayer::new(ledger.clone())
                // The body is not read yet: what was used is unknown here.
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
    let ledger = TokenLedger::new();
    let answer = client(&server.url, &ledger)
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
}

#[tokio::test]
async fn what_cannot_be_cured_reaches_the_caller_as_the_clients_own_error() {
    let server = serve([400]).await;
    let error = client(&server.url, &TokenLedger::new())
        .chat()
        .create(question())
        .await
        .unwrap_err();
    assert!(matches!(error, OpenAIError::ApiError(_)), "{error:?}");
    assert!(server.is_played_out());
}
