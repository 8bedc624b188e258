//! Who may start: asking, waiting, letting through.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{self, Handle};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Admission, Answer, Ask, Effect, Effects, Hold, Probe, Started, State, Ticket, Waiter};
use crate::item::WaitReason;
use crate::layer::rate_limiter::error::Refused;
use crate::layer::rate_limiter::gate::quota::Bucket;
use crate::layer::rate_limiter::gate::waits::Waited;
use crate::layer::rate_limiter::pace::{Ramp, StartedCall};
use crate::layer::rate_limiter::store::StoreReport;

/// A start this late is still charged at its due instant, or the granularity of timers would eat the quota.
const LATE: Duration = Duration::from_millis(5);

/// An estimate above this many times the mean rejoins at the head.
const LARGE: f64 = 4.0;

/// How many are let through under one lock.
const MOST_AT_ONCE: usize = 256;

impl State {
    pub(crate) fn ask(&mut self, ask: &Ask, now: Instant, effects: &mut Effects) -> Answer {
        if let Some(refused) = self.refusal(ask.estimate) {
            return Answer::Refused(refused);
        }
        self.open_if_due(now, effects);
        let opens = self.closed.as_ref().map_or(now, |closed| closed.until);
        if let Some(until) = ask.hold_until.filter(|until| *until > opens) {
            return Answer::Hold(until);
        }
        let ticket = ask.ticket.unwrap_or_else(|| self.ticket(ask));
        // Whoever sorts before the head is the head.
        let is_head = self
            .queue
            .first_key_value()
            .is_none_or(|(head, _)| ticket < *head);
        let hold = if is_head && !self.config.shared {
            match self.admit(ticket, now, ask.estimate, now) {
                Ok(admission) => return Answer::Granted(admission),
                Err(hold) => Some(hold),
            }
        } else {
            None
        };
        let runtime = self.need_pump(effects);
        if self.pumps.is_empty() {
            return Answer::Refused(Refused::Closed);
        }
        if hold.is_some() {
            self.hold(hold, now, effects);
        }
        let (reply, receiver) = oneshot::channel();
        let waiter = Waiter {
            estimate: ask.estimate,
            since: now,
            mark: self.timeline.totals(now),
            runtime,
            reply,
        };
        self.queue.insert(ticket, waiter);
        if is_head && self.config.shared {
            effects.wake_pumps();
        }
        Answer::Queued(ticket, receiver)
    }

    /// Sees to it that the current runtime has a pump. Returns which one it is, if there is one.
    pub(super) fn need_pump(&mut self, effects: &mut Effects) -> Option<runtime::Id> {
        let runtime = Handle::try_current().ok()?.id();
        if !self.pumps.contains(&runtime) {
            self.pumps.push(runtime);
            effects.list.push(Effect::SpawnPump);
        }
        Some(runtime)
    }

    pub(super) fn refusal(&self, estimate: u64) -> Option<Refused> {
        if let Some((kind, message)) = &self.latched {
            return Some(Refused::Latched {
                kind: *kind,
                message: Arc::clone(message),
            });
        }
        let limit = u64::from(self.config.tokens.as_ref()?.limit());
        (estimate > limit).then_some(Refused::TooLarge { estimate, limit })
    }

    fn ticket(&mut self, ask: &Ask) -> Ticket {
        let number = self.next_ticket;
        self.next_ticket += 1;
        let mean = self.estimated as f64 / self.granted.max(1) as f64;
        let large = ask.hold_until.is_some() && ask.estimate as f64 > LARGE * mean;
        Ticket { tail: !large, number }
    }

    /// A waiter has gone. `None` if it is not in the queue any more.
    pub(crate) fn cancel(
        &mut self,
        ticket: Ticket,
        now: Instant,
        effects: &mut Effects,
    ) -> Option<Box<Waited>> {
        let waiter = self.queue.remove(&ticket)?;
        let waited = self.timeline.waited(waiter.since, &waiter.mark, now);
        self.drain(now, effects);
        Some(waited)
    }

