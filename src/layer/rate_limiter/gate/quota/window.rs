//! A quota that is counted in fixed windows, as a day's is.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Translates tokio's time into that of the wall, which is read once, so that virtual time moves both.
#[derive(Clone, Copy, Debug)]
pub(in crate::layer::rate_limiter) struct WallClock {
    instant: Instant,
    time: SystemTime,
}

impl WallClock {
    pub(in crate::layer::rate_limiter) const fn new(instant: Instant, time: SystemTime) -> Self {
        Self { instant, time }
    }

    /// The time on the wall at an instant.
    pub(in crate::layer::rate_limiter) fn time(&self, at: Instant) -> SystemTime {
        // `at` may be earlier than the clock by the lateness of a start.
        match at.checked_duration_since(self.instant) {
            Some(later) => self.time.checked_add(later),
            None => self.time.checked_sub(self.instant.saturating_duration_since(at)),
        }
        .unwrap_or(self.time)
    }
}

/// One quota, counted from each reset.
#[derive(Debug)]
pub(super) struct Window {
    limit: u64,
    period: Duration,
    /// From midnight, universal time, to a reset.
    offset: Duration,
    taken: u64,
    saved: u64,
    ends: Instant,
}

impl Window {
    pub(super) fn new(
        limit: u64,
        period: Duration,
        offset: Duration,
        clock: &WallClock,
        now: Instant,
    ) -> Self {
        Self {
            limit,
            period,
            offset,
            taken: 0,
            saved: 0,
            ends: now + until_reset(period, offset, clock.time(now)),
        }
    }

    /// Begins a new window if it is time. Returns whether it did.
    pub(super) fn roll(&mut self, clock: &WallClock, now: Instant) -> bool {
        let over = now >= self.ends;
        if over {
            self.taken = 0;
            self.ends = now + until_reset(self.period, self.offset, clock.time(now));
        }
        over
    }

    pub(super) const fn ends(&self) -> Instant {
        self.ends
    }

    /// Takes `amount`, or returns the time of the reset. Nothing at all waits for it too if nothing is left.
    /// [`undo`](Self::undo) takes it back.
    pub(super) fn take(&mut self, amount: u64) -> Result<(), Instant> {
        self.saved = self.taken;
        let taken = self.taken.saturating_add(amount);
        if taken > self.limit || self.taken >= self.limit {
            return Err(self.ends);
        }
        self.taken = taken;
        Ok(())
    }

    /// Undoes the last [`take`](Self::take), whether it took anything or not.
    pub(super) const fn undo(&mut self) {
        self.taken = self.saved;
    }

    pub(super) const fn give_back(&mut self, amount: u64) {
        self.taken = self.taken.saturating_sub(amount);
    }

    /// Takes `amount` even if it is not there.
    pub(super) const fn owe(&mut self, amount: u64) {
        self.taken = self.taken.saturating_add(amount);
    }

    /// Takes what was taken from another window of the same quota.
    pub(super) const fn take_over(&mut self, other: &Self) {
        self.taken = other.taken;
    }

    /// Returns the amount that is left; negative if more was taken than there was.
    pub(super) fn balance(&self) -> f64 {
        self.limit as f64 - self.taken as f64
    }
}

/// The time to the next reset: `offset` after midnight, and every `period` from there. Above zero.
fn until_reset(period: Duration, offset: Duration, time: SystemTime) -> Duration {
    // A clock from before 1970 has its resets at other times.
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let (period, offset) = (period.as_nanos().max(1), offset.as_nanos());
    let into = (since + period - offset % period) % period;
    Duration::from_nanos(u64::try_from(period - into).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600;
    const DAY: Duration = Duration::from_secs(24 * HOUR);

    #[test]
    fn a_reset_is_at_its_time_of_day_and_never_now() {
        let midnight = UNIX_EPOCH + 20_000 * DAY;
        for (time, offset, expected) in [
            (0, 0, 24 * HOUR),
            (1, 0, 24 * HOUR - 1),
            (23 * HOUR, 0, HOUR),
            (0, 8 * HOUR, 8 * HOUR),
            (8 * HOUR, 8 * HOUR, 24 * HOUR),
            (9 * HOUR, 8 * HOUR, 23 * HOUR),
        ] {
            let time = midnight + Duration::from_secs(time);
            let left = until_reset(DAY, Duration::from_secs(offset), time);
            assert_eq!(left, Duration::from_secs(expected), "{time:?} {offset}");
        }
        let ten = Duration::from_secs(10);
        let half = until_reset(
            ten,
            Duration::from_secs(23),
            midnight + Duration::from_millis(4_500),
        );
        assert_eq!(half, Duration::from_millis(8_500));
    }
}
