//! A plain `reqwest::Client` as the service inside.

use std::time::Duration;

use llm_batch::layer::rate_limiter::{RateLimiter, RateLimiterLayer};
use llm_batch::layer::retry::{RetryLayer, RetryPolicy};
use llm_batch::layer::timeout::{CallTimeoutLayer, ItemTimeoutLayer};
use llm_batch::layer::token_accounting::{TokenAccountingLayer, TokenLedger};
use llm_batch::{BoxError, ErrorKind, TokenUsage, Verdict};
use tower::{ServiceBuilder, ServiceExt};

use crate::server::serve;

#[tokio::test]
async fn a_reqwest_client_is_retried_and_accounted() {
    let server = serve([503, 429, 200]).await;
    let url = format!("{}/chat/completions", server.url);
    let ledger = TokenLedger::new();
    let by_status = |outcome: Result<&reqwest::Response, &BoxError>| match outcome {
        Ok(response) if response.status() == 429 => Verdict::of_kind(ErrorKind::RateLimit),
        Ok(response) if response.status().is_success() => Verdict::SUCCESS,
        Ok(_) => Verdict::of_kind(ErrorKind::Overloaded),
        Err(_) => Verdict::of_kind(ErrorKind::Connection),
    };
    let limiter = RateLimiter::default();
    let policy = RetryPolicy::new(3)
        .initial_backoff(Duration::from_millis(1))
        .classify_with(by_status)
        .untracked();
    let model = ServiceBuilder::new()
        .layer(ItemTimeoutLayer::new(Duration::from_secs(60)).untracked())
        .layer(RetryLayer::new(policy))
        .layer(
            RateLimiterLayer::new(limiter.clone())
                .classify_with(by_status)
                .untracked(),
        )
        .layer(
            TokenAccountingLayer::new(ledger.clone())
                .usage_with(|outcome: Result<&reqwest::Response, &BoxError>| {
                    // Rejected calls cost nothing; the body of the answer has not arrived yet.
                    outcome
                        .is_ok_and(|response| !response.status().is_success())
                        .then_some(TokenUsage::ZERO)
                })
                .untracked(),
        )
        .layer(CallTimeoutLayer::new(Duration::from_secs(30)))
        .map_err(BoxError::from)
        // A `reqwest::Request` is not `Clone`; the data from which it is built is.
        .map_request(move |body: String| reqwest::Client::new().post(&url).body(body).build().unwrap())
        .service(reqwest::Client::new());
    let response = model.oneshot("{}".to_owned()).await.unwrap();
    let body: serde_json::Value = response.json().await.unwrap();
    assert_eq!(body["usage"]["total_tokens"], 12);
    assert!(server.is_played_out());
    let snapshot = ledger.snapshot();
    assert_eq!((snapshot.calls, snapshot.unknown_usage_calls), (3, 1));
    assert_eq!((limiter.snapshot().granted, limiter.snapshot().throttled), (3, 1));
}

#[tokio::test]
async fn a_connection_that_is_refused_fails_as_reqwest_says() {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind(("127.0.0.1", 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let model = ServiceBuilder::new()
        .layer(CallTimeoutLayer::new(Duration::from_secs(30)))
        .map_err(BoxError::from)
        .service(reqwest::Client::new());
    let request = reqwest::Client::new()
        .get(format!("http://127.0.0.1:{port}/"))
        .build()
        .unwrap();
    let error = model.oneshot(request).await.unwrap_err();
    assert!(error.downcast_ref::<reqwest::Error>().unwrap().is_connect());
}
