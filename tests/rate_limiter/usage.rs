//! The token quota goes by what calls use, whoever says so, and by no garbage.

use std::sync::{Arc, Mutex};

use futures::future::join_all;
use llm_batch::layer::rate_limiter::{RateLimiter, RateLimiterLayer, Refused};
use llm_batch::layer::retry::{RetryLayer, RetryPolicy};
use llm_batch::{
    BoxError, Estimate, InResponse, LlmError, LlmRequest, LlmResponse, Prompt, TokenUsage, Verdict,
};
use tokio::time::Instant;
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};

use crate::support::*;

fn limited() -> RateLimiter {
    plain().tokens_per_minute(60_000).build().unwrap()
}

/// Tokens that were used, and when.
type Used = Arc<Mutex<Vec<(Instant, u64)>>>;

/// 600 calls of 1,000 tokens, 50 at once, at 60,000 a minute: ten minutes. Returns the most tokens of any minute.
async fn most_in_a_minute<S, Req>(service: S, request: impl Fn() -> Req, used: Used) -> u64
where
    S: Service<Req> + Clone,
    S::Error: std::fmt::Debug,
{
    let begin = Instant::now();
    join_all((0..50).map(|_| async {
        for _ in 0..12 {
            service.clone().oneshot(request()).await.unwrap();
        }
    }))
    .await;
    let took = begin.elapsed();
    assert!(took > secs(9 * 60), "{took:?}");
    assert!(took < secs(12 * 60), "{took:?}");
    let used = used.lock().unwrap();
    let windows = used.iter().map(|(from, _)| {
        let within = used
            .iter()
            .filter(|(at, _)| *at >= *from && *at < *from + secs(60));
        within.map(|(_, tokens)| tokens).sum()
    });
    windows.max().unwrap_or(0)
}

fn spend(used: &Used) -> TokenUsage {
    used.lock().unwrap().push((Instant::now(), 1_000));
    TokenUsage::new(900, 100)
}

#[tokio::test(start_paused = true)]
async fn a_stack_without_an_accounting_layer_keeps_its_quota() {
    let used = Used::default();
    let log = Arc::clone(&used);
    let service = ServiceBuilder::new()
        .layer(RetryLayer::new(RetryPolicy::new(3)))
        .layer(RateLimiterLayer::new(limited()))
        .service(service_fn(move |_: LlmRequest| {
            let usage = spend(&log);
            async move { Ok::<_, LlmError>(LlmResponse::new("ok".to_owned()).with_usage(usage)) }
        }));
    let most = most_in_a_minute(service, || LlmRequest::new(Prompt::from("hi")), used).await;
    // A minute, and the calls of the first moment, whose size was a guess.
    assert!(most <= 60_000 + 50_000, "{most}");
}

#[tokio::test(start_paused = true)]
async fn inputs_of_the_users_own_keep_it_by_what_earlier_calls_used() {
    #[derive(Clone)]
    struct Mine;
    let used = Used::default();
    let log = Arc::clone(&used);
    let layer = RateLimiterLayer::new(limited());
    let service = ServiceBuilder::new()
        .layer(layer)
        .service(service_fn(move |_: LlmRequest<Mine>| {
            let usage = spend(&log);
            async move { Ok::<_, LlmError>(LlmResponse::new(()).with_usage(usage)) }
        }));
    let most = most_in_a_minute(service, || LlmRequest::new(Mine), used).await;
    assert!(most <= 60_000 + 50_000, "{most}");
}

#[tokio::test(start_paused = true)]
async fn services_of_other_crates_keep_it_by_the_usage_they_are_asked_for() {
    let used = Used::default();
    let log = Arc::clone(&used);
    let by_reply = |outcome: Result<&u64, &BoxError>| Some(TokenUsage::new(*outcome.ok()?, 0));
    let service = ServiceBuilder::new()
        .layer(RateLimiterLayer::new(limited()).untracked().usage_with(by_reply))
        .service(service_fn(move |_: &'static str| {
            let usage = spend(&log);
            async move { Ok::<u64, BoxError>(usage.total()) }
        }));
    let most = most_in_a_minute(service, || "hello", used).await;
    assert!(most <= 60_000 + 50_000, "{most}");
}

