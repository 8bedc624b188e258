//! The layer around a service: tower's contract, the item's record, settlement, scopes, events.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use llm_batch::layer::rate_limiter::{
    RateLimited, RateLimitedFuture, RateLimiter, RateLimiterLayer, RateLimiters, Refused, SlowStart,
};
use llm_batch::layer::retry::{RetryLayer, RetryPolicy};
use llm_batch::layer::token_accounting::{TokenAccountingLayer, TokenLedger};
use llm_batch::{
    Disposition, ErrorKind, EventKind, Events, Item, ItemId, KindClassifier, LlmError, LlmRequest,
    LlmResponse, Prompt, QuotaDimension, ReportedQuota, TokenUsage, Verdict, WaitReason,
};
use tokio::time::Instant;
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};

use crate::support::*;

type Response = LlmResponse<String>;

fn answer(tokens: u64) -> Response {
    LlmResponse::new("ok".to_owned()).with_usage(TokenUsage::new(tokens, 0))
}

fn request() -> LlmRequest {
    LlmRequest::new(Prompt::from("hi"))
}

/// Every instance must be made ready before its call, and a clone is not ready.
#[derive(Default)]
struct ReadyEachTime {
    ready: bool,
    polls: usize,
    held: Arc<AtomicUsize>,
}

impl Clone for ReadyEachTime {
    fn clone(&self) -> Self {
        Self {
            ready: false,
            polls: 0,
            held: Arc::clone(&self.held),
        }
    }
}

