//! The provider: it decides about a call when that arrives.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use llm_batch::{QuotaDimension, ReportedQuota};
use tokio::time::{Instant, sleep};

use crate::draws::Draws;
use crate::scenario::{Hint, Quota, Scenario};

pub(crate) mod pool;
pub(crate) mod quota;
mod service;

use pool::PoolServer;
use quota::QuotaState;

pub(crate) use service::{Answer, Job, service};

/// Seconds of each way.
const WAY: (f64, f64) = (0.020, 0.050);

/// One provider, for all clients of a run.
pub(crate) struct Server {
    scenario: Scenario,
    draws: Arc<Draws>,
    start: Instant,
    pool: Option<Arc<PoolServer>>,
    state: Mutex<State>,
}

struct State {
    rng: fastrand::Rng,
    quota: QuotaState,
    /// The quota that the headers report: as the real one, with a limit of their own.
    headers: Option<QuotaState>,
    /// The ends of the calls in flight, in nanoseconds.
    in_flight: BinaryHeap<Reverse<u64>>,
    tally: Tally,
}

/// The calls by their end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) calls: u64,
    pub(crate) accepted: u64,
    pub(crate) rejected: u64,
    pub(crate) reset: u64,
    /// Rejections by item.
    pub(crate) by_item: Vec<u32>,
}

/// A provider's answer to a call, known when it arrives.
enum Decision {
    /// Answered after so long.
    Answered(f64),
    /// Answered when the batch is through with it.
    InBatch(tokio::sync::oneshot::Receiver<()>),
    /// The connection breaks after so long.
    Reset(f64),
    Rejected(Rejection),
}

#[derive(Clone, Copy)]
struct Rejection {
    status: u16,
    hint: Option<f64>,
    dimension: Option<QuotaDimension>,
}

impl Rejection {
    /// Neither a hint nor a reason.
    const fn plain(status: u16) -> Self {
        Self {
            status,
            hint: None,
            dimension: None,
        }
    }
}