    /// Lets through whom it can, in order, and notes what the next one waits for.
    pub(crate) fn drain(&mut self, now: Instant, effects: &mut Effects) {
        self.open_if_due(now, effects);
        if self.config.shared {
            // Only a pump may ask the store.
            if !self.pumps.is_empty() {
                effects.wake_pumps();
            }
            return;
        }
        while let Some((&ticket, waiter)) = self.queue.first_key_value() {
            let (estimate, since) = (waiter.estimate, waiter.since);
            match self.admit(ticket, now, estimate, since) {
                Ok(mut admission) => {
                    if let Some((_, waiter)) = self.queue.pop_first() {
                        admission.waited = Some(self.timeline.waited(waiter.since, &waiter.mark, now));
                        effects.reply(waiter.reply, Ok(admission));
                    }
                }
                Err(hold) => return self.hold(Some(hold), now, effects),
            }
            if effects.list.len() >= MOST_AT_ONCE {
                effects.list.push(Effect::More);
                return;
            }
        }
        self.hold(None, now, effects);
    }

    /// All conditions at once: open, below the cap, paced, both quotas.
    pub(super) fn admit(
        &mut self,
        ticket: Ticket,
        now: Instant,
        estimate: u64,
        since: Instant,
    ) -> Result<Admission, Hold> {
        if let Some(closed) = &self.closed {
            return Err(Hold {
                reason: WaitReason::Cooldown,
                until: Some(closed.until),
            });
        }
        if self.probe == Probe::UnderWay {
            return Err(Hold {
                reason: WaitReason::Cooldown,
                until: None,
            });
        }
        if let Some((reason, until)) = self.store_hold.filter(|(_, until)| *until > now) {
            return Err(Hold {
                reason,
                until: Some(until),
            });
        }
        if let Some((cap, rises)) = self.cap(now)
            && self.in_flight >= cap
        {
            return Err(Hold {
                reason: WaitReason::InFlight,
                until: rises,
            });
        }
        let due = self.take_quota(now, estimate, since)?;
        self.pace.start(due);
        if let Some(ramp) = &mut self.ramp {
            ramp.start(due);
            if ramp.is_over() {
                self.ramp = None;
            }
        }
        self.first_start.get_or_insert(now);
        let probe = self.probe == Probe::Due;
        if probe {
            self.probe = Probe::UnderWay;
        }
        self.in_flight += 1;
        self.granted += 1;
        self.estimated = self.estimated.saturating_add(estimate);
        Ok(Admission {
            ticket,
            estimate,
            waited: None,
            due,
            generation: self.generation,
            probe,
            shared: false,
        })
    }

    /// Takes from both buckets at the instant at which the call was due, which is now or a little earlier; or says
    /// when and for what it has to wait.
    fn take_quota(&self, now: Instant, estimate: u64, since: Instant) -> Result<Instant, Hold> {
        let mut due = now
            .checked_sub(LATE)
            .unwrap_or(now)
            .max(since)
            .max(self.opened_at)
            .min(now);
        let mut reason = WaitReason::Pace;
        for paced in [self.ramp.as_ref().and_then(Ramp::due), self.pace.due()] {
            due = paced.map_or(due, |paced| paced.max(due));
        }
        let (requests, tokens) = (self.config.requests.as_ref(), self.config.tokens.as_ref());
        let saved = (requests.map(Bucket::save), tokens.map(Bucket::save));
        loop {
            let from_requests = requests.map_or(Ok(()), |bucket| bucket.take(1, due));
            let from_tokens = tokens.map_or(Ok(()), |bucket| bucket.take(estimate, due));
            if from_requests.is_ok() && from_tokens.is_ok() && due <= now {
                return Ok(due);
            }
            if let (Some(bucket), Some(saved)) = (requests, saved.0) {
                bucket.restore(saved);
            }
            if let (Some(bucket), Some(saved)) = (tokens, saved.1) {
                bucket.restore(saved);
            }
            let before = due;
            for (taken, what) in [
                (from_requests, WaitReason::Requests),
                (from_tokens, WaitReason::Tokens),
            ] {
                if let Err(ready) = taken
                    && ready > due
                {
                    (due, reason) = (ready, what);
                }
            }
            if due == before || due > now {
                return Err(Hold {
                    reason,
                    until: Some(due),
                });
            }
        }
    }

