//! What the gate knows and decides: a plain state machine that its lock guards. It calls no code but its own, reads
//! no clock, wakes nobody; what is to be done outside the lock goes into [`Effects`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::quota::Bucket;
use super::waits::{Timeline, Waited};
use crate::classify::{Disposition, Verdict};
use crate::error::{Delivery, ErrorKind};
use crate::events::EventKind;
use crate::item::{WaitReason, Waits};
use crate::layer::rate_limiter::cooldown::Cooldown;
use crate::layer::rate_limiter::error::Refused;
use crate::layer::rate_limiter::pace::{Pacing, Ramp, Spacing, StartRamp, StartedCall};
use crate::layer::rate_limiter::snapshot::RateLimiterSnapshot;
use crate::layer::rate_limiter::store::StoreReport;

mod queue;
mod shared;
mod verdict;

pub(super) use shared::{Candidate, Turn};

/// A place in the queue. Those that rejoin at the head sort before all others, in the order of their rejoining.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::layer::rate_limiter) struct Ticket {
    tail: bool,
    number: u64,
}

/// A place among the calls in flight, with its quota, for a call that has not started.
#[derive(Debug)]
pub(in crate::layer::rate_limiter) struct Admission {
    pub(in crate::layer::rate_limiter) ticket: Ticket,
    pub(in crate::layer::rate_limiter) estimate: u64,
    pub(in crate::layer::rate_limiter) waited: Option<Box<Waited>>,
    due: Instant,
    generation: u64,
    probe: bool,
    /// The shared store gave leave too.
    shared: bool,
}

/// A call that has started.
#[derive(Clone, Copy, Debug)]
pub(in crate::layer::rate_limiter) struct Started {
    pub(in crate::layer::rate_limiter) call: StartedCall,
    probe: bool,
    shared: bool,
}

pub(in crate::layer::rate_limiter) type Reply = Result<Admission, Refused>;

struct Waiter {
    estimate: u64,
    since: Instant,
    mark: Waits,
    runtime: Option<runtime::Id>,
    reply: oneshot::Sender<Reply>,
}

/// What came of the end of a call.
#[derive(Clone, Copy, Debug)]
pub(in crate::layer::rate_limiter) struct Settled {
    pub(in crate::layer::rate_limiter) at: Instant,
    /// It belongs to the current generation.
    pub(in crate::layer::rate_limiter) current: bool,
    /// Until when an item that was throttled has to wait.
    pub(in crate::layer::rate_limiter) hold_until: Option<Instant>,
}

/// What a caller asks for.
#[derive(Clone, Copy, Debug)]
pub(in crate::layer::rate_limiter) struct Ask {
    pub(in crate::layer::rate_limiter) estimate: u64,
    /// The place it had, if it comes back with a grant that was overtaken by a pause.
    pub(in crate::layer::rate_limiter) ticket: Option<Ticket>,
    /// It was throttled, and this is how long its own hint holds it.
    pub(in crate::layer::rate_limiter) hold_until: Option<Instant>,
}

pub(in crate::layer::rate_limiter) enum Answer {
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

/// What is to be done once the lock is released, in this order. As a rule nothing, which costs nothing.
#[derive(Default)]
pub(in crate::layer::rate_limiter) struct Effects {
    pub(in crate::layer::rate_limiter) list: Vec<Effect>,
}

pub(in crate::layer::rate_limiter) enum Effect {
    Reply(oneshot::Sender<Reply>, Reply),
    Event(Instant, EventKind),
    Warn(Warning),
    /// Pumps sleep too long: the next wake-up has become earlier, or there is nobody left to wait for.
    WakePumps,
    /// The caller's runtime needs a pump.
    SpawnPump,
    /// More can be let through, but the lock has been held for long enough.
    More,
    /// A waiter is let go without a reply, so that it asks again.
    Orphan(oneshot::Sender<Reply>),
}

impl Effects {
    fn reply(&mut self, reply: oneshot::Sender<Reply>, message: Reply) {
        self.list.push(Effect::Reply(reply, message));
    }

    fn event(&mut self, at: Instant, event: EventKind) {
        self.list.push(Effect::Event(at, event));
    }

    fn warn(&mut self, warning: Warning) {
        self.list.push(Effect::Warn(warning));
    }

    fn wake_pumps(&mut self) {
        if !matches!(self.list.last(), Some(Effect::WakePumps)) {
            self.list.push(Effect::WakePumps);
        }
    }
}

/// What a person should know about the gate.
#[derive(Debug)]
pub(in crate::layer::rate_limiter) enum Warning {
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
pub(in crate::layer::rate_limiter) struct InFlightRamp {
    pub(in crate::layer::rate_limiter) initial: usize,
    pub(in crate::layer::rate_limiter) step: usize,
    pub(in crate::layer::rate_limiter) every: Duration,
}

/// What a gate is made from.
pub(in crate::layer::rate_limiter) struct Config {
    pub(in crate::layer::rate_limiter) cooldown: Cooldown,
    pub(in crate::layer::rate_limiter) requests: Option<Bucket>,
    pub(in crate::layer::rate_limiter) tokens: Option<Bucket>,
    pub(in crate::layer::rate_limiter) max_in_flight: Option<usize>,
    pub(in crate::layer::rate_limiter) in_flight_ramp: Option<InFlightRamp>,
    pub(in crate::layer::rate_limiter) start_ramp: Option<StartRamp>,
    pub(in crate::layer::rate_limiter) pacing: Pacing,
    /// A store has the last word, and only pumps let through.
    pub(in crate::layer::rate_limiter) shared: bool,
}

/// How a verdict closes the gate.
#[derive(Clone, Copy, Debug)]
pub(in crate::layer::rate_limiter) enum Closing {
    Throttle,
    Overload,
}

pub(in crate::layer::rate_limiter) struct State {
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
    /// A pump is talking to the store.
    store_busy: bool,
    /// What the store told the head to wait for.
    store_hold: Option<(WaitReason, Instant)>,
    /// What the store is still to be told.
    reports: VecDeque<StoreReport>,

    in_flight: usize,
    granted: u64,
    returned: u64,
    settled: u64,
    throttled: u64,
    estimated: u64,
    paused: Duration,
}

impl State {
    pub(in crate::layer::rate_limiter) fn new(config: Config, now: Instant) -> Self {
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
            store_busy: false,
            store_hold: None,
            reports: VecDeque::new(),
            in_flight: 0,
            granted: 0,
            returned: 0,
            settled: 0,
            throttled: 0,
            estimated: 0,
            paused: Duration::ZERO,
        }
    }

    // --- looking --------------------------------------------------------------------------------------------

    pub(in crate::layer::rate_limiter) fn snapshot(&self, now: Instant) -> RateLimiterSnapshot {
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
pub(in crate::layer::rate_limiter) fn is_overload(verdict: &Verdict) -> bool {
    verdict.disposition == Disposition::Backoff && verdict.kind == Some(ErrorKind::Overloaded)
}

/// Whether the provider took the call, whatever came of it.
pub(in crate::layer::rate_limiter) fn is_answer(verdict: &Verdict) -> bool {
    let reached = verdict
        .kind
        .is_none_or(|kind| kind != ErrorKind::Connection && kind.delivery() != Delivery::NotSent);
    reached && verdict.disposition != Disposition::Throttled && !is_overload(verdict)
}
