//! The record behind an item's lock: its calls, its accounts, and whether another call may begin.

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

use super::handed::{HandedOver, Origin};
use super::report::ItemReport;
use super::signals::HeldItem;
use crate::error::{CallRefused, LlmError, ReportedQuota};
use crate::layer::rate_limiter::LearnedLimit;
use crate::usage::TokenUsage;
use crate::usd::Usd;

#[derive(Default)]
pub(super) struct Record {
    pub(super) report: ItemReport,
    pub(super) deadline: Option<Instant>,
    pub(super) deadline_missed: bool,
    pub(super) last_failure: Option<LlmError>,
    /// The total of the waits in the report.
    pub(super) waited: Duration,

    /// The batch is stopping: no call begins.
    pub(super) stopped: bool,
    /// It is stopping without waiting for calls.
    pub(super) cancelled: bool,
    /// The final report is made. No call may begin, and one that ends later is not counted.
    pub(super) closed: bool,
    /// A call did not begin because of a stop, a deadline or the end of the item.
    pub(super) refused: bool,
    /// A call was answered, so the item may still be processing an answer that is paid for.
    pub(super) answered: bool,
    /// The number of layers that hold the request back.
    pub(super) holds: u32,
    /// The requests inside services that no layer that watches calls has seen. More than one only with hedging.
    pub(super) handed: SmallVec<[HandedOver; 1]>,
    pub(super) last_hand_over: u32,
    /// A layer that watches calls has, or had, a request.
    pub(super) watched: bool,
    /// A layer has begun a call of this item.
    pub(super) begun: bool,
    /// Futures that wait to begin a call; woken by a stop, and after it by the end of a call.
    pub(super) waiting: Vec<Waker>,
    /// The number of times that `waiting` was woken by the end of a call.
    pub(super) wakes: u32,

    /// The open calls. More than one only with hedging and nested calls.
    pub(super) open: SmallVec<[OpenCall; 1]>,
    /// The duration of each ended call.
    pub(super) call_times: SmallVec<[Duration; 1]>,
    /// Distinguishes the calls, including those that are not counted in the end.
    last_key: u32,
    seldom: Option<Box<Seldom>>,
}

/// The rarely needed part of a record, boxed to keep the others small.
#[derive(Default)]
pub(super) struct Seldom {
    /// A gate holds the next call.
    pub(super) held: Option<HeldItem>,
    pub(super) cooldowns: Vec<(Instant, Instant)>,
    /// The provider's limit, as the gate of a throttled call knew it at the end of the next one.
    pub(super) learned: Option<LearnedLimit>,
    /// Refused futures that stay pending, as they have no error to fail with, each with the call around it. The driver ends the item.
    pub(super) abandoned: Vec<Option<Within>>,
    /// The calls that a layer outlives, each with a ledger that has counted it.
    outlived: Vec<(u32, usize)>,
}

/// The call around a request, and the number of the call's layers that are also around the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Within {
    pub(super) key: u32,
    pub(super) depth: u32,
}

/// A call that may be under way.
pub(super) struct OpenCall {
    pub(super) key: u32,
    /// The call in which it was begun.
    pub(super) parent: Option<u32>,
    /// The number of its request.
    request: u32,
    /// The number of nested layers and strategies that take part in it.
    pub(super) depth: u32,
    /// The number of these, without the outermost, that have not left it.
    pub(super) inside: u32,
    /// A layer inside waits before it sends: nothing has been sent, and nothing will be unless the call begins again.
    pub(super) held: bool,
    /// The hand-over that passed it to a service in which no layer watches calls. A request of another hand-over is a separate call.
    pub(super) handed_on: Option<u32>,
    /// A request that was passed on as this call was sent.
    pub(super) sent: bool,
    /// The depth of its innermost layer that was polled, after a stop, since the last check by a refused call beside it.
    pub(super) polled: u32,
    pub(super) started: Instant,
    // Set when an accounting layer sees its end; without one it ends with the opener's guard.
    pub(super) ended: Option<Instant>,
    pub(super) observed: Option<Option<TokenUsage>>,
    pub(super) cost: Option<Usd>,
    /// The provider and the model.
    pub(super) model: Option<(Arc<str>, Arc<str>)>,
    pub(super) throttled: bool,
    pub(super) answered: bool,
    pub(super) claimed: bool,
    pub(super) announced: bool,
    /// Accounting layers that have not seen its end.
    pub(super) accounting: u32,
    /// The number of calls inside it that no layer watched and that are not in a ledger yet.
    pub(super) unwatched: u32,
    /// The time of the first piece of a streamed answer.
    pub(super) first_token: Option<Instant>,
    pub(super) quota: Option<Box<ReportedQuota>>,
    /// The ledgers that have this call, by address: one in nearly all stacks.
    pub(super) ledgers: SmallVec<[usize; 1]>,
}

