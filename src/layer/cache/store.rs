//! The store of the answers.

use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use moka::sync::Cache as Answers;
use serde::{Deserialize, Serialize};
use tower_service::Service;

use super::error::SharedFailure;
use super::flight::{Flight, Flights, Role};
use super::key::KeyDigest;
use super::size;
use crate::item::{CallHold, HandOver};
use crate::request::LlmRequest;
use crate::response::LlmResponse;
use crate::usage::TokenUsage;

/// The longest time to live that the store accepts: a thousand years.
const LONGEST: Duration = Duration::from_secs(1_000 * 365 * 24 * 3_600);

/// The bytes of a typical answer, its key and bookkeeping included.
const TYPICAL: u64 = 4 * 1024;

/// 64 MiB.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// Answers by request. Cloning is cheap; all clones share the answers. See the [module](super).
///
/// ```
/// use std::time::Duration;
/// use llm_batch::layer::cache::ResponseCache;
///
/// let cache: ResponseCache = ResponseCache::builder()
///     .max_bytes(256 * 1024 * 1024)
///     .time_to_live(Duration::from_secs(3_600))
///     .build();
/// assert_eq!(cache.snapshot().bytes, 0);
/// ```
pub struct ResponseCache<O = String> {
    shared: Arc<Shared<O>>,
}

struct Shared<O> {
    answers: Answers<KeyDigest, Stored<O>>,
    flights: Flights<Result<Arc<LlmResponse<O>>, SharedFailure>>,
    counters: Counters,
    max_bytes: u64,
    /// The bytes that an output holds on the heap.
    size: Box<dyn Fn(&O) -> usize + Send + Sync>,
}

/// An answer with its size, which is computed before the store locks anything.
struct Stored<O> {
    answer: Arc<LlmResponse<O>>,
    bytes: u32,
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
    max_bytes: u64,
    time_to_live: Option<Duration>,
}

impl ResponseCacheBuilder {
    /// Sets the maximum total size of the answers in bytes, keys and bookkeeping included; 64 MiB by default. With 0 no
    /// answer is kept, but requests in flight are still shared.
    pub const fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Sets the time for which an answer is kept. By default an answer does not expire.
    pub const fn time_to_live(mut self, time: Duration) -> Self {
        self.time_to_live = Some(time);
        self
    }

    /// Sets [`max_bytes`](Self::max_bytes) to hold about this many answers of 4 KiB each, keys and bookkeeping included.
    pub const fn capacity(self, answers: u64) -> Self {
        self.max_bytes(answers.saturating_mul(TYPICAL))
    }

    /// Builds the cache. The size of an output that is text, bytes or JSON (`String`, `Vec<u8>`, `serde_json::Value`) is measured;
    /// one of any other type counts with 2 KiB on the heap. If those are larger, use
    /// [`build_sized_by`](Self::build_sized_by).
    pub fn build<O: Clone + Send + Sync + 'static>(self) -> ResponseCache<O> {
        self.build_sized_by(size::of_output)
    }

    /// Builds the cache for outputs of any type: `size` returns the bytes that an output holds on the heap. An estimate is enough, such
    /// as the length of its JSON; 0 is right for a number.
    ///
    /// `size` is called once for each answer, without a lock held. If it panics, the answer is returned and not kept.
    ///
    /// ```
    /// use llm_batch::layer::cache::ResponseCache;
    ///
    /// let vectors = ResponseCache::builder().build_sized_by(|vector: &Vec<f32>| size_of_val(&**vector));
    /// # let _: ResponseCache<Vec<f32>> = vectors;
    /// ```
    pub fn build_sized_by<O, Z>(self, size: Z) -> ResponseCache<O>
    where
        O: Clone + Send + Sync + 'static,
        Z: Fn(&O) -> usize + Send + Sync + 'static,
    {
        let mut answers = Answers::builder()
            .max_capacity(self.max_bytes)
            .weigher(|_: &KeyDigest, stored: &Stored<O>| stored.bytes);
        if let Some(time) = self.time_to_live {
            answers = answers.time_to_live(time.min(LONGEST));
        }
        ResponseCache {
            shared: Arc::new(Shared {
                answers: answers.build(),
                flights: Flights::default(),
                counters: Counters::default(),
                max_bytes: self.max_bytes,
                size: Box::new(size),
            }),
        }
    }
}

/// The counters and the size of a [`ResponseCache`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct CacheSnapshot {
    /// Requests answered from the cache.
    pub hits: u64,
    /// Requests that waited for an identical request under way and shared its answer or failure.
    pub joined: u64,
    /// Requests that called the strategy.
    pub misses: u64,
    /// The number of stored answers.
    pub answers: u64,
    /// Their total size in bytes, keys and bookkeeping included.
    pub bytes: u64,
}

/// Marks an answer from the cache, with the usage and cost of the original call. In
/// [`ResponseMetadata::extensions`](crate::ResponseMetadata::extensions).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Cached {
    /// The usage of the call; `None` if unknown.
    pub usage: Option<TokenUsage>,
    /// The cost of the call reported by the provider, in US dollars.
    pub cost: Option<f64>,
}

impl ResponseCache<String> {
    /// Options for a new cache.
    pub const fn builder() -> ResponseCacheBuilder {
        ResponseCacheBuilder {
            max_bytes: MAX_BYTES,
            time_to_live: None,
        }
    }
}

impl<O: Clone + Send + Sync + 'static> ResponseCache<O> {
    /// Creates a cache with room for about `capacity` answers of 4 KiB each, which do not expire. See
    /// [`builder`](ResponseCache::builder) for a bound in bytes.
    pub fn new(capacity: u64) -> Self {
        ResponseCache::builder().capacity(capacity).build()
    }
}

