//! What holds in every scenario: random calls, latencies, throttles, cancellations and drops in virtual time.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use llm_batch::layer::rate_limiter::{RateLimiter, StartRamp};
use llm_batch::{ErrorKind, EventKind, Events, Verdict};
use proptest::prelude::*;
use tokio::time::Instant;

use crate::support::*;

#[derive(Clone, Debug)]
struct Limits {
    requests: Option<u32>,
    tokens: Option<u32>,
    burst: u64,
    max_in_flight: Option<usize>,
    ramp: bool,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Success(Option<u64>),
    Throttled(Option<u64>),
    Overloaded,
    Connection,
    Dropped,
    Returned,
}

#[derive(Clone, Copy, Debug)]
struct Plan {
    arrives: u64,
    estimate: u64,
    takes: u64,
    end: End,
    gives_up_after: Option<u64>,
}

fn limits() -> impl Strategy<Value = Limits> {
    (
        proptest::option::of(30_u32..3000),
        proptest::option::of(200_u32..50_000),
        1_u64..60,
        proptest::option::of(1_usize..20),
        any::<bool>(),
    )
        .prop_map(|(requests, tokens, burst, max_in_flight, ramp)| Limits {
            requests,
            tokens,
            burst,
            max_in_flight,
            ramp,
        })
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        6 => proptest::option::of(0_u64..1000).prop_map(End::Success),
        2 => proptest::option::of(1_u64..5000).prop_map(End::Throttled),
        1 => Just(End::Overloaded),
        1 => Just(End::Connection),
        1 => Just(End::Dropped),
        1 => Just(End::Returned),
    ]
}

fn plans() -> impl Strategy<Value = Vec<Plan>> {
    let plan = (
        0_u64..3000,
        0_u64..200,
        0_u64..2000,
        end(),
        proptest::option::weighted(0.2, 0_u64..5000),
    )
        .prop_map(|(arrives, estimate, takes, end, gives_up_after)| Plan {
            arrives,
            estimate,
            takes,
            end,
            gives_up_after,
        });
    proptest::collection::vec(plan, 1..80)
}

#[derive(Default)]
struct Log {
    /// Calls that have started, in order: when, and their number.
    starts: Vec<(Instant, usize)>,
    throttles: u64,
    abandoned: usize,
}

async fn run_one(limiter: RateLimiter, plan: Plan, number: usize, log: Arc<Mutex<Log>>) {
    tokio::time::sleep(millis(plan.arrives)).await;
    let mut waiting = limiter.acquire(plan.estimate);
    let call = loop {
        let grant = waiting.await.unwrap();
        if matches!(plan.end, End::Returned) {
            return;
        }
        match grant.start() {
            Ok(call) => break call,
            Err(again) => waiting = again,
        }
    };
    log.lock().unwrap().starts.push((call.started_at(), number));
    tokio::time::sleep(millis(plan.takes)).await;
    let verdict = match plan.end {
        End::Success(used) => {
            call.settle(&Verdict::SUCCESS, used);
            return;
        }
        End::Throttled(hint) => {
            log.lock().unwrap().throttles += 1;
            hint.map_or(throttled(), |hint| throttled_for(millis(hint)))
        }
        End::Overloaded => overloaded(),
        End::Connection => Verdict::of_kind(ErrorKind::Connection),
        End::Dropped | End::Returned => return,
    };
    call.settle(&verdict, Some(0));
}

