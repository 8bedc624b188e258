//! One item's identity and accounts, shared by the request, the layers and the driver.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::time::Instant;

use crate::classify::ReportedQuota;
use crate::error::LlmError;
use crate::request::LlmRequest;
use crate::state::RetryState;
use crate::usage::TokenUsage;

/// What names an item: a text given by the user, or its index in the batch.
///
/// An id need not be unique; the index is. Two ids are equal when they read the same.
///
/// ```
/// use llm_batch::ItemId;
/// assert_eq!(ItemId::from(7_u64), ItemId::from("7"));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ItemId {
    /// No id was given: the item's index, from 0.
    Index(u64),
    /// The id that was given.
    Text(Arc<str>),
}

impl fmt::Display for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index(index) => write!(f, "{index}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl PartialEq for ItemId {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Index(a), Self::Index(b)) => a == b,
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::Index(index), Self::Text(text)) | (Self::Text(text), Self::Index(index)) => {
                *index.to_string() == **text
            }
        }
    }
}

impl Eq for ItemId {}

impl PartialEq<str> for ItemId {
    fn eq(&self, other: &str) -> bool {
        match self {
            Self::Index(index) => index.to_string() == other,
            Self::Text(text) => **text == *other,
        }
    }
}

impl PartialEq<&str> for ItemId {
    fn eq(&self, other: &&str) -> bool {
        *self == **other
    }
}

impl std::hash::Hash for ItemId {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        match self {
            Self::Index(index) => index.to_string().as_str().hash(state),
            Self::Text(text) => text.hash(state),
        }
    }
}

impl From<&str> for ItemId {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for ItemId {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<Arc<str>> for ItemId {
    fn from(text: Arc<str>) -> Self {
        Self::Text(text)
    }
}

impl From<u64> for ItemId {
    fn from(index: u64) -> Self {
        Self::Index(index)
    }
}

impl From<u32> for ItemId {
    fn from(index: u32) -> Self {
        Self::Index(index.into())
    }
}

impl From<usize> for ItemId {
    fn from(index: usize) -> Self {
        Self::Index(index as u64)
    }
}

impl From<i32> for ItemId {
    fn from(number: i32) -> Self {
        Self::from(i64::from(number))
    }
}

impl From<i64> for ItemId {
    fn from(number: i64) -> Self {
        u64::try_from(number).map_or_else(|_| Self::Text(number.to_string().into()), Self::Index)
    }
}

impl Serialize for ItemId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ItemId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

/// What an item waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WaitReason {
    /// The gate was closed after a throttle.
    Cooldown,
    /// The request quota (RPM).
    Requests,
    /// The token quota (TPM).
    Tokens,
    /// The gate's cap on calls in flight.
    InFlight,
    /// The gate spaces starts: startup ramp, or the resume after a throttle.
    Pace,
    /// The backoff before a retry.
    Backoff,
}

impl WaitReason {
    /// All reasons, in the order of [`Waits::iter`].
    pub const ALL: [Self; 6] = [
        Self::Cooldown,
        Self::Requests,
        Self::Tokens,
        Self::InFlight,
        Self::Pace,
        Self::Backoff,
    ];

    /// The name in metrics and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cooldown => "cooldown",
            Self::Requests => "requests",
            Self::Tokens => "tokens",
            Self::InFlight => "in_flight",
            Self::Pace => "pace",
            Self::Backoff => "backoff",
        }
    }
}

/// Time waited, by reason. In JSON: seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Waits {
    /// The gate was closed after a throttle.
    #[serde(with = "crate::serde_seconds")]
    pub cooldown: Duration,
    /// The request quota (RPM).
    #[serde(with = "crate::serde_seconds")]
    pub requests: Duration,
    /// The token quota (TPM).
    #[serde(with = "crate::serde_seconds")]
    pub tokens: Duration,
    /// The gate's cap on calls in flight.
    #[serde(with = "crate::serde_seconds")]
    pub in_flight: Duration,
    /// The gate spaces starts.
    #[serde(with = "crate::serde_seconds")]
    pub pace: Duration,
    /// The backoff before a retry.
    #[serde(with = "crate::serde_seconds")]
    pub backoff: Duration,
}

impl Waits {
    /// Adds `time` to what was waited for `reason`.
    pub fn add(&mut self, reason: WaitReason, time: Duration) {
        let slot = match reason {
            WaitReason::Cooldown => &mut self.cooldown,
            WaitReason::Requests => &mut self.requests,
            WaitReason::Tokens => &mut self.tokens,
            WaitReason::InFlight => &mut self.in_flight,
            WaitReason::Pace => &mut self.pace,
            WaitReason::Backoff => &mut self.backoff,
        };
        *slot = slot.saturating_add(time);
    }

    /// The time waited for one reason.
    pub const fn get(&self, reason: WaitReason) -> Duration {
        match reason {
            WaitReason::Cooldown => self.cooldown,
            WaitReason::Requests => self.requests,
            WaitReason::Tokens => self.tokens,
            WaitReason::InFlight => self.in_flight,
            WaitReason::Pace => self.pace,
            WaitReason::Backoff => self.backoff,
        }
    }

    /// Every reason with its time.
    pub fn iter(&self) -> impl Iterator<Item = (WaitReason, Duration)> + '_ {
        WaitReason::ALL
            .into_iter()
            .map(|reason| (reason, self.get(reason)))
    }

    /// All waits together.
    pub fn total(&self) -> Duration {
        self.iter()
            .map(|(_, time)| time)
            .fold(Duration::ZERO, Duration::saturating_add)
    }
}

