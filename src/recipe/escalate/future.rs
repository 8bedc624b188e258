//! The future of a call from a rung.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;

use super::rungs::Step;
use crate::classify::{Classify, KindClassifier};
use crate::error::Disposition;

/// The future of [`Escalate`](super::Escalate) and [`Ladder`](super::Ladder).
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct EscalateFuture<Fut> {
    #[pin]
    future: Fut,
    step: Step,
}

impl<Fut> EscalateFuture<Fut> {
    pub(super) const fn new(future: Fut, step: Step) -> Self {
        Self { future, step }
    }
}

impl<Fut, Res, E> Future for EscalateFuture<Fut>
where
    Fut: Future<Output = Result<Res, E>>,
    KindClassifier: Classify<Res, E>,
{
    type Output = Result<Res, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.future.poll(cx));
        if KindClassifier.classify(result.as_ref()).disposition == Disposition::RetryNow {
            this.step.climb();
        }
        Poll::Ready(result)
    }
}

impl<Fut> fmt::Debug for EscalateFuture<Fut> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EscalateFuture")
            .field("rung", &self.step.rung())
            .finish_non_exhaustive()
    }
}
