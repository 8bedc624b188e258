//! The future of a call behind a gate.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;
use tokio::time::Instant;
use tower_service::Service;

use super::grant::{Acquire, ActiveCall, Grant};
use crate::classify::{Classify, Verdict};
use crate::error::{Delivery, Disposition, Refused, was_sent};
use crate::events::EventKind;
use crate::item::{CallHold, CallRefused, CallsInside, GateEnd, HeldItem};
use crate::request::FindItem;
use crate::response::{InResponse, ReportsUsage};
use crate::usage::TokenUsage;

/// The future of [`RateLimited`](super::RateLimited).
///
/// # Cancel safety
/// Dropping it while it waits leaves the queue and returns its grant, if any. After a drop during the call, the request
/// quota is spent and the token quota keeps the estimate, as the provider may bill the call.
#[pin_project]
pub struct RateLimitedFuture<S, Req, C, F, U = InResponse>
where
    S: Service<Req>,
{
    #[pin]
    step: Step<S, Req, S::Future>,
    classify: C,
    find: F,
    calls_inside: Arc<CallsInside>,
    usage: U,
}

/// A call that has not begun.
pub(super) struct Pending<S, Req> {
    pub(super) service: S,
    pub(super) request: Req,
    /// Marks in the item's record that nothing was sent.
    pub(super) hold: Option<CallHold>,
}

#[pin_project(project = StepProj)]
enum Step<S, Req, Fut> {
    /// `pending` is `None` once the call is made.
    Waiting {
        wait: Wait,
        pending: Option<Pending<S, Req>>,
    },
    /// The call was refused.
    Refused {
        refused: Option<Refused>,
        hold: Option<CallHold>,
    },
    Calling {
        // Dropped first, so that observations at its end still count.
        #[pin]
        future: Fut,
        call: Option<ActiveCall>,
    },
}

enum Wait {
    ForGrant(Acquire),
    /// For the service inside to be ready, while holding the grant.
    ForService(Option<Grant>),
}

impl<S, Req, C, F, U> RateLimitedFuture<S, Req, C, F, U>
where
    S: Service<Req>,
{
    pub(super) const fn new(
        acquire: Acquire,
        pending: Pending<S, Req>,
        classify: C,
        find: F,
        calls_inside: Arc<CallsInside>,
        usage: U,
    ) -> Self {
        Self {
            step: Step::Waiting {
                wait: Wait::ForGrant(acquire),
                pending: Some(pending),
            },
            classify,
            find,
            calls_inside,
            usage,
        }
    }
}

impl<S, Req, Fut> Step<S, Req, Fut> {
    fn refused(refused: impl Into<Refused>, hold: Option<CallHold>) -> Self {
        Self::Refused {
            refused: Some(refused.into()),
            hold,
        }
    }
}

