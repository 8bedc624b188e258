//! The default pace against providers of unknown limits.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use llm_batch::layer::rate_limiter::{BucketFit, EndedCall, Pace, Pacing, RateLimiter, StartedCall};
use llm_batch::{ErrorKind, QuotaDimension, ReportedQuota, Verdict};
use proptest::prelude::*;
use tokio::time::{Instant, sleep};

use crate::support::*;

/// A provider: a bucket, a cap on calls in flight, and rejections at random.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Provider {
    pub(crate) per_second: f64,
    pub(crate) burst: f64,
    pub(crate) in_flight: usize,
    /// The share of calls that is rejected whatever the rate.
    pub(crate) stray: f64,
    /// Seconds of a call, and of each way.
    pub(crate) call: f64,
    pub(crate) way: f64,
    pub(crate) hints: bool,
    /// The quota that a rejection names.
    pub(crate) dimension: Option<QuotaDimension>,
}

pub(crate) const UNLIMITED: Provider = Provider {
    per_second: f64::INFINITY,
    burst: f64::INFINITY,
    in_flight: usize::MAX,
    stray: 0.0,
    call: 1.0,
    way: 0.03,
    hints: false,
    dimension: None,
};

pub(crate) struct Server {
    provider: Provider,
    made: Instant,
    state: Mutex<ServerState>,
}

struct ServerState {
    level: f64,
    at: f64,
    in_flight: usize,
    rng: fastrand::Rng,
    accepted: usize,
    rejected: usize,
    /// The times of arrival.
    arrivals: Vec<f64>,
}

impl Server {
    pub(crate) fn new(provider: Provider) -> Arc<Self> {
        Arc::new(Self {
            provider,
            made: Instant::now(),
            state: Mutex::new(ServerState {
                level: provider.burst,
                at: 0.0,
                in_flight: 0,
                rng: fastrand::Rng::with_seed(7),
                accepted: 0,
                rejected: 0,
                arrivals: Vec::new(),
            }),
        })
    }

    /// Takes a call now, or returns the rejection.
    fn arrive(&self) -> Option<Verdict> {
        let provider = &self.provider;
        let mut state = self.state.lock().unwrap();
        let now = self.made.elapsed().as_secs_f64();
        if provider.per_second.is_finite() {
            state.level = (state.level + provider.per_second * (now - state.at)).min(provider.burst);
        }
        state.at = now;
        state.arrivals.push(now);
        let stray = state.rng.f64() < provider.stray;
        if stray || state.level < 1.0 || state.in_flight >= provider.in_flight {
            state.rejected += 1;
            let missing = Duration::try_from_secs_f64((1.0 - state.level) / provider.per_second);
            let rejection = match missing {
                Ok(missing) if provider.hints => throttled_for(missing),
                _ => throttled(),
            };
            let mut quota = ReportedQuota::default();
            quota.dimension = provider.dimension;
            return Some(rejection.with_quota(quota));
        }
        state.level -= 1.0;
        state.in_flight += 1;
        state.accepted += 1;
        None
    }

    /// So many calls are left in the bucket.
    pub(crate) fn set_level(&self, level: f64) {
        self.state.lock().unwrap().level = level;
    }

    pub(crate) fn counts(&self) -> (usize, usize) {
        let state = self.state.lock().unwrap();
        (state.accepted, state.rejected)
    }

    /// Returns the rejection, if it is one.
    async fn call(&self) -> Option<Verdict> {
        let way = Duration::from_secs_f64(self.provider.way);
        sleep(way).await;
        let rejection = self.arrive();
        if rejection.is_none() {
            sleep(Duration::from_secs_f64(self.provider.call)).await;
            self.state.lock().unwrap().in_flight -= 1;
        }
        sleep(way).await;
        rejection
    }
}

