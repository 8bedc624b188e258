//! A quota that is refilled continuously: `governor`'s algorithm over our own clock and state, so that virtual time works and
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

/// One quota, refilled continuously.
pub(super) struct Bucket {
    limiter: governor::RateLimiter<NotKeyed, ArrivalTime, SetClock, NoOpMiddleware<Tick>>,
    arrival: ArrivalTime,
    /// The arrival time before the last [`take`](Self::take).
    saved: u64,
    made: Instant,
    /// Nanoseconds until one unit is refilled, rounded up: never above the limit.
    unit: u64,
    capacity: NonZeroU32,
}

impl Bucket {
    /// `limit` per `period`, of which what `burst` refills may be taken at once (at least 1). Full at first.
    pub(super) fn new(limit: NonZeroU32, period: Duration, burst: Duration, now: Instant) -> Self {
        let share = u64::from(limit.get()) as f64 * burst.as_secs_f64() / period.as_secs_f64();
        // Rounding, as 60 s * x / 60 s is not always x.
        let capacity = NonZeroU32::new((share + 1e-6) as u32).unwrap_or(NonZeroU32::MIN);
        // A day is 2^47 of them.
        let unit = (period.as_nanos() as u64).div_ceil(u64::from(limit.get())).max(1);
        let quota = governor::Quota::with_period(Duration::from_nanos(unit))
            .unwrap_or(governor::Quota::per_minute(limit))
            .allow_burst(capacity);
        let arrival = ArrivalTime::default();
        let clock = SetClock(Cell::new(Tick(now)));
        Self {
            limiter: governor::RateLimiter::new(quota, arrival.clone(), clock),
            arrival,
            saved: 0,
            made: now,
            unit,
            capacity,
        }
    }

    /// Takes `amount` as of `at`, or says when it will be there. More than the capacity needs a full bucket and
    /// leaves a debt; nothing at all waits for the end of a debt. [`undo`](Self::undo) takes it back.
    pub(super) fn take(&mut self, amount: u64, at: Instant) -> Result<(), Instant> {
        self.saved = self.arrival.get();
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
                self.owe(amount - u64::from(at_once.get()), at);
                Ok(())
            }
            Ok(Err(not_until)) => Err(not_until.earliest_possible().0),
            // Not reached: the amount asked for is at most the capacity.
            Err(_) => Ok(()),
        }
    }

    /// Undoes the last [`take`](Self::take), whether it took anything or not.
    pub(super) fn undo(&mut self) {
        self.arrival.set(self.saved);
    }

    /// Gives `amount` back.
    pub(super) fn give_back(&self, amount: u64) {
        self.arrival.set(
            self.arrival
                .get()
                .saturating_sub(amount.saturating_mul(self.unit)),
        );
    }

    /// Takes `amount` even if it is not there.
    pub(super) fn owe(&self, amount: u64, now: Instant) {
        if amount > 0 {
            let full = self.nanos(now).max(self.arrival.get());
            self.arrival
                .set(full.saturating_add(amount.saturating_mul(self.unit)));
        }
    }

    /// Takes what another bucket of the same quota lacks.
    pub(super) fn take_over(&self, other: &Self, now: Instant) {
        let taken = other.arrival.get().saturating_sub(other.nanos(now));
        // In units, as the refill may be another.
        let taken = u128::from(taken) * u128::from(self.unit) / u128::from(other.unit);
        self.arrival.set(
            self.nanos(now)
                .saturating_add(u64::try_from(taken).unwrap_or(FAR)),
        );
    }

    /// Returns the amount that could be taken at once; negative after a debt.
    pub(super) fn balance(&self, now: Instant) -> f64 {
        let taken = self.arrival.get().saturating_sub(self.nanos(now));
        f64::from(self.capacity.get()) - taken as f64 / self.unit as f64
    }

    /// Returns the time at which the last part of `amount` could be taken, if none else takes any.
    pub(in crate::layer::rate_limiter) fn ready_at(&self, amount: u64, now: Instant) -> Instant {
        let taken = self.arrival.get().max(self.nanos(now));
        let full = u64::from(self.capacity.get()).saturating_mul(self.unit);
        let ready = taken
            .saturating_add(amount.saturating_mul(self.unit))
            .min(FAR)
            .saturating_sub(full);
        (self.made + Duration::from_nanos(ready)).max(now)
    }

    fn nanos(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.made).as_nanos()).unwrap_or(FAR)
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket")
            .field("unit", &self.unit)
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}