/// Creates a cache of 64 MiB.
impl<O: Clone + Send + Sync + 'static> Default for ResponseCache<O> {
    fn default() -> Self {
        ResponseCache::builder().build()
    }
}

impl<O: Clone + Send + Sync + 'static> ResponseCache<O> {
    /// Removes all answers. Requests under way are not affected.
    pub fn clear(&self) {
        self.shared.answers.invalidate_all();
    }

    /// Returns the counters so far and the size of the contents.
    pub fn snapshot(&self) -> CacheSnapshot {
        let Shared {
            answers, counters, ..
        } = &*self.shared;
        answers.run_pending_tasks();
        CacheSnapshot {
            hits: counters.hits.load(Ordering::Relaxed),
            joined: counters.joined.load(Ordering::Relaxed),
            misses: counters.misses.load(Ordering::Relaxed),
            answers: answers.entry_count(),
            bytes: answers.weighted_size(),
        }
    }

    /// Answers a request from the cache, from an identical request under way, or by calling `inner`.
    pub(super) async fn answer<S, I>(
        self,
        key: KeyDigest,
        inner: S,
        request: LlmRequest<I>,
        mut hold: CallHold,
    ) -> Result<LlmResponse<O>, S::Error>
    where
        S: Service<LlmRequest<I>, Response = LlmResponse<O>>,
        S::Error: From<SharedFailure> + fmt::Display + 'static,
    {
        let shared = &*self.shared;
        let item = Arc::clone(request.item());
        let flight = loop {
            if let Some(stored) = shared.answers.get(&key) {
                shared.counters.hits.fetch_add(1, Ordering::Relaxed);
                return Ok(without_cost(&stored.answer));
            }
            let landing = match shared.flights.join(key) {
                // An earlier request may have stored the answer since the check above.
                Role::Asks(_) if shared.answers.contains_key(&key) => continue,
                Role::Asks(flight) => break flight,
                Role::Waits(landing) => landing,
            };
            let mut result = std::pin::pin!(landing.result());
            let landed = poll_fn(|cx| {
                if let Poll::Ready(landed) = result.as_mut().poll(cx) {
                    return Poll::Ready(Some(landed));
                }
                if item.signals().stop_requested() {
                    return hold.poll_refused(cx).map(|()| None);
                }
                item.signals().wake_at_stop(cx);
                Poll::Pending
            });
            let Some(landed) = landed.await else {
                return Err(SharedFailure::stopped().into());
            };
            match landed {
                Some(Ok(answer)) => {
                    shared.counters.joined.fetch_add(1, Ordering::Relaxed);
                    return Ok(without_cost(&answer));
                }
                // The leading request was cut or stopped. This one takes its place, unless it has to stop, too.
                None => {}
                Some(Err(failure)) if failure.is_stopped() && !item.signals().stop_requested() => {}
                Some(Err(failure)) => {
                    shared.counters.joined.fetch_add(1, Ordering::Relaxed);
                    return Err(failure.into());
                }
            }
        };
        shared.ask(flight, key, inner, request, hold).await
    }
}

/// Waits until the service inside is ready, and then sends the request unless the batch is stopping.
pub(super) fn hand_over<S, Req>(inner: S, request: Req, hold: CallHold) -> HandOver<S, Req>
where
    S: Service<Req>,
    S::Error: From<SharedFailure>,
{
    HandOver::new(inner, request, Some(hold), |_| {
        Some(SharedFailure::stopped().into())
    })
}

impl<O: Clone + Send + Sync + 'static> Shared<O> {
    async fn ask<S, I>(
        &self,
        flight: Flight<'_, Result<Arc<LlmResponse<O>>, SharedFailure>>,
        key: KeyDigest,
        inner: S,
        request: LlmRequest<I>,
        hold: CallHold,
    ) -> Result<LlmResponse<O>, S::Error>
    where
        S: Service<LlmRequest<I>, Response = LlmResponse<O>>,
        S::Error: From<SharedFailure> + fmt::Display + 'static,
    {
        self.counters.misses.fetch_add(1, Ordering::Relaxed);
        let item = Arc::clone(request.item());
        match hand_over(inner, request, hold).await {
            Ok(answer) => {
                let answer = Arc::new(answer);
                // Stored before it lands, so that every later request finds the answer or the flight.
                self.store(key, &answer);
                flight.land(Ok(Arc::clone(&answer)));
                Ok(Arc::unwrap_or_clone(answer))
            }
            Err(error) => {
                flight.land(Err(SharedFailure::of(&error, item.signals().stop_requested())));
                Err(error)
            }
        }
    }

    fn store(&self, key: KeyDigest, answer: &Arc<LlmResponse<O>>) {
        let Ok(output) = catch_unwind(AssertUnwindSafe(|| (self.size)(&answer.output))) else {
            tracing::warn!(
                target: "llm_batch::layer::cache",
                "an answer is not kept, because the function given to `build_sized_by` panicked"
            );
            return;
        };
        // One of 4 GiB or more counts as 4 GiB.
        let bytes = u32::try_from(size::of_answer(answer, output)).unwrap_or(u32::MAX);
        let stored = Stored {
            answer: Arc::clone(answer),
            bytes,
        };
        self.answers.insert(key, stored);
        // Evicts immediately, so that the bound holds at any time.
        self.answers.run_pending_tasks();
    }
}

/// Clones the answer with zero usage and cost.
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
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<O> Clone for Stored<O> {
    fn clone(&self) -> Self {
        Self {
            answer: Arc::clone(&self.answer),
            bytes: self.bytes,
        }
    }
}

impl<O> fmt::Debug for ResponseCache<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseCache")
            .field("max_bytes", &self.shared.max_bytes)
            .finish_non_exhaustive()
    }
}
