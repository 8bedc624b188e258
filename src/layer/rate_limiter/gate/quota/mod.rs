//! The quotas of a gate: what a call takes from each of them, and what it gives back.

use std::num::NonZeroU32;

use smallvec::SmallVec;
use tokio::time::Instant;

use crate::error::QuotaDimension;
use crate::item::WaitReason;
use crate::layer::rate_limiter::quota::{Quota, QuotaState, Refill};
use crate::request::TokenEstimate;
use crate::usage::TokenUsage;

mod bucket;
mod window;

use bucket::Bucket;
pub(in crate::layer::rate_limiter) use window::WallClock;
use window::Window;

/// One call is charged at most what this many periods give: more is an error in the report, not a usage.
const LARGEST_CHARGE: u64 = 10;

/// The tokens that a call has reserved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::layer::rate_limiter) struct Reserved {
    pub(super) total: u64,
    pub(super) input: u64,
    pub(super) output: u64,
}

/// The tokens that a call has used, as far as that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::layer::rate_limiter) enum Used {
    Unknown,
    /// Input and output together.
    Total(u64),
    Usage(TokenUsage),
}

impl Used {
    pub(in crate::layer::rate_limiter) const fn total(self) -> Option<u64> {
        match self {
            Self::Unknown => None,
            Self::Total(total) => Some(total),
            Self::Usage(usage) => Some(usage.total()),
        }
    }
}

impl From<Option<u64>> for Used {
    fn from(total: Option<u64>) -> Self {
        total.map_or(Self::Unknown, Self::Total)
    }
}

impl From<Option<TokenUsage>> for Used {
    fn from(usage: Option<TokenUsage>) -> Self {
        usage.map_or(Self::Unknown, Self::Usage)
    }
}

/// A quota, and what is left of it.
#[derive(Debug)]
struct Limit {
    quota: Quota,
    refill: State,
    /// The number of grants given before it was there, or before its window began: they have taken nothing from it.
    from: u64,
    /// The end of its window was announced.
    announced: bool,
}

#[derive(Debug)]
enum State {
    Bucket(Bucket),
    Window(Window),
}

impl Limit {
    fn new(quota: Quota, from: u64, clock: &WallClock, now: Instant) -> Self {
        let refill = match quota.refill() {
            Refill::Continuous { burst } => {
                // Checked: never zero, and never above.
                let limit = u32::try_from(quota.limit()).unwrap_or(u32::MAX);
                let limit = NonZeroU32::new(limit).unwrap_or(NonZeroU32::MIN);
                State::Bucket(Bucket::new(limit, quota.period(), burst, now))
            }
            Refill::Window { offset } => {
                State::Window(Window::new(quota.limit(), quota.period(), offset, clock, now))
            }
        };
        Self {
            quota,
            refill,
            from,
            announced: false,
        }
    }

    /// The part of a reservation that it counts.
    const fn reserved(&self, reserved: &Reserved) -> u64 {
        match self.quota.dimension() {
            QuotaDimension::Requests => 1,
            QuotaDimension::Tokens => reserved.total,
            QuotaDimension::InputTokens => reserved.input,
            QuotaDimension::OutputTokens => reserved.output,
            QuotaDimension::Concurrency => 0,
        }
    }

    /// The part of a usage that it counts, of a call that reserved so much; `None` if it is not known.
    fn used(&self, used: Used, reserved: u64) -> Option<u64> {
        let uncounted = |usage: &TokenUsage| match self.quota.excludes_cached_reads() {
            true => usage.cached_input.min(usage.input),
            false => 0,
        };
        match (self.quota.dimension(), used) {
            // Spent with the start.
            (QuotaDimension::Requests | QuotaDimension::Concurrency, _) | (_, Used::Unknown) => None,
            (QuotaDimension::Tokens, Used::Total(total)) => Some(total),
            // The parts of a total are not known, but neither is above it.
            (QuotaDimension::InputTokens | QuotaDimension::OutputTokens, Used::Total(total)) => {
                Some(total.min(reserved))
            }
            (QuotaDimension::Tokens, Used::Usage(usage)) => Some(usage.total() - uncounted(&usage)),
            (QuotaDimension::InputTokens, Used::Usage(usage)) => Some(usage.input - uncounted(&usage)),
            (QuotaDimension::OutputTokens, Used::Usage(usage)) => Some(usage.output),
        }
    }

    /// The amount of an estimate that it counts, if the estimate says so much.
    fn estimated(&self, estimate: &TokenEstimate) -> Option<u64> {
        match self.quota.dimension() {
            QuotaDimension::Requests | QuotaDimension::Concurrency => None,
            QuotaDimension::Tokens => Some(estimate.total()),
            QuotaDimension::InputTokens => estimate.input(),
            QuotaDimension::OutputTokens => estimate.output(),
        }
    }

