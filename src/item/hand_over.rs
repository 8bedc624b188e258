//! A future that waits for a service and passes a held request to it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;
use tokio::time::Instant;
use tower_service::Service;

use super::{Abandoned, AtWork, CallContext, CallHold, CallRefused, HandedOn, Item, enter};
use crate::error::was_sent;
use crate::request::FindItem;

/// Waits for a service to be ready while the request is held, and then passes the request to it: like tower's `Oneshot`, but a
/// request that is still waiting at a stop or at the item's deadline is never sent. A call that no layer inside watches is counted
/// in the item's accounts.
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
/// let answer = HandOver::new(model, request, Some(hold), |refused| Some(refused.into())).await?;
/// assert_eq!(answer.output, "42");
/// # Ok(()) }
/// ```
///
/// # Cancel safety
/// If it is dropped while it waits, nothing has been sent. If it is dropped later, the call may still be billed.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct HandOver<S: Service<Req>, Req> {
    #[pin]
    step: Step<S, Req>,
}

#[pin_project(project = StepProjection)]
enum Step<S: Service<Req>, Req> {
    /// `None` once the request was passed on or refused.
    Waiting(Option<Waiting<S, Req>>),
    Calling {
        #[pin]
        call: S::Future,
        // Dropped after the call, so that the service's last reports still count.
        under_way: Option<UnderWay>,
    },
    /// Refused, but the error type cannot express it: waits until the driver or a time limit further out ends the item.
    Refused(#[allow(dead_code, reason = "marks by its existence that this waits")] Abandoned),
}

/// A request that waits for its service.
struct Waiting<S: Service<Req>, Req> {
    service: S,
    request: Req,
    hold: Option<CallHold>,
    refusal: fn(CallRefused) -> Option<S::Error>,
}

/// A request that a service is processing. If it is dropped without [`end`](Self::end), it was cut or the service panicked.
struct UnderWay {
    item: Arc<Item>,
    handed_on: HandedOn,
    ended: bool,
}

impl UnderWay {
    #[inline]
    fn new(item: &Arc<Item>, handed_on: HandedOn) -> Self {
        Self {
            item: Arc::clone(item),
            handed_on,
            ended: false,
        }
    }

    /// Records a poll of the request.
    #[inline]
    fn enter(&self) -> AtWork {
        self.item.signals().note_poll(self.handed_on);
        let hand_over = match self.handed_on {
            HandedOn::Unwatched { id, .. } => id,
            // It is a call, so requests made in it are separate calls.
            HandedOn::AsCall(_) => 0,
        };
        enter(&self.item, hand_over)
    }

    fn end<R, E: 'static>(mut self, result: &Result<R, E>) {
        let sent = match result {
            Ok(_) => Some(true),
            Err(error) => was_sent(error),
        };
        self.ended = true;
        self.item
            .signals()
            .settle_inside(self.handed_on, sent, result.is_ok());
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if !self.ended {
            self.item.signals().settle_inside(self.handed_on, None, false);
        }
    }
}

impl<S: Service<Req>, Req> HandOver<S, Req> {
    /// Passes `request` to `service` once it is ready. `refusal` creates the error for a request that may no longer be sent; if it
    /// returns `None`, the future waits until the driver or a time limit further out ends the item.
    pub const fn new(
        service: S,
        request: Req,
        hold: Option<CallHold>,
        refusal: fn(CallRefused) -> Option<S::Error>,
    ) -> Self {
        Self {
            step: Step::Waiting(Some(Waiting {
                service,
                request,
                hold,
                refusal,
            })),
        }
    }

    /// Returns `true` until the request is passed on.
    pub(crate) const fn is_waiting(&self) -> bool {
        matches!(self.step, Step::Waiting(_) | Step::Refused(_))
    }

