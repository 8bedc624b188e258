//! The rule of TCP on the rate of starts, for comparison.

use llm_batch::layer::rate_limiter::{EndedCall, Pace, Pacing, StartedCall};

/// The first rate, doubled every second until the first throttle.
const FIRST: f64 = 10.0;
const CUT: f64 = 0.5;
/// Of the rate after a cut, added every second.
const GROWTH: f64 = 0.02;

pub(crate) struct Aimd {
    rate: f64,
    /// Doubling or adding goes on from here.
    since: Option<tokio::time::Instant>,
    cut: bool,
    generation: u64,
    pacing: Pacing,
}

impl Aimd {
    pub(crate) const fn new() -> Self {
        Self {
            rate: FIRST,
            since: None,
            cut: false,
            generation: 0,
            pacing: Pacing::UNLIMITED,
        }
    }

    fn current(&self, at: tokio::time::Instant) -> f64 {
        let elapsed = self
            .since
            .map_or(0.0, |since| at.saturating_duration_since(since).as_secs_f64());
        match self.cut {
            false => self.rate * 2.0_f64.powf(elapsed).min(1e6),
            true => self.rate * (1.0 + GROWTH * elapsed),
        }
    }
}

impl Pace for Aimd {
    fn initial(&self) -> Pacing {
        Pacing::per_second(FIRST)
    }

    fn on_start(&mut self, call: &StartedCall) -> Pacing {
        if self.since.is_none() || call.generation != self.generation {
            (self.since, self.generation) = (Some(call.at), call.generation);
        }
        self.pacing = Pacing::per_second(self.current(call.at));
        self.pacing
    }

    fn on_end(&mut self, call: &StartedCall, end: &EndedCall) -> Pacing {
        if end.closes {
            self.rate = self.current(call.at) * CUT;
            (self.since, self.cut) = (Some(end.at), true);
            self.pacing = Pacing::per_second(self.rate);
        }
        self.pacing
    }
}
