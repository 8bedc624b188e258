//! Ladders of strategies, models and temperatures.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::{StreamExt, stream};
use llm_batch::layer::rate_limiter::RateLimiters;
use llm_batch::recipe::{Escalate, LadderLayer, models, temperatures};
use llm_batch::{
    BoxError, ErrorKind, KindClassifier, LlmError, LlmRequest, LlmResponse, LlmStreamExt, RateLimiter,
    RateLimiterLayer, RetryLayer, RetryPolicy, StandardLayer, TokenUsage,
};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

use crate::support::{Script, answer, invalid, item, request, throttled, unavailable};

fn strategy<S>(service: S) -> S
where
    S: Service<LlmRequest, Response = LlmResponse, Error = LlmError, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
{
    service
}

/// A model whose answers to every fifth, every 25th, every 125th item are bad, by how good it is.
fn model(
    quality: u32,
    calls: &Arc<AtomicU32>,
) -> impl Service<LlmRequest, Response = LlmResponse, Error = LlmError, Future: Send> + Clone + Send + Sync + 'static
{
    let calls = Arc::clone(calls);
    strategy(service_fn(move |request: LlmRequest| {
        calls.fetch_add(1, Ordering::Relaxed);
        async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            match request.index() % 5_u64.pow(quality) {
                0 => Err(LlmError::validation("not this one").with_usage(TokenUsage::new(100, 20))),
                _ => Ok(LlmResponse::new("ok".to_owned()).with_usage(TokenUsage::new(100, 20))),
            }
        }
    }))
}

#[tokio::test(start_paused = true)]
async fn a_thousand_items_make_exactly_a_thousand_two_hundred_and_forty_calls() {
    let calls: [Arc<AtomicU32>; 3] = Default::default();
    let ladder = Escalate::new((1..).zip(&calls).map(|(quality, calls)| model(quality, calls)));
    let stack = StandardLayer::new();
    let ledger = stack.ledger().clone();
    let results = stream::iter((0..1_000).map(|n| format!("prompt {n}")))
        .with_strategy(stack.layer(ladder))
        .llm_batch(100);
    let outcomes: Vec<_> = results.collect().await;
    assert_eq!(calls.map(|calls| calls.load(Ordering::Relaxed)), [1_000, 200, 40]);
    assert_eq!(
        outcomes.iter().filter(|outcome| outcome.result.is_err()).count(),
        8
    );
    // Each item's own calls, and all of them together, are accounted.
    for outcome in &outcomes {
        let expected = [125, 25, 5].iter().filter(|n| outcome.index % **n == 0).count() as u32;
        let expected = (expected + 1).min(3);
        assert_eq!(
            (outcome.report.calls, outcome.report.attempts),
            (expected, expected)
        );
        assert_eq!(outcome.report.usage.total(), 120 * u64::from(expected));
    }
    assert_eq!(ledger.snapshot().usage.total(), 1_240 * 120);
}

