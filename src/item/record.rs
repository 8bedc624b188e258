//! The record behind an item's lock: its calls, its accounts, and whether another call may begin.

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

use super::handed::{HandedOver, Origin};
use super::report::ItemReport;
use crate::error::{CallRefused, LlmError, ReportedQuota};
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
    /// The item has its final report: no call begins, and what ends now is not counted any more.
    pub(super) closed: bool,
    /// A call did not begin because of a stop, a deadline or the end of the item.
    pub(super) refused: bool,
    /// A call was answered, so that the item may still be at work on what is paid for.
    pub(super) answered: bool,
    /// Layers that hold the request back until they may let a call begin.
    pub(super) holds: u32,
    /// The requests in the hands of services, where no layer that watches calls has seen them. Only hedging makes it several.
    pub(super) handed: SmallVec<[HandedOver; 1]>,
    pub(super) last_hand_over: u32,
    /// A layer that watches calls has, or had, a request.
    pub(super) watched: bool,
    /// A layer has begun a call of this item: those that it hands over it watches.
    pub(super) begun: bool,
    /// Futures that wait to begin a call, to be woken by a stop, and after it by the end of a call.
    pub(super) waiting: Vec<Waker>,
    /// The number of times that those were woken by the end of a call.
    pub(super) wakes: u32,

    /// Only hedging opens two calls of one item at once.
    pub(super) open: SmallVec<[OpenCall; 1]>,
    /// How long each ended call took.
    pub(super) call_times: SmallVec<[Duration; 1]>,
    /// Distinguishes the calls, also those that are not counted in the end.
    last_key: u32,
    seldom: Option<Box<Seldom>>,
}

/// The part of a record that few items need, so that the others are smaller.
#[derive(Default)]
pub(super) struct Seldom {
    /// Until when a gate holds the next call, and which one: its mark, or 0 if it did not say.
    pub(super) throttled_until: Option<(Instant, u64)>,
    pub(super) cooldowns: Vec<(Instant, Instant)>,
    /// Futures that were refused and wait for ever, as they have no error to fail with, each with the call around it: the driver
    /// ends the item.
    pub(super) abandoned: Vec<Option<Within>>,
    /// The ledgers that have calls of which a layer outlives the end.
    outlived: Vec<(u32, usize)>,
}

