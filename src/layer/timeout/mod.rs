//! Time limits: one for the whole item, one for a single call.
//!
//! | | [`CallTimeoutLayer`] | [`ItemTimeoutLayer`] |
//! |---|---|---|
//! | limits | one physical call | the item: every call, backoff and wait at a gate |
//! | its clock starts | when the request is sent | when the item is picked up |
//! | place it | innermost, right on the strategy | outermost |
//! | when it passes | the call is cut; a retry above may call again | the item fails; nothing follows |
//! | default in [`StandardLayer`](crate::StandardLayer) | 600 s | 900 s |
//!
//! # When to use which
//! - A server sometimes accepts a request and never answers: a **call** timeout, somewhat above the longest answer that you
//!   expect. Without one, such a call holds its place until the item's time is up.
//! - A result is worthless after some time (a user waits, a job has a window): an **item** timeout. A call timeout cannot
//!   do that, since retries and waits at the gate come on top of it.
//! - Usually both. Choose the item timeout for the waits that you accept: with a quota of 60 requests a minute the hundredth
//!   item of a batch with a concurrency of 100 waits longer than a minute before its first call.
//! - The call timeout should be below the item timeout; otherwise it never fires, and no call is tried again.
//!   [`StandardLayer`](crate::StandardLayer) warns once if it is not. A stack that is composed by hand is not checked, since a
//!   call timeout serves requests of any type and sees no deadline.
//! - A call that timed out may have been billed. The retry policy therefore repeats it once at most by default.
//! - A whole batch has a limit of its own: [`batch_timeout`](crate::LlmBatch::batch_timeout).
//!
//! Both fail with [`TimedOut`], which reaches the stack's error type through `From`. [`LlmError`](crate::LlmError)
//! and [`BoxError`](crate::BoxError) have that already; an error of your own needs one variant with
//! `#[from] TimedOut`.
//!
//! Both poll the service inside before they look at the clock, so an answer that has arrived is never thrown away, and
//! touch a timer only if there is no answer at the first look. A call that is always ready for more (a fast endless stream) is cut
//! in time, too. Code that blocks the thread is not: no timer of an asynchronous runtime can interrupt it.
//!
//! # Panics
//! The futures panic if they have to wait outside a tokio runtime, or in one without time enabled.
//!
//! # Cancel safety
//! When a limit passes, what is inside is dropped. A call that was under way may still be billed; its usage is
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

/// Returns `true` if `deadline` has passed. The timer is made at the first look; without a deadline it never has.
///
/// The timer is polled outside of tokio's budget for cooperative tasks: what is inside may have used it up, at each of its
/// polls, and then the timer would never be seen to elapse.
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
