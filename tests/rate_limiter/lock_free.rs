//! Calls that nothing limits pass the gate without its lock. Nothing else may differ: a gate with a cap that is never
//! reached decides under the lock, and both have to show the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use llm_batch::layer::rate_limiter::{ActiveCall, Grant, RateLimiter, RateLimiterSnapshot};
use llm_batch::{ErrorKind, Verdict};
use proptest::prelude::*;

use crate::support::*;

const NEVER_REACHED: usize = 1_000_000;

#[derive(Clone, Copy, Debug)]
enum Step {
    Start(u64),
    /// Takes a grant and keeps it.
    Grant(u64),
    StartGrant(usize),
    DropGrant(usize),
    End(usize, Verdict),
    Cancel(usize),
    Reopen,
    Compare,
    /// Time passes, and a call follows.
    Advance(Duration),
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        20 => Just(Verdict::SUCCESS),
        2 => Just(throttled()),
        1 => (1_u64..3000).prop_map(|time| throttled_for(millis(time))),
        3 => Just(overloaded()),
        1 => Just(overloaded().with_retry_after(secs(1))),
        1 => Just(Verdict::of_kind(ErrorKind::Connection)),
        1 => Just(Verdict::of_kind(ErrorKind::InvalidRequest)),
        1 => Just(fatal(ErrorKind::Authentication)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (0_u64..100).prop_map(Step::Start),
        2 => (0_u64..100).prop_map(Step::Grant),
        1 => any::<usize>().prop_map(Step::StartGrant),
        1 => any::<usize>().prop_map(Step::DropGrant),
        10 => (any::<usize>(), verdict()).prop_map(|(which, verdict)| Step::End(which, verdict)),
        1 => any::<usize>().prop_map(Step::Cancel),
        1 => Just(Step::Reopen),
        2 => Just(Step::Compare),
        4 => prop_oneof![Just(3_u64), Just(40), Just(70), Just(3_000)]
            .prop_map(|time| Step::Advance(millis(time))),
    ]
}

/// One gate, and the calls that it has let through.
struct Side {
    limiter: RateLimiter,
    grants: Vec<Grant>,
    calls: Vec<ActiveCall>,
}

impl Side {
    fn new(limiter: RateLimiter) -> Self {
        Self {
            limiter,
            grants: Vec::new(),
            calls: Vec::new(),
        }
    }

    /// Does the step; says what came of it.
    fn take(&mut self, step: Step) -> Option<bool> {
        fn pick<T>(list: &mut Vec<T>, which: usize) -> Option<T> {
            (!list.is_empty()).then(|| list.swap_remove(which % list.len()))
        }
        match step {
            Step::Start(estimate) => {
                let grant = poll_once(self.limiter.acquire(estimate))?.ok()?;
                let call = grant.start().ok()?;
                self.calls.push(call);
                Some(true)
            }
            Step::Grant(estimate) => {
                self.grants.push(poll_once(self.limiter.acquire(estimate))?.ok()?);
                Some(true)
            }
            Step::StartGrant(which) => {
                let started = pick(&mut self.grants, which)?.start();
                let Ok(call) = started else { return Some(false) };
                self.calls.push(call);
                Some(true)
            }
            Step::DropGrant(which) => pick(&mut self.grants, which).map(|_| true),
            Step::End(which, verdict) => {
                let held = pick(&mut self.calls, which)?.settle(&verdict, Some(7));
                Some(held.is_some())
            }
            Step::Cancel(which) => pick(&mut self.calls, which).map(|_| true),
            Step::Reopen => {
                self.limiter.reopen();
                None
            }
            Step::Compare | Step::Advance(_) => None,
        }
    }

    fn snapshot(&self) -> RateLimiterSnapshot {
        let mut snapshot = self.limiter.snapshot();
        snapshot.max_in_flight = snapshot.max_in_flight.filter(|cap| *cap < NEVER_REACHED);
        snapshot
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_lock_changes_nothing(steps in proptest::collection::vec(step(), 1..300)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut free = Side::new(plain().build().unwrap());
            let mut locked = Side::new(plain().max_in_flight(NEVER_REACHED).build().unwrap());
            for step in steps {
                let mut step = step;
                if let Step::Advance(time) = step {
                    tokio::time::advance(time).await;
                    step = Step::Start(1);
                }
                prop_assert_eq!(free.take(step), locked.take(step), "{:?}", step);
                if matches!(step, Step::Compare) {
                    prop_assert_eq!(free.snapshot(), locked.snapshot());
                }
            }
            for side in [&mut free, &mut locked] {
                side.grants.clear();
                side.calls.clear();
            }
            prop_assert_eq!(free.snapshot(), locked.snapshot());
            prop_assert_eq!(free.snapshot().in_flight, 0);
            Ok(())
        })?;
    }
}

/// Starts and ends on many threads, with pauses, overload and looks in between: every call is counted once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_call_on_every_thread_is_counted_once() {
    const TASKS: u64 = 8;
    const CALLS: u64 = 4_000;
    let limiter = plain().build().unwrap();
    let (throttles, unused) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let tasks = (0..TASKS).map(|_| {
        let (limiter, throttles, unused) = (limiter.clone(), Arc::clone(&throttles), Arc::clone(&unused));
        tokio::spawn(async move {
            for number in 0..CALLS {
                if number % 97 == 0 {
                    drop(limiter.acquire(1).await.unwrap());
                    unused.fetch_add(1, Ordering::Relaxed);
                }
                let active = call(&limiter, 1).await.unwrap();
                if number % 7 == 0 {
                    tokio::task::yield_now().await;
                }
                match number {
                    // What follows a throttle is paced, so it is the last call.
                    number if number == CALLS - 1 => {
                        active.settle(&throttled(), Some(0));
                        throttles.fetch_add(1, Ordering::Relaxed);
                        limiter.reopen();
                    }
                    number if number % 211 == 0 => drop(active),
                    number if number % 307 == 0 => {
                        active.settle(&overloaded(), Some(0));
                    }
                    _ => {
                        active.settle(&Verdict::SUCCESS, Some(1));
                    }
                }
                let seen = limiter.snapshot();
                assert_eq!(seen.granted, seen.returned + seen.settled + seen.in_flight as u64);
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        tokio::time::timeout(secs(60), task).await.unwrap().unwrap();
    }
    let end = limiter.snapshot();
    assert_eq!((end.in_flight, end.waiting), (0, 0));
    assert_eq!(end.settled, TASKS * CALLS);
    assert_eq!(end.throttled, throttles.load(Ordering::Relaxed));
    assert!(end.returned >= unused.load(Ordering::Relaxed));
}

/// As above without looks and pauses, so that the calls do pass without the lock; a cap that overload makes meanwhile
/// finds every end.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cap_that_begins_in_the_middle_misses_no_end() {
    for round in 0..200 {
        let limiter = plain().build().unwrap();
        let tasks = (0..4).map(|task| {
            let limiter = limiter.clone();
            tokio::spawn(async move {
                for number in 0..200 {
                    let active = call(&limiter, 1).await.unwrap();
                    let overload = task == 0 && (100..103).contains(&number);
                    let verdict = if overload { overloaded() } else { Verdict::SUCCESS };
                    active.settle(&verdict, Some(1));
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            tokio::time::timeout(secs(60), task)
                .await
                .unwrap_or_else(|_| {
                    panic!("a call waits for ever in round {round}: {:?}", limiter.snapshot())
                })
                .unwrap();
        }
        assert_eq!(limiter.snapshot().settled, 800);
    }
}
