//! The layer, its options, and the service it makes.

use std::fmt;
use std::task::{Context, Poll};

use tower_layer::Layer;
use tower_service::Service;

use super::RateLimiter;
use super::error::Refused;
use super::future::RateLimitedFuture;
use super::grant::Acquire;
use super::select::SelectLimiter;
use crate::classify::{Classify, KindClassifier};
use crate::item::{FindItem, InRequest, Untracked};
use crate::request::{CharacterEstimate, Estimate};

/// Sends every call through a [`RateLimiter`]. See the [module](super).
///
/// Its type parameters have defaults and are changed by methods: how outcomes are judged
/// ([`classify_with`](Self::classify_with)), how the item is found ([`untracked`](Self::untracked)), how tokens are
/// estimated ([`estimate_with`](Self::estimate_with)) and how the gate is picked ([`keyed`](RateLimiterLayer::keyed)).
#[derive(Clone)]
pub struct RateLimiterLayer<C = KindClassifier, F = InRequest, E = CharacterEstimate, L = RateLimiter> {
    parts: Parts<C, F, E, L>,
}

#[derive(Clone)]
pub(super) struct Parts<C, F, E, L> {
    pub(super) classify: C,
    pub(super) find: F,
    pub(super) estimate: E,
    pub(super) limiter: L,
}

impl RateLimiterLayer {
    /// One gate for all requests.
    pub const fn new(limiter: RateLimiter) -> Self {
        Self::with_limiter(limiter)
    }
}

impl<L> RateLimiterLayer<KindClassifier, InRequest, CharacterEstimate, L> {
    const fn with_limiter(limiter: L) -> Self {
        Self {
            parts: Parts {
                classify: KindClassifier,
                find: InRequest,
                estimate: CharacterEstimate,
                limiter,
            },
        }
    }

    /// A gate per scope, picked by request: for batches that mix models or accounts, each with limits of its own. Scopes
    /// never pause each other. See [`RateLimiters`](super::RateLimiters).
    pub fn keyed<Req>(select: L) -> Self
    where
        L: Fn(&Req) -> RateLimiter,
    {
        Self::with_limiter(select)
    }
}

impl<C, F, E, L> RateLimiterLayer<C, F, E, L> {
    /// Judges outcomes by `classify`, such as a closure `Fn(Result<&Res, &Err>) -> Verdict`.
    pub fn classify_with<D>(self, classify: D) -> RateLimiterLayer<D, F, E, L> {
        let Parts {
            find,
            estimate,
            limiter,
            ..
        } = self.parts;
        RateLimiterLayer {
            parts: Parts {
                classify,
                find,
                estimate,
                limiter,
            },
        }
    }

    /// For requests of other crates, which carry no item: a throttled call rejoins at the tail, and its token
    /// quota is settled by the verdict alone.
    pub fn untracked(self) -> RateLimiterLayer<C, Untracked, E, L> {
        let Parts {
            classify,
            estimate,
            limiter,
            ..
        } = self.parts;
        RateLimiterLayer {
            parts: Parts {
                classify,
                find: Untracked,
                estimate,
                limiter,
            },
        }
    }

    /// Estimates the tokens of a request by `estimate`, such as a closure `Fn(&Req) -> u64`.
    pub fn estimate_with<G>(self, estimate: G) -> RateLimiterLayer<C, F, G, L> {
        let Parts {
            classify,
            find,
            limiter,
            ..
        } = self.parts;
        RateLimiterLayer {
            parts: Parts {
                classify,
                find,
                estimate,
                limiter,
            },
        }
    }
}

impl<S, C: Clone, F: Clone, E: Clone, L: Clone> Layer<S> for RateLimiterLayer<C, F, E, L> {
    type Service = RateLimited<S, C, F, E, L>;

    fn layer(&self, inner: S) -> Self::Service {
        RateLimited {
            inner,
            parts: self.parts.clone(),
        }
    }
}

impl<C, F, E, L: fmt::Debug> fmt::Debug for RateLimiterLayer<C, F, E, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimiterLayer")
            .field("limiter", &self.parts.limiter)
            .finish_non_exhaustive()
    }
}

/// A service behind a gate; made by [`RateLimiterLayer`].
///
/// It waits in its future: `poll_ready` is always ready and does not touch the service inside, so that nothing is
/// reserved there while a call waits.
#[derive(Clone)]
pub struct RateLimited<S, C = KindClassifier, F = InRequest, E = CharacterEstimate, L = RateLimiter> {
    inner: S,
    parts: Parts<C, F, E, L>,
}

impl<S, C, F, E, L> RateLimited<S, C, F, E, L> {
    /// The service inside.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The service inside, to change it.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Takes the service out.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, C, F, E, L, Req> Service<Req> for RateLimited<S, C, F, E, L>
where
    S: Service<Req> + Clone,
    S::Error: From<Refused>,
    C: Classify<S::Response, S::Error> + Clone,
    F: FindItem<Req> + Clone,
    E: Estimate<Req>,
    L: SelectLimiter<Req>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = RateLimitedFuture<S, Req, C, F>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let Parts {
            classify,
            find,
            estimate,
            limiter,
        } = &self.parts;
        let limiter = limiter.select(&request);
        let mut acquire = Acquire::new(limiter.gate, estimate.estimate(&request));
        if let Some(item) = find.item(&request) {
            item.set_observed();
            if let Some(until) = item.take_held_by(acquire.gate().mark()) {
                acquire = acquire.held_until(until);
            }
            acquire = acquire.for_item(item.clone());
        }
        RateLimitedFuture::new(
            acquire,
            self.inner.clone(),
            request,
            classify.clone(),
            find.clone(),
        )
    }
}

impl<S: fmt::Debug, C, F, E, L: fmt::Debug> fmt::Debug for RateLimited<S, C, F, E, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimited")
            .field("inner", &self.inner)
            .field("limiter", &self.parts.limiter)
            .finish_non_exhaustive()
    }
}
