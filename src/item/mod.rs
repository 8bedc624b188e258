//! One item's identity and accounts, shared by the request, the layers and the driver.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::classify::ReportedQuota;
use crate::error::LlmError;
use crate::state::RetryState;
use crate::usage::TokenUsage;
use crate::usd::Usd;

mod call;
mod find;
mod id;
mod report;

pub use call::CallGuard;
pub use find::{FindItem, InRequest, Untracked};
pub use id::ItemId;
pub use report::{ItemReport, WaitReason, Waits};

/// One item's identity, retry state, deadline and accounts.
///
/// The request and the driver hold the same one, so what an item did survives a panic or an abort. Users meet it
/// through [`LlmRequest`](crate::LlmRequest); its methods for writing are for authors of layers and strategies.
pub struct Item {
    id: ItemId,
    index: u64,
    started: Instant,
    state: RetryState,
    stop_requested: AtomicBool,
    local_server: AtomicBool,
    record: Mutex<Record>,
}

#[derive(Default)]
struct Record {
    report: ItemReport,
    deadline: Option<Instant>,
    deadline_missed: bool,
    /// Until when a gate holds the next call, and which one: its mark, or 0 if it did not say.
    throttled_until: Option<(Instant, u64)>,
    answered_without_call: bool,
    observed: bool,
    expectation: Expectation,
    last_failure: Option<LlmError>,
    cooldowns: Vec<(Instant, Instant)>,
    open: Option<OpenCall>,
    // Only hedging opens two calls of one item at once.
    more_open: Vec<OpenCall>,
    // How long each ended call took; the first one apart, since most items make one call.
    first_call_time: Option<Duration>,
    more_call_times: Vec<Duration>,
    // The driver has handed the request to the strategy.
    called: bool,
}

/// What is known about calls beside those that layers open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Expectation {
    /// No retry policy told of any call: the item makes one.
    #[default]
    Untold,
    /// A retry policy told that one starts.
    UnderWay,
    /// The last call that a retry policy told of has ended.
    Settled,
}

struct OpenCall {
    number: u32,
    started: Instant,
    // When an accounting layer saw its end; without one it ends with the opener's guard.
    ended: Option<Instant>,
    observed: Option<Option<TokenUsage>>,
    cost: Option<Usd>,
    /// The provider and the model that are asked.
    model: Option<(Arc<str>, Arc<str>)>,
    throttled: bool,
    claimed: bool,
    told: bool,
    /// When the first piece of a streamed answer came.
    first_token: Option<Instant>,
    quota: Option<ReportedQuota>,
}

impl OpenCall {
    /// Adds what the call used and cost, as far as it is known, to the accounts.
    fn account(&self, report: &mut ItemReport) {
        let usage = self.observed.flatten();
        match usage {
            Some(usage) => report.usage += usage,
            None => report.unknown_usage_calls += 1,
        }
        // No tokens cost nothing, whatever the price.
        let nothing = usage.is_some_and(|usage| usage.total() == 0).then_some(Usd::ZERO);
        match self.cost.or(nothing) {
            Some(cost) => report.cost += cost,
            None => report.unknown_cost_calls += 1,
        }
    }
}

impl Record {
    /// A call that may have taken place has ended: counts it if no layer watches.
    fn settle(&mut self, sent: bool) {
        self.expectation = Expectation::Settled;
        if sent && !self.observed && !self.answered_without_call {
            self.report.calls += 1;
            self.report.unknown_usage_calls += 1;
            self.report.unknown_cost_calls += 1;
        }
    }

    /// Whether a call runs, or may run: a strategy without layers tells nothing about its calls.
    fn call_under_way(&self) -> bool {
        let unseen = self.called && !self.observed && self.expectation != Expectation::Settled;
        unseen || self.open.is_some() || !self.more_open.is_empty()
    }

    fn open_call(&mut self, number: u32) -> Option<&mut OpenCall> {
        self.open
            .iter_mut()
            .chain(&mut self.more_open)
            .find(|call| call.number == number)
    }

    fn close_call(&mut self, number: u32) -> Option<OpenCall> {
        if self.open.as_ref().is_some_and(|call| call.number == number) {
            return self.open.take();
        }
        let position = self.more_open.iter().position(|call| call.number == number)?;
        Some(self.more_open.swap_remove(position))
    }
}

