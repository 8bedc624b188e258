//! The waiters of this process, and the pumps that let them through.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime;
use tokio::time::Instant;

use super::scope::Scope;
use super::slot::{Offered, Slot};
use super::{Admission, Effects, Hold};
use crate::error::Refused;
use crate::item::{WaitReason, Waits};
use crate::layer::rate_limiter::gate::waits::{Timeline, Waited};
use crate::layer::rate_limiter::priority::{Priority, Rota};
use crate::request::TokenEstimate;

/// A grant that a waiter has not taken up after this time goes to the next one: the waiter's runtime stands still.
const TAKE_UP: Duration = Duration::from_millis(1_500);

/// A place in the queue. Those that rejoin at the head sort before all others of their class, in the order of their
/// rejoining.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::layer::rate_limiter) struct Ticket {
    class: Priority,
    tail: bool,
    number: u64,
}

impl Ticket {
    /// A place before all others of a class.
    const fn first_of(class: Priority) -> Self {
        Self {
            class,
            tail: false,
            number: 0,
        }
    }
}

pub(super) struct Waiter {
    class: Priority,
    pub(super) estimate: TokenEstimate,
    since: Instant,
    mark: Waits,
    runtime: Option<runtime::Id>,
    pub(super) slot: Arc<Slot>,
}

/// Calls that wait.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Load {
    pub(super) calls: u64,
    /// The sum of their estimates.
    pub(super) tokens: u64,
}

impl Load {
    const fn add(&mut self, waiter: &Waiter) {
        self.calls += 1;
        self.tokens = self.tokens.saturating_add(waiter.estimate.total());
    }

    const fn remove(&mut self, waiter: &Waiter) {
        self.calls -= 1;
        self.tokens = self.tokens.saturating_sub(waiter.estimate.total());
    }
}

pub(super) struct Queue {
    waiters: BTreeMap<Ticket, Waiter>,
    rota: Rota,
    /// The waiters of each class, and the sum of their estimates.
    load: [Load; Priority::ALL.len()],
    next_ticket: u64,
    timeline: Timeline,
    /// Until when the pumps sleep.
    wake_at: Option<Instant>,
    pumps: Vec<runtime::Id>,
    /// Grants on their way to waiters, and until when they have to be taken up; in order.
    offers: VecDeque<(Instant, Arc<Slot>)>,
    current_runtime: fn() -> Option<runtime::Id>,
}