#[tokio::test(start_paused = true)]
async fn only_bad_answers_climb() {
    let first = Script::says([throttled(1), unavailable(), invalid()]);
    let second = Script::says([
        unavailable(),
        throttled(2),
        Err(LlmError::new(ErrorKind::ModelFault, "a malformed tool call")),
    ]);
    let third = Script::says([invalid(), invalid(), answer("at last")]);
    let ladder = Escalate::new([first.clone(), second.clone(), third.clone()]);
    let stack = ServiceBuilder::new()
        .layer(RetryLayer::new(RetryPolicy::new(10)))
        .service(ladder);
    let answer = stack.oneshot(request(&item())).await.unwrap();
    assert_eq!(answer.output, "at last");
    // The item stays on the last rung.
    assert_eq!([first.count(), second.count(), third.count()], [3, 3, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_times_out_stays_too() {
    let slow = Script::says_after(Duration::from_secs(60), [answer("late")]);
    let other = Script::default();
    let stack = StandardLayer::new()
        .with_call_timeout(Duration::from_secs(1))
        .layer(Escalate::new([slow.clone(), other.clone()]));
    let error = stack.oneshot(request(&item())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert_eq!((slow.count(), other.count()), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_hundred_items_on_one_ladder_climb_by_themselves() {
    let calls: [Arc<AtomicU32>; 2] = Default::default();
    let [first, second] = [&calls[0], &calls[1]].map(Arc::clone);
    // Odd items are bad at first, and wait long enough that all are on the ladder at once.
    let ladder = Escalate::new([0, 1].map(|rung| {
        let calls = Arc::clone(if rung == 0 { &first } else { &second });
        service_fn(move |request: LlmRequest| {
            calls.fetch_add(1, Ordering::Relaxed);
            async move {
                tokio::time::sleep(Duration::from_millis(request.index())).await;
                match (rung, request.index() % 2) {
                    (0, 1) => Err(LlmError::validation("odd")),
                    _ => Ok(LlmResponse::new(rung)),
                }
            }
        })
    }));
    let results = stream::iter((0..100).map(|n| n.to_string()))
        .with_strategy(RetryLayer::new(RetryPolicy::new(3)).layer(ladder))
        .llm_batch(100);
    let outcomes: Vec<_> = results.collect().await;
    for outcome in outcomes {
        assert_eq!(outcome.result.unwrap().output, outcome.index % 2);
    }
    assert_eq!(calls.map(|calls| calls.load(Ordering::Relaxed)), [100, 50]);
}

#[tokio::test(start_paused = true)]
async fn the_gate_of_the_rungs_model_is_passed() {
    let gates = RateLimiters::new(|_: &String| RateLimiter::default());
    let by_model = gates.clone();
    let script = Script::says([invalid(), throttled(1), invalid()]);
    let stack = ServiceBuilder::new()
        .layer(RetryLayer::new(RetryPolicy::new(3)))
        .layer(models(["small", "medium", "large"]))
        .layer(RateLimiterLayer::keyed(move |request: &LlmRequest| {
            by_model.get(request.input().model().unwrap_or("default"))
        }))
        .service(script.clone());
    stack.oneshot(request(&item())).await.unwrap();
    let asked = script.asked();
    let asked: Vec<_> = asked.iter().map(|prompt| prompt.model().unwrap()).collect();
    assert_eq!(asked, ["small", "medium", "medium", "large"]);
    let mut seen: Vec<_> = gates
        .snapshots()
        .into_iter()
        .map(|(model, gate)| (model, gate.granted, gate.throttled))
        .collect();
    seen.sort_unstable();
    assert_eq!(
        seen,
        [
            ("large".to_owned(), 1, 0),
            ("medium".to_owned(), 2, 1),
            ("small".to_owned(), 1, 0)
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn temperatures_climb_on_bad_answers_only() {
    let script = Script::says([
        throttled(1),
        invalid(),
        unavailable(),
        throttled(1),
        invalid(),
        unavailable(),
        invalid(),
    ]);
    let stack = ServiceBuilder::new()
        .layer(RetryLayer::new(RetryPolicy::new(10)))
        .layer(temperatures([0.0, 0.5, 1.0]))
        .service(script.clone());
    stack.oneshot(request(&item())).await.unwrap();
    let asked: Vec<_> = script.asked().iter().map(|prompt| prompt.temperature()).collect();
    let expected = [0.0, 0.0, 0.5, 0.5, 0.5, 1.0, 1.0, 1.0].map(Some);
    assert_eq!(asked, expected);
}

#[tokio::test(start_paused = true)]
async fn two_ladders_in_one_stack_and_two_stacks_one_after_the_other_keep_apart() {
    let script = Script::says([invalid(), invalid()]);
    let stack = ServiceBuilder::new()
        .layer(RetryLayer::new(RetryPolicy::new(3)))
        .layer(models(["a", "b"]))
        .layer(temperatures([0.0, 0.5, 1.0]))
        .service(script.clone());
    let one = item();
    stack.oneshot(request(&one)).await.unwrap();
    let seen: Vec<_> = (script.asked().iter())
        .map(|prompt| (prompt.model().unwrap().to_owned(), prompt.temperature().unwrap()))
        .collect();
    assert_eq!(
        seen,
        [("a", 0.0), ("b", 0.5), ("b", 1.0)].map(|(model, temperature)| (model.to_owned(), temperature))
    );
    // The same item on another ladder starts from its first rung.
    let other = Script::default();
    let stack = models(["x", "y"]).layer(other.clone());
    stack.oneshot(request(&one)).await.unwrap();
    assert_eq!(other.asked()[0].model(), Some("x"));
}

#[tokio::test(start_paused = true)]
async fn two_calls_of_one_item_from_one_rung_climb_once() {
    let slow = Script::says_after(Duration::from_secs(1), [invalid(), invalid()]);
    let (second, third) = (Script::default(), Script::default());
    let ladder = Escalate::new([slow.clone(), second.clone(), third.clone()]);
    let one = item();
    let both = futures::future::join(
        ladder.clone().oneshot(request(&one)),
        ladder.clone().oneshot(request(&one)),
    );
    assert!(matches!(both.await, (Err(_), Err(_))));
    ladder.oneshot(request(&one)).await.unwrap();
    assert_eq!([slow.count(), second.count(), third.count()], [2, 1, 0]);
}

#[tokio::test(start_paused = true)]
async fn other_inputs_and_boxed_errors_climb_too() {
    let model = service_fn(async |request: LlmRequest<u32>| match request.input() {
        1 => Err(BoxError::from(LlmError::validation("one"))),
        _ => Ok::<_, BoxError>(LlmResponse::new(*request.input())),
    });
    let offset = 10;
    let ladder = LadderLayer::with_edit([0, 1], move |request: &mut LlmRequest<u32>, rung| {
        *request.input_mut() += offset * rung;
    });
    let policy = RetryPolicy::new(2).classify_with(KindClassifier);
    let stack = ServiceBuilder::new()
        .layer(RetryLayer::new(policy))
        .layer(ladder)
        .service(model);
    assert_eq!(stack.oneshot(LlmRequest::new(1)).await.unwrap().output, 11);
}

#[test]
#[should_panic(expected = "at least one rung")]
fn a_ladder_without_rungs_is_refused() {
    let _ = temperatures([]);
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_was_readied_is_called() {
    use tower::limit::ConcurrencyLimit;
    let permits = Arc::new(tokio::sync::Semaphore::new(2));
    let limited = || {
        ConcurrencyLimit::with_semaphore(
            Script::says_after(Duration::from_secs(1), []),
            Arc::clone(&permits),
        )
    };
    let ladder = Escalate::new([limited(), limited()]);
    let settings = temperatures([0.0, 1.0]).layer(limited());
    for _ in 0..2 {
        let calls = (0..10).map(|_| ladder.clone().oneshot(request(&item())));
        assert!(futures::future::try_join_all(calls).await.is_ok());
        let calls = (0..10).map(|_| settings.clone().oneshot(request(&item())));
        assert!(futures::future::try_join_all(calls).await.is_ok());
    }
    drop(ladder.clone().call(request(&item())));
    assert!(
        tokio::time::timeout(Duration::ZERO, ladder.oneshot(request(&item())))
            .await
            .is_err()
    );
    drop(settings);
    assert_eq!(permits.available_permits(), 2);
}
