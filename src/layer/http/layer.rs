//! The layer and the outer end of a call.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::task::futures::TaskLocalFuture;
use tower_layer::Layer;
use tower_service::Service;

use super::body::HttpCallBody;
use super::exchange::Exchange;
use super::finished::FinishedBody;
use super::passage::{CURRENT, Passage};
use super::reply::HttpReply;
use crate::error::BoxError;

/// Wraps the layers that work per call, and makes a call over HTTP end with its body. See the [module](super).
#[derive(Clone, Copy, Debug)]
pub struct HttpCallLayer<L> {
    layers: L,
    keep: usize,
}

impl<L> HttpCallLayer<L> {
    /// Wraps `layers`: one layer, a tuple of layers, or the value that
    /// [`ServiceBuilder::into_inner`](tower::ServiceBuilder::into_inner) returns.
    pub const fn new(layers: L) -> Self {
        Self {
            layers,
            keep: 64 * 1024,
        }
    }

    /// Sets how many of the last bytes of a body are kept for the layers, in [`FinishedBody::tail`]; 64 KiB by default. A call in flight takes
    /// up to twice as much, if its body is that long.
    #[must_use]
    pub const fn keep_bytes(mut self, bytes: usize) -> Self {
        self.keep = bytes;
        self
    }
}

impl<S, L: Layer<Exchange<S>>> Layer<S> for HttpCallLayer<L> {
    type Service = HttpCall<L::Service, S>;

    fn layer(&self, inner: S) -> Self::Service {
        HttpCall {
            inner: self.layers.layer(Exchange::new(inner, self.keep)),
            client: PhantomData,
        }
    }
}

/// A service whose calls end with their bodies; created by [`HttpCallLayer`]. `M` is the service that the layers return for the
/// client `S`.
pub struct HttpCall<M, S> {
    inner: M,
    client: PhantomData<fn() -> S>,
}

impl<M, S> HttpCall<M, S> {
    /// The service inside.
    pub const fn get_ref(&self) -> &M {
        &self.inner
    }

    /// The service inside, mutably.
    pub const fn get_mut(&mut self) -> &mut M {
        &mut self.inner
    }

    /// Takes the service out.
    pub fn into_inner(self) -> M {
        self.inner
    }
}

impl<M, S, Req> Service<Req> for HttpCall<M, S>
where
    M: Service<Req, Response = http::Response<FinishedBody>>,
    M::Error: Into<BoxError>,
    M::Future: Send + 'static,
    S: Service<Req>,
    S::Response: HttpReply,
{
    type Response = <S::Response as HttpReply>::Carried;
    type Error = M::Error;
    type Future = HttpCallFuture<M::Future, S::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let passage = Arc::new(Passage::new());
        let current: Arc<_> = passage.clone();
        let call = CURRENT.sync_scope(current.clone(), || self.inner.call(request));
        HttpCallFuture {
            call: Some(Box::pin(CURRENT.scope(current, call))),
            passage,
        }
    }
}

impl<M: Clone, S> Clone for HttpCall<M, S> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            client: PhantomData,
        }
    }
}

impl<M: fmt::Debug, S> fmt::Debug for HttpCall<M, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HttpCall").field(&self.inner).finish()
    }
}

/// A future that is polled for a call's end, with access to its passage.
pub(super) type Scoped<F> = TaskLocalFuture<Arc<dyn std::any::Any + Send + Sync>, F>;

/// The future of [`HttpCall`]: ready with the head of the reply.
///
/// # Cancel safety
/// Dropping it cancels the call, which may still be billed.
pub struct HttpCallFuture<F, R: HttpReply> {
    /// The call through all layers. It moves into the body.
    call: Option<Pin<Box<Scoped<F>>>>,
    passage: Arc<Passage<R::Body>>,
}

impl<F, R, E> Future for HttpCallFuture<F, R>
where
    F: Future<Output = Result<http::Response<FinishedBody>, E>> + Send + 'static,
    R: HttpReply,
    E: Into<BoxError>,
{
    type Output = Result<R::Carried, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(mut call) = self.call.take() else {
            panic!("`HttpCallFuture` polled after completion");
        };
        self.passage.before_poll(cx);
        let call = match call.as_mut().poll(cx) {
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Ready(Ok(_)) => None,
            Poll::Pending => Some(call),
        };
        let Some(head) = self.passage.take_head(call.is_none(), cx) else {
            assert!(
                call.is_some(),
                "a layer inside `HttpCallLayer` answered with a response that is not its call's"
            );
            self.call = call;
            return Poll::Pending;
        };
        // From here on the body drives the call.
        let passage = Arc::clone(&self.passage);
        Poll::Ready(Ok(R::from_http(head.map(|rest| match rest {
            Some(rest) => HttpCallBody::rest(rest, passage),
            None => HttpCallBody::carried(call.map(|call| call as _), passage),
        }))))
    }
}

impl<F, R: HttpReply> Drop for HttpCallFuture<F, R> {
    fn drop(&mut self) {
        if self.call.take().is_some() {
            self.passage.abandon();
        }
    }
}

impl<F, R: HttpReply> fmt::Debug for HttpCallFuture<F, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpCallFuture").finish_non_exhaustive()
    }
}
