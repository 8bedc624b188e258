//! Options of a gate, checked before it is made.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::RateLimiter;
use super::cooldown::Cooldown;
use super::error::InvalidLimit;
use super::gate::{Config, Gate, InFlightRamp, Limits, WallClock};
use super::learned::LearnedLimit;
use super::pace::{BucketFit, BuiltIn, Pace, Pacing, SlowStart, StartRamp};
use super::priority::Priority;
use super::quota::Quota;
use super::store::StateStore;
use crate::events::Events;

/// The name of a limiter that was given none.
pub(crate) const DEFAULT_NAME: &str = "default";

/// The capacity of a bucket, by default: the refill of one second.
const DEFAULT_BURST: Duration = Duration::from_secs(1);

/// Above this, a bucket would let more than a minute's quota through at once.
const LONGEST_BURST: Duration = Duration::from_secs(60);

/// Makes a [`RateLimiter`]; from [`RateLimiter::builder`].
///
/// Without any option set the gate has no quotas and no cap, but the cooldown and the start ramp.
#[must_use = "a builder does nothing until `build` is called"]
pub struct RateLimiterBuilder {
    name: Arc<str>,
    requests_per_minute: Option<u32>,
    tokens_per_minute: Option<u32>,
    burst: Duration,
    quotas: Vec<Quota>,
    wait_for_reset: bool,
    max_in_flight: Option<usize>,
    in_flight_ramp: Option<InFlightRamp>,
    start_ramp: Option<StartRamp>,
    /// The start ramp was not asked for: a local server ends it.
    default_ramp: bool,
    cooldown: Cooldown,
    strict_priority: bool,
    pace: Option<Box<dyn Pace>>,
    built_in: Option<BuiltIn>,
    learned: Option<LearnedLimit>,
    store: Option<Box<dyn StateStore>>,
    events: Option<Events>,
}

impl Default for RateLimiterBuilder {
    fn default() -> Self {
        Self {
            name: DEFAULT_NAME.into(),
            requests_per_minute: None,
            tokens_per_minute: None,
            burst: DEFAULT_BURST,
            quotas: Vec::new(),
            wait_for_reset: false,
            max_in_flight: None,
            in_flight_ramp: None,
            start_ramp: Some(StartRamp::default()),
            default_ramp: true,
            cooldown: Cooldown::default(),
            strict_priority: false,
            pace: None,
            built_in: None,
            learned: None,
            store: None,
            events: None,
        }
    }
}

