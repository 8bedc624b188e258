//! One gate per quota scope: cooldown, pace, calls in flight, and every quota of requests and tokens.
//!
//! All calls of one account and model share a [`RateLimiter`]. A call waits in its queue until, at the same instant, the
//! gate is open, fewer calls than the cap are in flight, the pace allows a start and every quota has enough for it; then
//! it takes everything in one step. A waiting call holds nothing. The queue is first come, first served: a small call never
//! overtakes a large one. A call of a higher [`Priority`] goes before those of lower ones, which do not starve.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), llm_batch::BoxError> {
//! use llm_batch::layer::rate_limiter::{RateLimiter, RateLimiterLayer};
//! use llm_batch::layer::retry::{RetryLayer, RetryPolicy};
//! use llm_batch::{LlmError, LlmRequest, LlmResponse, TokenUsage};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! let limiter = RateLimiter::builder()
//!     .requests_per_minute(500)
//!     .tokens_per_minute(200_000)
//!     .max_in_flight(64)
//!     .build()?;
//! let model = ServiceBuilder::new()
//!     .layer(RetryLayer::new(RetryPolicy::new(3)))
//!     .layer(RateLimiterLayer::new(limiter.clone()))
//!     .service(service_fn(async |_: LlmRequest| {
//!         Ok::<_, LlmError>(LlmResponse::new("hi".to_owned()).with_usage(TokenUsage::new(1_900, 100)))
//!     }));
//! model.oneshot(LlmRequest::new("hello".into())).await?;
//! // The usage of the response settles the quota: 2,000 of the 3,333 tokens of a second are spent.
//! assert!(limiter.snapshot().tokens_available < Some(1_400.0));
//! # Ok(()) }
//! ```
//!
//! # Where it belongs
//! Inside the retries, so that every physical call passes it and a backoff holds no permit; outside the call timeout, so
//! that waiting is not part of a call. A token accounting layer belongs inside it: the usage that it observes, also of a call
//! that was cut, settles the token quota. The limiter waits in its future: its `poll_ready` is always ready and reserves nothing
//! inside. Prefer [`max_in_flight`](RateLimiterBuilder::max_in_flight) to tower's `ConcurrencyLimit` inside it: a call that
//! waits there already holds its quota.
//!
//! # Quotas
//! A gate keeps any number of quotas at once ([`Quota`]): requests, tokens, or input and output tokens apart, per second, minute, hour or
//! day. [`requests_per_minute`](RateLimiterBuilder::requests_per_minute) and
//! [`tokens_per_minute`](RateLimiterBuilder::tokens_per_minute) are short forms. [`set_quotas`](RateLimiter::set_quotas) changes
//! them while calls wait and run, [`quotas`](RateLimiter::quotas) returns what is left.
//!
//! A quota of less than a day refills continuously and holds the refill of a sixtieth of its period by default: that of one second for a
//! quota per minute ([`burst`](RateLimiterBuilder::burst)). A start that is late by a few milliseconds is charged at the instant at which it was due (5 ms earlier at most), so that the
//! granularity of timers costs no quota.
//!
//! A quota of a day counts in a window, from one reset to the next. If a call does not fit into what is left and no call in flight can
//! return any, it is refused with [`Refused::QuotaExhausted`], or waits for the reset
//! ([`wait_for_reset`](RateLimiterBuilder::wait_for_reset)). The same holds for a quota that the provider reports as used up with the
//! time of its reset: the gate latches until then, or closes until then and calls the item again. After the reset one call goes first.
//!
//! A call reserves tokens and is settled when it ends, exactly once, even if it is cancelled or panics:
//!
//! | | tokens |
//! |---|---|
//! | reserved | the [estimate](crate::Estimate); if that is 0 (unknown), the mean of the known usages of earlier calls |
//! | known usage | the difference is refunded, or leaves a debt; known zero refunds everything |
//! | unknown usage | the reservation is kept |
//! | not sent, or throttled | everything is refunded |
//!
//! The usage is the one that a layer or strategy inside has observed, or else the one that the layer reads from the outcome
//! ([`usage_with`](RateLimiterLayer::usage_with)). A call with an estimate above the bucket's size waits for a full bucket and leaves
//! a debt; one with an estimate above a quota of a whole period fails immediately with [`Refused::TooLarge`]. While there is a debt, no
//! call starts, even with a small estimate. If neither an estimate nor a usage is known, the token quota cannot be kept, which is
//! logged once as a warning. Where an estimate is a sum, a quota of input or output tokens reserves the mean of earlier calls, or the
//! whole sum before there is one ([`TokenEstimate`]).
//!
//! One call is charged at most ten times what a quota gives per period, beyond its reservation: a usage above that is assumed to be a
//! reporting error, and is logged once as a warning.
//!
//! # Throttles
//! A call with a [verdict](crate::Classify) of throttled closes the gate for all calls of the scope; calls in flight finish.
//! [`Cooldown`] decides the length of the pause. The pause belongs to the gate, so it continues if the item that reported it is
//! cancelled. The throttled item rejoins at the head of the queue. The first call of a generation rejoins at the tail, so that a
//! single item is not the first after every pause; with a token quota of the gate's own, one whose estimate is above four times
//! the mean rejoins at the head too, since large prompts would starve otherwise.
//!
//! Each pause begins a new *generation* of calls. Only the first throttle of a generation closes the gate. Later throttles, of
//! calls that were under way, may extend the pause by their hint, but neither close the gate again nor
//! make the next pauses longer; their items also wait for their own hints to pass, at this gate only. Between grant and start every
//! call checks once more whether the gate has closed, and if so, returns everything and waits again from the same
//! place.
//!
//! If the *first* call of a generation is throttled, nothing was accepted: the next pause is twice as long. After two such
//! generations in a row the gate opens for a single probe call. The other calls follow once the probe has been answered, or was not
//! rejected within twice the usual time of a rejection and 100 ms: a long call does not keep them waiting.
//!
//! # Overload
//! Overload (503, 529) means that the server has no capacity for a call now. It lowers the cap on calls in flight to the number
//! in flight when it is reported, and the rejected item rejoins the queue at its tail; as calls are accepted the cap rises again, slowly if
//! overload recurs and quickly if it does not, until it is removed. One rejection among many accepted calls does not lower the cap:
//! that item waits for its own backoff. With a hint, or five times in a row over the whole scope, overload closes the gate for the
//! hint, or for 1, 2, 4, 8 and then 15 s, and each time a single probe call starts first. The retry policy counts overload with the
//! throttles, not with the attempts. A server that refuses connections (the call provably not sent) is overloaded in this sense: a
//! server restart fails only the calls that were under way. The clients of this crate give up after 30 s if the server has
//! never answered, and after 5 minutes if it has.
//!
//! # Latch
//! Failures that affect every call of the scope (authentication, balance, an unknown model) *latch* the gate: queued and
//! new calls fail without being sent, with the same kind, until [`reopen`](RateLimiter::reopen), or until the reset of the quota that
//! is used up, if that is known.
//!
//! # Pace
//! The gate spaces starts; callers do not sleep side by side. A cold gate ramps up ([`StartRamp`]), and after a throttle
//! it resumes at a rate, not at full speed ([`BucketFit`]). [`Pace`] is the seam for other policies. In the folder `docs`,
//! `how-the-gate-paces.md` describes a run step by step, with a picture, and what no pace can find.
//!
//! The limit that `BucketFit` finds is visible in the [snapshot](RateLimiterSnapshot::learned), as
//! [`LimitLearned`](crate::EventKind::LimitLearned) and in the summary of the batch. [`RateLimiter::learned`] returns it, to be
//! kept, and a gate that is [given](RateLimiterBuilder::learned) it starts at that pace.
//!
//! # Scopes
//! Cloning a limiter shares its scope. Different scopes never pause each other: [`RateLimiterLayer::keyed`] selects one by
//! request. Implement [`StateStore`] for scopes that several processes share. The
//! [name](RateLimiterBuilder::name) of a gate is in its logs, metrics and events.
//!
//! # Errors of other crates
//! The error of the service inside must implement `From<`[`Refused`]`>`. [`LlmError`](crate::LlmError) and
//! [`BoxError`](crate::BoxError) do; for your own error that is one line, and a foreign one becomes a `BoxError`
//! below the layer:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), llm_batch::BoxError> {
//! use std::io;
//! use llm_batch::layer::rate_limiter::{RateLimiter, RateLimiterLayer};
//! use llm_batch::{BoxError, Disposition, Verdict};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! let limiter = RateLimiter::builder().requests_per_minute(60).build()?;
//! let by_status = |outcome: Result<&u16, &BoxError>| match outcome {
//!     Ok(429) => Verdict::new(Disposition::Throttled),
//!     Ok(_) => Verdict::SUCCESS,
//!     Err(_) => Verdict::new(Disposition::Backoff),
//! };
//! let service = ServiceBuilder::new()
//!     .layer(RateLimiterLayer::new(limiter).classify_with(by_status).untracked())
//!     .map_err(BoxError::from)
//!     .service(service_fn(async |_: &'static str| Ok::<u16, io::Error>(200)));
//! assert_eq!(service.oneshot("hello").await?, 200);
//! # Ok(()) }
//! ```
//!
//! # Runtimes
//! Waiting needs a tokio runtime with its timer; without one a call that would have to wait fails with
//! [`Refused::Closed`]. A gate may be created, used and dropped outside a runtime, and shared by several runtimes: one that stops or
//! is shut down stalls only its own calls. A grant, or the probe, that a waiter has not taken after 1.5 s passes to the next one; if
//! the waiter comes later, it waits again from its old place. While calls wait, one task per runtime admits them all; each is woken
//! once.
//!
//! # Cancel safety
//! A future dropped while it waits leaves the queue and the next one moves up; a grant that it had not received yet is returned, with
//! every quota. A future dropped during its call has spent its request; its tokens stay reserved as estimated, as the
//! provider may bill them, unless a layer inside observed the usage.

