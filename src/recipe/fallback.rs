//! A second strategy where the first one fails.

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

/// Asks a second strategy where the first one failed for good, or at once while the first one's gate is closed.
///
/// Both are whole stacks, each with its own retries, gate and accounting; only a time limit for the item belongs around
/// both. What failure is final is for the first one's retry policy to say. For more than two strategies the second one may
/// be a `Fallback` itself.
///
/// With [`gate`](Self::gate) an item does not wait for a gate that is closed or latched, whichever stack closed it:
/// - an item that arrives meanwhile asks the second strategy immediately;
/// - so does an item that was throttled itself;
/// - an item that had queued before leaves the queue.
///
/// Calls under way at the first strategy are waited for.
///
/// The calls of both are in the accounts of the item. Its attempts count anew at the second strategy, which gets the request
/// as it came: nothing that the first one's retries wrote into it. A model that the prompt names is named to both. The
/// error of an item that fails at both is the second one's.
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
/// A dropped future drops what runs at either strategy. An item that leaves a closed gate drops its place in the queue, which
/// costs nothing; a call is never dropped for the fallback.
#[derive(Clone)]
pub struct Fallback<A, B> {
    first: A,
    second: B,
    gate: Option<RateLimiter>,
}

impl<A, B> Fallback<A, B> {
    /// Asks `first`, and `second` if that fails.
    pub fn new(first: A, second: B) -> Self {
        Self {
            first,
            second,
            gate: None,
        }
    }

    /// Watches the gate of the first strategy, and does not ask that one while the gate is closed or latched, whatever closed
    /// it.
    #[must_use]
    pub fn gate(mut self, gate: &RateLimiter) -> Self {
        self.gate = Some(gate.clone());
        self
    }

    /// The strategy that is asked first.
    pub const fn first(&self) -> &A {
        &self.first
    }

    /// The strategy that is asked where the first one failed.
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
            // A look at the gate comes before the first poll of the first strategy.
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
    /// The parts that are needed to ask the second strategy; gone once it is asked.
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
        // Made anew once it was ready: a gate that closed while a call was under way may have opened again.
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
                // Registered, for the case that the item goes on with its call.
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
                    // A first strategy at work on what it has got goes on.
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
        // The first one is dropped before: it leaves the queue of its gate.
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
