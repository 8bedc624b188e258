//! The extension points of the recommended stack: the user's own layers, classifier, name, events, estimate.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{Either, Ready, ready};
use futures::{StreamExt as _, stream};
use llm_batch::{
    Classify, Delivery, Disposition, ErrorKind, EventKind, Events, KindClassifier, LlmError, LlmRequest,
    LlmResponse, LlmStreamExt as _, RateLimiter, RetryPolicy, StandardLayer, Verdict,
};
use metrics_util::debugging::DebuggingRecorder;
use tokio::time::Instant;
use tower::util::MapRequestLayer;
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::support::{Outcome, Request, Script, Warnings, answer, invalid, item, request, throttled};

fn count(counter: &Arc<AtomicU32>) -> MapRequestLayer<impl Fn(Request) -> Request + Clone + use<>> {
    let counter = Arc::clone(counter);
    MapRequestLayer::new(move |request| {
        counter.fetch_add(1, Ordering::SeqCst);
        request
    })
}

/// Around attempts: before the wait for the gate. Around calls: only calls that the gate has admitted.
#[tokio::test(start_paused = true)]
async fn layers_of_ones_own_stand_around_attempts_and_around_calls() {
    let (attempts, calls) = (Arc::default(), Arc::default());
    let order = Arc::new(Mutex::new(Vec::new()));
    let note = |name: &'static str| {
        let order = Arc::clone(&order);
        MapRequestLayer::new(move |request: Request| {
            order.lock().unwrap().push(name);
            request
        })
    };
    let standard = StandardLayer::new()
        .with_attempt_layer(note("attempt, outer"))
        .with_attempt_layer(note("attempt, inner"))
        .with_call_layer(note("call, outer"))
        .with_call_layer(note("call, inner"))
        .with_attempt_layer(count(&attempts))
        .with_call_layer(count(&calls));
    // The last rejection latches the gate, so the second item passes the attempt layers and not the gate.
    let bad_key = || Err(LlmError::new(ErrorKind::Authentication, "bad key"));
    let model = standard.layer(Script::says([throttled(Some(1)), invalid(), bad_key()]));
    model.clone().oneshot(request(&item())).await.unwrap_err();
    assert_eq!(
        (attempts.load(Ordering::SeqCst), calls.load(Ordering::SeqCst)),
        (3, 3)
    );
    assert_eq!(
        order.lock().unwrap()[..4],
        ["attempt, outer", "attempt, inner", "call, outer", "call, inner"]
    );
    let refused = model.oneshot(request(&item())).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Authentication);
    assert_eq!(
        (attempts.load(Ordering::SeqCst), calls.load(Ordering::SeqCst)),
        (4, 3)
    );
    assert_eq!(standard.ledger().snapshot().calls, 3);
}

/// A budget that pays for some calls.
#[derive(Clone)]
struct Budget(Arc<AtomicU32>);

impl<S> Layer<S> for Budget {
    type Service = Budgeted<S>;

    fn layer(&self, inner: S) -> Budgeted<S> {
        Budgeted {
            left: Arc::clone(&self.0),
            inner,
        }
    }
}

#[derive(Clone)]
struct Budgeted<S> {
    left: Arc<AtomicU32>,
    inner: S,
}

impl<S: Service<Request, Error = LlmError>> Service<Request> for Budgeted<S> {
    type Response = S::Response;
    type Error = LlmError;
    type Future = Either<S::Future, Ready<Result<S::Response, LlmError>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LlmError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let pay = |left: u32| left.checked_sub(1);
        match self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, pay) {
            Ok(_) => Either::Left(self.inner.call(request)),
            Err(_) => Either::Right(ready(Err(LlmError::new(
                ErrorKind::BudgetExceeded,
                "two calls are paid",
            )))),
        }
    }
}

/// A call that a budget rejects is not sent, and does not spend the gate's quota.
#[tokio::test(start_paused = true)]
async fn a_budget_has_a_place() {
    let standard = StandardLayer::new().with_attempt_layer(Budget(Arc::new(2.into())));
    let script = Script::says([invalid(), invalid(), answer()]);
    let model = standard.layer(script.clone());
    let error = model.oneshot(request(&item())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BudgetExceeded);
    assert_eq!(script.attempts().len(), 2);
    assert_eq!(standard.limiter().snapshot().granted, 2);
}

/// One classifier, given once, for the retries and for the gate.
#[tokio::test(start_paused = true)]
async fn one_classifier_serves_retry_and_gate() {
    let busy = |outcome: Result<&LlmResponse, &LlmError>| match outcome {
        Ok(response) if response.output == "busy" => {
            Verdict::of_kind(ErrorKind::RateLimit).with_retry_after(Duration::from_secs(5))
        }
        outcome => KindClassifier.classify(outcome),
    };
    let says_busy: fn() -> Outcome = || Ok(LlmResponse::new("busy".to_owned()));
    let by_method = StandardLayer::new().with_classifier(busy);
    let by_policy = StandardLayer::new().with_retry(RetryPolicy::new(1).classify_with(busy));
    let limiters = [by_method.limiter().clone(), by_policy.limiter().clone()];
    let script = || Script::says([says_busy(), says_busy(), answer()]);
    let answers = [
        by_method.layer(script()).oneshot(request(&item())).await.unwrap(),
        by_policy.layer(script()).oneshot(request(&item())).await.unwrap(),
    ];
    for (answer, limiter) in answers.into_iter().zip(limiters) {
        assert_eq!(answer.output, "ok");
        assert_eq!(limiter.snapshot().throttled, 2);
    }
}

