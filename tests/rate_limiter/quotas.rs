//! Any number of quotas at once: dimensions, windows, changes while calls wait, and resets.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use llm_batch::layer::rate_limiter::{
    ActiveCall, Grant, InvalidLimit, Quota, RateLimiter, RateLimiterLayer, Refused,
};
use llm_batch::layer::retry::{RetryLayer, RetryPolicy};
use llm_batch::{
    Disposition, ErrorKind, EventKind, Events, LlmError, LlmRequest, LlmResponse, LlmStreamExt,
    QuotaDimension, TokenEstimate, TokenUsage, Verdict, WaitReason, WorkItem,
};
use proptest::prelude::*;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tower::{ServiceBuilder, service_fn};

use crate::support::*;

fn gate(quotas: impl IntoIterator<Item = Quota>) -> RateLimiter {
    let builder = quotas
        .into_iter()
        .fold(plain(), |builder, quota| builder.quota(quota));
    builder.build().unwrap()
}

/// What is left of the only quota, or of the first one.
fn left(limiter: &RateLimiter) -> f64 {
    limiter.quotas()[0].available
}

fn cached(input: u64, cached_input: u64, output: u64) -> TokenUsage {
    let mut usage = TokenUsage::new(input, output);
    usage.cached_input = cached_input;
    usage
}

/// A call as [`call`] makes it, with input and output apart.
async fn call_of(limiter: &RateLimiter, input: u64, output: u64) -> Result<ActiveCall, Refused> {
    let mut waiting = limiter.acquire(TokenEstimate::new(input, output));
    loop {
        match waiting.await?.start() {
            Ok(call) => return Ok(call),
            Err(again) => waiting = again,
        }
    }
}