/// `items` items by `workers` workers. Returns how long it takes.
pub(crate) async fn run(limiter: &RateLimiter, server: &Arc<Server>, items: usize, workers: usize) -> f64 {
    let begin = Instant::now();
    let left = Arc::new(Mutex::new(items));
    let workers = (0..workers).map(|_| {
        let (limiter, server, left) = (limiter.clone(), Arc::clone(server), Arc::clone(&left));
        tokio::spawn(async move {
            while take(&left) {
                let mut waiting = limiter.acquire(1);
                loop {
                    let mut grant = waiting.await.unwrap();
                    let call = loop {
                        match grant.start() {
                            Ok(call) => break call,
                            Err(again) => grant = again.await.unwrap(),
                        }
                    };
                    let Some(verdict) = server.call().await else {
                        call.settle(&Verdict::SUCCESS, Some(1));
                        break;
                    };
                    waiting = limiter.acquire(1);
                    if let Some(until) = call.settle(&verdict, Some(0)) {
                        waiting = waiting.held_until(until);
                    }
                }
            }
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.await.unwrap();
    }
    begin.elapsed().as_secs_f64()
}

fn take(left: &Mutex<usize>) -> bool {
    let mut left = left.lock().unwrap();
    let any = *left > 0;
    *left = left.saturating_sub(1);
    any
}

fn virtual_time<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(future)
}

#[tokio::test(start_paused = true)]
async fn it_finds_the_rate_of_a_bucket_with_few_rejections() {
    for hints in [false, true] {
        let provider = Provider {
            per_second: 10.0,
            burst: 20.0,
            hints,
            ..UNLIMITED
        };
        let server = Server::new(provider);
        let limiter = RateLimiter::builder().build().unwrap();
        let took = run(&limiter, &server, 3_000, 64).await;
        let (accepted, rejected) = server.counts();
        assert_eq!(accepted, 3_000);
        // 298 s at best.
        assert!(took < 1.05 * 298.0, "{took}");
        assert!(rejected < 120, "{rejected}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_limit_on_calls_in_flight_becomes_the_cap() {
    let provider = Provider {
        in_flight: 20,
        ..UNLIMITED
    };
    let server = Server::new(provider);
    let limiter = RateLimiter::builder().build().unwrap();
    let took = run(&limiter, &server, 3_000, 100).await;
    // 150 times 1.06 s.
    assert!(took < 1.15 * 159.0, "{took}");
    assert!(server.counts().1 < 90, "{:?}", server.counts());
    let cap = limiter.snapshot().max_in_flight.unwrap();
    assert!((18..=24).contains(&cap), "{cap}");
}

#[tokio::test(start_paused = true)]
async fn one_early_throttle_costs_little() {
    for at in [1, 2, 3, 10] {
        let limiter = RateLimiter::builder().build().unwrap();
        let server = Server::new(UNLIMITED);
        let early: Vec<_> = {
            let mut calls = Vec::new();
            for _ in 0..at {
                calls.push(call(&limiter, 1).await.unwrap());
            }
            calls
        };
        sleep(millis(60)).await;
        for (number, call) in early.into_iter().enumerate() {
            let last = number + 1 == at;
            let verdict = if last {
                throttled_for(millis(20))
            } else {
                Verdict::SUCCESS
            };
            call.settle(&verdict, Some(0));
        }
        let took = run(&limiter, &server, 1_000, 50).await;
        // 21.2 s without the throttle.
        assert!(took < 1.2 * 21.2, "{at}: {took}");
    }
}

#[tokio::test(start_paused = true)]
async fn rejections_that_do_not_depend_on_the_rate_do_not_collapse_it() {
    for (stray, most) in [(0.05, 2.0), (0.2, 3.0)] {
        let provider = Provider {
            stray,
            call: 0.05,
            way: 0.001,
            ..UNLIMITED
        };
        let server = Server::new(provider);
        let limiter = RateLimiter::builder().build().unwrap();
        let took = run(&limiter, &server, 5_000, 50).await;
        let ideal = 5_000.0 / (1.0 - stray) * 0.052 / 50.0;
        assert!(took < most * ideal, "{stray}: {took}, {ideal} at best");
    }
}

#[tokio::test(start_paused = true)]
async fn it_finds_a_raised_and_a_lowered_rate() {
    let limiter = RateLimiter::builder().build().unwrap();
    let bucket = |per_second| Provider {
        per_second,
        burst: per_second,
        ..UNLIMITED
    };
    for (per_second, most) in [(10.0, 1.1), (50.0, 1.35), (5.0, 1.2)] {
        let server = Server::new(bucket(per_second));
        let took = run(&limiter, &server, (per_second * 200.0) as usize, 100).await;
        assert!(took < most * 200.0, "{per_second}: {took}");
    }
}

#[tokio::test(start_paused = true)]
async fn overload_is_not_taken_for_a_rate() {
    let limiter = plain().build().unwrap();
    for call in calls(&limiter, 20).await {
        call.settle(&overloaded(), Some(0));
    }
    call(&limiter, 1)
        .await
        .unwrap()
        .settle(&Verdict::SUCCESS, Some(1));
    assert_eq!(limiter.snapshot().starts_per_second, None);
}

async fn calls(limiter: &RateLimiter, count: usize) -> Vec<llm_batch::layer::rate_limiter::ActiveCall> {
    let mut calls = Vec::new();
    for _ in 0..count {
        calls.push(call(limiter, 1).await.unwrap());
    }
    calls
}

fn providers() -> impl Strategy<Value = Provider> {
    let limits = (
        0.5..200.0_f64,
        0.2..20.0_f64,
        prop_oneof![Just(usize::MAX), 1..50_usize],
    );
    let calls = (0.05..5.0_f64, 0.001..0.2_f64, any::<bool>());
    (limits, prop_oneof![4 => Just(0.0), 1 => 0.0..0.2_f64], calls).prop_map(
        |((per_second, burst, in_flight), stray, (call, way, hints))| Provider {
            per_second,
            burst: (burst * per_second).max(1.0),
            in_flight,
            // Not both: the trial that tells them apart would meet the cap.
            stray: if in_flight == usize::MAX { stray } else { 0.0 },
            call,
            way,
            hints,
            dimension: None,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever the provider: every item is done in a time that its limits explain, what is granted is settled, and
    /// never does the pace run far ahead of what is accepted.
    #[test]
    fn it_neither_stalls_nor_floods(provider in providers(), workers in 1..80_usize) {
        virtual_time(async {
            let server = Server::new(provider);
            let limiter = RateLimiter::builder().build().unwrap();
            let items = 400;
            let by_rate = items as f64 / provider.per_second;
            let at_once = provider.in_flight.min(workers);
            let by_calls = items as f64 * (provider.call + 2.0 * provider.way) / at_once as f64;
            let ideal = by_rate.max(by_calls) / (1.0 - provider.stray);
            let took = tokio::time::timeout(Duration::from_secs_f64(12.0 * ideal + 120.0), run(&limiter, &server, items, workers)).await;
            prop_assert!(took.is_ok(), "{:?} {:?}", server.counts(), limiter.snapshot());
            let snapshot = limiter.snapshot();
            prop_assert_eq!((snapshot.in_flight, snapshot.waiting), (0, 0));
            prop_assert_eq!(snapshot.granted, snapshot.returned + snapshot.settled);
            let (accepted, rejected) = server.counts();
            prop_assert_eq!(accepted, items);
            prop_assert_eq!(snapshot.throttled as usize, rejected);
            Ok(())
        })?;
    }
}

/// A policy without any spacing, which counts how many starts it was not asked about.
struct Unlimited(Arc<Mutex<BTreeMap<u64, u64>>>);

impl Pace for Unlimited {
    fn on_start(&mut self, call: &StartedCall) -> Pacing {
        *self.0.lock().unwrap().entry(call.generation).or_default() += 1;
        // From now on one a minute.
        if call.generation > 0 {
            Pacing::per_second(1.0 / 60.0)
        } else {
            Pacing::UNLIMITED
        }
    }

    fn on_end(&mut self, _: &StartedCall, end: &EndedCall) -> Pacing {
        assert_eq!(end.overload, end.kind == Some(ErrorKind::Overloaded));
        Pacing::UNLIMITED
    }
}

/// After a pause one call starts, until the policy has been asked about it.
#[tokio::test(start_paused = true)]
async fn no_policy_floods_the_provider_after_an_opening() {
    let starts = Arc::default();
    let limiter = plain().pace(Unlimited(Arc::clone(&starts))).build().unwrap();
    call(&limiter, 1)
        .await
        .unwrap()
        .settle(&throttled_for(secs(1)), Some(0));
    let waiters: Vec<_> = (0..500)
        .map(|_| {
            let limiter = limiter.clone();
            tokio::spawn(async move {
                let _call = call(&limiter, 1).await.unwrap();
                std::future::pending::<()>().await;
            })
        })
        .collect();
    sleep(secs(30)).await;
    assert_eq!(starts.lock().unwrap().get(&1), Some(&1));
    for waiter in waiters {
        waiter.abort();
    }
}

/// Answers may be asked of the policy itself, as of any other.
#[test]
fn the_policy_can_be_wrapped() {
    let mut pace = BucketFit::default();
    assert_eq!(pace.initial(), Pacing::UNLIMITED);
    assert!(format!("{pace:?}").starts_with("BucketFit"));
    let _ = &mut pace as &mut dyn Pace;
}
