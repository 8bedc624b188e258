//! The notes in an item's record through which layers and the driver work together without knowing each other.
//!
//! | note | written by | read by |
//! |---|---|---|
//! | [`hand_over`](Item::hand_over) | the driver, retry policies, `Fallback` | the driver, at a stop and at the end |
//! | [`settle_call`](Item::settle_call) | retry policies, `Fallback`, timeouts, the driver | the accounts |
//! | [`set_attempt`](Item::set_attempt) | retry policies | requests, events |
//! | [`limit_deadline`](Item::limit_deadline) | timeout layers | retry policies, the beginning of a call |
//! | [`set_deadline_missed`](Item::set_deadline_missed) | retry policies, the beginning of a call | timeout layers |
//! | [`set_last_failure`](Item::set_last_failure) | retry policies | timeout layers |
//! | [`set_throttled_until`](Item::set_throttled_until) | gates | retry policies, gates |
//! | [`add_wait`](Item::add_wait) | whatever waits | the accounts |
//! | [`stop_requested`](Item::stop_requested) | the driver | retry policies, caches |

use std::sync::atomic::Ordering;
use std::task::{Context, Waker};

use tokio::time::Instant;

use super::record::{CallRefused, Handed};
use super::{Item, WaitReason};
use crate::error::LlmError;

impl Item {
    /// For retry policies: the item is now at this attempt.
    pub fn set_attempt(&self, attempt: u32) {
        self.record().report.attempts = attempt;
    }

    /// For timeout layers: the item must be done by `deadline`. The earliest one counts. No call begins after it, so the
    /// layer must end the item then.
    pub fn limit_deadline(&self, deadline: Instant) {
        let mut record = self.record();
        record.deadline = Some(record.deadline.map_or(deadline, |old| old.min(deadline)));
    }

    /// For retry policies: gave up because the next wait does not fit the deadline. The item timeout layer turns
    /// the item's error into a deadline error with the cause as its source.
    pub fn set_deadline_missed(&self) {
        self.record().deadline_missed = true;
    }

    /// Whether something was given up because of the deadline.
    pub fn deadline_missed(&self) -> bool {
        self.record().deadline_missed
    }

    /// For layers that wait: the item waited for `reason` from `since` to `until`.
    pub fn add_wait(&self, reason: WaitReason, since: Instant, until: Instant) {
        let time = until.saturating_duration_since(since);
        if time.is_zero() {
            return;
        }
        let mut record = self.record();
        record.report.waits.add(reason, time);
        if reason == WaitReason::Cooldown {
            record.cooldowns.push((since, until));
        }
    }

    /// For gates: a call of this item was throttled, and the gate will hold its next call until then.
    pub fn set_throttled_until(&self, until: Instant) {
        self.set_held_by(0, until);
    }

    /// As [`set_throttled_until`](Self::set_throttled_until), by the gate with this mark: no other one holds the call.
    pub(crate) fn set_held_by(&self, gate: u64, until: Instant) {
        self.record().throttled_until = Some((until, gate));
    }

    /// As [`take_throttled_until`](Self::take_throttled_until), at the gate with this mark: the note of another gate is
    /// dropped.
    pub(crate) fn take_held_by(&self, gate: u64) -> Option<Instant> {
        let (until, by) = self.record().throttled_until.take()?;
        (by == gate || by == 0).then_some(until)
    }

    /// For providers, when a call begins: it goes to a server on a machine of the user's own, which needs no start ramp.
    #[cfg(feature = "reqwest")]
    pub(crate) fn set_local_server(&self) {
        self.local_server.store(true, Ordering::Relaxed);
    }

    /// For gates: whether a call went to a server on a machine of the user's own.
    pub(crate) fn asks_local_server(&self) -> bool {
        self.local_server.load(Ordering::Relaxed)
    }

    /// For retry policies: until when a gate will hold the item's next call after the throttle it just met. `None`
    /// means that no gate will, and the policy has to wait itself.
    pub fn throttled_until(&self) -> Option<Instant> {
        self.record().throttled_until.map(|(until, _)| until)
    }

    /// For gates, when the item comes back: takes what [`set_throttled_until`](Self::set_throttled_until) noted.
    pub fn take_throttled_until(&self) -> Option<Instant> {
        self.record().throttled_until.take().map(|(until, _)| until)
    }

