//! The gate's state and decisions, guarded by its lock: the [`Scope`] (the facts of the quota) and the [`Queue`] (who
//! waits in this process).
//!
//! It calls no code but its own, reads no clock, wakes no task; what is to be done outside the lock goes into [`Effects`].

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime;
use tokio::time::Instant;

use super::fast_path::{Counts, FastStart};
use super::quota::{Reserved, Used};
use super::waits::Waited;
use crate::classify::Verdict;
use crate::error::{Delivery, Disposition, ErrorKind, Refused};
use crate::layer::rate_limiter::learned::Learned;
use crate::layer::rate_limiter::pace::{EndedCall, Pacing, StartedCall};
use crate::layer::rate_limiter::priority::Priority;
use crate::layer::rate_limiter::quota::{Quota, QuotaState};
use crate::layer::rate_limiter::snapshot::RateLimiterSnapshot;
use crate::request::TokenEstimate;
use closure::Purpose;

mod closure;
mod effects;
mod outbox;
mod overload;
mod queue;
mod scope;
mod slot;

pub(in crate::layer::rate_limiter) use effects::Effects;
pub(super) use effects::{Notices, Warning};
use outbox::Outbox;
pub(super) use outbox::{Candidate, Turn};
pub(in crate::layer::rate_limiter) use queue::Ticket;
use queue::{Load, Queue, Waiter};
use scope::Scope;
pub(in crate::layer::rate_limiter) use scope::{Config, InFlightRamp};
pub(in crate::layer::rate_limiter) use slot::{Lost, Slot};

/// A place among the calls in flight, with its quota, for a call that has not started.
#[derive(Debug)]
pub(in crate::layer::rate_limiter) struct Admission {
    pub(in crate::layer::rate_limiter) place: Place,
    pub(in crate::layer::rate_limiter) estimate: TokenEstimate,
    pub(in crate::layer::rate_limiter) waited: Option<Box<Waited>>,
    pub(super) epoch: u64,
    /// The call that it is for, as it is known so far.
    pub(super) call: Started,
    /// The start was noted with the admission: it stands if the gate has not closed since.
    pub(super) noted: bool,
}

impl Admission {
    /// Of a call that started while none waited.
    pub(super) fn started(estimate: TokenEstimate, epoch: u64, start: &FastStart, now: Instant) -> Self {
        Self {
            place: Place::Head,
            estimate,
            waited: None,
            epoch,
            call: Started {
                call: StartedCall {
                    at: now,
                    due: now,
                    generation: start.generation,
                    ordinal: start.ordinal,
                    // Not known, and read by policies of the user's own alone.
                    in_flight: 1,
                    estimate: estimate.total(),
                },
                reserved: Reserved::default(),
                grant: 0,
                lead: None,
                shared: false,
            },
            noted: true,
        }
    }
}

/// A call that has started.
#[derive(Clone, Copy, Debug)]
pub(in crate::layer::rate_limiter) struct Started {
    pub(in crate::layer::rate_limiter) call: StartedCall,
    pub(super) reserved: Reserved,
    /// Its number among the grants, from 1; 0: it passed without the lock, and took from no quota.
    pub(super) grant: u64,
    /// It goes ahead of the others.
    pub(super) lead: Option<Purpose>,
    /// The shared store gave leave too.
    pub(super) shared: bool,
}

impl Started {
    /// The others may wait for it.
    pub(super) const fn is_lead(&self) -> bool {
        self.lead.is_some()
    }
}

pub(in crate::layer::rate_limiter) type Reply = Result<Admission, Refused>;

/// The consequences of the end of a call for the scope.
#[derive(Clone, Copy, Debug)]
struct Ended {
    /// It belongs to the current generation, and was not tolerated.
    current: bool,
    /// It closed the gate: the generation that begins with the pause.
    closes: Option<u64>,
    /// It latched the gate.
    latched: bool,
    /// Its hint, as far as it is believed.
    hint: Option<Duration>,
    /// Its item waits for the reset of a quota.
    awaits_reset: bool,
}

