//! The record behind an item's lock: its calls, its accounts, and whether another call may begin.

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

use super::report::ItemReport;
use crate::error::{CallRefused, LlmError, ReportedQuota};
use crate::usage::TokenUsage;
use crate::usd::Usd;

#[derive(Default)]
pub(super) struct Record {
    pub(super) report: ItemReport,
    pub(super) deadline: Option<Instant>,
    pub(super) deadline_missed: bool,
    /// Until when a gate holds the next call, and which one: its mark, or 0 if it did not say.
    pub(super) throttled_until: Option<(Instant, u64)>,
    pub(super) last_failure: Option<LlmError>,
    pub(super) cooldowns: Vec<(Instant, Instant)>,

    /// The batch is stopping: no call begins.
    pub(super) stopped: bool,
    /// It is stopping without waiting for calls.
    pub(super) cancelled: bool,
    /// The item has its final report: no call begins, and what ends now is not counted any more.
    pub(super) closed: bool,
    /// A call did not begin because of a stop, a deadline or the end of the item.
    pub(super) refused: bool,
    /// What was refused waits for ever, as it has no error to fail with: the driver ends the item.
    pub(super) abandoned: bool,
    /// A call was answered, so that the item may still be at work on what is paid for.
    pub(super) answered: bool,
    /// Layers that hold the request back until they may let a call begin.
    pub(super) holds: u32,
    pub(super) handed: Handed,
    /// A layer has begun a call of this item: those that it hands over it watches.
    pub(super) begun: bool,
    /// When the request was last handed over, and how long the item had waited by then.
    handed_since: Option<(Instant, Duration)>,
    /// Futures that wait to begin a call, to be woken by a stop.
    pub(super) waiting: Vec<Waker>,

    pub(super) open: Option<OpenCall>,
    // Only hedging opens two calls of one item at once.
    pub(super) more_open: Vec<OpenCall>,
    // How long each ended call took; the first one apart, since most items make one call.
    pub(super) first_call_time: Option<Duration>,
    pub(super) more_call_times: Vec<Duration>,
    /// Distinguishes the calls, also those that are not counted in the end.
    next_key: u32,
}

/// What became of the request that was handed to a service, as far as calls that no layer watches are concerned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Handed {
    /// It was handed to none, or the call that it led to is in the accounts.
    #[default]
    No,
    /// It is being handed over, in the poll that runs: the service may begin a call.
    Entering,
    /// No layer that watches calls has seen it since: the service may be in a call.
    Unwatched,
    /// A layer that watches calls has it: what is not begun there did not take place.
    Watched,
}

