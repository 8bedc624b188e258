//! One gate: the shared object, and what is done outside its lock.
//!
//! # The way of one call
//! 1. [`Acquire`](super::Acquire) asks: `State::ask`, under the lock (or by the [`fast_path`] without it, while nothing limits the
//!    calls; then 8 follows).
//! 2. If no call waits, the [`Scope`](state) decides at once: open, below the cap, paced, and every quota has what it needs. It
//!    takes all of it and notes the start: a grant.
//! 3. Otherwise the call gets a ticket and a slot in the `Queue`, and its runtime a [`pump`].
//! 4. Whatever frees something (an end, a grant given back, a pump at its time) drains: it admits from the head on.
//! 5. A grant is put into the waiter's slot once the lock is released, and the waiter wakes. One that does not take it up
//!    within 1.5 s loses it to the next, and asks again from its place.
//! 6. `Grant::start` looks once more: if the gate has closed meanwhile, all is given back and the call waits again.
//! 7. A pace policy of the user's own is notified of the start, under no lock ([`policy`]); the built-in ones are part of the
//!    `Scope`.
//! 8. The call runs, without the gate.
//! 9. `ActiveCall::settle` ends it: `State::end` settles the tokens, counts, and asks the `Closure` whether the verdict
//!    closes or latches the gate.
//! 10. If it closes, the generation ends, grants that have not started are void, and the pause follows from hint and pace.
//! 11. When the pause is over, the next call or the pump opens the gate: for all, or for a probe alone.
//! 12. Events, logs, wake-ups and reports to a shared store are collected as `Effects` and done after the lock.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::{self, Handle};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::learned::{Learned, LearnedLimit};
use super::pace::{Pace, Pacing};
use super::quota::Quota;
use super::store::StateStore;
use crate::classify::Verdict;
use crate::error::Disposition;
use crate::events::{EventKind, Events};
use crate::item::Item;
use crate::request::TokenEstimate;
use crate::telemetry::Meter;

mod fast_path;
mod policy;
mod pump;
mod quota;
mod state;
mod waits;

use fast_path::FastPath;
use policy::{Policy, Question};
pub(super) use quota::{Limits, Used, WallClock};
pub(super) use state::{
    Admission, Answer, Ask, Config, InFlightRamp, Lost, Newcomer, Place, Slot, Started, State, Ticket,
};
use state::{Effects, Warning, ended, is_answer};
pub(super) use waits::Waited;

pub(super) const TARGET: &str = "llm_batch::rate_limiter";

/// A grant that is started within this time needs no second look at the clock and the state.
const FRESH: Duration = Duration::from_millis(1);

/// One gate.
pub(super) struct Gate {
    pub(super) name: Arc<str>,
    events: Option<Events>,
    pub(super) meter: Meter,
    pub(super) store: Option<Box<dyn StateStore>>,
    state: Mutex<State>,
    fast: FastPath,
    /// The state's epoch, for a look without the lock.
    epoch: AtomicU64,
    /// Names the gate in the notes of items that it holds, and is renewed when it is opened by hand.
    mark: AtomicU64,
    /// `None`: one of the built-in ones, which is part of the state.
    policy: Option<Policy>,
    /// The start ramp is the default, and no call went to a local server yet.
    default_ramp: AtomicBool,
    /// Wakes the pumps.
    pub(super) wake: Notify,
    /// Wakes those that wait for the gate to close.
    pub(super) closed: Arc<Notify>,
    /// Wakes those that wait out a hint of their own.
    pub(super) reopened: Arc<Notify>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code of others runs under these locks, and the gate's own does not panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number that no gate has used.
fn new_mark() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The runtime that the caller is on.
fn current_runtime() -> Option<runtime::Id> {
    Handle::try_current().ok().map(|handle| handle.id())
}

impl Gate {
    pub(super) fn new(
        name: Arc<str>,
        events: Option<Events>,
        store: Option<Box<dyn StateStore>>,
        config: Config,
        pace: Option<(Box<dyn Pace>, Pacing)>,
        default_ramp: bool,
        now: Instant,
    ) -> Self {
        // A policy of the user's own sees every call.
        let fast = FastPath::new(config.is_unlimited() && pace.is_none(), now);
        Self {
            meter: Meter::new(Some(&name)),
            name,
            events,
            store,
            state: Mutex::new(State::new(config, now, current_runtime)),
            fast,
            epoch: AtomicU64::new(0),
            mark: AtomicU64::new(new_mark()),
            policy: pace.map(|(pace, pacing)| Policy::new(pace, pacing)),
            wake: Notify::new(),
            default_ramp: AtomicBool::new(default_ramp),
            closed: Arc::default(),
            reopened: Arc::default(),
        }
    }

