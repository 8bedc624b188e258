//! One physical call in an item's record.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::time::Instant;

use super::record::Record;
use super::{CallHold, CallsInside, Item};
use crate::error::{CallRefused, ReportedQuota};
use crate::usage::TokenUsage;
use crate::usd::Usd;

/// One physical call in the item's record, from its start to its end.
///
/// The outermost layer that works per call begins it; layers further in join the same call. If several of them observe its usage,
/// the first observation counts. A call that was not observed by the time the outermost guard is dropped (a panic, an abort, a
/// timeout) is closed with unknown usage, unless a layer inside held it back and it was never sent.
#[derive(Debug)]
#[must_use = "dropping the guard ends the call"]
pub struct CallGuard {
    pub(super) item: Arc<Item>,
    pub(super) key: u32,
    pub(super) number: u32,
    pub(super) depth: u32,
    /// This guard has left the call; for the outermost guard: has ended it. Layers further in may still be in it.
    pub(super) left: AtomicBool,
}

impl CallGuard {
    /// The item of the call.
    #[inline]
    pub fn item(&self) -> &Arc<Item> {
        &self.item
    }

    /// The number of the call, from 1.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Returns `true` if this guard began the call. Dropping it then ends the call.
    pub fn is_outermost(&self) -> bool {
        self.depth == 1
    }

    /// For a gate, after it has passed the call on: returns whether a layer or strategy inside has joined it, and whether the event of
    /// its start has yet to be sent.
    pub(crate) fn handed_on(&self) -> (bool, bool) {
        let mut record = self.item.record();
        record.call(self.key).map_or((true, false), |call| {
            (call.depth > self.depth, !call.held && !call.announced)
        })
    }

    /// For a gate, when the call has ended: records its end and returns what is known about it. If this guard is outermost, the call
    /// is closed.
    pub(crate) fn end_at_gate(&self, end: &GateEnd, inside: &CallsInside) -> GateEnded {
        let mut record = self.item.record();
        let ended = self.note_end(&mut record, end, inside);
        if !self.is_outermost() {
            return ended;
        }
        self.left.store(true, Ordering::Relaxed);
        record.end(self.key);
        self.item.wake_after_a_call(record);
        ended
    }

    fn note_end(&self, record: &mut Record, end: &GateEnd, inside: &CallsInside) -> GateEnded {
        let closed = record.closed;
        let throttled_before = record.report.throttled_calls > 0;
        let Some(call) = record.call(self.key) else {
            return GateEnded {
                unsent: false,
                observed: None,
                quota: None,
                throttled_before: false,
            };
        };
        let joined = call.depth > self.depth;
        if joined {
            inside.saw_begun();
        } else if !inside.sent_unbegun(end.answered, end.sent) && !call.sent {
            // Nothing was sent, so this is not a call.
            call.held = true;
        }
        call.answered |= end.answered;
        call.throttled |= end.throttled;
        // If no other layer watches the call, the gate does.
        if self.is_outermost() && !joined && !closed && call.observed.is_none() && end.reported.is_some() {
            call.observed = Some(end.reported);
        }
        GateEnded {
            unsent: call.held,
            observed: call.observed,
            quota: call.quota.as_deref().copied(),
            throttled_before,
        }
    }

    /// Records that the layer of this guard has seen the end of the call.
    fn leave(&self, record: &mut Record) {
        if self.is_outermost() || self.left.swap(true, Ordering::Relaxed) {
            return;
        }
        if let Some(call) = record.call(self.key) {
            call.inside = call.inside.saturating_sub(1);
        }
    }

    /// For a gate, right before the call begun with [`CallContext::begin_held_at`](super::CallContext) is sent at time `at`. Ends the
    /// `hold`.
    ///
    /// # Errors
    /// If the call may no longer begin. Then send nothing.
    pub(crate) fn release(&self, at: Instant, hold: &mut Option<CallHold>) -> Result<(), CallRefused> {
        let mut record = self.item.record();
        record.may_begin(|| at)?;
        if let Some(hold) = hold.take() {
            hold.end(&mut record);
        }
        if let Some(call) = record.call(self.key) {
            call.held = false;
            call.started = at;
        }
        Ok(())
    }