/// The consequences of the end of a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settled {
    pub(super) at: Instant,
    /// It belongs to the current generation, and was not tolerated.
    pub(super) current: bool,
    /// It closed the gate: the generation that begins with the pause.
    pub(super) closes: Option<u64>,
    /// Until when an item that was throttled, or rejected for overload, is held by the gate.
    pub(super) hold_until: Option<Instant>,
}

/// The request of a caller.
#[derive(Clone, Copy, Debug)]
pub(in crate::layer::rate_limiter) struct Ask {
    pub(in crate::layer::rate_limiter) estimate: TokenEstimate,
    pub(in crate::layer::rate_limiter) class: Priority,
    pub(in crate::layer::rate_limiter) place: Place,
    /// It was throttled, and this is how long its own hint holds it.
    pub(in crate::layer::rate_limiter) hold_until: Option<Instant>,
    /// It was the first call of its generation: the next time another item is.
    pub(in crate::layer::rate_limiter) at_tail: bool,
}

/// A call whose start is to be foretold.
#[derive(Clone, Copy, Debug)]
pub(in crate::layer::rate_limiter) struct Newcomer {
    pub(in crate::layer::rate_limiter) class: Priority,
    pub(in crate::layer::rate_limiter) estimate: TokenEstimate,
    /// None waits before it.
    pub(in crate::layer::rate_limiter) is_next: bool,
}

/// The place of a caller in the queue.
#[derive(Clone, Copy, Debug)]
pub(in crate::layer::rate_limiter) enum Place {
    /// It comes for the first time.
    New,
    /// It comes back with a grant that was overtaken by a pause, or that it took up too late.
    Kept(Ticket),
    /// As before, with a grant from when none waited: all others came after it.
    Head,
}

pub(in crate::layer::rate_limiter) enum Answer {
    Granted(Admission),
    Refused(Refused),
    /// Ask again then.
    Hold(Instant),
    Queued(Ticket, Arc<Slot>),
}

/// The reason for which the head of the queue waits, and the end of the wait if that is known.
#[derive(Clone, Copy, Debug)]
struct Hold {
    reason: crate::item::WaitReason,
    until: Option<Instant>,
}

/// The reason for which a call is not let through.
#[derive(Debug)]
enum Denied {
    Hold(Hold),
    /// It need not wait: a quota is used up.
    Refused(Refused),
}

pub(in crate::layer::rate_limiter) struct State {
    scope: Scope,
    queue: Queue,
    outbox: Outbox,
}

impl State {
    /// `current_runtime` says which runtime the caller is on.
    pub(in crate::layer::rate_limiter) fn new(
        config: Config,
        now: Instant,
        current_runtime: fn() -> Option<runtime::Id>,
    ) -> Self {
        Self {
            queue: Queue::new(config.strict_priority, current_runtime),
            scope: Scope::new(config, now),
            outbox: Outbox::default(),
        }
    }

    pub(in crate::layer::rate_limiter) fn snapshot(&self, now: Instant) -> RateLimiterSnapshot {
        RateLimiterSnapshot {
            waiting: self.queue.len(),
            waiting_for: self.queue.reason(),
            ..self.scope.snapshot(now)
        }
    }

    /// The provider's limit, as far as the pace has found it.
    pub(in crate::layer::rate_limiter) fn learned(&self) -> Option<Learned> {
        self.scope.learned()
    }

    /// Goes up whenever a grant that has not started becomes void.
    pub(super) const fn epoch(&self) -> u64 {
        self.scope.closure.epoch()
    }

    /// Returns `true` if the gate is closed or latched.
    pub(super) fn is_shut(&mut self, now: Instant, effects: &mut Effects) -> bool {
        self.scope.open_if_due(now, &mut effects.notices);
        self.scope.closure.is_shut()
    }

