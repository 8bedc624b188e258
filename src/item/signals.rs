//! The notes through which layers and the driver work together without knowing each other.

use std::sync::atomic::Ordering;
use std::task::Context;

use tokio::time::Instant;

use super::{HandedOn, Item, WaitReason};
use crate::error::{CallRefused, LlmError};

/// The notes that the layers of a stack, the retry policy and the driver leave for each other about one item; from [`Item::signals`].
///
/// A view of the item: copying it costs nothing. Who writes and who reads each note is in the table of the
/// [module](crate::item).
#[derive(Clone, Copy, Debug)]
pub struct Signals<'a> {
    item: &'a Item,
}

impl Item {
    /// For authors of layers: the notes that layers and the driver leave for each other.
    #[inline]
    pub const fn signals(&self) -> Signals<'_> {
        Signals { item: self }
    }
}

impl Signals<'_> {
    /// For retry policies: the item is now at this attempt.
    pub fn set_attempt(self, attempt: u32) {
        self.item.record().report.attempts = attempt;
    }

    /// For timeout layers: the item must be done by `deadline`. The earliest one counts. No call begins after it, so the
    /// layer must end the item then.
    pub fn limit_deadline(self, deadline: Instant) {
        let mut record = self.item.record();
        record.deadline = Some(record.deadline.map_or(deadline, |old| old.min(deadline)));
    }

    /// For retry policies: gave up because the next wait does not fit the deadline. The item timeout layer turns
    /// the item's error into a deadline error with the cause as its source.
    pub fn set_deadline_missed(self) {
        self.item.record().deadline_missed = true;
    }

    /// Returns `true` if something was given up because of the deadline.
    pub fn deadline_missed(self) -> bool {
        self.item.record().deadline_missed
    }

    /// For layers that wait: the item waited for `reason` from `since` to `until`.
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

    /// For gates: a call of this item was throttled, and the gate will hold its next call until then.
    pub fn set_throttled_until(self, until: Instant) {
        self.set_held_by(0, until);
    }

    /// As [`set_throttled_until`](Self::set_throttled_until), by the gate with this mark: no other one holds the call.
    pub(crate) fn set_held_by(self, gate: u64, until: Instant) {
        self.item.record().seldom().throttled_until = Some((until, gate));
    }

    /// As [`take_throttled_until`](Self::take_throttled_until), at the gate with this mark: the note of another gate is
    /// dropped.
    pub(crate) fn take_held_by(self, gate: u64) -> Option<Instant> {
        let (until, by) = self.take_throttle()?;
        (by == gate || by == 0).then_some(until)
    }

    fn take_throttle(self) -> Option<(Instant, u64)> {
        let mut record = self.item.record();
        record.seldom_if_any()?.throttled_until.take()
    }

    /// For providers, when a call begins: it goes to a server on a machine of the user's own, which needs no start ramp.
    #[cfg(feature = "reqwest")]
    pub(crate) fn set_local_server(self) {
        self.item.local_server.store(true, Ordering::Relaxed);
    }

    /// For gates: whether a call went to a server on a machine of the user's own.
    #[inline]
    pub(crate) fn asks_local_server(self) -> bool {
        self.item.local_server.load(Ordering::Relaxed)
    }

    /// For retry policies: until when a gate will hold the item's next call after the throttle it just met. `None`
    /// means that no gate will, and the policy has to wait itself.
    pub fn throttled_until(self) -> Option<Instant> {
        let mut record = self.item.record();
        let (until, _) = record.seldom_if_any()?.throttled_until?;
        Some(until)
    }

    /// For gates, when the item comes back: takes what [`set_throttled_until`](Self::set_throttled_until) noted.
    pub fn take_throttled_until(self) -> Option<Instant> {
        self.take_throttle().map(|(until, _)| until)
    }

    /// Returns `true` if the batch is stopping: the item must not begin another call, and its outcome is what it has by now.
    #[inline]
    pub fn stop_requested(self) -> bool {
        self.item.stopped.load(Ordering::Acquire)
    }

    /// Returns `true` if a layer holds the item's request back and no call of it is under way.
    pub(crate) fn is_held_back(self) -> bool {
        let record = self.item.record();
        record.holds > 0 && !record.call_under_way()
    }

    /// Returns `true` if a call is under way, or may be: a strategy that no layer watches is taken to be in one.
    pub fn call_under_way(self) -> bool {
        self.item.record().call_under_way()
    }

    /// For a layer that is about to ask another service.
    ///
    /// # Errors
    /// If no call may begin any more.
    pub(crate) fn may_call(self) -> Result<(), CallRefused> {
        self.item.record().may_begin(Instant::now)
    }

    /// For whatever hands the item's request to a service: the service may send it. Unless a layer that watches calls sees it, this
    /// counts as a call under way until [`settle_call`](Self::settle_call).
    ///
    /// # Errors
    /// If no call may begin any more. Then the request must not be handed over.
    pub fn hand_over(self) -> Result<(), CallRefused> {
        let now = Instant::now();
        let mut record = self.item.record();
        record.may_begin(|| now)?;
        record.hand_over_item(self.item.requests_made(), Some(now));
        Ok(())
    }

    /// As [`hand_over`](Self::hand_over), by the driver.
    pub(crate) fn hand_over_by_driver(self) -> Result<(), CallRefused> {
        let mut record = self.item.record();
        record.may_begin(Instant::now)?;
        record.hand_over_item(self.item.requests_made(), None);
        Ok(())
    }

    /// For retry policies, right before each call: as [`hand_over`](Self::hand_over), for a request that was handed to the policy's
    /// own layer, which will call in any case.
    pub fn expect_call(self) {
        let mut record = self.item.record();
        // If one is under way, its time runs already.
        if !record.is_unwatched() {
            record.hand_over_item(self.item.requests_made(), Some(Instant::now()));
        }
    }

    /// The call that followed [`hand_over`](Self::hand_over) has ended. If no layer watched it and it was `sent`, it is counted
    /// with unknown usage. `answered` says that it brought an answer.
    pub fn settle_call(self, sent: bool, answered: bool) {
        let waiting = {
            let mut record = self.item.record();
            record.settle(|_| sent, answered, Instant::now);
            record.take_waiting()
        };
        self.item.wake_after_a_call(waiting);
    }

    /// For layers that hand requests on, at each poll: a refused call beside it waits as long as it is polled.
    #[inline]
    pub(crate) fn note_poll(self, handed_on: HandedOn) {
        if self.stop_requested() {
            self.item.record().note_poll(handed_on);
        }
    }

    /// As [`settle_call`](Self::settle_call), for layers that hand a request on and may be called again: `sent` is `None` where
    /// nothing says whether it was.
    pub(crate) fn settle_inside(self, handed_on: HandedOn, sent: Option<bool>, answered: bool) {
        let waiting = {
            let mut record = self.item.record();
            record.settle_inside(handed_on, sent, answered);
            record.take_waiting()
        };
        self.item.wake_after_a_call(waiting);
    }

    /// For retry policies: notes what the item last failed with, so that a time limit that ends it can name the
    /// cause.
    pub fn set_last_failure(self, failure: LlmError) {
        let old = self.item.record().last_failure.replace(failure);
        // Its source may be anything: dropped outside the lock.
        drop(old);
    }

    /// For timeout layers: takes what [`set_last_failure`](Self::set_last_failure) noted.
    pub fn take_last_failure(self) -> Option<LlmError> {
        self.item.record().last_failure.take()
    }

    /// Another strategy takes the item over: attempts count anew, and what the first one left for its own layers (a
    /// throttle to wait out, a missed deadline) does not concern the second.
    pub fn start_over(self) {
        let mut record = self.item.record();
        record.report.attempts = 1;
        if let Some(seldom) = record.seldom_if_any() {
            seldom.throttled_until = None;
        }
        record.deadline_missed = false;
        let failure = record.last_failure.take();
        drop(record);
        // Its source may be anything: dropped outside the lock.
        drop(failure);
    }

    /// For futures that wait to begin a call, when they are pending: a stop wakes them.
    pub fn wake_at_stop(self, context: &Context<'_>) {
        let mut record = self.item.record();
        if record.stopped {
            drop(record);
            context.waker().wake_by_ref();
        } else {
            record.register(context.waker());
        }
    }

    /// For the provider's connections: whether a call of the item was throttled.
    #[cfg(feature = "reqwest")]
    pub(crate) fn was_throttled(self) -> bool {
        self.item.record().report.throttled_calls > 0
    }
}
