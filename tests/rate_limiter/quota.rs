//! Request and token quotas: burst, refill, settlement, debt.

use llm_batch::Verdict;
use llm_batch::layer::rate_limiter::Refused;
use tokio::time::Instant;

use crate::support::*;

#[tokio::test(start_paused = true)]
async fn a_minute_lets_the_limit_through_and_little_more() {
    // Half a bucket would let 90 through, a whole one 119.
    let limiter = plain().requests_per_minute(60).build().unwrap();
    let start = Instant::now();
    let mut calls = 0;
    loop {
        let call = call(&limiter, 0).await.unwrap();
        if start.elapsed() >= secs(60) {
            break;
        }
        calls += 1;
        call.settle(&Verdict::SUCCESS, None);
    }
    assert!((60..=61).contains(&calls), "{calls}");
}

#[tokio::test(start_paused = true)]
async fn the_granularity_of_timers_costs_no_quota() {
    for limit in [600, 6_000, 60_000, 600_000] {
        let limiter = plain().requests_per_minute(limit).build().unwrap();
        let start = Instant::now();
        let calls = limit / 6;
        for _ in 0..calls {
            call(&limiter, 0).await.unwrap().settle(&Verdict::SUCCESS, None);
        }
        // The bucket of one second goes at once, and the rest takes nine.
        assert_about(start.elapsed(), secs(9));
    }
}

#[tokio::test(start_paused = true)]
async fn settlement_refunds_and_leaves_debts() {
    let limiter = plain().tokens_per_minute(100).burst(secs(60)).build().unwrap();
    let balance = || limiter.snapshot().tokens_available.unwrap();
    assert_eq!(balance(), 100.0);
    // Reserve 80, used 20: 60 come back.
    let call_80 = call_now(&limiter, 80).unwrap();
    assert_eq!(balance(), 20.0);
    call_80.settle(&Verdict::SUCCESS, Some(20));
    assert_eq!(balance(), 80.0);
    // Reserve 80, used 250: a debt.
    let call_80 = call_now(&limiter, 80).unwrap();
    assert_eq!(balance(), 0.0);
    call_80.settle(&Verdict::SUCCESS, Some(250));
    assert_eq!(balance(), -170.0);
    let (waited, one) = time_to_start(&limiter, 1).await;
    assert_about(waited, std::time::Duration::from_secs_f64(102.6));
    drop(one);
}

#[tokio::test(start_paused = true)]
async fn known_zero_refunds_all_and_unknown_keeps_the_estimate() {
    let limiter = plain().tokens_per_minute(100).burst(secs(60)).build().unwrap();
    let balance = || limiter.snapshot().tokens_available.unwrap();
    call_now(&limiter, 30).unwrap().settle(&Verdict::SUCCESS, Some(0));
    assert_eq!(balance(), 100.0);
    call_now(&limiter, 30).unwrap().settle(&Verdict::SUCCESS, None);
    assert_eq!(balance(), 70.0);
    drop(call_now(&limiter, 30).unwrap());
    assert_eq!(balance(), 40.0);
    drop(grant_now(&limiter, 30).unwrap());
    assert_eq!(balance(), 40.0);
}

#[tokio::test(start_paused = true)]
async fn an_estimate_above_the_bucket_waits_for_a_full_one_and_leaves_a_debt() {
    // 600 a minute, 10 at once.
    let limiter = plain().tokens_per_minute(600).build().unwrap();
    call_now(&limiter, 5).unwrap().settle(&Verdict::SUCCESS, None);
    let (waited, large) = time_to_start(&limiter, 600).await;
    assert_about(waited, millis(500));
    assert!((limiter.snapshot().tokens_available.unwrap() + 590.0).abs() < 0.1);
    large.settle(&Verdict::SUCCESS, None);
    let (waited, _call) = time_to_start(&limiter, 1).await;
    assert_about(waited, millis(59_100));
}

#[tokio::test(start_paused = true)]
async fn an_estimate_above_the_minute_fails_at_once() {
    let limiter = plain().tokens_per_minute(600).build().unwrap();
    let refused = limiter.acquire(601).await.unwrap_err();
    assert!(matches!(
        refused,
        Refused::TooLarge {
            estimate: 601,
            limit: 600
        }
    ));
    assert_eq!(limiter.snapshot().granted, 0);
}
