//! Selection of the gate by request.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use super::{RateLimiter, RateLimiterSnapshot};

/// Selects the gate for a request: one [`RateLimiter`] for all, or a closure.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot pick the gate of a request `{Req}`",
    label = "`{Self}` does not pick a gate for this request",
    note = "write out the type of the closure's argument: `RateLimiterLayer::keyed(|request: &{Req}| ...)`"
)]
pub trait SelectLimiter<Req> {
    /// Returns the gate for `request`. Called once per call.
    fn select(&self, request: &Req) -> RateLimiter;
}

impl<Req> SelectLimiter<Req> for RateLimiter {
    fn select(&self, _: &Req) -> RateLimiter {
        self.clone()
    }
}

#[diagnostic::do_not_recommend]
impl<Req, F: Fn(&Req) -> RateLimiter> SelectLimiter<Req> for F {
    fn select(&self, request: &Req) -> RateLimiter {
        self(request)
    }
}

/// Gates by key, each created when its key is first seen. Cloning is cheap; all clones share the gates.
///
/// A gate is kept as long as any clone exists, because it remembers pauses and debts. So the number of keys should be small:
/// models, accounts, regions, but nothing that grows with the number of items.
///
/// ```
/// use llm_batch::LlmRequest;
/// use llm_batch::layer::rate_limiter::{RateLimiter, RateLimiterLayer, RateLimiters};
///
/// let small = RateLimiter::builder().requests_per_minute(500).build().unwrap();
/// let by_model = RateLimiters::new(move |model: &String| match model.as_str() {
///     "large" => RateLimiter::builder().requests_per_minute(60).build().unwrap(),
///     // Several keys may share one gate.
///     _ => small.clone(),
/// });
/// let layer = RateLimiterLayer::keyed(move |request: &LlmRequest| {
///     by_model.get(request.input().model().unwrap_or("default"))
/// });
/// # let _ = layer;
/// ```
pub struct RateLimiters<K> {
    shared: Arc<Shared<K>>,
}

struct Shared<K> {
    gates: Mutex<HashMap<K, RateLimiter>>,
    make: Box<dyn Fn(&K) -> RateLimiter + Send + Sync>,
}

impl<K: Eq + Hash> RateLimiters<K> {
    /// Creates each gate with `make`, once per key.
    pub fn new(make: impl Fn(&K) -> RateLimiter + Send + Sync + 'static) -> Self {
        Self {
            shared: Arc::new(Shared {
                gates: Mutex::new(HashMap::new()),
                make: Box::new(make),
            }),
        }
    }

    /// Returns the gate for `key`, and creates it if needed.
    pub fn get<Q>(&self, key: &Q) -> RateLimiter
    where
        K: std::borrow::Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = K> + ?Sized,
    {
        if let Some(limiter) = self.gates().get(key) {
            return limiter.clone();
        }
        // Created outside the lock; if two threads race, one gate is dropped unused.
        let key = key.to_owned();
        let made = (self.shared.make)(&key);
        self.gates().entry(key).or_insert(made).clone()
    }

    /// Returns a snapshot of each gate.
    pub fn snapshots(&self) -> Vec<(K, RateLimiterSnapshot)>
    where
        K: Clone,
    {
        let gates: Vec<(K, RateLimiter)> = self
            .gates()
            .iter()
            .map(|(key, limiter)| (key.clone(), limiter.clone()))
            .collect();
        gates
            .into_iter()
            .map(|(key, limiter)| (key, limiter.snapshot()))
            .collect()
    }

    fn gates(&self) -> std::sync::MutexGuard<'_, HashMap<K, RateLimiter>> {
        self.shared.gates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K> Clone for RateLimiters<K> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<K> fmt::Debug for RateLimiters<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimiters").finish_non_exhaustive()
    }
}
