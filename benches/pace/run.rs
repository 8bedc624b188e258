//! One run: a scenario, a policy and a seed, in virtual time.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use llm_batch::{BoxStrategy, LlmStreamExt, WorkItem};
use tokio::time::{Instant, sleep, timeout};

use crate::client::Policy;
use crate::draws::Draws;
use crate::ideal::ideal;
use crate::scenario::{Failures, Scenario};
use crate::server::{Job, Server};

/// A run is given up when it takes so many times as long as the ideal, and an hour; the rest of its items counts as lost.
const GIVEN_UP: f64 = 200.0;

/// The measures of one run, or their means.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Measured {
    /// Of the makespan to the ideal.
    pub(crate) ratio: f64,
    /// Of the seed with the highest.
    pub(crate) worst_ratio: f64,
    /// Rejected calls per 100 accepted ones.
    pub(crate) throttled: f64,
    /// The rejections of the item that had the most.
    pub(crate) worst_item: u32,
    /// Items that failed.
    pub(crate) lost: f64,
    pub(crate) items: u32,
    /// Seconds.
    pub(crate) makespan: f64,
    pub(crate) ideal: f64,
}

impl Measured {
    /// The mean over the seeds, with the worst of what has a worst.
    pub(crate) fn mean(runs: &[Self]) -> Self {
        let mean = |value: fn(&Self) -> f64| runs.iter().map(value).sum::<f64>() / runs.len() as f64;
        Self {
            ratio: mean(|run| run.ratio),
            worst_ratio: runs.iter().map(|run| run.ratio).fold(0.0, f64::max),
            throttled: mean(|run| run.throttled),
            worst_item: runs.iter().map(|run| run.worst_item).max().unwrap_or(0),
            lost: mean(|run| run.lost),
            items: runs.first().map_or(0, |run| run.items),
            makespan: mean(|run| run.makespan),
            ideal: mean(|run| run.ideal),
        }
    }
}

pub(crate) fn measure(scenario: &Scenario, policy: Policy, seed: u64) -> Measured {
    let draws = Arc::new(Draws::new(scenario, seed));
    let ideal = ideal(scenario, &draws);
    let run = simulate(scenario, policy, seed, &draws, ideal);
    if !scenario.against_itself {
        return run;
    }
    let untroubled = scenario.clone().set(|s| s.failures = Failures::default());
    let ideal = simulate(&untroubled, policy, seed, &draws, ideal).makespan;
    let ratio = run.makespan / ideal;
    Measured {
        ratio,
        worst_ratio: ratio,
        ideal,
        ..run
    }
}

fn simulate(scenario: &Scenario, policy: Policy, seed: u64, draws: &Arc<Draws>, ideal: f64) -> Measured {
    // The jitter of pauses and backoffs.
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime with a timer");
    runtime.block_on(async {
        let server = Server::new(scenario, Arc::clone(draws), seed);
        let share = f64::from(scenario.items) / ideal / scenario.clients as f64;
        let clients = (0..scenario.clients).map(|number| {
            let strategy = policy.client(scenario, &server, share);
            batch(scenario, number, strategy, Arc::clone(draws))
        });
        let start = Instant::now();
        let limit = Duration::from_secs_f64(GIVEN_UP * ideal + 3_600.0);
        let done = timeout(limit, futures::future::join_all(clients)).await;
        let makespan = start.elapsed().as_secs_f64();
        let tally = server.tally();
        let lost = match done {
            Ok(failed) => failed.iter().sum(),
            Err(_) => u64::from(scenario.items).saturating_sub(tally.accepted),
        };
        let ratio = makespan / ideal;
        Measured {
            ratio,
            worst_ratio: ratio,
            throttled: 100.0 * tally.rejected as f64 / tally.accepted.max(1) as f64,
            worst_item: tally.by_item.into_iter().max().unwrap_or(0),
            lost: lost as f64,
            items: scenario.items,
            makespan,
            ideal,
        }
    })
}

/// The batch of one client, whose items are every second one if there are two; returns the number of those that failed.
async fn batch(scenario: &Scenario, client: usize, strategy: BoxStrategy<Job, ()>, draws: Arc<Draws>) -> u64 {
    sleep(Duration::from_secs_f64(scenario.join_after * client as f64)).await;
    let jobs = (client as u32..scenario.items)
        .step_by(scenario.clients)
        .map(move |item| {
            WorkItem::new(Job {
                item,
                estimate: draws.estimate[item as usize],
            })
        });
    stream::iter(jobs)
        .with_strategy(strategy)
        .llm_batch(scenario.n)
        .filter(|outcome| ready(outcome.is_err()))
        .count()
        .await as u64
}
