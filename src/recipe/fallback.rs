//! A second strategy where the first one fails.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use pin_project::pin_project;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tower::util::Oneshot;
use tower_service::Service;

use crate::error::was_sent;
use crate::item::Item;
use crate::layer::rate_limiter::RateLimiter;
use crate::request::LlmRequest;

/// Asks a second strategy where the first one failed for good, or at once while the first one's gate is closed.
///
/// Both are whole stacks, each with its own retries, gate and accounting; only a time limit for the item belongs around
/// both. What failure is final is for the first one's retry policy to say. For more than two strategies the second one may
/// be a `Fallback` itself.
///
/// With [`gate`](Self::gate) an item does not wait for a gate that is closed or latched: neither one that comes meanwhile, nor one
/// that was throttled itself, nor one that had queued before. Calls under way at the first strategy are waited for.
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
    watch: Option<Watch>,
}

/// The gate of the first strategy, seen from all items that may wait at it.
#[derive(Clone)]
struct Watch {
    gate: RateLimiter,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    closed: Arc<Notify>,
    /// The last generation of the gate whose pause was told.
    told: AtomicU64,
}

impl Watch {
    /// Ready when somebody sees the gate close.
    fn told(&self) -> OwnedNotified {
        Arc::clone(&self.shared.closed).notified_owned()
    }

    /// Whether the gate is closed. The first who sees it tells those who queue there, as the gate itself wakes nobody.
    fn is_closed(&self) -> bool {
        let snapshot = self.gate.snapshot();
        if snapshot.closed_for.is_none() && snapshot.latched.is_none() {
            return false;
        }
        // A latch may come in the generation of a pause that was told.
        let stamp = snapshot.generation * 2 + u64::from(snapshot.latched.is_some());
        if self.shared.told.swap(stamp, Ordering::AcqRel) != stamp {
            self.shared.closed.notify_waiters();
        }
        true
    }
}

impl<A, B> Fallback<A, B> {
    /// Asks `first`, and `second` if that fails.
    pub fn new(first: A, second: B) -> Self {
        Self {
            first,
            second,
            watch: None,
        }
    }

    /// Watches the gate of the first strategy, and does not ask that one while the gate is closed or latched.
    ///
    /// To be called before the strategy is cloned.
    #[must_use]
    pub fn gate(mut self, gate: &RateLimiter) -> Self {
        self.watch = Some(Watch {
            gate: gate.clone(),
            shared: Arc::default(),
        });
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

    fn call(&mut self, request: LlmRequest<I>) -> Self::Future {
        let item = Arc::clone(request.item());
        let spare = Some((self.second.clone(), request.clone()));
        FallbackFuture {
            step: Step::First {
                run: Oneshot::new(self.first.clone(), request),
            },
            // A look at the gate comes before the first poll of the first strategy.
            started: false,
            spare,
            told: self.watch.as_ref().map(Watch::told),
            watch: self.watch.clone(),
            item,
        }
    }
}

impl<A: fmt::Debug, B: fmt::Debug> fmt::Debug for Fallback<A, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fallback")
            .field("first", &self.first)
            .field("second", &self.second)
            .field("gate", &self.watch.as_ref().map(|watch| &watch.gate))
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
    step: Step<Oneshot<A, LlmRequest<I>>, Oneshot<B, LlmRequest<I>>>,
    started: bool,
    /// What is needed to ask the second strategy; gone once it is asked.
    spare: Option<(B, LlmRequest<I>)>,
    watch: Option<Watch>,
    /// Wakes this item when another one saw the gate close.
    #[pin]
    told: Option<OwnedNotified>,
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
        let (run, watch) = match this.step.as_mut().project() {
            StepProjection::Second { run } => return run.poll(cx),
            StepProjection::First { run } => (run, this.watch.as_ref()),
        };
        let skip = !std::mem::replace(this.started, true) && watch.is_some_and(Watch::is_closed);
        if !skip {
            let result = run.poll(cx);
            match (&result, watch) {
                (Poll::Ready(Ok(_)), _) | (Poll::Pending, None) => return result,
                (Poll::Ready(Err(error)), _) => {
                    this.item.settle_call(was_sent(error), false);
                    // Others may queue at the gate that this item's failure has closed.
                    let _ = watch.map(Watch::is_closed);
                    if this.item.hand_over().is_err() {
                        return result;
                    }
                }
                (Poll::Pending, Some(watch)) => {
                    // Registered before the look at the gate, so that no closing is missed.
                    while this
                        .told
                        .as_mut()
                        .as_pin_mut()
                        .is_some_and(|told| told.poll(cx).is_ready())
                    {
                        this.told.set(Some(watch.told()));
                    }
                    if !watch.is_closed() || this.item.call_under_way() || this.item.hand_over().is_err() {
                        return result;
                    }
                }
            }
        }
        let Some((second, request)) = this.spare.take() else {
            panic!("`FallbackFuture` polled after completion");
        };
        this.item.start_over();
        // The first one is dropped before: it leaves the queue of its gate.
        this.step.set(Step::Second {
            run: Oneshot::new(second, request),
        });
        this.told.set(None);
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
