//! Letting through with a store that several gates share: by pumps only, one call at a time.

use tokio::time::Instant;

use super::{Admission, Effects, State, Waiter};
use crate::item::WaitReason;
use crate::layer::rate_limiter::store::StoreReport;

/// What a pump is to do next.
pub(crate) enum Turn {
    /// Tell the store.
    Report(StoreReport),
    /// Ask the store.
    Ask(Candidate),
    /// Nothing for the store.
    None,
}

/// The head of the queue, let through by the gate's own limits, while the store is asked.
pub(crate) struct Candidate {
    pub(crate) admission: Admission,
    waiter: Waiter,
}

impl State {
    /// Notes what the store is to be told.
    pub(super) fn report(&mut self, report: StoreReport, effects: &mut Effects) {
        if self.config.shared {
            self.reports.push_back(report);
            self.need_pump(effects);
            effects.wake_pumps();
        }
    }

    /// A pump takes the turn to talk to the store, unless another one has it.
    pub(crate) fn take_turn(&mut self, now: Instant, effects: &mut Effects) -> Turn {
        if !self.config.shared || self.store_busy {
            return Turn::None;
        }
        self.open_if_due(now, effects);
        if let Some(report) = self.reports.pop_front() {
            self.store_busy = true;
            return Turn::Report(report);
        }
        let Some((&ticket, waiter)) = self.queue.first_key_value() else {
            self.hold(None, now, effects);
            return Turn::None;
        };
        match self.admit(ticket, now, waiter.estimate, waiter.since) {
            Ok(admission) => match self.queue.pop_first() {
                Some((_, waiter)) => {
                    self.store_busy = true;
                    Turn::Ask(Candidate { admission, waiter })
                }
                None => Turn::None,
            },
            Err(hold) => {
                self.hold(Some(hold), now, effects);
                Turn::None
            }
        }
    }

    /// The turn is over.
    pub(crate) fn end_turn(&mut self, effects: &mut Effects) {
        self.store_busy = false;
        effects.wake_pumps();
    }

    /// The store gave leave, or could not tell.
    pub(crate) fn let_through(
        &mut self,
        candidate: Candidate,
        shared: bool,
        now: Instant,
        effects: &mut Effects,
    ) {
        let Candidate {
            mut admission,
            waiter,
        } = candidate;
        self.store_hold = None;
        admission.shared = shared;
        admission.waited = Some(self.timeline.waited(waiter.since, &waiter.mark, now));
        effects.reply(waiter.reply, Ok(admission));
    }

    /// The store gave no leave: the candidate is the head again, unless it has gone.
    pub(crate) fn put_back(
        &mut self,
        candidate: Candidate,
        hold: Option<(WaitReason, Instant)>,
        now: Instant,
        effects: &mut Effects,
    ) {
        let Candidate { admission, waiter } = candidate;
        if hold.is_some() {
            self.store_hold = hold;
        }
        self.give_back(&admission, now, effects);
        if waiter.reply.is_closed() {
            return;
        }
        match self.refusal(admission.estimate) {
            Some(refused) => effects.reply(waiter.reply, Err(refused)),
            None => {
                self.queue.insert(admission.ticket, waiter);
            }
        }
    }
}