impl RateLimiterBuilder {
    /// The name in logs, metrics and events. `default` by default.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = name.into();
        self
    }

    /// Calls per minute (RPM), refilled continuously. No limit by default.
    pub fn requests_per_minute(mut self, requests: u32) -> Self {
        self.requests_per_minute = Some(requests);
        self
    }

    /// Tokens per minute (TPM), input and output together, refilled continuously. No limit by default.
    ///
    /// A call reserves its estimate and settles with what it used, at most ten times this. A request that is estimated
    /// above this fails with [`Refused::TooLarge`](super::Refused::TooLarge).
    pub fn tokens_per_minute(mut self, tokens: u32) -> Self {
        self.tokens_per_minute = Some(tokens);
        self
    }

    /// Sets the part of the quotas per minute above that may be taken at once after a lull: what is refilled in this time. 1 s by
    /// default, 60 s at most. A [`quota`](Self::quota) has its own.
    ///
    /// A bucket that holds a whole minute lets nearly twice the limit through in the first minute, which providers
    /// that count by the minute punish. An estimate above what the bucket holds waits until it is full and leaves a debt.
    pub fn burst(mut self, time: Duration) -> Self {
        self.burst = time;
        self
    }

    /// Adds a quota: of requests, tokens, or input and output tokens apart, over any period. A call waits until all of them have what it
    /// needs. May be given any number of times, and beside [`requests_per_minute`](Self::requests_per_minute) and
    /// [`tokens_per_minute`](Self::tokens_per_minute), which are short forms of it.
    pub fn quota(mut self, quota: Quota) -> Self {
        self.quotas.push(quota);
        self
    }

    /// Has calls wait for the reset of a quota that is used up: one of the gate's own that counts in windows, or the provider's, if
    /// its rejection says when it resets. By default they are refused with [`Refused::QuotaExhausted`](super::Refused::QuotaExhausted).
    ///
    /// An item whose call was so rejected is called again after the reset, if its retry policy is told of it by the item's record; that
    /// counts neither as an attempt nor as a throttle. A quota that the provider reports as used up after three resets in a row latches the gate.
    pub fn wait_for_reset(mut self) -> Self {
        self.wait_for_reset = true;
        self
    }

    /// The cap on calls in flight. None by default: then the concurrency of the batch is the cap.
    pub fn max_in_flight(mut self, calls: usize) -> Self {
        self.max_in_flight = Some(calls);
        self
    }

    /// Starts cold with a cap of `initial` calls in flight, which rises by `step` every `every` from the first call on, up to
    /// [`max_in_flight`](Self::max_in_flight). Off by default.
    pub fn in_flight_ramp(mut self, initial: usize, step: usize, every: Duration) -> Self {
        self.in_flight_ramp = Some(InFlightRamp { initial, step, every });
        self
    }

    /// Sets the spacing of starts until the first throttle. [`StartRamp::default`] by default, which ends when a call
    /// goes to one of the local servers that this crate knows by name (`ollama:`, `vllm:`, `llamacpp:`, `lmstudio:`).
    pub fn start_ramp(mut self, ramp: StartRamp) -> Self {
        self.start_ramp = Some(ramp);
        self.default_ramp = false;
        self
    }

    /// Starts without a ramp: for a server of the user's own, and for benches.
    pub fn without_start_ramp(mut self) -> Self {
        self.start_ramp = None;
        self.default_ramp = false;
        self
    }

    /// Sets the time for which the gate stays closed after a throttle. [`Cooldown::default`] by default.
    pub fn cooldown(mut self, cooldown: Cooldown) -> Self {
        self.cooldown = cooldown;
        self
    }

    /// The policy that spaces starts. [`BucketFit`] by default.
    pub fn pace(mut self, pace: impl Pace) -> Self {
        // One of this crate's own is asked under the gate's lock, which is faster.
        let mut pace = Some(pace);
        let any: &mut dyn Any = &mut pace;
        self.built_in = if let Some(pace) = any.downcast_mut::<Option<BucketFit>>() {
            pace.take().map(|pace| BuiltIn::BucketFit(Box::new(pace)))
        } else if let Some(pace) = any.downcast_mut::<Option<SlowStart>>() {
            pace.take().map(BuiltIn::SlowStart)
        } else {
            None
        };
        self.pace = pace.map(|pace| Box::new(pace) as Box<dyn Pace>);
        self
    }

    /// Lets calls of a lower [`Priority`](super::Priority) through only while none of a higher one waits: they may wait for ever. Off by
    /// default: of every 8 grants one goes to them.
    pub fn strict_priority(mut self) -> Self {
        self.strict_priority = true;
        self
    }

    /// Starts with a limit that [an earlier gate](RateLimiter::learned) of the same account and model has found: at that pace at
    /// once, without a start ramp, or with that cap on calls in flight. None by default.
    ///
    /// It is trusted little: a pace that is too high falls with the first rejections, one that is too low begins to climb within
    /// seconds. A limit older than a day, with a time more than a minute in the future, or without a number above 0 is ignored, with a log record;
    /// [`RateLimiter::learned`] then returns `None`. A rate below six calls a minute is taken for six.
    ///
    /// [`build`](Self::build) fails if the pace is not [`BucketFit`], which alone can use it.
    pub fn learned(mut self, limit: LearnedLimit) -> Self {
        self.learned = Some(limit);
        self
    }

    /// Sets the store of the quotas and pauses that this gate shares with others. None by default: all is in this gate.
    pub fn state_store(mut self, store: impl StateStore) -> Self {
        self.store = Some(Box::new(store));
        self
    }

    /// Sends the gate's events to `events`. Nowhere by default.
    pub fn events(mut self, events: &Events) -> Self {
        self.events = Some(events.clone());
        self
    }

    /// Makes the gate. May be called outside a runtime.
    ///
    /// # Errors
    /// If a value is zero where it must not be, is not a number, or is in conflict with another one.
    pub fn build(self) -> Result<RateLimiter, InvalidLimit> {
        self.check()?;
        Ok(self.make())
    }

    /// Makes the gate of options that were checked, or are the defaults.
    pub(super) fn make(self) -> RateLimiter {
        let now = Instant::now();
        let short = [
            self.requests_per_minute
                .map(|limit| Quota::requests(limit.into())),
            self.tokens_per_minute.map(|limit| Quota::tokens(limit.into())),
        ];
        let short = short.into_iter().flatten().map(|quota| quota.burst(self.burst));
        let clock = WallClock::new(now, SystemTime::now());
        let limits = Limits::new(short.chain(self.quotas), clock, now);
        if let (Some(requests), Some(tokens)) = (self.requests_per_minute, self.tokens_per_minute)
            && tokens < requests
        {
            tracing::warn!(
                target: "llm_batch::rate_limiter",
                limiter = &*self.name,
                "{tokens} tokens a minute cannot feed {requests} requests a minute"
            );
        }
        let own = self.pace.map(|pace| {
            let pacing = pace.initial();
            (pace, pacing)
        });
        let built_in = match &own {
            Some(_) => None,
            None => self
                .built_in
                .or_else(|| self.cooldown.slow_start().map(BuiltIn::SlowStart))
                .or_else(|| Some(BuiltIn::BucketFit(Box::default()))),
        };
        let built_in = built_in.map(|pace| match self.learned {
            Some(limit) => pace.starting_with(limit, SystemTime::now(), &self.name),
            None => pace,
        });
        let initial = own.as_ref().map(|(_, pacing)| *pacing);
        let initial = initial.or_else(|| built_in.as_ref().map(BuiltIn::pacing));
        let config = Config {
            cooldown: self.cooldown,
            limits,
            wait_for_reset: self.wait_for_reset,
            max_in_flight: self.max_in_flight,
            in_flight_ramp: self.in_flight_ramp,
            start_ramp: self.start_ramp,
            pacing: initial.unwrap_or(Pacing::UNLIMITED),
            built_in,
            strict_priority: self.strict_priority,
            shared: self.store.is_some(),
        };
        let gate = Gate::new(
            self.name,
            self.events,
            self.store,
            config,
            own,
            self.default_ramp,
            now,
        );
        RateLimiter {
            gate: Arc::new(gate),
            priority: Priority::default(),
        }
    }

    fn check(&self) -> Result<(), InvalidLimit> {
        let at_least_one = |field, number: Option<u64>| match number {
            Some(0) => Err(InvalidLimit::new(field, "must be at least 1")),
            _ => Ok(()),
        };
        at_least_one("requests_per_minute", self.requests_per_minute.map(u64::from))?;
        at_least_one("tokens_per_minute", self.tokens_per_minute.map(u64::from))?;
        at_least_one("max_in_flight", self.max_in_flight.map(|calls| calls as u64))?;
        if self.burst.is_zero() || self.burst > LONGEST_BURST {
            return Err(InvalidLimit::new("burst", "must be above zero and at most 60 s"));
        }
        self.quotas.iter().try_for_each(Quota::check)?;
        if let Some(ramp) = &self.in_flight_ramp {
            if ramp.initial == 0 || ramp.step == 0 || ramp.every.is_zero() {
                return Err(InvalidLimit::new(
                    "in_flight_ramp",
                    "must begin with at least 1 and rise by at least 1 in a time above zero",
                ));
            }
            if self.max_in_flight.is_some_and(|cap| cap < ramp.initial) {
                return Err(InvalidLimit::new(
                    "in_flight_ramp",
                    "must not begin above max_in_flight",
                ));
            }
        }
        if let Some(ramp) = &self.start_ramp {
            ramp.check()?;
        }
        let is_fitted = match &self.built_in {
            Some(BuiltIn::BucketFit(_)) => true,
            Some(BuiltIn::SlowStart(_)) => false,
            None => self.pace.is_none() && self.cooldown.slow_start().is_none(),
        };
        if self.learned.is_some() && !is_fitted {
            return Err(InvalidLimit::new(
                "learned",
                "is used by the default pace only; leave out the other one, or the limit",
            ));
        }
        self.cooldown.check()
    }
}

impl fmt::Debug for RateLimiterBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimiterBuilder")
            .field("name", &self.name)
            .field("requests_per_minute", &self.requests_per_minute)
            .field("tokens_per_minute", &self.tokens_per_minute)
            .field("burst", &self.burst)
            .field("quotas", &self.quotas)
            .field("max_in_flight", &self.max_in_flight)
            .field("start_ramp", &self.start_ramp)
            .field("cooldown", &self.cooldown)
            .finish_non_exhaustive()
    }
}
