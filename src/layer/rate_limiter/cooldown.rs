//! The length of the pause after a throttle.

use std::time::Duration;

use super::error::InvalidLimit;
use super::pace::{Pacing, SlowStart};

/// Pauses of a gate that was closed by overload without a hint, longer each time nothing was accepted.
const OVERLOAD: [u64; 5] = [1, 2, 4, 8, 15];

const LONGEST: Duration = Duration::from_secs(366 * 86_400);

/// The time for which the gate stays closed after a throttle.
///
/// With a hint of the provider the pause is the hint, at most [`hint_cap`](Self::with_hint_cap). Without one it is
/// the base: a fixed time, or by default the time of two starts at the pace of the resume, at least 50 ms and at most
/// 1 s. It doubles, up to 8 s, each time the first call after a pause was rejected again, and falls back to the base
/// when it was not. A little is added at random, so that several processes do not come back at the same instant.
///
/// ```
/// use std::time::Duration;
/// use llm_batch::layer::rate_limiter::Cooldown;
///
/// let gentle = Cooldown::default().with_base(Duration::from_secs(5)).with_cap(Duration::from_secs(60));
/// # let _ = gentle;
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cooldown {
    base: Option<Duration>,
    multiplier: f64,
    cap: Duration,
    hint_cap: Duration,
    jitter: f64,
    slow_start: Option<SlowStart>,
}

impl Default for Cooldown {
    fn default() -> Self {
        Self {
            base: None,
            multiplier: 2.0,
            cap: Duration::from_secs(8),
            hint_cap: Duration::from_secs(600),
            jitter: 0.02,
            slow_start: None,
        }
    }
}

impl Cooldown {
    /// Long pauses and a slow start, for comparison and for providers without hints that punish early returns:
    /// 300 s, times 1.5 while nothing is accepted, at most 600 s, no jitter; then 50 starts spaced from 2 s down to
    /// 0.1 s ([`SlowStart`]), unless a pace was set. These are the values of the Python package `async-batch-llm`,
    /// but the gate spaces the starts, where there each caller slept by itself.
    #[must_use]
    pub fn classic() -> Self {
        Self {
            base: Some(Duration::from_secs(300)),
            multiplier: 1.5,
            cap: Duration::from_secs(600),
            hint_cap: Duration::from_secs(600),
            jitter: 0.0,
            slow_start: Some(SlowStart::default()),
        }
    }

    /// A fixed pause where there is no hint, in place of one that follows from the pace.
    #[must_use]
    pub fn with_base(mut self, base: Duration) -> Self {
        self.base = Some(base);
        self
    }

    /// Sets the factor by which the pause is multiplied each time nothing was accepted. 2 by default.
    #[must_use]
    pub fn with_multiplier(mut self, multiplier: f64) -> Self {
        self.multiplier = multiplier;
        self
    }

    /// The longest pause without a hint. 8 s by default.
    #[must_use]
    pub fn with_cap(mut self, cap: Duration) -> Self {
        self.cap = cap;
        self
    }

    /// The longest pause that a hint can ask for. 600 s by default.
    #[must_use]
    pub fn with_hint_cap(mut self, cap: Duration) -> Self {
        self.hint_cap = cap;
        self
    }

    /// Sets the amount that is added at random, as a share of the pause: 0.02 by default, 0 for none.
    #[must_use]
    pub fn with_jitter(mut self, share: f64) -> Self {
        self.jitter = share;
        self
    }

    pub(super) const fn slow_start(&self) -> Option<SlowStart> {
        self.slow_start
    }

    pub(super) fn check(&self) -> Result<(), InvalidLimit> {
        if self.base.is_some_and(|base| base.is_zero()) {
            return Err(InvalidLimit::new("cooldown.base", "must be longer than zero"));
        }
        if !self.multiplier.is_finite() || self.multiplier < 1.0 {
            return Err(InvalidLimit::new(
                "cooldown.multiplier",
                "must be a number of at least 1",
            ));
        }
        for (field, cap) in [("cooldown.cap", self.cap), ("cooldown.hint_cap", self.hint_cap)] {
            if cap.is_zero() || cap > LONGEST {
                return Err(InvalidLimit::new(
                    field,
                    "must be longer than zero and at most a year",
                ));
            }
        }
        if self.base.is_some_and(|base| base > self.cap) {
            return Err(InvalidLimit::new(
                "cooldown.base",
                "must not be longer than cooldown.cap",
            ));
        }
        if !(0.0..=1.0).contains(&self.jitter) {
            return Err(InvalidLimit::new("cooldown.jitter", "must be between 0 and 1"));
        }
        Ok(())
    }

    /// The hint as far as it is believed: none if it is zero, never above the cap.
    pub(super) fn hint(&self, hint: Option<Duration>) -> Option<Duration> {
        hint.filter(|hint| !hint.is_zero())
            .map(|hint| hint.min(self.hint_cap))
    }

    /// The pause after a throttle without a hint, where calls were accepted before.
    pub(super) fn base(&self, pace: Pacing) -> Duration {
        self.base.unwrap_or_else(|| {
            // For an unlimited pace this is 0, and so 50 ms.
            Duration::from_secs_f64((2.0 / pace.starts_per_second()).clamp(0.05, 1.0))
        })
    }

    /// The pause after a throttle, before jitter. `blocked` counts the pauses in a row after which nothing was
    /// accepted.
    pub(super) fn pause(&self, hint: Option<Duration>, blocked: u32, base: Duration) -> Duration {
        let factor = self.multiplier.powi(i32::try_from(blocked).unwrap_or(i32::MAX));
        let escalated = Duration::try_from_secs_f64(base.as_secs_f64() * factor)
            .unwrap_or(self.cap)
            .min(self.cap.max(base));
        match self.hint(hint) {
            // A hint is believed until it turns out too short.
            Some(hint) if blocked == 0 => hint,
            Some(hint) => hint.max(escalated),
            None => escalated,
        }
    }

    /// The pause after overload, before jitter.
    pub(super) fn overload_pause(&self, hint: Option<Duration>, blocked: u32) -> Duration {
        let escalated = Duration::from_secs(OVERLOAD[(blocked as usize).min(OVERLOAD.len() - 1)]);
        match self.hint(hint) {
            // As after a throttle, a hint is believed until it turns out too short.
            Some(hint) if blocked == 0 => hint,
            Some(hint) => hint.max(escalated),
            None => escalated,
        }
    }

    /// The pause with a little added.
    pub(super) fn with_random_share(&self, pause: Duration) -> Duration {
        if self.jitter == 0.0 {
            return pause;
        }
        pause.saturating_add(pause.mul_f64(self.jitter * fastrand::f64()))
    }
}
