//! The retry policy.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use llm_batch::layer::retry::{RetryLayer, RetryPolicy};
use llm_batch::layer::timeout::{CallTimeoutLayer, ItemTimeoutLayer};
use llm_batch::layer::token_accounting::{TokenAccountingLayer, TokenLedger};
use llm_batch::{
    BoxError, Delivery, Disposition, ErrorKind, EventKind, Events, LlmError, LlmRequest, LlmResponse, Prompt,
    Verdict,
};
use proptest::prelude::*;
use tokio::time::Instant;
use tower::retry::budget::{Budget, TpsBudget};
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{
    Outcome, Request, Script, Step, Warnings, answer, invalid, item, request, throttled, unavailable,
};

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

async fn run(policy: RetryPolicy, script: &Script) -> Outcome {
    RetryLayer::new(policy)
        .layer(script.clone())
        .oneshot(request(&item()))
        .await
}

#[tokio::test(start_paused = true)]
async fn a_throttle_does_not_advance_the_attempt() {
    let one = item();
    let script = Script::says([throttled(None), invalid(), throttled(None), answer()]);
    RetryLayer::new(RetryPolicy::new(2))
        .layer(script.clone())
        .oneshot(request(&one))
        .await
        .unwrap();
    assert_eq!(script.attempts(), [1, 1, 2, 2]);
    assert_eq!(one.attempt(), 2);
}

#[tokio::test(start_paused = true)]
async fn attempts_are_counted_and_the_last_error_is_kept() {
    for budget in 1..=4 {
        let script = Script::says((0..9).map(|_| unavailable()));
        let error = run(RetryPolicy::new(budget), &script).await.unwrap_err();
        assert_eq!(error.status(), Some(500));
        assert_eq!(script.attempts(), (1..=budget).collect::<Vec<_>>());
    }
}

#[tokio::test(start_paused = true)]
async fn a_budget_of_n_throttles_allows_n_and_one_calls() {
    for budget in [0, 1, 20] {
        let script = Script::says((0..99).map(|_| throttled(Some(1))));
        let error = run(RetryPolicy::new(1).max_throttles(budget), &script)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::RateLimit);
        assert_eq!(script.count() as u32, budget + 1);
        assert_eq!(
            script.times().last(),
            Some(&f64::from(budget)),
            "the last one waits for nothing"
        );
    }
    let script = Script::says((0..99).map(|_| throttled(Some(1))));
    run(RetryPolicy::new(1), &script).await.unwrap_err();
    assert_eq!(script.count(), 21, "20 by default");
}

