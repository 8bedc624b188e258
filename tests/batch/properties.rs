//! Invariants in every scenario: latencies, faults, panics, slow consumers, changing concurrency, stops, drops.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::{StreamExt, stream};
use llm_batch::{
    ErrorKind, LlmError, LlmRequest, LlmResponse, LlmStreamExt, StopMode, Termination, WorkItem,
};
use proptest::prelude::*;
use tokio::time::sleep;
use tower::service_fn;

use crate::support::settle;

#[derive(Clone, Copy, Debug)]
enum Fate {
    Answers,
    Fails,
    Panics,
    CannotBeRead,
}

#[derive(Clone, Copy, Debug)]
enum Act {
    SetConcurrency(usize),
    PauseAndResume,
    Stop,
    Cancel,
    Drop,
}

#[derive(Clone, Debug)]
struct Scenario {
    items: Vec<(Fate, u64)>,
    concurrency: usize,
    in_order: bool,
    reorder_buffer: usize,
    drain: bool,
    consumer: Vec<u64>,
    acts: Vec<(usize, Act)>,
    timeout: Option<u64>,
    spawned: bool,
}

fn scenarios() -> impl Strategy<Value = Scenario> {
    let fate = prop_oneof![
        6 => Just(Fate::Answers),
        2 => Just(Fate::Fails),
        1 => Just(Fate::Panics),
        1 => Just(Fate::CannotBeRead),
    ];
    let act = prop_oneof![
        4 => (1..12_usize).prop_map(Act::SetConcurrency),
        2 => Just(Act::PauseAndResume),
        1 => Just(Act::Stop),
        1 => Just(Act::Cancel),
        1 => Just(Act::Drop),
    ];
    (
        prop::collection::vec((fate, 0..50_u64), 0..60),
        1..8_usize,
        any::<bool>(),
        0..10_usize,
        any::<bool>(),
        prop::collection::vec(0..30_u64, 1..5),
        prop::collection::vec((0..60_usize, act), 0..4),
        prop::option::weighted(0.2, 0..1_000_u64),
        any::<bool>(),
    )
        .prop_map(
            |(items, concurrency, in_order, reorder_buffer, drain, consumer, acts, timeout, spawned)| {
                Scenario {
                    items,
                    concurrency,
                    in_order,
                    reorder_buffer,
                    drain,
                    consumer,
                    acts,
                    timeout,
                    spawned,
                }
            },
        )
}

#[derive(Default)]
struct Counters {
    started: AtomicUsize,
    gone: AtomicUsize,
}

struct Gone(Arc<Counters>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.gone.fetch_add(1, Ordering::SeqCst);
    }
}

