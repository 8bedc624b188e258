//! The shared object: the state under its lock, the pace policy under another, and what is done outside of both.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::pace::{EndedCall, Pace, Pacing};
use super::store::StateStore;
use crate::classify::{Disposition, Verdict};
use crate::events::{EventKind, Events};
use crate::item::Item;
use crate::telemetry::Meter;

mod pump;
mod quota;
mod state;
mod waits;

pub(super) use quota::Bucket;
pub(super) use state::{Admission, Answer, Ask, Config, InFlightRamp, Reply, Started, State, Ticket};
use state::{Closing, Effect, Effects, Settled, Warning, is_answer};
use waits::Waited;

pub(super) const TARGET: &str = "llm_batch::rate_limiter";

/// One gate.
pub(super) struct Gate {
    pub(super) name: Arc<str>,
    events: Option<Events>,
    pub(super) meter: Meter,
    pub(super) store: Option<Box<dyn StateStore>>,
    state: Mutex<State>,
    /// Never taken while the state is locked: the policy is user code. Whoever closes or reopens the gate holds it.
    pace: Mutex<Policy>,
    /// Wakes the pumps.
    pub(super) wake: Notify,
}

struct Policy {
    pace: Box<dyn Pace>,
    /// What the state was told last.
    pacing: Pacing,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic of a pace policy must not take the gate down; the state's own code does not panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gate {
    pub(super) fn new(
        name: Arc<str>,
        events: Option<Events>,
        store: Option<Box<dyn StateStore>>,
        state: State,
        pace: Box<dyn Pace>,
        pacing: Pacing,
    ) -> Self {
        Self {
            meter: Meter::new(Some(&name)),
            name,
            events,
            store,
            state: Mutex::new(state),
            pace: Mutex::new(Policy { pace, pacing }),
            wake: Notify::new(),
        }
    }

    /// Works on the state under the lock, with the time taken there. What follows from it is left to
    /// [`apply`](Self::apply), once no lock is held.
    fn locked<R>(&self, work: impl FnOnce(&mut State, Instant, &mut Effects) -> R) -> (R, Effects) {
        let mut effects = Effects::default();
        let mut state = lock(&self.state);
        let now = Instant::now();
        let result = work(&mut state, now, &mut effects);
        (result, effects)
    }

    /// Works on the state under the lock, and then does what follows from it.
    pub(super) fn with<R>(self: &Arc<Self>, work: impl FnOnce(&mut State, Instant, &mut Effects) -> R) -> R {
        let (result, effects) = self.locked(work);
        self.apply(effects);
        result
    }

    fn apply(self: &Arc<Self>, mut effects: Effects) {
        while !effects.list.is_empty() {
            let mut more = false;
            let mut untaken = Vec::new();
            for effect in effects.list {
                match effect {
                    Effect::Reply(reply, message) => {
                        // It fails if the waiter has gone in the meantime.
                        if let Err(Ok(admission)) = reply.send(message) {
                            untaken.push(admission);
                        }
                    }
                    Effect::Event(at, event) => self.emit(at, None, || event),
                    Effect::Warn(warning) => self.warn(&warning),
                    Effect::WakePumps => self.wake.notify_waiters(),
                    Effect::SpawnPump => pump::spawn(self),
                    Effect::More => more = true,
                    Effect::Orphan(reply) => drop(reply),
                }
            }
            if !more && untaken.is_empty() {
                return;
            }
            ((), effects) = self.locked(|state, now, effects| {
                for admission in untaken {
                    state.give_back(&admission, now, effects);
                }
                state.drain(now, effects);
            });
        }
    }

    pub(super) fn emit(&self, at: Instant, item: Option<&Item>, event: impl FnOnce() -> EventKind) {
        if let Some(events) = &self.events {
            events.emit_at(at, item, event);
        }
    }

    fn warn(&self, warning: &Warning) {
        let limiter = &*self.name;
        match warning {
            Warning::Closed {
                kind,
                pause,
                generation,
            } => {
                self.meter.cooldown_started(*pause);
                tracing::warn!(
                    target: TARGET,
                    limiter,
                    kind = kind.as_str(),
                    generation,
                    "calls pause for {pause:?} ({kind})"
                );
            }
            Warning::Latched { kind } => tracing::warn!(
                target: TARGET,
                limiter,
                kind = kind.as_str(),
                "no call will be sent until the rate limiter is reopened ({kind})"
            ),
        }
    }