use std::fmt;
use std::sync::Arc;

mod builder;
mod closed;
mod cooldown;
mod error;
mod future;
mod gate;
mod grant;
mod layer;
mod learned;
mod pace;
mod priority;
mod quota;
mod select;
mod snapshot;
mod store;

pub use crate::error::Refused;
#[cfg(feature = "progress")]
pub(crate) use builder::DEFAULT_NAME;
pub use builder::RateLimiterBuilder;
pub use closed::Closed;
pub use cooldown::Cooldown;
pub use error::InvalidLimit;
pub use future::RateLimitedFuture;
pub use grant::{Acquire, ActiveCall, Grant};
pub use layer::{RateLimited, RateLimiterLayer};
pub use learned::{LearnedLimit, LimitKind};
pub use pace::{BucketFit, EndedCall, Pace, Pacing, SlowStart, StartRamp, StartedCall};
pub use priority::Priority;
pub use quota::{Quota, QuotaState};
pub use select::{RateLimiters, SelectLimiter};
pub use snapshot::RateLimiterSnapshot;
pub use store::{Leave, StateStore, StoreReport};

use tokio::time::Instant;

use crate::request::TokenEstimate;
use gate::{Gate, Newcomer};
use learned::Learned;

/// A handle to one gate. Cloning it is cheap; all clones share the gate. See the [module](self).
///
/// ```
/// use std::time::Duration;
/// use llm_batch::layer::rate_limiter::{Cooldown, RateLimiter};
///
/// let limiter = RateLimiter::builder()
///     .name("gpt-4o-mini")
///     .requests_per_minute(500)
///     .burst(Duration::from_secs(2))
///     .cooldown(Cooldown::default().with_cap(Duration::from_secs(30)))
///     .build()?;
/// assert_eq!(limiter.snapshot().waiting, 0);
/// # Ok::<(), llm_batch::layer::rate_limiter::InvalidLimit>(())
/// ```
#[derive(Clone)]
pub struct RateLimiter {
    gate: Arc<Gate>,
    priority: Priority,
}

