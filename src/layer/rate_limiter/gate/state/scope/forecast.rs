//! When the next call would start.

use std::time::Duration;

use tokio::time::Instant;

use super::{LAST, Scope};
use crate::layer::rate_limiter::gate::state::queue::Load;
use crate::layer::rate_limiter::pace::Ramp;
use crate::request::TokenEstimate;

impl Scope {
    /// A call took this long.
    pub(super) fn note_time(&mut self, took: Duration) {
        let took = took.as_secs_f64();
        self.mean_time = Some(self.mean_time.map_or(took, |mean| mean + LAST * (took - mean)));
    }

    /// The start of a call of `estimate` tokens after those `ahead`, if nothing changes meanwhile.
    pub(in crate::layer::rate_limiter::gate::state) fn forecast(
        &self,
        ahead: Load,
        estimate: &TokenEstimate,
        now: Instant,
    ) -> Instant {
        let held = self.closure.closed_until().or(self.closure.hold().flatten());
        let opens = held.map_or(now, |until| until.max(now));
        let paced = [
            (
                self.ramp.as_ref().and_then(Ramp::due),
                self.ramp.as_ref().and_then(Ramp::starts_per_second),
            ),
            (self.pace.due(), Some(self.pace.rate_at(now))),
        ]
        .map(|(due, rate)| {
            let first = due.map_or(opens, |due| due.max(opens));
            after(first, ahead.calls as f64 / rate.unwrap_or(f64::INFINITY))
        });
        let own = self.reservation(estimate);
        // Where their estimates are unknown, those ahead take what a call uses in the mean.
        let before = match ahead.tokens {
            0 => self.reservation(&TokenEstimate::default()).times(ahead.calls),
            tokens => self.reservation(&TokenEstimate::from(tokens)),
        };
        let quotas = self
            .config
            .limits
            .ready_at(&before.plus(&own), ahead.calls + 1, now);
        let free = self
            .cap(now)
            .map(|(cap, rises)| self.forecast_room(cap, rises, ahead, now));
        free.into_iter()
            .chain(paced)
            .fold(opens.max(quotas), Instant::max)
    }

    /// When there is room under the cap.
    fn forecast_room(&self, cap: usize, rises: Option<Instant>, ahead: Load, now: Instant) -> Instant {
        let excess = (self.in_flight as u64 + ahead.calls + 1).saturating_sub(cap as u64);
        if excess == 0 {
            return now;
        }
        let running = self
            .first_start
            .map(|first| now.saturating_duration_since(first).as_secs_f64());
        // Calls that run for the first time take at least as long as they have taken already.
        let time = self.mean_time.or(running).unwrap_or_default();
        let room = after(now, time * excess as f64 / cap.max(1) as f64);
        rises.map_or(room, |rises| room.min(rises.max(now)))
    }
}

/// A time that is so many seconds later; one that is no time at all is the far future.
fn after(time: Instant, seconds: f64) -> Instant {
    const FAR: Duration = Duration::from_secs(86_400 * 365);
    let wait = Duration::try_from_secs_f64(seconds).unwrap_or(FAR);
    time + wait.min(FAR)
}