    /// A waiter goes, from wherever it is. Returns what it waited for.
    pub(super) fn cancel(
        self: &Arc<Self>,
        ticket: Ticket,
        mut receiver: oneshot::Receiver<Reply>,
    ) -> Option<Box<Waited>> {
        let waited = self.with(|state, now, effects| state.cancel(ticket, now, effects));
        if waited.is_some() {
            return waited;
        }
        // Not in the queue: the reply has arrived, or it is on its way and will find nobody.
        receiver.close();
        let admission = receiver.try_recv().ok()?.ok()?;
        self.give_back(&admission);
        admission.waited
    }

    pub(super) fn give_back(self: &Arc<Self>, admission: &Admission) {
        self.with(|state, now, effects| state.give_back(admission, now, effects));
    }

    /// The last look before a call.
    pub(super) fn start(self: &Arc<Self>, admission: &Admission) -> Option<Started> {
        self.with(|state, now, effects| state.start(admission, now, effects))
    }

    /// Tells the policy of a call that has started.
    pub(super) fn started(self: &Arc<Self>, started: &Started) {
        let effects = self.ask(&mut lock(&self.pace), |pace| pace.on_start(&started.call));
        self.apply(effects);
    }

    /// Asks the policy and tells the state what it said, if that is new.
    fn ask(&self, policy: &mut Policy, question: impl FnOnce(&mut dyn Pace) -> Pacing) -> Effects {
        let pacing = question(&mut *policy.pace);
        if policy.pacing == pacing {
            return Effects::default();
        }
        policy.pacing = pacing;
        self.locked(|state, now, effects| state.set_pacing(pacing, now, effects))
            .1
    }

    /// A call has ended without a verdict.
    pub(super) fn end_unjudged(self: &Arc<Self>, started: &Started, used: Option<u64>, item: Option<&Item>) {
        let settled = self.with(|state, now, effects| state.end(started, None, used, None, now, effects));
        self.emit_settled(started, used, settled.at, item);
    }

    /// A call has ended; `open` becomes false with it, before anything can panic.
    pub(super) fn end(
        self: &Arc<Self>,
        started: &Started,
        verdict: &Verdict,
        used: Option<u64>,
        item: Option<&Item>,
        open: &mut bool,
    ) -> Settled {
        // Held from the decision to close to the closing, so that a generation closes once and by one rate.
        let mut policy = (!is_answer(verdict)).then(|| lock(&self.pace));
        let closing = policy
            .as_mut()
            .and_then(|policy| self.closing(policy, started, verdict));
        let (settled, effects) = self.locked(|state, now, effects| {
            *open = false;
            state.end(started, Some(verdict), used, closing, now, effects)
        });
        drop(policy);
        self.emit_settled(started, used, settled.at, item);
        if verdict.disposition == Disposition::Throttled {
            self.emit(settled.at, item, || EventKind::Throttled {
                retry_after: verdict.retry_after,
                dimension: verdict.quota.and_then(|quota| quota.dimension),
                current: settled.current,
            });
        }
        self.apply(effects);
        if closing.is_none() {
            let end = ended(verdict, false, settled.at);
            let effects = self.ask(&mut lock(&self.pace), |pace| pace.on_end(&started.call, &end));
            self.apply(effects);
        }
        settled
    }

    fn emit_settled(&self, started: &Started, used: Option<u64>, at: Instant, item: Option<&Item>) {
        self.emit(at, item, || EventKind::QuotaSettled {
            estimate: started.call.estimate,
            used,
        });
    }

    /// Whether a verdict closes the gate, and the pace at which it will open again.
    fn closing(
        &self,
        policy: &mut Policy,
        started: &Started,
        verdict: &Verdict,
    ) -> Option<(Closing, Pacing)> {
        let ((closing, at), _) = self.locked(|state, now, _| (state.closing(started, verdict), now));
        let closing = closing?;
        policy.pacing = policy.pace.on_end(&started.call, &ended(verdict, true, at));
        Some((closing, policy.pacing))
    }

    pub(super) fn reopen(self: &Arc<Self>) {
        let policy = lock(&self.pace);
        let ((), effects) = self.locked(State::reopen);
        drop(policy);
        self.apply(effects);
    }
}

fn ended(verdict: &Verdict, closes: bool, at: Instant) -> EndedCall {
    EndedCall {
        at,
        accepted: is_answer(verdict),
        closes,
        kind: verdict.kind,
        retry_after: verdict.retry_after,
        dimension: verdict.quota.and_then(|quota| quota.dimension),
        quota: verdict.quota,
    }
}