    fn roll(&mut self, clock: &WallClock, granted: u64, now: Instant) {
        if let State::Window(window) = &mut self.refill
            && window.roll(clock, now)
        {
            self.from = granted;
            self.announced = false;
        }
    }

    /// A bucket is charged at the instant at which the call was due, a window when it starts.
    fn take(&mut self, amount: u64, due: Instant) -> Result<(), Instant> {
        match &mut self.refill {
            State::Bucket(bucket) => bucket.take(amount, due),
            State::Window(window) => window.take(amount),
        }
    }

    fn undo(&mut self) {
        match &mut self.refill {
            State::Bucket(bucket) => bucket.undo(),
            State::Window(window) => window.undo(),
        }
    }

    fn give_back(&mut self, amount: u64) {
        match &mut self.refill {
            State::Bucket(bucket) => bucket.give_back(amount),
            State::Window(window) => window.give_back(amount),
        }
    }

    /// Settles a reservation. Returns what was charged.
    fn settle(&mut self, reserved: u64, used: u64, now: Instant) -> u64 {
        self.give_back(reserved.saturating_sub(used));
        let more = used.saturating_sub(reserved);
        let charged = more.min(self.quota.limit().saturating_mul(LARGEST_CHARGE));
        match &mut self.refill {
            State::Bucket(bucket) => bucket.owe(charged, now),
            State::Window(window) => window.owe(charged),
        }
        reserved.saturating_add(charged)
    }

    fn balance(&self, now: Instant) -> f64 {
        match &self.refill {
            State::Bucket(bucket) => bucket.balance(now),
            // One that nothing was taken from since it ended is full.
            State::Window(window) if now >= window.ends() => self.quota.limit() as f64,
            State::Window(window) => window.balance(),
        }
    }

    const fn is_of_tokens(&self) -> bool {
        !matches!(self.quota.dimension(), QuotaDimension::Requests)
    }

    /// The same quota but for its amount and its burst.
    fn continues(&self, quota: &Quota) -> bool {
        let counts = |quota: &Quota| (quota.dimension(), quota.period(), quota.excludes_cached_reads());
        let alike = match (self.quota.refill(), quota.refill()) {
            (Refill::Continuous { .. }, Refill::Continuous { .. }) => true,
            (old, new) => old == new,
        };
        alike && counts(&self.quota) == counts(quota)
    }

    fn take_over(&mut self, old: &Self, now: Instant) {
        match (&mut self.refill, &old.refill) {
            (State::Bucket(new), State::Bucket(old)) => new.take_over(old, now),
            (State::Window(new), State::Window(old)) => new.take_over(old),
            _ => return,
        }
        self.from = old.from;
    }
}

/// What a call has to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shortage {
    pub(super) reason: WaitReason,
    pub(super) until: Instant,
    /// A window has too little left.
    pub(super) window: Option<Exhausted>,
}

/// A quota that is used up until its reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exhausted {
    pub(super) quota: Quota,
    pub(super) resets: Instant,
}

/// A usage that was charged in part only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unbelievable {
    pub(super) used: u64,
    pub(super) charged: u64,
}

/// All quotas of a gate. One or two of them cost no allocation.
#[derive(Debug)]
pub(in crate::layer::rate_limiter) struct Limits {
    list: SmallVec<[Limit; 2]>,
    clock: WallClock,
}

impl Reserved {
    /// Together with another one.
    pub(super) const fn plus(&self, other: &Self) -> Self {
        Self {
            total: self.total.saturating_add(other.total),
            input: self.input.saturating_add(other.input),
            output: self.output.saturating_add(other.output),
        }
    }

    /// That many of it.
    pub(super) const fn times(&self, calls: u64) -> Self {
        Self {
            total: self.total.saturating_mul(calls),
            input: self.input.saturating_mul(calls),
            output: self.output.saturating_mul(calls),
        }
    }
}

impl Limits {
    pub(in crate::layer::rate_limiter) fn new(
        quotas: impl IntoIterator<Item = Quota>,
        clock: WallClock,
        now: Instant,
    ) -> Self {
        let quotas = quotas.into_iter();
        Self {
            list: quotas.map(|quota| Limit::new(quota, 0, &clock, now)).collect(),
            clock,
        }
    }

    /// Replaces them, after `granted` grants. What was taken from a quota that stays, with another amount, stays taken.
    pub(super) fn replace(&mut self, quotas: &[Quota], granted: u64, now: Instant) {
        for limit in &mut self.list {
            limit.roll(&self.clock, granted, now);
        }
        let mut old = std::mem::take(&mut self.list);
        self.list = quotas
            .iter()
            .map(|quota| {
                let mut limit = Limit::new(*quota, granted, &self.clock, now);
                if let Some(position) = old.iter().position(|old| old.continues(quota)) {
                    limit.take_over(&old.remove(position), now);
                }
                limit
            })
            .collect();
    }

