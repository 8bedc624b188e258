//! What the end of a call does: settlement, closing, opening, latching.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{
    Blocked, Closed, Closing, Effects, Probe, Settled, Started, State, Warning, is_answer, is_overload,
};
use crate::classify::{Disposition, Verdict};
use crate::error::ErrorKind;
use crate::events::EventKind;
use crate::layer::rate_limiter::error::Refused;
use crate::layer::rate_limiter::pace::{Pacing, Ramp};
use crate::layer::rate_limiter::store::StoreReport;

/// Overload without a hint closes the gate when this many calls in a row report it.
const OVERLOADED_IN_ROW: u32 = 5;

/// After this many generations in a row of which nothing was accepted, the gate opens for one call alone.
const BLOCKED_IN_ROW: u32 = 2;

/// A pause that was lengthened by less than this is not announced again.
const ANNOUNCE: Duration = Duration::from_millis(100);

impl State {
    /// Whether a verdict closes the gate.
    pub(crate) fn closing(&self, started: &Started, verdict: &Verdict) -> Option<Closing> {
        if started.call.generation != self.generation || self.latched.is_some() {
            return None;
        }
        if verdict.disposition == Disposition::Throttled {
            return Some(Closing::Throttle);
        }
        let enough = self.overloaded_in_row + 1 >= OVERLOADED_IN_ROW;
        let closes = self.config.cooldown.hint(verdict.retry_after).is_some() || started.probe || enough;
        (is_overload(verdict) && closes).then_some(Closing::Overload)
    }

    /// A call has ended: settles its quota and does what the verdict asks for.
    pub(crate) fn end(
        &mut self,
        started: &Started,
        verdict: Option<&Verdict>,
        used: Option<u64>,
        closing: Option<(Closing, Pacing)>,
        now: Instant,
        effects: &mut Effects,
    ) -> Settled {
        self.open_if_due(now, effects);
        self.settle(started.call.estimate, used, now);
        if started.shared {
            let reserved = started.call.estimate;
            self.report(StoreReport::Settled { reserved, used }, effects);
        }
        let current = started.call.generation == self.generation;
        let answered = verdict.is_some_and(is_answer);
        if current {
            if answered {
                self.accepted_any = true;
                self.overloaded_in_row = 0;
                self.overload_pauses = 0;
            } else if verdict.is_some_and(is_overload) {
                self.overloaded_in_row += 1;
            }
            if started.probe && closing.is_none() {
                self.probe = if answered { Probe::No } else { Probe::Due };
            }
        }
        let throttled = verdict.filter(|verdict| verdict.disposition == Disposition::Throttled);
        self.throttled += u64::from(throttled.is_some());
        match (closing, verdict) {
            (Some((closing, pacing)), Some(verdict)) if current => {
                self.close(closing, started, verdict, pacing, now, effects);
            }
            (_, Some(verdict)) if throttled.is_some() => self.late_throttle(started, verdict, now, effects),
            _ => {}
        }
        // Counts the first calls only: what matters is whether the first one that was answered was accepted.
        if current && !answered && throttled.is_none() && started.call.ordinal == self.unanswered + 1 {
            self.unanswered += 1;
        }
        if let Some(verdict) = verdict
            && verdict.disposition == Disposition::ScopeFatal
            && started.call.generation >= self.latches_from
        {
            self.latch(verdict.kind, now, effects);
        }
        self.drain(now, effects);
        let hold_until = throttled.map(|verdict| {
            let own = now + self.config.cooldown.hint(verdict.retry_after).unwrap_or_default();
            self.closed.as_ref().map_or(own, |closed| closed.until.max(own))
        });
        Settled {
            at: now,
            current,
            hold_until,
        }
    }

    fn settle(&mut self, estimate: u64, used: Option<u64>, now: Instant) {
        self.in_flight -= 1;
        self.settled += 1;
        if let (Some(bucket), Some(used)) = (&self.config.tokens, used) {
            bucket.give_back(estimate.saturating_sub(used));
            bucket.owe(used.saturating_sub(estimate), now);
        }
    }