/// Runs calls of these sizes, 50 at a time and a second each, and returns the time that they took.
async fn makespan(limiters: &[RateLimiter], calls: &[(u64, u64)], split: bool) -> Duration {
    let begun = Instant::now();
    let room = Arc::new(Semaphore::new(50));
    let mut tasks = Vec::new();
    for &(input, output) in calls {
        let permit = Arc::clone(&room).acquire_owned().await.unwrap();
        let limiters = limiters.to_vec();
        tasks.push(tokio::spawn(async move {
            let mut running = Vec::new();
            for limiter in &limiters {
                let call = match split {
                    true => call_of(limiter, input, output).await,
                    false => call(limiter, input + output).await,
                };
                running.push(call.unwrap());
            }
            tokio::time::sleep(secs(1)).await;
            for call in running {
                call.settle_usage(&Verdict::SUCCESS, Some(TokenUsage::new(input, output)));
            }
            drop(permit);
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    begun.elapsed()
}

#[tokio::test(start_paused = true)]
async fn input_and_output_apart_use_what_one_sum_cannot() {
    // 300 calls of 9,900 and 100 tokens: the input takes 297 s at 600,000 a minute, the output 300 s at 6,000.
    let calls = [(9_900, 100); 300];
    let apart = gate([Quota::input_tokens(600_000), Quota::output_tokens(6_000)]);
    let took = makespan(&[apart], &calls, true).await;
    assert!((secs(295)..secs(304)).contains(&took), "{took:?}");
    // The sum has to stay below the output quota: a tenth of it would be 500 s and more.
    let sum = |limit| gate([Quota::tokens(limit)]);
    let took = makespan(&[sum(600_000), sum(60_000)], &calls[..60], false).await;
    assert!(took > secs(500), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn every_quota_holds_and_the_slowest_decides() {
    let quotas = [
        Quota::requests(10).per_second(),
        Quota::requests(300).per_minute(),
        Quota::tokens(60_000).per_hour().burst(secs(3_600)),
    ];
    let limiter = gate(quotas);
    let begun = Instant::now();
    let mut starts = Vec::new();
    for _ in 0..100 {
        let call = call(&limiter, 100).await.unwrap();
        starts.push(begun.elapsed());
        call.settle(&Verdict::SUCCESS, Some(100));
    }
    // 300 a minute: the first five at once, then every 200 ms. But at most one in 100 ms.
    assert_about(starts[1], millis(100));
    assert!((secs(18)..secs(20)).contains(&starts[99]), "{:?}", starts[99]);
    // 10,000 of the hour's 60,000 tokens are taken, and a few hundred are refilled.
    let left = limiter.snapshot().tokens_available.unwrap();
    assert!((50_000.0..50_500.0).contains(&left), "{left}");
}

#[tokio::test(start_paused = true)]
async fn each_dimension_settles_by_what_it_counts() {
    let full = |quota: Quota| quota.burst(secs(60));
    let limiter = gate([
        full(Quota::tokens(10_000)),
        full(Quota::input_tokens(10_000)),
        full(Quota::input_tokens(10_000).excluding_cached_reads()),
        full(Quota::output_tokens(10_000)),
        full(Quota::requests(100)),
    ]);
    let left = || -> Vec<f64> { limiter.quotas().iter().map(|state| state.available).collect() };
    let running = call_of(&limiter, 2_000, 500).await.unwrap();
    assert_eq!(left(), [7_500.0, 8_000.0, 8_000.0, 9_500.0, 99.0]);
    running.settle_usage(&Verdict::SUCCESS, Some(cached(2_100, 1_500, 700)));
    assert_eq!(left(), [7_200.0, 7_900.0, 9_400.0, 9_300.0, 99.0]);

    // Unknown keeps the estimate, known zero refunds it; the request is spent.
    call_of(&limiter, 100, 10)
        .await
        .unwrap()
        .settle_usage(&Verdict::SUCCESS, None);
    assert_eq!(left(), [7_090.0, 7_800.0, 9_300.0, 9_290.0, 98.0]);
    call_of(&limiter, 100, 10)
        .await
        .unwrap()
        .settle_usage(&Verdict::SUCCESS, Some(TokenUsage::ZERO));
    assert_eq!(left(), [7_090.0, 7_800.0, 9_300.0, 9_290.0, 97.0]);

    // A sum settles the sum; the parts keep their estimates, but none is above it.
    call_of(&limiter, 100, 50)
        .await
        .unwrap()
        .settle(&Verdict::SUCCESS, Some(60));
    assert_eq!(left(), [7_030.0, 7_740.0, 9_240.0, 9_240.0, 96.0]);

    // A grant without a call gives everything back.
    drop(limiter.acquire(TokenEstimate::new(100, 50)).await.unwrap());
    assert_eq!(left(), [7_030.0, 7_740.0, 9_240.0, 9_240.0, 96.0]);
}

#[tokio::test(start_paused = true)]
async fn a_sum_reserves_the_mean_of_each_part_once_it_is_known() {
    let limiter = gate([
        Quota::input_tokens(10_000).burst(secs(60)),
        Quota::output_tokens(1_000).burst(secs(60)),
    ]);
    let left = || -> Vec<f64> { limiter.quotas().iter().map(|state| state.available).collect() };
    // Nothing is known: each part may be all of it, as far as a quota gives that.
    let first = call_now(&limiter, 2_000).unwrap();
    assert_eq!(left(), [8_000.0, 0.0]);
    first.settle_usage(&Verdict::SUCCESS, Some(TokenUsage::new(1_800, 200)));
    assert_eq!(left(), [8_200.0, 800.0]);
    let second = call_now(&limiter, 2_000).unwrap();
    assert_eq!(left(), [6_400.0, 600.0]);
    second.settle_usage(&Verdict::SUCCESS, Some(TokenUsage::new(1_800, 200)));
    let unknown = call_now(&limiter, 0).unwrap();
    assert_eq!(left(), [4_600.0, 400.0]);
    unknown.settle(&Verdict::SUCCESS, None);
}

#[tokio::test(start_paused = true)]
async fn what_no_quota_ever_gives_is_refused() {
    let limiter = gate([Quota::tokens(10_000), Quota::output_tokens(500)]);
    for (estimate, expected) in [
        (TokenEstimate::new(9_000, 1_001), (10_001, 10_000)),
        (TokenEstimate::new(100, 501), (501, 500)),
        (10_001.into(), (10_001, 10_000)),
    ] {
        match limiter.acquire(estimate).await.unwrap_err() {
            Refused::TooLarge { estimate, limit } => assert_eq!((estimate, limit), expected),
            other => panic!("{other}"),
        }
    }
    // Of a sum the part is not known.
    drop(limiter.acquire(5_000).await.unwrap());
}

// --- changes ----------------------------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_change_keeps_what_was_taken_and_wakes_who_waits() {
    let limiter = gate([Quota::requests(60).burst(secs(60))]);
    for _ in 0..60 {
        call_now(&limiter, 0).unwrap().settle(&Verdict::SUCCESS, None);
    }
    let waiting = tokio::spawn({
        let limiter = limiter.clone();
        async move { time_to_start(&limiter, 0).await.0 }
    });
    tokio::time::sleep(millis(400)).await;
    assert_eq!(limiter.snapshot().waiting, 1);
    // 59.6 of 60 are taken, so 40.4 of 100 are left.
    limiter
        .set_quotas([Quota::requests(100).burst(secs(60))])
        .unwrap();
    assert_about(waiting.await.unwrap(), millis(400));
    assert!((left(&limiter) - 39.4).abs() < 0.01, "{}", left(&limiter));
    // Less than was taken is a debt.
    limiter.set_quotas([Quota::requests(10).burst(secs(60))]).unwrap();
    assert!((left(&limiter) + 50.6).abs() < 0.01, "{}", left(&limiter));
    // Without quotas nothing holds calls, and running ones end as they should.
    let running: Vec<_> = {
        limiter.set_quotas([]).unwrap();
        (0..100).map(|_| call_now(&limiter, 5).unwrap()).collect()
    };
    limiter
        .set_quotas([Quota::tokens(1_000).burst(secs(60))])
        .unwrap();
    for call in running {
        call.settle(&Verdict::SUCCESS, Some(9));
    }
    assert_eq!(left(&limiter), 1_000.0);
    let snapshot = limiter.snapshot();
    assert_eq!((snapshot.in_flight, snapshot.settled), (0, 161));
}

#[tokio::test(start_paused = true)]
async fn a_change_refuses_who_has_become_too_large() {
    let limiter = gate([Quota::tokens(1_000)]);
    call_now(&limiter, 1_000).unwrap().settle(&Verdict::SUCCESS, None);
    let large = tokio::spawn(limiter.acquire(800));
    let small = tokio::spawn(limiter.acquire(100));
    tokio::time::sleep(millis(1)).await;
    let wrong = limiter.set_quotas([Quota::tokens(0)]).unwrap_err();
    assert_eq!(wrong.field(), "quota");
    assert_eq!(limiter.snapshot().waiting, 2);
    limiter.set_quotas([Quota::tokens(500).per_second()]).unwrap();
    assert!(matches!(
        large.await.unwrap(),
        Err(Refused::TooLarge {
            estimate: 800,
            limit: 500
        })
    ));
    drop(small.await.unwrap().unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_gate_without_quotas_can_be_given_some() {
    let limiter = plain().build().unwrap();
    let before: Vec<_> = (0..20).map(|_| call_now(&limiter, 1).unwrap()).collect();
    limiter.set_quotas([Quota::requests(60)]).unwrap();
    for call in before {
        call.settle(&Verdict::SUCCESS, Some(1));
    }
    let first = call_now(&limiter, 1).unwrap();
    let (waited, second) = time_to_start(&limiter, 1).await;
    assert_about(waited, secs(1));
    for call in [first, second] {
        call.settle(&Verdict::SUCCESS, Some(1));
    }
    let snapshot = limiter.snapshot();
    assert_eq!((snapshot.settled, snapshot.in_flight), (22, 0));
}

// --- windows ----------------------------------------------------------------------------------------------------------------

const DAY: u64 = 86_400;

/// The time to the next midnight UTC.
fn to_midnight() -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    secs(DAY) - Duration::from_nanos((now.as_nanos() % u128::from(DAY * 1_000_000_000)) as u64)
}

#[tokio::test(start_paused = true)]
async fn a_day_resets_at_its_time_and_refuses_until_then() {
    for offset in [0, 8] {
        let limiter = gate([Quota::requests(3).per_day().resets_at(secs(offset * 3_600))]);
        let expected = (to_midnight() + secs(offset * 3_600)).as_secs_f64() % DAY as f64;
        for _ in 0..3 {
            call_now(&limiter, 0).unwrap().settle(&Verdict::SUCCESS, None);
        }
        let refused = limiter.acquire(0).await.unwrap_err();
        let text = refused.to_string();
        let Refused::QuotaExhausted { quota, resets_at } = refused else {
            panic!("{refused}");
        };
        assert_eq!(quota.unwrap().limit(), 3);
        let wait = resets_at.duration_since(SystemTime::now()).unwrap().as_secs_f64();
        assert!((wait - expected).abs() < 5.0, "{wait} is not {expected}");
        assert!(
            text.contains("requests per day") && text.contains("it resets at 20"),
            "{text}"
        );
        let error = LlmError::from(limiter.acquire(0).await.unwrap_err());
        assert_eq!(
            (error.kind(), error.disposition()),
            (ErrorKind::QuotaExhausted, Disposition::ScopeFatal)
        );
        assert!(error.retry_after().unwrap().as_secs_f64() - expected < 5.0);

        tokio::time::advance(Duration::from_secs_f64(expected - 10.0)).await;
        assert!(limiter.acquire(0).await.is_err());
        tokio::time::advance(secs(20)).await;
        assert_eq!(left(&limiter), 3.0);
        drop(call_now(&limiter, 0).unwrap());
        assert_eq!(left(&limiter), 2.0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_window_that_is_used_up_is_waited_for_if_asked() {
    let events = Events::new();
    let mut receiver = events.subscribe();
    let limiter = plain()
        .quota(Quota::requests(10).per(secs(60)).resets_at(Duration::ZERO))
        .wait_for_reset()
        .events(&events)
        .build()
        .unwrap();
    let begun = Instant::now();
    let mut starts = Vec::new();
    for _ in 0..35 {
        let call = call(&limiter, 0).await.unwrap();
        starts.push(begun.elapsed());
        call.settle(&Verdict::SUCCESS, None);
    }
    let first = starts[10];
    assert!(first <= secs(60) && starts[9] < millis(5), "{starts:?}");
    for (number, start) in starts.iter().enumerate().skip(10) {
        assert_about(*start, first + secs(60) * (number as u32 / 10 - 1));
    }
    let mut resets = Vec::new();
    while let Ok(Some(event)) = receiver.try_recv() {
        if let EventKind::QuotaExhausted { dimension, resets_in } = event.kind {
            assert_eq!(dimension, QuotaDimension::Requests);
            resets.push(resets_in);
        }
    }
    assert_eq!(resets.len(), 3, "{resets:?}");
    assert_about(resets[0], first);
}

#[tokio::test(start_paused = true)]
async fn a_running_call_may_still_leave_some_of_a_window() {
    let limiter = gate([Quota::tokens(1_000).per_day()]);
    let running = call_now(&limiter, 900).unwrap();
    let waiting = tokio::spawn(limiter.acquire(500));
    tokio::time::sleep(secs(5)).await;
    assert_eq!(limiter.snapshot().waiting_for, Some(WaitReason::Tokens));
    running.settle(&Verdict::SUCCESS, Some(100));
    let granted = waiting.await.unwrap().unwrap();
    let waiters: Vec<_> = [501, 400, 600]
        .map(|estimate| {
            let acquire = limiter.acquire(estimate);
            tokio::spawn(async move { acquire.await.map(drop) })
        })
        .into();
    tokio::time::sleep(secs(5)).await;
    granted.start().unwrap().settle(&Verdict::SUCCESS, None);
    // What is left does for the second one only.
    let ends: Vec<_> = futures::future::join_all(waiters).await;
    let passed: Vec<_> = ends.iter().map(|end| end.as_ref().unwrap().is_ok()).collect();
    assert_eq!(passed, [false, true, false]);
}

#[tokio::test(start_paused = true)]
async fn a_call_settles_in_the_window_that_it_was_taken_from() {
    let limiter = gate([Quota::tokens(1_000).per(secs(10)).resets_at(Duration::ZERO)]);
    let running = call_now(&limiter, 900).unwrap();
    tokio::time::sleep(secs(11)).await;
    let other = call_now(&limiter, 300).unwrap();
    assert_eq!(left(&limiter), 700.0);
    running.settle(&Verdict::SUCCESS, Some(100));
    assert_eq!(left(&limiter), 700.0);
    other.settle(&Verdict::SUCCESS, Some(350));
    assert_eq!(left(&limiter), 650.0);
}

// --- the provider's own -----------------------------------------------------------------------------------------------------

fn used_up(reset: Duration) -> Verdict {
    Verdict::of_kind(ErrorKind::QuotaExhausted).with_retry_after(reset)
}

#[tokio::test(start_paused = true)]
async fn a_quota_of_the_provider_refuses_until_its_reset() {
    let limiter = plain().build().unwrap();
    let late = call_now(&limiter, 0).unwrap();
    call_now(&limiter, 0)
        .unwrap()
        .settle(&used_up(secs(7_200)), Some(0));
    let refused = limiter.acquire(0).await.unwrap_err();
    assert!(
        matches!(refused, Refused::QuotaExhausted { quota: None, .. }),
        "{refused}"
    );
    assert!(
        refused
            .to_string()
            .contains("provider's quota is used up; it resets at 20"),
        "{refused}"
    );
    assert_eq!(limiter.snapshot().latched, Some(ErrorKind::QuotaExhausted));
    tokio::time::sleep(secs(7_199)).await;
    assert!(limiter.acquire(0).await.is_err());
    tokio::time::sleep(secs(2)).await;
    // One call goes ahead of the others, and a call from before does not latch it again.
    let probe = call_now(&limiter, 0).unwrap();
    assert!(call_now(&limiter, 0).is_none());
    late.settle(&used_up(secs(7_200)), Some(0));
    probe.settle(&Verdict::SUCCESS, None);
    drop(call_now(&limiter, 0).unwrap());
    // Without a time it stays so.
    let verdict = Verdict::of_kind(ErrorKind::QuotaExhausted);
    call_now(&limiter, 0).unwrap().settle(&verdict, Some(0));
    tokio::time::sleep(secs(1_000_000)).await;
    assert!(matches!(limiter.acquire(0).await, Err(Refused::Latched { .. })));
}

#[tokio::test(start_paused = true)]
async fn items_wait_for_the_reset_of_the_provider_if_asked() {
    // 30 calls in each three hours.
    let begun = Instant::now();
    let provider = service_fn(move |_: LlmRequest<u64>| {
        static CALLS: std::sync::Mutex<(u64, u32)> = std::sync::Mutex::new((0, 0));
        async move {
            let window = begun.elapsed().as_secs() / 10_800;
            let taken = {
                let mut calls = CALLS.lock().unwrap();
                if calls.0 != window {
                    *calls = (window, 0);
                }
                calls.1 += 1;
                calls.1
            };
            if taken > 30 {
                let left = secs((window + 1) * 10_800) - begun.elapsed();
                let error = LlmError::new(ErrorKind::QuotaExhausted, "the day's requests");
                return Err(error.with_retry_after(left));
            }
            tokio::time::sleep(millis(100)).await;
            Ok(LlmResponse::new(1_u64).with_usage(TokenUsage::new(1, 1)))
        }
    });
    let limiter = plain().wait_for_reset().build().unwrap();
    let strategy = ServiceBuilder::new()
        .layer(RetryLayer::new(RetryPolicy::new(1).max_throttles(0)))
        .layer(RateLimiterLayer::new(limiter.clone()))
        .service(provider);
    let mut results = futures::stream::iter((0..100_u64).map(WorkItem::new))
        .with_strategy(strategy)
        .llm_batch(10);
    let mut answered = 0;
    while let Some(outcome) = futures::StreamExt::next(&mut results).await {
        assert!(outcome.is_ok(), "{outcome:?}");
        answered += 1;
    }
    assert_eq!(answered, 100);
    assert!(
        (secs(3 * 10_800)..secs(3 * 10_800 + 100)).contains(&begun.elapsed()),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(limiter.snapshot().throttled, 0);
}

#[tokio::test(start_paused = true)]
async fn a_quota_that_never_resets_is_not_waited_for_without_end() {
    let limiter = plain().wait_for_reset().build().unwrap();
    let mut calls = 0;
    while let Ok(call) = call(&limiter, 0).await {
        call.settle(&used_up(secs(41)), Some(0));
        calls += 1;
        assert!(calls < 10);
    }
    assert_eq!(calls, 4);
}

// --- values -----------------------------------------------------------------------------------------------------------------

#[test]
fn texts_are_read_as_they_are_written() {
    for (text, quota) in [
        ("500 requests per minute", Quota::requests(500)),
        ("10 requests per second", Quota::requests(10).per_second()),
        ("1000 tokens per hour", Quota::tokens(1_000).per_hour()),
        (
            "30000 input tokens per minute excluding cached reads",
            Quota::input_tokens(30_000).excluding_cached_reads(),
        ),
        (
            "8000 output tokens per 1m30s with burst 2s",
            Quota::output_tokens(8_000).per(secs(90)).burst(secs(2)),
        ),
        (
            "1000 requests per day resetting at 08:00",
            Quota::requests(1_000).per_day().resets_at(secs(8 * 3_600)),
        ),
        (
            "2 requests per 2s resetting at 00:00:01",
            Quota::requests(2).per(secs(2)).resets_at(secs(1)),
        ),
    ] {
        assert_eq!(text.parse(), Ok(quota), "{text}");
        assert_eq!(quota.to_string(), text);
    }
    assert_eq!(
        "1_000_000 tokens per day".parse(),
        Ok(Quota::tokens(1_000_000).per_day())
    );
    for (text, problem) in [
        ("", "write it as"),
        ("many requests per minute", "whole number"),
        ("-5 requests per minute", "whole number"),
        ("1.5 requests per minute", "whole number"),
        ("_5 requests per minute", "whole number"),
        (
            "5 prompts per minute",
            "requests, tokens, input tokens or output tokens",
        ),
        (
            "5 input per minute",
            "requests, tokens, input tokens or output tokens",
        ),
        ("5 requests a minute", "write it as"),
        ("5 requests per month", "per second, minute, hour, day"),
        ("5 requests per 10", "per second, minute, hour, day"),
        ("5 requests per minute please", "write it as"),
        ("5 requests per day resetting at 8", "time of day"),
        ("5 requests per day resetting at 24:00", "time of day"),
        (
            "5 requests per day with burst 1m resetting at 08:00",
            "write it as",
        ),
        ("5 requests per minute with burst 5", "burst"),
        ("0 requests per minute", "at least 1"),
    ] {
        let error = text.parse::<Quota>().unwrap_err().to_string();
        assert!(error.contains(problem), "{text:?}: {error}");
    }
}

#[test]
fn quotas_that_make_no_sense_are_refused() {
    let check = |quota: Quota| -> Result<(), InvalidLimit> { plain().quota(quota).build().map(drop) };
    for quota in [
        Quota::requests(0),
        Quota::requests(1).per(millis(999)),
        Quota::requests(1).per(secs(DAY + 1)),
        Quota::requests(1).burst(Duration::ZERO),
        Quota::requests(1).burst(secs(61)),
        Quota::tokens(u64::from(u32::MAX) + 1),
        Quota::requests(1_000_000_001).per_second(),
        Quota::requests(1).resets_at(secs(DAY)),
        Quota::requests(1).per(secs(7)).resets_at(Duration::ZERO),
        Quota::requests(1).excluding_cached_reads(),
        Quota::output_tokens(1).excluding_cached_reads(),
    ] {
        assert_eq!(check(quota).unwrap_err().field(), "quota", "{quota}");
    }
    for quota in [
        Quota::tokens(u64::MAX).per_day(),
        Quota::requests(200).per_day().burst(secs(DAY)),
        Quota::tokens(1).excluding_cached_reads(),
    ] {
        assert_eq!(check(quota), Ok(()), "{quota}");
    }
}

// --- every amount is given back or spent, once ------------------------------------------------------------------------------

#[derive(Clone, Copy, Debug)]
enum Step {
    Ask(u64, u64),
    DropGrant(usize),
    End(usize, Option<(u64, u64, u64)>, bool),
    Cancel(usize),
    /// Makes the quotas smaller or larger.
    Change(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let used = proptest::option::of((0_u64..400, 0_u64..400, 0_u64..400));
    prop_oneof![
        10 => (0_u64..300, 0_u64..300).prop_map(|(input, output)| Step::Ask(input, output)),
        2 => any::<usize>().prop_map(Step::DropGrant),
        8 => (any::<usize>(), used, any::<bool>()).prop_map(|(which, used, throttled)| Step::End(which, used, throttled)),
        1 => any::<usize>().prop_map(Step::Cancel),
        1 => (800_u64..1_200).prop_map(Step::Change),
    ]
}

/// The amounts of a call, by the quotas of the test below.
type Amounts = [u64; 5];

fn reserved(input: u64, output: u64) -> Amounts {
    [1, input + output, input, input, output]
}

fn quotas(scale: u64) -> [Quota; 5] {
    [
        Quota::requests(scale * 10).per_day(),
        Quota::tokens(scale * 1_000).per_day(),
        Quota::input_tokens(scale * 1_000).burst(secs(60)),
        Quota::input_tokens(scale * 1_000)
            .per_day()
            .excluding_cached_reads(),
        Quota::output_tokens(scale * 1_000).per_hour().burst(secs(3_600)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn granted_is_settled_and_refunded_in_every_dimension(steps in proptest::collection::vec(step(), 1..200)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let limiter = gate(quotas(1_000));
            let mut grants: Vec<(Grant, Amounts)> = Vec::new();
            let mut calls: Vec<(ActiveCall, Amounts)> = Vec::new();
            let mut spent = [0_i64; 5];
            let add = |spent: &mut [i64; 5], amounts: Amounts| {
                for (spent, amount) in spent.iter_mut().zip(amounts) {
                    *spent += amount as i64;
                }
            };
            for step in steps {
                match step {
                    Step::Ask(input, output) => {
                        // An estimate of nothing means that it is not known.
                        let (input, output) = (input.max(1), output.max(1));
                        let asked = poll_once(limiter.acquire(TokenEstimate::new(input, output)));
                        let Some(Ok(grant)) = asked else { continue };
                        grants.push((grant, reserved(input, output)));
                        if input % 3 > 0 {
                            let (grant, amounts) = grants.pop().unwrap();
                            match grant.start() {
                                Ok(call) => calls.push((call, amounts)),
                                Err(again) => drop(again),
                            }
                        }
                    }
                    Step::DropGrant(which) if !grants.is_empty() => drop(grants.swap_remove(which % grants.len())),
                    Step::End(which, used, throttled_one) if !calls.is_empty() => {
                        let (call, amounts) = calls.swap_remove(which % calls.len());
                        let usage = used.map(|(input, cached_part, output)| cached(input, cached_part.min(input), output));
                        let verdict = if throttled_one { throttled() } else { Verdict::SUCCESS };
                        call.settle_usage(&verdict, usage);
                        if throttled_one {
                            limiter.reopen();
                        }
                        add(&mut spent, match usage {
                            None => amounts,
                            Some(usage) => [
                                1,
                                usage.total(),
                                usage.input,
                                usage.input - usage.cached_input,
                                usage.output,
                            ],
                        });
                    }
                    Step::Cancel(which) if !calls.is_empty() => {
                        let (call, amounts) = calls.swap_remove(which % calls.len());
                        drop(call);
                        add(&mut spent, amounts);
                    }
                    Step::Change(scale) => limiter.set_quotas(quotas(scale)).unwrap(),
                    _ => {}
                }
                let mut taken = spent;
                for (_, amounts) in &grants {
                    add(&mut taken, *amounts);
                }
                for (_, amounts) in &calls {
                    add(&mut taken, *amounts);
                }
                for (state, taken) in limiter.quotas().iter().zip(taken) {
                    let left = state.quota.limit() as f64 - taken as f64;
                    // A refill is rounded up to whole nanoseconds when the limit changes.
                    prop_assert!((state.available - left).abs() < 1.0, "{} {} {left}", state.quota, state.available);
                }
            }
            grants.clear();
            let snapshot = limiter.snapshot();
            prop_assert_eq!(snapshot.granted, snapshot.returned + snapshot.settled + calls.len() as u64);
            Ok(())
        })?;
    }
}