impl Drop for ReadyEachTime {
    fn drop(&mut self) {
        if self.ready {
            self.held.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Service<LlmRequest> for ReadyEachTime {
    type Response = Response;
    type Error = LlmError;
    type Future = std::future::Ready<Result<Response, LlmError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), LlmError>> {
        if self.polls < 2 {
            self.polls += 1;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if !self.ready {
            self.ready = true;
            self.held.fetch_add(1, Ordering::SeqCst);
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: LlmRequest) -> Self::Future {
        assert!(self.ready, "called an instance that was not ready");
        self.ready = false;
        self.held.fetch_sub(1, Ordering::SeqCst);
        std::future::ready(Ok(answer(1)))
    }
}

#[tokio::test(start_paused = true)]
async fn the_instance_that_was_made_ready_is_the_one_that_is_called() {
    let limiter = plain().requests_per_minute(600).build().unwrap();
    let probe = ReadyEachTime::default();
    let held = Arc::clone(&probe.held);
    let mut service = RateLimiterLayer::new(limiter).layer_on(probe);
    for _ in 0..20 {
        service.ready().await.unwrap().call(request()).await.unwrap();
    }
    // Ready, and then dropped without a call: nothing is held inside.
    service.ready().await.unwrap();
    assert_eq!(held.load(Ordering::SeqCst), 0);
    drop(service);
    assert_eq!(held.load(Ordering::SeqCst), 0);
}

trait LayerOn<S>: tower::Layer<S> + Sized {
    fn layer_on(&self, inner: S) -> Self::Service {
        self.layer(inner)
    }
}

impl<S, L: tower::Layer<S>> LayerOn<S> for L {}

#[tokio::test(start_paused = true)]
async fn nothing_inside_is_held_while_a_call_waits_again() {
    // The gate closes while the service inside gets ready: the call goes back to the queue and lets go of it.
    let limiter = plain().build().unwrap();
    let probe = ReadyEachTime::default();
    let held = Arc::clone(&probe.held);
    let service = RateLimiterLayer::new(limiter.clone()).layer_on(probe);
    let closer = call_now(&limiter, 0).unwrap();
    let begin = Instant::now();
    let mut call = Box::pin(service.oneshot(request()));
    assert!(poll_once(call.as_mut()).is_none());
    closer.settle(&throttled_for(secs(9)), Some(0));
    assert!(poll_for(secs(1), call.as_mut()).await.is_none());
    assert_eq!(held.load(Ordering::SeqCst), 0);
    assert_eq!(limiter.snapshot().in_flight, 0);
    call.await.unwrap();
    assert_about(begin.elapsed(), secs(9));
}

#[tokio::test(start_paused = true)]
async fn around_a_real_concurrency_limit() {
    let limiter = plain().requests_per_minute(6000).build().unwrap();
    struct Running(Arc<AtomicUsize>);
    impl Drop for Running {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let running = Arc::new(AtomicUsize::new(0));
    let service = ServiceBuilder::new()
        .layer(RateLimiterLayer::new(limiter.clone()))
        .concurrency_limit(2)
        .service(service_fn(move |_: LlmRequest| {
            let running = Arc::clone(&running);
            async move {
                assert!(running.fetch_add(1, Ordering::SeqCst) < 2);
                let _running = Running(running);
                tokio::time::sleep(millis(70)).await;
                Ok::<_, LlmError>(answer(1))
            }
        }));
    let tasks: Vec<_> = (0..40)
        .map(|_| tokio::spawn(service.clone().oneshot(request())))
        .collect();
    for (number, task) in tasks.into_iter().enumerate() {
        // Some go in the middle of it, from wherever they are.
        if number % 5 == 3 {
            task.abort();
            let _ = task.await;
        } else {
            task.await.unwrap().unwrap();
        }
    }
    let snapshot = limiter.snapshot();
    assert_eq!((snapshot.in_flight, snapshot.waiting), (0, 0));
    assert_eq!(snapshot.granted, snapshot.returned + snapshot.settled);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_response_future_gives_everything_back() {
    let limiter = plain()
        .max_in_flight(1)
        .tokens_per_minute(1000)
        .burst(secs(60))
        .build()
        .unwrap();
    let service = RateLimiterLayer::new(limiter.clone())
        .estimate_with(|_: &LlmRequest| 100)
        .layer_on(service_fn(|_: LlmRequest| {
            std::future::pending::<Result<Response, LlmError>>()
        }));
    // Never polled.
    drop(service.clone().oneshot(request()));
    assert_eq!(limiter.snapshot().granted, 0);
    // In the call, with another one in the queue.
    let running = poll_for(secs(0), Box::pin(service.clone().oneshot(request()))).await;
    assert!(running.is_none());
    let snapshot = limiter.snapshot();
    assert_eq!(
        (snapshot.granted, snapshot.settled, snapshot.in_flight),
        (1, 1, 0)
    );
    assert_eq!(snapshot.tokens_available, Some(900.0), "it may be billed");
    let mut first = Box::pin(service.clone().oneshot(request()));
    assert!(poll_once(first.as_mut()).is_none());
    let mut queued = Box::pin(service.oneshot(request()));
    assert!(poll_once(queued.as_mut()).is_none());
    assert_eq!(limiter.snapshot().waiting, 1);
    drop(queued);
    assert_eq!(limiter.snapshot().waiting, 0);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_fails_to_get_ready_costs_nothing() {
    #[derive(Clone)]
    struct NeverReady;
    impl Service<LlmRequest> for NeverReady {
        type Response = Response;
        type Error = LlmError;
        type Future = std::future::Ready<Result<Response, LlmError>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), LlmError>> {
            Poll::Ready(Err(LlmError::fatal("broken")))
        }
        fn call(&mut self, _: LlmRequest) -> Self::Future {
            unreachable!()
        }
    }
    let limiter = plain().requests_per_minute(60).build().unwrap();
    let item = Item::new(ItemId::Index(0), 0);
    let service = RateLimiterLayer::new(limiter.clone()).layer_on(NeverReady);
    service
        .oneshot(LlmRequest::for_item(Prompt::from("hi"), item.clone()))
        .await
        .unwrap_err();
    assert_eq!(limiter.snapshot().requests_available, Some(1.0));
    assert_eq!(item.report().calls, 0);
}

#[tokio::test(start_paused = true)]
async fn a_panic_settles_once() {
    let limiter = plain().max_in_flight(1).build().unwrap();
    for in_call in [true, false] {
        let service = RateLimiterLayer::new(limiter.clone()).layer_on(service_fn(move |_: LlmRequest| {
            assert!(!in_call, "in call");
            async { panic!("in poll") as Result<Response, LlmError> }
        }));
        let item = Item::new(ItemId::Index(0), 0);
        let task = tokio::spawn(service.oneshot(LlmRequest::for_item(Prompt::from("hi"), item.clone())));
        assert!(task.await.unwrap_err().is_panic());
        let report = item.report();
        assert_eq!((report.calls, report.unknown_usage_calls), (1, 1));
    }
    let snapshot = limiter.snapshot();
    assert_eq!((snapshot.in_flight, snapshot.settled), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn usage_that_the_layers_inside_observed_settles_the_reservation() {
    let limiter = plain().tokens_per_minute(60_000).burst(secs(60)).build().unwrap();
    let taken = || 60_000.0 - limiter.snapshot().tokens_available.unwrap();
    let outcomes: [(Result<Response, LlmError>, f64); 6] = [
        (Ok(answer(70)), 70.0),
        (Ok(answer(2000)), 2000.0),
        (Ok(LlmResponse::new(String::new())), 100.0),
        (Err(LlmError::rate_limit("slow down", Some(millis(10)))), 0.0),
        (Err(LlmError::new(ErrorKind::InvalidRequest, "no")), 0.0),
        (Err(LlmError::new(ErrorKind::ServerError, "oops")), 100.0),
    ];
    for accounted in [true, false] {
        for (outcome, expected) in &outcomes {
            let again = match outcome {
                Ok(response) => Ok(response.clone()),
                Err(error) => Err((error.kind(), error.retry_after())),
            };
            let inner = service_fn(move |_: LlmRequest| {
                let outcome = again.clone().map_err(|(kind, hint)| match hint {
                    Some(hint) => LlmError::new(kind, "").with_retry_after(hint),
                    None => LlmError::new(kind, ""),
                });
                async { outcome }
            });
            let layer = RateLimiterLayer::new(limiter.clone()).estimate_with(|_: &LlmRequest| 100);
            let before = taken();
            if accounted {
                let service = ServiceBuilder::new()
                    .layer(layer)
                    .layer(TokenAccountingLayer::new(TokenLedger::new()))
                    .service(inner);
                let _ = service.oneshot(request()).await;
            } else {
                // The gate reads the usage by itself.
                let _ = layer.layer_on(inner).oneshot(request()).await;
            }
            assert_eq!(taken() - before, *expected, "{outcome:?}");
            tokio::time::sleep(secs(60)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_observed_before_a_call_was_cut_counts() {
    let limiter = plain().tokens_per_minute(600).burst(secs(60)).build().unwrap();
    let service = RateLimiterLayer::new(limiter.clone())
        .estimate_with(|_: &LlmRequest| 100)
        .layer_on(service_fn(async |mut request: LlmRequest| {
            let call = request.begin_call().unwrap();
            call.observe(Some(TokenUsage::new(30, 0)));
            std::future::pending::<()>().await;
            Ok::<_, LlmError>(answer(1))
        }));
    assert!(poll_for(secs(0), service.oneshot(request())).await.is_none());
    assert_eq!(limiter.snapshot().tokens_available, Some(570.0));
}

#[tokio::test(start_paused = true)]
async fn waits_are_attributed_to_what_held_the_item() {
    let limiter = plain()
        .max_in_flight(1)
        .requests_per_minute(60)
        .tokens_per_minute(600)
        .build()
        .unwrap();
    let service = RateLimiterLayer::new(limiter.clone())
        .estimate_with(|_: &LlmRequest| 10)
        .layer_on(service_fn(async |_: LlmRequest| {
            tokio::time::sleep(millis(400)).await;
            Ok::<_, LlmError>(answer(1))
        }));
    let first = call_now(&limiter, 10).unwrap();
    let item = Item::new(ItemId::Index(0), 0);
    let begin = Instant::now();
    let call = tokio::spawn(service.oneshot(LlmRequest::for_item(Prompt::from("hi"), item.clone())));
    tokio::time::sleep(millis(300)).await;
    // 0.3 s for the cap, then a pause of 2 s, then 58 tokens' time for a debt.
    first.settle(&throttled_for(secs(2)), Some(100));
    call.await.unwrap().unwrap();
    let waits = item.report().waits;
    assert_about(waits.in_flight, millis(300));
    assert_about(waits.cooldown, secs(2));
    assert_about(waits.tokens, millis(7700));
    assert_eq!(waits.requests + waits.pace + waits.backoff, Duration::ZERO);
    assert_about(waits.total() + millis(400), begin.elapsed());
    assert_about(item.report().call_time, millis(400));
}

#[tokio::test(start_paused = true)]
async fn what_an_item_waited_before_it_was_dropped_is_in_its_record() {
    let limiter = plain().build().unwrap();
    call_now(&limiter, 0)
        .unwrap()
        .settle(&throttled_for(secs(60)), None);
    let item = Item::new(ItemId::Index(0), 0);
    let service = RateLimiterLayer::new(limiter)
        .layer_on(service_fn(async |_: LlmRequest| Ok::<_, LlmError>(answer(1))));
    let call = service.oneshot(LlmRequest::for_item(Prompt::from("hi"), item.clone()));
    assert!(poll_for(secs(7), call).await.is_none());
    assert_about(item.report().waits.get(WaitReason::Cooldown), secs(7));
    assert_eq!(item.report().calls, 0);
}

#[tokio::test(start_paused = true)]
async fn under_a_retry_policy_the_gate_is_the_wait_after_a_throttle() {
    let limiter = plain().build().unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let inner = Arc::clone(&calls);
    let service = ServiceBuilder::new()
        .layer(RetryLayer::new(RetryPolicy::new(3)))
        .layer(RateLimiterLayer::new(limiter.clone()))
        .service(service_fn(move |_: LlmRequest| {
            let number = inner.fetch_add(1, Ordering::SeqCst);
            async move {
                if number < 2 {
                    Err(LlmError::rate_limit("slow down", Some(secs(5))))
                } else {
                    Ok(answer(1))
                }
            }
        }));
    let item = Item::new(ItemId::Index(0), 0);
    let begin = Instant::now();
    service
        .oneshot(LlmRequest::for_item(Prompt::from("hi"), item.clone()))
        .await
        .unwrap();
    assert_about(begin.elapsed(), secs(10));
    let report = item.report();
    assert_eq!((report.calls, report.throttled_calls, report.attempts), (3, 2, 1));
    assert_about(report.waits.cooldown, secs(10));
    assert_eq!(report.waits.backoff, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn quota_headers_on_the_call_reach_the_verdict() {
    // Noted by the provider on the call's record, not in the verdict.
    let events = Events::new();
    let mut receiver = events.subscribe();
    let limiter = plain().events(&events).build().unwrap();
    let service = RateLimiterLayer::new(limiter).layer_on(service_fn(async |mut request: LlmRequest| {
        let mut quota = ReportedQuota::default();
        quota.dimension = Some(QuotaDimension::Tokens);
        request.begin_call().unwrap().set_quota(quota);
        Err::<Response, _>(LlmError::rate_limit("", None))
    }));
    service.oneshot(request()).await.unwrap_err();
    let mut dimensions = Vec::new();
    while let Some(event) = receiver.try_recv().unwrap() {
        if let EventKind::Throttled { dimension, .. } = event.kind {
            dimensions.push(dimension);
        }
    }
    assert_eq!(dimensions, [Some(QuotaDimension::Tokens)]);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_an_error_of_the_service() {
    let limiter = plain().tokens_per_minute(100).build().unwrap();
    let calls = Arc::new(AtomicBool::new(false));
    let inner = Arc::clone(&calls);
    let service = RateLimiterLayer::new(limiter.clone())
        .estimate_with(|_: &LlmRequest| 101)
        .layer_on(service_fn(move |_: LlmRequest| {
            inner.store(true, Ordering::SeqCst);
            async { Ok::<_, LlmError>(answer(1)) }
        }));
    let error = service.oneshot(request()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    assert_eq!(error.usage(), Some(TokenUsage::ZERO));
    assert!(!calls.load(Ordering::SeqCst));
}

#[tokio::test(start_paused = true)]
async fn a_latched_gate_fails_what_follows_with_the_same_kind() {
    let limiter = plain().build().unwrap();
    let service = RateLimiterLayer::new(limiter.clone()).layer_on(service_fn(async |_: LlmRequest| {
        Err::<Response, _>(LlmError::new(ErrorKind::InsufficientBalance, "no money").with_status(402))
    }));
    for _ in 0..3 {
        let error = service.clone().oneshot(request()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InsufficientBalance);
        assert_eq!(error.disposition(), Disposition::ScopeFatal);
    }
    assert_eq!(limiter.snapshot().settled, 1);
}

#[tokio::test(start_paused = true)]
async fn scopes_do_not_pause_each_other() {
    let made = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&made);
    let limiters = RateLimiters::new(move |_: &String| {
        count.fetch_add(1, Ordering::SeqCst);
        plain().build().unwrap()
    });
    let scopes = limiters.clone();
    let layer =
        RateLimiterLayer::keyed(move |request: &LlmRequest<String>| scopes.get(request.input().as_str()));
    let service = layer.layer_on(service_fn(async |request: LlmRequest<String>| {
        match request.input().as_str() {
            "throttled" => Err(LlmError::rate_limit("", Some(secs(30)))),
            _ => Ok(answer(1)),
        }
    }));
    let ask = |model: &str| service.clone().oneshot(LlmRequest::new(model.to_owned()));
    let begin = Instant::now();
    ask("throttled").await.unwrap_err();
    ask("fine").await.unwrap();
    ask("fine").await.unwrap();
    assert_eq!(begin.elapsed(), Duration::ZERO);
    assert!(poll_for(secs(1), ask("throttled")).await.is_none());
    assert_eq!(made.load(Ordering::SeqCst), 2);
    let mut closed: Vec<_> = limiters
        .snapshots()
        .into_iter()
        .map(|(model, snapshot)| (model, snapshot.closed_for.is_some()))
        .collect();
    closed.sort();
    assert_eq!(
        closed,
        [("fine".to_owned(), false), ("throttled".to_owned(), true)]
    );
}

#[tokio::test(start_paused = true)]
async fn requests_of_other_crates() {
    #[derive(Debug)]
    enum MyError {
        Refused(#[allow(dead_code)] Refused),
    }
    impl From<Refused> for MyError {
        fn from(refused: Refused) -> Self {
            Self::Refused(refused)
        }
    }
    let limiter = plain().build().unwrap();
    let by_status = |outcome: Result<&u16, &MyError>| match outcome {
        Ok(429) => throttled_for(secs(3)),
        Ok(401) => fatal(ErrorKind::Authentication),
        Ok(_) => Verdict::SUCCESS,
        Err(_) => Verdict::new(Disposition::Fatal),
    };
    let layer = RateLimiterLayer::new(limiter.clone())
        .classify_with(by_status)
        .untracked();
    let service = layer.layer_on(service_fn(async |status: u16| Ok::<_, MyError>(status)));
    assert_eq!(service.clone().oneshot(429).await.unwrap(), 429);
    assert_eq!(limiter.snapshot().closed_for, Some(secs(3)));
    assert_eq!(service.clone().oneshot(401).await.unwrap(), 401);
    assert!(matches!(service.oneshot(200).await, Err(MyError::Refused(_))));
}

#[tokio::test(start_paused = true)]
async fn sorted_by_time_no_call_starts_while_the_gate_is_closed() {
    let events = Events::with_capacity(1 << 16);
    let mut receiver = events.subscribe();
    let limiter = RateLimiter::builder()
        .requests_per_minute(6000)
        .max_in_flight(20)
        .pace(SlowStart::new(0, Duration::ZERO, Duration::ZERO))
        .events(&events)
        .build()
        .unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let service = ServiceBuilder::new()
        .layer(RetryLayer::new(RetryPolicy::new(3)))
        .layer(RateLimiterLayer::new(limiter.clone()))
        .service(service_fn(move |_: LlmRequest| {
            let number = count.fetch_add(1, Ordering::SeqCst);
            async move {
                tokio::time::sleep(millis(1 + (number as u64 * 37) % 90)).await;
                match number % 11 {
                    3 => Err(LlmError::rate_limit("", Some(millis(500)))),
                    7 => Err(LlmError::rate_limit("", None)),
                    _ => Ok(answer(1)),
                }
            }
        }));
    let tasks: Vec<_> = (0..300)
        .map(|index| {
            let item = Item::new(ItemId::Index(index), index);
            tokio::spawn(
                service
                    .clone()
                    .oneshot(LlmRequest::for_item(Prompt::from("hi"), item)),
            )
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    let mut log = Vec::new();
    while let Some(event) = receiver.try_recv().unwrap() {
        log.push(event);
    }
    log.sort_by_key(|event| event.at);
    let (mut closed_since, mut closed, mut started, mut admitted, mut settled) = (None, 0, 0, 0, 0);
    for event in &log {
        match event.kind {
            EventKind::CooldownStarted { .. } => {
                closed_since.get_or_insert(event.at);
            }
            EventKind::CooldownEnded { .. } => {
                assert!(closed_since.take().is_some());
                closed += 1;
            }
            EventKind::CallStarted { .. } => {
                assert!(event.index.is_some());
                assert!(closed_since.is_none_or(|since| since == event.at), "{event:?}");
                started += 1;
            }
            EventKind::QuotaAdmitted { estimate } => admitted += estimate,
            EventKind::QuotaSettled { estimate, .. } => settled += estimate,
            _ => {}
        }
    }
    assert!(closed > 3, "{closed}");
    assert_eq!(started, limiter.snapshot().settled);
    assert_eq!(admitted, settled);
}

fn assert_send_sync<T: Send + Sync + 'static>() {}

#[test]
fn auto_traits() {
    type Inner = tower::util::BoxCloneSyncService<LlmRequest, Response, LlmError>;
    assert_send_sync::<RateLimiter>();
    assert_send_sync::<RateLimiterLayer>();
    assert_send_sync::<RateLimited<Inner>>();
    assert_send_sync::<llm_batch::layer::rate_limiter::Acquire>();
    assert_send_sync::<llm_batch::layer::rate_limiter::Grant>();
    assert_send_sync::<llm_batch::layer::rate_limiter::ActiveCall>();
    assert_send_sync::<RateLimiters<String>>();
    fn assert_send<T: Send>() {}
    assert_send::<RateLimitedFuture<Inner, LlmRequest, KindClassifier, llm_batch::InRequest>>();
    fn assert_clone<T: Clone>() {}
    assert_clone::<RateLimited<Inner>>();
}