/// A call that may be under way.
pub(super) struct OpenCall {
    pub(super) key: u32,
    /// How many layers and strategies, one inside the other, take part in it.
    pub(super) depth: u32,
    /// A layer inside waits before it sends: nothing has been sent, and unless it begins again, nothing will be.
    pub(super) held: bool,
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
    /// When the first piece of a streamed answer came.
    pub(super) first_token: Option<Instant>,
    pub(super) quota: Option<ReportedQuota>,
    /// The ledgers that have this call, by address: one in nearly all stacks.
    pub(super) ledger: Option<usize>,
    pub(super) more_ledgers: Vec<usize>,
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
    /// Whether a call may begin at `now`. Otherwise it is noted that one was refused.
    pub(super) fn may_begin(&mut self, now: Instant) -> Result<(), CallRefused> {
        if self.stopped || self.closed {
            self.refused = true;
            return Err(CallRefused::Stopped);
        }
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.refused = true;
            self.deadline_missed = true;
            return Err(CallRefused::DeadlinePassed);
        }
        Ok(())
    }

    /// Begins a call that no layer further out has begun. Returns its key and number.
    pub(super) fn begin(&mut self, now: Instant) -> Result<(u32, u32), CallRefused> {
        // Refused or not: what is not begun here does not take place.
        self.handed = Handed::Watched;
        self.begun = true;
        self.may_begin(now)?;
        self.report.calls += 1;
        self.next_key = self.next_key.wrapping_add(1);
        let (key, number) = (self.next_key, self.report.calls);
        let call = OpenCall {
            key,
            depth: 1,
            held: false,
            started: now,
            ended: None,
            observed: None,
            cost: None,
            model: None,
            throttled: false,
            answered: false,
            claimed: false,
            announced: false,
            first_token: None,
            quota: None,
            ledger: None,
            more_ledgers: Vec::new(),
        };
        if self.open.is_none() {
            self.open = Some(call);
        } else {
            self.more_open.push(call);
        }
        Ok((key, number))
    }

    /// The opener's guard was dropped: the call enters the accounts, unless nothing was sent.
    pub(super) fn end(&mut self, key: u32) {
        let Self { open, more_open, .. } = self;
        let more = more_open.iter().position(|call| call.key == key);
        let call = match (open.as_ref(), more) {
            (_, Some(position)) => &more_open[position],
            (Some(call), None) if call.key == key => call,
            _ => return,
        };
        if self.closed {
            // It is in the final report as it was then.
        } else if call.held {
            self.report.calls -= 1;
        } else {
            let ended = call.ended.unwrap_or_else(Instant::now);
            let time = ended.saturating_duration_since(call.started);
            if self.first_call_time.is_none() {
                self.first_call_time = Some(time);
            } else {
                self.more_call_times.push(time);
            }
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
        match more {
            Some(position) => drop(self.more_open.swap_remove(position)),
            None => self.open = None,
        }
    }

    /// The request is handed to a service, which may begin a call.
    pub(super) fn hand_over(&mut self, now: Instant) {
        self.handed = Handed::Entering;
        self.handed_since = Some((now, self.report.waits.total()));
    }

    /// The call of a request that no layer watched ended `at` then: counts it, with unknown usage, if it was `sent`. Its time is
    /// what has passed since the request was handed over, without waits.
    pub(super) fn settle(&mut self, sent: bool, answered: bool, at: impl FnOnce() -> Instant) {
        let unwatched = matches!(self.handed, Handed::Entering | Handed::Unwatched);
        self.handed = Handed::No;
        if unwatched && sent {
            if let Some((since, waited)) = self.handed_since {
                let waits = self.report.waits.total().saturating_sub(waited);
                let time = at().saturating_duration_since(since).saturating_sub(waits);
                self.report.call_time = self.report.call_time.saturating_add(time);
            }
            self.report.calls += 1;
            self.report.unknown_usage_calls += 1;
            self.report.unknown_cost_calls += 1;
        }
        self.answered |= answered;
    }

    /// Whether a call is under way, or may be: a strategy that no layer watches is taken to be in one.
    pub(super) fn call_under_way(&self) -> bool {
        matches!(self.handed, Handed::Entering | Handed::Unwatched)
            || self.open_calls().any(|call| !call.held)
    }

    /// Whether a stop ends the item: a drain does if it is in no call, and at work on no answer that is paid for.
    pub(super) fn must_end(&self) -> bool {
        let idle = self.handed == Handed::No || self.holds > 0 || self.refused;
        let over = self.abandoned || (idle && !self.answered);
        self.stopped && (self.cancelled || (over && !self.call_under_way()))
    }

    /// The accounts with the calls that are still open: each counts as it was observed, or as unknown.
    pub(super) fn report_with_open(&self) -> ItemReport {
        let mut report = self.report;
        for call in self.open_calls() {
            if call.held {
                report.calls -= 1;
            } else {
                report.throttled_calls += u32::from(call.throttled);
                call.account(&mut report);
            }
        }
        report
    }

    fn open_calls(&self) -> impl Iterator<Item = &OpenCall> {
        self.open.iter().chain(&self.more_open)
    }

    pub(super) fn call(&mut self, key: u32) -> Option<&mut OpenCall> {
        self.open
            .iter_mut()
            .chain(&mut self.more_open)
            .find(|call| call.key == key)
    }
}
