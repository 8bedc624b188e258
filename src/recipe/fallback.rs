//! A second strategy for items that fail at the first one.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project::pin_project;
use tower_service::Service;

use crate::error::refusal;
use crate::item::{HandOver, Item};
use crate::layer::rate_limiter::{Closed, RateLimiter};
use crate::request::LlmRequest;

/// Calls a second strategy if the first one finally failed, or immediately while the first one's gate is closed.
///
/// Both are whole stacks, each with its own retries, gate and accounting; only a time limit for the item belongs around
/// both. The first one's retry policy decides which failure is final. For more than two strategies the second one may
/// be a `Fallback` itself.
///
/// With [`gate`](Self::gate) an item does not wait for a gate that is closed or latched, even if another stack closed it:
/// - an item that arrives while it is closed goes to the second strategy immediately;
/// - so does an item that was throttled itself;
/// - an item that was already queued leaves the queue.
///
/// Calls under way at the first strategy are completed.
///
/// The calls of both are in the accounts of the item. Its attempts start again at 1 for the second strategy, which gets the original
/// request, without changes by the first one's retries. A model in the prompt applies to both. An
/// item that fails at both has the error of the second one.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), llm_batch::BoxError> {
/// use llm_batch::recipe::Fallback;
/// use llm_batch::{ErrorKind, LlmError, LlmRequest, LlmResponse, RateLimiter, StandardLayer};
/// use tower::{Layer, ServiceExt, service_fn};
///
/// let first = service_fn(async |_: LlmRequest| {
///     Err::<LlmResponse, _>(LlmError::new(ErrorKind::InsufficientBalance, "no money left"))
/// });
/// let second = service_fn(async |_: LlmRequest| Ok::<_, LlmError>(LlmResponse::new("42".to_owned())));
///
/// let gate = RateLimiter::default();
/// let model = Fallback::new(
///     StandardLayer::new().with_limiter(gate.clone()).layer(first),
///     StandardLayer::new().layer(second),
/// )
/// .gate(&gate);
/// assert_eq!(model.oneshot(LlmRequest::new("6 times 7?".into())).await?.output, "42");
/// # Ok(()) }
/// ```
///
/// It waits for either strategy in its future: its `poll_ready` is always ready.
///
/// # Cancel safety
/// A dropped future drops the call under way at either strategy. An item that leaves a closed gate gives up its place in the queue,
/// which costs nothing; a call is never dropped for the fallback.
#[derive(Clone)]
pub struct Fallback<A, B> {
    first: A,
    second: B,
    gate: Option<RateLimiter>,
}

impl<A, B> Fallback<A, B> {
    /// Calls `first`, and `second` if that fails.
    pub fn new(first: A, second: B) -> Self {
        Self {
            first,
            second,
            gate: None,
        }
    }

    /// Watches the gate of the first strategy, and does not call that strategy while the gate is closed or latched, for any
    /// reason.
    #[must_use]
    pub fn gate(mut self, gate: &RateLimiter) -> Self {
        self.gate = Some(gate.clone());
        self
    }

    /// The strategy that is called first.
    pub const fn first(&self) -> &A {
        &self.first
    }

    /// The strategy that is called if the first one failed.
    pub const fn second(&self) -> &B {
        &self.second
    }
}

impl<A, B, I> Service<LlmRequest<I>> for Fallback<A, B>
where
    A: Service<LlmRequest<I>> + Clone,
    A::Error: 'static,
    B: Service<LlmRequest<I>, Response = A::Response, Error = A::Error> + Clone,
    I: Clone,
{
    type Response = A::Response;
    type Error = A::Error;
    type Future = FallbackFuture<A, B, I>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: LlmRequest<I>) -> Self::Future {
        let item = Arc::clone(request.item());
        let spare = Some((self.second.clone(), request.clone()));
        FallbackFuture {
            step: Step::First {
                run: {
                    let hold = request.context_mut().hold();
                    HandOver::new(self.first.clone(), request, Some(hold), refusal)
                },
            },
            // The gate is checked before the first poll of the first strategy.
            started: false,
            spare,
            closed: self.gate.as_ref().map(RateLimiter::closed),
            gate: self.gate.clone(),
            item,
        }
    }
}

