//! The future of a call behind a gate.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;
use tower_service::Service;

use super::error::Refused;
use super::grant::{Acquire, ActiveCall, Grant};
use crate::classify::{Classify, Disposition, Verdict};
use crate::error::Delivery;
use crate::events::EventKind;
use crate::item::{CallGuard, FindItem};
use crate::response::{InResponse, ReportsUsage};
use crate::usage::TokenUsage;

/// The future of [`RateLimited`](super::RateLimited).
///
/// # Cancel safety
/// Dropped while it waits, it leaves the queue and gives back what it was granted. Dropped during the call, the request
/// quota is spent and the token quota keeps the estimate, as the provider may bill the call.
#[pin_project]
pub struct RateLimitedFuture<S, Req, C, F, U = InResponse>
where
    S: Service<Req>,
{
    #[pin]
    step: Step<S::Future>,
    /// What is needed to make the call; gone once it is made.
    pending: Option<(S, Req)>,
    classify: C,
    find: F,
    usage: U,
}

#[pin_project(project = StepProj)]
enum Step<Fut> {
    Waiting(Acquire),
    /// Waits for the service inside, with the grant in hand.
    Granted(Option<Grant>),
    Calling {
        // Dropped first, so that what is observed at its end still counts.
        #[pin]
        future: Fut,
        call: Option<ActiveCall>,
    },
}

impl<S, Req, C, F, U> RateLimitedFuture<S, Req, C, F, U>
where
    S: Service<Req>,
{
    pub(super) const fn new(
        acquire: Acquire,
        service: S,
        request: Req,
        classify: C,
        find: F,
        usage: U,
    ) -> Self {
        Self {
            step: Step::Waiting(acquire),
            pending: Some((service, request)),
            classify,
            find,
            usage,
        }
    }
}

impl<S, Req, C, F, U> Future for RateLimitedFuture<S, Req, C, F, U>
where
    S: Service<Req> + Clone,
    S::Error: From<Refused>,
    C: Classify<S::Response, S::Error>,
    F: FindItem<Req>,
    U: ReportsUsage<S::Response, S::Error>,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.step.as_mut().project() {
                StepProj::Waiting(acquire) => match ready!(Pin::new(acquire).poll(cx)) {
                    Ok(grant) => this.step.set(Step::Granted(Some(grant))),
                    Err(refused) => return Poll::Ready(Err(refused.into())),
                },
                StepProj::Granted(grant) => {
                    let Some((service, _)) = this.pending.as_mut() else {
                        panic!("`RateLimitedFuture` polled after completion");
                    };
                    if let Err(error) = ready!(service.poll_ready(cx)) {
                        *grant = None;
                        *this.pending = None;
                        return Poll::Ready(Err(error));
                    }
                    let (Some(grant), Some((mut service, mut request))) = (grant.take(), this.pending.take())
                    else {
                        panic!("`RateLimitedFuture` polled after completion");
                    };
                    match grant.start() {
                        Ok(mut call) => {
                            open(&mut call, this.find, &mut request);
                            let future = service.call(request);
                            let call = Some(call);
                            this.step.set(Step::Calling { future, call });
                        }
                        Err(acquire) => {
                            // A fresh clone holds nothing of the service inside while this waits again.
                            *this.pending = Some((service.clone(), request));
                            this.step.set(Step::Waiting(acquire));
                        }
                    }
                }
                StepProj::Calling { future, call } => {
                    let polled = future.poll(cx);
                    if let Some(call) = call {
                        call.look_for_local_server();
                    }
                    let result = ready!(polled);
                    if let Some(call) = call.take() {
                        let verdict = this.classify.classify(result.as_ref());
                        settle(call, verdict, this.usage.reported_usage(result.as_ref()));
                    }
                    return Poll::Ready(result);
                }
            }
        }
    }
}

/// Opens the call in the item's record, as of the instant of the last look.
fn open<Req>(call: &mut ActiveCall, find: &impl FindItem<Req>, request: &mut Req) {
    let at = call.started_at();
    let guard = find.call_at(request, at);
    if let Some(guard) = guard.as_ref().filter(|guard| guard.is_opener()) {
        call.gate().emit(at, Some(guard.item()), || {
            guard.set_start_told();
            EventKind::CallStarted {
                call: guard.number(),
                attempt: guard.item().attempt(),
            }
        });
    }
    call.set_guard(guard);
}

fn settle(call: ActiveCall, mut verdict: Verdict, reported: Option<TokenUsage>) {
    let throttled = verdict.disposition == Disposition::Throttled;
    let observed = call.guard().and_then(CallGuard::observed);
    let used = match observed.flatten().or(reported) {
        Some(usage) => Some(usage.total()),
        // A layer that watches the call has said that it is unknown.
        None if observed.is_some() => None,
        // A call that was not sent or was turned away took nothing.
        None if throttled => Some(0),
        None => verdict
            .kind
            .filter(|kind| kind.delivery() != Delivery::MaybeBilled)
            .map(|_| 0),
    };
    if verdict.quota.is_none() {
        verdict.quota = call.guard().and_then(CallGuard::quota);
    }
    let item = call.guard().map(|guard| {
        if throttled {
            guard.set_throttled();
        }
        Arc::clone(guard.item())
    });
    let gate = call.gate().mark();
    if let (Some(until), Some(item)) = (call.settle(&verdict, used), item) {
        item.set_held_by(gate, until);
    }
}

impl<S, Req, C, F, U> fmt::Debug for RateLimitedFuture<S, Req, C, F, U>
where
    S: Service<Req>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitedFuture").finish_non_exhaustive()
    }
}
