//! The layer, its options, and its service.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use tower_layer::Layer;
use tower_service::Service;

use super::RateLimiter;
use super::future::{Pending, RateLimitedFuture};
use super::grant::Acquire;
use super::select::SelectLimiter;
use crate::classify::{Classify, KindClassifier};
use crate::error::Refused;
use crate::item::{CallContext, CallsInside};
use crate::request::{CharacterEstimate, Estimate, FindItem, InRequest, Untracked};
use crate::response::{InResponse, ReportsUsage, UnknownUsage};

/// Sends every call through a [`RateLimiter`]. See the [module](super).
///
/// Its type parameters have defaults and are changed by methods: the classifier of outcomes
/// ([`classify_with`](Self::classify_with)), the look-up of the item ([`untracked`](Self::untracked)), the estimate of tokens
/// ([`estimate_with`](Self::estimate_with)), the selection of the gate ([`keyed`](RateLimiterLayer::keyed)) and the reader of
/// the usage ([`usage_with`](Self::usage_with)).
#[derive(Clone)]
pub struct RateLimiterLayer<
    C = KindClassifier,
    F = InRequest,
    E = CharacterEstimate,
    L = RateLimiter,
    U = InResponse,
> {
    parts: Parts<C, F, E, L, U>,
}

#[derive(Clone)]
pub(super) struct Parts<C, F, E, L, U> {
    pub(super) classify: C,
    pub(super) find: F,
    pub(super) estimate: E,
    pub(super) limiter: L,
    pub(super) usage: U,
}

impl RateLimiterLayer {
    /// Creates a layer with one gate for all requests.
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
                usage: InResponse,
            },
        }
    }

    /// Creates a layer with a gate per scope, selected by request: for batches that mix models or accounts with separate limits. Scopes
    /// never pause each other. See [`RateLimiters`](super::RateLimiters).
    pub fn keyed<Req>(select: L) -> Self
    where
        L: Fn(&Req) -> RateLimiter,
    {
        Self::with_limiter(select)
    }
}

impl<C, F, E, L> RateLimiterLayer<C, F, E, L> {
    /// Makes it fit requests and responses of other crates, which carry neither an item nor a usage: a throttled call rejoins at the
    /// tail, and an answered one keeps its estimate.
    ///
    /// Call [`usage_with`](Self::usage_with) after it to set the reader of the usage; [`InResponse`] reads it from
    /// [`LlmResponse`](crate::LlmResponse).
    pub fn untracked(self) -> RateLimiterLayer<C, Untracked, E, L, UnknownUsage> {
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
                usage: UnknownUsage,
            },
        }
    }
}

impl<C, F, E, L, U> RateLimiterLayer<C, F, E, L, U> {
    /// Classifies outcomes by `classify`, such as a closure `Fn(Result<&Res, &Err>) -> Verdict`.
    pub fn classify_with<D>(self, classify: D) -> RateLimiterLayer<D, F, E, L, U> {
        let Parts {
            find,
            estimate,
            limiter,
            usage,
            ..
        } = self.parts;
        RateLimiterLayer {
            parts: Parts {
                classify,
                find,
                estimate,
                limiter,
                usage,
            },
        }
    }

    /// Estimates the tokens of a request by `estimate`, such as a closure `Fn(&Req) -> u64`. 0 means unknown: the gate then
    /// reserves the mean usage of earlier calls.
    pub fn estimate_with<G>(self, estimate: G) -> RateLimiterLayer<C, F, G, L, U> {
        let Parts {
            classify,
            find,
            limiter,
            usage,
            ..
        } = self.parts;
        RateLimiterLayer {
            parts: Parts {
                classify,
                find,
                estimate,
                limiter,
                usage,
            },
        }
    }