    /// Works on the state under the lock, with the time taken there. What follows from it is left to
    /// [`apply`](Self::apply), once no lock is held.
    fn locked<R>(
        &self,
        effects: &mut Effects,
        work: impl FnOnce(&mut State, Instant, &mut Effects) -> R,
    ) -> R {
        let mut state = lock(&self.state);
        if let Some(counts) = self.fast.close() {
            state.count(counts);
        }
        let now = Instant::now();
        let result = work(&mut state, now, effects);
        if self.epoch.load(Ordering::Relaxed) != state.epoch() {
            self.epoch.store(state.epoch(), Ordering::Release);
        }
        if self.fast.is_usable()
            && let Some((counts, generation, until)) = state.free_until()
        {
            self.fast.open(counts, generation, until);
        }
        result
    }

    /// Works on the state under the lock, and then does what follows from it.
    pub(super) fn with<R>(self: &Arc<Self>, work: impl FnOnce(&mut State, Instant, &mut Effects) -> R) -> R {
        let mut effects = Effects::default();
        let result = self.locked(&mut effects, work);
        self.apply(effects);
        result
    }

    #[inline]
    fn apply(self: &Arc<Self>, effects: Effects) {
        if !effects.is_empty() {
            self.apply_all(effects);
        }
    }

    #[cold]
    fn apply_all(self: &Arc<Self>, mut effects: Effects) {
        loop {
            for (at, event) in effects.notices.events {
                self.emit(at, None, || event);
            }
            for warning in effects.notices.warnings {
                self.warn(&warning);
            }
            if effects.spawn_pump {
                pump::spawn(self);
            }
            if effects.wake_pumps {
                self.wake.notify_waiters();
            }
            if effects.closed {
                self.closed.notify_waiters();
            }
            if effects.reopened {
                self.mark.store(new_mark(), Ordering::Release);
                self.reopened.notify_waiters();
            }
            for slot in effects.orphans {
                slot.orphan();
            }
            let mut untaken = Vec::new();
            for (slot, reply) in effects.replies {
                untaken.extend(slot.reply(reply));
            }
            if !effects.more && untaken.is_empty() {
                return;
            }
            effects = Effects::default();
            self.locked(&mut effects, |state, now, effects| {
                for admission in untaken {
                    state.give_back(&admission, now, effects);
                }
                state.drain(now, effects);
            });
        }
    }

    #[inline]
    pub(super) const fn has_events(&self) -> bool {
        self.events.is_some()
    }

    pub(super) fn emit(&self, at: Instant, item: Option<&Item>, event: impl FnOnce() -> EventKind) {
        if let Some(events) = &self.events {
            events.emit_by(Some(&self.name), at, item, event);
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
            Warning::Unbelievable { used, charged } => tracing::warn!(
                target: TARGET,
                limiter,
                used,
                charged,
                "a call reported {used} tokens; the token quota is charged {charged}, ten times what it gives per period (logged once)"
            ),
            Warning::Exhausted { quota, resets_in } => tracing::warn!(
                target: TARGET,
                limiter,
                "the quota of {quota} is used up; it resets in {resets_in:?}"
            ),
            Warning::Unmeasured => tracing::warn!(
                target: TARGET,
                limiter,
                "the token quota has no effect: a call has neither an estimate nor a known usage; \
                 set estimate_with or usage_with on the rate limiter's layer (logged once)"
            ),
        }
    }

    // --- the way of a call ----------------------------------------------------------------------------------

    /// A waiter goes, from wherever it is. Returns what it waited for.
    pub(super) fn cancel(self: &Arc<Self>, ticket: Ticket, slot: &Slot) -> Option<Box<Waited>> {
        let waited = self.with(|state, now, effects| state.cancel(ticket, now, effects));
        if waited.is_some() {
            return waited;
        }
        // Not in the queue: the reply has arrived, or is on its way and will find the waiter gone.
        let admission = slot.leave()?.ok()?;
        self.give_back(&admission);
        admission.waited
    }

    pub(super) fn give_back(self: &Arc<Self>, admission: &Admission) {
        self.with(|state, now, effects| state.give_back(admission, now, effects));
    }

    /// A caller asks for the first time: without the lock, while nothing limits the calls.
    pub(super) fn ask_at_once(self: &Arc<Self>, estimate: TokenEstimate) -> Option<Admission> {
        let epoch = self.epoch.load(Ordering::Acquire);
        let (start, now) = self.fast.start(Instant::now)?;
        let admission = Admission::started(estimate, epoch, &start, now);
        if self.epoch.load(Ordering::Acquire) == epoch {
            return Some(admission);
        }
        // The gate has closed meanwhile, and it is not known in which generation it was counted.
        self.give_back(&admission);
        None
    }

