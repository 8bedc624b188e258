//! Ladders of settings, which are written into the request.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use tower_layer::Layer;
use tower_service::Service;

use super::future::EscalateFuture;
use super::rungs::Rungs;
use crate::classify::{Classify, KindClassifier};
use crate::request::LlmRequest;

/// Calls `models` in order: begins with the first, and moves to the next one after every bad answer.
///
/// It sets [`Prompt::with_model`](crate::Prompt::with_model) in every request, replacing a model that the prompt had.
/// [`Escalate`](super::Escalate) describes the rules of escalation. Place it above the gate, so that each model has its own:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), llm_batch::BoxError> {
/// use llm_batch::layer::rate_limiter::RateLimiters;
/// use llm_batch::recipe::models;
/// use llm_batch::{
///     LlmError, LlmRequest, LlmResponse, RateLimiter, RateLimiterLayer, RetryLayer, RetryPolicy,
/// };
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// let gates = RateLimiters::new(|_: &String| RateLimiter::default());
/// let model = ServiceBuilder::new()
///     .layer(RetryLayer::new(RetryPolicy::new(3)))
///     .layer(models(["small", "medium", "large"]))
///     .layer(RateLimiterLayer::keyed(move |request: &LlmRequest| {
///         gates.get(request.input().model().unwrap_or("default"))
///     }))
///     .service(service_fn(async |request: LlmRequest| match request.input().model() {
///         Some("medium") => Ok(LlmResponse::new("42".to_owned())),
///         _ => Err(LlmError::validation("expected a number")),
///     }));
/// assert_eq!(model.oneshot(LlmRequest::new("6 times 7?".into())).await?.output, "42");
/// # Ok(()) }
/// ```
///
/// `examples/escalate.rs` compares the cost with that of always calling the best model.
///
/// # Panics
/// If `models` is empty.
#[track_caller]
pub fn models<M: Into<String>>(models: impl IntoIterator<Item = M>) -> LadderLayer<String> {
    LadderLayer::new(models.into_iter().map(Into::into), |request, model| {
        let prompt = request.input_mut();
        *prompt = std::mem::take(prompt).with_model(model);
    })
}

/// Begins at the first temperature, and moves to the next one after every bad answer.
///
/// It sets [`Prompt::with_temperature`](crate::Prompt::with_temperature) in every request. The usual ladder begins with zero:
/// a model that gets the same prompt again at temperature 0 tends to repeat its mistake. Some models reject any
/// temperature. [`Escalate`](super::Escalate) describes the rules of escalation. A prompt with a
/// [raw body](crate::Prompt::raw) cannot have a temperature beside it, and fails without being sent.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), llm_batch::BoxError> {
/// use llm_batch::recipe::temperatures;
/// use llm_batch::{LlmError, LlmRequest, LlmResponse, RetryLayer, RetryPolicy};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// let model = ServiceBuilder::new()
///     .layer(RetryLayer::new(RetryPolicy::new(3)))
///     .layer(temperatures([0.0, 0.5, 1.0]))
///     .service(service_fn(async |request: LlmRequest| match request.input().temperature() {
///         Some(0.5) => Ok(LlmResponse::new("42".to_owned())),
///         _ => Err(LlmError::validation("expected a number")),
///     }));
/// assert_eq!(model.oneshot(LlmRequest::new("6 times 7?".into())).await?.output, "42");
/// # Ok(()) }
/// ```
///
/// # Panics
/// If `temperatures` is empty.
#[track_caller]
pub fn temperatures(temperatures: impl IntoIterator<Item = f64>) -> LadderLayer<f64> {
    LadderLayer::new(temperatures, |request, temperature| {
        let prompt = request.input_mut();
        *prompt = std::mem::take(prompt).with_temperature(*temperature);
    })
}

/// A ladder of settings for one strategy: writes the setting of the item's rung into each request.
///
/// [`models`] and [`temperatures`] are the two usual ones. Place it inside the retries and, if the setting decides
/// the gate, outside the gate. [`Escalate`](super::Escalate) describes the rules of escalation.
///
/// ```
/// use llm_batch::LlmRequest;
/// use llm_batch::recipe::LadderLayer;
///
/// let reasoning = LadderLayer::new(["low", "medium", "high"], |request: &mut LlmRequest, effort| {
///     let prompt = request.input_mut();
///     *prompt = std::mem::take(prompt).with_extra("reasoning_effort", *effort);
/// });
/// # let _ = reasoning;
/// ```
pub struct LadderLayer<T, F = fn(&mut LlmRequest, &T)> {
    ladder: Arc<Rungs<T>>,
    edit: F,
}

impl<T> LadderLayer<T> {
    /// Creates a ladder from the first setting to the last; `edit` writes one into a request.
    ///
    /// # Panics
    /// If there is no setting.
    #[track_caller]
    pub fn new(rungs: impl IntoIterator<Item = T>, edit: fn(&mut LlmRequest, &T)) -> Self {
        Self::with_edit(rungs, edit)
    }
}

impl<T, F> LadderLayer<T, F> {
    /// Like [`new`](LadderLayer::new), for requests of any input and closures with captures.
    ///
    /// # Panics
    /// If there is no setting.
    #[track_caller]
    pub fn with_edit<I>(rungs: impl IntoIterator<Item = T>, edit: F) -> Self
    where
        F: Fn(&mut LlmRequest<I>, &T),
    {
        Self {
            ladder: Rungs::new(rungs),
            edit,
        }
    }
}

impl<T, F: Clone> Clone for LadderLayer<T, F> {
    fn clone(&self) -> Self {
        Self {
            ladder: Arc::clone(&self.ladder),
            edit: self.edit.clone(),
        }
    }
}

impl<S, T, F: Clone> Layer<S> for LadderLayer<T, F> {
    type Service = Ladder<S, T, F>;

    fn layer(&self, inner: S) -> Self::Service {
        Ladder {
            inner,
            layer: self.clone(),
        }
    }
}

impl<T: fmt::Debug, F> fmt::Debug for LadderLayer<T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LadderLayer").field(&self.ladder.rungs()).finish()
    }
}

/// Writes the setting of the item's rung into each request; created by [`LadderLayer`].
pub struct Ladder<S, T, F = fn(&mut LlmRequest, &T)> {
    inner: S,
    layer: LadderLayer<T, F>,
}

impl<S, T, F> Ladder<S, T, F> {
    /// The service inside.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The service inside, mutably.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Takes the service out.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S: Clone, T, F: Clone> Clone for Ladder<S, T, F> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            layer: self.layer.clone(),
        }
    }
}

impl<S, T, F, I> Service<LlmRequest<I>> for Ladder<S, T, F>
where
    S: Service<LlmRequest<I>>,
    F: Fn(&mut LlmRequest<I>, &T),
    KindClassifier: Classify<S::Response, S::Error>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = EscalateFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: LlmRequest<I>) -> Self::Future {
        let LadderLayer { ladder, edit } = &self.layer;
        let (step, setting) = ladder.step(request.item());
        edit(&mut request, setting);
        EscalateFuture::new(self.inner.call(request), step)
    }
}

impl<S: fmt::Debug, T: fmt::Debug, F> fmt::Debug for Ladder<S, T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ladder")
            .field("inner", &self.inner)
            .field("rungs", &self.layer.ladder.rungs())
            .finish_non_exhaustive()
    }
}
