//! The closing of the gate: pauses and their generations, the latch, the probe.
//!
//! Plain facts and rules. It knows neither quotas nor waiters; a pause is computed by the caller and handed in.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Notices, Warning, is_answer};
use crate::classify::Verdict;
use crate::error::{Disposition, ErrorKind, Refused};
use crate::events::EventKind;
use crate::layer::rate_limiter::pace::StartedCall;
use crate::layer::rate_limiter::store::StoreReport;

/// Overload without a hint closes the gate when this many calls in a row report it.
const OVERLOADED_IN_ROW: u32 = 5;

/// After this many generations in a row of which nothing was accepted, the gate opens for one call alone.
const BLOCKED_IN_ROW: u32 = 2;

/// A quota that is still used up after this many resets in a row does not come back.
const RESETS_IN_ROW: u32 = 3;

/// A rejection takes this long until one has been seen, in seconds.
const TRIP: f64 = 0.07;
/// The weight of the last one in the usual time.
const LAST: f64 = 0.2;
/// Seconds that a probe is given beyond two usual rejections.
const MARGIN: f64 = 0.1;
/// Seconds that a probe is given at most.
const LONGEST_PATIENCE: f64 = 60.0;

/// A pause that was lengthened by less than this is not announced again.
const ANNOUNCE: Duration = Duration::from_millis(100);

/// The way in which a verdict closes the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closing {
    Throttle,
    Overload,
    /// The provider's quota is used up until a known time.
    Quota,
}

/// The facts that the length of a pause follows from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PauseRequest {
    pub(super) closing: Closing,
    pub(super) hint: Option<Duration>,
    /// The number of pauses in a row that have ended with nothing accepted.
    pub(super) blocked: u32,
}

/// No call can succeed.
#[derive(Debug)]
struct Latch {
    kind: ErrorKind,
    message: Arc<str>,
    /// When it ends by itself, if it does.
    until: Option<Instant>,
}

#[derive(Debug)]
struct Closed {
    since: Instant,
    until: Instant,
    announced: Instant,
    kind: ErrorKind,
    /// The length of the pause is still to be decided; until then the gate does not open.
    pending: Option<PauseRequest>,
    /// Opens for one call alone.
    probe: bool,
    /// Opens for one call, until a policy of the user's own that does not space starts has been asked about it.
    notice: bool,
    /// The counts before the generation that ended was found not to be blocked, for when its first call turns out
    /// to have been rejected too.
    unblocked: Option<Blocked>,
}

/// The number of times in a row that nothing was accepted.
#[derive(Clone, Copy, Debug, Default)]
struct Blocked {
    /// Generations.
    generations: u32,
    /// Generations that followed a pause: how often that pause is doubled.
    pauses: u32,
}

impl Blocked {
    fn once_more(self, generation: u64) -> Self {
        Self {
            generations: self.generations.saturating_add(1),
            pauses: self.pauses.saturating_add(u32::from(generation > 0)),
        }
    }
}

/// The first call after an opening, where the others wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lead {
    /// All may pass.
    No,
    /// The next call goes ahead.
    Due(Purpose),
    /// It was let through, or has started, at this time.
    UnderWay(Purpose, Instant),
}

/// What the others wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::layer::rate_limiter::gate) enum Purpose {
    /// It was not rejected.
    Probe,
    /// A pace policy of the user's own has been asked about it.
    Notice,
}

/// The state that decides whether calls may pass, and the results of the calls of the current generation.
#[derive(Debug)]
pub(super) struct Closure {
    closed: Option<Closed>,
    latched: Option<Latch>,
    opened_at: Instant,
    generation: u64,
    /// Goes up whenever a grant that has not started becomes void.
    epoch: u64,
    /// Starts in the generation.
    starts: u64,
    /// Calls of the generation that ended without an answer of the provider.
    unanswered: u64,
    /// Scope failures of earlier generations do not latch: they are from before the gate was reopened.
    latches_from: u64,
    blocked: Blocked,
    lead: Lead,
    /// The usual time from the start of a call to its rejection, in seconds.
    trip: f64,
    overloaded_in_row: u32,
    overload_pauses: u32,
    /// Pauses in a row for a quota that was used up.
    quota_pauses: u32,
    accepted_any: bool,
    paused: Duration,
}