impl Item {
    /// A new item, picked up now. Strategies outside a batch get one through [`LlmRequest::new`](crate::LlmRequest::new).
    pub fn new(id: ItemId, index: u64) -> Arc<Self> {
        let mut record = Record::default();
        record.report.attempts = 1;
        Arc::new(Self {
            id,
            index,
            started: Instant::now(),
            state: RetryState::default(),
            stop_requested: AtomicBool::new(false),
            local_server: AtomicBool::new(false),
            record: record.into(),
        })
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What names the item.
    pub fn id(&self) -> &ItemId {
        &self.id
    }

    /// Its position in the input, from 0.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// When it was picked up.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// What it remembers from call to call.
    pub fn state(&self) -> &RetryState {
        &self.state
    }

    /// The current attempt, from 1.
    pub fn attempt(&self) -> u32 {
        self.record().report.attempts
    }

    /// Calls opened so far.
    pub fn calls(&self) -> u32 {
        self.record().report.calls
    }

    /// When the item must be done, if it has a deadline.
    pub fn deadline(&self) -> Option<Instant> {
        self.record().deadline
    }

    /// Its accounts up to now. `total_time` runs until this call; open calls are not in `call_time`.
    pub fn report(&self) -> ItemReport {
        let mut report = self.record().report;
        report.total_time = self.started.elapsed();
        report
    }

    /// Whether a call of it was throttled.
    #[cfg(feature = "reqwest")]
    pub(crate) fn was_throttled(&self) -> bool {
        self.record().report.throttled_calls > 0
    }

    /// For retry policies: the item is now at this attempt.
    pub fn set_attempt(&self, attempt: u32) {
        self.record().report.attempts = attempt;
    }

    /// For timeout layers: the item must be done by `deadline`. The earliest one counts.
    pub fn limit_deadline(&self, deadline: Instant) {
        let mut record = self.record();
        record.deadline = Some(record.deadline.map_or(deadline, |old| old.min(deadline)));
    }

    /// For retry policies: gave up because the next wait does not fit the deadline. The item timeout layer turns
    /// the item's error into a deadline error with the cause as its source.
    pub fn set_deadline_missed(&self) {
        self.record().deadline_missed = true;
    }

    /// Whether a retry policy gave up because of the deadline.
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

    /// Takes the intervals during which a closed gate held the item, for the batch's time paused.
    pub(crate) fn take_cooldowns(&self) -> Vec<(Instant, Instant)> {
        std::mem::take(&mut self.record().cooldowns)
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

    /// For retry policies and layers that start calls: the batch is stopping, so the item must start no other call.
    /// What it has got by now is its outcome.
    pub fn stop_requested(&self) -> bool {
        self.stop_requested.load(Ordering::Acquire)
    }

    /// Asks the item to start no other call. Returns whether a call is under way.
    pub(crate) fn request_stop(&self) -> bool {
        // Under the lock, so that a call which opens is either seen here or sees the request.
        let record = self.record();
        self.stop_requested.store(true, Ordering::Release);
        record.call_under_way()
    }

    /// Whether a call is open, or may be: a strategy that opens none in the record is taken to be in one.
    pub(crate) fn call_under_way(&self) -> bool {
        self.record().call_under_way()
    }

    /// The driver hands the request to the strategy, unless a stop was requested before: then it answers `false`.
    pub(crate) fn set_called(&self) -> bool {
        let mut record = self.record();
        if self.stop_requested() {
            return false;
        }
        record.called = true;
        true
    }

    /// Whether the strategy was called and nothing in its stack watches physical calls.
    pub(crate) fn is_unwatched(&self) -> bool {
        let record = self.record();
        record.called && !record.observed
    }

    /// The accounts of an item that ended at `finished`. A call that is still open (its guard was moved elsewhere)
    /// counts as it was observed, or as unknown.
    pub(crate) fn final_report(&self, finished: Instant) -> ItemReport {
        let record = self.record();
        let mut report = record.report;
        report.total_time = finished.saturating_duration_since(self.started);
        for call in record.open.iter().chain(&record.more_open) {
            call.account(&mut report);
        }
        report
    }

    /// Gives how long each ended call took.
    pub(crate) fn for_each_call_time(&self, each: impl FnMut(Duration)) {
        let record = self.record();
        record
            .first_call_time
            .iter()
            .chain(&record.more_call_times)
            .copied()
            .for_each(each);
    }

    /// For layers that answer from elsewhere (a cache, a dry run): the item's answer took no call.
    pub fn set_answered_without_call(&self) {
        self.record().answered_without_call = true;
    }

    /// Whether a layer answered without a call.
    pub fn answered_without_call(&self) -> bool {
        self.record().answered_without_call
    }

    /// For layers that open calls, before they wait for anything: this item's calls are watched, so that a call
    /// that nobody opened did not take place. Without such a layer every call counts as unknown.
    pub fn set_observed(&self) {
        self.record().observed = true;
    }

    /// For retry policies: a call is about to start.
    pub fn expect_call(&self) {
        self.record().expectation = Expectation::UnderWay;
    }

    /// For retry policies: the expected call has ended. If no layer watches this item's calls it is counted, with
    /// unknown usage, unless it was not `sent` or a layer answered in its place.
    pub fn settle_call(&self, sent: bool) {
        self.record().settle(sent);
    }

    /// For drivers, at the end of the item: counts the call that was under way, or the only call of a stack
    /// without a retry policy, by the rule of [`settle_call`](Self::settle_call). Calls that were settled are not
    /// counted again.
    pub fn settle_last_call(&self, sent: bool) {
        let mut record = self.record();
        if record.expectation != Expectation::Settled {
            record.settle(sent);
        }
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
    pub(crate) fn hand_over(&self) {
        let mut record = self.record();
        record.report.attempts = 1;
        record.throttled_until = None;
        record.deadline_missed = false;
        let failure = record.last_failure.take();
        drop(record);
        // Its source may be anything: dropped outside the lock.
        drop(failure);
    }

    fn open(self: &Arc<Self>, started: Instant) -> u32 {
        let mut record = self.record();
        record.observed = true;
        record.report.calls += 1;
        let number = record.report.calls;
        let call = OpenCall {
            number,
            started,
            ended: None,
            observed: None,
            cost: None,
            model: None,
            throttled: false,
            claimed: false,
            told: false,
            first_token: None,
            quota: None,
        };
        if record.open.is_none() {
            record.open = Some(call);
        } else {
            record.more_open.push(call);
        }
        number
    }
}

impl fmt::Debug for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Item")
            .field("id", &self.id)
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}