impl OpenCall {
    /// Adds the usage and cost of the call to the accounts, or counts them as unknown.
    fn account(&self, report: &mut ItemReport) {
        let usage = self.observed.flatten();
        match usage {
            Some(usage) => report.usage += usage,
            None => report.unknown_usage_calls += 1,
        }
        // Zero tokens cost nothing at any price.
        let nothing = usage.is_some_and(|usage| usage.total() == 0).then_some(Usd::ZERO);
        match self.cost.or(nothing) {
            Some(cost) => report.cost += cost,
            None => report.unknown_cost_calls += 1,
        }
    }
}

impl Record {
    #[inline]
    pub(super) fn new() -> Self {
        let mut record = Self::default();
        record.report.attempts = 1;
        record
    }

    /// The rarely needed fields, created if absent.
    pub(super) fn seldom(&mut self) -> &mut Seldom {
        self.seldom.get_or_insert_default()
    }

    /// The rarely needed fields, if present.
    pub(super) fn seldom_if_any(&mut self) -> Option<&mut Seldom> {
        self.seldom.as_deref_mut()
    }

    /// Returns `true` if a gate has noted that it will hold the item.
    #[inline]
    pub(super) fn is_throttle_noted(&self) -> bool {
        let seldom = self.seldom.as_deref();
        seldom.is_some_and(|seldom| seldom.held.is_some())
    }

    /// The futures that were refused and wait for ever.
    fn abandoned(&self) -> &[Option<Within>] {
        self.seldom.as_deref().map_or(&[], |seldom| &seldom.abandoned)
    }

    /// Checks that a call may begin `now`, which is asked only of an item with a deadline. If not, it notes that one was refused.
    #[inline]
    pub(super) fn may_begin(&mut self, now: impl FnOnce() -> Instant) -> Result<(), CallRefused> {
        self.may_go_on()?;
        if self.deadline.is_some_and(|deadline| deadline <= now()) {
            self.refused = true;
            self.deadline_missed = true;
            return Err(CallRefused::DeadlinePassed);
        }
        Ok(())
    }

    /// As [`may_begin`](Self::may_begin), without the deadline.
    #[inline]
    pub(super) fn may_go_on(&mut self) -> Result<(), CallRefused> {
        if self.stopped || self.closed {
            self.refused = true;
            return Err(CallRefused::Stopped);
        }
        Ok(())
    }

    /// Begins a call that was not begun further out; if `held`, it does not count as sent yet. Returns its key and number.
    pub(super) fn begin(
        &mut self,
        now: Instant,
        held: bool,
        parent: Option<u32>,
        origin: Origin,
    ) -> Result<(u32, u32), CallRefused> {
        // Even if refused: without a begun call nothing is sent.
        self.watch(origin);
        self.begun = true;
        self.may_begin(|| now)?;
        self.report.calls += 1;
        self.last_key = self.last_key.wrapping_add(1);
        let (key, number) = (self.last_key, self.report.calls);
        let call = OpenCall {
            key,
            parent,
            request: origin.request,
            depth: 1,
            inside: 0,
            held,
            handed_on: None,
            sent: false,
            polled: 0,
            started: now,
            ended: None,
            observed: None,
            cost: None,
            model: None,
            throttled: false,
            answered: false,
            claimed: false,
            announced: false,
            accounting: 0,
            unwatched: 0,
            first_token: None,
            quota: None,
            ledgers: SmallVec::new(),
        };
        self.open.push(call);
        Ok((key, number))
    }

    /// The opener's guard was dropped: adds the call to the accounts, unless nothing was sent.
    pub(super) fn end(&mut self, key: u32) {
        let Some(position) = self.open.iter().position(|call| call.key == key) else {
            return;
        };
        let call = &self.open[position];
        if self.closed {
            // The final report has it in its state of that time.
        } else if call.held {
            self.report.calls -= 1;
        } else {
            let ended = call.ended.unwrap_or_else(Instant::now);
            let time = ended.saturating_duration_since(call.started);
            self.call_times.push(time);
            let report = &mut self.report;
            report.call_time = report.call_time.saturating_add(time);
            if let Some(first) = call.first_token {
                report.time_to_first_token = Some(first.saturating_duration_since(call.started));
            }
            report.throttled_calls += u32::from(call.throttled);
            call.account(report);
            let paid = call.observed.flatten().is_some_and(|usage| usage.total() > 0);
            self.answered |= call.answered || paid;
        }
        if call.accounting > 0 {
            let ledgers = call.ledgers.iter().map(|ledger| (key, *ledger));
            let seldom = self.seldom.get_or_insert_default();
            seldom.outlived.extend(ledgers);
        }
        if self.open.len() == 1 {
            self.open.clear();
        } else {
            self.open.swap_remove(position);
        }
    }

