//! A second provider if the first one fails or its gate is closed.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use llm_batch::recipe::Fallback;
use llm_batch::testing::{Quota, SimulatedProvider};
use llm_batch::{
    ErrorKind, ItemTimeoutLayer, LlmError, LlmRequest, LlmStreamExt, RateLimiter, RetryPolicy, StandardLayer,
    TokenLedger, TokenUsage,
};
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt};

use crate::support::{Script, answer, invalid, item, request, throttled, unavailable};

fn standard(gate: &RateLimiter, ledger: &TokenLedger) -> StandardLayer {
    StandardLayer::new()
        .with_limiter(gate.clone())
        .with_ledger(ledger.clone())
}

fn gate() -> RateLimiter {
    RateLimiter::default()
}

#[tokio::test(start_paused = true)]
async fn after_the_final_failure_the_calls_of_both_are_the_items() {
    let first = Script::says([unavailable(), invalid(), invalid(), invalid()]);
    let second = Script::says([unavailable(), answer("from the second")]);
    let (one, two) = (TokenLedger::new(), TokenLedger::new());
    let model = Fallback::new(
        standard(&gate(), &one).layer(first.clone()),
        standard(&gate(), &two).layer(second.clone()),
    );
    let item = item();
    let answer = model.oneshot(request(&item)).await.unwrap();
    assert_eq!(answer.output, "from the second");
    assert_eq!((first.count(), second.count()), (3, 2));
    // Attempts start again at 1 with the second strategy.
    assert_eq!((first.attempts(), second.attempts()), (vec![1, 2, 3], vec![1, 2]));
    let report = item.report();
    assert_eq!((report.calls, report.attempts), (5, 2));
    assert_eq!(report.usage, TokenUsage::new(30, 11));
    // The 500s may have cost something.
    assert_eq!(report.unknown_usage_calls, 2);
    assert_eq!(report.usage, one.snapshot().usage + two.snapshot().usage);
    assert_eq!((one.snapshot().calls, two.snapshot().calls), (3, 2));
}

