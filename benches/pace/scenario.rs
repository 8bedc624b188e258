//! A scenario: a provider and a batch.

use crate::bars::{Bar, FREE};

/// A provider, a batch, and the bar for it.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: String,
    pub(crate) about: String,
    pub(crate) bar: Bar,
    /// Of the set whose mean has a bar of its own.
    pub(crate) in_main_set: bool,
    /// Of all clients together.
    pub(crate) items: u32,
    /// Active items of each client, those that wait included.
    pub(crate) n: usize,
    pub(crate) clients: usize,
    /// Seconds from the start of one client to that of the next.
    pub(crate) join_after: f64,
    pub(crate) latency: Latency,
    pub(crate) quota: Quota,
    /// At these times (in seconds) rate and burst become this multiple of what they were at first.
    pub(crate) changes: Vec<(f64, f64)>,
    pub(crate) tokens: Option<Tokens>,
    /// Calls in flight above which the provider rejects.
    pub(crate) slots: Option<usize>,
    pub(crate) pool: Option<Pool>,
    /// All calls that arrive from the first to the second time (in seconds) are answered by 503.
    pub(crate) outage: Option<(f64, f64)>,
    /// A rejected call takes from the quota.
    pub(crate) counted: bool,
    pub(crate) hint: Hint,
    /// The limit that the rate-limit headers report.
    pub(crate) headers: Option<u64>,
    /// Seconds that a rejection takes beside the way there and back.
    pub(crate) rejection_time: f64,
    pub(crate) failures: Failures,
    /// Calls per second of a tenant that shares the quota and never backs off.
    pub(crate) foreign: Option<f64>,
    /// The quota is set in the client: per minute, of tokens if the quota counts tokens.
    pub(crate) per_minute: Option<u32>,
    /// The ratio is to the same run without failures, not to the ideal.
    pub(crate) against_itself: bool,
}

/// Seconds of each item's calls at the provider: lognormal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Latency {
    pub(crate) median: f64,
    pub(crate) sigma: f64,
    /// 1 % of the items take this long instead.
    pub(crate) tail: Option<f64>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Quota {
    Unlimited,
    /// Full at first.
    Bucket {
        per_second: f64,
        burst: f64,
    },
    /// A bucket of which the refill follows the calls accepted in the last minute.
    Ramp {
        per_second: f64,
        burst: f64,
        growth: f64,
    },
    Window {
        limit: u64,
        seconds: f64,
        /// Seconds that are left of the first one.
        first: f64,
    },
}

/// The quota counts tokens: 1,000 for an item in the mean.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tokens {
    pub(crate) sigma: f64,
    /// Sigma of the error of the estimates.
    pub(crate) error: f64,
    /// Rejections say that they are about tokens.
    pub(crate) named: bool,
}

/// A server that runs a batch, in which all calls slow each other down.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pool {
    /// With so many calls in the batch each runs at half its speed.
    pub(crate) half_speed: f64,
    pub(crate) batch: usize,
    pub(crate) queue: usize,
    /// The status when the queue is full.
    pub(crate) status: u16,
}

/// The wait that a 429 asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Hint {
    None,
    Exact,
    WholeSeconds,
    /// Times this.
    Scaled(f64),
    /// And so many seconds.
    Plus(f64),
    /// So many seconds, whatever the quota.
    Fixed(f64),
}

/// Failures that have nothing to do with the rate of calls, as shares of the calls.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Failures {
    pub(crate) throttled: f64,
    pub(crate) overloaded: f64,
    pub(crate) reset: f64,
    /// This call, from 1, is throttled.
    pub(crate) throttled_call: Option<u64>,
}

impl Failures {
    pub(crate) const fn any(&self) -> bool {
        self.throttled > 0.0 || self.overloaded > 0.0 || self.reset > 0.0 || self.throttled_call.is_some()
    }
}

impl Scenario {
    /// 3,000 items, 64 at a time, at 10 calls a second with a burst of 20 and exact hints.
    pub(crate) fn new(name: &str, about: &str) -> Self {
        Self {
            name: name.to_owned(),
            about: about.to_owned(),
            bar: FREE,
            in_main_set: false,
            items: 3_000,
            n: 64,
            clients: 1,
            join_after: 0.001,
            latency: Latency {
                median: 1.5,
                sigma: 0.5,
                tail: None,
            },
            quota: Quota::Bucket {
                per_second: 10.0,
                burst: 20.0,
            },
            changes: Vec::new(),
            tokens: None,
            slots: None,
            pool: None,
            outage: None,
            counted: false,
            hint: Hint::Exact,
            headers: None,
            rejection_time: 0.0,
            failures: Failures::default(),
            foreign: None,
            per_minute: None,
            against_itself: false,
        }
    }

    pub(crate) fn group(&self) -> &str {
        self.name
            .trim_end_matches(|character: char| character.is_ascii_digit())
    }

    /// All that can be active at once.
    pub(crate) const fn active(&self) -> usize {
        self.n * self.clients
    }

    pub(crate) fn items(mut self, items: u32, n: usize) -> Self {
        (self.items, self.n) = (items, n);
        self
    }

    pub(crate) fn bucket(mut self, per_second: f64, burst: f64) -> Self {
        self.quota = Quota::Bucket { per_second, burst };
        self
    }

    pub(crate) fn window(mut self, limit: u64, seconds: f64) -> Self {
        self.quota = Quota::Window {
            limit,
            seconds,
            first: seconds,
        };
        self
    }

    pub(crate) fn hint(mut self, hint: Hint) -> Self {
        self.hint = hint;
        self
    }

    pub(crate) fn latency(mut self, median: f64, sigma: f64) -> Self {
        (self.latency.median, self.latency.sigma) = (median, sigma);
        self
    }

    pub(crate) fn clients(mut self, clients: usize) -> Self {
        self.clients = clients;
        self
    }

    pub(crate) fn set(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}
