//! A future that waits for the gate to close.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project::pin_project;
use tokio::sync::futures::OwnedNotified;

use super::gate::Gate;

/// The future of [`RateLimiter::closed`](super::RateLimiter::closed): ready when the gate is closed or latched.
///
/// # Cancel safety
/// It holds nothing and may be dropped at any time.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct Closed {
    gate: Arc<Gate>,
    #[pin]
    notified: OwnedNotified,
}

impl Closed {
    pub(super) fn new(gate: Arc<Gate>) -> Self {
        let notified = Arc::clone(&gate.closed).notified_owned();
        Self { gate, notified }
    }
}

impl Future for Closed {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        loop {
            // Registered before the gate is checked, so that no closing is missed.
            let notified = this.notified.as_mut().poll(cx).is_ready();
            if this.gate.is_shut() {
                return Poll::Ready(());
            }
            if !notified {
                return Poll::Pending;
            }
            // It has opened again meanwhile.
            this.notified.set(Arc::clone(&this.gate.closed).notified_owned());
        }
    }
}

impl fmt::Debug for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Closed")
            .field("limiter", &self.gate.name)
            .finish_non_exhaustive()
    }
}