    /// Reads the usage of a call by `usage`, such as a closure `Fn(Result<&Res, &Err>) -> Option<TokenUsage>`, to settle the
    /// token quota. By default it is read from [`LlmResponse`](crate::LlmResponse) and [`LlmError`](crate::LlmError).
    ///
    /// A usage that a layer or strategy inside has observed takes precedence. `None` (unknown) keeps the estimate.
    ///
    /// ```
    /// use llm_batch::layer::rate_limiter::{RateLimiter, RateLimiterLayer};
    /// use llm_batch::{BoxError, TokenUsage};
    ///
    /// struct Reply { tokens: u64 }
    /// # fn main() -> Result<(), BoxError> {
    /// let limiter = RateLimiter::builder().tokens_per_minute(60_000).build()?;
    /// let layer = RateLimiterLayer::new(limiter)
    ///     .untracked()
    ///     .estimate_with(|request: &String| request.len() as u64 / 4)
    ///     .usage_with(|outcome: Result<&Reply, &BoxError>| Some(TokenUsage::new(outcome.ok()?.tokens, 0)));
    /// # let _ = layer;
    /// # Ok(()) }
    /// ```
    pub fn usage_with<V>(self, usage: V) -> RateLimiterLayer<C, F, E, L, V> {
        let Parts {
            classify,
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
                usage,
            },
        }
    }
}

impl<S, C: Clone, F: Clone, E: Clone, L: Clone, U: Clone> Layer<S> for RateLimiterLayer<C, F, E, L, U> {
    type Service = RateLimited<S, C, F, E, L, U>;

    fn layer(&self, inner: S) -> Self::Service {
        RateLimited {
            inner,
            parts: self.parts.clone(),
            calls_inside: Arc::default(),
        }
    }
}

impl<C, F, E, L: fmt::Debug, U> fmt::Debug for RateLimiterLayer<C, F, E, L, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimiterLayer")
            .field("limiter", &self.parts.limiter)
            .finish_non_exhaustive()
    }
}

/// A service behind a gate; created by [`RateLimiterLayer`].
///
/// It waits in its future: `poll_ready` is always ready and does not touch the service inside, so that nothing is
/// reserved there while a call waits.
#[derive(Clone)]
pub struct RateLimited<
    S,
    C = KindClassifier,
    F = InRequest,
    E = CharacterEstimate,
    L = RateLimiter,
    U = InResponse,
> {
    inner: S,
    parts: Parts<C, F, E, L, U>,
    calls_inside: Arc<CallsInside>,
}

impl<S, C, F, E, L, U> RateLimited<S, C, F, E, L, U> {
    /// The layers inside begin every call that is sent.
    pub(crate) fn with_calls_begun_inside(mut self) -> Self {
        self.calls_inside = Arc::new(CallsInside::begun_by_this_crate());
        self
    }

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

impl<S, C, F, E, L, U, Req> Service<Req> for RateLimited<S, C, F, E, L, U>
where
    S: Service<Req> + Clone,
    S::Error: From<Refused> + 'static,
    C: Classify<S::Response, S::Error> + Clone,
    F: FindItem<Req> + Clone,
    E: Estimate<Req>,
    L: SelectLimiter<Req>,
    U: ReportsUsage<S::Response, S::Error> + Clone,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = RateLimitedFuture<S, Req, C, F, U>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Req) -> Self::Future {
        let Parts {
            classify,
            find,
            estimate,
            limiter,
            usage,
        } = &self.parts;
        // Taken before any user code runs: from here on nothing is sent unless the call begins.
        let hold = find.context_mut(&mut request).map(CallContext::hold);
        let limiter = limiter.select(&request);
        let mut acquire = Acquire::new(limiter.gate, limiter.priority, estimate.estimate_parts(&request));
        if let Some(hold) = &hold {
            if let Some(held) = hold.take_held_by(acquire.gate().mark()) {
                acquire = acquire.held(held);
            }
            acquire = acquire.for_item(Arc::clone(hold.item()));
        }
        let pending = Pending {
            service: self.inner.clone(),
            request,
            hold,
        };
        RateLimitedFuture::new(
            acquire,
            pending,
            classify.clone(),
            find.clone(),
            Arc::clone(&self.calls_inside),
            usage.clone(),
        )
    }
}

impl<S: fmt::Debug, C, F, E, L: fmt::Debug, U> fmt::Debug for RateLimited<S, C, F, E, L, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimited")
            .field("inner", &self.inner)
            .field("limiter", &self.parts.limiter)
            .finish_non_exhaustive()
    }
}
