//! A cache of answers: the same request is asked once.
//!
//! A [`ResponseCache`] is a handle like the other ones: what shares it shares its answers. One cache belongs to one
//! strategy; those that would answer differently (another account's model, another parser) need caches of their own,
//! as the key says what was asked and not of whom.
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
//! Outermost: then a hit passes no gate, takes no quota, and requests that are alike share the retries of one. Under the
//! retries it works too; there the cache sees calls rather than items.
//!
//! # What is the same request
//! By default everything a [`Prompt`](crate::Prompt) says, as canonical JSON ([`prompt_key`]): texts, model, sampling parameters,
//! schema, extra fields. For other inputs give the layer a closure ([`CacheLayer::key_with`]); it may also keep requests out of the
//! cache. Note that the answer to a prompt at a temperature above zero is then the same every time it is asked.
//!
//! # How much it holds
//! 64 MiB by default ([`ResponseCacheBuilder::max_bytes`]). An answer counts with its output, the texts of its metadata, and 512
//! bytes for its key and the bookkeeping. Of a request only the SHA-256 of its key is kept. When there is no room for
//! a new answer, those that were asked for least go, or the new one is not kept.
//!
//! # What a hit costs
//! Nothing: no call is opened in the item's record, and the answer's usage and cost are zero. What the answer took when it was asked
//! for is in its [`Cached`] extension. [`ResponseCache::snapshot`] counts hits and misses.
//!
//! # Requests in flight
//! A request that is the same as one under way waits for that one and shares its answer. It shares its failure too, as
//! [`SharedFailure`], and nothing is stored: the next request asks again. If the one that asks is cancelled, panics or
//! belongs to a batch that is stopping, one of those that wait asks in its place, on its own account. Until then it is the time
//! limit of the one that asks that counts.
//!
//! # Panics
//! A request whose call or whose key panics does so alone: of those that waited for it one asks in its place. An answer
//! that panics when it is cloned fails the request that it was cloned for. An answer whose size panics is handed on and not kept.
//! Neither key, size nor clone is taken under a lock; the destructor of an answer that has to go may run under one.
//!
//! # Time
//! [`ResponseCacheBuilder::time_to_live`] is measured by the system's clock, not by tokio's, which tests may pause.
//!
//! # Cancel safety
//! A future dropped while it waits for another's answer loses nothing. One dropped while it asks drops that call, which may
//! be billed; nothing is stored.

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

/// Answers from a [`ResponseCache`] where it can; made by [`CacheLayer`].
///
/// It waits in its future: `poll_ready` is always ready and does not touch the service inside.
#[derive(Clone)]
pub struct Cache<S, O = String, K = PromptKey> {
    inner: S,
    cache: ResponseCache<O>,
    key: K,
}

impl<S, O, K> Cache<S, O, K> {
    /// The handle of the answers.
    pub const fn cache(&self) -> &ResponseCache<O> {
        &self.cache
    }

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
        // Before any code of the user's. Nothing is sent while it looks and waits.
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