    fn close(
        &mut self,
        closing: Closing,
        started: &Started,
        verdict: &Verdict,
        pacing: Pacing,
        now: Instant,
        effects: &mut Effects,
    ) {
        let cooldown = &self.config.cooldown;
        let mut unblocked = None;
        let (pause, probe, kind) = match closing {
            Closing::Throttle => {
                if started.call.ordinal <= 1 + self.unanswered {
                    self.blocked = self.blocked.once_more(self.generation);
                } else {
                    unblocked = Some(std::mem::take(&mut self.blocked));
                    self.accepted_any = true;
                }
                self.overloaded_in_row = 0;
                let pause = cooldown.pause(verdict.retry_after, self.blocked.pauses, pacing);
                let probe = self.blocked.generations >= BLOCKED_IN_ROW;
                (pause, probe, ErrorKind::RateLimit)
            }
            Closing::Overload => {
                let pause = cooldown.overload_pause(verdict.retry_after, self.overload_pauses);
                self.overload_pauses += 1;
                self.overloaded_in_row = 0;
                (pause, true, ErrorKind::Overloaded)
            }
        };
        // The ramp ends with the first throttle. Where nothing was accepted yet, and after overload, nothing is known
        // about the rate, and it begins anew.
        self.ramp = match closing {
            Closing::Throttle if self.accepted_any => None,
            Closing::Throttle | Closing::Overload => self.config.start_ramp.map(Ramp::new),
        };
        let pause = cooldown.with_random_share(pause);
        let kind = verdict.kind.unwrap_or(kind);
        let until = now + pause;
        self.pace.set(pacing, until);
        self.generation += 1;
        self.starts = 0;
        self.unanswered = 0;
        self.probe = Probe::No;
        self.closed = Some(Closed {
            since: now,
            until,
            announced: until,
            kind,
            probe,
            unblocked,
        });
        let generation = self.generation;
        effects.event(
            now,
            EventKind::CooldownStarted {
                generation,
                pause,
                kind,
            },
        );
        self.report(StoreReport::Closed { pause, kind }, effects);
        effects.warn(Warning::Closed {
            kind,
            pause,
            generation,
        });
    }

    /// A throttle of a call from before the current pause: it opens no pause, but its hint may lengthen one.
    fn late_throttle(&mut self, started: &Started, verdict: &Verdict, now: Instant, effects: &mut Effects) {
        let Some(closed) = &mut self.closed else {
            return;
        };
        let was_first = started.call.ordinal == 1 && started.call.generation + 1 == self.generation;
        if was_first && let Some(before) = closed.unblocked.take() {
            // The pause stands, but the generation was blocked after all.
            self.blocked = before.once_more(started.call.generation);
            closed.probe |= self.blocked.generations >= BLOCKED_IN_ROW;
        }
        if let Some(hint) = self.config.cooldown.hint(verdict.retry_after) {
            closed.until = closed.until.max(now + hint);
        }
        if closed.until.saturating_duration_since(closed.announced) >= ANNOUNCE {
            closed.announced = closed.until;
            effects.event(
                now,
                EventKind::CooldownStarted {
                    generation: self.generation,
                    pause: closed.until.saturating_duration_since(now),
                    kind: closed.kind,
                },
            );
        }
    }

    pub(super) fn open_if_due(&mut self, now: Instant, effects: &mut Effects) {
        if let Some(closed) = self.closed.take_if(|closed| closed.until <= now) {
            self.open(&closed, closed.until, effects);
        }
    }

    fn open(&mut self, closed: &Closed, at: Instant, effects: &mut Effects) {
        self.opened_at = at;
        self.paused += at.saturating_duration_since(closed.since);
        self.pace.open(at);
        if closed.probe {
            self.probe = Probe::Due;
        }
        let generation = self.generation;
        effects.event(at, EventKind::CooldownEnded { generation });
    }

    fn latch(&mut self, kind: Option<ErrorKind>, now: Instant, effects: &mut Effects) {
        if self.latched.is_some() {
            return;
        }
        // Without a kind: one that no retry policy repeats.
        let kind = kind.unwrap_or(ErrorKind::Configuration);
        let message: Arc<str> = kind.to_string().into();
        self.latched = Some((kind, Arc::clone(&message)));
        while let Some((_, waiter)) = self.queue.pop_first() {
            let message = Arc::clone(&message);
            let refused = Refused::Latched { kind, message };
            effects.reply(waiter.reply, Err(refused));
        }
        effects.event(now, EventKind::Latched { kind });
        self.report(StoreReport::Latched { kind }, effects);
        effects.warn(Warning::Latched { kind });
    }

    /// Opens by hand: a latch, a pause and a probe under way are forgotten.
    pub(crate) fn reopen(&mut self, now: Instant, effects: &mut Effects) {
        self.open_if_due(now, effects);
        if let Some(closed) = self.closed.take() {
            self.open(&closed, now, effects);
        }
        if self.latched.take().is_some() {
            effects.event(now, EventKind::Reopened);
        }
        self.store_hold = None;
        self.report(StoreReport::Reopened, effects);
        self.generation += 1;
        self.latches_from = self.generation;
        self.starts = 0;
        self.unanswered = 0;
        self.blocked = Blocked::default();
        self.probe = Probe::No;
        self.overloaded_in_row = 0;
        self.overload_pauses = 0;
        self.drain(now, effects);
    }

    /// The pace policy has changed its mind.
    pub(crate) fn set_pacing(&mut self, pacing: Pacing, now: Instant, effects: &mut Effects) {
        let since = self.closed.as_ref().map_or(now, |closed| closed.until);
        if self.pace.set(pacing, since) {
            self.drain(now, effects);
        }
    }
}
