//! The future of one item: readiness, the call, panics, and the abort of an item that waits when a drain begins.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;
use tokio::time::Instant;
use tower_service::Service;
use tracing::Span;

use super::ending::stopping_kind;
use super::shared::Shared;
use super::termination::Termination;
use crate::error::ErrorKind;
use crate::item::{Item, enter};
use crate::request::LlmRequest;

/// The end of an item, and the time of its end.
#[derive(Debug)]
pub struct Ended<R, E> {
    pub(super) slot: usize,
    pub(super) end: End<R, E>,
    pub(super) at: Instant,
}

#[derive(Debug)]
pub(super) enum End<R, E> {
    /// The strategy answered.
    Answered(Result<R, E>),
    /// The strategy panicked, with this message.
    Panicked(String),
    /// A stop, or the end of the runtime, came first.
    Aborted,
}

impl<R, E> Ended<R, E> {
    pub(super) fn now(slot: usize, end: End<R, E>) -> Self {
        Self {
            slot,
            end,
            at: Instant::now(),
        }
    }
}

/// Runs one item. When it is ready, everything the strategy held has been dropped, so the item's accounts are final.
#[pin_project]
#[allow(missing_debug_implementations)] // not reachable from outside
pub struct ItemFuture<I, S, F> {
    #[pin]
    state: State<I, S, F>,
    slot: usize,
    item: Arc<Item>,
    span: Span,
    fail_fast: Option<Arc<FailFast>>,
}

/// Stops the batch when an item has finally failed with one of these kinds.
pub(super) struct FailFast {
    pub(super) kinds: Vec<ErrorKind>,
    pub(super) shared: Arc<Shared>,
}

impl FailFast {
    pub(super) fn see(&self, kind: ErrorKind) {
        if self.kinds.contains(&kind) {
            self.shared.stop(Termination::FailFast, None);
        }
    }
}

#[pin_project(project = StateProjection)]
enum State<I, S, F> {
    Preparing {
        strategy: S,
        request: Option<LlmRequest<I>>,
    },
    Calling {
        #[pin]
        future: F,
    },
    Done,
}

impl<I, S, F> ItemFuture<I, S, F> {
    pub(super) fn new(
        slot: usize,
        strategy: S,
        request: LlmRequest<I>,
        item: Arc<Item>,
        span: Span,
        fail_fast: Option<Arc<FailFast>>,
    ) -> Self {
        Self {
            state: State::Preparing {
                strategy,
                request: Some(request),
            },
            slot,
            item,
            span,
            fail_fast,
        }
    }

    /// The place of the item among those in flight.
    pub(super) fn slot(&self) -> usize {
        self.slot
    }

    /// Drops what is left of the strategy's work, whatever its destructors do.
    pub(super) fn cancel(self: Pin<&mut Self>) {
        let mut this = self.project();
        let _entered = this.span.enter();
        // A panic here was reported by the panic hook and does not change the item's outcome.
        let _ = catch_unwind(AssertUnwindSafe(|| this.state.set(State::Done)));
    }
}

impl<I, S, F, R, E> Future for ItemFuture<I, S, F>
where
    S: Service<LlmRequest<I>, Response = R, Error = E, Future = F>,
    F: Future<Output = Result<R, E>>,
    E: 'static,
{
    type Output = Ended<R, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // Before the poll, so that a permit granted after a stop starts no call.
        let end = if self.item.signals().stop_requested() && self.item.must_end() {
            End::Aborted
        } else {
            match self.as_mut().poll_caught(cx) {
                Ok(Poll::Ready(end)) => end,
                Ok(Poll::Pending) => {
                    // Registered before the check, so that no stop is missed.
                    self.item.run_by(cx.waker());
                    if !self.item.must_end() {
                        return Poll::Pending;
                    }
                    End::Aborted
                }
                Err(panic) => End::Panicked(panic_message(&*panic)),
            }
        };
        if let Some(fail_fast) = &self.fail_fast {
            match &end {
                End::Answered(Err(error)) => {
                    if let Some(kind) = stopping_kind(error) {
                        fail_fast.see(kind);
                    }
                }
                End::Panicked(_) => fail_fast.see(ErrorKind::Panicked),
                End::Answered(Ok(_)) | End::Aborted => {}
            }
        }
        self.item.set_ended();
        self.as_mut().cancel();
        Poll::Ready(Ended::now(self.slot, end))
    }
}

impl<I, S, F, R, E> ItemFuture<I, S, F>
where
    S: Service<LlmRequest<I>, Response = R, Error = E, Future = F>,
    F: Future<Output = Result<R, E>>,
{
    /// One poll inside the item's span; a panic becomes an error.
    fn poll_caught(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Result<Poll<End<R, E>>, Box<dyn Any + Send>> {
        let this = self.project();
        let _entered = this.span.enter();
        let _at_work = enter(this.item, 0);
        catch_unwind(AssertUnwindSafe(|| poll_strategy(this.state, this.item, cx)))
    }
}

/// One poll of the strategy: the same instance that became ready is called.
fn poll_strategy<I, S, F, R, E>(
    mut state: Pin<&mut State<I, S, F>>,
    item: &Item,
    cx: &mut Context<'_>,
) -> Poll<End<R, E>>
where
    S: Service<LlmRequest<I>, Response = R, Error = E, Future = F>,
    F: Future<Output = Result<R, E>>,
{
    loop {
        let future = match state.as_mut().project() {
            StateProjection::Preparing { strategy, request } => {
                if let Err(error) = ready!(strategy.poll_ready(cx)) {
                    return Poll::Ready(End::Answered(Err(error)));
                }
                match request.take() {
                    Some(request) if item.signals().hand_over_by_driver().is_ok() => {
                        let future = strategy.call(request);
                        if !item.entered() {
                            return Poll::Ready(End::Aborted);
                        }
                        future
                    }
                    _ => return Poll::Ready(End::Aborted),
                }
            }
            StateProjection::Calling { future } => return future.poll(cx).map(End::Answered),
            StateProjection::Done => return Poll::Pending,
        };
        state.set(State::Calling { future });
    }
}

/// The message of a panic.
fn panic_message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&'static str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}