    /// For a layer whose `poll_ready` is always ready: polls `service` and records in `ready` whether this instance is ready.
    pub(crate) fn poll_ready(
        service: &mut S,
        ready: &mut bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), S::Error>> {
        let polled = service.poll_ready(cx);
        *ready = matches!(polled, Poll::Ready(Ok(())));
        match polled {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // If pending, the call waits for it.
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(())),
        }
    }

    /// For a layer that polled `service` in its own `poll_ready`: if it was `ready`, this same instance is called immediately.
    /// Otherwise the waiting instance is moved into the future and replaced by a clone. Uses the time that the caller has `read`, if
    /// given.
    #[inline]
    pub(crate) fn after_poll_ready<F>(
        service: &mut S,
        ready: bool,
        find: &F,
        mut request: Req,
        read: Option<Instant>,
        refusal: fn(CallRefused) -> Option<S::Error>,
    ) -> Self
    where
        S: Clone,
        F: FindItem<Req>,
    {
        let passed = match find.context_mut(&mut request) {
            _ if !ready => None,
            Some(context) => {
                let passed = context.pass(read).ok();
                passed.map(|handed_on| Some(UnderWay::new(context.item(), handed_on)))
            }
            None => Some(None),
        };
        let Some(under_way) = passed else {
            let hold = find.context_mut(&mut request).map(CallContext::hold);
            let fresh = service.clone();
            return Self::new(std::mem::replace(service, fresh), request, hold, refusal);
        };
        let at_work = under_way.as_ref().map(UnderWay::enter);
        let call = service.call(request);
        drop(at_work);
        Self {
            step: Step::Calling { call, under_way },
        }
    }
}

impl<S, Req> Future for HandOver<S, Req>
where
    S: Service<Req>,
    S::Error: 'static,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let waiting = match this.step.as_mut().project() {
                StepProjection::Waiting(waiting) => waiting,
                StepProjection::Calling { call, under_way } => {
                    let at_work = under_way.as_ref().map(UnderWay::enter);
                    let polled = call.poll(cx);
                    drop(at_work);
                    let Poll::Ready(result) = &polled else {
                        return Poll::Pending;
                    };
                    if let Some(under_way) = under_way.take() {
                        under_way.end(result);
                    }
                    return polled;
                }
                StepProjection::Refused(_) => return Poll::Pending,
            };
            let Some(Waiting { service, hold, .. }) = waiting else {
                panic!("`HandOver` polled after completion");
            };
            if let Some(hold) = hold
                && hold.item().signals().stop_requested()
            {
                ready!(hold.poll_refused(cx));
            }
            // After a stop the wait is over, even if the service is ready.
            let item = hold.as_ref().map(CallHold::item);
            let stopped = item.is_some_and(|item| item.signals().stop_requested());
            let ready = match service.poll_ready(cx) {
                Poll::Pending if !stopped => {
                    if let Some(item) = &item {
                        item.signals().wake_at_stop(cx);
                    }
                    return Poll::Pending;
                }
                Poll::Pending => Ok(()),
                Poll::Ready(ready) => ready,
            };
            let Some(Waiting {
                mut service,
                request,
                hold,
                refusal,
            }) = waiting.take()
            else {
                panic!("`HandOver` polled after completion");
            };
            if let Err(error) = ready {
                return Poll::Ready(Err(error));
            }
            let under_way = match hold {
                None => None,
                Some(hold) => {
                    let item = Arc::clone(hold.item());
                    let (handed_on, within) = (hold.handed_on(), hold.within());
                    match hold.release().map_err(refusal) {
                        Ok(()) => Some(UnderWay::new(&item, handed_on)),
                        Err(Some(error)) => return Poll::Ready(Err(error)),
                        Err(None) => {
                            this.step.set(Step::Refused(Abandoned::new(&item, within)));
                            continue;
                        }
                    }
                }
            };
            let at_work = under_way.as_ref().map(UnderWay::enter);
            let call = service.call(request);
            drop(at_work);
            this.step.set(Step::Calling { call, under_way });
        }
    }
}

impl<S: Service<Req>, Req> fmt::Debug for HandOver<S, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step = match self.step {
            Step::Waiting(_) => "waiting",
            Step::Calling { .. } => "calling",
            Step::Refused(_) => "refused",
        };
        f.debug_tuple("HandOver").field(&step).finish()
    }
}
