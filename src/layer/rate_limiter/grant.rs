//! The steps of a call at the gate: [`Acquire`], [`Grant`], [`ActiveCall`]. Each cleans up when it is dropped.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project::pin_project;
use tokio::runtime::Handle;
use tokio::sync::futures::OwnedNotified;
use tokio::time::{Instant, Sleep};

use super::gate::{Admission, Answer, Ask, Gate, Lost, Place, Slot, Started, Ticket, Used, Waited};
use super::priority::Priority;
use crate::classify::Verdict;
use crate::error::Refused;
use crate::events::EventKind;
use crate::item::{CallGuard, CallRefused, HeldItem, Item, WaitReason};
use crate::request::TokenEstimate;
use crate::usage::TokenUsage;

/// The future of [`RateLimiter::acquire`](super::RateLimiter::acquire): waits for a grant.
///
/// # Cancel safety
/// Dropping it leaves the queue and the next call moves up; a grant that it had not received yet is returned.
#[must_use = "futures do nothing unless polled"]
pub struct Acquire {
    gate: Arc<Gate>,
    estimate: TokenEstimate,
    class: Priority,
    place: Place,
    hold_until: Option<Instant>,
    at_tail: bool,
    item: Option<Arc<Item>>,
    /// The pump that served it has died once.
    orphaned: bool,
    step: Step,
}

enum Step {
    Asking,
    /// Waits for the item's own hint to pass, before it joins the queue.
    Holding(Pin<Box<Holding>>),
    Queued(Ticket, Arc<Slot>),
    Done,
}

#[pin_project]
struct Holding {
    since: Instant,
    #[pin]
    sleep: Sleep,
    /// Notified when the gate is reopened, which also ends this wait.
    #[pin]
    reopened: OwnedNotified,
}

impl Holding {
    /// Ready when the wait is over; `true` if the gate was reopened.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<bool> {
        let this = self.project();
        if this.reopened.poll(cx).is_ready() {
            return Poll::Ready(true);
        }
        this.sleep.poll(cx).map(|()| false)
    }
}

impl Acquire {
    pub(super) const fn new(gate: Arc<Gate>, class: Priority, estimate: TokenEstimate) -> Self {
        Self {
            gate,
            estimate,
            class,
            place: Place::New,
            hold_until: None,
            at_tail: false,
            item: None,
            orphaned: false,
            step: Step::Asking,
        }
    }

    /// Comes back after a throttle: waits out its own hint before it joins the queue, at the head.
    pub fn held_until(mut self, until: Instant) -> Self {
        self.hold_until = Some(until);
        self
    }

    /// As [`held_until`](Self::held_until); the first call of a generation comes back at the tail, so that not one item
    /// alone is the first after every pause.
    pub(super) fn held(mut self, held: HeldItem) -> Self {
        self.at_tail = held.at_tail;
        self.held_until(held.until)
    }

    /// Writes its waits into the item's record.
    pub(super) fn for_item(mut self, item: Arc<Item>) -> Self {
        self.item = Some(item);
        self
    }

    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    fn granted(&mut self, admission: Admission) -> Grant {
        self.step = Step::Done;
        self.record(admission.waited.as_deref());
        Grant {
            gate: Arc::clone(&self.gate),
            class: self.class,
            admission,
            item: self.item.take(),
            open: true,
        }
    }

    fn record(&self, waited: Option<&Waited>) {
        if let Some(waited) = waited {
            waited.record(self.item.as_deref(), &self.gate.meter);
        }
    }

    fn record_hold(&self, since: Instant) {
        let now = Instant::now();
        if let Some(item) = &self.item {
            item.signals().add_wait(WaitReason::Cooldown, since, now);
        }
        let time = now.saturating_duration_since(since);
        self.gate.meter.waited(WaitReason::Cooldown, time);
    }

    fn ask(&self) -> Answer {
        let ask = Ask {
            estimate: self.estimate,
            class: self.class,
            place: self.place,
            hold_until: self.hold_until,
            at_tail: self.at_tail,
        };
        self.gate
            .with(|state, now, effects| state.ask(&ask, now, effects))
    }
}

