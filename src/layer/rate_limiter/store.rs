//! The seam for quotas and pauses that several gates share, in several processes as a rule.

use std::time::Duration;

use futures_core::future::BoxFuture;

use crate::error::{BoxError, ErrorKind};
use crate::item::WaitReason;

/// Holds what several gates share: the quotas and pauses of one account that many processes use.
///
/// Without one, which is the default, everything is in the gate and nothing is awaited. With one, a call first has
/// to pass the gate's own limits; then the store is asked, for one call at a time, in the order of the queue. Set
/// the shared quotas in the store and leave those of the gate unset, or set them to what this process may take at most.
///
/// Only the gate's pump awaits a store, never a caller and never a lock. It waits for the answer before it asks for the next
/// call, so an answer that does not come stops the gate: bound it by a time limit of your own.
///
/// ```
/// use futures::future::BoxFuture;
/// use llm_batch::BoxError;
/// use llm_batch::layer::rate_limiter::{Leave, RateLimiter, StateStore, StoreReport};
///
/// /// Lets everything through.
/// struct Generous;
///
/// impl StateStore for Generous {
///     fn acquire(&self, _tokens: u64) -> BoxFuture<'_, Result<Leave, BoxError>> {
///         Box::pin(async { Ok(Leave::Granted) })
///     }
///     fn report(&self, _report: StoreReport) -> BoxFuture<'_, Result<(), BoxError>> {
///         Box::pin(async { Ok(()) })
///     }
/// }
/// let limiter = RateLimiter::builder().state_store(Generous).build().unwrap();
/// # let _ = limiter;
/// ```
pub trait StateStore: Send + Sync + 'static {
    /// Asks for leave for one call that reserves `tokens`.
    ///
    /// # Errors
    /// If the store cannot answer. The gate logs it and lets the call through on its own limits; a store that would rather
    /// stop answers [`Leave::Wait`].
    fn acquire(&self, tokens: u64) -> BoxFuture<'_, Result<Leave, BoxError>>;

    /// Reports the outcomes of calls that were permitted, and changes of the gate, in order.
    ///
    /// # Errors
    /// If the report is lost. The gate logs it and goes on.
    fn report(&self, report: StoreReport) -> BoxFuture<'_, Result<(), BoxError>>;
}

/// The answer of a [`StateStore`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Leave {
    /// The call may start.
    Granted,
    /// Not before this time has passed; then the gate asks again.
    Wait {
        /// The length of the wait.
        time: Duration,
        /// The reason for the wait: [`WaitReason::Cooldown`] if another process closed the scope, or the quota that is short.
        reason: WaitReason,
    },
}

/// A gate's report to its [`StateStore`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreReport {
    /// Leave was not used: nothing was sent.
    Returned {
        /// The tokens that were reserved.
        reserved: u64,
    },
    /// A call has ended.
    Settled {
        /// The tokens that were reserved.
        reserved: u64,
        /// The tokens that were used; `None` (unknown) keeps the reservation.
        used: Option<u64>,
    },
    /// The gate closed, for everyone who shares the store.
    Closed {
        /// For how long.
        pause: Duration,
        /// The kind of failure that closed it.
        kind: ErrorKind,
    },
    /// The gate latched: no call of this account can succeed.
    Latched {
        /// The kind of failure that latched it.
        kind: ErrorKind,
    },
    /// The gate was reopened by hand.
    Reopened,
}
