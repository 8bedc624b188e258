//! Who is woken when the gate closes or is opened by hand, and which gate holds an item.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use llm_batch::layer::rate_limiter::{RateLimiter, RateLimiterLayer, RateLimiters};
use llm_batch::layer::retry::{RetryLayer, RetryPolicy};
use llm_batch::{ErrorKind, LlmError, LlmRequest, LlmResponse, Prompt, Verdict};
use tokio::time::Instant;
use tower::{ServiceBuilder, ServiceExt, service_fn};

use crate::support::*;

#[tokio::test(start_paused = true)]
async fn closed_is_ready_when_the_gate_closes_or_latches() {
    let limiter = plain().build().unwrap();
    let mut waiting = pin!(limiter.closed());
    assert!(poll_once(waiting.as_mut()).is_none());
    call_now(&limiter, 0).unwrap().settle(&Verdict::SUCCESS, None);
    assert!(poll_once(waiting.as_mut()).is_none());
    call_now(&limiter, 0)
        .unwrap()
        .settle(&throttled_for(secs(3)), Some(0));
    assert!(poll_once(waiting).is_some());
    assert!(poll_once(limiter.closed()).is_some());

    tokio::time::sleep(secs(3)).await;
    let task = tokio::spawn(limiter.closed());
    tokio::task::yield_now().await;
    assert!(!task.is_finished());
    call_now(&limiter, 0)
        .unwrap()
        .settle(&fatal(ErrorKind::Authentication), Some(0));
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn closed_stays_pending_if_the_gate_opened_again_before_it_was_polled() {
    let limiter = plain().build().unwrap();
    let mut waiting = pin!(limiter.closed());
    assert!(poll_once(waiting.as_mut()).is_none());
    call_now(&limiter, 0)
        .unwrap()
        .settle(&throttled_for(secs(3)), Some(0));
    limiter.reopen();
    assert!(poll_once(waiting.as_mut()).is_none());
    call_now(&limiter, 0)
        .unwrap()
        .settle(&throttled_for(secs(3)), Some(0));
    assert!(poll_once(waiting).is_some());
}

#[tokio::test(start_paused = true)]
async fn opening_by_hand_frees_those_who_hold_for_their_own_hint() {
    let limiter = plain().build().unwrap();
    let held = limiter.clone();
    let task = tokio::spawn(async move {
        let waiting = held.acquire(0).held_until(Instant::now() + secs(590));
        let begin = Instant::now();
        drop(waiting.await.unwrap());
        begin.elapsed()
    });
    tokio::time::sleep(secs(7)).await;
    limiter.reopen();
    assert_about(task.await.unwrap(), secs(7));
}

/// The model "short" asks for 30 s, any other answers.
fn model(
    calls: &Arc<AtomicUsize>,
) -> impl tower::Service<LlmRequest, Response = LlmResponse, Error = LlmError, Future: Send> + Clone {
    let calls = Arc::clone(calls);
    service_fn(move |request: LlmRequest| {
        calls.fetch_add(1, Ordering::SeqCst);
        let short = request.input().model() == Some("short");
        async move {
            match short {
                true => Err(LlmError::rate_limit("slow down", Some(secs(30)))),
                false => Ok(LlmResponse::default()),
            }
        }
    })
}

#[tokio::test(start_paused = true)]
async fn a_hint_holds_the_item_at_the_gate_that_gave_it_only() {
    let limiters = RateLimiters::new(|_: &String| plain().build().unwrap());
    let scopes = limiters.clone();
    let calls = Arc::default();
    let service = ServiceBuilder::new()
        .layer(RetryLayer::new(RetryPolicy::new(3).on_error(
            |_: &LlmError, request: &mut LlmRequest| {
                let prompt = std::mem::take(request.input_mut());
                *request.input_mut() = prompt.with_model("other");
            },
        )))
        .layer(RateLimiterLayer::keyed(move |request: &LlmRequest| {
            scopes.get(request.input().model().unwrap_or("none"))
        }))
        .service(model(&calls));
    let begin = Instant::now();
    service
        .oneshot(LlmRequest::new(Prompt::from("hi").with_model("short")))
        .await
        .unwrap();
    assert_eq!(begin.elapsed(), secs(0));
    assert_eq!(calls.load(Ordering::SeqCst), 2);
    assert!(limiters.get("short").snapshot().closed_for.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_hint_from_before_the_gate_was_opened_by_hand_holds_nothing() {
    let limiter = plain().build().unwrap();
    let calls = Arc::default();
    let service = ServiceBuilder::new()
        .layer(RateLimiterLayer::new(limiter.clone()))
        .service(model(&calls));
    let request = LlmRequest::new(Prompt::from("hi").with_model("short"));
    let again = LlmRequest::for_item(Prompt::from("hi"), Arc::clone(request.item()));
    service.clone().oneshot(request).await.unwrap_err();
    limiter.reopen();
    let begin = Instant::now();
    service.oneshot(again).await.unwrap();
    assert_eq!(begin.elapsed(), secs(0));
}

#[test]
fn a_default_gate_is_not_closed() {
    assert!(poll_once(RateLimiter::default().closed()).is_none());
}