impl Queue {
    pub(super) fn new(strict: bool, current_runtime: fn() -> Option<runtime::Id>) -> Self {
        Self {
            waiters: BTreeMap::new(),
            rota: Rota::new(strict),
            load: Default::default(),
            next_ticket: 0,
            timeline: Timeline::default(),
            wake_at: None,
            pumps: Vec::new(),
            offers: VecDeque::new(),
            current_runtime,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.waiters.len()
    }

    /// Returns `true` if no call waits and no grant is on its way.
    pub(super) fn is_idle(&self) -> bool {
        self.waiters.is_empty() && self.offers.is_empty()
    }

    /// Returns the reason for which the head waits.
    pub(super) fn reason(&self) -> Option<WaitReason> {
        self.timeline.reason()
    }

    pub(super) const fn ticket(&mut self, class: Priority, at_head: bool) -> Ticket {
        let number = self.next_ticket;
        self.next_ticket += 1;
        Ticket {
            class,
            tail: !at_head,
            number,
        }
    }

    /// Returns `true` if the next call to be let through would be this one, were it in the queue.
    pub(super) fn is_head(&self, ticket: Ticket) -> bool {
        if self.waiters.is_empty() {
            return true;
        }
        let turn = self.rota.next(|class| class == ticket.class || self.has(class));
        turn == Some(ticket.class) && self.first_of(ticket.class).is_none_or(|first| ticket < first)
    }

    /// The next waiter to be let through: its place, its estimate and since when it waits.
    pub(super) fn head(&self) -> Option<(Ticket, TokenEstimate, Instant)> {
        let ticket = self.head_ticket()?;
        let waiter = self.waiters.get(&ticket)?;
        Some((ticket, waiter.estimate, waiter.since))
    }

    fn head_ticket(&self) -> Option<Ticket> {
        let (&first, _) = self.waiters.first_key_value()?;
        let (&last, _) = self.waiters.last_key_value()?;
        if first.class == last.class {
            return Some(first);
        }
        self.first_of(self.rota.next(|class| self.has(class))?)
    }

    /// The first place of a class.
    fn first_of(&self, class: Priority) -> Option<Ticket> {
        let (&ticket, _) = self.waiters.range(Ticket::first_of(class)..).next()?;
        (ticket.class == class).then_some(ticket)
    }

    fn has(&self, class: Priority) -> bool {
        self.first_of(class).is_some()
    }

    /// A call of this class was let through.
    pub(super) fn note_grant(&mut self, class: Priority) {
        let waiters = &self.waiters;
        let waits = |class| {
            let next = waiters.range(Ticket::first_of(class)..).next();
            next.is_some_and(|(ticket, _)| ticket.class == class)
        };
        self.rota.granted(class, waits);
    }

    pub(super) fn insert(
        &mut self,
        ticket: Ticket,
        estimate: TokenEstimate,
        now: Instant,
        runtime: Option<runtime::Id>,
    ) -> Arc<Slot> {
        let slot = Arc::new(Slot::new());
        let waiter = Waiter {
            class: ticket.class,
            estimate,
            since: now,
            mark: self.timeline.totals(now),
            runtime,
            slot: Arc::clone(&slot),
        };
        self.put_back(ticket, waiter);
        slot
    }

    pub(super) fn put_back(&mut self, ticket: Ticket, waiter: Waiter) {
        self.load[waiter.class as usize].add(&waiter);
        self.waiters.insert(ticket, waiter);
    }

    fn take(&mut self, ticket: Ticket) -> Option<Waiter> {
        let waiter = self.waiters.remove(&ticket)?;
        self.load[waiter.class as usize].remove(&waiter);
        Some(waiter)
    }

    /// The calls that go before a new one of this class.
    pub(super) fn ahead_of(&self, class: Priority) -> Load {
        let mut ahead = Load::default();
        for load in &self.load[..=class as usize] {
            ahead.calls += load.calls;
            ahead.tokens = ahead.tokens.saturating_add(load.tokens);
        }
        ahead
    }

    pub(super) fn pop_head(&mut self) -> Option<Waiter> {
        let head = self.head_ticket()?;
        self.take(head)
    }

    /// A waiter has gone: what it waited for, if it was still here.
    pub(super) fn remove(&mut self, ticket: Ticket, now: Instant) -> Option<Box<Waited>> {
        let waiter = self.take(ticket)?;
        Some(self.timeline.waited(waiter.since, &waiter.mark, now))
    }

    pub(super) fn grant_head(&mut self, admission: Admission, now: Instant, effects: &mut Effects) {
        if let Some(waiter) = self.pop_head() {
            self.grant(waiter, admission, now, effects);
        }
    }

    pub(super) fn grant(
        &mut self,
        waiter: Waiter,
        mut admission: Admission,
        now: Instant,
        effects: &mut Effects,
    ) {
        self.note_grant(waiter.class);
        admission.waited = Some(self.timeline.waited(waiter.since, &waiter.mark, now));
        self.forget_taken();
        self.offers.push_back((now + TAKE_UP, Arc::clone(&waiter.slot)));
        effects.replies.push((waiter.slot, Ok(admission)));
    }

    pub(super) fn refuse_head(&mut self, refused: Refused, effects: &mut Effects) {
        if let Some(waiter) = self.pop_head() {
            effects.replies.push((waiter.slot, Err(refused)));
        }
    }

    /// Lets those go whose calls are refused.
    pub(super) fn refuse(
        &mut self,
        refusal: impl Fn(&TokenEstimate) -> Option<Refused>,
        effects: &mut Effects,
    ) {
        let load = &mut self.load;
        self.waiters.retain(|_, waiter| match refusal(&waiter.estimate) {
            Some(refused) => {
                load[waiter.class as usize].remove(waiter);
                effects.replies.push((Arc::clone(&waiter.slot), Err(refused)));
                false
            }
            None => true,
        });
    }

    fn forget_taken(&mut self) {
        while self.offers.front().is_some_and(|(_, slot)| slot.is_over()) {
            self.offers.pop_front();
        }
    }

    /// Takes back the grants that were not taken up in time.
    pub(super) fn take_back(&mut self, now: Instant, effects: &mut Effects, scope: &mut Scope) {
        if self.offers.is_empty() {
            return;
        }
        self.forget_taken();
        while self.offers.front().is_some_and(|(until, _)| *until <= now) {
            let Some((_, slot)) = self.offers.pop_front() else {
                return;
            };
            match slot.withdraw() {
                Offered::Over => {}
                Offered::UnderWay => self.offers.push_back((now + TAKE_UP, slot)),
                Offered::Untaken(admission) => scope.give_back(&admission, &mut effects.notices),
            }
        }
    }

    /// Notes what the head waits for; `None` if there is none.
    pub(super) fn hold(&mut self, hold: Option<Hold>, now: Instant, effects: &mut Effects) {
        let anybody = self.timeline.reason().is_some();
        self.timeline.held(hold.map(|hold| hold.reason), now);
        let offered = self.offers.front().map(|(until, _)| *until);
        let until = hold.and_then(|hold| [hold.until, offered].into_iter().flatten().min());
        let earlier = match (self.wake_at, until) {
            (Some(old), Some(new)) => new < old,
            (None, Some(_)) => true,
            (_, None) => false,
        };
        // Without waiters the pumps end.
        if earlier || (hold.is_none() && anybody) {
            effects.wake_pumps = true;
        }
        self.wake_at = until;
    }

    // --- pumps ----------------------------------------------------------------------------------------------

    pub(super) fn has_pump(&self) -> bool {
        !self.pumps.is_empty()
    }

    /// Sees to it that the current runtime has a pump. Returns which one it is, if there is one.
    pub(super) fn need_pump(&mut self, effects: &mut Effects) -> Option<runtime::Id> {
        let runtime = (self.current_runtime)()?;
        if !self.pumps.contains(&runtime) {
            self.pumps.push(runtime);
            effects.spawn_pump = true;
        }
        Some(runtime)
    }

    pub(super) fn next_wake(&mut self, runtime: runtime::Id, idle: bool) -> Result<Option<Instant>, ()> {
        if self.waiters.is_empty() && idle {
            self.pumps.retain(|pump| *pump != runtime);
            return Err(());
        }
        self.forget_taken();
        Ok(self.wake_at)
    }

    pub(super) fn pump_died(&mut self, runtime: runtime::Id, effects: &mut Effects) {
        self.pumps.retain(|pump| *pump != runtime);
        let last = self.pumps.is_empty();
        let orphaned = |waiter: &Waiter| waiter.runtime.map_or(last, |id| id == runtime);
        self.waiters.retain(|_, waiter| {
            let goes = orphaned(waiter);
            if goes {
                self.load[waiter.class as usize].remove(waiter);
                effects.orphans.push(Arc::clone(&waiter.slot));
            }
            !goes
        });
    }
}