impl Closure {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            closed: None,
            latched: None,
            opened_at: now,
            generation: 0,
            epoch: 0,
            starts: 0,
            unanswered: 0,
            latches_from: 0,
            blocked: Blocked {
                generations: 0,
                pauses: 0,
            },
            lead: Lead::No,
            trip: TRIP,
            overloaded_in_row: 0,
            overload_pauses: 0,
            quota_pauses: 0,
            accepted_any: false,
            paused: Duration::ZERO,
        }
    }

    pub(super) const fn generation(&self) -> u64 {
        self.generation
    }

    /// Starts in the generation.
    pub(super) const fn starts(&self) -> u64 {
        self.starts
    }

    pub(super) const fn set_starts(&mut self, starts: u64) {
        self.starts = starts;
    }

    /// Returns `true` if one more answer would change nothing.
    pub(super) fn is_quiet(&self) -> bool {
        !self.is_shut()
            && self.lead == Lead::No
            && self.accepted_any
            && self.overloaded_in_row == 0
            && self.overload_pauses == 0
            && self.quota_pauses == 0
    }

    pub(super) const fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) const fn opened_at(&self) -> Instant {
        self.opened_at
    }

    pub(super) fn latched(&self) -> Option<ErrorKind> {
        self.latched.as_ref().map(|latch| latch.kind)
    }

    pub(super) fn refusal(&self) -> Option<Refused> {
        self.latched.as_ref().map(|latch| Refused::Latched {
            kind: latch.kind,
            message: Arc::clone(&latch.message),
        })
    }

    /// Returns the end of a latch, if it ends by itself.
    pub(super) fn latched_until(&self) -> Option<Instant> {
        self.latched.as_ref()?.until
    }

    /// Returns `false` if quotas that should have reset have not.
    pub(super) const fn awaits_resets(&self) -> bool {
        self.quota_pauses < RESETS_IN_ROW
    }

    /// Returns `true` if a call may close the gate.
    pub(super) const fn is_current(&self, call: &StartedCall) -> bool {
        call.generation == self.generation && self.latched.is_none()
    }

    /// Returns the end of a pause under way; `None` if the gate is open.
    pub(super) fn closed_until(&self) -> Option<Instant> {
        self.closed.as_ref().map(|closed| closed.until)
    }

    /// Returns the kind of failure that closed it, and for how much longer it is closed.
    pub(super) fn closed(&self, now: Instant) -> Option<(ErrorKind, Duration)> {
        let closed = self.closed.as_ref()?;
        (closed.pending.is_some() || closed.until > now)
            .then(|| (closed.kind, closed.until.saturating_duration_since(now)))
    }

    /// Returns `true` if calls are refused or have to wait for the end of a pause.
    pub(super) const fn is_shut(&self) -> bool {
        self.closed.is_some() || self.latched.is_some()
    }

    pub(super) fn paused(&self, now: Instant) -> Duration {
        self.paused
            + self.closed.as_ref().map_or(Duration::ZERO, |closed| {
                closed.until.min(now).saturating_duration_since(closed.since)
            })
    }

    /// Returns `Some` if a call has to wait, with the end of the wait if that is known.
    pub(super) fn hold(&self) -> Option<Option<Instant>> {
        if let Some(closed) = &self.closed {
            return Some(closed.pending.is_none().then_some(closed.until));
        }
        match self.lead {
            Lead::UnderWay(_, since) => Some(Some(since + self.patience())),
            Lead::No | Lead::Due(_) => None,
        }
    }

    /// The time after which a call that was not rejected will not be.
    fn patience(&self) -> Duration {
        // Bounded, as a call may be rejected after any time.
        Duration::from_secs_f64((2.0 * self.trip + MARGIN).min(LONGEST_PATIENCE))
    }

    /// A call is let through. Returns whether, and why, it goes ahead of the others.
    pub(super) fn admit(&mut self, now: Instant) -> Option<Purpose> {
        let Lead::Due(purpose) = self.lead else {
            return None;
        };
        self.lead = Lead::UnderWay(purpose, now);
        Some(purpose)
    }

    /// A pace policy of the user's own has answered a start of this generation.
    pub(super) fn noticed(&mut self, generation: u64) -> bool {
        let waited = generation == self.generation && matches!(self.lead, Lead::UnderWay(Purpose::Notice, _));
        if waited {
            self.lead = Lead::No;
        }
        waited
    }

    /// A call starts. Returns its position in the generation.
    pub(super) const fn start(&mut self, lead: Option<Purpose>, now: Instant) -> u64 {
        if let (Some(purpose), Lead::UnderWay(_, _)) = (lead, self.lead) {
            self.lead = Lead::UnderWay(purpose, now);
        }
        self.starts += 1;
        self.starts
    }

    /// A grant of `generation` was given back. `ordinal` is the position that it had taken up already.
    pub(super) fn give_back(&mut self, generation: u64, lead: Option<Purpose>, ordinal: Option<u64>) {
        if generation != self.generation {
            return;
        }
        self.follow(lead);
        if ordinal == Some(self.unanswered + 1) {
            self.unanswered += 1;
        }
    }

    /// A call that went ahead came to nothing: the next one does, if the others still wait.
    const fn follow(&mut self, lead: Option<Purpose>) {
        if let (Some(purpose), Lead::UnderWay(_, _)) = (lead, self.lead) {
            self.lead = Lead::Due(purpose);
        }
    }

    /// Returns the way in which a verdict closes the gate, if it does. `hinted`: it has a hint that is believed.
    pub(super) fn closing(
        &self,
        call: &StartedCall,
        lead: Option<Purpose>,
        verdict: &Verdict,
        hinted: bool,
    ) -> Option<Closing> {
        if !self.is_current(call) {
            return None;
        }
        if verdict.disposition == Disposition::Throttled {
            return Some(Closing::Throttle);
        }
        let enough = self.overloaded_in_row + 1 >= OVERLOADED_IN_ROW;
        (verdict.is_overload() && (hinted || lead == Some(Purpose::Probe) || enough))
            .then_some(Closing::Overload)
    }

    /// A call has been rejected.
    pub(super) fn note_trip(&mut self, call: &StartedCall, now: Instant) {
        let took = now.saturating_duration_since(call.at).as_secs_f64();
        self.trip += LAST * (took - self.trip);
    }

    /// A call of the current generation has ended. `closes`: its verdict closes the gate.
    pub(super) fn end(
        &mut self,
        call: &StartedCall,
        lead: Option<Purpose>,
        verdict: Option<&Verdict>,
        closes: bool,
    ) {
        let answered = verdict.is_some_and(is_answer);
        if answered {
            self.accepted_any = true;
            self.overloaded_in_row = 0;
            self.overload_pauses = 0;
            self.quota_pauses = 0;
        } else if verdict.is_some_and(Verdict::is_overload) {
            self.overloaded_in_row = self.overloaded_in_row.saturating_add(1);
        }
        if closes {
            return;
        }
        if answered && lead.is_some() {
            self.lead = Lead::No;
        }
        self.follow(lead);
        // Counts the first calls only: what matters is whether the first one that was answered was accepted.
        let throttled = verdict.is_some_and(|verdict| verdict.disposition == Disposition::Throttled);
        if !answered && !throttled && call.ordinal == self.unanswered + 1 {
            self.unanswered += 1;
        }
    }

    /// Closes, for a pause whose length [`set_pause`](Self::set_pause) says. Returns whether anything was accepted
    /// before, which is what the start ramp asks.
    pub(super) fn close(
        &mut self,
        closing: Closing,
        call: &StartedCall,
        verdict: &Verdict,
        now: Instant,
    ) -> bool {
        let mut unblocked = None;
        let (blocked, probe, kind) = match closing {
            Closing::Throttle => {
                if call.ordinal <= 1 + self.unanswered {
                    self.blocked = self.blocked.once_more(self.generation);
                } else {
                    unblocked = Some(std::mem::take(&mut self.blocked));
                    self.accepted_any = true;
                }
                let probe = self.blocked.generations >= BLOCKED_IN_ROW;
                (self.blocked.pauses, probe, ErrorKind::RateLimit)
            }
            Closing::Overload => {
                let pauses = self.overload_pauses;
                self.overload_pauses = pauses.saturating_add(1);
                (pauses, true, ErrorKind::Overloaded)
            }
            Closing::Quota => {
                self.quota_pauses += 1;
                (0, true, ErrorKind::QuotaExhausted)
            }
        };
        self.overloaded_in_row = 0;
        self.next_generation();
        self.lead = Lead::No;
        self.closed = Some(Closed {
            since: now,
            until: now,
            announced: now,
            kind: verdict.kind.unwrap_or(kind),
            pending: Some(PauseRequest {
                closing,
                hint: verdict.retry_after,
                blocked,
            }),
            probe,
            notice: false,
            unblocked,
        });
        self.accepted_any
    }

    fn next_generation(&mut self) {
        self.generation += 1;
        self.epoch += 1;
        self.starts = 0;
        self.unanswered = 0;
    }

    /// Returns the facts that the pause of `generation` is to follow from, if its length is still to be said.
    pub(super) fn pause_request(&self, generation: u64) -> Option<PauseRequest> {
        let closed = self.closed.as_ref()?;
        closed.pending.filter(|_| generation == self.generation)
    }

    /// Sets the length of the pause that began last, and whether a policy waits for a notice of the first start after it.
    /// Returns its end.
    pub(super) fn set_pause(
        &mut self,
        pause: Duration,
        notice: bool,
        notices: &mut Notices,
    ) -> Option<Instant> {
        let generation = self.generation;
        let closed = self.closed.as_mut()?;
        closed.notice = notice;
        closed.pending = None;
        // A hint that came meanwhile may be longer.
        closed.until = closed.until.max(closed.since + pause);
        closed.announced = closed.until;
        let (at, kind) = (closed.since, closed.kind);
        let pause = closed.until.saturating_duration_since(at);
        notices.event(
            at,
            EventKind::CooldownStarted {
                generation,
                pause,
                kind,
            },
        );
        notices.report(StoreReport::Closed { pause, kind });
        notices.warn(Warning::Closed {
            kind,
            pause,
            generation,
        });
        Some(closed.until)
    }

    /// A throttle of a call from before the current pause: it opens no pause, but its hint may lengthen one.
    pub(super) fn late_throttle(
        &mut self,
        call: &StartedCall,
        hint: Option<Duration>,
        now: Instant,
        notices: &mut Notices,
    ) {
        let Some(closed) = &mut self.closed else {
            return;
        };
        let was_first = call.ordinal == 1 && call.generation + 1 == self.generation;
        if was_first && let Some(before) = closed.unblocked.take() {
            // The pause stands, but the generation was blocked after all.
            self.blocked = before.once_more(call.generation);
            closed.probe |= self.blocked.generations >= BLOCKED_IN_ROW;
        }
        if let Some(hint) = hint {
            closed.until = closed.until.max(now + hint);
        }
        if closed.pending.is_none() && closed.until.saturating_duration_since(closed.announced) >= ANNOUNCE {
            closed.announced = closed.until;
            notices.event(
                now,
                EventKind::CooldownStarted {
                    generation: self.generation,
                    pause: closed.until.saturating_duration_since(now),
                    kind: closed.kind,
                },
            );
        }
    }

    /// Opens if the pause is over. Returns since when it is open then.
    pub(super) fn open_if_due(&mut self, now: Instant, notices: &mut Notices) -> Option<Instant> {
        if let Lead::UnderWay(_, since) = self.lead
            && since + self.patience() <= now
        {
            self.lead = Lead::No;
        }
        // Not before a pause under way has its length: that is asked for by generation.
        let is_pending = self
            .closed
            .as_ref()
            .is_some_and(|closed| closed.pending.is_some());
        if !is_pending && self.latched_until().is_some_and(|until| until <= now) {
            // One call goes first: a quota may have been refilled in part.
            self.end_latch(now, notices);
            notices.report(StoreReport::Reopened);
            self.next_generation();
            self.latches_from = self.generation;
            self.lead = Lead::Due(Purpose::Probe);
        }
        let closed = self
            .closed
            .take_if(|closed| closed.pending.is_none() && closed.until <= now)?;
        let at = closed.until;
        self.open(&closed, at, notices);
        Some(at)
    }

    fn open(&mut self, closed: &Closed, at: Instant, notices: &mut Notices) {
        self.opened_at = at;
        self.paused += at.saturating_duration_since(closed.since);
        if closed.probe {
            self.lead = Lead::Due(Purpose::Probe);
        } else if closed.notice {
            self.lead = Lead::Due(Purpose::Notice);
        }
        let generation = self.generation;
        notices.event(at, EventKind::CooldownEnded { generation });
    }

    /// No call of this scope can succeed, before `until` if that is known. Returns the kind if that is new.
    pub(super) fn latch(
        &mut self,
        call: &StartedCall,
        kind: Option<ErrorKind>,
        until: Option<Instant>,
        now: Instant,
        notices: &mut Notices,
    ) -> Option<ErrorKind> {
        if self.latched.is_some() || call.generation < self.latches_from {
            return None;
        }
        // Without a kind: one that no retry policy repeats.
        let kind = kind.unwrap_or(ErrorKind::Configuration);
        self.latched = Some(Latch {
            kind,
            message: kind.to_string().into(),
            until,
        });
        self.epoch += 1;
        notices.event(now, EventKind::Latched { kind });
        notices.report(StoreReport::Latched { kind });
        notices.warn(Warning::Latched { kind });
        Some(kind)
    }

    fn end_latch(&mut self, now: Instant, notices: &mut Notices) {
        if self.latched.take().is_some() {
            notices.event(now, EventKind::Reopened);
        }
    }

    /// Opens by hand: a latch, a pause and a probe under way are forgotten. Returns whether a pause ended.
    pub(super) fn reopen(&mut self, now: Instant, notices: &mut Notices) -> bool {
        let closed = self.closed.take();
        if let Some(closed) = &closed {
            self.open(closed, now, notices);
        }
        self.end_latch(now, notices);
        self.next_generation();
        self.latches_from = self.generation;
        self.blocked = Blocked::default();
        self.lead = Lead::No;
        self.overloaded_in_row = 0;
        self.overload_pauses = 0;
        self.quota_pauses = 0;
        closed.is_some()
    }
}

#[cfg(test)]
mod tests;
