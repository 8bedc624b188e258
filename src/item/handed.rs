//! Requests that were passed to services in which calls may or may not be watched by a layer.

use std::time::Duration;

use tokio::time::Instant;

use super::record::{Record, Within};
use super::{Item, current};

/// The hand-over that delivered a request, and the request's number within its item, shared by its clones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// 0 if it came from the driver.
    pub(super) hand_over: u32,
    pub(super) request: u32,
    /// It was made in a task spawned by the item's work, so the hand-over is unknown.
    pub(super) spawned: bool,
}

/// The way in which a request was passed on; settled once the service has answered.
#[derive(Clone, Copy, Debug)]
pub(crate) enum HandedOn {
    /// As the call that a layer further out has begun.
    AsCall(Within),
    /// As a possible call, which is counted unless a layer inside begins one: the number of this hand-over, and the number of the
    /// one that delivered the request.
    Unwatched { id: u32, from: u32 },
}

/// A request that a service is processing and that no layer that watches calls has seen. Each one may be a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct HandedOver {
    pub(super) id: u32,
    /// The number of its request; `None` for the driver, which hands over an item, not a request.
    pub(super) request: Option<u32>,
    /// The call around it.
    pub(super) within: Option<u32>,
    pub(super) state: Handed,
    /// It was handed over by the driver, and not by a layer since then.
    pub(super) by_driver: bool,
    /// It was polled, after a stop, since the last check by a refused call beside it.
    pub(super) polled: bool,
    /// The number of requests made for the item before the hand-over: later ones may have been made inside.
    requests: u32,
    /// It happened in a task spawned by the item's work.
    spawned: bool,
    /// Of the driver's, the end of the poll that handed it over; in that poll, what a layer has read of the clock.
    since: Option<Instant>,
    /// The item's total wait before the hand-over.
    waited: Duration,
}

/// The state of a request that was handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Handed {
    /// It is being handed over in the current poll: the service may begin a call.
    Entering,
    /// The service may be in a call.
    Unwatched,
    /// It has ended after this time, and it is unknown whether a call was sent.
    Undecided(Duration),
}

impl HandedOver {
    pub(super) fn is_under_way(&self) -> bool {
        !matches!(self.state, Handed::Undecided(_))
    }

    /// The duration of a call that ended at `at`: the time since the request was handed over, without waits.
    fn time(&self, at: Instant, waited: Duration) -> Duration {
        match self.state {
            Handed::Undecided(time) => time,
            // Its time begins with the end of this very poll.
            Handed::Entering => Duration::ZERO,
            Handed::Unwatched => {
                let waits = waited.saturating_sub(self.waited);
                let since = self.since.unwrap_or(at);
                at.saturating_duration_since(since).saturating_sub(waits)
            }
        }
    }
}

impl Record {
    /// A number for the next hand-over.
    #[inline]
    pub(super) fn next_hand_over(&mut self) -> u32 {
        self.last_hand_over = self.last_hand_over.wrapping_add(1).max(1);
        self.last_hand_over
    }

    /// Records that a request of `item` is passed to a service, which may begin a call.
    pub(super) fn hand_over(
        &mut self,
        item: &Item,
        origin: Origin,
        within: Option<Within>,
        by_driver: bool,
        now: Instant,
    ) {
        self.handed.push(HandedOver {
            id: origin.hand_over,
            request: Some(origin.request),
            within: within.map(|within| within.key),
            state: Handed::Unwatched,
            by_driver,
            polled: false,
            requests: item.requests_made(),
            spawned: current::of(item).is_none(),
            since: Some(now),
            waited: self.waited,
        });
    }

    /// Records that the item is passed to a service: by the driver, or at `now` by a layer.
    pub(super) fn hand_over_item(&mut self, requests: u32, now: Option<Instant>) {
        self.take(Origin {
            hand_over: 0,
            request: 0,
            spawned: false,
        });
        self.handed.push(HandedOver {
            id: 0,
            request: None,
            within: None,
            // The driver checks once more before the item continues.
            state: match now {
                Some(_) => Handed::Unwatched,
                None => Handed::Entering,
            },
            by_driver: now.is_none(),
            polled: false,
            requests,
            spawned: false,
            since: now,
            waited: self.waited,
        });
    }

    /// The position of the hand-over that delivered a request, if no layer has taken it. A request that was made in a spawned task
    /// while a service was processing another one counts as made by that service.
    fn position(&self, origin: Origin) -> Option<usize> {
        let is_it = |handed: &HandedOver| handed.id == origin.hand_over && handed.is_under_way();
        let position = self.handed.iter().position(is_it);
        if position.is_some() || !origin.spawned || origin.hand_over != 0 {
            return position;
        }
        let may_be_around = |handed: &HandedOver| {
            handed.is_under_way() && !handed.spawned && handed.requests <= origin.request
        };
        self.handed.iter().rposition(may_be_around)
    }

    /// Returns `true` if the request may be inside a service in which no layer watches calls.
    pub(super) fn is_handed_over(&self, origin: Origin) -> bool {
        self.position(origin).is_some()
    }

    /// The position of the hand-over that the request came by, if the driver does that in the poll that runs.
    #[inline]
    pub(super) fn entering(&self, origin: Origin) -> Option<usize> {
        let position = self.position(origin)?;
        (self.handed[position].state == Handed::Entering).then_some(position)
    }