    pub(super) const fn clock(&self) -> &WallClock {
        &self.clock
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn count_tokens(&self) -> bool {
        self.list.iter().any(Limit::is_of_tokens)
    }

    /// Returns the estimate and the limit of a quota that an estimate can never fit into.
    pub(super) fn too_large(&self, estimate: &TokenEstimate) -> Option<(u64, u64)> {
        self.list.iter().find_map(|limit| {
            let (estimate, most) = (limit.estimated(estimate)?, limit.quota.limit());
            (estimate > most).then_some((estimate, most))
        })
    }

    /// A reservation as far as every quota can ever give it: a mean, or a total for a part, may be above.
    pub(super) fn clamp(&self, mut reserved: Reserved) -> Reserved {
        for limit in &self.list {
            let part = match limit.quota.dimension() {
                QuotaDimension::Tokens => &mut reserved.total,
                QuotaDimension::InputTokens => &mut reserved.input,
                QuotaDimension::OutputTokens => &mut reserved.output,
                QuotaDimension::Requests | QuotaDimension::Concurrency => continue,
            };
            *part = (*part).min(limit.quota.limit());
        }
        reserved
    }

    /// Begins the windows for which it is time.
    pub(super) fn roll(&mut self, granted: u64, now: Instant) {
        for limit in &mut self.list {
            limit.roll(&self.clock, granted, now);
        }
    }

    /// Takes a reservation from all of them, or nothing.
    pub(super) fn take(&mut self, reserved: &Reserved, due: Instant) -> Result<(), Shortage> {
        let mut shortage: Option<Shortage> = None;
        for limit in &mut self.list {
            let amount = limit.reserved(reserved);
            let Err(until) = limit.take(amount, due) else {
                continue;
            };
            let reason = match limit.quota.dimension() {
                QuotaDimension::Requests => WaitReason::Requests,
                _ => WaitReason::Tokens,
            };
            let is_window = matches!(limit.refill, State::Window(_));
            let window = is_window.then_some(Exhausted {
                quota: limit.quota,
                resets: until,
            });
            if shortage.is_none_or(|longest| until > longest.until) {
                shortage = Some(Shortage {
                    reason,
                    until,
                    window,
                });
            }
        }
        let Some(shortage) = shortage else {
            return Ok(());
        };
        for limit in &mut self.list {
            limit.undo();
        }
        Err(shortage)
    }

    /// Returns the time at which the last of `calls` calls that reserve this together could take its part, if none else takes any.
    pub(super) fn ready_at(&self, reserved: &Reserved, calls: u64, now: Instant) -> Instant {
        let ready = self.list.iter().map(|limit| {
            let amount = match limit.quota.dimension() {
                QuotaDimension::Requests => calls,
                _ => limit.reserved(reserved),
            };
            match &limit.refill {
                State::Bucket(bucket) => bucket.ready_at(amount, now),
                State::Window(window) if limit.balance(now) < amount as f64 => window.ends(),
                State::Window(_) => now,
            }
        });
        ready.fold(now, Instant::max)
    }

    /// A window is used up. Returns whether that is new.
    pub(super) fn announce(&mut self, exhausted: &Exhausted) -> bool {
        let limit = self.list.iter_mut().find(|limit| limit.quota == exhausted.quota);
        limit.is_some_and(|limit| !std::mem::replace(&mut limit.announced, true))
    }

    /// Gives the reservation of a grant back that no call was made with. The grants are numbered, from 1.
    pub(super) fn give_back(&mut self, reserved: &Reserved, grant: u64) {
        for limit in &mut self.list {
            if grant > limit.from {
                limit.give_back(limit.reserved(reserved));
            }
        }
    }

    /// Settles the reservation of a call. Returns a usage that was not believed.
    pub(super) fn settle(
        &mut self,
        reserved: &Reserved,
        used: Used,
        grant: u64,
        now: Instant,
    ) -> Option<Unbelievable> {
        let mut unbelievable = None;
        for limit in &mut self.list {
            let reserved = limit.reserved(reserved);
            let Some(used) = limit.used(used, reserved).filter(|_| grant > limit.from) else {
                continue;
            };
            let charged = limit.settle(reserved, used, now);
            if used > charged {
                unbelievable = Some(Unbelievable { used, charged });
            }
        }
        unbelievable
    }

    /// Returns the least that the quotas of a dimension have left.
    pub(super) fn available(&self, dimension: QuotaDimension, now: Instant) -> Option<f64> {
        let limits = self
            .list
            .iter()
            .filter(|limit| limit.quota.dimension() == dimension);
        limits.map(|limit| limit.balance(now)).reduce(f64::min)
    }

    pub(super) fn states(&self, now: Instant) -> Vec<QuotaState> {
        let state = |limit: &Limit| QuotaState {
            quota: limit.quota,
            available: limit.balance(now),
            resets_at: match &limit.refill {
                State::Bucket(_) => None,
                State::Window(window) => Some(self.clock.time(window.ends())),
            },
        };
        self.list.iter().map(state).collect()
    }
}