    /// The cap on calls in flight, and when it rises by itself.
    pub(super) fn cap(&self, now: Instant) -> Option<(usize, Option<Instant>)> {
        let fixed = [self.config.max_in_flight, self.pace.pacing().max_in_flight()]
            .into_iter()
            .flatten()
            .min();
        let Some(ramp) = self.config.in_flight_ramp else {
            return fixed.map(|cap| (cap, None));
        };
        let began = self.first_start.unwrap_or(now);
        let steps = now.saturating_duration_since(began).as_nanos() / ramp.every.as_nanos().max(1);
        let steps = u32::try_from(steps).unwrap_or(u32::MAX);
        let ramped = ramp
            .initial
            .saturating_add(ramp.step.saturating_mul(steps as usize));
        match fixed {
            Some(cap) if cap <= ramped => Some((cap, None)),
            _ => {
                let rises = ramp
                    .every
                    .checked_mul(steps.saturating_add(1))
                    .and_then(|time| began.checked_add(time));
                Some((ramped, rises))
            }
        }
    }

    pub(super) fn hold(&mut self, hold: Option<Hold>, now: Instant, effects: &mut Effects) {
        let anybody = self.timeline.reason().is_some();
        self.timeline.held(hold.map(|hold| hold.reason), now);
        let until = hold.and_then(|hold| hold.until);
        let earlier = match (self.wake_at, until) {
            (Some(old), Some(new)) => new < old,
            (None, Some(_)) => true,
            (_, None) => false,
        };
        // With nobody left the pumps end.
        if earlier || (hold.is_none() && anybody) {
            effects.wake_pumps();
        }
        self.wake_at = until;
    }

    /// The last look: the call starts now, unless the gate has closed since it was let through.
    pub(crate) fn start(
        &mut self,
        admission: &Admission,
        now: Instant,
        effects: &mut Effects,
    ) -> Option<Started> {
        if admission.generation != self.generation || self.latched.is_some() {
            self.give_back(admission, now, effects);
            return None;
        }
        self.starts += 1;
        Some(Started {
            call: StartedCall {
                at: now,
                due: admission.due,
                generation: self.generation,
                ordinal: self.starts,
                in_flight: self.in_flight,
                estimate: admission.estimate,
            },
            probe: admission.probe,
            shared: admission.shared,
        })
    }

    /// A grant that no call was made with: both quotas are back.
    pub(crate) fn give_back(&mut self, admission: &Admission, now: Instant, effects: &mut Effects) {
        self.in_flight -= 1;
        self.returned += 1;
        if let Some(bucket) = &self.config.requests {
            bucket.give_back(1);
        }
        if let Some(bucket) = &self.config.tokens {
            bucket.give_back(admission.estimate);
        }
        if admission.probe && admission.generation == self.generation {
            self.probe = Probe::Due;
        }
        if admission.shared {
            let reserved = admission.estimate;
            self.report(StoreReport::Returned { reserved }, effects);
        }
        self.drain(now, effects);
    }

    /// For a pump that has nothing to do: when to come back (`None`: when woken), or `Err` if it may end.
    pub(crate) fn next_wake(&mut self, runtime: runtime::Id) -> Result<Option<Instant>, ()> {
        if self.queue.is_empty() && self.reports.is_empty() && !self.store_busy {
            self.pumps.retain(|pump| *pump != runtime);
            return Err(());
        }
        Ok(self.wake_at)
    }

    /// A pump has died with its runtime. Waiters that counted on it ask again, if they are still there to do so.
    pub(crate) fn pump_died(&mut self, runtime: runtime::Id, now: Instant, effects: &mut Effects) {
        self.pumps.retain(|pump| *pump != runtime);
        let last = self.pumps.is_empty();
        let orphaned = |waiter: &Waiter| waiter.runtime.map_or(last, |id| id == runtime);
        let tickets: Vec<Ticket> = self
            .queue
            .iter()
            .filter_map(|(ticket, waiter)| orphaned(waiter).then_some(*ticket))
            .collect();
        for ticket in tickets {
            let waiter = self.queue.remove(&ticket);
            effects
                .list
                .extend(waiter.map(|waiter| Effect::Orphan(waiter.reply)));
        }
        self.drain(now, effects);
    }
}
