//! How starts are spaced: ramps, the resume after a throttle, and policies of one's own.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use llm_batch::layer::rate_limiter::{
    EndedCall, Pace, Pacing, RateLimiter, SlowStart, StartRamp, StartedCall,
};
use llm_batch::{ErrorKind, Verdict};
use tokio::time::Instant;

use crate::support::*;

/// When calls start if there is always another one waiting.
async fn starts(limiter: &RateLimiter, count: usize) -> Vec<Duration> {
    let begin = Instant::now();
    let mut starts = Vec::new();
    for _ in 0..count {
        let call = call(limiter, 0).await.unwrap();
        starts.push(begin.elapsed());
        call.settle(&Verdict::SUCCESS, None);
    }
    starts
}

fn within(starts: &[Duration], from: Duration, to: Duration) -> usize {
    starts.iter().filter(|at| (from..to).contains(*at)).count()
}

#[tokio::test(start_paused = true)]
async fn the_first_sixteen_start_at_once_and_then_the_rate_doubles() {
    let limiter = RateLimiter::builder().build().unwrap();
    let starts = starts(&limiter, 1000).await;
    assert_eq!(within(&starts, Duration::ZERO, millis(1)), 16);
    // 50, 100, 200, 400 a second for a quarter of a second each.
    for (quarter, expected) in [12, 25, 50, 100].into_iter().enumerate() {
        let from = millis(1 + 250 * quarter as u64);
        let count = within(&starts, from, from + millis(250));
        assert!(count.abs_diff(expected) <= 2, "{quarter}: {count}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_start_ramp_is_settable_and_can_be_left_out() {
    let ramp = StartRamp::new(2, 1.0).doubling_every(secs(2));
    let limiter = RateLimiter::builder().start_ramp(ramp).build().unwrap();
    let at: Vec<u64> = starts(&limiter, 7)
        .await
        .iter()
        .map(|at| (at.as_secs_f64() * 10.0).round() as u64)
        .collect();
    assert_eq!(at, [0, 0, 10, 20, 25, 30, 35]);
    let limiter = plain().build().unwrap();
    assert_eq!(starts(&limiter, 10_000).await.last(), Some(&Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_late_rush_ramps_too() {
    let limiter = RateLimiter::builder().build().unwrap();
    for _ in 0..20 {
        call(&limiter, 0).await.unwrap().settle(&Verdict::SUCCESS, None);
        tokio::time::sleep(secs(60)).await;
    }
    let starts = starts(&limiter, 200).await;
    assert!(within(&starts, Duration::ZERO, millis(200)) < 16);
}

#[tokio::test(start_paused = true)]
async fn it_finds_a_slow_rate_too() {
    // A provider that takes one call every six seconds and says so.
    let limiter = RateLimiter::builder().build().unwrap();
    let mut next = Instant::now();
    let mut throttles_of = [0; 4];
    for throttles in &mut throttles_of {
        let mut accepted = 0;
        while accepted < 20 {
            let call = call(&limiter, 0).await.unwrap();
            let now = Instant::now();
            if now < next {
                *throttles += 1;
                call.settle(&throttled_for(next - now), Some(0));
            } else {
                accepted += 1;
                next = now + secs(6);
                call.settle(&Verdict::SUCCESS, None);
            }
        }
    }
    assert!(throttles_of[3] <= 7, "{throttles_of:?}");
}

#[tokio::test(start_paused = true)]
async fn a_throttle_before_anything_was_accepted_starts_the_ramp_again() {
    let unpaced = SlowStart::new(0, Duration::ZERO, Duration::ZERO);
    let limiter = RateLimiter::builder().pace(unpaced).build().unwrap();
    call_now(&limiter, 0).unwrap().settle(&throttled(), Some(0));
    tokio::time::sleep(secs(1)).await;
    let starts = starts(&limiter, 100).await;
    assert_eq!(within(&starts, Duration::ZERO, millis(1)), 16);
}

#[tokio::test(start_paused = true)]
async fn after_overload_it_ramps_again() {
    let limiter = RateLimiter::builder().build().unwrap();
    starts(&limiter, 2000).await;
    call_now(&limiter, 0).map(|call| call.settle(&overloaded().with_retry_after(secs(1)), Some(0)));
    if limiter.snapshot().closed_for.is_none() {
        call(&limiter, 0)
            .await
            .unwrap()
            .settle(&overloaded().with_retry_after(secs(1)), Some(0));
    }
    call(&limiter, 0).await.unwrap().settle(&Verdict::SUCCESS, None);
    let starts = starts(&limiter, 100).await;
    assert_eq!(within(&starts, Duration::ZERO, millis(1)), 15);
}

#[tokio::test(start_paused = true)]
async fn the_cap_on_calls_in_flight_rises_by_steps() {
    let limiter = plain()
        .max_in_flight(7)
        .in_flight_ramp(2, 2, secs(10))
        .build()
        .unwrap();
    let begin = Instant::now();
    let mut at = Vec::new();
    let mut running = Vec::new();
    for _ in 0..7 {
        running.push(call(&limiter, 0).await.unwrap());
        at.push(begin.elapsed().as_secs());
    }
    assert_eq!(at, [0, 0, 10, 10, 20, 20, 30]);
    tokio::time::sleep(secs(100)).await;
    assert!(grant_now(&limiter, 0).is_none());
    assert_eq!(limiter.snapshot().max_in_flight, Some(7));
}

/// What a policy was told.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

struct Scripted {
    log: Log,
    limiter: Arc<Mutex<Option<RateLimiter>>>,
    answer: Pacing,
}

impl Pace for Scripted {
    fn on_start(&mut self, call: &StartedCall) -> Pacing {
        // Using the gate here would hang if its lock were held.
        if let Some(limiter) = &*self.limiter.lock().unwrap() {
            let _ = limiter.snapshot();
        }
        self.log.0.lock().unwrap().push(format!(
            "start {}/{} of {} in flight, {} tokens",
            call.generation, call.ordinal, call.in_flight, call.estimate
        ));
        self.answer
    }

    fn on_end(&mut self, call: &StartedCall, end: &EndedCall) -> Pacing {
        if let Some(limiter) = &*self.limiter.lock().unwrap() {
            let _ = limiter.snapshot();
        }
        self.log.0.lock().unwrap().push(format!(
            "end {}/{} {:?} {:?} {:?} accepted {} closes {}",
            call.generation, call.ordinal, end.kind, end.retry_after, end.dimension, end.accepted, end.closes
        ));
        self.answer
    }
}

#[tokio::test(start_paused = true)]
async fn a_policy_sees_every_start_and_every_verdict_outside_the_lock() {
    let log = Log::default();
    let slot = Arc::new(Mutex::new(None));
    let policy = Scripted {
        log: log.clone(),
        limiter: Arc::clone(&slot),
        answer: Pacing::UNLIMITED,
    };
    let limiter = plain().pace(policy).build().unwrap();
    *slot.lock().unwrap() = Some(limiter.clone());
    let first = call_now(&limiter, 7).unwrap();
    let second = call_now(&limiter, 8).unwrap();
    let third = call_now(&limiter, 9).unwrap();
    first.settle(&Verdict::SUCCESS, None);
    let mut quota = llm_batch::ReportedQuota::default();
    quota.dimension = Some(llm_batch::QuotaDimension::Tokens);
    second.settle(&throttled_for(secs(1)).with_quota(quota), None);
    third.settle(&throttled(), None);
    let after = call(&limiter, 1).await.unwrap();
    drop(after);
    assert_eq!(
        *log.0.lock().unwrap(),
        [
            "start 0/1 of 1 in flight, 7 tokens",
            "start 0/2 of 2 in flight, 8 tokens",
            "start 0/3 of 3 in flight, 9 tokens",
            "end 0/1 None None None accepted true closes false",
            "end 0/2 Some(RateLimit) Some(1s) Some(Tokens) accepted false closes true",
            "end 0/3 Some(RateLimit) None None accepted false closes false",
            "start 1/1 of 1 in flight, 1 tokens",
        ]
    );
    *slot.lock().unwrap() = None;
}

#[tokio::test(start_paused = true)]
async fn a_policy_can_space_starts_and_cap_calls() {
    let policy = |answer| Scripted {
        log: Log::default(),
        limiter: Arc::default(),
        answer,
    };
    let limiter = plain().pace(policy(Pacing::per_second(4.0))).build().unwrap();
    let spaced = starts(&limiter, 9).await;
    // The first answer comes with the first start.
    assert_about(spaced[8], secs(2));
    let limiter = plain()
        .pace(policy(Pacing::UNLIMITED.with_max_in_flight(2)))
        .build()
        .unwrap();
    let _calls = (call_now(&limiter, 0).unwrap(), call_now(&limiter, 0).unwrap());
    assert!(grant_now(&limiter, 0).is_none());
}

#[tokio::test(start_paused = true)]
async fn nonsense_from_a_policy_neither_panics_nor_stops_the_gate_for_good() {
    for rate in [f64::NAN, -1.0, 0.0, f64::NEG_INFINITY] {
        assert!(Pacing::per_second(rate).growing_by(f64::NAN).starts_per_second() > 0.0);
    }
    assert_eq!(Pacing::default().with_max_in_flight(0).max_in_flight(), Some(1));
}

struct Panics;

impl Pace for Panics {
    fn on_start(&mut self, _: &StartedCall) -> Pacing {
        Pacing::UNLIMITED
    }

    fn on_end(&mut self, _: &StartedCall, end: &EndedCall) -> Pacing {
        assert!(end.kind != Some(ErrorKind::RateLimit), "a policy with a bug");
        Pacing::UNLIMITED
    }
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_panics_leaks_nothing() {
    let limiter = plain().max_in_flight(1).pace(Panics).build().unwrap();
    for verdict in [throttled(), Verdict::SUCCESS] {
        let call = call(&limiter, 0).await.unwrap();
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| call.settle(&verdict, Some(0))));
        assert_eq!(limiter.snapshot().in_flight, 0);
    }
}

/// Does with its gate what it is told to.
struct Uses<F> {
    gate: Arc<std::sync::OnceLock<RateLimiter>>,
    on_end: F,
}

impl<F: FnMut(&RateLimiter, &EndedCall) + Send + 'static> Pace for Uses<F> {
    fn on_start(&mut self, _: &StartedCall) -> Pacing {
        self.gate.get().unwrap().snapshot();
        Pacing::UNLIMITED
    }

    fn on_end(&mut self, _: &StartedCall, end: &EndedCall) -> Pacing {
        (self.on_end)(self.gate.get().unwrap(), end);
        Pacing::UNLIMITED
    }
}

fn gate_with_user<F: FnMut(&RateLimiter, &EndedCall) + Send + 'static>(on_end: F) -> RateLimiter {
    let gate = Arc::default();
    let pace = Uses {
        gate: Arc::clone(&gate),
        on_end,
    };
    let limiter = plain().pace(pace).build().unwrap();
    gate.set(limiter.clone()).unwrap();
    limiter
}

#[tokio::test(start_paused = true)]
async fn a_policy_may_open_its_gate_from_within() {
    let limiter = gate_with_user(|gate, end| {
        if end.kind == Some(ErrorKind::Authentication) || end.closes {
            gate.reopen();
        }
    });
    for verdict in [fatal(ErrorKind::Authentication), throttled_for(secs(60))] {
        call_now(&limiter, 0).unwrap().settle(&verdict, Some(0));
        let snapshot = limiter.snapshot();
        assert_eq!((snapshot.latched, snapshot.closed_for), (None, None));
    }
}

#[tokio::test(start_paused = true)]
async fn a_policy_may_make_calls_through_its_gate() {
    let mut left = 3;
    let limiter = gate_with_user(move |gate, _| {
        if left > 0 {
            left -= 1;
            // The end of this one is told once this answer is given. The last one closes the gate from within.
            let verdict = if left == 0 {
                throttled_for(secs(9))
            } else {
                Verdict::SUCCESS
            };
            call_now(gate, 0).unwrap().settle(&verdict, Some(0));
        }
    });
    call_now(&limiter, 0).unwrap().settle(&Verdict::SUCCESS, None);
    let snapshot = limiter.snapshot();
    assert_eq!((snapshot.settled, snapshot.in_flight), (4, 0));
    assert_eq!(snapshot.closed_for, Some(secs(9)));
    let (waited, _call) = time_to_start(&limiter, 0).await;
    assert_about(waited, secs(9));
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_panics_when_the_gate_closes_costs_one_item_and_the_pause_stands() {
    let limiter = gate_with_user(|_, end| assert!(!end.closes, "no"));
    let calls = [call_now(&limiter, 0).unwrap(), call_now(&limiter, 0).unwrap()];
    let [first, second] = calls;
    let settle = std::panic::AssertUnwindSafe(|| first.settle(&throttled_for(secs(3)), Some(0)));
    assert!(std::panic::catch_unwind(settle).is_err());
    assert_eq!(limiter.snapshot().closed_for, Some(secs(3)));
    second.settle(&Verdict::SUCCESS, None);
    let (waited, call) = time_to_start(&limiter, 0).await;
    assert_about(waited, secs(3));
    call.settle(&Verdict::SUCCESS, None);
    assert_eq!(limiter.snapshot().in_flight, 0);
}

#[test]
fn a_slow_policy_holds_up_nobody_but_the_one_who_asked_it() {
    let (entered, inside) = std::sync::mpsc::channel();
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let mut slow = Some((entered, wait));
    let limiter = gate_with_user(move |_, _| {
        if let Some((entered, wait)) = slow.take() {
            entered.send(()).unwrap();
            wait.recv().unwrap();
        }
    });
    let other = limiter.clone();
    let thread = std::thread::spawn(move || {
        call_now(&other, 0).unwrap().settle(&Verdict::SUCCESS, None);
    });
    inside.recv().unwrap();
    // While it thinks calls start, end, and close the gate, for as long as is not known yet.
    call_now(&limiter, 0).unwrap().settle(&Verdict::SUCCESS, None);
    call_now(&limiter, 0)
        .unwrap()
        .settle(&throttled_for(secs(60)), Some(0));
    assert!(limiter.snapshot().closed_for.is_some());
    release.send(()).unwrap();
    thread.join().unwrap();
    assert!(limiter.snapshot().closed_for > Some(secs(50)));
}

#[tokio::test(start_paused = true)]
async fn the_policies_of_this_crate_have_settings() {
    let pace = SlowStart::new(3, secs(4), secs(2));
    let limiter = plain().pace(pace).build().unwrap();
    call_now(&limiter, 0)
        .unwrap()
        .settle(&throttled_for(secs(1)), Some(0));
    tokio::time::sleep(secs(1)).await;
    let at: Vec<u64> = starts(&limiter, 6).await.iter().map(Duration::as_secs).collect();
    assert_eq!(at, [0, 4, 7, 9, 9, 9]);
}