/// A macro, since the two placements are two types.
macro_rules! drive {
    ($results:ident, $scenario:ident, $accepted:ident, $counters:ident) => {{
        let (scenario, accepted, counters) = ($scenario, $accepted, $counters);
        let mut results = $results;
        if scenario.in_order {
            results = results.in_order().reorder_buffer(scenario.reorder_buffer);
        }
        if let Some(limit) = scenario.timeout {
            results = results.batch_timeout(Duration::from_millis(limit));
        }
        let handle = results.handle();
        let mut highest = scenario.concurrency;
        let mut ended_early = scenario.timeout.is_some();
        let mut seen = vec![0; scenario.items.len()];
        let mut order = Vec::new();
        let mut taken = 0;
        let mut results = Some(results);
        loop {
            for (_, act) in scenario.acts.iter().filter(|(at, _)| *at == taken) {
                match *act {
                    Act::SetConcurrency(n) => {
                        handle.set_concurrency(n);
                        highest = highest.max(n);
                    }
                    Act::PauseAndResume => {
                        handle.pause();
                        let handle = handle.clone();
                        tokio::spawn(async move {
                            sleep(Duration::from_millis(20)).await;
                            handle.resume();
                        });
                    }
                    Act::Stop => handle.stop(),
                    Act::Cancel => handle.cancel(),
                    Act::Drop => results = None,
                }
                ended_early |= matches!(act, Act::Stop | Act::Cancel | Act::Drop);
            }
            let Some(stream) = &mut results else { break };
            let Some(outcome) = stream.next().await else { break };
            taken += 1;
            let index = outcome.index as usize;
            seen[index] += 1;
            order.push(outcome.index);
            let kind = outcome.result.as_ref().err().map(LlmError::kind);
            match (scenario.items[index].0, kind) {
                (Fate::Answers, None)
                | (Fate::Fails, Some(ErrorKind::Other))
                | (Fate::Panics, Some(ErrorKind::Panicked))
                | (Fate::CannotBeRead, Some(ErrorKind::Source)) => {}
                (_, Some(ErrorKind::Aborted)) if ended_early => {}
                other => prop_assert!(false, "unexpected: {other:?}"),
            }
            // Items in flight or finished but not taken, bounded by the highest concurrency so far.
            let parked = if scenario.in_order {
                scenario.reorder_buffer
            } else {
                0
            };
            prop_assert!(accepted.get() - taken <= highest + parked);
            let running = counters.started.load(Ordering::SeqCst) - counters.gone.load(Ordering::SeqCst);
            prop_assert!(running <= highest);
            sleep(Duration::from_millis(
                scenario.consumer[taken % scenario.consumer.len()],
            ))
            .await;
        }
        if scenario.in_order {
            prop_assert!(order.iter().copied().eq(0..order.len() as u64));
        }
        prop_assert!(seen.iter().all(|count| *count <= 1));
        let summary = handle.statistics();
        prop_assert_eq!(summary.accepted, accepted.get() as u64);
        prop_assert_eq!(summary.succeeded + summary.failed, summary.accepted);
        prop_assert_eq!(summary.in_flight, 0);
        if results.is_some() {
            prop_assert_eq!(taken, accepted.get(), "one outcome for every accepted item");
        } else {
            prop_assert!(summary.termination.is_some());
        }
        if !ended_early {
            prop_assert_eq!(taken, scenario.items.len());
            prop_assert_eq!(summary.termination, Some(Termination::Completed));
        }
        drop(results);
        settle().await;
        let left = counters.started.load(Ordering::SeqCst) - counters.gone.load(Ordering::SeqCst);
        prop_assert_eq!(left, 0, "calls go on after the end");
        Ok(())
    }};
}
async fn play(scenario: Scenario) -> Result<(), TestCaseError> {
    let counters = Arc::new(Counters::default());
    let shared = Arc::clone(&counters);
    let strategy = service_fn(move |request: LlmRequest<(Fate, u64)>| {
        let counters = Arc::clone(&shared);
        async move {
            counters.started.fetch_add(1, Ordering::SeqCst);
            let _gone = Gone(counters);
            let (fate, latency) = *request.input();
            sleep(Duration::from_millis(latency)).await;
            match fate {
                Fate::Answers => Ok(LlmResponse::new(String::new())),
                Fate::Panics => panic!("as planned"),
                Fate::Fails | Fate::CannotBeRead => Err(LlmError::fatal("as planned")),
            }
        }
    });
    let accepted = Rc::new(Cell::new(0_usize));
    let counted = Rc::clone(&accepted);
    let source = stream::iter(scenario.items.clone()).map(move |(fate, latency)| {
        counted.set(counted.get() + 1);
        match fate {
            Fate::CannotBeRead => WorkItem::failed("as planned"),
            _ => WorkItem::new((fate, latency)),
        }
    });
    let n = scenario.concurrency;
    let mode = if scenario.drain {
        StopMode::Drain
    } else {
        StopMode::Cancel
    };
    if scenario.spawned {
        let results = source.with_strategy(strategy).llm_batch(n).stop_mode(mode);
        drive!(results, scenario, accepted, counters)
    } else {
        let results = source.with_strategy(strategy).llm_batch_local(n).stop_mode(mode);
        drive!(results, scenario, accepted, counters)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn every_scenario_keeps_the_promises(scenario in scenarios()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(play(scenario))?;
    }
}