#[tokio::test(start_paused = true)]
async fn calls_can_be_capped_over_both_budgets() {
    let outcomes = [throttled(None), unavailable(), throttled(None), unavailable()];
    let script = Script::says(outcomes);
    run(RetryPolicy::new(9).max_calls(3), &script).await.unwrap_err();
    assert_eq!(script.count(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_backoff_doubles_between_a_half_and_a_whole_up_to_the_maximum() {
    for _ in 0..20 {
        let script = Script::says((0..9).map(|_| unavailable()));
        run(RetryPolicy::new(9), &script).await.unwrap_err();
        let times = script.times();
        let waits = times.windows(2).map(|pair| pair[1] - pair[0]);
        for (wait, whole) in waits.zip([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]) {
            // The timer of tokio rounds up to a millisecond.
            assert!((whole / 2.0..whole + 0.002).contains(&wait), "{wait} of {whole}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_backoff_can_be_set() {
    let script = Script::says((0..4).map(|_| unavailable()));
    let policy = RetryPolicy::new(4)
        .initial_backoff(Duration::from_millis(100))
        .backoff_base(10.0)
        .max_backoff(seconds(3));
    run(policy, &script).await.unwrap_err();
    let times = script.times();
    for (pair, whole) in times.windows(2).zip([0.1, 1.0, 3.0]) {
        assert!(
            (whole / 2.0..whole + 0.002).contains(&(pair[1] - pair[0])),
            "{times:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_validation_failure_is_repeated_at_once() {
    let script = Script::says([invalid(), invalid(), answer()]);
    run(RetryPolicy::new(3), &script).await.unwrap();
    assert_eq!(script.times(), [0.0, 0.0, 0.0]);
}

#[tokio::test(start_paused = true)]
async fn no_wait_is_shorter_than_the_hint() {
    let overloaded = || LlmError::new(ErrorKind::Overloaded, "full").with_retry_after(seconds(100));
    let hinted = || LlmError::validation("later").with_retry_after(seconds(7));
    let script = Script::says([Err(overloaded()), throttled(Some(90)), Err(hinted()), answer()]);
    run(RetryPolicy::new(9), &script).await.unwrap();
    let times: Vec<_> = script.times().into_iter().map(f64::floor).collect();
    assert_eq!(times, [0.0, 100.0, 190.0, 197.0]);
}

#[tokio::test(start_paused = true)]
async fn after_a_throttle_the_gate_below_waits_not_the_policy() {
    let one = item();
    let script = Script::says([throttled(Some(30)), answer()]);
    let inner = script.clone();
    let gate = service_fn(move |request: Request| {
        let inner = inner.clone();
        async move {
            if let Some(until) = request.item().signals().take_throttled_until() {
                assert_eq!(until - Instant::now(), seconds(30), "the policy has slept");
                tokio::time::sleep_until(until).await;
            }
            let item = Arc::clone(request.item());
            let result = inner.oneshot(request).await;
            if result.is_err() {
                item.signals().set_throttled_until(Instant::now() + seconds(30));
            }
            result
        }
    });
    RetryLayer::new(RetryPolicy::new(3))
        .layer(gate)
        .oneshot(request(&one))
        .await
        .unwrap();
    assert_eq!(script.times(), [0.0, 30.0]);
    assert_eq!(one.report().waits.backoff, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_the_gate_that_does_not_fit_the_deadline_fails_now() {
    let one = item();
    let gate = service_fn(|request: Request| async move {
        request
            .item()
            .signals()
            .set_throttled_until(Instant::now() + seconds(30));
        throttled(None)
    });
    let model = (
        ItemTimeoutLayer::new(seconds(30)),
        RetryLayer::new(RetryPolicy::new(3)),
    )
        .layer(gate);
    let error = model.oneshot(request(&one)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert_eq!(one.started().elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_ran_out_of_time_is_repeated_once() {
    let late = || LlmError::new(ErrorKind::Timeout, "too slow").with_status(504);
    let run_with = async |policy: RetryPolicy| {
        let script = Script::says((0..9).map(|_| Err(late())));
        run(policy, &script).await.unwrap_err();
        script.count()
    };
    assert_eq!(run_with(RetryPolicy::new(9)).await, 2);
    assert_eq!(run_with(RetryPolicy::new(9).max_billed_repeats(0)).await, 1);
    assert_eq!(run_with(RetryPolicy::new(9).max_billed_repeats(3)).await, 4);
    assert_eq!(run_with(RetryPolicy::new(2).max_billed_repeats(3)).await, 2);

    // Our own limit counts like the provider's.
    let script = Script::new((0..9).map(|_| Step::Hang));
    let model = (
        RetryLayer::new(RetryPolicy::new(9)),
        CallTimeoutLayer::new(seconds(1)),
    )
        .layer(script.clone());
    model.oneshot(request(&item())).await.unwrap_err();
    assert_eq!(script.count(), 2);

    // The repeat of a call that was certainly not billed does not count.
    let script = Script::says((0..9).map(|_| Err(late().with_delivery(Delivery::NotSent))));
    run(RetryPolicy::new(9), &script).await.unwrap_err();
    assert_eq!(script.count(), 9);
}

#[tokio::test(start_paused = true)]
async fn what_no_try_will_cure_is_not_tried_again() {
    for kind in [
        ErrorKind::Authentication,
        ErrorKind::InsufficientBalance,
        ErrorKind::QuotaExhausted,
        ErrorKind::NotFound,
        ErrorKind::InvalidRequest,
        ErrorKind::ContextLength,
        ErrorKind::ContentFilter,
        ErrorKind::PermissionDenied,
        ErrorKind::Configuration,
    ] {
        let script = Script::says([Err(LlmError::new(kind, "no"))]);
        assert_eq!(run(RetryPolicy::new(9), &script).await.unwrap_err().kind(), kind);
        assert_eq!(script.count(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn the_hook_sees_every_failure_and_edits_the_next_request() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let seen_by_hook = Arc::clone(&seen);
    let script = Script::new([
        Step::Say(throttled(None)),
        Step::Hang,
        Step::Say(invalid()),
        Step::Say(unavailable()),
    ]);
    let policy = RetryPolicy::new(3).on_error_with(move |error: &LlmError, next: &mut Request| {
        seen_by_hook.lock().unwrap().push((error.kind(), next.attempt()));
        *next.input_mut() = match error.kind() {
            ErrorKind::TimedOut => "shorter",
            ErrorKind::Validation => "as a number",
            _ => next.input(),
        };
    });
    let model = (RetryLayer::new(policy), CallTimeoutLayer::new(seconds(5))).layer(script.clone());
    model.oneshot(request(&item())).await.unwrap_err();
    assert_eq!(
        *seen.lock().unwrap(),
        [
            (ErrorKind::RateLimit, 1),
            (ErrorKind::TimedOut, 1),
            (ErrorKind::Validation, 2),
            (ErrorKind::ServerError, 3),
        ]
    );
    assert_eq!(script.inputs(), ["hi", "hi", "shorter", "as a number"]);
}

#[tokio::test(start_paused = true)]
async fn the_typed_hook_needs_no_types() {
    let temperatures = Arc::new(Mutex::new(Vec::new()));
    let asked = Arc::clone(&temperatures);
    let policy = RetryPolicy::new(3).on_error(|error, next| {
        assert_eq!(error.kind(), ErrorKind::Validation);
        let failures = next.state().update(|failures: &mut u32| {
            *failures += 1;
            *failures
        });
        *next.input_mut() = next.input().clone().with_temperature(0.2 * f64::from(failures));
    });
    let model = RetryLayer::new(policy).layer(service_fn(move |request: LlmRequest<Prompt>| {
        asked.lock().unwrap().push(request.input().temperature());
        async { Err::<LlmResponse, _>(LlmError::validation("no")) }
    }));
    model.oneshot(LlmRequest::new("hi".into())).await.unwrap_err();
    assert_eq!(*temperatures.lock().unwrap(), [None, Some(0.2), Some(0.4)]);
}

#[tokio::test(start_paused = true)]
async fn a_response_can_be_judged_too() {
    let calls = Arc::new(AtomicU32::new(0));
    let policy = RetryPolicy::new(3)
        .classify_with(|outcome: Result<&u32, &BoxError>| match outcome {
            Ok(3..) => Verdict::SUCCESS,
            Ok(_) => Verdict::new(Disposition::RetryNow),
            Err(_) => Verdict::new(Disposition::Fatal),
        })
        .untracked();
    let model = RetryLayer::new(policy).layer(service_fn(move |_: ()| {
        let call = calls.fetch_add(1, Ordering::SeqCst) + 1;
        std::future::ready(Ok::<_, BoxError>(call))
    }));
    assert_eq!(model.oneshot(()).await.unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn untracked_throttles_are_slept_out_by_the_policy() {
    let script = Script::says([throttled(Some(3)), throttled(None), answer()]);
    let policy = RetryPolicy::new(1).untracked();
    RetryLayer::new(policy)
        .layer(script.clone())
        .oneshot(request(&item()))
        .await
        .unwrap();
    let times = script.times();
    assert_eq!(times[1], 3.0);
    assert!(
        (1.0..2.01).contains(&(times[2] - times[1])),
        "the second throttle in a row: {times:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_shared_budget_limits_repeats_over_all_items() {
    let budget: Arc<TpsBudget> = Arc::new(TpsBudget::new(seconds(10), 0, 0.5));
    let script = Script::says([answer(), answer(), unavailable(), unavailable(), unavailable()]);
    let policy = RetryPolicy::new(9).budget(Arc::clone(&budget) as Arc<dyn Budget + Send + Sync>);
    let model = RetryLayer::new(policy).layer(script.clone());
    for expected in [true, true, false] {
        let result = model.clone().oneshot(request(&item())).await;
        assert_eq!(result.is_ok(), expected);
    }
    // Two successes pay for one repeat.
    assert_eq!(script.count(), 4);
}

#[tokio::test(start_paused = true)]
async fn throttles_take_nothing_from_the_shared_budget() {
    let budget = Arc::new(TpsBudget::new(seconds(10), 0, 0.0));
    let script = Script::says([throttled(Some(1)), throttled(Some(1)), answer()]);
    run(RetryPolicy::new(1).budget(budget), &script).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn retries_are_told_and_their_waits_recorded() {
    let one = item();
    let events = Events::new();
    let mut receiver = events.subscribe();
    let script = Script::says([unavailable(), invalid(), throttled(Some(9)), answer()]);
    RetryLayer::new(RetryPolicy::new(3).events(&events))
        .layer(script.clone())
        .oneshot(request(&one))
        .await
        .unwrap();
    let mut told = Vec::new();
    while let Some(event) = receiver.try_recv().unwrap() {
        assert_eq!(event.index, Some(7));
        match event.kind {
            EventKind::RetryScheduled { attempt, wait } => told.push((attempt, wait)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(told.iter().map(|retry| retry.0).collect::<Vec<_>>(), [2, 3, 3]);
    assert_eq!((told[1].1, told[2].1), (Duration::ZERO, seconds(9)));
    let recorded = one.report().waits.backoff;
    let planned = told[0].1 + seconds(9);
    assert!(
        recorded >= planned && recorded < planned + Duration::from_millis(5),
        "{recorded:?} {planned:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_backoff_that_is_cut_short_is_recorded_as_long_as_it_lasted() {
    let one = item();
    let model = RetryLayer::new(RetryPolicy::new(2)).layer(Script::says([throttled(Some(60))]));
    let cut = tokio::time::timeout(seconds(4), model.oneshot(request(&one))).await;
    assert!(cut.is_err());
    assert_eq!(one.report().waits.backoff, seconds(4));
}

#[tokio::test(start_paused = true)]
async fn items_that_share_a_policy_share_no_counts() {
    let script = Script::says([
        unavailable(),
        unavailable(),
        answer(),
        unavailable(),
        unavailable(),
        answer(),
    ]);
    let model = RetryLayer::new(RetryPolicy::new(3)).layer(script.clone());
    for _ in 0..2 {
        model.clone().oneshot(request(&item())).await.unwrap();
    }
    assert_eq!(script.attempts(), [1, 2, 3, 1, 2, 3]);
}

/// Without a layer that watches, every call counts with unknown usage; with one, exactly its calls count.
#[tokio::test(start_paused = true)]
async fn calls_that_nobody_watched_are_unknown() {
    let outcomes = || {
        [
            unavailable(),
            Err(LlmError::new(ErrorKind::Connection, "refused").with_delivery(Delivery::NotSent)),
            answer(),
        ]
    };
    let one = item();
    let policy = || RetryLayer::new(RetryPolicy::new(9));
    policy()
        .layer(Script::says(outcomes()))
        .oneshot(request(&one))
        .await
        .unwrap();
    one.signals().settle_call(true, true);
    let report = one.report();
    assert_eq!((report.calls, report.unknown_usage_calls), (2, 2));

    let one = item();
    let model = (policy(), TokenAccountingLayer::new(TokenLedger::new())).layer(Script::says(outcomes()));
    model.oneshot(request(&one)).await.unwrap();
    one.signals().settle_call(true, true);
    let report = one.report();
    assert_eq!(
        (report.calls, report.unknown_usage_calls, report.usage.total()),
        (3, 1, 11)
    );

    // Cut in the second call, which was not watched either.
    let one = item();
    let model = policy().layer(Script::new([Step::Say(invalid()), Step::Hang]));
    let cut = tokio::time::timeout(seconds(4), model.oneshot(request(&one))).await;
    assert!(cut.is_err());
    one.signals().settle_call(true, true);
    assert_eq!(one.report().unknown_usage_calls, 2);
}

#[test]
fn senseless_numbers_are_refused() {
    assert!(std::panic::catch_unwind(|| RetryPolicy::new(0)).is_err());
    assert!(std::panic::catch_unwind(|| RetryPolicy::new(1).max_calls(0)).is_err());
    for base in [f64::NAN, f64::INFINITY, 0.5] {
        assert!(std::panic::catch_unwind(|| RetryPolicy::new(1).backoff_base(base)).is_err());
    }
}

/// The default maximum never contradicts: it is never below the initial backoff.
#[tokio::test(start_paused = true)]
async fn only_a_maximum_that_was_set_contradicts_the_initial_backoff() {
    let warnings = Warnings::default();
    let _subscribed = tracing::subscriber::set_default(warnings.clone());
    let waited = async |policy: RetryPolicy| {
        let start = Instant::now();
        let script = Script::says([unavailable(), unavailable(), answer()]);
        run(policy, &script).await.unwrap();
        start.elapsed()
    };
    let long = waited(RetryPolicy::new(3).initial_backoff(seconds(200))).await;
    assert!((seconds(200)..seconds(400)).contains(&long), "{long:?}");
    assert_eq!(warnings.take(), Vec::<String>::new());
    let both = RetryPolicy::new(3)
        .initial_backoff(seconds(200))
        .max_backoff(seconds(60));
    for _ in 0..3 {
        let short = waited(both.clone()).await;
        assert!((seconds(60)..seconds(120)).contains(&short), "{short:?}");
    }
    let warnings = warnings.take();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("max_backoff"), "{warnings:?}");
}

proptest! {
    /// With any configuration and any number of failures: no overflow, and never more calls than the budgets allow.
    #[test]
    fn budgets_hold_for_any_outcomes(
        attempts in 1_u32..6,
        throttles in 0_u32..6,
        initial in any::<u64>(),
        maximum in any::<u64>(),
        base in 1.0..f64::MAX,
        codes in proptest::collection::vec(0_u8..4, 0..20),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let script = Script::says(codes.iter().map(|code| match code {
                0 => throttled(None),
                1 => unavailable(),
                2 => invalid(),
                _ => throttled(Some(2)),
            }));
            let policy = RetryPolicy::new(attempts)
                .max_throttles(throttles)
                .initial_backoff(Duration::from_secs(initial))
                .max_backoff(Duration::from_secs(maximum.min(1_000_000)))
                .backoff_base(base);
            let one = item();
            let result = RetryLayer::new(policy).layer(script.clone()).oneshot(request(&one)).await;
            let seen = &codes[..script.count().min(codes.len())];
            let throttled_calls = seen.iter().filter(|code| matches!(code, 0 | 3)).count() as u32;
            let failed_attempts = seen.len() as u32 - throttled_calls;
            assert!(throttled_calls <= throttles + 1 && failed_attempts <= attempts);
            if result.is_err() {
                assert!(throttled_calls == throttles + 1 || failed_attempts == attempts);
            }
            assert_eq!(one.attempt(), (failed_attempts + 1).min(attempts));
        });
    }
}
