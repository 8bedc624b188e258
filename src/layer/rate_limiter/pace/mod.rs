//! The pace of starts: the trait, and the policies that implement it.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::learned::{Learned, LearnedLimit};
use crate::error::{Disposition, ErrorKind, QuotaDimension, ReportedQuota};
use crate::events::EventKind;

mod bucket_fit;
mod ramp;
mod slow_start;

pub use bucket_fit::BucketFit;
pub(super) use ramp::Ramp;
pub use ramp::StartRamp;
pub use slow_start::SlowStart;

/// The rate at which calls may start from now on: the answer of a [`Pace`].
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
    tolerant: bool,
}

/// The slowest pace: one start a day. Slower ones, and those that are not a number, become this.
const SLOWEST: f64 = 1.0 / 86_400.0;

impl Pacing {
    /// No spacing.
    pub const UNLIMITED: Self = Self {
        starts_per_second: f64::INFINITY,
        growth: 0.0,
        max_in_flight: None,
        tolerant: false,
    };

    /// Starts evenly spaced. A rate that is not a positive number becomes one start a day.
    pub fn per_second(starts: f64) -> Self {
        Self {
            // `max` also replaces NaN.
            starts_per_second: starts.max(SLOWEST),
            ..Self::UNLIMITED
        }
    }

    /// Adds this much to the starts per second, every second. A value that is not a positive number adds nothing.
    pub fn growing_by(mut self, starts_per_second: f64) -> Self {
        // Finite, as infinity times zero is not a number.
        self.growth = if starts_per_second > 0.0 {
            starts_per_second.min(f64::MAX)
        } else {
            0.0
        };
        self
    }

    /// Also caps the calls in flight, below the gate's own cap. At least 1.
    pub fn with_max_in_flight(mut self, calls: usize) -> Self {
        self.max_in_flight = Some(calls.max(1));
        self
    }

    /// Throttles do not close the gate: a throttled item waits for its own hint, the others go on. For rejections that do not
    /// come from the rate.
    pub fn tolerating_throttles(mut self) -> Self {
        self.tolerant = true;
        self
    }

    /// Returns `true` if throttles do not close the gate.
    pub const fn tolerates_throttles(&self) -> bool {
        self.tolerant
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
    /// The time of the start.
    pub at: Instant,
    /// The earliest time at which it could have started; earlier than `at` by what timers and queues add.
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

/// The end of a call, as a [`Pace`] sees it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct EndedCall {
    /// The time of the end.
    pub at: Instant,
    /// `true` if the provider took the call, as far as is known: it neither throttled it nor was overloaded.
    pub accepted: bool,
    /// `true` if the gate closes because of it. At most one call of a generation has this.
    pub closes: bool,
    /// What follows from the verdict.
    pub disposition: Disposition,
    /// `true` if the call was rejected because the server has no room for it, or could not be reached.
    pub overload: bool,
    /// The category of the failure, if it failed.
    pub kind: Option<ErrorKind>,
    /// The provider's hint how long to wait.
    pub retry_after: Option<Duration>,
    /// The quota that a rejection was about, if that is known.
    pub dimension: Option<QuotaDimension>,
    /// The quotas that the reply's rate-limit headers reported.
    pub quota: Option<ReportedQuota>,
}

/// Decides how fast calls start.
///
/// The gate asks the policy about every call that starts and every one that ends with a verdict (a cancelled one has
/// none), and spaces the next starts by the [`Pacing`] it answers. It is asked in the task of a call, one question at a
/// time and under no lock, so it may take its time and may use the gate: what happens meanwhile, on other threads or by the
/// policy's own doing, is asked next. Questions of different threads may come slightly out of order, which their times and
/// ordinals show.
///
/// A panic is the panic of the call whose task asked; the answer before it stays in force.
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
    /// Returns the pacing before the first call. Unlimited by default.
    fn initial(&self) -> Pacing {
        Pacing::UNLIMITED
    }

    /// A call starts. Returns what holds from now on; for no change, what was returned before.
    fn on_start(&mut self, call: &StartedCall) -> Pacing;

    /// A call has ended. Returns what holds from now on; if the gate closes, what holds when it opens again.
    fn on_end(&mut self, call: &StartedCall, end: &EndedCall) -> Pacing;
}

/// A policy of this crate. It is quick and touches nothing else, so that the gate asks it under its lock.
#[derive(Clone, Debug)]
pub(super) enum BuiltIn {
    BucketFit(Box<BucketFit>),
    SlowStart(SlowStart),
}

impl BuiltIn {
    /// Returns its last answer.
    pub(super) const fn pacing(&self) -> Pacing {
        match self {
            Self::BucketFit(pace) => pace.pacing(),
            Self::SlowStart(pace) => pace.pacing(),
        }
    }

    /// Returns the time at which it has to see a start of this generation again; `None`: it has to see every one.
    pub(super) fn next_look(&self, generation: u64) -> Option<Instant> {
        match self {
            Self::BucketFit(pace) => pace.next_look(generation),
            Self::SlowStart(_) => None,
        }
    }

    /// Starts with a limit that was found before, unless that is not to be trusted.
    pub(super) fn starting_with(mut self, limit: LearnedLimit, now: SystemTime, limiter: &str) -> Self {
        match (&mut self, limit.usable(now)) {
            (Self::BucketFit(pace), Ok(limit)) => pace.start_with(limit),
            // Checked by the builder.
            (Self::SlowStart(_), Ok(_)) => {}
            (_, Err(reason)) => tracing::info!(
                target: "llm_batch::rate_limiter",
                limiter,
                "the limit to start with is ignored: {reason}"
            ),
        }
        self
    }

    /// Returns the provider's limit, as far as it has found one.
    pub(super) fn learned(&self) -> Option<Learned> {
        match self {
            Self::BucketFit(pace) => pace.learned(),
            Self::SlowStart(_) => None,
        }
    }

    /// Returns the event of a limit that has become another one.
    pub(super) fn take_news(&mut self) -> Option<EventKind> {
        match self {
            Self::BucketFit(pace) => pace.take_news(),
            Self::SlowStart(_) => None,
        }
    }

    pub(super) fn on_start(&mut self, call: &StartedCall) -> Pacing {
        match self {
            Self::BucketFit(pace) => pace.on_start(call),
            Self::SlowStart(pace) => pace.on_start(call),
        }
    }

    /// `starts` have been counted in the current generation, those that it need not see among them.
    pub(super) fn on_end(&mut self, call: &StartedCall, end: &EndedCall, starts: u64) -> Pacing {
        match self {
            Self::BucketFit(pace) => {
                if end.closes {
                    pace.note_starts(starts);
                }
                pace.on_end(call, end)
            }
            Self::SlowStart(pace) => pace.on_end(call, end),
        }
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

    /// Returns the time at which the next call may start.
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