    /// For layers that begin calls, at each poll: records that this call is polled. A refused call beside it waits while that goes on.
    #[inline]
    pub(crate) fn note_poll(&self) {
        if self.item.signals().stop_requested()
            && let Some(call) = self.item.record().call(self.key)
        {
            call.polled = call.polled.max(self.depth);
        }
    }

    /// Records the usage of the call: known, known zero, or `None` for unknown. Returns `true` if this was the first observation;
    /// later ones are ignored.
    pub fn observe(&self, usage: Option<TokenUsage>) -> bool {
        let mut record = self.item.record();
        let closed = record.closed;
        match record.call(self.key) {
            Some(call) if call.observed.is_none() && !closed => {
                call.observed = Some(usage);
                true
            }
            _ => false,
        }
    }

    /// The usage observed so far: `None` if nothing was observed, `Some(None)` if it is unknown.
    pub fn observed(&self) -> Option<Option<TokenUsage>> {
        self.item.record().call(self.key).and_then(|call| call.observed)
    }

    /// Records the cost of the call. Returns `true` if this was the first; later ones are ignored.
    ///
    /// The strategy records the provider's own figure; the accounting layer records the cost by its price table.
    pub fn observe_cost(&self, cost: Usd) -> bool {
        let mut record = self.item.record();
        let closed = record.closed;
        match record.call(self.key) {
            Some(call) if call.cost.is_none() && !closed => {
                call.cost = Some(cost);
                true
            }
            _ => false,
        }
    }

    /// The cost of the call, if reported.
    pub fn cost(&self) -> Option<Usd> {
        self.item.record().call(self.key).and_then(|call| call.cost)
    }

    /// Records the provider (by its OpenTelemetry name) and the model of the call, so that failed calls can be priced, too.
    pub fn set_model(&self, provider: impl Into<Arc<str>>, model: impl Into<Arc<str>>) {
        let asked = (provider.into(), model.into());
        if let Some(call) = self.item.record().call(self.key) {
            call.model = Some(asked);
        }
    }

    /// The provider and the model of the call, if the strategy recorded them.
    pub fn model(&self) -> Option<(Arc<str>, Arc<str>)> {
        self.item
            .record()
            .call(self.key)
            .and_then(|call| call.model.clone())
    }

    /// For an accounting layer, when the call has ended: records its end, and returns whether and how it counts. A call that a layer
    /// inside held back does not count, and the usage of one that outlived its item is unknown.
    pub(crate) fn end(&self, end: &CallEnded) -> EndedCall {
        let mut record = self.item.record();
        let closed = record.closed;
        let is_last = record.is_last(self.key);
        self.leave(&mut record);
        let Some(call) = record.call(self.key) else {
            return EndedCall {
                in_ledger: record.enters_outlived(self.key, end.ledger),
                ..EndedCall::OUTLIVED
            };
        };
        call.accounting = call.accounting.saturating_sub(1);
        let unwatched = std::mem::take(&mut call.unwatched);
        // Nothing was sent, so this is not a call, unless a layer or strategy inside has joined it.
        call.held |= end.shed && call.depth == self.depth && !call.sent;
        if call.held {
            return EndedCall {
                unwatched,
                ..EndedCall::NOT_SENT
            };
        }
        // One ledger in two layers counts the call once.
        let counted = call.ledgers.contains(&end.ledger);
        if !counted {
            call.ledgers.push(end.ledger);
        }
        if closed && call.ended.is_none() {
            return EndedCall {
                in_ledger: !counted,
                unwatched,
                ..EndedCall::OUTLIVED
            };
        }
        // After a retry or a fallback inside, the outcome is that of a later call.
        if call.ended.is_none() || is_last {
            call.throttled |= end.throttled;
            call.answered |= end.answered;
            if (end.usage.is_some() || end.cut) && call.observed.is_none() {
                call.observed = Some(end.usage);
            }
        }
        call.ended.get_or_insert(end.at);
        EndedCall {
            counts: true,
            in_ledger: !counted,
            outlived: false,
            unwatched,
            usage: call.observed.flatten(),
            cost: call.cost,
        }
    }