impl Future for Acquire {
    type Output = Result<Grant, Refused>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Some(item) = &this.item
            && item.signals().stop_requested()
        {
            this.leave();
            return Poll::Ready(Err(CallRefused::Stopped.into()));
        }
        loop {
            match &mut this.step {
                Step::Asking => {
                    if matches!(this.place, Place::New)
                        && this.hold_until.is_none()
                        && let Some(admission) = this.gate.ask_at_once(this.estimate)
                    {
                        return Poll::Ready(Ok(this.granted(admission)));
                    }
                    // Created before the gate is checked, so that no reopening is missed.
                    let reopened = this
                        .hold_until
                        .map(|_| Arc::clone(&this.gate.reopened).notified_owned());
                    match (this.ask(), reopened) {
                        (Answer::Granted(admission), _) => return Poll::Ready(Ok(this.granted(admission))),
                        (Answer::Refused(refused), _) => {
                            this.step = Step::Done;
                            return Poll::Ready(Err(refused));
                        }
                        (Answer::Hold(until), Some(reopened)) => {
                            if Handle::try_current().is_err() {
                                this.step = Step::Done;
                                return Poll::Ready(Err(Refused::Closed));
                            }
                            this.step = Step::Holding(Box::pin(Holding {
                                since: Instant::now(),
                                sleep: tokio::time::sleep_until(until),
                                reopened,
                            }));
                        }
                        // Unreachable: only a call with a hint is held.
                        (Answer::Hold(_), None) => {}
                        (Answer::Queued(ticket, slot), _) => this.step = Step::Queued(ticket, slot),
                    }
                }
                Step::Holding(holding) => {
                    let Poll::Ready(reopened) = holding.as_mut().poll(cx) else {
                        this.wake_at_stop(cx);
                        return Poll::Pending;
                    };
                    let since = holding.since;
                    if reopened {
                        this.hold_until = None;
                    }
                    this.record_hold(since);
                    this.step = Step::Asking;
                }
                Step::Queued(ticket, slot) => match slot.poll(cx) {
                    Poll::Pending => {
                        this.wake_at_stop(cx);
                        return Poll::Pending;
                    }
                    Poll::Ready(Ok(Ok(admission))) => return Poll::Ready(Ok(this.granted(admission))),
                    Poll::Ready(Ok(Err(refused))) => {
                        this.step = Step::Done;
                        return Poll::Ready(Err(refused));
                    }
                    // The pump that served it has died with its runtime. Another one may serve it. If that one
                    // dies too, the runtime is shutting down or has no timer.
                    Poll::Ready(Err(Lost::Orphaned)) if this.orphaned => {
                        this.step = Step::Done;
                        return Poll::Ready(Err(Refused::Closed));
                    }
                    Poll::Ready(Err(lost)) => {
                        this.place = Place::Kept(*ticket);
                        this.step = Step::Asking;
                        match lost {
                            Lost::Orphaned => this.orphaned = true,
                            Lost::Late(waited) => this.record(waited.as_deref()),
                        }
                    }
                },
                Step::Done => panic!("`Acquire` polled after completion"),
            }
        }
    }
}

impl Acquire {
    fn wake_at_stop(&self, cx: &Context<'_>) {
        if let Some(item) = &self.item {
            item.signals().wake_at_stop(cx);
        }
    }

    /// Leaves the queue.
    fn leave(&mut self) {
        match std::mem::replace(&mut self.step, Step::Done) {
            Step::Queued(ticket, slot) => self.record(self.gate.cancel(ticket, &slot).as_deref()),
            Step::Holding(holding) => self.record_hold(holding.since),
            Step::Asking | Step::Done => {}
        }
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        self.leave();
    }
}

impl fmt::Debug for Acquire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acquire")
            .field("limiter", &self.gate.name)
            .field("estimate", &self.estimate.total())
            .finish_non_exhaustive()
    }
}

/// Permission to make one call, with its permit among the calls in flight and its share of every quota.
///
/// Dropping it before [`start`](Self::start) returns everything.
#[must_use = "dropping the grant returns it"]
pub struct Grant {
    gate: Arc<Gate>,
    class: Priority,
    admission: Admission,
    item: Option<Arc<Item>>,
    open: bool,
}

impl Grant {
    /// Starts the call, after a last check that the gate is still open. Use it right before the call is sent.
    ///
    /// # Errors
    /// If the gate was closed after the grant was given: a future that waits again, from the same place in the queue.
    pub fn start(self) -> Result<ActiveCall, Acquire> {
        self.start_at(Instant::now())
    }

