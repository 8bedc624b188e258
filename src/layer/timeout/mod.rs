//! Time limits: one for the whole item, one for a single call.
//!
//! [`ItemTimeoutLayer`] belongs at the outside of a stack: its clock runs from the moment the item was picked up, over
//! every call and every wait. [`CallTimeoutLayer`] belongs at the inside, right on the strategy: its clock runs
//! for one physical call and never for a wait, as every layer that waits does so before it calls.
//!
//! Both fail with [`TimedOut`], which reaches the stack's error type through `From`. [`LlmError`](crate::LlmError)
//! and [`BoxError`](crate::BoxError) have that already; an error of your own needs one variant with
//! `#[from] TimedOut`.
//!
//! Both poll what is inside before they look at the clock, so an answer that is there is never thrown away, and
//! touch a timer only if the answer is not there at the first look.
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

use tokio::time::{Instant, Sleep};

mod call;
mod error;
mod item;

pub use call::{CallTimeout, CallTimeoutFuture, CallTimeoutLayer};
pub use error::{TimedOut, TimeoutScope};
pub use item::{ItemTimeout, ItemTimeoutFuture, ItemTimeoutLayer};

/// Whether `deadline` has passed. The timer is made at the first look; no deadline never passes.
fn passed(mut sleep: Pin<&mut Option<Sleep>>, deadline: Option<Instant>, cx: &mut Context<'_>) -> bool {
    let Some(deadline) = deadline else {
        return false;
    };
    if sleep.is_none() {
        sleep.set(Some(tokio::time::sleep_until(deadline)));
    }
    sleep.as_pin_mut().is_some_and(|sleep| sleep.poll(cx).is_ready())
}
