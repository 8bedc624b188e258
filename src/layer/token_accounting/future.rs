//! The future of an accounted call.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;

use super::Call;
use crate::response::ReportsUsage;

/// The future of [`TokenAccounting`](super::TokenAccounting).
#[pin_project]
pub struct TokenAccountingFuture<Fut, U> {
    // Dropped before the account, so that what the strategy observes at its end still counts.
    #[pin]
    future: Option<Fut>,
    call: Option<Call>,
    usage: U,
}

impl<Fut, U> TokenAccountingFuture<Fut, U> {
    pub(super) const fn new(future: Fut, call: Call, usage: U) -> Self {
        Self {
            future: Some(future),
            call: Some(call),
            usage,
        }
    }

    /// Of a call that may not begin. There is no error to fail with: what refused it, the driver or a time limit, ends the
    /// item around this.
    pub(super) const fn refused(usage: U) -> Self {
        Self {
            future: None,
            call: None,
            usage,
        }
    }
}

impl<Fut, U, Res, E> Future for TokenAccountingFuture<Fut, U>
where
    Fut: Future<Output = Result<Res, E>>,
    E: 'static,
    U: ReportsUsage<Res, E>,
{
    type Output = Result<Res, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Some(future) = this.future.as_pin_mut() else {
            return Poll::Pending;
        };
        let result = {
            let _entered = this.call.as_ref().map(Call::enter);
            ready!(future.poll(cx))
        };
        if let Some(call) = this.call.take() {
            call.end(result.as_ref(), this.usage);
        }
        Poll::Ready(result)
    }
}

impl<Fut, U> fmt::Debug for TokenAccountingFuture<Fut, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenAccountingFuture")
            .field("call", &self.call)
            .finish_non_exhaustive()
    }
}