/// Creates a gate without quotas, which still pauses when the provider throttles, and spaces starts.
impl Default for RateLimiter {
    fn default() -> Self {
        Self::builder().make()
    }
}

impl RateLimiter {
    /// Options for a new gate.
    pub fn builder() -> RateLimiterBuilder {
        RateLimiterBuilder::default()
    }

    /// Waits for permission to make one call of about `estimate` tokens (0: unknown), for use without a layer.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), llm_batch::BoxError> {
    /// use llm_batch::Verdict;
    /// use llm_batch::layer::rate_limiter::RateLimiter;
    ///
    /// let limiter = RateLimiter::builder().tokens_per_minute(60_000).build()?;
    /// let mut waiting = limiter.acquire(250);
    /// let call = loop {
    ///     // The gate may close between grant and call; then the wait continues from the same place.
    ///     match waiting.await?.start() {
    ///         Ok(call) => break call,
    ///         Err(again) => waiting = again,
    ///     }
    /// };
    /// // ... the request ...
    /// call.settle(&Verdict::SUCCESS, Some(310));
    /// assert_eq!(limiter.snapshot().in_flight, 0);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Refused`], if the gate is latched, if the estimate is above a token quota of a whole period, if a quota that counts in
    /// windows is used up, or if it has to wait outside a tokio runtime.
    pub fn acquire(&self, estimate: impl Into<TokenEstimate>) -> Acquire {
        Acquire::new(Arc::clone(&self.gate), self.priority, estimate.into())
    }

    /// Returns a handle to the same gate whose calls have this [`Priority`] in its queue.
    #[must_use]
    pub fn with_priority(&self, priority: Priority) -> Self {
        Self {
            gate: Arc::clone(&self.gate),
            priority,
        }
    }

    /// Returns a snapshot of the gate.
    pub fn snapshot(&self) -> RateLimiterSnapshot {
        let (snapshot, learned) = self
            .gate
            .with(|state, now, _| (state.snapshot(now), state.learned()));
        RateLimiterSnapshot {
            learned: learned.map(Learned::dated),
            ..snapshot
        }
    }

    /// Returns the provider's limit, once rejections have shown one, or the one that the gate [started
    /// with](RateLimiterBuilder::learned). `None` with a [`Pace`] of one's own, or if there was no limit to be found.
    ///
    /// Keep it, and give it to the next gate of the same account and model.
    pub fn learned(&self) -> Option<LearnedLimit> {
        self.gate.learned()
    }

