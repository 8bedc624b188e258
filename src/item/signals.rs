//! The notes through which layers and the driver cooperate without depending on each other.

use std::sync::atomic::Ordering;
use std::task::Context;

use tokio::time::Instant;

use super::{HandedOn, Item, WaitReason};
use crate::error::{CallRefused, LlmError};
use crate::layer::rate_limiter::LearnedLimit;

/// The notes that layers, retry policies and the driver leave for each other about one item; returned by [`Item::signals`].
///
/// A view of the item: copying it costs nothing. The table in the [module](crate::item) lists the writers and readers of each
/// note.
#[derive(Clone, Copy, Debug)]
pub struct Signals<'a> {
    item: &'a Item,
}

/// A gate holds the next call of an item.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeldItem {
    /// The gate's mark; 0: of any gate.
    pub(crate) gate: u64,
    pub(crate) until: Instant,
    /// The call comes back at the tail of the queue.
    pub(crate) at_tail: bool,
    /// The gate stays open for others.
    pub(crate) gate_is_open: bool,
}

impl Item {
    /// For authors of layers: the notes that layers and the driver leave for each other.
    #[inline]
    pub const fn signals(&self) -> Signals<'_> {
        Signals { item: self }
    }
}

impl Signals<'_> {
    /// For retry policies: sets the item's current attempt.
    pub fn set_attempt(self, attempt: u32) {
        self.item.record().report.attempts = attempt;
    }

    /// For timeout layers: sets the item's deadline. The earliest one counts. No call begins after it, so the
    /// layer must end the item then.
    pub fn limit_deadline(self, deadline: Instant) {
        let mut record = self.item.record();
        record.deadline = Some(record.deadline.map_or(deadline, |old| old.min(deadline)));
    }

    /// For retry policies: records that they gave up because the next wait does not fit the deadline. The item timeout layer turns
    /// the item's error into a deadline error with the cause as its source.
    pub fn set_deadline_missed(self) {
        self.item.record().deadline_missed = true;
    }

    /// Returns `true` if a call or a retry was given up because of the deadline.
    pub fn deadline_missed(self) -> bool {
        self.item.record().deadline_missed
    }

    /// For layers that wait: records that the item waited for `reason` from `since` to `until`.
    pub fn add_wait(self, reason: WaitReason, since: Instant, until: Instant) {
        let time = until.saturating_duration_since(since);
        if time.is_zero() {
            return;
        }
        let mut record = self.item.record();
        record.report.waits.add(reason, time);
        record.waited = record.waited.saturating_add(time);
        if reason == WaitReason::Cooldown {
            record.seldom().cooldowns.push((since, until));
        }
    }

    /// For gates: records that a call of this item was throttled, and that the gate will hold its next call until then.
    pub fn set_throttled_until(self, until: Instant) {
        self.set_held(HeldItem {
            gate: 0,
            until,
            at_tail: false,
            gate_is_open: false,
        });
    }

    /// As [`set_throttled_until`](Self::set_throttled_until): no other gate holds the call.
    pub(crate) fn set_held(self, held: HeldItem) {
        self.item.record().seldom().held = Some(held);
    }

    /// For retry policies: the gate that the call was throttled at stays open for others.
    pub(crate) fn is_held_by_open_gate(self) -> bool {
        let mut record = self.item.record();
        record
            .seldom_if_any()
            .and_then(|seldom| seldom.held)
            .is_some_and(|held| held.gate_is_open)
    }

    /// Another gate may let the item's next call start at this time, before the one that holds it.
    pub(crate) fn shorten_hold(self, start: Instant) {
        let mut record = self.item.record();
        if let Some(held) = record.seldom_if_any().and_then(|seldom| seldom.held.as_mut()) {
            held.until = held.until.min(start);
        }
    }

    /// For gates, at the end of a call after one that was throttled: records the provider's limit.
    pub(crate) fn set_learned(self, limit: LearnedLimit) {
        self.item.record().seldom().learned = Some(limit);
    }

    /// As [`take_throttled_until`](Self::take_throttled_until), at the gate with this mark: the note of another gate is
    /// dropped.
    pub(crate) fn take_held_by(self, gate: u64) -> Option<HeldItem> {
        self.take_held()
            .filter(|held| held.gate == gate || held.gate == 0)
    }

    fn take_held(self) -> Option<HeldItem> {
        let mut record = self.item.record();
        record.seldom_if_any()?.held.take()
    }

    /// For providers, when a call begins: records that it goes to a server on the user's own machine, which needs no start ramp.
    #[cfg(feature = "reqwest")]
    pub(crate) fn set_local_server(self) {
        self.item.local_server.store(true, Ordering::Relaxed);
    }

    /// For gates: returns whether a call went to a server on the user's own machine.
    #[inline]
    pub(crate) fn asks_local_server(self) -> bool {
        self.item.local_server.load(Ordering::Relaxed)
    }

    /// For retry policies: returns the time until which a gate will hold the item's next call after the last throttle. `None`
    /// means that no gate will, so the policy has to wait itself.
    pub fn throttled_until(self) -> Option<Instant> {
        let mut record = self.item.record();
        Some(record.seldom_if_any()?.held?.until)
    }

    /// For gates, when the item returns: takes the note of [`set_throttled_until`](Self::set_throttled_until).
    pub fn take_throttled_until(self) -> Option<Instant> {
        self.take_held().map(|held| held.until)
    }

    /// Returns `true` if the batch is stopping: the item must not begin another call, and should end with its present result.
    #[inline]
    pub fn stop_requested(self) -> bool {
        self.item.stopped.load(Ordering::Acquire)
    }

    /// Returns `true` if a layer holds the item's request back and no call of it is under way.
    pub(crate) fn is_held_back(self) -> bool {
        let record = self.item.record();
        record.holds > 0 && !record.call_under_way()
    }

    /// Returns `true` if a call is or may be under way: a service in which no layer watches calls counts as being in one.
    pub fn call_under_way(self) -> bool {
        self.item.record().call_under_way()
    }

    /// For a layer that is about to call another service: checks that a call may begin.
    ///
    /// # Errors
    /// If no call may begin.
    pub(crate) fn may_call(self) -> Result<(), CallRefused> {
        self.item.record().may_begin(Instant::now)
    }

    /// Call this before the item's request is passed to a service that may send it. Unless a layer that watches calls sees the request,
    /// it counts as a call under way until [`settle_call`](Self::settle_call).
    ///
    /// # Errors
    /// If no call may begin. Then the request must not be passed on.
    pub fn hand_over(self) -> Result<(), CallRefused> {
        let now = Instant::now();
        let mut record = self.item.record();
        record.may_begin(|| now)?;
        record.hand_over_item(self.item.requests_made(), Some(now));
        Ok(())
    }

    /// Like [`hand_over`](Self::hand_over), by the driver.
    pub(crate) fn hand_over_by_driver(self) -> Result<(), CallRefused> {
        let mut record = self.item.record();
        record.may_begin(Instant::now)?;
        record.hand_over_item(self.item.requests_made(), None);
        Ok(())
    }

    /// For retry policies, right before each call: like [`hand_over`](Self::hand_over), but without a check, because the policy's own
    /// layer makes the call in any case.
    pub fn expect_call(self) {
        let mut record = self.item.record();
        // If one is under way, its time is already running.
        if !record.is_unwatched() {
            record.hand_over_item(self.item.requests_made(), Some(Instant::now()));
        }
    }

    /// Records that the call after [`hand_over`](Self::hand_over) has ended. If no layer watched it and it was `sent`, it is counted
    /// with unknown usage. `answered` is `true` if it returned an answer.
    pub fn settle_call(self, sent: bool, answered: bool) {
        let mut record = self.item.record();
        record.settle(|_| sent, answered, Instant::now);
        self.item.wake_after_a_call(record);
    }

    /// For layers that pass requests on, at each poll: records the poll. A refused call beside it waits while that goes on.
    #[inline]
    pub(crate) fn note_poll(self, handed_on: HandedOn) {
        if self.stop_requested() {
            self.item.record().note_poll(handed_on);
        }
    }

    /// Like [`settle_call`](Self::settle_call), for layers that pass a request on and may be called again: `sent` is `None` if unknown.
    pub(crate) fn settle_inside(self, handed_on: HandedOn, sent: Option<bool>, answered: bool) {
        let mut record = self.item.record();
        record.settle_inside(handed_on, sent, answered);
        self.item.wake_after_a_call(record);
    }

    /// For retry policies: records the item's last failure, so that a time limit that ends the item can name the
    /// cause.
    pub fn set_last_failure(self, failure: LlmError) {
        let old = self.item.record().last_failure.replace(failure);
        // Its source may run foreign code: dropped outside the lock.
        drop(old);
    }

    /// For timeout layers: takes the note of [`set_last_failure`](Self::set_last_failure).
    pub fn take_last_failure(self) -> Option<LlmError> {
        self.item.record().last_failure.take()
    }

    /// For a switch to another strategy: attempts start again at 1, and the notes of the first one's layers (a throttle to wait out, a
    /// missed deadline) are cleared.
    pub fn start_over(self) {
        let mut record = self.item.record();
        record.report.attempts = 1;
        if let Some(seldom) = record.seldom_if_any() {
            seldom.held = None;
        }
        record.deadline_missed = false;
        let failure = record.last_failure.take();
        drop(record);
        // Its source may run foreign code: dropped outside the lock.
        drop(failure);
    }

    /// For futures that wait to begin a call, when they are pending: registers the task, which a stop wakes.
    pub fn wake_at_stop(self, context: &Context<'_>) {
        let mut record = self.item.record();
        if record.stopped {
            drop(record);
            context.waker().wake_by_ref();
        } else {
            record.register(context.waker());
        }
    }

    /// For the provider's connections: returns whether a call of the item was throttled.
    #[cfg(feature = "reqwest")]
    pub(crate) fn was_throttled(self) -> bool {
        self.item.record().report.throttled_calls > 0
    }
}