/// The accounts of one item over all its calls.
///
/// `usage` holds what is known; each of the `unknown_usage_calls` may have cost something on top.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ItemReport {
    /// Attempts: what the retry budget counts, from 1. A throttled call does not advance it.
    pub attempts: u32,
    /// Physical requests.
    pub calls: u32,
    /// How many of the calls were throttled.
    pub throttled_calls: u32,
    /// Known usage over **all** calls, failed ones too.
    pub usage: TokenUsage,
    /// Calls whose usage is not known: cut, timed out, cancelled, or never observed.
    pub unknown_usage_calls: u32,
    /// Time waited, by reason.
    pub waits: Waits,
    /// Time inside calls.
    #[serde(with = "crate::serde_seconds")]
    pub call_time: Duration,
    /// From the moment the item was picked up to its outcome.
    #[serde(with = "crate::serde_seconds")]
    pub total_time: Duration,
}

/// One item's identity, retry state, deadline and accounts.
///
/// The request and the driver hold the same one, so what an item did survives a panic or an abort. Users meet it
/// through [`LlmRequest`]; its methods for writing are for authors of layers and strategies.
pub struct Item {
    id: ItemId,
    index: u64,
    started: Instant,
    state: RetryState,
    stop_requested: AtomicBool,
    record: Mutex<Record>,
}

#[derive(Default)]
struct Record {
    report: ItemReport,
    deadline: Option<Instant>,
    deadline_missed: bool,
    throttled_until: Option<Instant>,
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
    throttled: bool,
    claimed: bool,
    told: bool,
    quota: Option<ReportedQuota>,
}

impl Record {
    /// A call that may have taken place has ended: counts it if no layer watches.
    fn settle(&mut self, sent: bool) {
        self.expectation = Expectation::Settled;
        if sent && !self.observed && !self.answered_without_call {
            self.report.calls += 1;
            self.report.unknown_usage_calls += 1;
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
    /// A new item, picked up now. Strategies outside a batch get one through [`LlmRequest::new`].
    pub fn new(id: ItemId, index: u64) -> Arc<Self> {
        let mut record = Record::default();
        record.report.attempts = 1;
        Arc::new(Self {
            id,
            index,
            started: Instant::now(),
            state: RetryState::default(),
            stop_requested: AtomicBool::new(false),
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
        self.record().throttled_until = Some(until);
    }

    /// For retry policies: until when a gate will hold the item's next call after the throttle it just met. `None`
    /// means that no gate will, and the policy has to wait itself.
    pub fn throttled_until(&self) -> Option<Instant> {
        self.record().throttled_until
    }

    /// For gates, when the item comes back: takes what [`set_throttled_until`](Self::set_throttled_until) noted.
    pub fn take_throttled_until(&self) -> Option<Instant> {
        self.record().throttled_until.take()
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
            match call.observed.flatten() {
                Some(usage) => report.usage += usage,
                None => report.unknown_usage_calls += 1,
            }
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
            throttled: false,
            claimed: false,
            told: false,
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
            let report = &mut record.report;
            report.call_time = report
                .call_time
                .saturating_add(ended.saturating_duration_since(call.started));
            report.throttled_calls += u32::from(call.throttled);
            match call.observed.flatten() {
                Some(usage) => report.usage += usage,
                None => report.unknown_usage_calls += 1,
            }
        }
    }
}

/// How a layer finds the record of the item that a request belongs to.
///
/// A type parameter of this crate's layers, because no trait on the request type could be implemented for requests
/// of other crates. The default is [`InRequest`]; `.untracked()` on a layer chooses [`Untracked`].
pub trait FindItem<Req> {
    /// The item, if the request carries one.
    fn item<'a>(&self, request: &'a Req) -> Option<&'a Arc<Item>>;

    /// A guard on the request's current call, opened if no outer layer has.
    fn call(&self, request: &mut Req) -> Option<CallGuard>;

    /// As [`call`](Self::call), for a layer that has read the clock: a call that is opened starts at `at`.
    fn call_at(&self, request: &mut Req, _at: Instant) -> Option<CallGuard> {
        self.call(request)
    }
}

/// Finds the item in an [`LlmRequest`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InRequest;

impl<I> FindItem<LlmRequest<I>> for InRequest {
    fn item<'a>(&self, request: &'a LlmRequest<I>) -> Option<&'a Arc<Item>> {
        Some(request.item())
    }

    fn call(&self, request: &mut LlmRequest<I>) -> Option<CallGuard> {
        Some(request.open_call())
    }

    fn call_at(&self, request: &mut LlmRequest<I>, at: Instant) -> Option<CallGuard> {
        Some(request.open_call_at(|| at))
    }
}

/// Finds nothing: for requests of other crates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Untracked;

impl<Req> FindItem<Req> for Untracked {
    fn item<'a>(&self, _: &'a Req) -> Option<&'a Arc<Item>> {
        None
    }

    fn call(&self, _: &mut Req) -> Option<CallGuard> {
        None
    }
}

impl<I> LlmRequest<I> {
    /// For authors of layers and strategies: a guard on the current physical call, opened if no outer layer has.
    ///
    /// Keep the guard until the call has ended, and tell it what was used with [`CallGuard::observe`].
    pub fn open_call(&mut self) -> CallGuard {
        self.open_call_at(Instant::now)
    }

    fn open_call_at(&mut self, at: impl FnOnce() -> Instant) -> CallGuard {
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
