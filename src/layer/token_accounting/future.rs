//! The future of an accounted call.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;

use super::Call;
use crate::error::refusal;
use crate::item::{Abandoned, CallHold, CallRefused};
use crate::response::ReportsUsage;

/// The future of [`TokenAccounting`](super::TokenAccounting).
#[pin_project]
pub struct TokenAccountingFuture<Fut, U> {
    #[pin]
    step: Step<Fut>,
    usage: U,
}

#[pin_project(project = StepProjection)]
enum Step<Fut> {
    Calling {
        // Dropped before the account, so that the strategy's last observations still count.
        #[pin]
        future: Fut,
        call: Option<Call>,
    },
    /// The call was refused.
    Refused(CallRefused, CallHold),
    /// Refused, but the error type cannot express it: waits until the driver or a time limit further out ends the item.
    Waiting(#[allow(dead_code, reason = "marks by its existence that this waits")] Abandoned),
    Done,
}

impl<Fut, U> TokenAccountingFuture<Fut, U> {
    pub(super) const fn new(future: Fut, call: Call, usage: U) -> Self {
        Self {
            step: Step::Calling {
                future,
                call: Some(call),
            },
            usage,
        }
    }

    pub(super) const fn refused(refused: CallRefused, hold: CallHold, usage: U) -> Self {
        Self {
            step: Step::Refused(refused, hold),
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
        let mut this = self.project();
        match this.step.as_mut().project() {
            StepProjection::Calling { future, call } => {
                if let Some(call) = &call {
                    call.note_poll();
                }
                let entered = call.as_ref().map(Call::enter);
                let polled = future.poll(cx);
                drop(entered);
                let Poll::Ready(result) = &polled else {
                    return Poll::Pending;
                };
                let call = call.take();
                // Dropped first, so that calls that end with it are accounted before.
                this.step.set(Step::Done);
                if let Some(call) = call {
                    call.end(result.as_ref(), this.usage);
                }
                polled
            }
            StepProjection::Refused(refused, hold) => {
                if *refused == CallRefused::Stopped {
                    ready!(hold.poll_refused(cx));
                }
                if let Some(error) = refusal(*refused) {
                    this.step.set(Step::Done);
                    return Poll::Ready(Err(error));
                }
                let abandoned = Abandoned::new(hold.item(), hold.within());
                this.step.set(Step::Waiting(abandoned));
                Poll::Pending
            }
            StepProjection::Waiting(_) => Poll::Pending,
            StepProjection::Done => panic!("`TokenAccountingFuture` polled after completion"),
        }
    }
}

impl<Fut, U> fmt::Debug for TokenAccountingFuture<Fut, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenAccountingFuture").finish_non_exhaustive()
    }
}
