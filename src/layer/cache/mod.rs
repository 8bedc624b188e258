//! A cache of answers: identical requests cause one call.
//!
//! A [`ResponseCache`] is a handle: its clones share the answers. One cache belongs to one
//! strategy; strategies that would answer differently (another account's model, another parser) need separate caches,
//! as the key identifies the request and not the strategy.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), llm_batch::BoxError> {
//! use llm_batch::layer::cache::{CacheLayer, Cached, ResponseCache};
//! use llm_batch::{LlmError, LlmRequest, LlmResponse, StandardLayer, TokenUsage};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! let cache = ResponseCache::new(10_000);
//! let model = ServiceBuilder::new()
//!     .layer(CacheLayer::new(cache.clone()))
//!     .layer(StandardLayer::new())
//!     .service(service_fn(async |_: LlmRequest| {
//!         Ok::<_, LlmError>(LlmResponse::new("42".to_owned()).with_usage(TokenUsage::new(10, 2)))
//!     }));
//! model.clone().oneshot(LlmRequest::new("6 times 7?".into())).await?;
//! let again = model.oneshot(LlmRequest::new("6 times 7?".into())).await?;
//! assert_eq!(again.usage, Some(TokenUsage::ZERO));
//! let cached = again.metadata.extensions.get::<Cached>().unwrap();
//! assert_eq!(cached.usage, Some(TokenUsage::new(10, 2)));
//! assert_eq!((cache.snapshot().hits, cache.snapshot().misses), (1, 1));
//! # Ok(()) }
//! ```
//!
//! # Where it belongs
//! Outermost: then a hit passes no gate, uses no quota, and identical requests share the retries of one. It also works inside the
//! retries; there the cache sees calls rather than items.
//!
//! # Identical requests
//! By default two requests are identical if their whole [`Prompt`](crate::Prompt)s are, as canonical JSON ([`prompt_key`]): texts,
//! model, sampling parameters, schema, extra fields. For other inputs give the layer a closure ([`CacheLayer::key_with`]); it may
//! also keep requests out of the cache. Note that a prompt at a temperature above zero then always gets the same answer.
//!
//! # Capacity
//! 64 MiB by default ([`ResponseCacheBuilder::max_bytes`]). An answer counts with its output, the texts of its metadata, and 512
//! bytes for its key and the bookkeeping. A request is kept only as the SHA-256 of its key. When the cache is full, the
//! least frequently requested answers are evicted, or the new one is not kept.
//!
//! # Cost of a hit
//! Zero: no call is opened in the item's record, and the answer's usage and cost are zero. The usage and cost of the original call
//! are in the answer's [`Cached`] extension. [`ResponseCache::snapshot`] counts hits and misses.
//!
//! # Requests in flight
//! A request identical to one under way waits for that one and shares its answer. It also shares its failure, as
//! [`SharedFailure`]; a failure is not stored, so the next request calls again. If the leading request is cancelled, panics or
//! belongs to a batch that is stopping, one of the waiting requests takes its place, on its own account. While they wait, the time
//! limits of the leading request's call apply.
//!
//! # Panics
//! A panic in a request's call or key fails only that request: one of the waiting requests takes its place. A panic in the clone
//! of an answer fails the request for which it was cloned. If taking the size of an answer panics, the answer is returned and not
//! kept. Keys, sizes and clones are taken without a lock held; the destructor of an evicted answer may run under one.
//!
//! # Time
//! [`ResponseCacheBuilder::time_to_live`] is measured by the system's clock, not by tokio's, which tests may pause.
//!
//! # Cancel safety
//! Dropping a future that waits for another request's answer loses nothing. Dropping the future of a leading request drops its
//! call, which may be billed; nothing is stored.

use std::fmt;
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;
use tower_service::Service;

use store::hand_over;

use crate::error::BoxError;
use crate::request::LlmRequest;
use crate::response::LlmResponse;

mod error;
mod flight;
mod key;
mod layer;
mod size;
mod store;

pub use error::SharedFailure;
pub use key::{CacheKey, PromptKey, prompt_key};
pub use layer::CacheLayer;
pub use store::{CacheSnapshot, Cached, ResponseCache, ResponseCacheBuilder};

/// Answers from a [`ResponseCache`] if it can; created by [`CacheLayer`].
///
/// It waits in its future: `poll_ready` is always ready and does not touch the service inside.
#[derive(Clone)]
pub struct Cache<S, O = String, K = PromptKey> {
    inner: S,
    cache: ResponseCache<O>,
    key: K,
}

impl<S, O, K> Cache<S, O, K> {
    /// The cache's handle.
    pub const fn cache(&self) -> &ResponseCache<O> {
        &self.cache
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

impl<S, O, K, I> Service<LlmRequest<I>> for Cache<S, O, K>
where
    S: Service<LlmRequest<I>, Response = LlmResponse<O>> + Clone + Send + 'static,
    S::Error: From<SharedFailure> + Into<BoxError> + fmt::Display + Send + 'static,
    S::Future: Send + 'static,
    O: Clone + Send + Sync + 'static,
    K: CacheKey<LlmRequest<I>>,
    I: Send + 'static,
{
    type Response = LlmResponse<O>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<LlmResponse<O>, S::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: LlmRequest<I>) -> Self::Future {
        // Taken before any user code runs. Nothing is sent during the look-up and the wait.
        let hold = request.context_mut().hold();
        let inner = self.inner.clone();
        match self.key.key(&request) {
            Some(key) => (self.cache.clone())
                .answer(key::digest(&key), inner, request, hold)
                .boxed(),
            None => hand_over(inner, request, hold).boxed(),
        }
    }
}

impl<S: fmt::Debug, O, K> fmt::Debug for Cache<S, O, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("inner", &self.inner)
            .field("cache", &self.cache)
            .finish_non_exhaustive()
    }
}