    /// When a new call of this class would start, as far as is known; or a call that is next. `None`: it would be refused.
    pub(super) fn next_start(
        &mut self,
        of: &Newcomer,
        now: Instant,
        effects: &mut Effects,
    ) -> Option<Instant> {
        if self.scope.refusal(&of.estimate).is_some() {
            return None;
        }
        self.scope.open_if_due(now, &mut effects.notices);
        let ahead = match of.is_next {
            true => Load::default(),
            false => self.queue.ahead_of(of.class),
        };
        let start = self.scope.forecast(ahead, &of.estimate, now);
        let store = self.outbox.hold(now).and_then(|hold| hold.until);
        Some(store.map_or(start, |store| store.max(start)))
    }

    /// Takes over what was counted without the lock.
    pub(super) fn count(&mut self, counts: Counts) {
        self.scope.count(counts);
    }

    /// Returns the counts to go on from, their generation and the end of the time in which calls may pass without the
    /// lock, if they may.
    pub(super) fn free_until(&self) -> Option<(Counts, u64, Instant)> {
        if !self.queue.is_idle() {
            return None;
        }
        let until = self.scope.free_until()?;
        Some((self.scope.counts(), self.scope.closure.generation(), until))
    }

    // --- the way of a call ----------------------------------------------------------------------------------

    pub(in crate::layer::rate_limiter) fn ask(
        &mut self,
        ask: &Ask,
        now: Instant,
        effects: &mut Effects,
    ) -> Answer {
        self.scope.open_if_due(now, &mut effects.notices);
        if let Some(refused) = self.scope.refusal(&ask.estimate) {
            return Answer::Refused(refused);
        }
        let opens = self.scope.closure.closed_until().unwrap_or(now);
        if let Some(until) = ask.hold_until.filter(|until| *until > opens) {
            return Answer::Hold(until);
        }
        // The others would starve large ones.
        let ahead = ask.hold_until.is_some() && (!ask.at_tail || self.scope.is_large(&ask.estimate));
        let ticket = match ask.place {
            Place::New => self.queue.ticket(ask.class, ahead),
            Place::Kept(ticket) => ticket,
            Place::Head => self.queue.ticket(ask.class, true),
        };
        let is_head = self.queue.is_head(ticket);
        let hold = if is_head && !self.scope.is_shared() {
            match self.admit(ticket, now, &ask.estimate, now, effects) {
                Ok(mut admission) => {
                    self.queue.note_grant(ask.class);
                    admission.noted = self.note_start(&mut admission.call, now, effects);
                    return Answer::Granted(admission);
                }
                Err(Denied::Hold(hold)) => Some(hold),
                Err(Denied::Refused(refused)) => return Answer::Refused(refused),
            }
        } else {
            None
        };
        let runtime = self.queue.need_pump(effects);
        if !self.queue.has_pump() {
            return Answer::Refused(Refused::Closed);
        }
        let slot = self.queue.insert(ticket, ask.estimate, now, runtime);
        if hold.is_some() {
            self.queue.hold(hold, now, effects);
        }
        if is_head && self.scope.is_shared() {
            effects.wake_pumps = true;
        }
        Answer::Queued(ticket, slot)
    }

    fn admit(
        &mut self,
        ticket: Ticket,
        now: Instant,
        estimate: &TokenEstimate,
        since: Instant,
        effects: &mut Effects,
    ) -> Result<Admission, Denied> {
        if let Some(hold) = self.outbox.hold(now) {
            // What closes the gate itself comes first.
            return Err(Denied::Hold(match self.scope.closure.hold() {
                Some(until) => Hold {
                    reason: crate::item::WaitReason::Cooldown,
                    until,
                },
                None => hold,
            }));
        }
        self.scope
            .admit(ticket, now, estimate, since, &mut effects.notices)
    }

