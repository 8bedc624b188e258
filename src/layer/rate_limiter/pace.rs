//! How fast calls start: the policy seam, and the policies there are.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::error::InvalidLimit;
use crate::classify::{QuotaDimension, ReportedQuota};
use crate::error::ErrorKind;

/// How fast calls may start from now on: what a [`Pace`] answers.
///
/// The gate keeps it until the policy answers something else. Growth counts from the moment it was set, or from the
/// end of the pause if the gate was closed.
///
/// ```
/// use llm_batch::layer::rate_limiter::Pacing;
/// let pacing = Pacing::per_second(14.0).growing_by(0.2);
/// assert_eq!(pacing.starts_per_second(), 14.0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use]
pub struct Pacing {
    starts_per_second: f64,
    growth: f64,
    max_in_flight: Option<usize>,
}

/// The slowest pace: one start a day. Slower ones, and those that are no number, become this.
const SLOWEST: f64 = 1.0 / 86_400.0;

impl Pacing {
    /// No spacing.
    pub const UNLIMITED: Self = Self {
        starts_per_second: f64::INFINITY,
        growth: 0.0,
        max_in_flight: None,
    };

    /// Starts evenly spaced. A rate that is not a positive number becomes one start a day.
    pub fn per_second(starts: f64) -> Self {
        Self {
            // `max` also replaces NaN.
            starts_per_second: starts.max(SLOWEST),
            ..Self::UNLIMITED
        }
    }

    /// Adds this much to the starts per second, every second. What is no positive number adds nothing.
    pub fn growing_by(mut self, starts_per_second: f64) -> Self {
        self.growth = starts_per_second.max(0.0);
        self
    }

    /// Also caps the calls in flight, below the gate's own cap. At least 1.
    pub fn with_max_in_flight(mut self, calls: usize) -> Self {
        self.max_in_flight = Some(calls.max(1));
        self
    }

    /// Starts per second at first; infinite where starts are not spaced.
    pub const fn starts_per_second(&self) -> f64 {
        self.starts_per_second
    }

    /// The cap on calls in flight, if there is one.
    pub const fn max_in_flight(&self) -> Option<usize> {
        self.max_in_flight
    }

    /// Starts per second once it has been in force for `elapsed`.
    pub(super) fn rate_after(&self, elapsed: Duration) -> f64 {
        self.starts_per_second + self.growth * elapsed.as_secs_f64()
    }
}

impl Default for Pacing {
    fn default() -> Self {
        Self::UNLIMITED
    }
}

/// A call that starts, as a [`Pace`] sees it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct StartedCall {
    /// When.
    pub at: Instant,
    /// When it could have started at the earliest; earlier than `at` by what timers and queues add.
    pub due: Instant,
    /// The gate's generation: it goes up by one with each pause.
    pub generation: u64,
    /// Its position among the starts of the generation, from 1.
    pub ordinal: u64,
    /// Calls in flight, this one included.
    pub in_flight: usize,
    /// Tokens reserved for it.
    pub estimate: u64,
}

/// How a call ended, as a [`Pace`] sees it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct EndedCall {
    /// When.
    pub at: Instant,
    /// Whether the provider took the call, as far as is known: it neither throttled it nor was overloaded.
    pub accepted: bool,
    /// Whether the gate closes because of it. At most one call of a generation has this.
    pub closes: bool,
    /// The category of the failure, if it failed.
    pub kind: Option<ErrorKind>,
    /// The provider's hint how long to wait.
    pub retry_after: Option<Duration>,
    /// The quota that a rejection was about, if that is known.
    pub dimension: Option<QuotaDimension>,
    /// What the reply's rate-limit headers said.
    pub quota: Option<ReportedQuota>,
}

/// Decides how fast calls start.
///
/// The gate tells the policy of every call that starts and of every one that ends with a verdict (one that is
/// cancelled has none), and spaces the next starts by the [`Pacing`] it answers. It is asked in the task of the call
/// in question, never under the gate's lock, so it may take its time and may use the gate; calls of different
/// threads may be told slightly out of order, which their times and ordinals show.
///
/// ```
/// use llm_batch::layer::rate_limiter::{EndedCall, Pace, Pacing, RateLimiter, StartedCall};
///
/// /// Ten starts a second, whatever happens.
/// struct Fixed;
///
/// impl Pace for Fixed {
///     fn on_start(&mut self, _: &StartedCall) -> Pacing {
///         Pacing::per_second(10.0)
///     }
///     fn on_end(&mut self, _: &StartedCall, _: &EndedCall) -> Pacing {
///         Pacing::per_second(10.0)
///     }
/// }
/// let limiter = RateLimiter::builder().pace(Fixed).build().unwrap();
/// # let _ = limiter;
/// ```
pub trait Pace: Send + 'static {
    /// What holds before the first call. Unlimited by default.
    fn initial(&self) -> Pacing {
        Pacing::UNLIMITED
    }

    /// A call starts. Returns what holds from now on; for no change, what was returned before.
    fn on_start(&mut self, call: &StartedCall) -> Pacing;

    /// A call has ended. Returns what holds from now on; if the gate closes, what holds when it opens again.
    fn on_end(&mut self, call: &StartedCall, end: &EndedCall) -> Pacing;
}

/// The default [`Pace`]: after a throttle, resume below the rate that was accepted before it, and grow linearly.
///
/// No limit until the first throttle (the [`StartRamp`] sees to the beginning). Then the pace is 0.7 of the rate at which
/// calls started in the last ten seconds before the throttled one, and grows by 0.01 of that rate a second. A throttle
/// of the first call after a pause says nothing new about the rate and leaves the pace as it is.
#[derive(Clone, Debug)]
pub struct LinearRecovery {
    resume: f64,
    growth: f64,
    pacing: Pacing,
    generation: u64,
    /// When some starts of the generation took place, and their ordinals, in order.
    samples: VecDeque<(Instant, u64)>,
    last_start: Option<Instant>,
}

