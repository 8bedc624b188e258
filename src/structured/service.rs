//! The services.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;
use serde_json::Value;
use tower_service::Service;

use super::answer::{Parse, Read, Reader, answer};
use super::fault::Fault;
use crate::error::{BoxError, LlmError};
use crate::request::LlmRequest;
use crate::response::LlmResponse;

/// A strategy whose answers are values of `T`. Made by [`StructuredExt`](super::StructuredExt).
///
/// Readiness is that of the inner strategy. Dropping its future loses no more than dropping that of the inner strategy.
///
/// ```
/// use llm_batch::structured::Structured;
/// use llm_batch::testing::{SimulatedProvider, SimulatedService};
/// use llm_batch::{Fault, StructuredExt};
///
/// fn primes(provider: &SimulatedProvider) -> Structured<SimulatedService, Vec<u32>> {
///     let model = provider.service().structured::<Vec<u32>>();
///     model.recover_json(true).validate_with(|numbers| numbers.is_empty().then(|| Fault::new("", "is empty")))
/// }
/// # let _ = primes;
/// ```
pub struct Structured<S, T> {
    inner: S,
    reader: Arc<Reader<T>>,
}

impl<S, T> Structured<S, T> {
    pub(super) fn new(inner: S, reader: Reader<T>) -> Self {
        Self {
            inner,
            reader: Arc::new(reader),
        }
    }

    /// The schema sent with prompts that have none of their own.
    pub fn schema(&self) -> &Value {
        &self.reader.schema.sent
    }

    /// Sets whether to extract the only JSON object or list from an answer with text, or half a code fence, around it. Off
    /// by default: such an answer is a validation failure. An answer with two values always is one.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// use llm_batch::testing::FakeStrategy;
    /// use llm_batch::{LlmRequest, StructuredExt};
    /// use tower::ServiceExt;
    ///
    /// let model = FakeStrategy::new(|_: &LlmRequest| "Here you are: [1, 2]".to_owned());
    /// let model = model.structured::<Vec<u8>>().recover_json(true);
    /// assert_eq!(model.oneshot(LlmRequest::new("Two numbers".into())).await.unwrap().output, [1, 2]);
    /// # }
    /// ```
    #[must_use]
    pub fn recover_json(mut self, recover: bool) -> Self {
        Arc::make_mut(&mut self.reader).recovers = recover;
        self
    }

    /// Adds a rule that reports the faults of a value which the schema and the type allow. All rules run.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// use llm_batch::testing::FakeStrategy;
    /// use llm_batch::{Fault, InvalidOutput, LlmRequest, StructuredExt};
    /// use tower::ServiceExt;
    ///
    /// let model = FakeStrategy::new(|_: &LlmRequest| "[3, 1]".to_owned())
    ///     .structured::<Vec<u8>>()
    ///     .validate_with(|numbers| (!numbers.is_sorted()).then(|| Fault::new("", "is not in order")));
    /// let error = model.oneshot(LlmRequest::new("Two numbers".into())).await.unwrap_err();
    /// assert_eq!(InvalidOutput::of(&error).unwrap().faults, [Fault::new("", "is not in order")]);
    /// # }
    /// ```
    #[must_use]
    pub fn validate_with<F, R>(self, rule: F) -> Self
    where
        F: Fn(&T) -> R + Send + Sync + 'static,
        R: IntoIterator<Item = Fault>,
    {
        self.with_rule(move |output, _| rule(output).into_iter().collect())
    }

    pub(super) fn with_rule(
        mut self,
        rule: impl Fn(&T, &Value) -> Vec<Fault> + Send + Sync + 'static,
    ) -> Self {
        Arc::make_mut(&mut self.reader).rules.push(Arc::new(rule));
        self
    }
}

impl<S, T> Service<LlmRequest> for Structured<S, T>
where
    S: Service<LlmRequest, Response = LlmResponse, Error: From<LlmError>>,
    T: 'static,
{
    type Response = LlmResponse<T>;
    type Error = S::Error;
    type Future = StructuredFuture<S::Future, T>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: LlmRequest) -> Self::Future {
        let prompt = request.input();
        // The meaning of a raw body is the user's.
        if prompt.output_schema().is_none() && prompt.raw_body().is_none() {
            let schema = Arc::clone(&self.reader.schema.sent);
            request.input_mut().set_output_schema(schema);
        }
        StructuredFuture {
            future: self.inner.call(request),
            reader: Arc::clone(&self.reader) as Arc<dyn Read<T>>,
        }
    }
}

impl<S: Clone, T> Clone for Structured<S, T> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            reader: Arc::clone(&self.reader),
        }
    }
}

impl<S: fmt::Debug, T> fmt::Debug for Structured<S, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Structured")
            .field("inner", &self.inner)
            .field("reader", &self.reader)
            .finish()
    }
}

/// A strategy whose answers a closure makes from the text. Made by
/// [`StructuredExt::parse_with`](super::StructuredExt::parse_with). Readiness is that of the inner strategy.
///
/// ```
/// use llm_batch::structured::Parsed;
/// use llm_batch::testing::{SimulatedProvider, SimulatedService};
/// use llm_batch::{LlmError, StructuredExt};
///
/// fn lines(provider: &SimulatedProvider) -> Parsed<SimulatedService, Vec<String>> {
///     provider.service().parse_with(|text| Ok::<_, LlmError>(text.lines().map(str::to_owned).collect()))
/// }
/// # let _ = lines;
/// ```
pub struct Parsed<S, T> {
    inner: S,
    reader: Arc<dyn Read<T>>,
}

impl<S, T> Parsed<S, T> {
    pub(super) fn new<F, E>(inner: S, parse: F) -> Self
    where
        F: Fn(&str) -> Result<T, E> + Send + Sync + 'static,
        E: Into<BoxError>,
        T: 'static,
    {
        Self {
            inner,
            reader: Arc::new(Parse(parse)),
        }
    }
}

impl<S, T> Service<LlmRequest> for Parsed<S, T>
where
    S: Service<LlmRequest, Response = LlmResponse, Error: From<LlmError>>,
{
    type Response = LlmResponse<T>;
    type Error = S::Error;
    type Future = StructuredFuture<S::Future, T>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: LlmRequest) -> Self::Future {
        StructuredFuture {
            future: self.inner.call(request),
            reader: Arc::clone(&self.reader),
        }
    }
}

impl<S: Clone, T> Clone for Parsed<S, T> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            reader: Arc::clone(&self.reader),
        }
    }
}

impl<S: fmt::Debug, T> fmt::Debug for Parsed<S, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parsed")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

/// The future of [`Structured`] and [`Parsed`].
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct StructuredFuture<Fut, T> {
    #[pin]
    future: Fut,
    reader: Arc<dyn Read<T>>,
}

impl<Fut, T, E> Future for StructuredFuture<Fut, T>
where
    Fut: Future<Output = Result<LlmResponse, E>>,
    E: From<LlmError>,
{
    type Output = Result<LlmResponse<T>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.future.poll(cx))?;
        Poll::Ready(answer(response, &**this.reader).map_err(E::from))
    }
}

impl<Fut, T> fmt::Debug for StructuredFuture<Fut, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StructuredFuture").finish_non_exhaustive()
    }
}