    /// Like [`start`](Self::start), for a caller that has read the clock.
    pub(super) fn start_at(mut self, now: Instant) -> Result<ActiveCall, Acquire> {
        self.open = false;
        let Some(started) = self.gate.start(&self.admission, now) else {
            let mut again = Acquire::new(Arc::clone(&self.gate), self.class, self.admission.estimate);
            again.place = self.admission.place;
            again.item = self.item.take();
            return Err(again);
        };
        let call = ActiveCall {
            gate: Arc::clone(&self.gate),
            started,
            guard: None,
            open: true,
        };
        let item = self.item.as_deref();
        let estimate = started.call.estimate;
        self.gate
            .emit(started.call.at, item, || EventKind::QuotaAdmitted { estimate });
        // If a policy panics, `call` is dropped and counts as cancelled.
        self.gate.started(&started);
        Ok(call)
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        if self.open {
            self.gate.give_back(&self.admission);
        }
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant")
            .field("limiter", &self.gate.name)
            .field("estimate", &self.admission.estimate.total())
            .finish_non_exhaustive()
    }
}

/// A call that has started. Its request quota is spent.
///
/// If it is dropped without [`settle`](Self::settle), it counts as cancelled: the token quotas keep the estimate.
#[must_use = "dropping it counts the call as cancelled"]
pub struct ActiveCall {
    gate: Arc<Gate>,
    started: Started,
    /// Its entry in the item's record, which ends when this is dropped.
    guard: Option<CallGuard>,
    open: bool,
}

impl ActiveCall {
    /// Returns the time at which it started, the same as in the gate's events.
    pub fn started_at(&self) -> Instant {
        self.started.call.at
    }

    /// Ends the call: settles the token quotas and acts on the verdict.
    ///
    /// `used` tokens settle the reservation: less than the estimate is refunded, more leaves a debt, `None` (unknown)
    /// keeps the estimate. For a throttle, and for overload if the gate is closed or full, it returns the time until which the caller
    /// has to wait; pass it to [`Acquire::held_until`].
    ///
    /// # Panics
    /// If the user's own [`Pace`](super::Pace) panics; the call is settled before.
    pub fn settle(self, verdict: &Verdict, used: Option<u64>) -> Option<Instant> {
        self.end(verdict, used.into())
    }

    /// Like [`settle`](Self::settle), with input and output tokens apart: quotas that count only one of them settle by it. By a sum
    /// they are settled only as far as no part is above it.
    ///
    /// # Panics
    /// As [`settle`](Self::settle).
    pub fn settle_usage(self, verdict: &Verdict, used: Option<TokenUsage>) -> Option<Instant> {
        self.end(verdict, used.into())
    }

    fn end(mut self, verdict: &Verdict, used: Used) -> Option<Instant> {
        let item = self.guard.as_ref().map(|guard| &**guard.item());
        self.gate.end(&self.started, verdict, used, item, &mut self.open)
    }

    /// Takes the call back, because a stop came before it was sent.
    pub(super) fn retract(mut self) {
        self.open = false;
        self.gate.end_unjudged(&self.started, Used::Total(0), None);
    }

    /// The tokens reserved for it.
    pub fn estimate(&self) -> u64 {
        self.started.call.estimate
    }

    /// It was the first call of its generation.
    pub(super) const fn is_first(&self) -> bool {
        self.started.call.ordinal == 1
    }

    #[inline]
    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    pub(super) fn shared_gate(&self) -> Arc<Gate> {
        Arc::clone(&self.gate)
    }

    /// Called after each poll of the call, which may have found that the server is local.
    #[inline]
    pub(super) fn look_for_local_server(&self) {
        if let Some(guard) = &self.guard {
            self.gate.look_for_local_server(guard.item());
        }
    }

    pub(super) fn set_guard(&mut self, guard: Option<CallGuard>) {
        self.guard = guard;
    }

    #[inline]
    pub(super) const fn guard(&self) -> Option<&CallGuard> {
        self.guard.as_ref()
    }
}

impl Drop for ActiveCall {
    fn drop(&mut self) {
        if self.open {
            // A usage observed before the call was cut counts.
            let guard = self.guard.as_ref();
            let used = guard.and_then(CallGuard::observed).flatten();
            let item = guard.map(|guard| &**guard.item());
            self.gate.end_unjudged(&self.started, used.into(), item);
        }
    }
}

impl fmt::Debug for ActiveCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActiveCall")
            .field("limiter", &self.gate.name)
            .finish_non_exhaustive()
    }
}
