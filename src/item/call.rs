//! One physical call in an item's record.

use std::sync::Arc;

use tokio::time::Instant;

use super::Item;
use crate::error::ReportedQuota;
use crate::usage::TokenUsage;
use crate::usd::Usd;

/// One physical call in the item's record, from the moment it starts to its end.
///
/// The outermost layer that works per call begins it; layers further in join the same call. However many of them observe, the
/// first observation counts. A call that was not observed by the time the outermost guard is dropped (a panic, an abort, a
/// timeout) is closed with unknown usage, unless a layer inside held it back and it was never sent.
#[derive(Debug)]
#[must_use = "dropping the guard ends the call"]
pub struct CallGuard {
    pub(super) item: Arc<Item>,
    pub(super) key: u32,
    pub(super) number: u32,
    pub(super) depth: u32,
}

impl CallGuard {
    /// The item whose call it is.
    pub fn item(&self) -> &Arc<Item> {
        &self.item
    }

    /// The number of the call, from 1.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Whether this guard began the call, and so ends it when dropped.
    pub fn is_outermost(&self) -> bool {
        self.depth == 1
    }

    /// Whether a layer or strategy inside has joined the call.
    pub(crate) fn is_joined(&self) -> bool {
        let mut record = self.item.record();
        record.call(self.key).is_none_or(|call| call.depth > self.depth)
    }

    /// Whether a layer inside holds the call back.
    pub(crate) fn is_held(&self) -> bool {
        let mut record = self.item.record();
        record.call(self.key).is_some_and(|call| call.held)
    }

    /// Nothing was sent, so this is not a call. It has no effect once a layer or strategy inside has joined.
    pub(crate) fn retract(&self) {
        let mut record = self.item.record();
        if let Some(call) = record.call(self.key)
            && call.depth == self.depth
        {
            call.held = true;
        }
    }

    /// The call began at `at`.
    pub(crate) fn set_started(&self, at: Instant) {
        if let Some(call) = self.item.record().call(self.key) {
            call.started = at;
        }
    }

    /// The call brought an answer.
    pub(crate) fn set_answered(&self) {
        if let Some(call) = self.item.record().call(self.key) {
            call.answered = true;
        }
    }

    /// Whether the ledger at `address` is the first of its kind to count the call: one ledger in two layers counts it once.
    pub(crate) fn claim_ledger(&self, address: usize) -> bool {
        let mut record = self.item.record();
        let Some(call) = record.call(self.key) else {
            return true;
        };
        if call.ledger == Some(address) || call.more_ledgers.contains(&address) {
            return false;
        }
        if call.ledger.is_none() {
            call.ledger = Some(address);
        } else {
            call.more_ledgers.push(address);
        }
        true
    }

    /// Says what the call used: known, known zero, or `None` for unknown. Returns whether it was the first to say
    /// so; later ones change nothing.
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

    /// What was observed so far: `None` if nothing was, `Some(None)` if the usage is unknown.
    pub fn observed(&self) -> Option<Option<TokenUsage>> {
        self.item.record().call(self.key).and_then(|call| call.observed)
    }

    /// Says what the call cost. Returns whether it was the first to say so; later ones change nothing.
    ///
    /// The strategy says what the provider reported; the accounting layer says what its price table makes of the usage.
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

    /// What the call cost, if reported.
    pub fn cost(&self) -> Option<Usd> {
        self.item.record().call(self.key).and_then(|call| call.cost)
    }

    /// Notes which model of which provider (by its OpenTelemetry name) is asked, so that a failed call has its price, too.
    pub fn set_model(&self, provider: impl Into<Arc<str>>, model: impl Into<Arc<str>>) {
        let asked = (provider.into(), model.into());
        if let Some(call) = self.item.record().call(self.key) {
            call.model = Some(asked);
        }
    }

    /// The provider and the model that are asked, if the strategy said so.
    pub fn model(&self) -> Option<(Arc<str>, Arc<str>)> {
        self.item
            .record()
            .call(self.key)
            .and_then(|call| call.model.clone())
    }

    /// When the call started, for the first who asks: metrics, spans and events tell of one call once, however many
    /// layers watch it.
    pub(crate) fn claim(&self) -> Option<Instant> {
        let mut record = self.item.record();
        let call = record.call(self.key)?;
        (!std::mem::replace(&mut call.claimed, true)).then_some(call.started)
    }

    /// The call has ended at `at`, with this usage if it is known and was not reported before. Returns whether it counts, and with
    /// which usage: a call that a layer inside held back does not, and the usage of one that outlived its item is unknown.
    pub(crate) fn end(&self, usage: Option<TokenUsage>, at: Instant) -> EndedCall {
        let mut record = self.item.record();
        let closed = record.closed;
        let Some(call) = record.call(self.key) else {
            return EndedCall::OUTLIVED;
        };
        if call.held {
            return EndedCall::NOT_SENT;
        }
        if closed && call.ended.is_none() {
            return EndedCall::OUTLIVED;
        }
        call.ended.get_or_insert(at);
        if usage.is_some() && call.observed.is_none() {
            call.observed = Some(usage);
        }
        EndedCall {
            counts: true,
            outlived: false,
            usage: call.observed.flatten(),
        }
    }

    /// Whether the event of the call's start has been sent, by the gate or by an accounting layer.
    pub(crate) fn is_announced(&self) -> bool {
        self.item
            .record()
            .call(self.key)
            .is_none_or(|call| call.announced)
    }

    /// Says that the event of the call's start has been sent.
    pub(crate) fn set_announced(&self) {
        if let Some(call) = self.item.record().call(self.key) {
            call.announced = true;
        }
    }

    /// Says that the provider throttled the call.
    pub fn set_throttled(&self) {
        if let Some(call) = self.item.record().call(self.key) {
            call.throttled = true;
        }
    }

    /// Notes what the reply's rate-limit headers said, for the gate.
    pub fn set_quota(&self, quota: ReportedQuota) {
        if let Some(call) = self.item.record().call(self.key) {
            call.quota = Some(quota);
        }
    }

    /// Says that the first piece of a streamed answer has come. Later ones change nothing.
    pub fn set_first_token(&self) {
        if let Some(call) = self.item.record().call(self.key) {
            call.first_token.get_or_insert_with(Instant::now);
        }
    }

    /// What the reply's rate-limit headers said.
    pub fn quota(&self) -> Option<ReportedQuota> {
        self.item.record().call(self.key).and_then(|call| call.quota)
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        if self.is_outermost() {
            self.item.record().end(self.key);
        }
    }
}

/// What the end of a call means for the accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EndedCall {
    /// It may have been sent.
    pub(crate) counts: bool,
    /// The item had its outcome before: usage and cost stand there as unknown.
    pub(crate) outlived: bool,
    pub(crate) usage: Option<TokenUsage>,
}

impl EndedCall {
    /// Of a call that stands in no record.
    pub(crate) const fn of(usage: Option<TokenUsage>) -> Self {
        Self {
            counts: true,
            outlived: false,
            usage,
        }
    }

    const NOT_SENT: Self = Self {
        counts: false,
        outlived: false,
        usage: None,
    };
    const OUTLIVED: Self = Self {
        counts: true,
        outlived: true,
        usage: None,
    };
}