impl<A: fmt::Debug, B: fmt::Debug> fmt::Debug for Fallback<A, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fallback")
            .field("first", &self.first)
            .field("second", &self.second)
            .field("gate", &self.gate)
            .finish()
    }
}

/// The future of [`Fallback`].
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct FallbackFuture<A, B, I>
where
    A: Service<LlmRequest<I>>,
    B: Service<LlmRequest<I>>,
{
    #[pin]
    step: Step<HandOver<A, LlmRequest<I>>, HandOver<B, LlmRequest<I>>>,
    started: bool,
    /// The second strategy and its request; `None` once it is called.
    spare: Option<(B, LlmRequest<I>)>,
    gate: Option<RateLimiter>,
    /// Wakes this item when the gate closes.
    #[pin]
    closed: Option<Closed>,
    item: Arc<Item>,
}

#[pin_project(project = StepProjection)]
enum Step<First, Second> {
    First {
        #[pin]
        run: First,
    },
    Second {
        #[pin]
        run: Second,
    },
}

impl<A, B, I> Future for FallbackFuture<A, B, I>
where
    A: Service<LlmRequest<I>>,
    A::Error: 'static,
    B: Service<LlmRequest<I>, Response = A::Response, Error = A::Error>,
{
    type Output = Result<A::Response, A::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let run = match this.step.as_mut().project() {
            StepProjection::Second { run } => return run.poll(cx),
            StepProjection::First { run } => run,
        };
        // Replaced once it was ready: a gate that closed while a call was under way may have opened again.
        let mut is_closed = |cx: &mut Context<'_>| {
            let Some(gate) = this.gate.as_ref() else {
                return false;
            };
            let closed = this
                .closed
                .as_mut()
                .as_pin_mut()
                .is_some_and(|closed| closed.poll(cx).is_ready());
            if closed {
                this.closed.set(Some(gate.closed()));
                // Registered, in case the item continues with its call.
                let _ = this.closed.as_mut().as_pin_mut().map(|closed| closed.poll(cx));
            }
            closed
        };
        let skip = !std::mem::replace(this.started, true) && is_closed(cx);
        if !skip {
            let result = run.poll(cx);
            match &result {
                Poll::Ready(Ok(_)) => return result,
                Poll::Ready(Err(_)) => {
                    if this.item.signals().may_call().is_err() {
                        return result;
                    }
                }
                Poll::Pending => {
                    // A first strategy that is not held back continues.
                    if !is_closed(cx)
                        || !this.item.signals().is_held_back()
                        || this.item.signals().may_call().is_err()
                    {
                        return result;
                    }
                }
            }
        }
        let Some((second, mut request)) = this.spare.take() else {
            panic!("`FallbackFuture` polled after completion");
        };
        this.item.signals().start_over();
        // The first one is dropped before the second starts: it leaves the queue of its gate.
        let hold = request.context_mut().hold();
        this.step.set(Step::Second {
            run: HandOver::new(second, request, Some(hold), refusal),
        });
        this.closed.set(None);
        match this.step.project() {
            StepProjection::Second { run } => run.poll(cx),
            StepProjection::First { .. } => unreachable!("the second strategy was set above"),
        }
    }
}

impl<A, B, I> fmt::Debug for FallbackFuture<A, B, I>
where
    A: Service<LlmRequest<I>>,
    B: Service<LlmRequest<I>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step = match self.step {
            Step::First { .. } => "first",
            Step::Second { .. } => "second",
        };
        f.debug_tuple("FallbackFuture").field(&step).finish()
    }
}
