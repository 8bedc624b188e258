//! The slow start of the classic preset.

use std::time::Duration;

use super::{EndedCall, Pace, Pacing, StartedCall};

/// After a pause the first starts are spaced ever more closely, and those after them not at all.
///
/// By default, as in [`Cooldown::classic`](crate::layer::rate_limiter::Cooldown::classic), the first 50 starts are spaced from
/// 2 s down to 0.1 s.
///
/// ```
/// use std::time::Duration;
/// use llm_batch::layer::rate_limiter::{RateLimiter, SlowStart};
///
/// let pace = SlowStart::new(20, Duration::from_secs(1), Duration::from_millis(50));
/// let limiter = RateLimiter::builder().pace(pace).build().unwrap();
/// # let _ = limiter;
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowStart {
    starts: u64,
    from: Duration,
    to: Duration,
    current: Pacing,
}

impl Default for SlowStart {
    fn default() -> Self {
        Self::new(50, Duration::from_secs(2), Duration::from_millis(100))
    }
}

impl SlowStart {
    /// Spaces the first `starts` starts after each pause, from `from` down to `to` in even steps. 0 `starts`: none.
    pub const fn new(starts: u64, from: Duration, to: Duration) -> Self {
        Self {
            starts,
            from,
            to,
            current: Pacing::UNLIMITED,
        }
    }

    pub(super) const fn pacing(&self) -> Pacing {
        self.current
    }

    /// Returns the pacing after the start with this ordinal, from 1.
    fn after(&self, ordinal: u64) -> Pacing {
        if ordinal > self.starts {
            return Pacing::UNLIMITED;
        }
        let done = ordinal.saturating_sub(1) as f64 / (self.starts - 1).max(1) as f64;
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