impl<S, Req, C, F, U> Future for RateLimitedFuture<S, Req, C, F, U>
where
    S: Service<Req> + Clone,
    S::Error: From<Refused> + 'static,
    C: Classify<S::Response, S::Error>,
    F: FindItem<Req>,
    U: ReportsUsage<S::Response, S::Error>,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.step.as_mut().project() {
                StepProj::Refused { refused, hold } => {
                    if let (Some(Refused::Item(CallRefused::Stopped)), Some(hold)) = (&refused, hold.as_mut())
                    {
                        ready!(hold.poll_refused(cx));
                    }
                    *hold = None;
                    return match refused.take() {
                        Some(refused) => Poll::Ready(Err(refused.into())),
                        None => panic!("`RateLimitedFuture` polled after completion"),
                    };
                }
                StepProj::Waiting { wait, pending } => {
                    let Some(waiting) = pending.as_mut() else {
                        panic!("`RateLimitedFuture` polled after completion");
                    };
                    let granted = match wait {
                        Wait::ForService(grant) => grant.take(),
                        Wait::ForGrant(acquire) => match ready!(Pin::new(acquire).poll(cx)) {
                            Ok(grant) => Some(grant),
                            Err(refused) => {
                                let hold = waiting.hold.take();
                                this.step.set(Step::refused(refused, hold));
                                continue;
                            }
                        },
                    };
                    let Some(granted) = granted else {
                        panic!("`RateLimitedFuture` polled after completion");
                    };
                    let item = waiting.hold.as_ref().map(CallHold::item);
                    if item.is_some_and(|item| item.signals().stop_requested()) {
                        let hold = waiting.hold.take();
                        this.step.set(Step::refused(CallRefused::Stopped, hold));
                        continue;
                    }
                    match waiting.service.poll_ready(cx) {
                        Poll::Ready(Ok(())) => {}
                        Poll::Ready(Err(error)) => {
                            drop(granted);
                            *pending = None;
                            return Poll::Ready(Err(error));
                        }
                        Poll::Pending => {
                            if let Some(item) = item {
                                item.signals().wake_at_stop(cx);
                            }
                            *wait = Wait::ForService(Some(granted));
                            return Poll::Pending;
                        }
                    }
                    let now = Instant::now();
                    // If refused, the grant is dropped and thereby returned.
                    let guard = this
                        .find
                        .context_mut(&mut waiting.request)
                        .map(|context| context.begin_held_at(now))
                        .transpose();
                    let guard = match guard {
                        Ok(guard) => guard,
                        Err(refused) => {
                            let hold = waiting.hold.take();
                            this.step.set(Step::refused(refused, hold));
                            continue;
                        }
                    };
                    let mut call = match granted.start_at(now) {
                        Ok(call) => call,
                        Err(acquire) => {
                            // A clone holds no capacity of the service inside while this waits again.
                            waiting.service = waiting.service.clone();
                            *wait = Wait::ForGrant(acquire);
                            continue;
                        }
                    };
                    // If a layer inside begins the call, it stays held until then.
                    let released = guard
                        .as_ref()
                        .filter(|_| !this.calls_inside.is_certain())
                        .map(|guard| guard.release(call.started_at(), &mut waiting.hold));
                    if let Some(Err(refused)) = released {
                        call.retract();
                        let hold = waiting.hold.take();
                        this.step.set(Step::refused(refused, hold));
                        continue;
                    }
                    call.set_guard(guard);
                    let Some(Pending {
                        mut service,
                        request,
                        hold,
                    }) = pending.take()
                    else {
                        panic!("`RateLimitedFuture` polled after completion");
                    };
                    drop(hold);
                    let future = service.call(request);
                    announce(&call, this.calls_inside);
                    let call = Some(call);
                    this.step.set(Step::Calling { future, call });
                }
                StepProj::Calling { future, call } => {
                    if let Some(guard) = call.as_ref().and_then(ActiveCall::guard) {
                        guard.note_poll();
                    }
                    let polled = future.poll(cx);
                    if let Some(call) = call {
                        call.look_for_local_server();
                    }
                    let Poll::Ready(result) = &polled else {
                        return Poll::Pending;
                    };
                    if let Some(call) = call.take() {
                        let verdict = this.classify.classify(result.as_ref());
                        let end = GateEnd {
                            sent: match result {
                                Ok(_) => Some(true),
                                Err(error) => was_sent(error),
                            },
                            answered: verdict.disposition == Disposition::Success,
                            throttled: verdict.disposition == Disposition::Throttled,
                            reported: this.usage.reported_usage(result.as_ref()),
                        };
                        settle(call, verdict, &end, this.calls_inside);
                    }
                    return polled;
                }
            }
        }
    }
}

/// Sends the event of the call's start, with the time of the last check, unless a layer inside sends it when the call begins there.
fn announce(call: &ActiveCall, inside: &CallsInside) {
    let Some(guard) = call.guard() else { return };
    let learned = inside.begin();
    if learned && !call.gate().has_events() {
        return;
    }
    let (joined, announces) = guard.handed_on();
    if joined {
        inside.saw_begun();
    }
    if !announces || (learned && !joined) {
        return;
    }
    call.gate().emit(call.started_at(), Some(guard.item()), || {
        guard.set_announced();
        EventKind::CallStarted {
            call: guard.number(),
            attempt: guard.item().attempt(),
        }
    });
}

fn settle(call: ActiveCall, mut verdict: Verdict, end: &GateEnd, inside: &CallsInside) {
    let ended = call.guard().map(|guard| guard.end_at_gate(end, inside));
    let (throttled, reported) = (end.throttled, end.reported);
    let observed = ended.and_then(|ended| ended.observed);
    let unsent = ended.is_some_and(|ended| ended.unsent);
    let used = match observed.flatten().or(reported) {
        _ if unsent => Some(TokenUsage::ZERO),
        Some(usage) => Some(usage),
        // A layer that watches the call has reported the usage as unknown.
        None if observed.is_some() => None,
        // A call that was not sent or was rejected used no tokens.
        None if throttled => Some(TokenUsage::ZERO),
        None => verdict
            .kind
            .filter(|kind| kind.delivery() != Delivery::MaybeBilled)
            .map(|_| TokenUsage::ZERO),
    };
    if verdict.quota.is_none() {
        verdict.quota = ended.and_then(|ended| ended.quota);
    }
    // An answered item is not held.
    let learns = ended.is_some_and(|ended| ended.throttled_before);
    let item = call
        .guard()
        .filter(|_| !end.answered || learns)
        .map(|guard| Arc::clone(guard.item()));
    // One that the server has no room for would be the next to be rejected.
    let (mark, at_tail) = (call.gate().mark(), call.is_first() || !throttled);
    let gate = learns.then(|| call.shared_gate());
    let until = call.settle_usage(&verdict, used);
    let Some(item) = item else { return };
    if let Some(limit) = gate.and_then(|gate| gate.learned()) {
        item.signals().set_learned(limit);
    }
    if let (Some(until), false) = (until, end.answered) {
        item.signals().set_held(HeldItem {
            gate: mark,
            until,
            at_tail,
            gate_is_open: until <= Instant::now(),
        });
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
