//! The start of a cold gate.

use std::time::Duration;

use tokio::time::Instant;

use super::gap;
use crate::layer::rate_limiter::error::InvalidLimit;

/// The start of a cold gate: a few calls at once, then spaced starts at a rate that doubles, until the first throttle.
///
/// Without it a batch of thousands would hit the provider in the same millisecond, before anything is known about
/// it. By default the first 16 calls start at once, and then 50 a second, doubling with every 0.25 s of it. Time
/// in which few calls come does not count, so a late rush ramps too. It also follows a pause after overload.
///
/// ```
/// use std::time::Duration;
/// use llm_batch::layer::rate_limiter::{RateLimiter, StartRamp};
///
/// let careful = StartRamp::new(4, 2.0).doubling_every(Duration::from_secs(1));
/// let limiter = RateLimiter::builder().start_ramp(careful).build().unwrap();
/// # let _ = limiter;
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use]
pub struct StartRamp {
    at_once: u64,
    rate: f64,
    doubling: Duration,
}

impl Default for StartRamp {
    fn default() -> Self {
        Self::new(16, 50.0)
    }
}

impl StartRamp {
    /// Starts `at_once` calls, then `starts_per_second`, doubling every 0.25 s.
    pub const fn new(at_once: u64, starts_per_second: f64) -> Self {
        Self {
            at_once,
            rate: starts_per_second,
            doubling: Duration::from_millis(250),
        }
    }

    /// Sets the time in which the rate doubles. 0.25 s by default.
    pub const fn doubling_every(mut self, time: Duration) -> Self {
        self.doubling = time;
        self
    }

    pub(crate) fn check(&self) -> Result<(), InvalidLimit> {
        if !self.rate.is_finite() || self.rate <= 0.0 {
            return Err(InvalidLimit::new(
                "start_ramp",
                "its rate must be a number above 0",
            ));
        }
        if self.doubling.is_zero() {
            return Err(InvalidLimit::new(
                "start_ramp",
                "its doubling time must be longer than zero",
            ));
        }
        Ok(())
    }
}

/// A ramp under way.
#[derive(Debug)]
pub(crate) struct Ramp {
    config: StartRamp,
    started: u64,
    /// Time that counts: in which starts were as dense as the ramp allows.
    clock: Duration,
    last: Option<Instant>,
}

/// A rate at which the ramp is over.
const RAMP_END: f64 = 1e6;

impl Ramp {
    pub(crate) const fn new(config: StartRamp) -> Self {
        Self {
            config,
            started: 0,
            clock: Duration::ZERO,
            last: None,
        }
    }

    fn rate(&self) -> f64 {
        let doublings = (self.clock.as_secs_f64() / self.config.doubling.as_secs_f64()).floor();
        self.config.rate * doublings.exp2()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.rate() >= RAMP_END
    }

    /// Starts per second, once the first calls have started.
    pub(crate) fn starts_per_second(&self) -> Option<f64> {
        (self.started >= self.config.at_once).then(|| self.rate())
    }

    /// Returns the time at which the next call may start.
    pub(crate) fn due(&self) -> Option<Instant> {
        if self.started < self.config.at_once {
            return None;
        }
        self.last.map(|last| last + gap(self.rate()))
    }

    pub(crate) fn start(&mut self, at: Instant) {
        if self.started >= self.config.at_once
            && let Some(last) = self.last
        {
            self.clock += at.saturating_duration_since(last).min(gap(self.rate()));
        }
        self.started += 1;
        self.last = Some(at);
    }
}
