//! What the gate knows and decides: a plain state machine that its lock guards. It calls no code but its own, reads
//! no clock, wakes nobody; what is to be done outside the lock goes into [`Effects`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{self, Handle};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::cooldown::Cooldown;
use super::error::Refused;
use super::pace::{Pacing, Ramp, Spacing, StartRamp, StartedCall};
use super::quota::Bucket;
use super::snapshot::RateLimiterSnapshot;
use super::waits::{Timeline, Waited};
use crate::classify::{Disposition, Verdict};
use crate::error::{Delivery, ErrorKind};
use crate::events::EventKind;
use crate::item::WaitReason;

/// A start this late is still charged at its due instant, or the granularity of timers would eat the quota.
const LATE: Duration = Duration::from_millis(5);

/// Overload without a hint closes the gate when this many calls in a row report it.
const OVERLOADED_IN_ROW: u32 = 5;

/// After this many generations in a row of which nothing was accepted, the gate opens for one call alone.
const BLOCKED_IN_ROW: u32 = 2;

/// An estimate above this many times the mean rejoins at the head.
const LARGE: f64 = 4.0;

/// How many are let through under one lock.
const MOST_AT_ONCE: usize = 256;

/// A pause that was lengthened by less than this is not announced again.
const ANNOUNCE: Duration = Duration::from_millis(100);

/// A place in the queue. Those that rejoin at the head sort before all others, in the order of their rejoining.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket {
    tail: bool,
    number: u64,
}

/// A place among the calls in flight, with its quota, for a call that has not started.
#[derive(Debug)]
pub(super) struct Admission {
    pub(super) ticket: Ticket,
    pub(super) estimate: u64,
    pub(super) waited: Option<Box<Waited>>,
    due: Instant,
    generation: u64,
    probe: bool,
}

/// A call that has started.
#[derive(Clone, Copy, Debug)]
pub(super) struct Started {
    pub(super) call: StartedCall,
    probe: bool,
}

pub(super) type Reply = Result<Admission, Refused>;

struct Waiter {
    estimate: u64,
    since: Instant,
    mark: crate::item::Waits,
    runtime: Option<runtime::Id>,
    reply: oneshot::Sender<Reply>,
}

/// What came of the end of a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settled {
    pub(super) at: Instant,
    /// It belongs to the current generation.
    pub(super) current: bool,
    /// Until when an item that was throttled has to wait.
    pub(super) hold_until: Option<Instant>,
}

/// What a caller asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    pub(super) estimate: u64,
    /// The place it had, if it comes back with a grant that was overtaken by a pause.
    pub(super) ticket: Option<Ticket>,
    /// It was throttled, and this is how long its own hint holds it.
    pub(super) hold_until: Option<Instant>,
}

pub(super) enum Answer {
    Granted(Admission),
    Refused(Refused),
    /// Ask again then.
    Hold(Instant),
    Queued(Ticket, oneshot::Receiver<Reply>),
}

/// What the head of the queue waits for, and until when if that is known.
#[derive(Clone, Copy, Debug)]
struct Hold {
    reason: WaitReason,
    until: Option<Instant>,
}

/// What is to be done once the lock is released.
#[derive(Default)]
pub(super) struct Effects {
    pub(super) replies: Vec<(oneshot::Sender<Reply>, Reply)>,
    pub(super) events: Vec<(Instant, EventKind)>,
    pub(super) warnings: Vec<Warning>,
    /// Pumps sleep too long: the next wake-up has become earlier, or there is nobody left to wait for.
    pub(super) wake_pumps: bool,
    /// The caller's runtime needs a pump.
    pub(super) spawn_pump: bool,
    /// More can be let through, but the lock has been held for long enough.
    pub(super) more: bool,
    /// Waiters to let go without a reply, so that they ask again.
    pub(super) orphans: Vec<oneshot::Sender<Reply>>,
}

/// What a person should know about the gate.
#[derive(Debug)]
pub(super) enum Warning {
    Closed {
        kind: ErrorKind,
        pause: Duration,
        generation: u64,
    },
    Latched {
        kind: ErrorKind,
    },
}

