//! Escalation ladders.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use tower_service::Service;

use crate::classify::{Classify, KindClassifier};
use crate::error::refusal;
use crate::item::HandOver;
use crate::request::LlmRequest;

mod future;
mod ladder;
mod rungs;

pub use future::EscalateFuture;
pub use ladder::{Ladder, LadderLayer, models, temperatures};

use rungs::Rungs;

/// A ladder of strategies: a bad answer moves the item one rung up, a bad connection does not.
///
/// An item starts on the first rung. After a bad answer (a failure whose verdict is
/// [`RetryNow`](crate::Disposition::RetryNow): validation, a malformed tool call) its next call is made one rung higher; on the
/// last rung it stays there. A failure of the transport, a throttle or a time limit is not the model's fault, so the item stays on
/// its rung. The rung is stored in the item's [`RetryState`](crate::RetryState), so items that share a ladder are independent.
///
/// A ladder is itself a strategy and belongs inside the retries, which need at least as many attempts as it has rungs. Its
/// strategies must have one type; use [`boxed_strategy`](crate::StrategyExt::boxed_strategy) to unify them. Each may have its own
/// gate and accounts. If the rungs are settings of **one** strategy, use [`models`], [`temperatures`] or your own [`LadderLayer`].
///
/// It waits for the strategy in its future, as the strategy depends on the request: its `poll_ready` is always ready.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), llm_batch::BoxError> {
/// use llm_batch::recipe::Escalate;
/// use llm_batch::{
///     LlmError, LlmRequest, LlmResponse, RateLimiter, RateLimiterLayer, RetryLayer, RetryPolicy, StrategyExt,
/// };
/// use tower::{Layer, ServiceExt, service_fn};
///
/// let small = service_fn(async |_: LlmRequest| Err::<LlmResponse, _>(LlmError::validation("expected a number")));
/// let large = service_fn(async |_: LlmRequest| Ok::<_, LlmError>(LlmResponse::new("42".to_owned())));
/// let ladder = Escalate::new([
///     RateLimiterLayer::new(RateLimiter::default()).layer(small).boxed_strategy(),
///     RateLimiterLayer::new(RateLimiter::default()).layer(large).boxed_strategy(),
/// ]);
/// let model = RetryLayer::new(RetryPolicy::new(2)).layer(ladder);
/// assert_eq!(model.oneshot(LlmRequest::new("6 times 7?".into())).await?.output, "42");
/// # Ok(()) }
/// ```
///
/// # Cancel safety
/// A dropped future drops the call of its strategy; the item stays on its rung.
pub struct Escalate<S> {
    ladder: Arc<Rungs<S>>,
}

impl<S> Escalate<S> {
    /// Creates a ladder from the first strategy to the last.
    ///
    /// # Panics
    /// If there is no strategy.
    #[track_caller]
    pub fn new(strategies: impl IntoIterator<Item = S>) -> Self {
        Self {
            ladder: Rungs::new(strategies),
        }
    }

    /// The strategies, from the first to the last.
    pub fn strategies(&self) -> &[S] {
        self.ladder.rungs()
    }
}

impl<S> Clone for Escalate<S> {
    fn clone(&self) -> Self {
        Self {
            ladder: Arc::clone(&self.ladder),
        }
    }
}

impl<S, I> Service<LlmRequest<I>> for Escalate<S>
where
    S: Service<LlmRequest<I>> + Clone,
    S::Error: 'static,
    KindClassifier: Classify<S::Response, S::Error>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = EscalateFuture<HandOver<S, LlmRequest<I>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: LlmRequest<I>) -> Self::Future {
        let (step, strategy) = self.ladder.step(request.item());
        let hold = request.context_mut().hold();
        EscalateFuture::new(
            HandOver::new(strategy.clone(), request, Some(hold), refusal),
            step,
        )
    }
}

impl<S: fmt::Debug> fmt::Debug for Escalate<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Escalate").field(&self.strategies()).finish()
    }
}
