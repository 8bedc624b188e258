//! The layer.

use std::fmt;

use tower_layer::Layer;

use super::{Cache, PromptKey, ResponseCache};

/// Answers repeated requests from a [`ResponseCache`]. See the [module](super).
#[derive(Clone)]
pub struct CacheLayer<O = String, K = PromptKey> {
    cache: ResponseCache<O>,
    key: K,
}

impl<O> CacheLayer<O> {
    /// Keeps answers in `cache`, keyed by the whole [`Prompt`](crate::Prompt).
    pub const fn new(cache: ResponseCache<O>) -> Self {
        Self {
            cache,
            key: PromptKey,
        }
    }
}

impl<O, K> CacheLayer<O, K> {
    /// Identifies requests by `key`: a closure `Fn(&LlmRequest<I>) -> Option<String>`. For `None` the cache is
    /// bypassed.
    ///
    /// ```
    /// use llm_batch::LlmRequest;
    /// use llm_batch::layer::cache::{CacheLayer, ResponseCache, prompt_key};
    ///
    /// let cache: ResponseCache = ResponseCache::new(10_000);
    /// // Answers that vary are not shared: every item gets its own.
    /// let layer = CacheLayer::new(cache).key_with(|request: &LlmRequest| {
    ///     let prompt = request.input();
    ///     if prompt.temperature() == Some(0.0) { prompt_key(prompt) } else { None }
    /// });
    /// # let _ = layer;
    ///
    /// // Texts to embed.
    /// let vectors = ResponseCache::builder().build_sized_by(|vector: &Vec<f32>| size_of_val(&**vector));
    /// let layer = CacheLayer::new(vectors).key_with(|request: &LlmRequest<String>| Some(request.input().clone()));
    /// # let _ = layer;
    /// ```
    pub fn key_with<Req, G>(self, key: G) -> CacheLayer<O, G>
    where
        G: Fn(&Req) -> Option<String>,
    {
        CacheLayer {
            cache: self.cache,
            key,
        }
    }
}

impl<S, O, K: Clone> Layer<S> for CacheLayer<O, K> {
    type Service = Cache<S, O, K>;

    fn layer(&self, inner: S) -> Self::Service {
        Cache {
            inner,
            cache: self.cache.clone(),
            key: self.key.clone(),
        }
    }
}

impl<O, K> fmt::Debug for CacheLayer<O, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheLayer")
            .field("cache", &self.cache)
            .finish_non_exhaustive()
    }
}