#[tokio::test(start_paused = true)]
async fn a_success_of_the_first_leaves_the_second_alone() {
    let (first, second) = (Script::default(), Script::default());
    let model = Fallback::new(first.clone(), second.clone());
    model.oneshot(request(&item())).await.unwrap();
    assert_eq!((first.count(), second.count()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn what_fails_at_both_fails_with_the_seconds_error() {
    let model = Fallback::new(
        Script::says([invalid()]),
        Fallback::new(
            Script::says([unavailable()]),
            Script::says([Err(LlmError::new(ErrorKind::ContentFilter, "no"))]),
        ),
    );
    let error = model.oneshot(request(&item())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ContentFilter);
}

#[tokio::test(start_paused = true)]
async fn a_throttle_of_the_first_does_not_hold_the_item_at_the_second() {
    // Without a throttle budget the first throttle is final; the pause concerns only the first strategy.
    let first = Script::says([throttled(500)]);
    let second = Script::default();
    let (one, two) = (gate(), gate());
    let ledger = TokenLedger::new();
    let policy = RetryPolicy::new(3).max_throttles(0);
    let model = Fallback::new(
        standard(&one, &ledger).with_retry(policy).layer(first.clone()),
        standard(&two, &ledger).layer(second.clone()),
    );
    let start = Instant::now();
    let item = item();
    model.oneshot(request(&item)).await.unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO);
    let report = item.report();
    assert_eq!((report.calls, report.throttled_calls), (2, 1));
    assert_eq!(report.waits.total(), Duration::ZERO);
    assert!(one.snapshot().closed_for.is_some() && two.snapshot().closed_for.is_none());
}

#[tokio::test(start_paused = true)]
async fn while_the_gate_is_closed_nobody_waits_for_it() {
    let first = Script::says_after(
        Duration::from_secs(1),
        [throttled(60), answer("one"), answer("one")],
    );
    let second = Script::default();
    let gate = RateLimiter::builder().max_in_flight(2).build().unwrap();
    let ledger = TokenLedger::new();
    let model = Fallback::new(
        standard(&gate, &ledger).layer(first.clone()),
        StandardLayer::new().layer(second.clone()),
    )
    .gate(&gate);
    let start = Instant::now();
    // Two go in flight, three queue behind them; the first of the two is throttled after a second.
    let five = (0..5).map(|_| model.clone().oneshot(request(&item())));
    let answers: Vec<_> = futures::future::join_all(five)
        .await
        .into_iter()
        .map(|answer| answer.unwrap().output)
        .collect();
    // The call under way was completed; the throttled item and those in the queue switched immediately.
    assert_eq!(answers, ["done", "one", "done", "done", "done"]);
    assert_eq!(start.elapsed(), Duration::from_secs(1));
    assert_eq!((first.count(), second.count()), (2, 4));
    // So does one that comes now.
    let late = item();
    assert_eq!(
        model.clone().oneshot(request(&late)).await.unwrap().output,
        "done"
    );
    assert_eq!((late.report().calls, late.report().throttled_calls), (1, 0));
    assert_eq!(start.elapsed(), Duration::from_secs(1));
    // Once the gate is open, the first strategy is called again.
    tokio::time::advance(Duration::from_secs(70)).await;
    assert_eq!(model.oneshot(request(&item())).await.unwrap().output, "one");
    let snapshot = gate.snapshot();
    assert_eq!(snapshot.granted, snapshot.returned + snapshot.settled);
}

#[tokio::test(start_paused = true)]
async fn a_latched_gate_is_passed_by() {
    let first = Script::says([Err(
        LlmError::new(ErrorKind::Authentication, "wrong key").with_status(401)
    )]);
    let second = Script::default();
    let gate = gate();
    let model = Fallback::new(
        standard(&gate, &TokenLedger::new()).layer(first.clone()),
        StandardLayer::new().layer(second.clone()),
    )
    .gate(&gate);
    for _ in 0..3 {
        model.clone().oneshot(request(&item())).await.unwrap();
    }
    assert_eq!((first.count(), second.count()), (1, 3));
}

#[tokio::test(start_paused = true)]
async fn a_batch_over_a_throttled_provider_and_a_second_one_balances() {
    // Ten requests a minute at the first strategy; the other items switch.
    let throttled = SimulatedProvider::builder()
        .request_quota(Quota::per_minute(10))
        .latency(Duration::from_millis(300))
        .build()
        .unwrap();
    let open = SimulatedProvider::builder()
        .latency(Duration::from_millis(300))
        .build()
        .unwrap();
    let (gate, ledger) = (gate(), TokenLedger::new());
    let first = standard(&gate, &ledger)
        .with_retry(RetryPolicy::new(3).max_throttles(0))
        .layer(throttled.service());
    let second = StandardLayer::new()
        .with_ledger(ledger.clone())
        .layer(open.service());
    let start = Instant::now();
    let mut results = stream::iter((0..200).map(|n| format!("What is {n} plus {n}?")))
        .with_strategy(Fallback::new(first, second).gate(&gate))
        .llm_batch(20);
    let outcomes: Vec<_> = results.by_ref().collect().await;
    assert!(outcomes.iter().all(|outcome| outcome.result.is_ok()));
    let (theirs, others) = (throttled.ledger(), open.ledger());
    assert!(theirs.throttled > 0 && theirs.answered >= 10, "{theirs:?}");
    assert_eq!(theirs.answered + others.answered, 200);
    // No item waited for the end of the pause of a minute.
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    let calls: u64 = outcomes
        .iter()
        .map(|outcome| u64::from(outcome.report.calls))
        .sum();
    assert_eq!(calls, theirs.received + others.received);
    let usage: TokenUsage = outcomes.iter().map(|outcome| outcome.report.usage).sum();
    assert_eq!(usage, theirs.billed_answered + others.billed_answered);
    assert_eq!(ledger.snapshot().usage, usage);
    let throttles: u64 = (outcomes.iter())
        .map(|outcome| u64::from(outcome.report.throttled_calls))
        .sum();
    assert_eq!(throttles, theirs.throttled);
}

#[tokio::test(start_paused = true)]
async fn an_item_without_time_or_in_a_batch_that_stops_starts_nothing_more() {
    let first = Script::says_after(Duration::from_secs(2), [unavailable()]);
    let second = Script::default();
    let model = ItemTimeoutLayer::new(Duration::from_secs(9)).layer(Fallback::new(
        ItemTimeoutLayer::new(Duration::from_secs(1)).layer(first.clone()),
        second.clone(),
    ));
    let error = model.oneshot(request(&item())).await.unwrap_err();
    assert_eq!((error.kind(), second.count()), (ErrorKind::TimedOut, 0));

    let first = Script::says_after(Duration::from_secs(2), [unavailable()]);
    let results = stream::iter(["hi"])
        .with_strategy(Fallback::new(first, second.clone()))
        .llm_batch(1);
    let handle = results.handle();
    let stop = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        handle.stop();
    };
    let (outcomes, ()) = futures::future::join(results.collect::<Vec<_>>(), stop).await;
    assert_eq!(outcomes.len(), 1);
    assert!(outcomes[0].result.is_err());
    assert_eq!(second.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_does_not_fit_the_deadline_is_left_to_the_second() {
    let first = Script::says([throttled(60)]);
    let second = Script::says([unavailable(), Err(LlmError::fatal("no"))]);
    let model = ItemTimeoutLayer::new(Duration::from_secs(30)).layer(Fallback::new(
        StandardLayer::new().layer(first.clone()),
        StandardLayer::new().layer(second.clone()),
    ));
    // The first one gives up immediately for lack of time; the second one's failure is not a missed deadline.
    let error = model.oneshot(request(&item())).await.unwrap_err();
    assert_eq!((error.kind(), error.message()), (ErrorKind::Other, "no"));
    assert_eq!((first.count(), second.count()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn readiness_of_both_is_waited_for_in_the_future_and_given_back() {
    use tower::limit::ConcurrencyLimit;
    let permits = Arc::new(tokio::sync::Semaphore::new(2));
    let limited = |outcomes: Vec<_>| {
        ConcurrencyLimit::with_semaphore(
            Script::says_after(Duration::from_secs(1), outcomes),
            Arc::clone(&permits),
        )
    };
    let failures = std::iter::repeat_with(unavailable).take(10).collect();
    let model = Fallback::new(limited(failures), limited(vec![]));
    let calls = (0..10).map(|_| model.clone().oneshot(request(&item())));
    assert!(futures::future::try_join_all(calls).await.is_ok());
    drop(model.clone().call(request(&item())));
    let cut = tokio::time::timeout(Duration::ZERO, model.oneshot(request(&item())));
    assert!(cut.await.is_err());
    assert_eq!(permits.available_permits(), 2);
}

#[test]
fn auto_traits() {
    fn everywhere<T: Send + Sync + Unpin + 'static>() {}
    fn sent_value<T: Send + 'static>(_: &T) {}
    everywhere::<Fallback<Script, Script>>();
    everywhere::<llm_batch::recipe::Escalate<Script>>();
    everywhere::<llm_batch::recipe::LadderLayer<f64>>();
    let mut model = Fallback::new(Script::default(), Script::default());
    sent_value(&model.call(LlmRequest::new("hi".into())));
    let mut ladder = llm_batch::recipe::Escalate::new([Script::default()]);
    sent_value(&ladder.call(LlmRequest::new("hi".into())));
}