#[tokio::test(start_paused = true)]
async fn untracked_requests_with_responses_of_this_crate() {
    let limiter = plain().tokens_per_minute(60_000).burst(secs(60)).build().unwrap();
    let inner = service_fn(async |tokens: u64| {
        Ok::<_, BoxError>(LlmResponse::new(()).with_usage(TokenUsage::new(tokens, 0)))
    });
    let layer = RateLimiterLayer::new(limiter.clone())
        .untracked()
        .estimate_with(|_: &u64| 100);
    let service = ServiceBuilder::new().layer(layer.clone()).service(inner);
    service.oneshot(700).await.unwrap();
    // A usage that is not read is unknown, and the estimate stays.
    assert_eq!(limiter.snapshot().tokens_available, Some(59_900.0));
    let service = ServiceBuilder::new()
        .layer(layer.usage_with(InResponse))
        .service(inner);
    service.oneshot(700).await.unwrap();
    assert_eq!(limiter.snapshot().tokens_available, Some(59_200.0));
}

#[tokio::test(start_paused = true)]
async fn without_an_estimate_a_call_waits_for_the_end_of_a_debt() {
    let limiter = limited();
    call_now(&limiter, 0).unwrap().settle(&Verdict::SUCCESS, Some(0));
    // Nothing is known but that one call used nothing: the next one reserves nothing.
    let call = call_now(&limiter, 0).unwrap();
    assert_eq!(call.estimate(), 0);
    call.settle(&Verdict::SUCCESS, Some(31_000));
    let (waited, call) = time_to_start(&limiter, 0).await;
    // 1,000 were there, so 30,000 are owed. The mean of 0 and 31,000, with the last one's weight, is reserved besides.
    assert!(waited > secs(30) && waited < secs(33), "{waited:?}");
    assert!((1..31_000).contains(&call.estimate()), "{}", call.estimate());
}

#[tokio::test(start_paused = true)]
async fn a_usage_that_cannot_be_closes_the_quota_for_minutes_not_years() {
    let log = Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    let limiter = limited();
    for used in [1_000_000_000_000, u64::MAX] {
        let call = call(&limiter, 500).await.unwrap();
        call.settle(&Verdict::SUCCESS, Some(used));
        let (waited, call) = time_to_start(&limiter, 500).await;
        assert!(waited <= secs(10 * 60 + 1), "{waited:?}");
        assert!(waited >= secs(10 * 60 - 2), "{waited:?}");
        call.settle(&Verdict::SUCCESS, Some(500));
    }
    let lines = log.lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("1000000000000 tokens"), "{lines:?}");
    // What garbage says does not become the mean.
    assert!(limiter.acquire(0).await.unwrap().start().unwrap().estimate() <= 600_500);
}

#[tokio::test(start_paused = true)]
async fn a_quota_that_nothing_feeds_is_logged_once() {
    let log = Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    let service = ServiceBuilder::new()
        .layer(RateLimiterLayer::new(limited()))
        .service(service_fn(async |_: LlmRequest<u8>| {
            Ok::<_, LlmError>(LlmResponse::new(()))
        }));
    for _ in 0..3 {
        service.clone().oneshot(LlmRequest::new(7)).await.unwrap();
    }
    let lines = log.lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("the token quota has no effect"), "{lines:?}");
    // With an estimate, or a usage, there is nothing to say.
    let quiet = Log::default();
    let _guard = tracing::subscriber::set_default(quiet.clone());
    let limiter = limited();
    call_now(&limiter, 10).unwrap().settle(&Verdict::SUCCESS, None);
    call_now(&limiter, 0).unwrap().settle(&Verdict::SUCCESS, Some(0));
    call_now(&limiter, 0)
        .unwrap()
        .settle(&throttled_for(millis(1)), None);
    assert!(
        quiet.lines().iter().all(|line| !line.contains("no effect")),
        "{:?}",
        quiet.lines()
    );
}

#[tokio::test(start_paused = true)]
async fn absurd_estimates_are_refused_or_change_nothing_for_others() {
    assert_eq!(llm_batch::CharacterEstimate.estimate(&LlmRequest::new(7_u8)), 0);
    assert!(matches!(
        limited().acquire(u64::MAX).await,
        Err(Refused::TooLarge { .. })
    ));
    let limiter = plain().max_in_flight(1).build().unwrap();
    for _ in 0..3 {
        let call = call(&limiter, u64::MAX).await.unwrap();
        call.settle(&Verdict::SUCCESS, Some(u64::MAX));
    }
    assert_eq!(limiter.snapshot().settled, 3);
}
