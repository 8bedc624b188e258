//! The quotas of the simulated provider per unit of time.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::QuotaWindow;

/// A quota of requests or tokens over time.
///
/// ```
/// use std::time::Duration;
/// use llm_batch::testing::Quota;
///
/// let bucket = Quota::per_minute(600).with_burst(10);
/// let window = Quota::new(100, Duration::from_secs(10)).fixed_window();
/// # let _ = (bucket, window);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    pub(super) limit: u64,
    pub(super) period: Duration,
    pub(super) shape: Shape,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Bucket { burst: u64 },
    FixedWindow,
}

impl Quota {
    /// `limit` per `period`, as a bucket that refills continuously and holds at most `limit`.
    pub const fn new(limit: u64, period: Duration) -> Self {
        Self {
            limit,
            period,
            shape: Shape::Bucket { burst: limit },
        }
    }

    /// `limit` per minute, as a bucket.
    pub const fn per_minute(limit: u64) -> Self {
        Self::new(limit, Duration::from_secs(60))
    }

    /// `limit` per second, as a bucket.
    pub const fn per_second(limit: u64) -> Self {
        Self::new(limit, Duration::from_secs(1))
    }

    /// Limits the bucket to `burst`. A call that costs more passes when the bucket is full, and leaves a debt.
    #[must_use]
    pub const fn with_burst(mut self, burst: u64) -> Self {
        self.shape = Shape::Bucket { burst };
        self
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.limit == 0 || self.period.is_zero() || matches!(self.shape, Shape::Bucket { burst: 0 })
    }

    /// Counts in fixed windows of one period each, from the provider's first call on.
    #[must_use]
    pub const fn fixed_window(mut self) -> Self {
        self.shape = Shape::FixedWindow;
        self
    }
}

/// The state of a quota. Exact: computes in integers only.
#[derive(Debug)]
pub(super) struct Meter {
    quota: Quota,
    state: State,
}

#[derive(Debug)]
enum State {
    // `level` is in units of one token times the period in nanoseconds, so that a refill of `limit` per period is
    // `limit` units a nanosecond.
    Bucket { level: i128, at: Instant },
    Window { number: u128, used: u64, epoch: Instant },
}

impl Meter {
    pub(super) fn new(quota: Quota, now: Instant) -> Self {
        let state = match quota.shape {
            Shape::Bucket { .. } => State::Bucket { level: 0, at: now },
            Shape::FixedWindow => State::Window {
                number: 0,
                used: 0,
                epoch: now,
            },
        };
        let mut meter = Self { quota, state };
        let (capacity, unit) = (meter.capacity(), meter.unit());
        if let State::Bucket { level, .. } = &mut meter.state {
            *level = i128::from(capacity) * unit;
        }
        meter
    }

    fn unit(&self) -> i128 {
        self.quota.period.as_nanos() as i128
    }

    fn capacity(&self) -> u64 {
        match self.quota.shape {
            Shape::Bucket { burst } => burst,
            Shape::FixedWindow => self.quota.limit,
        }
    }

    pub(super) fn limit(&self) -> u64 {
        self.quota.limit
    }

    pub(super) fn period(&self) -> Duration {
        self.quota.period
    }

    fn advance(&mut self, now: Instant) {
        let (unit, capacity) = (self.unit(), i128::from(self.capacity()));
        let limit = i128::from(self.quota.limit);
        match &mut self.state {
            State::Bucket { level, at } => {
                let elapsed = now.saturating_duration_since(*at).as_nanos() as i128;
                *level = level
                    .saturating_add(elapsed.saturating_mul(limit))
                    .min(capacity * unit);
                *at = now.max(*at);
            }
            State::Window { number, used, epoch } => {
                let current = now.saturating_duration_since(*epoch).as_nanos() / self.quota.period.as_nanos();
                if current != *number {
                    (*number, *used) = (current, 0);
                }
            }
        }
    }

    /// Returns the time until `cost` fits; `None` if it fits now.
    pub(super) fn wait(&mut self, cost: u64, now: Instant) -> Option<Duration> {
        self.advance(now);
        match self.state {
            State::Bucket { level, .. } => {
                let lacking = i128::from(cost.min(self.capacity())) * self.unit() - level;
                (lacking > 0).then(|| self.refill_time(lacking))
            }
            State::Window { used, .. } => {
                (used + cost.min(self.capacity()) > self.capacity()).then(|| self.until_next_window(now))
            }
        }
    }

    /// Takes `cost`, even if it does not fit.
    pub(super) fn take(&mut self, cost: u64, now: Instant) {
        self.advance(now);
        let unit = self.unit();
        match &mut self.state {
            State::Bucket { level, .. } => *level -= i128::from(cost) * unit,
            State::Window { used, .. } => *used = used.saturating_add(cost),
        }
    }

    /// Takes the `cost` of a rejected call, at most the remaining amount: it may empty the bucket but leaves no debt.
    pub(super) fn charge_rejected(&mut self, cost: u64, now: Instant) {
        self.advance(now);
        let unit = self.unit();
        match &mut self.state {
            State::Bucket { level, .. } => *level = (*level - i128::from(cost) * unit).max((*level).min(0)),
            State::Window { used, .. } => *used = used.saturating_add(cost),
        }
    }

    /// Returns the remaining amount.
    pub(super) fn remaining(&mut self, now: Instant) -> u64 {
        self.advance(now);
        match self.state {
            State::Bucket { level, .. } => u64::try_from(level / self.unit()).unwrap_or(0),
            State::Window { used, .. } => self.capacity().saturating_sub(used),
        }
    }

    /// Returns the time until the quota is full again.
    pub(super) fn until_full(&mut self, now: Instant) -> Duration {
        self.advance(now);
        match self.state {
            State::Bucket { level, .. } => {
                self.refill_time((i128::from(self.capacity()) * self.unit() - level).max(0))
            }
            State::Window { .. } => self.until_next_window(now),
        }
    }

    /// Returns the quota for the rate-limit headers.
    pub(super) fn reported(&mut self, now: Instant) -> QuotaWindow {
        QuotaWindow {
            limit: Some(self.limit()),
            remaining: Some(self.remaining(now)),
            reset: Some(self.until_full(now)),
        }
    }

    fn refill_time(&self, lacking: i128) -> Duration {
        let limit = i128::from(self.quota.limit);
        let nanoseconds = (lacking + limit - 1) / limit;
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }

    fn until_next_window(&self, now: Instant) -> Duration {
        let State::Window { number, epoch, .. } = self.state else {
            return Duration::ZERO;
        };
        let end = u32::try_from(number + 1)
            .map_or(Duration::MAX, |windows| self.quota.period.saturating_mul(windows));
        end.saturating_sub(now.saturating_duration_since(epoch))
    }
}
