//! The clients: the crate's default, and those for comparison.

use std::sync::Arc;
use std::time::Duration;

use llm_batch::layer::rate_limiter::{Cooldown, RateLimiter, RateLimiterBuilder};
use llm_batch::layer::standard::StandardLayer;
use llm_batch::{BoxStrategy, LlmError, LlmRequest, StrategyExt};
use tokio::time::sleep;
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};

use crate::aimd::Aimd;
use crate::scenario::Scenario;
use crate::server::{Answer, Job, Server, service};

/// The longest backoff of an item, as a power of two of seconds.
const LONGEST_BACKOFF: u32 = 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// The standard stack without any setting, but for a quota that the scenario sets.
    Default,
    /// The same with `Cooldown::classic()`.
    Classic,
    /// The same with the rule of TCP on the rate.
    Aimd,
    /// A cap on calls in flight; each item backs off by doubling from 1 s to 60 s with jitter, and at least by the hint.
    Semaphore,
    /// That behind tower's `RateLimit` at half the rate that the ideal run has.
    TowerHalf,
    /// The same at twice the rate.
    TowerTwice,
}

impl Policy {
    pub(crate) const ALL: [Self; 6] = [
        Self::Default,
        Self::Classic,
        Self::Semaphore,
        Self::TowerHalf,
        Self::TowerTwice,
        Self::Aimd,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Classic => "classic",
            Self::Aimd => "aimd",
            Self::Semaphore => "semaphore",
            Self::TowerHalf => "tower-half",
            Self::TowerTwice => "tower-twice",
        }
    }

    /// The policies of this name: `tower` are both.
    pub(crate) fn named(name: &str) -> Vec<Self> {
        let named = |policy: &Self| policy.name() == name || (name == "tower" && policy.is_tower());
        Self::ALL.into_iter().filter(named).collect()
    }

    const fn is_tower(self) -> bool {
        matches!(self, Self::TowerHalf | Self::TowerTwice)
    }

    /// One client of the server. `fair_rate`: its share of the ideal run's calls per second.
    pub(crate) fn client(
        self,
        scenario: &Scenario,
        server: &Arc<Server>,
        fair_rate: f64,
    ) -> BoxStrategy<Job, ()> {
        let service = service(server);
        let limiter = limiter(scenario);
        match self {
            Self::Default => limited(limiter, service),
            Self::Classic => limited(limiter.cooldown(Cooldown::classic()), service),
            Self::Aimd => limited(limiter.pace(Aimd::new()).without_start_ramp(), service),
            Self::Semaphore => backing_off(service),
            Self::TowerHalf => backing_off(rate_limited(service, fair_rate * 0.5)),
            Self::TowerTwice => backing_off(rate_limited(service, fair_rate * 2.0)),
        }
    }
}

/// Options with the quota that the scenario sets, if it does.
fn limiter(scenario: &Scenario) -> RateLimiterBuilder {
    let limiter = RateLimiter::builder();
    match (scenario.per_minute, scenario.tokens) {
        (None, _) => limiter,
        (Some(quota), None) => limiter.requests_per_minute(quota),
        (Some(quota), Some(_)) => limiter.tokens_per_minute(quota),
    }
}

fn estimate(request: &LlmRequest<Job>) -> u64 {
    request.input().estimate
}

fn limited(limiter: RateLimiterBuilder, service: BoxStrategy<Job, ()>) -> BoxStrategy<Job, ()> {
    let limiter = limiter.build().expect("the settings are valid");
    StandardLayer::new()
        .with_limiter(limiter)
        .with_estimate(estimate)
        .layer(service)
        .boxed_strategy()
}

/// The usual loop of a script.
fn backing_off(service: BoxStrategy<Job, ()>) -> BoxStrategy<Job, ()> {
    service_fn(move |request: LlmRequest<Job>| {
        let service = service.clone();
        async move {
            let mut failures = 0;
            loop {
                match service.clone().oneshot(request.clone()).await {
                    Ok(answer) => return Ok::<Answer, LlmError>(answer),
                    Err(error) => {
                        let backoff = Duration::from_secs(1 << failures.min(LONGEST_BACKOFF))
                            .min(Duration::from_secs(60))
                            .mul_f64(0.5 + 0.5 * fastrand::f64());
                        failures += 1;
                        sleep(error.retry_after().unwrap_or_default().max(backoff)).await;
                    }
                }
            }
        }
    })
    .boxed_strategy()
}

fn rate_limited(service: BoxStrategy<Job, ()>, per_second: f64) -> BoxStrategy<Job, ()> {
    let (calls, time) = match per_second >= 10.0 {
        true => (per_second as u64, Duration::from_secs(1)),
        false => (1, Duration::from_secs_f64(1.0 / per_second.max(0.001))),
    };
    let limited = ServiceBuilder::new()
        .map_err(LlmError::from)
        .buffer(64)
        .rate_limit(calls, time)
        .service(service);
    limited.boxed_strategy()
}
