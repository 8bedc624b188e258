//! Item and call timeouts.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use llm_batch::layer::retry::{RetryLayer, RetryPolicy};
use llm_batch::layer::timeout::{CallTimeoutLayer, ItemTimeoutLayer, TimedOut, TimeoutScope};
use llm_batch::layer::token_accounting::{TokenAccountingLayer, TokenLedger};
use llm_batch::{BoxError, ErrorKind, Item, ItemId, LlmError, LlmRequest, LlmResponse};
use tokio::time::Instant;
use tower::limit::ConcurrencyLimit;
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::support::{Script, Step, answer, item, request, throttled, unavailable};

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn timed_out(error: &LlmError) -> &TimedOut {
    error.source().unwrap().downcast_ref().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_is_cut_at_its_limit() {
    let script = Script::new([Step::Hang]);
    let start = Instant::now();
    let error = CallTimeoutLayer::new(seconds(5))
        .layer(script)
        .oneshot(request(&item()))
        .await
        .unwrap_err();
    assert_eq!(start.elapsed(), seconds(5));
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert_eq!(
        error.to_string(),
        "timed out: the call took longer than 5s (call timeout)"
    );
    assert_eq!(timed_out(&error).scope(), TimeoutScope::Call);
    assert_eq!(timed_out(&error).limit(), seconds(5));
    assert_eq!(error.usage(), None, "it may have been billed");
}

#[tokio::test(start_paused = true)]
async fn an_answer_at_the_limit_wins() {
    for layer in [seconds(5), Duration::MAX] {
        let script = Script::new([Step::After(seconds(5), answer())]);
        CallTimeoutLayer::new(layer)
            .layer(script.clone())
            .oneshot(request(&item()))
            .await
            .unwrap();
        let script = Script::new([Step::After(seconds(5), answer())]);
        ItemTimeoutLayer::new(layer)
            .layer(script)
            .oneshot(request(&item()))
            .await
            .unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn the_call_clock_starts_with_each_call() {
    let script = Script::new((0..3).map(|_| Step::After(seconds(4), answer())));
    let mut model = CallTimeoutLayer::new(seconds(5)).layer(script);
    for _ in 0..3 {
        model.ready().await.unwrap().call(request(&item())).await.unwrap();
        tokio::time::sleep(seconds(60)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_item_clock_starts_when_the_item_is_picked_up() {
    let one = item();
    tokio::time::sleep(seconds(3)).await;
    let start = Instant::now();
    let error = ItemTimeoutLayer::new(seconds(5))
        .layer(Script::new([Step::Hang]))
        .oneshot(request(&one))
        .await
        .unwrap_err();
    assert_eq!(start.elapsed(), seconds(2));
    assert_eq!(timed_out(&error).scope(), TimeoutScope::Item);
    assert_eq!(one.deadline(), Some(one.started() + seconds(5)));
    assert!(one.signals().deadline_missed());
}

#[tokio::test(start_paused = true)]
async fn an_item_without_time_left_is_not_sent() {
    let one = item();
    tokio::time::sleep(seconds(5)).await;
    let script = Script::new([]);
    let result = ItemTimeoutLayer::new(seconds(5))
        .layer(script.clone())
        .oneshot(request(&one))
        .await;
    assert_eq!(result.unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(script.count(), 0);
    one.signals().settle_call(true, true);
    assert_eq!(one.report().calls, 0);
}

/// A future gets the service when it is created, and may be polled much later.
#[tokio::test(start_paused = true)]
async fn a_future_that_is_first_polled_too_late_is_never_polled() {
    let polled = Arc::new(AtomicBool::new(false));
    let sees = Arc::clone(&polled);
    let strategy = service_fn(move |_: LlmRequest<&str>| {
        let polled = Arc::clone(&sees);
        async move {
            polled.store(true, Ordering::SeqCst);
            Ok::<_, LlmError>(LlmResponse::new("late".to_owned()))
        }
    });
    let mut model = ItemTimeoutLayer::new(seconds(5)).layer(strategy);
    let answer = model.ready().await.unwrap().call(request(&item()));
    tokio::time::sleep(seconds(6)).await;
    assert_eq!(answer.await.unwrap_err().kind(), ErrorKind::TimedOut);
    assert!(!polled.load(Ordering::SeqCst));
}

#[tokio::test(start_paused = true)]
async fn the_earliest_of_two_deadlines_counts() {
    let one = item();
    let model = (
        ItemTimeoutLayer::new(seconds(2)),
        ItemTimeoutLayer::new(seconds(5)),
    )
        .layer(Script::new([Step::Hang]));
    let error = model.oneshot(request(&one)).await.unwrap_err();
    assert_eq!(timed_out(&error).limit(), seconds(2));
    assert_eq!(one.deadline(), Some(one.started() + seconds(2)));
}

#[tokio::test(start_paused = true)]
async fn untracked_requests_are_timed_from_the_call() {
    let model = service_fn(|_: u8| std::future::pending::<Result<u8, BoxError>>());
    let start = Instant::now();
    let error = ItemTimeoutLayer::new(seconds(5))
        .untracked()
        .layer(model)
        .oneshot(1)
        .await
        .unwrap_err();
    assert_eq!(start.elapsed(), seconds(5));
    assert!(error.is::<TimedOut>());
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_does_not_fit_is_not_begun_and_the_cause_is_kept() {
    let one = item();
    let script = Script::says([throttled(Some(30))]);
    let model = (
        ItemTimeoutLayer::new(seconds(20)),
        RetryLayer::new(RetryPolicy::new(3)),
    )
        .layer(script.clone());
    let start = Instant::now();
    let error = model.oneshot(request(&one)).await.unwrap_err();
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(script.count(), 1);
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    let cause: &LlmError = timed_out(&error).source().unwrap().downcast_ref().unwrap();
    assert_eq!((cause.kind(), cause.status()), (ErrorKind::RateLimit, Some(429)));
    assert_eq!(one.report().waits.backoff, Duration::ZERO);
    assert!(one.signals().deadline_missed());
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_passes_in_a_call_names_the_failure_before_it() {
    let one = item();
    let ledger = TokenLedger::new();
    let model = (
        ItemTimeoutLayer::new(seconds(20)),
        RetryLayer::new(RetryPolicy::new(3)),
        TokenAccountingLayer::new(ledger.clone()),
    )
        .layer(Script::new([Step::Say(unavailable()), Step::Hang]));
    let error = model.oneshot(request(&one)).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("last failure: server error: out of order"),
        "{error}"
    );
    let cause: &LlmError = timed_out(&error).source().unwrap().downcast_ref().unwrap();
    assert_eq!(cause.status(), Some(500));
    // The call is closed when the error is returned.
    let report = one.report();
    assert_eq!((report.calls, report.unknown_usage_calls), (2, 2));
    assert!(report.waits.backoff >= Duration::from_millis(500));
    assert_eq!(report.total_time, seconds(20));
    assert_eq!(ledger.snapshot().unknown_usage_calls, 2);
}

#[tokio::test(start_paused = true)]
async fn an_error_type_of_ones_own_needs_one_variant() {
    #[derive(Debug, thiserror::Error)]
    enum Mine {
        #[error(transparent)]
        Late(#[from] TimedOut),
    }
    let model = service_fn(|_: LlmRequest<u8>| std::future::pending::<Result<u8, Mine>>());
    let request = LlmRequest::for_item(1, Item::new(ItemId::from(0), 0));
    let Mine::Late(late) = (
        ItemTimeoutLayer::new(seconds(9)),
        CallTimeoutLayer::new(seconds(1)),
    )
        .layer(model)
        .oneshot(request)
        .await
        .unwrap_err();
    assert_eq!(late.scope(), TimeoutScope::Call);
}

#[test]
fn a_limit_of_zero_is_refused() {
    assert!(std::panic::catch_unwind(|| CallTimeoutLayer::new(Duration::ZERO)).is_err());
    assert!(std::panic::catch_unwind(|| ItemTimeoutLayer::new(Duration::ZERO)).is_err());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_left_of_a_call_whose_time_is_up() {
    let alive = Arc::new(());
    let held = Arc::clone(&alive);
    let model = service_fn(move |_: LlmRequest<u8>| {
        let held = Arc::clone(&held);
        async move {
            let _held = held;
            std::future::pending::<Result<u8, LlmError>>().await
        }
    });
    let mut model = CallTimeoutLayer::new(seconds(1)).layer(model);
    let mut future = std::pin::pin!(model.call(LlmRequest::new(1)));
    future.as_mut().await.unwrap_err();
    assert_eq!(
        Arc::strong_count(&alive),
        2,
        "the service holds one, and the test"
    );
}

/// A service that is ready after `wait`.
#[derive(Clone)]
struct ReadyAfter<S> {
    wait: Arc<std::sync::Mutex<std::pin::Pin<Box<tokio::time::Sleep>>>>,
    inner: S,
}

impl<S> ReadyAfter<S> {
    fn new(wait: Duration, inner: S) -> Self {
        let sleep = Box::pin(tokio::time::sleep(wait));
        let wait = Arc::new(std::sync::Mutex::new(sleep));
        Self { wait, inner }
    }
}

impl<S: Service<R>, R> Service<R> for ReadyAfter<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> Poll<Result<(), S::Error>> {
        let mut wait = self.wait.lock().unwrap();
        if !wait.is_elapsed() {
            std::task::ready!(Future::poll(wait.as_mut(), cx));
        }
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> S::Future {
        self.inner.call(request)
    }
}

#[tokio::test(start_paused = true)]
async fn the_item_limit_covers_the_wait_for_readiness() {
    // Ready before, at and after the limit of 5 s: at the limit it is too late to send.
    for (wait, called) in [
        (seconds(4), 1),
        (seconds(5), 0),
        (seconds(6), 0),
        (Duration::MAX, 0),
    ] {
        for retries in [false, true] {
            let one = item();
            let script = Script::says([answer()]);
            let limit = ItemTimeoutLayer::new(seconds(5));
            let inner = ReadyAfter::new(wait, script.clone());
            let start = Instant::now();
            let result = if retries {
                let model = (limit, RetryLayer::new(RetryPolicy::new(3))).layer(inner);
                model.oneshot(request(&one)).await
            } else {
                limit.layer(inner).oneshot(request(&one)).await
            };
            assert_eq!(start.elapsed(), wait.min(seconds(5)));
            assert_eq!(script.count(), called, "ready after {wait:?}");
            match result {
                Ok(_) => assert_eq!(called, 1),
                Err(error) => {
                    assert_eq!(timed_out(&error).scope(), TimeoutScope::Item);
                    assert_eq!(called, 0);
                }
            }
            // Exactly the sent calls are counted.
            one.signals().settle_call(true, true);
            assert_eq!(one.report().calls as usize, called);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn items_that_wait_for_a_permit_end_in_time_and_give_it_back() {
    let permits = Arc::new(tokio::sync::Semaphore::new(1));
    let script = Script::new((0..10).map(|_| Step::After(seconds(4), answer())));
    let limited = ConcurrencyLimit::with_semaphore(script.clone(), Arc::clone(&permits));
    let model = ItemTimeoutLayer::new(seconds(5)).layer(limited);
    let start = Instant::now();
    let calls = (0..10).map(|_| model.clone().oneshot(request(&item())));
    let results = futures::future::join_all(calls).await;
    assert_eq!(start.elapsed(), seconds(5));
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    // The second got the permit at 4 s and was cut at 5 s; the others were never sent.
    assert_eq!(script.count(), 2);
    assert_eq!(permits.available_permits(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_error_of_readiness_is_the_items_error() {
    let (service, mut handle) = tower_test::mock::pair::<LlmRequest<u8>, u8>();
    handle.allow(0);
    handle.send_error("out of order");
    let error = ItemTimeoutLayer::new(seconds(5))
        .layer(service)
        .oneshot(LlmRequest::new(1))
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "out of order");
}

/// A call that always has more to do, like reading a fast endless stream: it uses up tokio's budget at each poll.
async fn endless() -> Result<u8, LlmError> {
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    sender.send(()).unwrap();
    loop {
        receiver.recv().await.unwrap();
        sender.send(()).unwrap();
    }
}

/// The clock is real here: a paused one never advances while a task is always ready.
#[test]
fn a_call_that_is_always_ready_is_cut_too() {
    // On a separate thread, so that a limit that does not work fails the test instead of hanging it.
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let limit = Duration::from_millis(20);
        let call = CallTimeoutLayer::new(limit).layer(service_fn(|_: LlmRequest<u8>| endless()));
        let item = ItemTimeoutLayer::new(limit).layer(service_fn(|_: LlmRequest<u8>| endless()));
        let scopes = runtime.block_on(async {
            // In a task, since the budget applies only there.
            let call = tokio::spawn(call.oneshot(LlmRequest::new(1))).await.unwrap();
            let item = tokio::spawn(item.oneshot(LlmRequest::new(1))).await.unwrap();
            [call, item].map(|result| timed_out(&result.unwrap_err()).scope())
        });
        let _ = done.send(scopes);
    });
    let scopes = ended.recv_timeout(seconds(60)).expect("the limits did not hold");
    assert_eq!(scopes, [TimeoutScope::Call, TimeoutScope::Item]);
}