/// The rate is measured over this time at most, ...
const WINDOW: Duration = Duration::from_secs(10);
/// ... taken to have lasted this long at least, so that a burst is no rate ...
const SHORTEST: f64 = 1.0;
/// ... and not across a gap this long, which was idleness.
const IDLE: Duration = Duration::from_secs(1);
/// How close samples may be.
const SAMPLE: Duration = Duration::from_millis(50);

impl Default for LinearRecovery {
    fn default() -> Self {
        Self {
            resume: 0.7,
            growth: 0.01,
            pacing: Pacing::UNLIMITED,
            generation: 0,
            samples: VecDeque::new(),
            last_start: None,
        }
    }
}

impl LinearRecovery {
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
        // Starts that were spaced are no burst, however briefly they went on.
        rate.max(pace.min(starts / time))
    }
}

impl Pace for LinearRecovery {
    fn on_start(&mut self, call: &StartedCall) -> Pacing {
        let idle = self
            .last_start
            .is_some_and(|last| call.at.saturating_duration_since(last) > IDLE);
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
        let throttled = end.closes && end.kind != Some(ErrorKind::Overloaded);
        if throttled && call.ordinal > 1 {
            let rate = self.accepted_rate(call);
            self.pacing = Pacing::per_second(self.resume * rate).growing_by(self.growth * rate);
        }
        self.pacing
    }
}

/// The slow start of [`Cooldown::classic`](super::Cooldown::classic): after a pause the first 50 starts are spaced,
/// from 2 s down to 0.1 s, and then not at all.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowStart {
    starts: u64,
    from: Duration,
    to: Duration,
    current: Pacing,
}

impl Default for SlowStart {
    fn default() -> Self {
        Self {
            starts: 50,
            from: Duration::from_secs(2),
            to: Duration::from_millis(100),
            current: Pacing::UNLIMITED,
        }
    }
}

impl SlowStart {
    /// What follows the start with this ordinal, from 1.
    fn after(&self, ordinal: u64) -> Pacing {
        if ordinal > self.starts {
            return Pacing::UNLIMITED;
        }
        let done = ordinal.saturating_sub(1) as f64 / (self.starts - 1) as f64;
        let (from, to) = (self.from.as_secs_f64(), self.to.as_secs_f64());
        Pacing::per_second(1.0 / (from + (to - from) * done))
    }
}

impl Pace for SlowStart {
    fn on_start(&mut self, call: &StartedCall) -> Pacing {
        if call.generation > 0 {
            self.current = self.after(call.ordinal);
        }
        self.current
    }

    fn on_end(&mut self, _: &StartedCall, end: &EndedCall) -> Pacing {
        if end.closes {
            self.current = self.after(1);
        }
        self.current
    }
}

/// How a cold gate starts: a few calls at once, then spaced starts at a rate that doubles, until the first throttle.
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

    pub(super) fn check(&self) -> Result<(), InvalidLimit> {
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
pub(super) struct Ramp {
    config: StartRamp,
    started: u64,
    /// Time that counts: in which starts were as dense as the ramp allows.
    clock: Duration,
    last: Option<Instant>,
}

/// A rate at which the ramp is over.
const RAMP_END: f64 = 1e6;

impl Ramp {
    pub(super) const fn new(config: StartRamp) -> Self {
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

    pub(super) fn is_over(&self) -> bool {
        self.rate() >= RAMP_END
    }

    /// Starts per second, once the first calls have started.
    pub(super) fn starts_per_second(&self) -> Option<f64> {
        (self.started >= self.config.at_once).then(|| self.rate())
    }

    /// When the next call may start.
    pub(super) fn due(&self) -> Option<Instant> {
        if self.started < self.config.at_once {
            return None;
        }
        self.last.map(|last| last + gap(self.rate()))
    }

    pub(super) fn start(&mut self, at: Instant) {
        if self.started >= self.config.at_once
            && let Some(last) = self.last
        {
            self.clock += at.saturating_duration_since(last).min(gap(self.rate()));
        }
        self.started += 1;
        self.last = Some(at);
    }
}

/// The pace in force.
#[derive(Debug)]
pub(super) struct Spacing {
    pacing: Pacing,
    since: Instant,
    last: Option<Instant>,
}

impl Spacing {
    pub(super) const fn new(pacing: Pacing, since: Instant) -> Self {
        Self {
            pacing,
            since,
            last: None,
        }
    }

    pub(super) const fn pacing(&self) -> Pacing {
        self.pacing
    }

    /// Sets the pace, in force from `since` on. Returns whether that changed anything.
    pub(super) fn set(&mut self, pacing: Pacing, since: Instant) -> bool {
        let changed = self.pacing != pacing;
        if changed {
            self.pacing = pacing;
            self.since = since;
        }
        changed
    }

    /// The gate opens: the first start need not wait, and growth counts from here.
    pub(super) fn open(&mut self, at: Instant) {
        self.since = at;
        self.last = None;
    }

    pub(super) fn rate_at(&self, at: Instant) -> f64 {
        self.pacing.rate_after(at.saturating_duration_since(self.since))
    }

    /// When the next call may start.
    pub(super) fn due(&self) -> Option<Instant> {
        if self.pacing.starts_per_second.is_infinite() {
            return None;
        }
        self.last.map(|last| last + gap(self.rate_at(last)))
    }

    pub(super) fn start(&mut self, at: Instant) {
        self.last = Some(at);
    }
}

/// The time between two starts.
fn gap(rate: f64) -> Duration {
    Duration::from_secs_f64(1.0 / rate.max(SLOWEST))
}