    /// Returns every quota with what is left of it.
    pub fn quotas(&self) -> Vec<QuotaState> {
        self.gate.with(|state, now, _| state.quotas(now))
    }

    /// Replaces all quotas, those of [`requests_per_minute`](RateLimiterBuilder::requests_per_minute) and
    /// [`tokens_per_minute`](RateLimiterBuilder::tokens_per_minute) too, while calls wait and run.
    ///
    /// What was taken from a quota stays taken from the new one that counts the same over the same period. A quota that counts
    /// something else, or by another period, begins full, and calls that were let through before do not count in it. Waiting calls
    /// are looked at again at once; one that is now too large is refused.
    ///
    /// ```
    /// use llm_batch::layer::rate_limiter::{Quota, RateLimiter};
    ///
    /// let limiter = RateLimiter::builder().requests_per_minute(60).build()?;
    /// limiter.set_quotas([Quota::requests(600).per_minute(), Quota::tokens(90_000).per_minute()])?;
    /// assert_eq!(limiter.quotas().len(), 2);
    /// # Ok::<(), llm_batch::layer::rate_limiter::InvalidLimit>(())
    /// ```
    ///
    /// # Errors
    /// If a quota is invalid; then nothing changes.
    pub fn set_quotas(&self, quotas: impl IntoIterator<Item = Quota>) -> Result<(), InvalidLimit> {
        let quotas: Vec<_> = quotas.into_iter().collect();
        quotas.iter().try_for_each(Quota::check)?;
        self.gate.set_quotas(&quotas);
        Ok(())
    }

    /// Returns the time at which a new call of about `estimate` tokens (0: unknown) would start, as far as the gate can tell from its
    /// pause, pace, quotas, cap and queue: now, or later. `None`: it would be refused, as the gate is latched or the estimate above the
    /// token quota of a minute.
    ///
    /// An estimate that assumes that nothing changes: throttles, new limits and calls of a higher priority are not foreseen. For room
    /// under the cap it goes by the mean time of a call.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), llm_batch::BoxError> {
    /// use std::time::Duration;
    /// use llm_batch::RateLimiter;
    /// use tokio::time::Instant;
    ///
    /// let limiter = RateLimiter::builder().requests_per_minute(6).build()?;
    /// assert!(limiter.next_start(0).is_some_and(|start| start <= Instant::now()));
    /// let _call = limiter.acquire(0).await?.start().expect("nothing closes the gate");
    /// assert!(limiter.next_start(0).is_some_and(|start| start > Instant::now() + Duration::from_secs(9)));
    /// # Ok(()) }
    /// ```
    pub fn next_start(&self, estimate: impl Into<TokenEstimate>) -> Option<Instant> {
        self.forecast(estimate.into(), false)
    }

    /// As [`next_start`](Self::next_start), of a call that is the next one at best.
    pub(crate) fn next_start_at_head(&self) -> Option<Instant> {
        self.forecast(TokenEstimate::default(), true)
    }

    fn forecast(&self, estimate: TokenEstimate, is_next: bool) -> Option<Instant> {
        let class = self.priority;
        self.gate.next_start(&Newcomer {
            class,
            estimate,
            is_next,
        })
    }

    /// Waits until the gate is closed or latched; ready immediately if it is. Use it to call another provider instead of waiting.
    ///
    /// It does not keep the gate closed: [`snapshot`](Self::snapshot) returns the remaining time of the pause.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), llm_batch::BoxError> {
    /// use std::time::Duration;
    /// use llm_batch::{ErrorKind, Verdict};
    /// use llm_batch::layer::rate_limiter::RateLimiter;
    ///
    /// let limiter = RateLimiter::default();
    /// let call = limiter.acquire(1).await?.start().expect("nothing closes the gate");
    /// let closed = tokio::spawn(limiter.closed());
    /// let throttled = Verdict::of_kind(ErrorKind::RateLimit).with_retry_after(Duration::from_secs(3));
    /// call.settle(&throttled, Some(0));
    /// closed.await?;
    /// assert!(limiter.snapshot().closed_for.is_some());
    /// # Ok(()) }
    /// ```
    pub fn closed(&self) -> Closed {
        Closed::new(Arc::clone(&self.gate))
    }

    /// Reopens the gate: ends a latch, a pause, and the waits of items for their own hints.
    ///
    /// Calls that started before cannot latch it again.
    pub fn reopen(&self) {
        self.gate.reopen();
    }

    /// The name in logs and metrics.
    pub fn name(&self) -> &str {
        &self.gate.name
    }
}

impl fmt::Debug for RateLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimiter")
            .field("name", &self.name())
            .field("state", &self.snapshot())
            .finish()
    }
}
