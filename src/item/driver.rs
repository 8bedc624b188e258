//! The driver's own operations on an item: it stops it, wakes it, and closes its accounts.

use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

use super::handed::{Handed, HandedOver};
use super::{CallsInside, Item, ItemReport};

impl Item {
    /// For the driver, after the strategy was called: what was handed over is under way. Returns `false` if a stream that was dropped
    /// meanwhile has closed the item, and counted no call that was only being handed over.
    pub(crate) fn entered(&self) -> bool {
        let mut record = self.record();
        record.entered();
        !record.closed
    }

    /// For the driver whose stream is dropped: what no layer watches is cut, unless it has not begun.
    pub(crate) fn settle_dropped(&self, inside: &CallsInside, at: Instant) {
        self.settle(inside, false, at, |handed| {
            (handed.state == Handed::Entering).then_some(false)
        });
    }

    /// For the driver: whether a layer or strategy that watches calls has begun one.
    pub(crate) fn has_begun(&self) -> bool {
        self.record().begun
    }

    /// For the driver, when the item's future has ended `at` then: as [`settle_call`](super::Signals::settle_call). `sent` is what
    /// is known of it; else `inside` decides.
    pub(crate) fn settle_ended(&self, inside: &CallsInside, sent: Option<bool>, answered: bool, at: Instant) {
        // The error of an item is not that of a call which it has cut, by itself or in a layer.
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

    /// For the driver: no call of the item begins any more. What waits to begin one is woken.
    pub(crate) fn request_stop(&self, cancel: bool) {
        let waiting = {
            let mut record = self.record();
            record.stopped = true;
            record.cancelled |= cancel;
            self.may_end.store(true, Ordering::Release);
            self.stopped.store(true, Ordering::Release);
            std::mem::take(&mut record.waiting)
        };
        // Wakers may be anything: called outside the lock.
        waiting.into_iter().for_each(Waker::wake);
        self.driver.wake();
    }

    /// For the driver: the task that runs the item, to be woken by a stop.
    #[inline]
    pub(crate) fn run_by(&self, waker: &Waker) {
        self.driver.register(waker);
    }

    /// For the driver: whether the item ends now, because of a stop, because its stream is gone, or because nothing is left of it
    /// but futures that cannot end.
    #[inline]
    pub(crate) fn must_end(&self) -> bool {
        self.may_end.load(Ordering::Acquire) && self.record().must_end()
    }

    /// For the driver: the item's future has ended.
    #[inline]
    pub(crate) fn set_ended(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// For the driver: whether the item's future has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Its final accounts, if it ended at `finished`. From now on no call begins, and what ends later is not counted: a call that
    /// is still open counts as it was observed, or as unknown.
    pub(crate) fn close(&self, finished: Instant) -> ClosedItem {
        let mut record = self.record();
        record.closed = true;
        self.may_end.store(true, Ordering::Release);
        let mut report = record.report_with_open();
        report.total_time = finished.saturating_duration_since(self.started);
        ClosedItem {
            report,
            call_times: std::mem::take(&mut record.call_times),
            cooldowns: record
                .seldom_if_any()
                .map(|seldom| std::mem::take(&mut seldom.cooldowns))
                .unwrap_or_default(),
        }
    }
}

/// The part of an item's record that the batch's statistics take over.
#[derive(Debug)]
pub(crate) struct ClosedItem {
    pub(crate) report: ItemReport,
    call_times: SmallVec<[Duration; 1]>,
    /// The intervals during which a closed gate held the item.
    pub(crate) cooldowns: Vec<(Instant, Instant)>,
}

impl ClosedItem {
    /// The durations of the ended calls.
    pub(crate) fn call_times(&self) -> impl Iterator<Item = Duration> {
        self.call_times.iter().copied()
    }
}