    /// The time, if a layer has read it in the poll in which the driver handed the request over, `entering`.
    #[inline]
    pub(super) fn entering_at(&self, entering: usize) -> Option<Instant> {
        self.handed[entering].since
    }

    /// A layer hands the request on in the poll in which the driver handed it over, `entering`, and has `read` the clock or not.
    /// Returns the number that the hand-over has from now on.
    #[inline]
    pub(super) fn pass_on(
        &mut self,
        entering: usize,
        origin: Origin,
        requests: u32,
        read: Option<Instant>,
    ) -> u32 {
        let id = self.next_hand_over();
        let handed = &mut self.handed[entering];
        handed.since = read;
        handed.id = id;
        handed.request = Some(origin.request);
        handed.requests = requests;
        id
    }

    /// A layer takes the request. The hand-over that delivered it is then not a call, unless it had ended undecided: since the item has
    /// continued after it, it counts.
    pub(super) fn take(&mut self, origin: Origin) {
        if self.handed.is_empty() {
            return;
        }
        if let Some(position) = self.position(origin) {
            self.handed.remove(position);
            if self.handed.is_empty() {
                return;
            }
        }
        while let Some(position) = self
            .handed
            .iter()
            .position(|handed| handed.id == origin.hand_over && !handed.is_under_way())
        {
            let undecided = self.handed.remove(position);
            if let Handed::Undecided(time) = undecided.state {
                self.count_unwatched(time, undecided.within);
            }
        }
    }

    /// As [`take`](Self::take), by a layer that watches calls: what is not begun there does not take place.
    #[inline]
    pub(super) fn watch(&mut self, origin: Origin) {
        self.take(origin);
        self.watched = true;
    }

    /// Records a poll of the request after a stop.
    pub(super) fn note_poll(&mut self, handed_on: HandedOn) {
        match handed_on {
            HandedOn::AsCall(within) => {
                if let Some(call) = self.call(within.key) {
                    call.polled = call.polled.max(within.depth + 1);
                }
            }
            HandedOn::Unwatched { id, .. } => {
                let of_it = self.handed.iter_mut().filter(|handed| handed.id == id);
                of_it.for_each(|handed| handed.polled = true);
            }
        }
    }

    /// The poll that handed the item over has ended.
    #[inline]
    pub(super) fn entered(&mut self) {
        for handed in &mut self.handed {
            if handed.state == Handed::Entering {
                handed.state = Handed::Unwatched;
                handed.since = Some(Instant::now());
            }
        }
    }

    /// Counts a call that no layer watched, with unknown usage. If an accounting layer watches a call around it, it is noted there.
    fn count_unwatched(&mut self, time: Duration, within: Option<u32>) {
        if self.closed {
            // The final report has it in its state of that time.
            return;
        }
        let report = &mut self.report;
        report.call_time = report.call_time.saturating_add(time);
        report.add_unwatched();
        let mut around = within;
        while let Some(call) = around.and_then(|key| self.call(key)) {
            if call.accounting > 0 {
                call.unwatched += 1;
                return;
            }
            around = call.parent;
        }
    }

    /// The item's work has ended at time `at`: counts each call that no layer watched, with unknown usage, if it was `sent`.
    pub(super) fn settle(
        &mut self,
        sent: impl Fn(&HandedOver) -> bool,
        answered: bool,
        at: impl Fn() -> Instant,
    ) {
        self.watched = false;
        self.answered |= answered;
        if self.handed.is_empty() {
            return;
        }
        for handed in std::mem::take(&mut self.handed) {
            if sent(&handed) {
                self.count_unwatched(handed.time(at(), self.waited), handed.within);
            }
        }
    }

    /// Like [`settle`](Self::settle), for this request only.
    pub(super) fn settle_request(&mut self, origin: Origin, sent: bool, answered: bool) {
        self.watched = false;
        self.answered |= answered;
        while let Some(position) = self
            .handed
            .iter()
            .position(|handed| handed.id == origin.hand_over)
        {
            let handed = self.handed.remove(position);
            if sent {
                self.count_unwatched(handed.time(Instant::now(), self.waited), handed.within);
            }
        }
    }

    /// As [`settle_request`](Self::settle_request), for a layer that handed the request on and may be called again by what is around
    /// it. What nothing is known of is left for the one further out to decide.
    #[inline]
    pub(super) fn settle_inside(&mut self, handed_on: HandedOn, sent: Option<bool>, answered: bool) {
        self.answered |= answered;
        let (id, from) = match handed_on {
            HandedOn::AsCall(within) => {
                match (sent, self.call(within.key)) {
                    (Some(false), _) => self.take_back(within),
                    (Some(true), Some(call)) => call.sent = true,
                    _ => {}
                }
                return;
            }
            HandedOn::Unwatched { id, from } => (id, from),
        };
        let mut position = 0;
        while let Some(handed) = self.handed.get_mut(position) {
            match sent {
                _ if handed.id != id => position += 1,
                Some(sent) if handed.is_under_way() => {
                    let handed = self.handed.remove(position);
                    self.watched = true;
                    if sent {
                        self.count_unwatched(handed.time(Instant::now(), self.waited), handed.within);
                    }
                }
                _ => {
                    handed.state = Handed::Undecided(handed.time(Instant::now(), self.waited));
                    handed.id = from;
                    position += 1;
                }
            }
        }
    }
}
