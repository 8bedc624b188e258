//! The driver's operations on an item: stopping it, waking it, and closing its accounts.

use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

use super::handed::{Handed, HandedOver};
use super::{CallsInside, Item, ItemReport};
use crate::layer::rate_limiter::LearnedLimit;

impl Item {
    /// For the driver, after the strategy was called: the hand-over is complete. Returns `false` if the stream was dropped meanwhile
    /// and has closed the item without counting the call that was being handed over.
    pub(crate) fn entered(&self) -> bool {
        let mut record = self.record();
        record.entered();
        !record.closed
    }

    /// For the driver whose stream is dropped: cuts the requests that no layer watches, unless their call has not begun.
    pub(crate) fn settle_dropped(&self, inside: &CallsInside, at: Instant) {
        self.settle(inside, false, at, |handed| {
            (handed.state == Handed::Entering).then_some(false)
        });
    }

    /// For the driver: returns whether a layer or strategy that watches calls has begun one.
    pub(crate) fn has_begun(&self) -> bool {
        self.record().begun
    }

    /// For the driver, when the item's future has ended at time `at`: like [`settle_call`](super::Signals::settle_call). If `sent` is
    /// unknown, `inside` decides.
    pub(crate) fn settle_ended(&self, inside: &CallsInside, sent: Option<bool>, answered: bool, at: Instant) {
        // The item's error is not the error of a call that the item, or a layer in it, has cut.
        self.settle(inside, answered, at, |handed| {
            sent.filter(|sent| *sent || (handed.id == 0 && handed.is_under_way()))
        });
    }

    fn settle(
        &self,
        inside: &CallsInside,
        answered: bool,
        at: Instant,
        sent: impl Fn(&HandedOver) -> Option<bool>,
    ) {
        let mut record = self.record();
        if record.begun {
            inside.saw_begun();
        }
        let is_sent = |handed: &HandedOver| match handed.by_driver {
            true => inside.sent_unbegun(answered, sent(handed)),
            false => sent(handed).unwrap_or(true),
        };
        record.settle(is_sent, answered, || at);
    }

    /// For the driver: no further call of the item may begin. Futures that wait to begin one are woken.
    pub(crate) fn request_stop(&self, cancel: bool) {
        let waiting = {
            let mut record = self.record();
            record.stopped = true;
            record.cancelled |= cancel;
            self.may_end.store(true, Ordering::Release);
            self.stopped.store(true, Ordering::Release);
            std::mem::take(&mut record.waiting)
        };
        // Wakers run foreign code: called outside the lock.
        waiting.into_iter().for_each(Waker::wake);
        self.driver.wake();
    }

    /// For the driver: registers the task that runs the item, which a stop wakes.
    #[inline]
    pub(crate) fn run_by(&self, waker: &Waker) {
        self.driver.register(waker);
    }

    /// For the driver: returns whether the item must end now, because of a stop, because its stream is gone, or because only futures
    /// that cannot end are left.
    #[inline]
    pub(crate) fn must_end(&self) -> bool {
        self.may_end.load(Ordering::Acquire) && self.record().must_end()
    }

    /// For the driver: records that the item's future has ended.
    #[inline]
    pub(crate) fn set_ended(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// For the driver: returns whether the item's future has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Closes the item and returns its final accounts as of `finished`. From now on no call may begin, and a call that ends later is
    /// not counted: one that is still open counts with its observed usage, or as unknown.
    pub(crate) fn close(&self, finished: Instant) -> ClosedItem {
        let mut record = self.record();
        record.closed = true;
        self.may_end.store(true, Ordering::Release);
        let mut report = record.report_with_open();
        report.total_time = finished.saturating_duration_since(self.started);
        let (cooldowns, learned) = record
            .seldom_if_any()
            .map(|seldom| (std::mem::take(&mut seldom.cooldowns), seldom.learned))
            .unwrap_or_default();
        ClosedItem {
            report,
            waited: record.waited,
            call_times: std::mem::take(&mut record.call_times),
            cooldowns,
            learned,
        }
    }
}

/// The part of an item's record that goes into the batch's statistics.
#[derive(Debug)]
pub(crate) struct ClosedItem {
    pub(crate) report: ItemReport,
    /// The total of the waits in the report.
    pub(crate) waited: Duration,
    call_times: SmallVec<[Duration; 1]>,
    /// The intervals during which a closed gate held the item.
    pub(crate) cooldowns: Vec<(Instant, Instant)>,
    /// The provider's limit, if a call was throttled and the gate knew one later.
    pub(crate) learned: Option<LearnedLimit>,
}

impl ClosedItem {
    /// The durations of the ended calls.
    pub(crate) fn call_times(&self) -> impl Iterator<Item = Duration> {
        self.call_times.iter().copied()
    }
}