    /// Records that `ledger` has the call with this key, whose opener's guard was dropped before. Returns `false` if it already had it.
    pub(super) fn enters_outlived(&mut self, key: u32, ledger: usize) -> bool {
        let entry = (key, ledger);
        let outlived = &mut self.seldom().outlived;
        let enters = !outlived.contains(&entry);
        if enters {
            outlived.push(entry);
        }
        enters
    }

    /// Returns `true` if no other call has begun since the one with this key.
    pub(super) fn is_last(&self, key: u32) -> bool {
        self.last_key == key
    }

    /// Returns `true` if a request is inside a service in which no layer watches calls, which may be in a call.
    pub(super) fn is_unwatched(&self) -> bool {
        self.handed.iter().any(HandedOver::is_under_way)
    }

    /// Returns `true` if a call is or may be under way: a service in which no layer watches calls counts as being in one.
    pub(super) fn call_under_way(&self) -> bool {
        self.is_unwatched() || self.open.iter().any(|call| !call.held)
    }

    /// Checks the calls of other clones of the request with this number: those begun within the same call, and the shared call
    /// `within` itself. Returns whether one was polled since the last check; `None` if none is under way.
    pub(super) fn look_beside(&mut self, within: Option<Within>, request: u32) -> Option<bool> {
        let key = within.map(|within| within.key);
        let calls = self.open.iter_mut().filter_map(|call| {
            // The shared call around both: layers further in are still working on it.
            let joined = within.filter(|within| within.key == call.key && call.inside >= within.depth);
            let own = call.parent == key && call.request == request;
            let depth = joined.map(|within| within.depth).or(own.then_some(0))?;
            (!call.held).then(|| std::mem::take(&mut call.polled) > depth)
        });
        let handed = self.handed.iter_mut().filter(|handed| {
            handed.is_under_way() && handed.within == key && handed.request == Some(request)
        });
        calls
            .chain(handed.map(|handed| std::mem::take(&mut handed.polled)))
            .reduce(|one, other| one | other)
    }

    /// Returns `true` if `key` is the call `within`, or a call around it.
    fn is_around(&self, key: u32, within: Option<Within>) -> bool {
        let mut within = within.map(|within| within.key);
        while let Some(inner) = within {
            if inner == key {
                return true;
            }
            within = self
                .open
                .iter()
                .find(|call| call.key == inner)
                .and_then(|call| call.parent);
        }
        false
    }

    /// Returns `true` if a call is under way in which no abandoned future waits.
    fn is_at_work_beside_abandoned(&self) -> bool {
        self.is_unwatched()
            || self.open.iter().any(|call| {
                let mut abandoned = self.abandoned().iter();
                !call.held && !abandoned.any(|within| self.is_around(call.key, *within))
            })
    }

    /// Returns `true` if the driver must end the item, because of a stop, because it has its final report, or because only futures
    /// that cannot end are left. A drain ends it unless the item is in a call, or processes an answer that is paid for.
    pub(super) fn must_end(&self) -> bool {
        if self.closed {
            return true;
        }
        if !self.abandoned().is_empty() && (self.stopped || self.deadline_missed) {
            return self.cancelled || !self.is_at_work_beside_abandoned();
        }
        let idle = (self.handed.is_empty() && !self.watched) || self.holds > 0 || self.refused;
        self.stopped && (self.cancelled || (idle && !self.answered && !self.call_under_way()))
    }

    /// Marks the call `within` as not sent, unless a layer inside has joined it: another clone of the request may be sent as it.
    pub(super) fn take_back(&mut self, within: Within) {
        if let Some(call) = self.call(within.key)
            && call.depth == within.depth
            && !call.sent
        {
            call.handed_on = None;
            call.held = true;
        }
    }

    /// The call `joined`, if this request is it: the first of its clones that is handed on.
    #[inline]
    pub(super) fn own_call(&mut self, joined: Within, origin: Origin) -> Option<&mut OpenCall> {
        self.call(joined.key).filter(|call| {
            let is_own = call.handed_on.is_none_or(|id| id == origin.hand_over);
            call.depth == joined.depth && is_own
        })
    }

    /// Wakes `waker` at a stop, and after it at the end of a call.
    pub(super) fn register(&mut self, waker: &Waker) {
        if !self.waiting.iter().any(|waiting| waiting.will_wake(waker)) {
            self.waiting.push(waker.clone());
        }
    }

    /// The accounts including the open calls: each counts with its observed usage, or as unknown. Possible calls count, too.
    pub(super) fn report_with_open(&self) -> ItemReport {
        let mut report = self.report;
        for _ in &self.handed {
            report.add_unwatched();
        }
        for call in &self.open {
            if call.held {
                report.calls -= 1;
            } else {
                report.throttled_calls += u32::from(call.throttled);
                call.account(&mut report);
            }
        }
        report
    }

    #[inline]
    pub(super) fn call(&mut self, key: u32) -> Option<&mut OpenCall> {
        self.open.iter_mut().find(|call| call.key == key)
    }
}