    /// Lets through whom it can, in order, and notes what the next one waits for.
    pub(super) fn drain(&mut self, now: Instant, effects: &mut Effects) {
        let shared = self.scope.is_shared();
        if self.queue.is_idle() && self.queue.reason().is_none() && !shared {
            // No call waits, and no pump is to be woken.
            effects.notices.reports.clear();
            return;
        }
        self.scope.open_if_due(now, &mut effects.notices);
        self.queue.take_back(now, effects, &mut self.scope);
        if self.outbox.take(&mut effects.notices.reports, shared) {
            self.queue.need_pump(effects);
        }
        if shared {
            // Only a pump may ask the store.
            effects.wake_pumps |= self.queue.has_pump();
            return;
        }
        while let Some((ticket, estimate, since)) = self.queue.head() {
            let admitted = self
                .scope
                .admit(ticket, now, &estimate, since, &mut effects.notices);
            match admitted {
                Ok(admission) => self.queue.grant_head(admission, now, effects),
                Err(Denied::Hold(hold)) => return self.queue.hold(Some(hold), now, effects),
                Err(Denied::Refused(refused)) => self.queue.refuse_head(refused, effects),
            }
            if effects.replies.len() >= MOST_AT_ONCE {
                effects.more = true;
                return;
            }
        }
        self.queue.hold(None, now, effects);
    }

    /// A waiter has gone. `None` if it is not in the queue any more.
    pub(super) fn cancel(
        &mut self,
        ticket: Ticket,
        now: Instant,
        effects: &mut Effects,
    ) -> Option<Box<Waited>> {
        let waited = self.queue.remove(ticket, now)?;
        self.drain(now, effects);
        Some(waited)
    }

    /// The last look: the call starts now, unless the gate has closed since it was let through.
    pub(super) fn start(
        &mut self,
        admission: &Admission,
        now: Instant,
        effects: &mut Effects,
    ) -> Option<Started> {
        let mut started = admission.call;
        let starts = if admission.noted {
            // A while ago, with the admission.
            started.call.at = now;
            admission.epoch == self.epoch()
        } else {
            self.note_start(&mut started, now, effects)
        };
        if !starts {
            self.give_back(admission, now, effects);
        }
        starts.then_some(started)
    }

    /// Notes that the call starts now. Returns whether it may.
    fn note_start(&mut self, call: &mut Started, now: Instant, effects: &mut Effects) -> bool {
        let before = self.scope.pacing();
        let starts = self.scope.start(call, now, &mut effects.notices);
        if before != self.scope.pacing() {
            self.drain(now, effects);
        }
        starts
    }

    /// A grant that no call was made with: everything is back.
    pub(super) fn give_back(&mut self, admission: &Admission, now: Instant, effects: &mut Effects) {
        self.scope.give_back(admission, &mut effects.notices);
        self.drain(now, effects);
    }

    /// A call has ended.
    pub(super) fn end(
        &mut self,
        started: &Started,
        verdict: Option<&Verdict>,
        used: Used,
        now: Instant,
        effects: &mut Effects,
    ) -> Settled {
        let ended = self.scope.end(started, verdict, used, now, &mut effects.notices);
        effects.closed |= ended.closes.is_some() || ended.latched;
        if ended.latched {
            self.queue.refuse(|_| self.scope.latch(), effects);
        }
        self.drain(now, effects);
        Settled {
            at: now,
            current: ended.current,
            closes: ended.closes,
            hold_until: verdict.and_then(|verdict| self.hold_until(verdict, &ended, now)),
        }
    }

    /// Until when the gate holds the item of a call that was rejected.
    fn hold_until(&self, verdict: &Verdict, ended: &Ended, now: Instant) -> Option<Instant> {
        let own = now + ended.hint.unwrap_or_default();
        let until = self.scope.closure.closed_until().map(|closed| closed.max(own));
        if verdict.disposition == Disposition::Throttled || ended.awaits_reset {
            return Some(until.unwrap_or(own));
        }
        if !verdict.is_overload() {
            return None;
        }
        // Where there is room for it at once the item waits for its own backoff.
        let held = self.queue.len() > 0 || self.scope.is_full(now);
        until.or_else(|| held.then_some(own))
    }

