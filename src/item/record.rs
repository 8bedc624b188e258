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
    /// Futures that were refused and wait for ever, as they have no error to fail with: the driver ends the item.
    pub(super) abandoned: u32,
    /// A call was answered, so that the item may still be at work on what is paid for.
    pub(super) answered: bool,
    /// Layers that hold the request back until they may let a call begin.
    pub(super) holds: u32,
    pub(super) handed: Handed,
    /// A layer has begun a call of this item: those that it hands over it watches.
    pub(super) begun: bool,
    /// The driver handed the request over, and no layer has since.
    handed_by_driver: bool,
    /// When the request was last handed over, and how long the item had waited by then.
    handed_since: Option<(Instant, Duration)>,
    /// How long the call took of which it is not known whether it was sent.
    undecided_time: Duration,
    /// Futures that wait to begin a call, to be woken by a stop, and after it by the end of a call.
    pub(super) waiting: Vec<Waker>,

    pub(super) open: Option<OpenCall>,
    // Only hedging opens two calls of one item at once.
    pub(super) more_open: Vec<OpenCall>,
    // How long each ended call took; the first one apart, since most items make one call.
    pub(super) first_call_time: Option<Duration>,
    pub(super) more_call_times: Vec<Duration>,
    /// The ledgers that have calls of which a layer outlives the end.
    outlived: Vec<(u32, usize)>,
    /// Distinguishes the calls, also those that are not counted in the end.
    last_key: u32,
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
    /// It has ended, and nothing says whether a call was sent.
    Undecided,
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
    /// It was handed to a service that no layer watches: another request like it is a call of its own.
    pub(super) handed_on: bool,
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

    /// Begins a call that no layer further out has begun, or prepares one that is still `held`. Returns its key and number.
    pub(super) fn begin(&mut self, now: Instant, held: bool) -> Result<(u32, u32), CallRefused> {
        // Refused or not: what is not begun here does not take place.
        self.watch();
        self.begun = true;
        self.may_begin(now)?;
        self.report.calls += 1;
        self.last_key = self.last_key.wrapping_add(1);
        let (key, number) = (self.last_key, self.report.calls);
        let call = OpenCall {
            key,
            depth: 1,
            held,
            handed_on: false,
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
        let ended = match more {
            Some(position) => Some(self.more_open.swap_remove(position)),
            None => self.open.take(),
        };
        if let Some(call) = ended.filter(|call| call.accounting > 0) {
            let ledgers = call.ledger.into_iter().chain(call.more_ledgers);
            self.outlived.extend(ledgers.map(|ledger| (key, ledger)));
        }
    }

    /// Whether `ledger` is to have the call with this key, whose opener's guard was dropped before. It has it from now on.
    pub(super) fn enters_outlived(&mut self, key: u32, ledger: usize) -> bool {
        let entry = (key, ledger);
        let enters = !self.outlived.contains(&entry);
        if enters {
            self.outlived.push(entry);
        }
        enters
    }

    /// Whether no other call has begun since the one with this key.
    pub(super) fn is_last(&self, key: u32) -> bool {
        self.last_key == key
    }

    /// The request is handed to a service, which may begin a call.
    pub(super) fn hand_over(&mut self, now: Instant, by_driver: bool) {
        self.count_undecided();
        self.handed = Handed::Entering;
        self.handed_by_driver = by_driver;
        self.handed_since = Some((now, self.waited));
    }

    /// Whether the driver has handed the request over in the poll that runs, and no layer has it yet.
    pub(super) fn is_entering_by_driver(&self) -> bool {
        self.handed == Handed::Entering && self.handed_by_driver
    }

    /// A layer that watches calls has the request.
    pub(super) fn watch(&mut self) {
        self.count_undecided();
        self.handed = Handed::Watched;
    }

    /// The item goes on after a call of which it is not known whether it was sent: it counts.
    fn count_undecided(&mut self) {
        if self.handed == Handed::Undecided {
            self.count_unwatched(self.undecided_time);
        }
    }

    /// Counts a call that no layer watched, with unknown usage.
    fn count_unwatched(&mut self, time: Duration) {
        if self.closed {
            // It is in the final report as it was then.
            return;
        }
        let report = &mut self.report;
        report.call_time = report.call_time.saturating_add(time);
        report.calls += 1;
        report.unknown_usage_calls += 1;
        report.unknown_cost_calls += 1;
    }

    /// How long a call took that no layer watched and that ended at `at`: what has passed since the request was handed over,
    /// without waits.
    fn unwatched_time(&self, at: Instant) -> Duration {
        let Some((since, waited)) = self.handed_since else {
            return Duration::ZERO;
        };
        let waits = self.waited.saturating_sub(waited);
        at.saturating_duration_since(since).saturating_sub(waits)
    }

    /// The call of a request that no layer watched ended `at` then: counts it, with unknown usage, if it was `sent`.
    pub(super) fn settle(
        &mut self,
        sent: impl FnOnce() -> bool,
        answered: bool,
        at: impl FnOnce() -> Instant,
    ) {
        let time = match self.handed {
            Handed::Entering | Handed::Unwatched => sent().then(|| self.unwatched_time(at())),
            Handed::Undecided => sent().then_some(self.undecided_time),
            Handed::No | Handed::Watched => None,
        };
        self.handed = Handed::No;
        if let Some(time) = time {
            self.count_unwatched(time);
        }
        self.answered |= answered;
    }

    /// As [`settle`](Self::settle), for a layer that hands requests on and may be called again by what is around it. What nothing is
    /// known of is left for the driver to decide.
    pub(super) fn settle_inside(&mut self, sent: Option<bool>, answered: bool) {
        self.answered |= answered;
        if !matches!(self.handed, Handed::Entering | Handed::Unwatched) {
            return;
        }
        let time = self.unwatched_time(Instant::now());
        self.handed = match sent {
            Some(sent) => {
                if sent {
                    self.count_unwatched(time);
                }
                Handed::Watched
            }
            None => {
                self.undecided_time = time;
                Handed::Undecided
            }
        };
    }

    /// Whether the driver's own hand-over is what no layer has watched.
    pub(super) fn is_unwatched_since_driver(&self) -> bool {
        self.handed_by_driver
            && matches!(
                self.handed,
                Handed::Entering | Handed::Unwatched | Handed::Undecided
            )
    }

    /// Whether a call is under way, or may be: a strategy that no layer watches is taken to be in one.
    pub(super) fn call_under_way(&self) -> bool {
        matches!(self.handed, Handed::Entering | Handed::Unwatched)
            || self.open_calls().any(|call| !call.held)
    }

    /// Whether a call other than the one with this key is under way.
    pub(super) fn others_under_way(&self, key: Option<u32>) -> bool {
        self.open_calls().any(|call| !call.held && Some(call.key) != key)
    }

    /// Whether a stop ends the item: a drain does if it is in no call, and at work on no answer that is paid for.
    pub(super) fn must_end(&self) -> bool {
        let idle = matches!(self.handed, Handed::No | Handed::Undecided) || self.holds > 0 || self.refused;
        let over = self.abandoned > 0 || (idle && !self.answered);
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