    /// For an accounting layer: returns the start of the call if its event must be sent now. `None` while a layer inside holds the call
    /// back, and if the gate or another accounting layer has sent the event.
    pub(crate) fn to_announce(&self) -> Option<Instant> {
        let mut record = self.item.record();
        let call = record
            .call(self.key)
            .filter(|call| !call.held && !call.announced)?;
        call.announced = true;
        Some(call.started)
    }

    /// Records that the event of the call's start has been sent.
    pub(crate) fn set_announced(&self) {
        if let Some(call) = self.item.record().call(self.key) {
            call.announced = true;
        }
    }

    /// Records that the provider throttled the call.
    pub fn set_throttled(&self) {
        if let Some(call) = self.item.record().call(self.key) {
            call.throttled = true;
        }
    }

    /// Records the quotas that the reply's rate-limit headers reported, for the gate.
    pub fn set_quota(&self, quota: ReportedQuota) {
        let quota = Box::new(quota);
        if let Some(call) = self.item.record().call(self.key) {
            call.quota = Some(quota);
        }
    }

    /// Records the arrival of the first piece of a streamed answer. Later calls are ignored.
    pub fn set_first_token(&self) {
        if let Some(call) = self.item.record().call(self.key) {
            call.first_token.get_or_insert_with(Instant::now);
        }
    }

    /// The quotas that the reply's rate-limit headers reported.
    pub fn quota(&self) -> Option<ReportedQuota> {
        self.item
            .record()
            .call(self.key)
            .and_then(|call| call.quota.as_deref().copied())
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        let left = *self.left.get_mut();
        if left && (self.is_outermost() || !self.item.signals().stop_requested()) {
            return;
        }
        let mut record = self.item.record();
        match self.is_outermost() {
            true => record.end(self.key),
            false => self.leave(&mut record),
        }
        self.item.wake_after_a_call(record);
    }
}

/// The end of a call, as a gate sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GateEnd {
    /// `Some(false)` if its error states that it was not sent; `None` if that is unknown.
    pub(crate) sent: Option<bool>,
    pub(crate) answered: bool,
    pub(crate) throttled: bool,
    pub(crate) reported: Option<TokenUsage>,
}

/// The record of a call that has ended behind a gate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GateEnded {
    pub(crate) unsent: bool,
    pub(crate) observed: Option<Option<TokenUsage>>,
    pub(crate) quota: Option<ReportedQuota>,
    /// An earlier call of the item was throttled.
    pub(crate) throttled_before: bool,
}

/// The end of a call, as an accounting layer sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallEnded {
    pub(crate) at: Instant,
    /// `Some` if it is known and was not recorded before.
    pub(crate) usage: Option<TokenUsage>,
    pub(crate) answered: bool,
    pub(crate) throttled: bool,
    /// A layer inside rejected it without sending it.
    pub(crate) shed: bool,
    /// It was cut, so its usage stays unknown even if the item succeeds.
    pub(crate) cut: bool,
    /// The address of the layer's ledger.
    pub(crate) ledger: usize,
}

/// The consequences of the end of a call for the accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EndedCall {
    /// It may have been sent.
    pub(crate) counts: bool,
    /// The ledger does not have it yet.
    pub(crate) in_ledger: bool,
    /// The item had its outcome before; its report has usage and cost as unknown.
    pub(crate) outlived: bool,
    /// The number of calls inside it that no layer watched, for the ledger.
    pub(crate) unwatched: u32,
    pub(crate) usage: Option<TokenUsage>,
    /// Its cost, if reported.
    pub(crate) cost: Option<Usd>,
}

impl EndedCall {
    /// For a call that is not in any record.
    pub(crate) const fn of(usage: Option<TokenUsage>) -> Self {
        Self {
            usage,
            outlived: false,
            ..Self::OUTLIVED
        }
    }

    pub(crate) const NOT_SENT: Self = Self {
        counts: false,
        in_ledger: false,
        outlived: false,
        unwatched: 0,
        usage: None,
        cost: None,
    };
    const OUTLIVED: Self = Self {
        counts: true,
        in_ledger: true,
        outlived: true,
        unwatched: 0,
        usage: None,
        cost: None,
    };
}