    /// Whether the batch is stopping, so that the item must begin no other call. What it has got by now is its outcome.
    pub fn stop_requested(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Whether a call is under way, or may be: a strategy that no layer watches is taken to be in one.
    pub fn call_under_way(&self) -> bool {
        self.record().call_under_way()
    }

    /// For whatever hands the item's request to a service: the service may send it. Unless a layer that watches calls sees it, this
    /// counts as a call under way until [`settle_call`](Self::settle_call).
    ///
    /// # Errors
    /// If no call may begin any more. Then the request must not be handed over.
    pub fn hand_over(&self) -> Result<(), CallRefused> {
        let now = Instant::now();
        let mut record = self.record();
        record.may_begin(now)?;
        record.handed = Handed::Entering;
        Ok(())
    }

    /// For the driver, after the strategy was called and after each poll: what was handed over is under way. Returns whether the item
    /// goes on: a stream that was dropped meanwhile has closed it, and counted no call that was only being handed over.
    pub(crate) fn entered(&self) -> bool {
        let mut record = self.record();
        if record.handed == Handed::Entering {
            record.handed = Handed::Unwatched;
        }
        !record.closed
    }

    /// For the driver whose stream is dropped: what no layer watches is cut, unless it has not begun.
    pub(crate) fn settle_dropped(&self) {
        let mut record = self.record();
        let begun = record.handed != Handed::Entering;
        record.settle(begun, false);
    }

    /// For retry policies, right before each call: as [`hand_over`](Self::hand_over), for a request that was handed to the policy's
    /// own layer, which will call in any case.
    pub fn expect_call(&self) {
        let mut record = self.record();
        if record.handed != Handed::Unwatched {
            record.handed = Handed::Entering;
        }
    }

    /// The call that followed [`hand_over`](Self::hand_over) has ended. If no layer watched it and it was `sent`, it is counted
    /// with unknown usage. `answered` says that it brought an answer.
    pub fn settle_call(&self, sent: bool, answered: bool) {
        self.record().settle(sent, answered);
    }

    /// For retry policies: notes what the item last failed with, so that a time limit that ends it can name the
    /// cause.
    pub fn set_last_failure(&self, failure: LlmError) {
        let old = self.record().last_failure.replace(failure);
        // Its source may be anything: dropped outside the lock.
        drop(old);
    }

    /// For timeout layers: takes what [`set_last_failure`](Self::set_last_failure) noted.
    pub fn take_last_failure(&self) -> Option<LlmError> {
        self.record().last_failure.take()
    }

    /// Another strategy takes the item over: attempts count anew, and what the first one left for its own layers (a
    /// throttle to wait out, a missed deadline) does not concern the second.
    pub fn start_over(&self) {
        let mut record = self.record();
        record.report.attempts = 1;
        record.throttled_until = None;
        record.deadline_missed = false;
        let failure = record.last_failure.take();
        drop(record);
        // Its source may be anything: dropped outside the lock.
        drop(failure);
    }

    /// For futures that wait to begin a call, when they are pending: a stop wakes them.
    pub fn wake_at_stop(&self, context: &Context<'_>) {
        let mut record = self.record();
        if record.stopped {
            drop(record);
            context.waker().wake_by_ref();
        } else if !record
            .waiting
            .iter()
            .any(|waker| waker.will_wake(context.waker()))
        {
            record.waiting.push(context.waker().clone());
        }
    }

    /// A future that may not begin its call waits for ever, as it has no error to fail with: the driver ends the item.
    pub(crate) fn abandon(&self) {
        self.record().abandoned = true;
        self.driver.wake();
    }

    /// For the driver: no call of the item begins any more. What waits to begin one is woken.
    pub(crate) fn request_stop(&self, cancel: bool) {
        let waiting = {
            let mut record = self.record();
            record.stopped = true;
            record.cancelled |= cancel;
            self.stopped.store(true, Ordering::Release);
            std::mem::take(&mut record.waiting)
        };
        // Wakers may be anything: called outside the lock.
        waiting.into_iter().for_each(Waker::wake);
        self.driver.wake();
    }

    /// For the driver: the task that runs the item, to be woken by a stop.
    pub(crate) fn run_by(&self, waker: &Waker) {
        self.driver.register(waker);
    }

    /// For the driver: whether a stop ends the item now.
    pub(crate) fn must_end(&self) -> bool {
        self.stop_requested() && self.record().must_end()
    }

    /// For the driver: the item's future has ended.
    pub(crate) fn set_ended(&self) {
        self.record().ended = true;
    }

    /// For the driver: whether the item's future has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.record().ended
    }

    /// For the provider's connections: whether a call of the item was throttled.
    #[cfg(feature = "reqwest")]
    pub(crate) fn was_throttled(&self) -> bool {
        self.record().report.throttled_calls > 0
    }
}