    /// The last look before a call.
    pub(super) fn start(self: &Arc<Self>, admission: &Admission, now: Instant) -> Option<Started> {
        let mut started = admission.call;
        if admission.noted
            && self.epoch.load(Ordering::Acquire) == admission.epoch
            && now.saturating_duration_since(started.call.at) < FRESH
        {
            // Let through a moment ago, and the gate has not closed since.
            started.call.at = now;
            return Some(started);
        }
        self.with(|state, now, effects| state.start(admission, now, effects))
    }

    /// A call has started.
    pub(super) fn started(self: &Arc<Self>, started: &Started) {
        self.consult(|| Question::Start(started.call, started.is_lead()));
    }

    /// A call has ended without a verdict.
    pub(super) fn end_unjudged(self: &Arc<Self>, started: &Started, used: Used, item: Option<&Item>) {
        let settled = self.with(|state, now, effects| state.end(started, None, used, now, effects));
        self.emit_settled(started, used, settled.at, item);
    }

    /// A call has ended; `open` becomes false with it, before anything can panic. Returns until when the gate holds its item.
    pub(super) fn end(
        self: &Arc<Self>,
        started: &Started,
        verdict: &Verdict,
        used: Used,
        item: Option<&Item>,
        open: &mut bool,
    ) -> Option<Instant> {
        let plain =
            is_answer(verdict) && verdict.disposition != Disposition::ScopeFatal && !started.is_lead();
        if plain && self.fast.end() {
            *open = false;
            if self.events.is_some() {
                self.emit_settled(started, used, Instant::now(), item);
            }
            return None;
        }
        let mut effects = Effects::default();
        let mut settled = self.locked(&mut effects, |state, now, effects| {
            *open = false;
            state.end(started, Some(verdict), used, now, effects)
        });
        self.emit_settled(started, used, settled.at, item);
        if verdict.disposition == Disposition::Throttled {
            self.emit(settled.at, item, || EventKind::Throttled {
                retry_after: verdict.retry_after,
                dimension: verdict.quota.and_then(|quota| quota.dimension),
                current: settled.current,
            });
        }
        self.apply(effects);
        let closed_until = self.consult(|| {
            let end = ended(verdict, settled.closes.is_some(), settled.at);
            match settled.closes {
                Some(generation) => Question::Close(started.call, end, generation),
                None => Question::End(started.call, end),
            }
        });
        if settled.closes.is_some() {
            settled.hold_until = settled.hold_until.max(closed_until);
        }
        settled.hold_until
    }

    fn emit_settled(&self, started: &Started, used: Used, at: Instant, item: Option<&Item>) {
        self.emit(at, item, || EventKind::QuotaSettled {
            estimate: started.call.estimate,
            used: used.total(),
        });
    }

    // --- by hand --------------------------------------------------------------------------------------------

    pub(super) fn set_quotas(self: &Arc<Self>, quotas: &[Quota]) {
        self.with(|state, now, effects| state.set_quotas(quotas, now, effects));
    }

    pub(super) fn reopen(self: &Arc<Self>) {
        self.with(State::reopen);
    }

    /// A call of this item is under way: one to a local server ends the default start ramp.
    #[inline]
    pub(super) fn look_for_local_server(self: &Arc<Self>, item: &Item) {
        if self.default_ramp.load(Ordering::Relaxed)
            && item.signals().asks_local_server()
            && self.default_ramp.swap(false, Ordering::Relaxed)
        {
            self.with(State::end_start_ramp);
        }
    }

    /// When a new call would start; `None` if it would be refused.
    pub(super) fn next_start(self: &Arc<Self>, of: &Newcomer) -> Option<Instant> {
        self.with(|state, now, effects| state.next_start(of, now, effects))
    }

    /// The provider's limit, as far as the pace has found it.
    pub(super) fn learned(self: &Arc<Self>) -> Option<LearnedLimit> {
        self.with(|state, _, _| state.learned()).map(Learned::dated)
    }

    /// Returns `true` if the gate is closed or latched.
    pub(super) fn is_shut(self: &Arc<Self>) -> bool {
        self.with(State::is_shut)
    }

    /// Names the gate in the notes of items that it holds, up to the next time it is opened by hand.
    pub(super) fn mark(&self) -> u64 {
        self.mark.load(Ordering::Acquire)
    }
}
