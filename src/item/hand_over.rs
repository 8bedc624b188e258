//! Waits for a service and hands it a held request.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;
use tower_service::Service;

use super::{CallHold, CallRefused};

/// Waits for a service to be ready while the request is held, and then hands the request over: as tower's `Oneshot`, but what a
/// stop or the item's deadline finds waiting is never sent.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), llm_batch::BoxError> {
/// use llm_batch::item::HandOver;
/// use llm_batch::{LlmError, LlmRequest, LlmResponse};
/// use tower::service_fn;
///
/// let model = service_fn(async |_: LlmRequest| Ok::<_, LlmError>(LlmResponse::new("42".to_owned())));
/// let mut request = LlmRequest::prompt("6 times 7?");
/// let hold = request.context_mut().hold();
/// let answer = HandOver::new(model, request, Some(hold), |refused| refused.into()).await?;
/// assert_eq!(answer.output, "42");
/// # Ok(()) }
/// ```
///
/// # Cancel safety
/// Dropped while it waits, nothing has been sent.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct HandOver<S: Service<Req>, Req> {
    #[pin]
    step: Step<S, Req, S::Future>,
    refusal: Option<fn(CallRefused) -> S::Error>,
}

#[pin_project(project = StepProjection)]
enum Step<S, Req, Fut> {
    /// Empty once the request is on its way, or refused.
    Waiting(Option<(S, Req, Option<CallHold>)>),
    Calling(#[pin] Fut),
}

impl<S: Service<Req>, Req> HandOver<S, Req> {
    /// Hands `request` over once `service` is ready. `refusal` makes the error for a request that may not be sent any more.
    pub const fn new(
        service: S,
        request: Req,
        hold: Option<CallHold>,
        refusal: fn(CallRefused) -> S::Error,
    ) -> Self {
        Self {
            step: Step::Waiting(Some((service, request, hold))),
            refusal: Some(refusal),
        }
    }

    /// As [`new`](Self::new), where there is no error for a refusal: the driver or a time limit further out ends the item.
    pub(crate) const fn or_wait(service: S, request: Req, hold: Option<CallHold>) -> Self {
        Self {
            step: Step::Waiting(Some((service, request, hold))),
            refusal: None,
        }
    }
}

impl<S: Service<Req>, Req> Future for HandOver<S, Req> {
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let waiting = match this.step.as_mut().project() {
                StepProjection::Calling(call) => return call.poll(cx),
                StepProjection::Waiting(waiting) => waiting,
            };
            let Some((service, _, hold)) = waiting else {
                return Poll::Pending;
            };
            if this.refusal.is_some()
                && let Some(hold) = hold
            {
                // It fails by itself at a stop.
                hold.item().signals().wake_at_stop(cx);
            }
            let stopped = this.refusal.is_some()
                && hold
                    .as_ref()
                    .is_some_and(|hold| hold.item().signals().stop_requested());
            let ready = if stopped {
                Ok(())
            } else {
                ready!(service.poll_ready(cx))
            };
            let Some((mut service, request, hold)) = waiting.take() else {
                return Poll::Pending;
            };
            if let Err(error) = ready {
                return Poll::Ready(Err(error));
            }
            let Some(hold) = hold else {
                this.step.set(Step::Calling(service.call(request)));
                continue;
            };
            let item = std::sync::Arc::clone(hold.item());
            match (hold.release(), *this.refusal) {
                (Ok(()), _) => this.step.set(Step::Calling(service.call(request))),
                (Err(refused), Some(refusal)) => return Poll::Ready(Err(refusal(refused))),
                (Err(CallRefused::Stopped), None) => {
                    item.signals().abandon();
                    return Poll::Pending;
                }
                // A time limit ends the item.
                (Err(CallRefused::DeadlinePassed), None) => return Poll::Pending,
            }
        }
    }
}

impl<S: Service<Req>, Req> fmt::Debug for HandOver<S, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step = match self.step {
            Step::Waiting(_) => "waiting",
            Step::Calling(_) => "calling",
        };
        f.debug_tuple("HandOver").field(&step).finish()
    }
}
