//! One gate per quota scope.

use std::fmt;
use std::sync::Arc;

mod builder;
mod cooldown;
mod error;
mod future;
mod gate;
mod grant;
mod layer;
mod pace;
mod pump;
mod quota;
mod select;
mod snapshot;
mod state;
mod store;
mod waits;

pub use builder::RateLimiterBuilder;
pub use cooldown::Cooldown;
pub use error::{InvalidLimit, Refused};
pub use future::RateLimitedFuture;
pub use grant::{Acquire, ActiveCall, Grant};
pub use layer::{RateLimited, RateLimiterLayer};
pub use pace::{EndedCall, LinearRecovery, Pace, Pacing, SlowStart, StartRamp, StartedCall};
pub use select::{RateLimiters, SelectLimiter};
pub use snapshot::RateLimiterSnapshot;
pub use store::{Leave, StateStore, StoreReport};

use gate::Gate;

/// A handle to one gate. Cloning it is cheap; all clones are the same gate.
#[derive(Clone)]
pub struct RateLimiter {
    gate: Arc<Gate>,
}

/// A gate without quotas, which still cools down when the provider throttles, and spaces starts.
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

    /// Waits for leave to make one call that will take about `estimate` tokens, for use without a layer.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), llm_batch::BoxError> {
    /// use llm_batch::Verdict;
    /// use llm_batch::layer::rate_limiter::RateLimiter;
    ///
    /// let limiter = RateLimiter::builder().tokens_per_minute(60_000).build()?;
    /// let mut waiting = limiter.acquire(250);
    /// let call = loop {
    ///     // The gate may close between grant and call; then the wait goes on in the same place.
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
    /// [`Refused`], if the gate is latched, if the estimate is above the token quota of a whole minute, or if it would
    /// have to wait outside a tokio runtime.
    pub fn acquire(&self, estimate: u64) -> Acquire {
        Acquire::new(Arc::clone(&self.gate), estimate)
    }

    /// What the gate is doing right now.
    pub fn snapshot(&self) -> RateLimiterSnapshot {
        self.gate.with(|state, now, _| state.snapshot(now))
    }

    /// Opens the gate by hand: ends a latch, and a pause too.
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
