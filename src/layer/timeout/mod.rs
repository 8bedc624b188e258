//! Time limits: one for the whole item, one for a single call.
//!
//! | | [`CallTimeoutLayer`] | [`ItemTimeoutLayer`] |
//! |---|---|---|
//! | limits | one physical call | the item: every call, backoff and wait at a gate |
//! | its clock starts | when the request is sent | when the item is picked up |
//! | place it | innermost, directly around the strategy | outermost |
//! | when it passes | the call is cut; a retry above may call again | the item fails; no further call |
//! | default in [`StandardLayer`](crate::StandardLayer) | 600 s | 900 s |
//!
//! # When to use which
//! - For a server that sometimes accepts a request and never answers: a **call** timeout, somewhat above the longest answer that
//!   you expect. Without one, such a call holds its permit until the item's time is up.
//! - For a result that is worthless after some time (a user waits, a job has a window): an **item** timeout. A call timeout cannot
//!   bound that, since retries and waits at the gate are not part of it.
//! - Usually both. Choose the item timeout for the waits that you accept: with a quota of 60 requests a minute the hundredth
//!   item of a batch with a concurrency of 100 waits longer than a minute before its first call.
//! - The call timeout should be below the item timeout; otherwise it never fires, and a call that hangs is not retried.
//!   [`StandardLayer`](crate::StandardLayer) warns once if it is not. A stack that you compose yourself is not checked, since a
//!   call timeout works on requests of any type and does not see the deadline.
//! - A call that timed out may have been billed. The retry policy therefore repeats it once at most by default.
//! - A whole batch has its own limit: [`batch_timeout`](crate::LlmBatch::batch_timeout).
//!
//! Both fail with [`TimedOut`], converted to the stack's error type by `From`. [`LlmError`](crate::LlmError)
//! and [`BoxError`](crate::BoxError) implement it; your own error needs one variant with
//! `#[from] TimedOut`.
//!
//! Both poll the service inside before they check the clock, so an answer that has arrived is never discarded, and
//! they use a timer only if the first poll returns no answer. A call that is always ready for more (a fast endless stream) is cut
//! in time, too. Code that blocks the thread is not: a timer of an asynchronous runtime cannot interrupt it.
//!
//! # Panics
//! The futures panic if they have to wait outside a tokio runtime, or in one without time enabled.
//!
//! # Cancel safety
//! When a limit passes, the inner future is dropped. A call under way may still be billed; its usage is
//! unknown.

use std::future::Future;
use std::pin::Pin;
use std::task::Context;

use tokio::task::unconstrained;
use tokio::time::{Instant, Sleep};

mod call;
mod item;

pub use crate::error::{TimedOut, TimeoutScope};
pub use call::{CallTimeout, CallTimeoutFuture, CallTimeoutLayer};
pub use item::{ItemTimeout, ItemTimeoutFuture, ItemTimeoutLayer};

/// Returns `true` if `deadline` has passed; always `false` without a deadline. The timer is created at the first check.
///
/// The timer is polled outside of tokio's cooperative budget: the inner future may use up the budget at each poll, and then
/// the timer would never appear elapsed.
fn passed(mut sleep: Pin<&mut Option<Sleep>>, deadline: Option<Instant>, cx: &mut Context<'_>) -> bool {
    let Some(deadline) = deadline else {
        return false;
    };
    if sleep.is_none() {
        sleep.set(Some(tokio::time::sleep_until(deadline)));
    }
    sleep
        .as_pin_mut()
        .is_some_and(|sleep| std::pin::pin!(unconstrained(sleep)).poll(cx).is_ready())
}
