//! Request and token buckets: `governor`'s algorithm over our own clock and state, so that virtual time works and
//! a charge can be taken back.

use std::cell::Cell;
use std::fmt;
use std::num::NonZeroU32;
use std::ops::Add;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::clock::{Clock, Reference};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{NotKeyed, StateStore};
use tokio::time::Instant;

const MINUTE: Duration = Duration::from_secs(60);

/// One call owes at most what this many minutes refill: more is an error in the report, not a usage.
const LARGEST_DEBT: u64 = 10;

/// Arrival times stay below this (292 years), so that no sum with a burst overflows.
const FAR: u64 = u64::MAX / 2;

/// tokio's instant, as governor wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Tick(Instant);

impl Add<Nanos> for Tick {
    type Output = Self;

    fn add(self, time: Nanos) -> Self {
        Self(self.0 + Duration::from(time))
    }
}

impl Reference for Tick {
    fn duration_since(&self, earlier: Self) -> Nanos {
        Nanos::from(self.0.saturating_duration_since(earlier.0))
    }

    fn saturating_sub(&self, time: Nanos) -> Self {
        Self(self.0.checked_sub(time.into()).unwrap_or(self.0))
    }
}

/// A clock that shows what it was set to: a start is charged at its due instant, not at the time of asking.
#[derive(Debug)]
struct SetClock(Cell<Tick>);

impl Clock for SetClock {
    type Instant = Tick;

    fn now(&self) -> Tick {
        self.0.get()
    }
}

/// governor's theoretical arrival time, in nanoseconds since the bucket was made. Only the gate's lock touches
/// it; it is shared with governor, hence the atomic.
#[derive(Clone, Debug, Default)]
struct ArrivalTime(Arc<AtomicU64>);

impl ArrivalTime {
    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, nanos: u64) {
        self.0.store(nanos.min(FAR), Ordering::Relaxed);
    }
}

impl StateStore for ArrivalTime {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _: &NotKeyed, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let (outcome, next) = decide(Some(Nanos::new(self.get())))?;
        self.set(next.as_u64());
        Ok(outcome)
    }
}

/// One quota per minute, refilled continuously.
pub(in crate::layer::rate_limiter) struct Bucket {
    limiter: governor::RateLimiter<NotKeyed, ArrivalTime, SetClock, NoOpMiddleware<Tick>>,
    arrival: ArrivalTime,
    made: Instant,
    /// Nanoseconds until one unit is refilled, rounded up: never above the limit.
    unit: u64,
    capacity: NonZeroU32,
    limit: NonZeroU32,
}

impl Bucket {
    /// `limit` a minute, of which what `burst` refills may be taken at once (at least 1). Full at first.
    pub(in crate::layer::rate_limiter) fn new(limit: NonZeroU32, burst: Duration, now: Instant) -> Self {
        let share = u64::from(limit.get()) as f64 * burst.as_secs_f64() / MINUTE.as_secs_f64();
        // Rounding, as 60 s * x / 60 s is not always x.
        let capacity = NonZeroU32::new((share + 1e-6) as u32).unwrap_or(NonZeroU32::MIN);
        let unit = (MINUTE.as_nanos() as u64).div_ceil(u64::from(limit.get()));
        let quota = governor::Quota::with_period(Duration::from_nanos(unit))
            .unwrap_or(governor::Quota::per_minute(limit))
            .allow_burst(capacity);
        let arrival = ArrivalTime::default();
        let clock = SetClock(Cell::new(Tick(now)));
        Self {
            limiter: governor::RateLimiter::new(quota, arrival.clone(), clock),
            arrival,
            made: now,
            unit,
            capacity,
            limit,
        }
    }

    /// Returns the amount that it gives per minute.
    pub(in crate::layer::rate_limiter) const fn limit(&self) -> u32 {
        self.limit.get()
    }

    /// Takes `amount` as of `at`, or says when it will be there. More than the capacity needs a full bucket and
    /// leaves a debt; nothing at all waits for the end of a debt.
    pub(in crate::layer::rate_limiter) fn take(&self, amount: u64, at: Instant) -> Result<(), Instant> {
        let at_once = u32::try_from(amount).map_or(self.capacity, |amount| {
            NonZeroU32::new(amount).map_or(NonZeroU32::MIN, |amount| amount.min(self.capacity))
        });
        if amount == 0 {
            let in_debt = self.arrival.get().saturating_sub(
                self.nanos(at)
                    .saturating_add(u64::from(self.capacity.get()).saturating_mul(self.unit)),
            );
            return match in_debt {
                0 => Ok(()),
                time => Err(at + Duration::from_nanos(time)),
            };
        }
        self.limiter.clock().0.set(Tick(at));
        match self.limiter.check_n(at_once) {
            Ok(Ok(())) => {
                let _ = self.owe(amount - u64::from(at_once.get()), at);
                Ok(())
            }
            Ok(Err(not_until)) => Err(not_until.earliest_possible().0),
            // Not reached: the amount asked for is at most the capacity.
            Err(_) => Ok(()),
        }
    }

    /// The state, for [`restore`](Self::restore).
    pub(in crate::layer::rate_limiter) fn save(&self) -> u64 {
        self.arrival.get()
    }

    /// Undoes what was taken since it was saved.
    pub(in crate::layer::rate_limiter) fn restore(&self, saved: u64) {
        self.arrival.set(saved);
    }

    /// Gives `amount` back.
    pub(in crate::layer::rate_limiter) fn give_back(&self, amount: u64) {
        self.arrival.set(
            self.arrival
                .get()
                .saturating_sub(amount.saturating_mul(self.unit)),
        );
    }

    /// Takes `amount` even if it is not there, but at most what [`LARGEST_DEBT`] refills. Returns what it took.
    pub(in crate::layer::rate_limiter) fn owe(&self, amount: u64, now: Instant) -> u64 {
        let amount = amount.min(u64::from(self.limit.get()).saturating_mul(LARGEST_DEBT));
        if amount > 0 {
            let full = self.nanos(now).max(self.arrival.get());
            self.arrival
                .set(full.saturating_add(amount.saturating_mul(self.unit)));
        }
        amount
    }

    /// Returns the amount that could be taken at once; negative after a debt.
    pub(in crate::layer::rate_limiter) fn balance(&self, now: Instant) -> f64 {
        let taken = self.arrival.get().saturating_sub(self.nanos(now));
        f64::from(self.capacity.get()) - taken as f64 / self.unit as f64
    }

    fn nanos(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.made).as_nanos()).unwrap_or(FAR)
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket")
            .field("limit", &self.limit)
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}