struct Closed {
    since: Instant,
    until: Instant,
    announced: Instant,
    kind: ErrorKind,
    /// Opens for one call alone.
    probe: bool,
    /// The counts before the generation that ended was found not to be blocked, for when its first call turns out
    /// to have been rejected too.
    unblocked: Option<Blocked>,
}

/// How often in a row nothing was accepted.
#[derive(Clone, Copy, Debug, Default)]
struct Blocked {
    /// Generations.
    generations: u32,
    /// Generations that followed a pause: how often that pause is doubled.
    pauses: u32,
}

impl Blocked {
    fn once_more(self, generation: u64) -> Self {
        Self {
            generations: self.generations.saturating_add(1),
            pauses: self.pauses.saturating_add(u32::from(generation > 0)),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probe {
    /// Not probing.
    No,
    /// The next call goes alone.
    Due,
    /// It is on its way.
    UnderWay,
}

/// A cap on calls in flight that rises.
#[derive(Clone, Copy, Debug)]
pub(super) struct InFlightRamp {
    pub(super) initial: usize,
    pub(super) step: usize,
    pub(super) every: Duration,
}

/// What a gate is made from.
pub(super) struct Config {
    pub(super) cooldown: Cooldown,
    pub(super) requests: Option<Bucket>,
    pub(super) tokens: Option<Bucket>,
    pub(super) max_in_flight: Option<usize>,
    pub(super) in_flight_ramp: Option<InFlightRamp>,
    pub(super) start_ramp: Option<StartRamp>,
    pub(super) pacing: Pacing,
}

/// How a verdict closes the gate.
#[derive(Clone, Copy, Debug)]
pub(super) enum Closing {
    Throttle,
    Overload,
}

pub(super) struct State {
    config: Config,

    closed: Option<Closed>,
    latched: Option<(ErrorKind, Arc<str>)>,
    opened_at: Instant,
    generation: u64,
    /// Starts in the generation.
    starts: u64,
    /// Calls of the generation that ended without an answer of the provider.
    unanswered: u64,
    /// Scope failures of earlier generations do not latch: they are from before the gate was reopened.
    latches_from: u64,
    blocked: Blocked,
    probe: Probe,
    overloaded_in_row: u32,
    overload_pauses: usize,
    accepted_any: bool,

    pace: Spacing,
    ramp: Option<Ramp>,
    first_start: Option<Instant>,

    queue: BTreeMap<Ticket, Waiter>,
    next_ticket: u64,
    timeline: Timeline,
    /// Until when the pumps sleep.
    wake_at: Option<Instant>,
    pumps: Vec<runtime::Id>,

    in_flight: usize,
    granted: u64,
    returned: u64,
    settled: u64,
    throttled: u64,
    estimated: u64,
    paused: Duration,
}

impl State {
    pub(super) fn new(config: Config, now: Instant) -> Self {
        Self {
            pace: Spacing::new(config.pacing, now),
            ramp: config.start_ramp.map(Ramp::new),
            config,
            closed: None,
            latched: None,
            opened_at: now,
            generation: 0,
            starts: 0,
            unanswered: 0,
            latches_from: 0,
            blocked: Blocked::default(),
            probe: Probe::No,
            overloaded_in_row: 0,
            overload_pauses: 0,
            accepted_any: false,
            first_start: None,
            queue: BTreeMap::new(),
            next_ticket: 0,
            timeline: Timeline::default(),
            wake_at: None,
            pumps: Vec::new(),
            in_flight: 0,
            granted: 0,
            returned: 0,
            settled: 0,
            throttled: 0,
            estimated: 0,
            paused: Duration::ZERO,
        }
    }

    // --- asking ---------------------------------------------------------------------------------------------

    pub(super) fn ask(&mut self, ask: &Ask, now: Instant, effects: &mut Effects) -> Answer {
        if let Some(refused) = self.refusal(ask.estimate) {
            return Answer::Refused(refused);
        }
        self.open_if_due(now, effects);
        let opens = self.closed.as_ref().map_or(now, |closed| closed.until);
        if let Some(until) = ask.hold_until.filter(|until| *until > opens) {
            return Answer::Hold(until);
        }
        let ticket = ask.ticket.unwrap_or_else(|| self.ticket(ask));
        // Whoever sorts before the head is the head.
        let is_head = self
            .queue
            .first_key_value()
            .is_none_or(|(head, _)| ticket < *head);
        let hold = if is_head {
            match self.admit(ticket, now, ask.estimate, now) {
                Ok(admission) => return Answer::Granted(admission),
                Err(hold) => Some(hold),
            }
        } else {
            None
        };
        let runtime = Handle::try_current().ok().map(|handle| handle.id());
        if runtime.is_none() && self.pumps.is_empty() {
            return Answer::Refused(Refused::Closed);
        }
        if hold.is_some() {
            self.hold(hold, now, effects);
        }
        if let Some(runtime) = runtime
            && !self.pumps.contains(&runtime)
        {
            self.pumps.push(runtime);
            effects.spawn_pump = true;
        }
        let (reply, receiver) = oneshot::channel();
        let waiter = Waiter {
            estimate: ask.estimate,
            since: now,
            mark: self.timeline.totals(now),
            runtime,
            reply,
        };
        self.queue.insert(ticket, waiter);
        Answer::Queued(ticket, receiver)
    }

    fn refusal(&self, estimate: u64) -> Option<Refused> {
        if let Some((kind, message)) = &self.latched {
            return Some(Refused::Latched {
                kind: *kind,
                message: Arc::clone(message),
            });
        }
        let limit = u64::from(self.config.tokens.as_ref()?.limit());
        (estimate > limit).then_some(Refused::TooLarge { estimate, limit })
    }

    fn ticket(&mut self, ask: &Ask) -> Ticket {
        let number = self.next_ticket;
        self.next_ticket += 1;
        let mean = self.estimated as f64 / self.granted.max(1) as f64;
        let large = ask.hold_until.is_some() && ask.estimate as f64 > LARGE * mean;
        Ticket { tail: !large, number }
    }

    /// A waiter has gone. `None` if it is not in the queue any more.
    pub(super) fn cancel(
        &mut self,
        ticket: Ticket,
        now: Instant,
        effects: &mut Effects,
    ) -> Option<Box<Waited>> {
        let waiter = self.queue.remove(&ticket)?;
        let waited = self.timeline.waited(waiter.since, &waiter.mark, now);
        self.drain(now, effects);
        Some(waited)
    }

    // --- letting through ------------------------------------------------------------------------------------

    /// Lets through whom it can, in order, and notes what the next one waits for.
    pub(super) fn drain(&mut self, now: Instant, effects: &mut Effects) {
        self.open_if_due(now, effects);
        while let Some((&ticket, waiter)) = self.queue.first_key_value() {
            let (estimate, since) = (waiter.estimate, waiter.since);
            match self.admit(ticket, now, estimate, since) {
                Ok(mut admission) => {
                    if let Some((_, waiter)) = self.queue.pop_first() {
                        admission.waited = Some(self.timeline.waited(waiter.since, &waiter.mark, now));
                        effects.replies.push((waiter.reply, Ok(admission)));
                    }
                }
                Err(hold) => return self.hold(Some(hold), now, effects),
            }
            if effects.replies.len() >= MOST_AT_ONCE {
                effects.more = true;
                return;
            }
        }
        self.hold(None, now, effects);
    }

    /// All conditions at once: open, below the cap, paced, both quotas.
    fn admit(
        &mut self,
        ticket: Ticket,
        now: Instant,
        estimate: u64,
        since: Instant,
    ) -> Result<Admission, Hold> {
        if let Some(closed) = &self.closed {
            return Err(Hold {
                reason: WaitReason::Cooldown,
                until: Some(closed.until),
            });
        }
        if self.probe == Probe::UnderWay {
            return Err(Hold {
                reason: WaitReason::Cooldown,
                until: None,
            });
        }
        if let Some((cap, rises)) = self.cap(now)
            && self.in_flight >= cap
        {
            return Err(Hold {
                reason: WaitReason::InFlight,
                until: rises,
            });
        }
        let due = self.take_quota(now, estimate, since)?;
        self.pace.start(due);
        if let Some(ramp) = &mut self.ramp {
            ramp.start(due);
            if ramp.is_over() {
                self.ramp = None;
            }
        }
        self.first_start.get_or_insert(now);
        let probe = self.probe == Probe::Due;
        if probe {
            self.probe = Probe::UnderWay;
        }
        self.in_flight += 1;
        self.granted += 1;
        self.estimated = self.estimated.saturating_add(estimate);
        Ok(Admission {
            ticket,
            estimate,
            waited: None,
            due,
            generation: self.generation,
            probe,
        })
    }

    /// Takes from both buckets at the instant at which the call was due, which is now or a little earlier; or says
    /// when and for what it has to wait.
    fn take_quota(&self, now: Instant, estimate: u64, since: Instant) -> Result<Instant, Hold> {
        let mut due = now
            .checked_sub(LATE)
            .unwrap_or(now)
            .max(since)
            .max(self.opened_at)
            .min(now);
        let mut reason = WaitReason::Pace;
        for paced in [self.ramp.as_ref().and_then(Ramp::due), self.pace.due()] {
            due = paced.map_or(due, |paced| paced.max(due));
        }
        let (requests, tokens) = (self.config.requests.as_ref(), self.config.tokens.as_ref());
        let saved = (requests.map(Bucket::save), tokens.map(Bucket::save));
        loop {
            let from_requests = requests.map_or(Ok(()), |bucket| bucket.take(1, due));
            let from_tokens = tokens.map_or(Ok(()), |bucket| bucket.take(estimate, due));
            if from_requests.is_ok() && from_tokens.is_ok() && due <= now {
                return Ok(due);
            }
            if let (Some(bucket), Some(saved)) = (requests, saved.0) {
                bucket.restore(saved);
            }
            if let (Some(bucket), Some(saved)) = (tokens, saved.1) {
                bucket.restore(saved);
            }
            let before = due;
            for (taken, what) in [
                (from_requests, WaitReason::Requests),
                (from_tokens, WaitReason::Tokens),
            ] {
                if let Err(ready) = taken
                    && ready > due
                {
                    (due, reason) = (ready, what);
                }
            }
            if due == before || due > now {
                return Err(Hold {
                    reason,
                    until: Some(due),
                });
            }
        }
    }

    /// The cap on calls in flight, and when it rises by itself.
    fn cap(&self, now: Instant) -> Option<(usize, Option<Instant>)> {
        let fixed = [self.config.max_in_flight, self.pace.pacing().max_in_flight()]
            .into_iter()
            .flatten()
            .min();
        let Some(ramp) = self.config.in_flight_ramp else {
            return fixed.map(|cap| (cap, None));
        };
        let began = self.first_start.unwrap_or(now);
        let steps = now.saturating_duration_since(began).as_nanos() / ramp.every.as_nanos().max(1);
        let steps = u32::try_from(steps).unwrap_or(u32::MAX);
        let ramped = ramp
            .initial
            .saturating_add(ramp.step.saturating_mul(steps as usize));
        match fixed {
            Some(cap) if cap <= ramped => Some((cap, None)),
            _ => {
                let rises = ramp
                    .every
                    .checked_mul(steps.saturating_add(1))
                    .and_then(|time| began.checked_add(time));
                Some((ramped, rises))
            }
        }
    }

    fn hold(&mut self, hold: Option<Hold>, now: Instant, effects: &mut Effects) {
        self.timeline.held(hold.map(|hold| hold.reason), now);
        let until = hold.and_then(|hold| hold.until);
        let earlier = match (self.wake_at, until) {
            (Some(old), Some(new)) => new < old,
            (None, Some(_)) => true,
            (_, None) => false,
        };
        // With nobody left the pumps end.
        if earlier || (hold.is_none() && !self.pumps.is_empty()) {
            effects.wake_pumps = true;
        }
        self.wake_at = until;
    }

    // --- from grant to call ---------------------------------------------------------------------------------

    /// The last look: the call starts now, unless the gate has closed since it was let through.
    pub(super) fn start(
        &mut self,
        admission: &Admission,
        now: Instant,
        effects: &mut Effects,
    ) -> Option<Started> {
        if admission.generation != self.generation || self.latched.is_some() {
            self.give_back(admission, now, effects);
            return None;
        }
        self.starts += 1;
        Some(Started {
            call: StartedCall {
                at: now,
                due: admission.due,
                generation: self.generation,
                ordinal: self.starts,
                in_flight: self.in_flight,
                estimate: admission.estimate,
            },
            probe: admission.probe,
        })
    }

    /// A grant that no call was made with: both quotas are back.
    pub(super) fn give_back(&mut self, admission: &Admission, now: Instant, effects: &mut Effects) {
        self.in_flight -= 1;
        self.returned += 1;
        if let Some(bucket) = &self.config.requests {
            bucket.give_back(1);
        }
        if let Some(bucket) = &self.config.tokens {
            bucket.give_back(admission.estimate);
        }
        if admission.probe && admission.generation == self.generation {
            self.probe = Probe::Due;
        }
        self.drain(now, effects);
    }

    // --- the end of a call ----------------------------------------------------------------------------------

    /// Whether a verdict closes the gate.
    pub(super) fn closing(&self, started: &Started, verdict: &Verdict) -> Option<Closing> {
        if started.call.generation != self.generation || self.latched.is_some() {
            return None;
        }
        if verdict.disposition == Disposition::Throttled {
            return Some(Closing::Throttle);
        }
        let enough = self.overloaded_in_row + 1 >= OVERLOADED_IN_ROW;
        let closes = self.config.cooldown.hint(verdict.retry_after).is_some() || started.probe || enough;
        (is_overload(verdict) && closes).then_some(Closing::Overload)
    }

    /// A call has ended: settles its quota and does what the verdict asks for.
    pub(super) fn end(
        &mut self,
        started: &Started,
        verdict: Option<&Verdict>,
        used: Option<u64>,
        closing: Option<(Closing, Pacing)>,
        now: Instant,
        effects: &mut Effects,
    ) -> Settled {
        self.open_if_due(now, effects);
        self.settle(started.call.estimate, used, now);
        let current = started.call.generation == self.generation;
        let answered = verdict.is_some_and(is_answer);
        if current {
            if answered {
                self.accepted_any = true;
                self.overloaded_in_row = 0;
                self.overload_pauses = 0;
            } else if verdict.is_some_and(is_overload) {
                self.overloaded_in_row += 1;
            }
            if started.probe && closing.is_none() {
                self.probe = if answered { Probe::No } else { Probe::Due };
            }
        }
        let throttled = verdict.filter(|verdict| verdict.disposition == Disposition::Throttled);
        self.throttled += u64::from(throttled.is_some());
        match (closing, verdict) {
            (Some((closing, pacing)), Some(verdict)) if current => {
                self.close(closing, started, verdict, pacing, now, effects);
            }
            (_, Some(verdict)) if throttled.is_some() => self.late_throttle(started, verdict, now, effects),
            _ => {}
        }
        // Counts the first calls only: what matters is whether the first one that was answered was accepted.
        if current && !answered && throttled.is_none() && started.call.ordinal == self.unanswered + 1 {
            self.unanswered += 1;
        }
        if let Some(verdict) = verdict
            && verdict.disposition == Disposition::ScopeFatal
            && started.call.generation >= self.latches_from
        {
            self.latch(verdict.kind, now, effects);
        }
        self.drain(now, effects);
        let hold_until = throttled.map(|verdict| {
            let own = now + self.config.cooldown.hint(verdict.retry_after).unwrap_or_default();
            self.closed.as_ref().map_or(own, |closed| closed.until.max(own))
        });
        Settled {
            at: now,
            current,
            hold_until,
        }
    }

    fn settle(&mut self, estimate: u64, used: Option<u64>, now: Instant) {
        self.in_flight -= 1;
        self.settled += 1;
        if let (Some(bucket), Some(used)) = (&self.config.tokens, used) {
            bucket.give_back(estimate.saturating_sub(used));
            bucket.owe(used.saturating_sub(estimate), now);
        }
    }

    fn close(
        &mut self,
        closing: Closing,
        started: &Started,
        verdict: &Verdict,
        pacing: Pacing,
        now: Instant,
        effects: &mut Effects,
    ) {
        let cooldown = &self.config.cooldown;
        let mut unblocked = None;
        let (pause, probe, kind) = match closing {
            Closing::Throttle => {
                if started.call.ordinal <= 1 + self.unanswered {
                    self.blocked = self.blocked.once_more(self.generation);
                } else {
                    unblocked = Some(std::mem::take(&mut self.blocked));
                    self.accepted_any = true;
                }
                self.overloaded_in_row = 0;
                let pause = cooldown.pause(verdict.retry_after, self.blocked.pauses, pacing);
                let probe = self.blocked.generations >= BLOCKED_IN_ROW;
                (pause, probe, ErrorKind::RateLimit)
            }
            Closing::Overload => {
                let pause = cooldown.overload_pause(verdict.retry_after, self.overload_pauses);
                self.overload_pauses += 1;
                self.overloaded_in_row = 0;
                (pause, true, ErrorKind::Overloaded)
            }
        };
        // The ramp ends with the first throttle. Where nothing was accepted yet, and after overload, nothing is known
        // about the rate, and it begins anew.
        self.ramp = match closing {
            Closing::Throttle if self.accepted_any => None,
            Closing::Throttle | Closing::Overload => self.config.start_ramp.map(Ramp::new),
        };
        let pause = cooldown.with_random_share(pause);
        let kind = verdict.kind.unwrap_or(kind);
        let until = now + pause;
        self.pace.set(pacing, until);
        self.generation += 1;
        self.starts = 0;
        self.unanswered = 0;
        self.probe = Probe::No;
        self.closed = Some(Closed {
            since: now,
            until,
            announced: until,
            kind,
            probe,
            unblocked,
        });
        let generation = self.generation;
        effects.events.push((
            now,
            EventKind::CooldownStarted {
                generation,
                pause,
                kind,
            },
        ));
        effects.warnings.push(Warning::Closed {
            kind,
            pause,
            generation,
        });
    }

    /// A throttle of a call from before the current pause: it opens no pause, but its hint may lengthen one.
    fn late_throttle(&mut self, started: &Started, verdict: &Verdict, now: Instant, effects: &mut Effects) {
        let Some(closed) = &mut self.closed else {
            return;
        };
        let was_first = started.call.ordinal == 1 && started.call.generation + 1 == self.generation;
        if was_first && let Some(before) = closed.unblocked.take() {
            // The pause stands, but the generation was blocked after all.
            self.blocked = before.once_more(started.call.generation);
            closed.probe |= self.blocked.generations >= BLOCKED_IN_ROW;
        }
        if let Some(hint) = self.config.cooldown.hint(verdict.retry_after) {
            closed.until = closed.until.max(now + hint);
        }
        if closed.until.saturating_duration_since(closed.announced) >= ANNOUNCE {
            closed.announced = closed.until;
            effects.events.push((
                now,
                EventKind::CooldownStarted {
                    generation: self.generation,
                    pause: closed.until.saturating_duration_since(now),
                    kind: closed.kind,
                },
            ));
        }
    }

    fn open_if_due(&mut self, now: Instant, effects: &mut Effects) {
        if let Some(closed) = self.closed.take_if(|closed| closed.until <= now) {
            self.open(&closed, closed.until, effects);
        }
    }

    fn open(&mut self, closed: &Closed, at: Instant, effects: &mut Effects) {
        self.opened_at = at;
        self.paused += at.saturating_duration_since(closed.since);
        self.pace.open(at);
        if closed.probe {
            self.probe = Probe::Due;
        }
        let generation = self.generation;
        effects.events.push((at, EventKind::CooldownEnded { generation }));
    }

    fn latch(&mut self, kind: Option<ErrorKind>, now: Instant, effects: &mut Effects) {
        if self.latched.is_some() {
            return;
        }
        // Without a kind: one that no retry policy repeats.
        let kind = kind.unwrap_or(ErrorKind::Configuration);
        let message: Arc<str> = kind.to_string().into();
        self.latched = Some((kind, Arc::clone(&message)));
        while let Some((_, waiter)) = self.queue.pop_first() {
            let message = Arc::clone(&message);
            let refused = Refused::Latched { kind, message };
            effects.replies.push((waiter.reply, Err(refused)));
        }
        effects.events.push((now, EventKind::Latched { kind }));
        effects.warnings.push(Warning::Latched { kind });
    }

    /// Opens by hand: a latch, a pause and a probe under way are forgotten.
    pub(super) fn reopen(&mut self, now: Instant, effects: &mut Effects) {
        self.open_if_due(now, effects);
        if let Some(closed) = self.closed.take() {
            self.open(&closed, now, effects);
        }
        if self.latched.take().is_some() {
            effects.events.push((now, EventKind::Reopened));
        }
        self.generation += 1;
        self.latches_from = self.generation;
        self.starts = 0;
        self.unanswered = 0;
        self.blocked = Blocked::default();
        self.probe = Probe::No;
        self.overloaded_in_row = 0;
        self.overload_pauses = 0;
        self.drain(now, effects);
    }

    /// The pace policy has changed its mind.
    pub(super) fn set_pacing(&mut self, pacing: Pacing, now: Instant, effects: &mut Effects) {
        let since = self.closed.as_ref().map_or(now, |closed| closed.until);
        if self.pace.set(pacing, since) {
            self.drain(now, effects);
        }
    }

    // --- pumps ----------------------------------------------------------------------------------------------

    /// For a pump that has nothing to do: when to come back (`None`: when woken), or `Err` if it may end.
    pub(super) fn next_wake(&mut self, runtime: runtime::Id) -> Result<Option<Instant>, ()> {
        if self.queue.is_empty() {
            self.pumps.retain(|pump| *pump != runtime);
            return Err(());
        }
        Ok(self.wake_at)
    }

    /// A pump has died with its runtime. Waiters that counted on it ask again, if they are still there to do so.
    pub(super) fn pump_died(&mut self, runtime: runtime::Id, now: Instant, effects: &mut Effects) {
        self.pumps.retain(|pump| *pump != runtime);
        let last = self.pumps.is_empty();
        let orphaned = |waiter: &Waiter| waiter.runtime.map_or(last, |id| id == runtime);
        let tickets: Vec<Ticket> = self
            .queue
            .iter()
            .filter_map(|(ticket, waiter)| orphaned(waiter).then_some(*ticket))
            .collect();
        for ticket in tickets {
            let waiter = self.queue.remove(&ticket);
            effects.orphans.extend(waiter.map(|waiter| waiter.reply));
        }
        self.drain(now, effects);
    }

    // --- looking --------------------------------------------------------------------------------------------

    pub(super) fn snapshot(&self, now: Instant) -> RateLimiterSnapshot {
        let closed = self.closed.as_ref().filter(|closed| closed.until > now);
        let rates = [
            self.ramp.as_ref().and_then(Ramp::starts_per_second),
            Some(self.pace.rate_at(now)),
        ];
        let rate = rates.into_iter().flatten().fold(f64::INFINITY, f64::min);
        RateLimiterSnapshot {
            closed_for: closed.map(|closed| closed.until.saturating_duration_since(now)),
            closed_by: closed.map(|closed| closed.kind),
            latched: self.latched.as_ref().map(|(kind, _)| *kind),
            generation: self.generation,
            waiting: self.queue.len(),
            waiting_for: self.timeline.reason(),
            in_flight: self.in_flight,
            max_in_flight: self.cap(now).map(|(cap, _)| cap),
            starts_per_second: rate.is_finite().then_some(rate),
            requests_available: self.config.requests.as_ref().map(|bucket| bucket.balance(now)),
            tokens_available: self.config.tokens.as_ref().map(|bucket| bucket.balance(now)),
            granted: self.granted,
            returned: self.returned,
            settled: self.settled,
            throttled: self.throttled,
            paused: self.paused
                + self.closed.as_ref().map_or(Duration::ZERO, |closed| {
                    closed.until.min(now).saturating_duration_since(closed.since)
                }),
        }
    }
}

/// The provider has no capacity: the item's own backoff, unless it says when, or keeps saying so.
pub(super) fn is_overload(verdict: &Verdict) -> bool {
    verdict.disposition == Disposition::Backoff && verdict.kind == Some(ErrorKind::Overloaded)
}

/// Whether the provider took the call, whatever came of it.
pub(super) fn is_answer(verdict: &Verdict) -> bool {
    let reached = verdict
        .kind
        .is_none_or(|kind| kind != ErrorKind::Connection && kind.delivery() != Delivery::NotSent);
    reached && verdict.disposition != Disposition::Throttled && !is_overload(verdict)
}
