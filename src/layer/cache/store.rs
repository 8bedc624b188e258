//! The answers.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use moka::future::Cache as Answers;
use serde::{Deserialize, Serialize};
use tower::util::Oneshot;
use tower_service::Service;

use super::error::SharedFailure;
use crate::request::LlmRequest;
use crate::response::LlmResponse;
use crate::usage::TokenUsage;

/// The longest time to live that the store takes: a thousand years.
const LONGEST: Duration = Duration::from_secs(1_000 * 365 * 24 * 3_600);

/// Answers by what was asked. Cloning is cheap; all clones hold the same answers. See the [module](super).
///
/// ```
/// use std::time::Duration;
/// use llm_batch::layer::cache::ResponseCache;
///
/// let cache: ResponseCache = ResponseCache::builder()
///     .capacity(100_000)
///     .time_to_live(Duration::from_secs(3_600))
///     .build();
/// assert_eq!(cache.snapshot().misses, 0);
/// ```
pub struct ResponseCache<O = String> {
    answers: Answers<String, Arc<LlmResponse<O>>>,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct Counters {
    hits: AtomicU64,
    joined: AtomicU64,
    misses: AtomicU64,
}

/// Options of a [`ResponseCache`].
#[derive(Clone, Copy, Debug)]
#[must_use = "call build"]
pub struct ResponseCacheBuilder {
    capacity: u64,
    time_to_live: Option<Duration>,
}

impl ResponseCacheBuilder {
    /// How many answers are kept; 10,000 by default. Beyond that the least used ones go. 0 keeps none, but requests in
    /// flight are shared all the same.
    pub const fn capacity(mut self, answers: u64) -> Self {
        self.capacity = answers;
        self
    }

    /// How long an answer is kept; as long as there is room by default.
    pub const fn time_to_live(mut self, time: Duration) -> Self {
        self.time_to_live = Some(time);
        self
    }

    /// The cache.
    pub fn build<O: Clone + Send + Sync + 'static>(self) -> ResponseCache<O> {
        let mut answers = Answers::builder().max_capacity(self.capacity);
        if let Some(time) = self.time_to_live {
            answers = answers.time_to_live(time.min(LONGEST));
        }
        ResponseCache {
            answers: answers.build(),
            counters: Arc::default(),
        }
    }
}

/// What a [`ResponseCache`] had done at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct CacheSnapshot {
    /// Requests answered from the cache.
    pub hits: u64,
    /// Requests that waited for the same request under way and shared its answer or failure.
    pub joined: u64,
    /// Requests that asked the strategy.
    pub misses: u64,
}

/// Beside an answer that cost nothing: what it took when it was asked for. In
/// [`ResponseMetadata::extensions`](crate::ResponseMetadata::extensions).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Cached {
    /// What the call used; `None` if that is unknown.
    pub usage: Option<TokenUsage>,
    /// What the provider said the call cost, in US dollars.
    pub cost: Option<f64>,
}

impl ResponseCache<String> {
    /// Options for a new cache.
    pub const fn builder() -> ResponseCacheBuilder {
        ResponseCacheBuilder {
            capacity: 10_000,
            time_to_live: None,
        }
    }
}

impl<O: Clone + Send + Sync + 'static> ResponseCache<O> {
    /// A cache for `capacity` answers, which are kept as long as there is room.
    pub fn new(capacity: u64) -> Self {
        ResponseCache::builder().capacity(capacity).build()
    }

    /// Forgets all answers. Requests under way are not touched.
    pub fn clear(&self) {
        self.answers.invalidate_all();
    }

    /// The answer to a request that was not asked before is `inner`'s.
    pub(super) async fn answer<S, I>(
        self,
        key: String,
        inner: S,
        mut request: LlmRequest<I>,
    ) -> Result<LlmResponse<O>, S::Error>
    where
        S: Service<LlmRequest<I>, Response = LlmResponse<O>>,
        S::Error: From<SharedFailure> + fmt::Display + 'static,
    {
        let counters = &*self.counters;
        let item = Arc::clone(request.item());
        let mut hold = Some(request.context_mut().hold());
        if let Some(answer) = self.answers.get(&key).await {
            counters.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(without_cost(&answer));
        }
        let mut pending = Some((inner, request));
        let mut own_failure = None;
        loop {
            let ask = async {
                // Of all that are the same only one comes here; the others wait.
                let Some((inner, request)) = pending.take_if(|_| !item.stop_requested()) else {
                    return Err(SharedFailure::stopped());
                };
                if hold.take().is_some_and(|hold| hold.release().is_err()) {
                    return Err(SharedFailure::stopped());
                }
                counters.misses.fetch_add(1, Ordering::Relaxed);
                match Oneshot::new(inner, request).await {
                    Ok(answer) => Ok(Arc::new(answer)),
                    Err(error) => {
                        let shared = SharedFailure::of(&error, item.stop_requested());
                        own_failure = Some(error);
                        Err(shared)
                    }
                }
            };
            let result = self.answers.try_get_with_by_ref(&key, ask).await;
            if let Some(error) = own_failure {
                return Err(error);
            }
            match result {
                Ok(answer) if pending.is_none() => return Ok((*answer).clone()),
                Ok(answer) => {
                    counters.joined.fetch_add(1, Ordering::Relaxed);
                    return Ok(without_cost(&answer));
                }
                // Who asked had to stop; this one need not, and goes on in its place.
                Err(failure) if failure.is_stopped() && !item.stop_requested() && pending.is_some() => {}
                Err(failure) => {
                    counters.joined.fetch_add(1, Ordering::Relaxed);
                    return Err(SharedFailure::clone(&failure).into());
                }
            }
        }
    }
}

impl<O> ResponseCache<O> {
    /// What it has done so far.
    pub fn snapshot(&self) -> CacheSnapshot {
        let Counters { hits, joined, misses } = &*self.counters;
        CacheSnapshot {
            hits: hits.load(Ordering::Relaxed),
            joined: joined.load(Ordering::Relaxed),
            misses: misses.load(Ordering::Relaxed),
        }
    }
}

/// The answer as one that costs nothing now.
fn without_cost<O: Clone>(answer: &LlmResponse<O>) -> LlmResponse<O> {
    let mut answer = answer.clone();
    let cached = Cached {
        usage: answer.usage.replace(TokenUsage::ZERO),
        cost: answer.metadata.cost.replace(0.0),
    };
    answer.metadata.extensions.insert(cached);
    answer
}

impl<O> Clone for ResponseCache<O> {
    fn clone(&self) -> Self {
        Self {
            answers: self.answers.clone(),
            counters: Arc::clone(&self.counters),
        }
    }
}

impl<O> fmt::Debug for ResponseCache<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ResponseCache").field(&self.snapshot()).finish()
    }
}
