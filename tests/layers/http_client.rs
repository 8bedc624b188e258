//! A real `reqwest::Client`, whose calls end with their bodies, against a real server.

use std::time::Duration;

use futures::{FutureExt, StreamExt, stream};
use llm_batch::layer::http::{FinishedBody, HttpCallLayer};
use llm_batch::layer::rate_limiter::RateLimiter;
use llm_batch::layer::timeout::TimedOut;
use llm_batch::layer::token_accounting::TokenLedger;
use llm_batch::{
    BoxError, CallTimeoutLayer, HttpClassifier, RateLimiterLayer, TokenAccountingLayer, TokenUsage,
};
use tower::{Service, ServiceBuilder, ServiceExt};

use crate::streaming_server::{EVENTS, serve, until};

fn usage(outcome: Result<&http::Response<FinishedBody>, &BoxError>) -> Option<TokenUsage> {
    outcome.ok()?.body().json().rev().find_map(|value| {
        let usage = value.get("usage")?;
        Some(TokenUsage::new(
            usage["prompt_tokens"].as_u64()?,
            usage["completion_tokens"].as_u64()?,
        ))
    })
}

fn client(
    limiter: &RateLimiter,
    ledger: &TokenLedger,
    limit: Duration,
) -> impl Service<
    reqwest::Request,
    Response = reqwest::Response,
    Error = BoxError,
    Future = impl Future<Output = Result<reqwest::Response, BoxError>> + Send + 'static,
> + Clone
+ Send
+ 'static {
    let per_call = ServiceBuilder::new()
        .layer(
            RateLimiterLayer::new(limiter.clone())
                .classify_with(HttpClassifier)
                .untracked(),
        )
        .layer(
            TokenAccountingLayer::new(ledger.clone())
                .usage_with(usage)
                .untracked(),
        )
        .layer(CallTimeoutLayer::new(limit))
        .into_inner();
    ServiceBuilder::new()
        .layer(HttpCallLayer::new(per_call))
        .map_err(BoxError::from)
        .service(reqwest::Client::builder().no_proxy().build().unwrap())
}

fn request(url: &str) -> reqwest::Request {
    reqwest::Client::new().post(url).body("{}").build().unwrap()
}

#[tokio::test]
async fn the_cap_holds_while_bodies_stream() {
    let (url, under_way) = serve().await;
    let limiter = RateLimiter::builder().max_in_flight(5).build().unwrap();
    let ledger = TokenLedger::new();
    let model = client(&limiter, &ledger, Duration::from_secs(60));
    let calls = stream::iter(0..40).map(|_| {
        let head = model.clone().oneshot(request(&url)).boxed();
        let url = &url;
        async move {
            let response = head.await.unwrap();
            assert_eq!(response.url().as_str(), url);
            assert!(response.remote_addr().is_some());
            response.text().await.unwrap()
        }
    });
    let whole = EVENTS.map(|event| format!("{event}\n\n")).concat();
    let texts: Vec<_> = calls.buffer_unordered(40).collect().await;
    assert!(texts.iter().all(|text| *text == whole));
    assert_eq!(under_way.most(), 5);
    assert_eq!(
        (limiter.snapshot().in_flight, limiter.snapshot().settled),
        (0, 40)
    );
    let counted = ledger.snapshot();
    assert_eq!(
        (counted.calls, counted.failed_calls, counted.unknown_usage_calls),
        (40, 0, 0)
    );
    assert_eq!(counted.usage, TokenUsage::new(400, 80));
}

#[tokio::test]
async fn a_body_that_is_dropped_cancels_its_call_and_frees_its_connection() {
    let (url, under_way) = serve().await;
    let limiter = RateLimiter::builder().max_in_flight(1).build().unwrap();
    let ledger = TokenLedger::new();
    let model = client(&limiter, &ledger, Duration::from_secs(60));
    let mut response = (model.clone().oneshot(request(&format!("{url}/stalls"))))
        .await
        .unwrap();
    let first = response.chunk().await.unwrap().unwrap();
    assert!(first.starts_with(b"data: "));
    assert_eq!((under_way.now(), limiter.snapshot().in_flight), (1, 1));
    drop(response);
    assert_eq!(limiter.snapshot().in_flight, 0);
    let counted = ledger.snapshot();
    assert_eq!(
        (counted.calls, counted.failed_calls, counted.unknown_usage_calls),
        (1, 1, 1)
    );
    until(|| under_way.now() == 0).await;
    // The next call gets the permit.
    let response = model.oneshot(request(&url)).await.unwrap();
    response.bytes().await.unwrap();
    assert_eq!(ledger.snapshot().usage, TokenUsage::new(10, 2));
}

#[tokio::test]
async fn the_call_timeout_ends_a_body_that_stalls() {
    let (url, under_way) = serve().await;
    let limiter = RateLimiter::default();
    let ledger = TokenLedger::new();
    let model = client(&limiter, &ledger, Duration::from_secs(2));
    let response = (model.oneshot(request(&format!("{url}/stalls")))).await.unwrap();
    let error = BoxError::from(response.text().await.unwrap_err());
    let chain = std::iter::successors(Some(&*error as &(dyn std::error::Error + 'static)), |error| {
        error.source()
    });
    assert!(chain.into_iter().any(|error| error.is::<TimedOut>()), "{error:?}");
    assert_eq!(limiter.snapshot().in_flight, 0);
    assert_eq!(ledger.snapshot().unknown_usage_calls, 1);
    until(|| under_way.now() == 0).await;
}
