//! Back to a rate below the one that was accepted, and up again in a straight line.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

#[cfg(doc)]
use super::StartRamp;
use super::{EndedCall, Pace, Pacing, StartedCall};
use crate::error::ErrorKind;

/// The default [`Pace`]: after a throttle, resume below the rate that was accepted before it, and grow linearly.
///
/// No limit until the first throttle (the [`StartRamp`] sees to the beginning). Then the pace is 0.7 of the rate at which
/// calls started in the last ten seconds before the throttled one, and grows by 0.01 of that rate a second. A throttle
/// of the first call after a pause says nothing new about the rate and leaves the pace as it is.
///
/// ```
/// use llm_batch::layer::rate_limiter::{LinearRecovery, RateLimiter};
///
/// let careful = LinearRecovery::default().resuming_at(0.5).growing_by(0.005);
/// let limiter = RateLimiter::builder().pace(careful).build().unwrap();
/// # let _ = limiter;
/// ```
#[derive(Clone, Debug)]
pub struct LinearRecovery {
    resume: f64,
    growth: f64,
    pacing: Pacing,
    generation: u64,
    /// The times of some starts of the generation, and their ordinals, in order.
    samples: VecDeque<(Instant, u64)>,
    last_start: Option<Instant>,
}

impl Default for LinearRecovery {
    fn default() -> Self {
        Self {
            resume: RESUME,
            growth: GROWTH,
            pacing: Pacing::UNLIMITED,
            generation: 0,
            samples: VecDeque::new(),
            last_start: None,
        }
    }
}

/// The rate at which it resumes, as a share of the accepted rate: low enough for what is still in flight to drain.
const RESUME: f64 = 0.7;
/// The gain per second, as a share of the accepted rate.
const GROWTH: f64 = 0.01;
/// The rate is measured over this time at most, ...
const WINDOW: Duration = Duration::from_secs(10);
/// ... taken to have lasted this long at least, so that a burst is not taken for a rate ...
const SHORTEST: f64 = 1.0;
/// ... and not across a gap longer than this, which was idleness, unless the pace asked for it.
const IDLE: Duration = Duration::from_secs(1);
/// The least time between two samples.
const SAMPLE: Duration = Duration::from_millis(50);

impl LinearRecovery {
    /// Resumes at this share of the accepted rate. 0.7 by default; clamped to between 0.01 and 1, and NaN changes nothing.
    #[must_use]
    pub const fn resuming_at(mut self, share: f64) -> Self {
        if !share.is_nan() {
            self.resume = share.clamp(0.01, 1.0);
        }
        self
    }

    /// Gains this share of the accepted rate every second. 0.01 by default; clamped to between 0 and 1, and NaN changes
    /// nothing.
    #[must_use]
    pub const fn growing_by(mut self, share: f64) -> Self {
        if !share.is_nan() {
            self.growth = share.clamp(0.0, 1.0);
        }
        self
    }

    pub(super) const fn pacing(&self) -> Pacing {
        self.pacing
    }

    /// Returns the time from which on the next start is sampled.
    pub(super) fn next_look(&self, generation: u64) -> Option<Instant> {
        let (at, _) = self.samples.back().filter(|_| generation == self.generation)?;
        Some(*at + SAMPLE)
    }

    /// The accepted rate before `rejected`, in starts per second.
    fn accepted_rate(&self, rejected: &StartedCall) -> f64 {
        let first = self.samples.iter().find(|(at, _)| *at <= rejected.at);
        let (starts, time) = first.map_or((1, Duration::ZERO), |(at, ordinal)| {
            (
                rejected.ordinal.saturating_sub(*ordinal),
                rejected.at.saturating_duration_since(*at),
            )
        });
        let (starts, time) = (starts.max(1) as f64, time.as_secs_f64());
        let rate = starts / time.max(SHORTEST);
        let pace = self.pacing.starts_per_second();
        if pace.is_infinite() {
            return rate;
        }
        // Spaced starts are not a burst, however briefly they went on.
        rate.max(pace.min(starts / time))
    }
}

impl Pace for LinearRecovery {
    fn on_start(&mut self, call: &StartedCall) -> Pacing {
        let gap = self
            .last_start
            .map_or(Duration::ZERO, |last| call.at.saturating_duration_since(last));
        let idle = gap > IDLE && gap.as_secs_f64() > 2.0 / self.pacing.starts_per_second();
        if call.generation != self.generation || idle {
            self.generation = call.generation;
            self.samples.clear();
        }
        self.last_start = Some(call.at);
        let sampled = self
            .samples
            .back()
            .is_some_and(|(at, _)| call.at.saturating_duration_since(*at) < SAMPLE);
        if !sampled {
            self.samples.push_back((call.at, call.ordinal));
            while self
                .samples
                .get(1)
                .is_some_and(|(at, _)| call.at.saturating_duration_since(*at) >= WINDOW)
            {
                self.samples.pop_front();
            }
        }
        self.pacing
    }

    fn on_end(&mut self, call: &StartedCall, end: &EndedCall) -> Pacing {
        let overload = matches!(end.kind, Some(ErrorKind::Overloaded | ErrorKind::Connection));
        let throttled = end.closes && !overload;
        if throttled && call.ordinal > 1 {
            let rate = self.accepted_rate(call);
            self.pacing = Pacing::per_second(self.resume * rate).growing_by(self.growth * rate);
        }
        self.pacing
    }
}
