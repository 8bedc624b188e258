//! The interface for quotas and pauses that several gates share, usually in several processes.

use std::time::Duration;

use futures_core::future::BoxFuture;

use crate::error::{BoxError, ErrorKind};
use crate::item::WaitReason;

/// Holds the state shared by several gates: the quotas and pauses of one account that several processes use.
///
/// Without a store, which is the default, all state is in the gate. With a store, a call first has
/// to pass the gate's own limits; then the store is asked, for one call at a time, in the order of the queue. Set
/// the shared quotas in the store and leave those of the gate unset, or set them to the maximum for this process.
///
/// Only the gate's pump awaits a store, never a caller, and never under a lock. It waits for the answer before it asks for the next
/// call, so a store that does not answer stops the gate: use your own time limit.
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
    /// Requests permission for one call that reserves `tokens`.
    ///
    /// # Errors
    /// If the store cannot answer. The gate logs it and admits the call by its own limits; to stop the calls instead,
    /// return [`Leave::Wait`].
    fn acquire(&self, tokens: u64) -> BoxFuture<'_, Result<Leave, BoxError>>;

    /// Reports the outcomes of calls that were permitted, and changes of the gate, in order.
    ///
    /// # Errors
    /// If the report is lost. The gate logs it and continues.
    fn report(&self, report: StoreReport) -> BoxFuture<'_, Result<(), BoxError>>;
}

/// The answer of a [`StateStore`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Leave {
    /// The call may start.
    Granted,
    /// The call may not start before this time has passed; then the gate asks again.
    Wait {
        /// The length of the wait.
        time: Duration,
        /// The reason for the wait: [`WaitReason::Cooldown`] if another process closed the scope, or the exhausted quota.
        reason: WaitReason,
    },
}

/// A gate's report to its [`StateStore`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreReport {
    /// The permission was not used: nothing was sent.
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
    /// The gate closed, for all gates that share the store.
    Closed {
        /// The length of the pause.
        pause: Duration,
        /// The kind of failure that closed it.
        kind: ErrorKind,
    },
    /// The gate latched: no call of this account can succeed.
    Latched {
        /// The kind of failure that latched it.
        kind: ErrorKind,
    },
    /// The gate was reopened.
    Reopened,
}