impl Server {
    /// In a runtime.
    pub(crate) fn new(scenario: &Scenario, draws: Arc<Draws>, seed: u64) -> Arc<Self> {
        let headers = scenario.headers.map(|limit| {
            let mut shown = scenario.clone();
            match &mut shown.quota {
                Quota::Bucket { burst, .. } | Quota::Ramp { burst, .. } => *burst = limit as f64,
                Quota::Window { limit: shown, .. } => *shown = limit,
                Quota::Unlimited => {}
            }
            QuotaState::new(&shown)
        });
        let server = Arc::new(Self {
            pool: scenario.pool.map(PoolServer::start),
            start: Instant::now(),
            state: Mutex::new(State {
                rng: fastrand::Rng::with_seed(seed ^ 0x7365_7276_6572),
                quota: QuotaState::new(scenario),
                headers,
                in_flight: BinaryHeap::new(),
                tally: Tally {
                    by_item: vec![0; scenario.items as usize],
                    ..Tally::default()
                },
            }),
            scenario: scenario.clone(),
            draws,
        });
        if let Some(per_second) = scenario.foreign {
            tokio::spawn(Arc::clone(&server).foreign_tenant(per_second));
        }
        server
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn tally(&self) -> Tally {
        self.state().tally.clone()
    }

    /// Calls at a steady rate, whatever is answered.
    async fn foreign_tenant(self: Arc<Self>, per_second: f64) {
        let mut calls = 0.0;
        loop {
            let now = self.start.elapsed().as_secs_f64();
            {
                let quota = &mut self.state().quota;
                quota.advance(now);
                if quota.has(1.0) {
                    quota.take(1.0);
                }
            }
            calls += 1.0;
            tokio::time::sleep_until(self.start + Duration::from_secs_f64(calls / per_second)).await;
        }
    }

    /// Waits for one way between client and server.
    async fn travel(&self) {
        sleep(Duration::from_secs_f64(self.way())).await;
    }

    /// Seconds of one way.
    fn way(&self) -> f64 {
        let share = self.state().rng.f64();
        WAY.0 + (WAY.1 - WAY.0) * share
    }

    /// A call of an item arrives.
    fn arrive(&self, item: usize) -> Decision {
        let now = self.start.elapsed().as_secs_f64();
        let mut state = self.state();
        let decision = self.decide(&mut state, now, item);
        let tally = &mut state.tally;
        match &decision {
            Decision::Answered(_) | Decision::InBatch(_) => tally.accepted += 1,
            Decision::Reset(_) => tally.reset += 1,
            Decision::Rejected(_) => {
                tally.rejected += 1;
                tally.by_item[item] += 1;
            }
        }
        decision
    }

    fn decide(&self, state: &mut State, now: f64, item: usize) -> Decision {
        let scenario = &self.scenario;
        state.tally.calls += 1;
        if scenario.outage.is_some_and(|(from, to)| from <= now && now < to) {
            return Decision::Rejected(Rejection::plain(503));
        }
        let seconds = self.draws.latency[item];
        if let Some(failed) = self.fail(state, seconds) {
            return failed;
        }
        if let Some(pool) = scenario.pool
            && let Some(server) = &self.pool
        {
            return match server.take(seconds) {
                Some(answered) => Decision::InBatch(answered),
                None => Decision::Rejected(Rejection::plain(pool.status)),
            };
        }
        let now_ns = (now * 1e9) as u64;
        if let Some(slots) = scenario.slots {
            while state.in_flight.peek().is_some_and(|Reverse(end)| *end <= now_ns) {
                state.in_flight.pop();
            }
            if state.in_flight.len() >= slots {
                return Decision::Rejected(Rejection {
                    hint: self.hint(None),
                    ..Rejection::plain(429)
                });
            }
        }
        let cost = self.draws.cost[item];
        let State { quota, headers, .. } = state;
        quota.advance(now);
        if let Some(headers) = headers {
            headers.advance(now);
        }
        if !quota.has(cost) {
            let hint = self.hint(Some(quota.wait(cost)));
            if scenario.counted {
                quota.count_rejected();
            }
            let named = scenario.tokens.is_some_and(|tokens| tokens.named);
            return Decision::Rejected(Rejection {
                hint,
                dimension: named.then_some(QuotaDimension::Tokens),
                ..Rejection::plain(429)
            });
        }
        quota.take(cost);
        if let Some(headers) = headers {
            headers.take(cost);
        }
        if scenario.slots.is_some() {
            state.in_flight.push(Reverse(now_ns + (seconds * 1e9) as u64));
        }
        Decision::Answered(seconds)
    }

    /// The failures that have nothing to do with the rate.
    fn fail(&self, state: &mut State, seconds: f64) -> Option<Decision> {
        let failures = &self.scenario.failures;
        if !failures.any() {
            return None;
        }
        let draw = state.rng.f64();
        let throttled = failures.throttled;
        let overloaded = throttled + failures.overloaded;
        if failures.throttled_call == Some(state.tally.calls) || draw < throttled {
            Some(Decision::Rejected(Rejection {
                hint: self.hint(None),
                ..Rejection::plain(429)
            }))
        } else if draw < overloaded {
            Some(Decision::Rejected(Rejection::plain(503)))
        } else if draw < overloaded + failures.reset {
            // Somewhere in the call.
            Some(Decision::Reset(seconds * state.rng.f64()))
        } else {
            None
        }
    }

    /// The hint in seconds. `wait`: until the quota has enough, if that is the reason.
    fn hint(&self, wait: Option<f64>) -> Option<f64> {
        match self.scenario.hint {
            Hint::None => None,
            Hint::Fixed(seconds) => Some(seconds),
            Hint::Exact => wait,
            Hint::WholeSeconds => wait.map(f64::ceil),
            Hint::Scaled(factor) => wait.map(|wait| wait * factor),
            Hint::Plus(seconds) => wait.map(|wait| wait + seconds),
        }
    }

    /// The values in the headers of a reply that is made now.
    fn reported(&self) -> Option<ReportedQuota> {
        // The state is as of the call's arrival.
        let (left, limit, reset) = self.state().headers.as_ref()?.reported();
        let mut reported = ReportedQuota::default();
        reported.requests.limit = Some(limit as u64);
        reported.requests.remaining = Some(left as u64);
        reported.requests.reset = Some(Duration::from_millis((reset * 1_000.0) as u64));
        Some(reported)
    }
}