/// The name reaches calls, retries and the default gate; events reach the default gate.
#[tokio::test(start_paused = true)]
async fn name_and_events_reach_every_part() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let events = Events::new();
    let mut receiver = events.subscribe();
    {
        let _recording = metrics::set_default_local_recorder(&recorder);
        let standard = StandardLayer::new().with_name("nightly").with_events(&events);
        let model = standard.layer(Script::says([throttled(Some(1)), unavailable(), answer()]));
        model.oneshot(request(&item())).await.unwrap();
    }
    let names: BTreeSet<_> = snapshotter
        .snapshot()
        .into_vec()
        .into_iter()
        .flat_map(|(key, ..)| {
            let labels: Vec<_> = key.key().labels().cloned().collect();
            labels
        })
        .filter(|label| matches!(label.key(), "batch" | "limiter"))
        .map(|label| label.value().to_owned())
        .collect();
    assert_eq!(names, BTreeSet::from(["nightly".to_owned()]));
    let mut gate = 0;
    while let Some(event) = receiver.try_recv().unwrap() {
        gate += u32::from(matches!(event.kind, EventKind::CooldownStarted { .. }));
    }
    assert_eq!(gate, 1);
}

fn unavailable() -> Outcome {
    Err(LlmError::new(ErrorKind::ServerError, "out of order").with_status(500))
}

/// The user's own input type is estimated by the user, so that a token quota applies to it.
#[tokio::test(start_paused = true)]
async fn an_estimate_of_ones_own_reaches_the_gate() {
    let limiter = RateLimiter::builder()
        .tokens_per_minute(6_000)
        .without_start_ramp()
        .build()
        .unwrap();
    let standard = StandardLayer::new()
        .with_limiter(limiter)
        .with_estimate(|request: &LlmRequest<Vec<u64>>| request.input().iter().sum());
    // Its usage is unknown, so the estimate is kept.
    let model = standard.layer(service_fn(async |_: LlmRequest<Vec<u64>>| {
        Ok::<_, LlmError>(LlmResponse::new(()))
    }));
    let start = tokio::time::Instant::now();
    for _ in 0..3 {
        model
            .clone()
            .oneshot(LlmRequest::new(vec![1_000, 2_000]))
            .await
            .unwrap();
    }
    assert!(start.elapsed() > Duration::from_secs(59), "{:?}", start.elapsed());
}

/// A call timeout above the item timeout never fires: the log reports it once.
#[tokio::test(start_paused = true)]
async fn a_call_timeout_above_the_item_timeout_is_warned_of_once() {
    let warnings = Warnings::default();
    let _subscribed = tracing::subscriber::set_default(warnings.clone());
    let seconds = Duration::from_secs;
    let harmless = [
        StandardLayer::new().with_item_timeout(seconds(5)),
        StandardLayer::new().with_call_timeout(seconds(900)),
        StandardLayer::new()
            .with_call_timeout(seconds(5_000))
            .with_item_timeout(seconds(5_000)),
    ];
    for standard in harmless {
        let _ = standard.layer(Script::new([]));
    }
    assert_eq!(warnings.take(), Vec::<String>::new());
    let standard = StandardLayer::new()
        .with_call_timeout(seconds(901))
        .with_item_timeout(seconds(900));
    for _ in 0..3 {
        let _ = standard.clone().layer(Script::new([]));
    }
    let warnings = warnings.take();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("with_item_timeout"), "{warnings:?}");
}

/// The service's type can be named in a struct, even with added layers.
#[tokio::test(start_paused = true)]
async fn the_service_can_be_named() {
    struct Application {
        model: llm_batch::layer::standard::Standard<Script>,
    }
    let application = Application {
        model: StandardLayer::new().layer(Script::new([])),
    };
    application.model.oneshot(request(&item())).await.unwrap();
}

/// For every kind of the latching failure, the refusals are not retried.
#[tokio::test(start_paused = true)]
async fn what_a_latched_gate_refuses_is_final_for_any_kind() {
    for kind in [
        ErrorKind::Connection,
        ErrorKind::Overloaded,
        ErrorKind::RateLimit,
        ErrorKind::ServerError,
    ] {
        let failing = service_fn(move |_: LlmRequest| async move {
            let error = LlmError::new(kind, "gone").with_delivery(Delivery::NotSent);
            Err::<LlmResponse, _>(error.with_disposition(Disposition::ScopeFatal))
        });
        let stack = StandardLayer::new().layer(failing);
        let begun = Instant::now();
        let outcomes: Vec<_> = stream::iter((0..30).map(|number| number.to_string()))
            .with_strategy(stack)
            .llm_batch(10)
            .collect()
            .await;
        assert_eq!(outcomes.len(), 30);
        for outcome in &outcomes {
            let error = outcome.result.as_ref().unwrap_err();
            assert_eq!(
                (error.kind(), error.disposition()),
                (kind, Disposition::ScopeFatal),
                "{kind}"
            );
        }
        // Without a retry there is no backoff, which would take minutes of virtual time.
        assert!(
            begun.elapsed() < Duration::from_secs(2),
            "{kind}: {:?}",
            begun.elapsed()
        );
    }
}
