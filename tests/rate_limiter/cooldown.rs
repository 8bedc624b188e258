//! Throttles: who closes the gate, for how long, and how it opens again.

use llm_batch::Verdict;

use crate::support::*;

#[tokio::test(start_paused = true)]
async fn a_throttle_closes_the_gate_for_everyone() {
    let limiter = plain().build().unwrap();
    let calls: Vec<_> = (0..3).map(|_| call_now(&limiter, 0).unwrap()).collect();
    let mut calls = calls.into_iter();
    calls.next().unwrap().settle(&throttled_for(secs(3)), Some(0));
    assert_eq!(limiter.snapshot().closed_for, Some(secs(3)));
    // Calls in flight finish.
    calls.next().unwrap().settle(&Verdict::SUCCESS, None);
    assert!(grant_now(&limiter, 0).is_none());
    let (waited, _call) = time_to_start(&limiter, 0).await;
    assert_about(waited, secs(3));
    assert_eq!(limiter.snapshot().closed_for, None);
}