/// The call around a request, and the number of layers of it that are around the request, too.
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
    /// The number of layers and strategies, one inside the other, that take part in it.
    pub(super) depth: u32,
    /// The number of those below the outermost that have not left it.
    pub(super) inside: u32,
    /// A layer inside waits before it sends: nothing has been sent, and unless it begins again, nothing will be.
    pub(super) held: bool,
    /// The hand-over by which it is on its way to a service that no layer watches. The request of another one is a call of its own.
    pub(super) handed_on: Option<u32>,
    /// A request that was handed on as this call was sent.
    pub(super) sent: bool,
    /// The depth of the innermost layer of it that was polled after a stop, since a refused call beside it has looked.
    pub(super) polled: u32,
    pub(super) started: Instant,
    // When an accounting layer saw its end; without one it ends with the opener's guard.
    pub(super) ended: Option<Instant>,
    pub(super) observed: Option<Option<TokenUsage>>,
    pub(super) cost: Option<Usd>,
    /// The provider and the model that are asked.
    pub(super) model: Option<(Arc<str>, Arc<str>)>,
    pub(super) throttled: bool,
    pub(super) answered: bool,
    pub(super) claimed: bool,
    pub(super) announced: bool,
    /// Accounting layers that have not seen its end.
    pub(super) accounting: u32,
    /// Calls inside it that no layer watched, and that stand in no ledger yet.
    pub(super) unwatched: u32,
    /// The time of the first piece of a streamed answer.
    pub(super) first_token: Option<Instant>,
    pub(super) quota: Option<Box<ReportedQuota>>,
    /// The ledgers that have this call, by address: one in nearly all stacks.
    pub(super) ledgers: SmallVec<[usize; 1]>,
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
    #[inline]
    pub(super) fn new() -> Self {
        let mut record = Self::default();
        record.report.attempts = 1;
        record
    }

    /// The rarely needed fields, to write to.
    pub(super) fn seldom(&mut self) -> &mut Seldom {
        self.seldom.get_or_insert_default()
    }

    /// The rarely needed fields, if present.
    pub(super) fn seldom_if_any(&mut self) -> Option<&mut Seldom> {
        self.seldom.as_deref_mut()
    }

    /// The futures that were refused and wait for ever.
    fn abandoned(&self) -> &[Option<Within>] {
        self.seldom.as_deref().map_or(&[], |seldom| &seldom.abandoned)
    }

    /// Checks that a call may begin `now`, which is asked only of an item with a deadline. If not, it notes that one was refused.
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
    pub(super) fn may_go_on(&mut self) -> Result<(), CallRefused> {
        if self.stopped || self.closed {
            self.refused = true;
            return Err(CallRefused::Stopped);
        }
        Ok(())
    }

    /// Begins a call that no layer further out has begun, or prepares one that is still `held`. Returns its key and number.
    pub(super) fn begin(
        &mut self,
        now: Instant,
        held: bool,
        parent: Option<u32>,
        origin: Origin,
    ) -> Result<(u32, u32), CallRefused> {
        // Refused or not: what is not begun here does not take place.
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

    /// The opener's guard was dropped: the call enters the accounts, unless nothing was sent.
    pub(super) fn end(&mut self, key: u32) {
        let Some(position) = self.open.iter().position(|call| call.key == key) else {
            return;
        };
        let call = &self.open[position];
        if self.closed {
            // It is in the final report as it was then.
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

    /// Enters the call with this key, whose opener's guard was dropped before, for `ledger`. Returns `false` if that ledger has it.
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

    /// Returns `true` if a request is in the hands of a service that no layer watches, which may be in a call.
    pub(super) fn is_unwatched(&self) -> bool {
        self.handed.iter().any(HandedOver::is_under_way)
    }

    /// Returns `true` if a call is under way, or may be: a strategy that no layer watches is taken to be in one.
    pub(super) fn call_under_way(&self) -> bool {
        self.is_unwatched() || self.open.iter().any(|call| !call.held)
    }

    /// Returns whether a call of another clone of the request with this number, begun in the same surroundings, or as the very call
    /// `within` which both were sent, was polled since the last look; `None` if no such call is under way.
    pub(super) fn look_beside(&mut self, within: Option<Within>, request: u32) -> Option<bool> {
        let key = within.map(|within| within.key);
        let calls = self.open.iter_mut().filter_map(|call| {
            // As the call around both, it is at work beside this one in the layers further in.
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

    /// Returns `true` if `key` is the call `within`, or one around that.
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

    /// Returns `true` if the driver ends the item, because of a stop, because it has its final report, or because nothing is left in
    /// it that could end. A drain does unless the item is in a call, or at work on an answer that is paid for.
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

    /// Nothing was sent as the call `within`, unless a layer inside has joined it: the next request like it may be.
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
    pub(super) fn own_call(&mut self, joined: Within, origin: Origin) -> Option<&mut OpenCall> {
        self.call(joined.key).filter(|call| {
            let is_own = call.handed_on.is_none_or(|id| id == origin.hand_over);
            call.depth == joined.depth && is_own
        })
    }

    /// The futures to wake because a call, or a part of it, has ended. They wait for that only after a stop.
    pub(super) fn take_waiting(&mut self) -> Vec<Waker> {
        if !self.stopped {
            return Vec::new();
        }
        self.wakes = self.wakes.wrapping_add(1);
        std::mem::take(&mut self.waiting)
    }

    /// Wakes `waker` at a stop, and after it at the end of a call.
    pub(super) fn register(&mut self, waker: &Waker) {
        if !self.waiting.iter().any(|waiting| waiting.will_wake(waker)) {
            self.waiting.push(waker.clone());
        }
    }

    /// The accounts with the calls that are still open: each counts as it was observed, or as unknown. What may be a call counts,
    /// too.
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

    pub(super) fn call(&mut self, key: u32) -> Option<&mut OpenCall> {
        self.open.iter_mut().find(|call| call.key == key)
    }
}
