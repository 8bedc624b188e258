//! Throttles: who closes the gate, for how long, and how it opens again.

use std::time::Duration;

use llm_batch::layer::rate_limiter::{ActiveCall, Cooldown, RateLimiter, RateLimiterBuilder, Refused};
use llm_batch::{Disposition, ErrorKind, Verdict};
use tokio::time::Instant;

use crate::support::*;

fn with_base(base: Duration) -> RateLimiterBuilder {
    unpaced().cooldown(Cooldown::default().with_base(base).with_jitter(0.0))
}

fn calls(limiter: &RateLimiter, count: usize) -> Vec<ActiveCall> {
    (0..count).map(|_| call_now(limiter, 0).unwrap()).collect()
}

/// How long the gate is closed from now.
fn closed_for(limiter: &RateLimiter) -> Duration {
    limiter.snapshot().closed_for.unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn a_throttle_closes_the_gate_for_everyone() {
    let limiter = plain().build().unwrap();
    let mut calls = calls(&limiter, 2).into_iter();
    calls.next().unwrap().settle(&throttled_for(secs(3)), Some(0));
    assert_eq!(closed_for(&limiter), secs(3));
    assert_eq!(limiter.snapshot().closed_by, Some(ErrorKind::RateLimit));
    // Calls in flight finish.
    calls.next().unwrap().settle(&Verdict::SUCCESS, None);
    assert!(grant_now(&limiter, 0).is_none());
    let (waited, _call) = time_to_start(&limiter, 0).await;
    assert_about(waited, secs(3));
    assert_eq!(limiter.snapshot().closed_for, None);
}

#[tokio::test(start_paused = true)]
async fn late_reporters_join_the_pause_and_a_later_hint_lengthens_it() {
    let limiter = plain().build().unwrap();
    let mut calls = calls(&limiter, 5).into_iter();
    let mut report = |verdict: Verdict| calls.next().unwrap().settle(&verdict, Some(0));
    report(throttled_for(secs(3)));
    let generation = limiter.snapshot().generation;
    report(throttled());
    report(throttled_for(secs(2)));
    assert_eq!(closed_for(&limiter), secs(3));
    report(throttled_for(secs(5)));
    assert_eq!(closed_for(&limiter), secs(5));
    assert_eq!(limiter.snapshot().generation, generation);
    assert_eq!(limiter.snapshot().throttled, 4);
}

#[tokio::test(start_paused = true)]
async fn a_throttle_from_before_the_pause_opens_no_new_one_but_its_item_waits() {
    let limiter = plain().build().unwrap();
    let mut calls = calls(&limiter, 3).into_iter();
    calls.next().unwrap().settle(&throttled_for(secs(1)), Some(0));
    tokio::time::sleep(secs(2)).await;
    // Two of the old generation report after the gate has opened again.
    let now = Instant::now();
    let until = calls
        .next()
        .unwrap()
        .settle(&throttled_for(secs(7)), Some(0))
        .unwrap();
    assert_eq!(until, now + secs(7));
    let without_hint = calls.next().unwrap().settle(&throttled(), Some(0)).unwrap();
    assert_eq!(without_hint, now);
    assert_eq!(limiter.snapshot().closed_for, None);
    assert_eq!(limiter.snapshot().generation, 1);
    // Others go on; the item that was throttled waits out its own hint.
    drop(call_now(&limiter, 0).unwrap());
    let _grant = limiter.acquire(0).held_until(until).await.unwrap();
    assert_about(now.elapsed(), secs(7));
}

#[tokio::test(start_paused = true)]
async fn pauses_double_while_nothing_is_accepted_and_stale_successes_change_nothing() {
    let limiter = with_base(millis(100)).build().unwrap();
    let mut old = calls(&limiter, 20);
    let mut pauses = Vec::new();
    old.pop().unwrap().settle(&throttled(), Some(0));
    for _ in 0..4 {
        pauses.push(closed_for(&limiter).as_millis());
        // Nineteen calls from before the throttle succeed, a few in every pause.
        for call in old.drain(old.len().saturating_sub(4)..) {
            call.settle(&Verdict::SUCCESS, None);
        }
        call(&limiter, 0).await.unwrap().settle(&throttled(), Some(0));
    }
    assert_eq!(pauses, [100, 200, 400, 800]);
}

#[tokio::test(start_paused = true)]
async fn pauses_stay_short_while_calls_are_accepted_though_no_success_has_arrived_yet() {
    let limiter = with_base(millis(100)).build().unwrap();
    let mut running = Vec::new();
    for _ in 0..6 {
        // The first call of each generation is accepted, and takes long; the second is turned away at once.
        running.push(call(&limiter, 0).await.unwrap());
        let second = call(&limiter, 0).await.unwrap();
        second.settle(&throttled(), Some(0));
        assert_eq!(closed_for(&limiter), millis(100));
        tokio::time::sleep(millis(100)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_hint_the_pause_is_at_most_eight_seconds() {
    let limiter = unpaced().build().unwrap();
    let mut pauses = Vec::new();
    for _ in 0..10 {
        call(&limiter, 0).await.unwrap().settle(&throttled(), Some(0));
        pauses.push(closed_for(&limiter).as_millis());
    }
    // No pace is known: from the shortest pause on.
    assert_eq!(pauses, [50, 100, 200, 400, 800, 1600, 3200, 6400, 8000, 8000]);
}

#[tokio::test(start_paused = true)]
async fn the_first_call_counts_as_rejected_even_if_another_one_reported_first() {
    let limiter = with_base(millis(100)).build().unwrap();
    call_now(&limiter, 0).unwrap().settle(&throttled(), Some(0));
    let first = call(&limiter, 0).await.unwrap();
    let second = call(&limiter, 0).await.unwrap();
    second.settle(&throttled(), Some(0));
    assert_eq!(closed_for(&limiter), millis(100));
    first.settle(&throttled(), Some(0));
    assert_eq!(closed_for(&limiter), millis(100), "the pause under way stands");
    call(&limiter, 0).await.unwrap().settle(&throttled(), Some(0));
    assert_eq!(closed_for(&limiter), millis(400));
}

#[tokio::test(start_paused = true)]
async fn hints_are_clamped_and_nonsense_falls_back_to_the_base() {
    for (hint, expected) in [
        (Some(secs(599)), secs(599)),
        (Some(Duration::MAX), secs(600)),
        (Some(Duration::ZERO), millis(700)),
        (None, millis(700)),
    ] {
        let limiter = with_base(millis(700)).build().unwrap();
        let mut verdict = throttled();
        verdict.retry_after = hint;
        call_now(&limiter, 0).unwrap().settle(&verdict, Some(0));
        assert_eq!(closed_for(&limiter), expected, "{hint:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hint_that_proves_too_short_gives_way_to_the_doubled_pause() {
    let limiter = with_base(millis(100)).build().unwrap();
    let mut pauses = Vec::new();
    for _ in 0..4 {
        let call = call(&limiter, 0).await.unwrap();
        call.settle(&throttled_for(millis(300)), Some(0));
        pauses.push(closed_for(&limiter).as_millis());
    }
    assert_eq!(pauses, [300, 300, 400, 800]);
}

#[tokio::test(start_paused = true)]
async fn jitter_only_lengthens_and_only_a_little() {
    for _ in 0..50 {
        let limiter = RateLimiter::builder().build().unwrap();
        call_now(&limiter, 0)
            .unwrap()
            .settle(&throttled_for(secs(100)), Some(0));
        assert!((secs(100)..=secs(102)).contains(&closed_for(&limiter)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_reporter_does_not_end_the_pause() {
    let limiter = plain().build().unwrap();
    let reporter = limiter.clone();
    let task = tokio::spawn(async move {
        let until = call(&reporter, 0)
            .await
            .unwrap()
            .settle(&throttled_for(secs(4)), Some(0));
        reporter.acquire(0).held_until(until.unwrap()).await
    });
    tokio::time::sleep(secs(1)).await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    assert_eq!(closed_for(&limiter), secs(3));
    let (waited, _call) = time_to_start(&limiter, 0).await;
    assert_about(waited, secs(3));
}

#[tokio::test(start_paused = true)]
async fn after_two_blocked_generations_one_call_goes_alone() {
    let limiter = with_base(millis(100)).build().unwrap();
    let mut first = calls(&limiter, 3).into_iter();
    first.next().unwrap().settle(&throttled(), Some(0));
    call(&limiter, 0).await.unwrap().settle(&throttled(), Some(0));
    let probe = call(&limiter, 0).await.unwrap();
    // It is alone until it would have been rejected by now: a rejection takes no time here.
    assert!(poll_for(millis(99), limiter.acquire(0)).await.is_none());
    // What happened before has no say.
    first.next().unwrap().settle(&Verdict::SUCCESS, None);
    assert!(grant_now(&limiter, 0).is_none());
    probe.settle(&Verdict::SUCCESS, None);
    assert_eq!(calls(&limiter, 5).len(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_comes_to_nothing_is_followed_by_another() {
    let limiter = with_base(millis(100)).build().unwrap();
    for _ in 0..2 {
        call(&limiter, 0).await.unwrap().settle(&throttled(), Some(0));
    }
    // Given back unused, cancelled, or without a connection: the next one goes, again alone.
    tokio::time::sleep(millis(200)).await;
    drop(grant_now(&limiter, 0).unwrap());
    drop(call_now(&limiter, 0).unwrap());
    call_now(&limiter, 0)
        .unwrap()
        .settle(&Verdict::of_kind(ErrorKind::Connection), None);
    let probe = call_now(&limiter, 0).unwrap();
    assert!(grant_now(&limiter, 0).is_none());
    probe.settle(&throttled(), Some(0));
    assert_eq!(closed_for(&limiter), millis(400), "it was the first one answered");
}

#[tokio::test(start_paused = true)]
async fn a_grant_overtaken_by_a_pause_goes_back_to_its_place() {
    let limiter = plain()
        .max_in_flight(2)
        .requests_per_minute(60)
        .burst(secs(60))
        .build()
        .unwrap();
    let call_1 = call_now(&limiter, 0).unwrap();
    let grant = grant_now(&limiter, 0).unwrap();
    let mut behind = std::pin::pin!(limiter.acquire(0));
    assert!(poll_once(behind.as_mut()).is_none());
    assert_eq!(limiter.snapshot().requests_available, Some(58.0));
    call_1.settle(&throttled_for(secs(2)), Some(0));
    let mut again = std::pin::pin!(grant.start().unwrap_err());
    assert_eq!(
        limiter.snapshot().requests_available,
        Some(59.0),
        "the grant was returned"
    );
    assert!(poll_once(again.as_mut()).is_none());
    // One at a time from here on: who had the grant goes first.
    let other = Instant::now();
    let grant = again.await.unwrap();
    assert_about(other.elapsed(), secs(2));
    let _call = grant.start().unwrap();
    let _call = behind.await.unwrap().start().unwrap();
}

#[tokio::test(start_paused = true)]
async fn overload_without_a_hint_lowers_the_cap_and_the_fifth_in_a_row_closes_the_gate() {
    let limiter = plain().build().unwrap();
    let mut calls = calls(&limiter, 20).into_iter();
    let mut end = |verdict: Verdict| calls.next().unwrap().settle(&verdict, Some(0));
    // A single one is the item's own: it waits for its backoff.
    assert_eq!(end(overloaded()), None);
    assert_eq!(limiter.snapshot().max_in_flight, None);
    for number in 2..=4 {
        // The item rejoins the queue, since the calls that are left are the cap now.
        assert_eq!(end(overloaded()), Some(Instant::now()));
        assert_eq!(limiter.snapshot().max_in_flight, Some(20 - number));
    }
    end(Verdict::SUCCESS);
    for _ in 0..4 {
        end(overloaded());
    }
    assert_eq!(limiter.snapshot().closed_for, None);
    end(overloaded());
    assert_eq!(closed_for(&limiter), secs(1));
    assert_eq!(limiter.snapshot().closed_by, Some(ErrorKind::Overloaded));
    // The rest of that generation neither lengthens the pause nor counts.
    for _ in 0..6 {
        end(overloaded());
    }
    assert_eq!(closed_for(&limiter), secs(1));
}

#[tokio::test(start_paused = true)]
async fn overload_pauses_grow_and_each_ends_with_one_probe() {
    let limiter = plain().build().unwrap();
    for call in calls(&limiter, 5) {
        call.settle(&overloaded(), Some(0));
    }
    let mut pauses = Vec::new();
    for _ in 0..6 {
        pauses.push(closed_for(&limiter).as_secs());
        let probe = call(&limiter, 0).await.unwrap();
        assert!(grant_now(&limiter, 0).is_none());
        probe.settle(&overloaded(), Some(0));
    }
    assert_eq!(pauses, [1, 2, 4, 8, 15, 15]);
    // The cap rises as calls are accepted, up to the five at which overload began, and ends.
    call(&limiter, 0).await.unwrap().settle(&Verdict::SUCCESS, None);
    for (cap, next) in [(2, Some(4)), (4, None)] {
        let calls = calls(&limiter, cap);
        assert!(grant_now(&limiter, 0).is_none());
        for call in calls {
            call.settle(&Verdict::SUCCESS, None);
        }
        assert_eq!(limiter.snapshot().max_in_flight, next);
    }
}

#[tokio::test(start_paused = true)]
async fn overload_with_a_hint_closes_at_once() {
    let limiter = plain().build().unwrap();
    call_now(&limiter, 0)
        .unwrap()
        .settle(&overloaded().with_retry_after(secs(20)), Some(0));
    assert_eq!(closed_for(&limiter), secs(20));
    let _probe = call(&limiter, 0).await.unwrap();
    assert!(grant_now(&limiter, 0).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_failure_of_the_scope_latches_the_gate_until_it_is_reopened() {
    let limiter = plain().max_in_flight(3).build().unwrap();
    let mut calls = calls(&limiter, 3).into_iter();
    let waiter = tokio::spawn({
        let limiter = limiter.clone();
        async move { call(&limiter, 0).await.map(drop) }
    });
    tokio::task::yield_now().await;
    calls
        .next()
        .unwrap()
        .settle(&fatal(ErrorKind::Authentication), Some(0));
    let refused = waiter.await.unwrap().unwrap_err();
    assert!(matches!(
        refused,
        Refused::Latched {
            kind: ErrorKind::Authentication,
            ..
        }
    ));
    assert_eq!(
        limiter.acquire(0).await.unwrap_err().kind(),
        ErrorKind::Authentication
    );
    assert_eq!(limiter.snapshot().latched, Some(ErrorKind::Authentication));

    limiter.reopen();
    assert_eq!(limiter.snapshot().latched, None);
    // A call from before cannot latch it again, a new one can.
    calls
        .next()
        .unwrap()
        .settle(&fatal(ErrorKind::Authentication), Some(0));
    let new = call_now(&limiter, 0).unwrap();
    new.settle(&fatal(ErrorKind::InsufficientBalance), Some(0));
    assert_eq!(limiter.snapshot().latched, Some(ErrorKind::InsufficientBalance));
    // Judged without a kind: still nothing that is retried.
    limiter.reopen();
    call_now(&limiter, 0)
        .unwrap()
        .settle(&Verdict::new(Disposition::ScopeFatal), Some(0));
    assert_eq!(
        limiter.acquire(0).await.unwrap_err().kind(),
        ErrorKind::Configuration
    );
}

#[tokio::test(start_paused = true)]
async fn a_grant_is_refused_when_the_gate_latched_before_its_call() {
    let limiter = plain().build().unwrap();
    let grant = grant_now(&limiter, 0).unwrap();
    call_now(&limiter, 0)
        .unwrap()
        .settle(&fatal(ErrorKind::NotFound), Some(0));
    let refused = grant.start().unwrap_err().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotFound);
    assert_eq!(limiter.snapshot().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn reopening_ends_a_pause() {
    let limiter = plain().build().unwrap();
    call_now(&limiter, 0)
        .unwrap()
        .settle(&throttled_for(secs(60)), Some(0));
    let waiter = tokio::spawn({
        let limiter = limiter.clone();
        async move { time_to_start(&limiter, 0).await.0 }
    });
    tokio::time::sleep(secs(5)).await;
    limiter.reopen();
    assert_about(waiter.await.unwrap(), secs(5));
    assert_about(limiter.snapshot().paused, secs(5));
}

#[tokio::test(start_paused = true)]
async fn the_classic_values() {
    let limiter = RateLimiter::builder()
        .without_start_ramp()
        .cooldown(Cooldown::classic())
        .build()
        .unwrap();
    let mut pauses = Vec::new();
    for _ in 0..4 {
        call(&limiter, 0).await.unwrap().settle(&throttled(), Some(0));
        pauses.push(closed_for(&limiter).as_secs());
    }
    assert_eq!(pauses, [300, 450, 600, 600]);
    call(&limiter, 0).await.unwrap().settle(&Verdict::SUCCESS, None);
    // Then the gate, not each caller, spaces 50 starts from 2 s down to 0.1 s.
    let mut gaps = Vec::new();
    for _ in 0..60 {
        let (gap, call) = time_to_start(&limiter, 0).await;
        gaps.push(gap);
        call.settle(&Verdict::SUCCESS, None);
    }
    assert_about(gaps[0], secs(2));
    assert!(gaps.is_sorted_by(|a, b| *a + millis(1) >= *b));
    assert_about(gaps[49], millis(100));
    assert_eq!(gaps[50..].iter().sum::<Duration>(), Duration::ZERO);
    let total: Duration = gaps.iter().sum();
    assert!(total.abs_diff(millis(52_500)) < millis(100), "{total:?}");
}