    // --- by hand --------------------------------------------------------------------------------------------

    /// Opens by hand: a latch, a pause and a probe under way are forgotten.
    pub(super) fn reopen(&mut self, now: Instant, effects: &mut Effects) {
        self.scope.reopen(now, &mut effects.notices);
        self.outbox.forget_hold();
        effects.reopened = true;
        self.drain(now, effects);
    }

    /// Replaces the quotas, and looks again at what waits.
    pub(super) fn set_quotas(&mut self, quotas: &[Quota], now: Instant, effects: &mut Effects) {
        self.scope.set_quotas(quotas, now);
        self.queue
            .refuse(|estimate| self.scope.refusal(estimate), effects);
        self.drain(now, effects);
    }

    pub(in crate::layer::rate_limiter) fn quotas(&mut self, now: Instant) -> Vec<QuotaState> {
        self.scope.quotas(now)
    }

    /// The pace policy has answered, if `started` the start of a call of that generation.
    pub(super) fn set_pacing(
        &mut self,
        pacing: Pacing,
        started: Option<u64>,
        now: Instant,
        effects: &mut Effects,
    ) {
        let changed = self.scope.set_pacing(pacing, now);
        let noticed = started.is_some_and(|generation| self.scope.closure.noticed(generation));
        if changed || noticed {
            self.drain(now, effects);
        }
    }

    /// The pace policy has said at which pace the gate opens again after the pause of `generation`. Returns when.
    pub(super) fn finish_closing(
        &mut self,
        generation: u64,
        pacing: Pacing,
        now: Instant,
        effects: &mut Effects,
    ) -> Option<Instant> {
        self.scope
            .finish_closing(generation, pacing, &mut effects.notices);
        self.drain(now, effects);
        self.scope.closure.closed_until()
    }

    /// There is no start ramp from now on.
    pub(super) fn end_start_ramp(&mut self, now: Instant, effects: &mut Effects) {
        if self.scope.end_start_ramp() {
            self.drain(now, effects);
        }
    }

    // --- pumps ----------------------------------------------------------------------------------------------

    /// For a pump that has nothing to do: when to come back (`None`: when woken), or `Err` if it may end.
    pub(super) fn next_wake(&mut self, runtime: runtime::Id) -> Result<Option<Instant>, ()> {
        self.queue.next_wake(runtime, self.outbox.is_idle())
    }

    /// A pump has died with its runtime. Waiters that counted on it ask again, if they are still there to do so.
    pub(super) fn pump_died(&mut self, runtime: runtime::Id, now: Instant, effects: &mut Effects) {
        self.queue.pump_died(runtime, effects);
        self.drain(now, effects);
    }
}

/// The number of calls that are let through under one lock.
const MOST_AT_ONCE: usize = 256;

/// Returns `true` if the provider took the call, whatever came of it.
pub(super) fn is_answer(verdict: &Verdict) -> bool {
    let reached = verdict.kind.is_none_or(|kind| {
        !matches!(kind, ErrorKind::Connection | ErrorKind::QuotaExhausted)
            && kind.delivery() != Delivery::NotSent
    });
    reached && verdict.disposition != Disposition::Throttled && !verdict.is_overload()
}

/// The end of a call as a pace policy sees it.
pub(super) fn ended(verdict: &Verdict, closes: bool, at: Instant) -> EndedCall {
    EndedCall {
        at,
        accepted: is_answer(verdict),
        closes,
        disposition: verdict.disposition,
        overload: verdict.is_overload(),
        kind: verdict.kind,
        retry_after: verdict.retry_after,
        dimension: verdict.quota.and_then(|quota| quota.dimension),
        quota: verdict.quota,
    }
}
