//! The layer, and the wait for the service inside before each call.

use std::task::{Context, Poll};

use tower::retry::Retry;
use tower_layer::Layer;
use tower_service::Service;

use super::RetryPolicy;
use crate::error::refusal;
use crate::item::HandOver;
use crate::request::{FindItem, InRequest};

/// Retries calls according to a [`RetryPolicy`]: tower's [`Retry`] around [`WhenReady`]. See the [module](super).
#[derive(Clone, Copy, Debug)]
pub struct RetryLayer<P> {
    policy: P,
}

impl<P> RetryLayer<P> {
    /// Retries calls according to `policy`.
    pub const fn new(policy: P) -> Self {
        Self { policy }
    }
}

impl<S, C, F, H> Layer<S> for RetryLayer<RetryPolicy<C, F, H>>
where
    RetryPolicy<C, F, H>: Clone,
    F: Clone,
{
    type Service = Retry<RetryPolicy<C, F, H>, WhenReady<S, F>>;

    fn layer(&self, inner: S) -> Self::Service {
        let when_ready = WhenReady {
            inner,
            find: self.policy.find().clone(),
            ready: false,
        };
        Retry::new(self.policy.clone().with_calls_refused_inside(), when_ready)
    }
}

/// Waits in its future until the service inside is ready, before each call; created by [`RetryLayer`].
///
/// tower's [`Retry`] itself waits for readiness after a backoff, and then sends in any case. Here a stop or the item's deadline
/// ends that wait.
#[derive(Debug)]
pub struct WhenReady<S, F = InRequest> {
    inner: S,
    find: F,
    /// This instance of the service inside is ready.
    ready: bool,
}

/// A clone has to become ready again.
impl<S: Clone, F: Clone> Clone for WhenReady<S, F> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            find: self.find.clone(),
            ready: false,
        }
    }
}

impl<S, F> WhenReady<S, F> {
    /// The service inside.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The service inside, mutably.
    pub const fn get_mut(&mut self) -> &mut S {
        self.ready = false;
        &mut self.inner
    }

    /// Takes the service out.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, F, Req> Service<Req> for WhenReady<S, F>
where
    S: Service<Req> + Clone,
    S::Error: 'static,
    F: FindItem<Req>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = HandOver<S, Req>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        HandOver::poll_ready(&mut self.inner, &mut self.ready, cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let ready = std::mem::take(&mut self.ready);
        HandOver::after_poll_ready(&mut self.inner, ready, &self.find, request, None, refusal)
    }
}
