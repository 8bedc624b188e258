//! The time limit of one call.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project::pin_project;
use tokio::time::{Instant, Sleep};
use tower_layer::Layer;
use tower_service::Service;

use crate::error::{TimedOut, TimeoutScope};

/// Limits the time of each physical call. Place it innermost, directly around the strategy.
///
/// Use it to abort a call that hangs, so that it can be retried; use
/// [`ItemTimeoutLayer`](super::ItemTimeoutLayer) to limit the item as a whole. The [module](super) compares the two.
///
/// The clock starts when the request is sent. A wait for the service inside to be ready is not part of the call. Around an HTTP
/// client the call ends with the head of the reply, unless [`HttpCallLayer`](crate::HttpCallLayer) extends it to the end of the
/// body.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use std::time::Duration;
/// use llm_batch::layer::timeout::CallTimeoutLayer;
/// use llm_batch::{ErrorKind, LlmError, LlmRequest, LlmResponse};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// let stalls = service_fn(|_: LlmRequest| std::future::pending::<Result<LlmResponse, LlmError>>());
/// let model = ServiceBuilder::new()
///     .layer(CallTimeoutLayer::new(Duration::from_millis(5)))
///     .service(stalls);
/// let error = model.oneshot(LlmRequest::new("hi".into())).await.unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::TimedOut);
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct CallTimeoutLayer {
    limit: Duration,
}

impl CallTimeoutLayer {
    /// Limits every call to `limit`.
    ///
    /// # Panics
    /// If `limit` is zero.
    #[track_caller]
    pub const fn new(limit: Duration) -> Self {
        assert!(!limit.is_zero(), "the call timeout must be above zero");
        Self { limit }
    }
}

impl CallTimeoutLayer {
    /// The limit.
    pub const fn limit(&self) -> Duration {
        self.limit
    }
}

impl<S> Layer<S> for CallTimeoutLayer {
    type Service = CallTimeout<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CallTimeout {
            inner,
            limit: self.limit,
        }
    }
}

/// Limits the time of each call; created by [`CallTimeoutLayer`].
#[derive(Clone, Copy, Debug)]
pub struct CallTimeout<S> {
    inner: S,
    limit: Duration,
}

impl<S> CallTimeout<S> {
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

impl<S, Req> Service<Req> for CallTimeout<S>
where
    S: Service<Req>,
    S::Error: From<TimedOut>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = CallTimeoutFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let started = Instant::now();
        CallTimeoutFuture {
            call: Some(self.inner.call(request)),
            sleep: None,
            started,
            limit: self.limit,
        }
    }
}

/// The future of [`CallTimeout`].
#[pin_project]
#[derive(Debug)]
pub struct CallTimeoutFuture<Fut> {
    #[pin]
    call: Option<Fut>,
    #[pin]
    sleep: Option<Sleep>,
    started: Instant,
    limit: Duration,
}

impl<Fut, Res, E> Future for CallTimeoutFuture<Fut>
where
    Fut: Future<Output = Result<Res, E>>,
    E: From<TimedOut>,
{
    type Output = Result<Res, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(call) = this.call.as_mut().as_pin_mut() else {
            return Poll::Pending;
        };
        if let Poll::Ready(result) = call.poll(cx) {
            return Poll::Ready(result);
        }
        if !super::passed(this.sleep, this.started.checked_add(*this.limit), cx) {
            return Poll::Pending;
        }
        // Dropped before the error is returned, so that the call is closed in the item's accounts.
        this.call.set(None);
        Poll::Ready(Err(TimedOut::new(TimeoutScope::Call, *this.limit).into()))
    }
}
