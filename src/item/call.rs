//! One physical call in an item's record.

use std::sync::Arc;

use tokio::time::Instant;

use super::Item;
use crate::classify::ReportedQuota;
use crate::request::LlmRequest;
use crate::usage::TokenUsage;
use crate::usd::Usd;

/// One physical call in the item's record, from the moment it starts to its end.
///
/// The outermost layer that works per call opens it; layers further in get a handle to the same call. However
/// many of them observe, the first observation counts, and a call that nobody observed by the time the opener
/// drops its guard (a panic, an abort, a timeout) is closed with unknown usage.
#[derive(Debug)]
#[must_use = "dropping the guard ends the call"]
pub struct CallGuard {
    item: Arc<Item>,
    number: u32,
    opener: bool,
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

    /// Whether this guard opened the call, and so ends it when dropped.
    pub fn is_opener(&self) -> bool {
        self.opener
    }

    /// Says what the call used: known, known zero, or `None` for unknown. Returns whether it was the first to say
    /// so; later ones change nothing.
    pub fn observe(&self, usage: Option<TokenUsage>) -> bool {
        let mut record = self.item.record();
        match record.open_call(self.number) {
            Some(call) if call.observed.is_none() => {
                call.observed = Some(usage);
                true
            }
            _ => false,
        }
    }

    /// What was observed so far: `None` if nothing was, `Some(None)` if the usage is unknown.
    pub fn observed(&self) -> Option<Option<TokenUsage>> {
        self.item
            .record()
            .open_call(self.number)
            .and_then(|call| call.observed)
    }

    /// Says what the call cost. Returns whether it was the first to say so; later ones change nothing.
    ///
    /// The strategy says what the provider reported; the accounting layer says what its price table makes of the usage.
    pub fn observe_cost(&self, cost: Usd) -> bool {
        let mut record = self.item.record();
        match record.open_call(self.number) {
            Some(call) if call.cost.is_none() => {
                call.cost = Some(cost);
                true
            }
            _ => false,
        }
    }

    /// What the call cost, as far as somebody has said it.
    pub fn cost(&self) -> Option<Usd> {
        self.item
            .record()
            .open_call(self.number)
            .and_then(|call| call.cost)
    }

    /// Notes which model of which provider (by its OpenTelemetry name) is asked, so that a failed call has its price, too.
    pub fn set_model(&self, provider: impl Into<Arc<str>>, model: impl Into<Arc<str>>) {
        let asked = (provider.into(), model.into());
        if let Some(call) = self.item.record().open_call(self.number) {
            call.model = Some(asked);
        }
    }

    /// The provider and the model that are asked, if the strategy said so.
    pub fn model(&self) -> Option<(Arc<str>, Arc<str>)> {
        self.item
            .record()
            .open_call(self.number)
            .and_then(|call| call.model.clone())
    }

    /// When the call started, for the first who asks: metrics, spans and events tell of one call once, however many
    /// layers watch it.
    pub(crate) fn claim(&self) -> Option<Instant> {
        let mut record = self.item.record();
        let call = record.open_call(self.number)?;
        (!std::mem::replace(&mut call.claimed, true)).then_some(call.started)
    }

    /// The call has ended at `at`, with this usage if it is known and nobody said otherwise before. Returns what the
    /// item's record has then.
    pub(crate) fn end(&self, usage: Option<TokenUsage>, at: Instant) -> Option<TokenUsage> {
        let mut record = self.item.record();
        let call = record.open_call(self.number)?;
        call.ended.get_or_insert(at);
        if usage.is_some() && call.observed.is_none() {
            call.observed = Some(usage);
        }
        call.observed.flatten()
    }

    /// Whether the event of the call's start has been sent, by the gate or by an accounting layer.
    pub(crate) fn start_is_told(&self) -> bool {
        self.item
            .record()
            .open_call(self.number)
            .is_none_or(|call| call.told)
    }

    /// Says that the event of the call's start has been sent.
    pub(crate) fn set_start_told(&self) {
        if let Some(call) = self.item.record().open_call(self.number) {
            call.told = true;
        }
    }

    /// Says that the provider throttled the call.
    pub fn set_throttled(&self) {
        if let Some(call) = self.item.record().open_call(self.number) {
            call.throttled = true;
        }
    }

    /// Notes what the reply's rate-limit headers said, for the gate.
    pub fn set_quota(&self, quota: ReportedQuota) {
        if let Some(call) = self.item.record().open_call(self.number) {
            call.quota = Some(quota);
        }
    }

    /// Says that the first piece of a streamed answer has come. Later ones change nothing.
    pub fn set_first_token(&self) {
        if let Some(call) = self.item.record().open_call(self.number) {
            call.first_token.get_or_insert_with(Instant::now);
        }
    }

    /// What the reply's rate-limit headers said.
    pub fn quota(&self) -> Option<ReportedQuota> {
        self.item
            .record()
            .open_call(self.number)
            .and_then(|call| call.quota)
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        if !self.opener {
            return;
        }
        let mut record = self.item.record();
        if let Some(call) = record.close_call(self.number) {
            let ended = call.ended.unwrap_or_else(Instant::now);
            let time = ended.saturating_duration_since(call.started);
            record.add_call_time(time);
            let report = &mut record.report;
            report.call_time = report.call_time.saturating_add(time);
            if let Some(first) = call.first_token {
                report.time_to_first_token = Some(first.saturating_duration_since(call.started));
            }
            report.throttled_calls += u32::from(call.throttled);
            call.account(report);
        }
    }
}

impl<I> LlmRequest<I> {
    /// For authors of layers and strategies: a guard on the current physical call, opened if no outer layer has.
    ///
    /// Keep the guard until the call has ended, and tell it what was used with [`CallGuard::observe`].
    pub fn open_call(&mut self) -> CallGuard {
        self.open_call_at(Instant::now)
    }

    pub(super) fn open_call_at(&mut self, at: impl FnOnce() -> Instant) -> CallGuard {
        let item = Arc::clone(self.item());
        match self.open_call {
            Some(number) => CallGuard {
                item,
                number,
                opener: false,
            },
            None => {
                let number = item.open(at());
                self.open_call = Some(number);
                CallGuard {
                    item,
                    number,
                    opener: true,
                }
            }
        }
    }
}