async fn scenario(limits: Limits, plans: Vec<Plan>) {
    let events = Events::with_capacity(1 << 14);
    let mut receiver = events.subscribe();
    let mut builder = plain().burst(secs(limits.burst)).events(&events);
    if let Some(requests) = limits.requests {
        builder = builder.requests_per_minute(requests);
    }
    if let Some(tokens) = limits.tokens {
        builder = builder.tokens_per_minute(tokens);
    }
    if let Some(cap) = limits.max_in_flight {
        builder = builder.max_in_flight(cap);
    }
    if limits.ramp {
        builder = builder.start_ramp(StartRamp::new(2, 5.0));
    }
    let limiter = builder.build().unwrap();
    let begin = Instant::now();
    let log = Arc::new(Mutex::new(Log::default()));
    let tasks: Vec<_> = plans
        .iter()
        .enumerate()
        .map(|(number, plan)| {
            let run = run_one(limiter.clone(), *plan, number, Arc::clone(&log));
            let (log, gives_up_after) = (Arc::clone(&log), plan.gives_up_after);
            tokio::spawn(async move {
                match gives_up_after {
                    None => run.await,
                    Some(time) => {
                        if poll_for(millis(time), run).await.is_none() {
                            log.lock().unwrap().abandoned += 1;
                        }
                    }
                }
            })
        })
        .collect();
    // Nobody waits forever.
    for task in tasks {
        tokio::time::timeout(secs(100_000), task).await.unwrap().unwrap();
        let snapshot = limiter.snapshot();
        assert_eq!(
            snapshot.granted,
            snapshot.returned + snapshot.settled + snapshot.in_flight as u64
        );
        if let Some(cap) = limits.max_in_flight {
            assert!(snapshot.in_flight <= cap);
        }
    }
    let snapshot = limiter.snapshot();
    assert_eq!((snapshot.waiting, snapshot.in_flight), (0, 0));
    assert_eq!(snapshot.granted, snapshot.returned + snapshot.settled);
    let log = log.lock().unwrap();
    assert_eq!(snapshot.settled, log.starts.len() as u64);

    // Never more starts than the request quota allows over any stretch of time.
    if let Some(limit) = limits.requests {
        let capacity = (u64::from(limit) * limits.burst / 60).max(1) as f64;
        for (position, (from, _)) in log.starts.iter().enumerate() {
            for (count, (to, _)) in log.starts[position..].iter().enumerate() {
                let time = to.saturating_duration_since(*from) + millis(6);
                let allowed = capacity + time.as_secs_f64() * f64::from(limit) / 60.0;
                assert!(
                    (count + 1) as f64 <= allowed + 1e-6,
                    "{count} in {time:?}, {allowed} allowed"
                );
            }
        }
    }

    // No start strictly inside a pause.
    let mut pauses: Vec<(Duration, Duration)> = Vec::new();
    let mut since = None;
    let mut log_of_gate = Vec::new();
    while let Some(event) = receiver.try_recv().unwrap() {
        log_of_gate.push(event);
    }
    log_of_gate.sort_by_key(|event| event.at);
    for event in &log_of_gate {
        match event.kind {
            EventKind::CooldownStarted { .. } => {
                since.get_or_insert(event.at);
            }
            EventKind::CooldownEnded { .. } => pauses.push((since.take().unwrap(), event.at)),
            _ => {}
        }
    }
    for (at, _) in &log.starts {
        let at = at.saturating_duration_since(begin);
        for (from, to) in &pauses {
            assert!(
                at <= *from || at >= *to,
                "a start at {at:?} in a pause {from:?} to {to:?}"
            );
        }
    }
    assert_eq!(snapshot.throttled, log.throttles);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hold_in_every_scenario(limits in limits(), plans in plans()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(scenario(limits, plans));
    }

    /// The tokens on balance are what went in, less what was used or kept.
    #[test]
    fn tokens_add_up(calls in proptest::collection::vec((0_u64..500, proptest::option::of(0_u64..2000)), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async move {
            let limiter = plain().tokens_per_minute(1_000_000).burst(secs(60)).build().unwrap();
            let running: Vec<_> = calls
                .iter()
                .map(|(estimate, _)| call_now(&limiter, *estimate).unwrap())
                .collect();
            let mut taken = 0;
            for (call, (estimate, used)) in running.into_iter().zip(&calls) {
                taken += used.unwrap_or(*estimate);
                call.settle(&Verdict::SUCCESS, *used);
            }
            let balance = limiter.snapshot().tokens_available.unwrap();
            assert!((1_000_000.0 - balance - taken as f64).abs() < 1e-6, "{balance} {taken}");
        });
    }

    /// Calls start in the order in which they came, if none was throttled.
    #[test]
    fn first_come_first_served(limits in limits(), estimates in proptest::collection::vec(0_u64..200, 1..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let plans = estimates.into_iter().map(|estimate| Plan {
            arrives: 0,
            estimate,
            takes: estimate * 7 % 300,
            end: End::Success(Some(estimate / 2)),
            gives_up_after: None,
        });
        let plans: Vec<_> = plans.collect();
        runtime.block_on(async move {
            let mut builder = plain().burst(secs(limits.burst)).max_in_flight(limits.max_in_flight.unwrap_or(5));
            builder = builder.requests_per_minute(limits.requests.unwrap_or(600));
            builder = builder.tokens_per_minute(limits.tokens.unwrap_or(6000));
            let limiter = builder.build().unwrap();
            let log = Arc::new(Mutex::new(Log::default()));
            let runs = plans
                .iter()
                .enumerate()
                .map(|(number, plan)| run_one(limiter.clone(), *plan, number, Arc::clone(&log)));
            futures::future::join_all(runs).await;
            let order: Vec<usize> = log.lock().unwrap().starts.iter().map(|(_, number)| *number).collect();
            assert!(order.is_sorted(), "{order:?}");
        });
    }
}
