//! Letting through with a store that several gates share: by pumps only, one call at a time.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::{Admission, Denied, Effects, Hold, State, Ticket, Waiter};
use crate::item::WaitReason;
use crate::layer::rate_limiter::store::StoreReport;

/// The exchange between the gate and a store that it shares.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// A pump is talking to the store.
    busy: bool,
    /// The wait that the store gave the head.
    hold: Option<(WaitReason, Instant)>,
    /// Reports not yet sent to the store.
    reports: VecDeque<StoreReport>,
}

impl Outbox {
    pub(super) fn hold(&self, now: Instant) -> Option<Hold> {
        let (reason, until) = self.hold.filter(|(_, until)| *until > now)?;
        Some(Hold {
            reason,
            until: Some(until),
        })
    }

    pub(super) const fn forget_hold(&mut self) {
        self.hold = None;
    }

    /// Takes the reports for the store, if there is one. Returns whether there were any.
    pub(super) fn take(&mut self, reports: &mut Vec<StoreReport>, shared: bool) -> bool {
        let news = shared && !reports.is_empty();
        if news {
            self.reports.extend(reports.drain(..));
        }
        reports.clear();
        news
    }

    pub(super) fn is_idle(&self) -> bool {
        self.reports.is_empty() && !self.busy
    }
}

/// The next step of a pump.
pub(in crate::layer::rate_limiter::gate) enum Turn {
    /// Report to the store.
    Report(StoreReport),
    /// Ask the store.
    Ask(Box<Candidate>),
    /// Nothing for the store.
    None,
}

/// The head of the queue, let through by the gate's own limits, while the store is asked.
pub(in crate::layer::rate_limiter::gate) struct Candidate {
    ticket: Ticket,
    admission: Admission,
    waiter: Waiter,
}

impl Candidate {
    /// The tokens it reserves.
    pub(in crate::layer::rate_limiter::gate) const fn tokens(&self) -> u64 {
        self.admission.call.call.estimate
    }
}

impl State {
    /// A pump takes the turn to talk to the store, unless another one has it.
    pub(in crate::layer::rate_limiter::gate) fn take_turn(
        &mut self,
        now: Instant,
        effects: &mut Effects,
    ) -> Turn {
        if !self.scope.is_shared() || self.outbox.busy {
            return Turn::None;
        }
        self.scope.open_if_due(now, &mut effects.notices);
        self.queue.take_back(now, effects, &mut self.scope);
        self.outbox.take(&mut effects.notices.reports, true);
        if let Some(report) = self.outbox.reports.pop_front() {
            self.outbox.busy = true;
            return Turn::Report(report);
        }
        while let Some((ticket, estimate, since)) = self.queue.head() {
            match self.admit(ticket, now, &estimate, since, effects) {
                Ok(admission) => match self.queue.pop_head() {
                    Some(waiter) => {
                        self.outbox.busy = true;
                        return Turn::Ask(Box::new(Candidate {
                            ticket,
                            admission,
                            waiter,
                        }));
                    }
                    None => return Turn::None,
                },
                Err(Denied::Hold(hold)) => {
                    self.queue.hold(Some(hold), now, effects);
                    return Turn::None;
                }
                Err(Denied::Refused(refused)) => self.queue.refuse_head(refused, effects),
            }
        }
        self.queue.hold(None, now, effects);
        Turn::None
    }

    /// The turn is over.
    pub(in crate::layer::rate_limiter::gate) const fn end_turn(&mut self, effects: &mut Effects) {
        self.outbox.busy = false;
        effects.wake_pumps = true;
    }

    /// The store gave permission, or could not answer.
    pub(in crate::layer::rate_limiter::gate) fn let_through(
        &mut self,
        candidate: Candidate,
        shared: bool,
        now: Instant,
        effects: &mut Effects,
    ) {
        let Candidate {
            mut admission,
            waiter,
            ..
        } = candidate;
        self.outbox.hold = None;
        admission.call.shared = shared;
        self.queue.grant(waiter, admission, now, effects);
    }

    /// The store gave no leave: the candidate is the head again, unless it has gone.
    pub(in crate::layer::rate_limiter::gate) fn put_back(
        &mut self,
        candidate: Candidate,
        hold: Option<(WaitReason, Instant)>,
        now: Instant,
        effects: &mut Effects,
    ) {
        let Candidate {
            ticket,
            admission,
            waiter,
        } = candidate;
        if hold.is_some() {
            self.outbox.hold = hold;
        }
        self.give_back(&admission, now, effects);
        if waiter.slot.is_over() {
            return;
        }
        match self.scope.refusal(&admission.estimate) {
            Some(refused) => effects.replies.push((waiter.slot, Err(refused))),
            None => self.queue.put_back(ticket, waiter),
        }
    }
}
