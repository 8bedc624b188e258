//! Partial retries: the good parts of an answer are kept, and only the rest is requested again.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;
use tower_service::Service;

use crate::error::LlmError;
use crate::item::Item;
use crate::request::LlmRequest;
use crate::response::LlmResponse;
use crate::structured::InvalidOutput;

mod kept;
mod schema;

use kept::Kept;

/// Keeps the good parts of an answer, and requests only the rest again.
///
/// After an answer with some wrong fields the next attempt requests only those, with a schema of only those, and merges its answer
/// into the last one. So a long answer with one wrong field costs one field more, not a second long answer.
///
/// An `Idempotency-Key` of the prompt is sent only with requests for the whole answer.
///
/// It requests the missing parts itself; do not use the `feedback` hook on the same retries, which requests the whole
/// answer again.
///
/// `typed` creates the typed strategy from `strategy` wrapped in [`Merge`], which merges its answers.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), llm_batch::BoxError> {
/// use llm_batch::recipe::partial;
/// use llm_batch::{LlmError, LlmRequest, LlmResponse, RetryLayer, RetryPolicy, StructuredExt};
/// use schemars::JsonSchema;
/// use serde::Deserialize;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// #[derive(Deserialize, JsonSchema)]
/// struct Review {
///     product: String,
///     #[schemars(range(min = 1, max = 5))]
///     stars: u8,
/// }
///
/// let provider = service_fn(async |request: LlmRequest| {
///     let schema = request.input().output_schema().unwrap();
///     let text = if schema["properties"].get("product").is_some() {
///         r#"{"product": "lamp", "stars": 9}"#
///     } else {
///         r#"{"stars": 4}"#
///     };
///     Ok::<_, LlmError>(LlmResponse::new(text.to_owned()))
/// });
/// let model = ServiceBuilder::new()
///     .layer(RetryLayer::new(RetryPolicy::new(2)))
///     .service(partial(provider, |provider| provider.structured::<Review>()));
/// let review = model.oneshot(LlmRequest::new("Great lamp, a bit pale.".into())).await?.output;
/// assert_eq!((review.product.as_str(), review.stars), ("lamp", 4));
/// # Ok(()) }
/// ```
///
/// # The kept part
/// If the answer is a JSON object, all members are kept except those with a fault at or inside them. A list with a fault in it is
/// requested as a whole, as is an answer with a fault that does not name a field. The merged answer is checked like any other, so a
/// field that is wrong in the new answer is requested next.
///
/// The kept part is in the item's [`RetryState`](crate::RetryState), separate from other items, and failures in between (a throttle,
/// a broken connection, an answer that is not JSON) do not discard it. A good answer does: the item's next request is for a whole
/// answer.
pub fn partial<P, S>(strategy: P, typed: impl FnOnce(Merge<P>) -> S) -> Partial<S> {
    Partial {
        inner: typed(Merge { inner: strategy }),
    }
}

/// A typed strategy that requests only the wrong parts again; created by [`partial`].
#[derive(Clone, Debug)]
pub struct Partial<S> {
    inner: S,
}

impl<S> Partial<S> {
    /// The typed strategy.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The typed strategy, mutably.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Takes the typed strategy out.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S> Service<LlmRequest> for Partial<S>
where
    S: Service<LlmRequest, Error = LlmError>,
{
    type Response = S::Response;
    type Error = LlmError;
    type Future = PartialFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LlmError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: LlmRequest) -> Self::Future {
        let item = Arc::clone(request.item());
        PartialFuture {
            future: self.inner.call(request),
            item,
        }
    }
}

/// The future of [`Partial`].
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct PartialFuture<Fut> {
    #[pin]
    future: Fut,
    item: Arc<Item>,
}

impl<Fut, Res> Future for PartialFuture<Fut>
where
    Fut: Future<Output = Result<Res, LlmError>>,
{
    type Output = Result<Res, LlmError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.future.poll(cx));
        if result.is_ok() {
            // The item's next request, as in agents, is another one.
            drop(this.item.state().remove::<Kept>());
        }
        // An answer that is not JSON does not discard the kept part of an earlier one.
        let invalid = result.as_ref().err().and_then(|error| InvalidOutput::of(error));
        if let Some((faults, value)) =
            invalid.and_then(|invalid| Some((&invalid.faults, invalid.value.as_ref()?.as_object()?)))
        {
            let state = this.item.state();
            match Kept::of(value, faults) {
                Some(kept) => drop(state.insert(kept)),
                None => drop(state.remove::<Kept>()),
            }
        }
        Poll::Ready(result)
    }
}

impl<Fut> fmt::Debug for PartialFuture<Fut> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartialFuture").finish_non_exhaustive()
    }
}

/// The strategy inside a [`Partial`]: requests the missing part, and merges the answer into the kept part.
#[derive(Clone, Debug)]
pub struct Merge<P> {
    inner: P,
}

impl<P> Service<LlmRequest> for Merge<P>
where
    P: Service<LlmRequest, Response = LlmResponse>,
{
    type Response = LlmResponse;
    type Error = P::Error;
    type Future = MergeFuture<P::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), P::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: LlmRequest) -> Self::Future {
        let kept = request.state().get::<Kept>();
        let kept = kept.filter(|kept| kept.ask(request.input_mut()));
        MergeFuture {
            future: self.inner.call(request),
            kept,
        }
    }
}

/// The future of [`Merge`].
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct MergeFuture<Fut> {
    #[pin]
    future: Fut,
    kept: Option<Kept>,
}

impl<Fut, E> Future for MergeFuture<Fut>
where
    Fut: Future<Output = Result<LlmResponse, E>>,
{
    type Output = Result<LlmResponse, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut result = ready!(this.future.poll(cx));
        if let (Ok(response), Some(kept)) = (&mut result, this.kept.take())
            && let Some(whole) = kept.merge(&response.output)
        {
            response.output = whole;
        }
        Poll::Ready(result)
    }
}

impl<Fut> fmt::Debug for MergeFuture<Fut> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MergeFuture").finish_non_exhaustive()
    }
}
