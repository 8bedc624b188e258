//! The recommended stack as one layer.

use std::fmt;
use std::time::Duration;

use tower::retry::{Retry, RetryLayer};
use tower_layer::Layer;

use super::rate_limiter::{RateLimited, RateLimiter, RateLimiterLayer};
use super::retry::{NoHook, RetryPolicy};
use super::timeout::{CallTimeout, CallTimeoutLayer, ItemTimeout, ItemTimeoutLayer};
use super::token_accounting::{TokenAccounting, TokenAccountingLayer, TokenLedger};
use crate::classify::KindClassifier;
use crate::events::Events;
use crate::request::InRequest;

/// The recommended stack: item timeout, retry, rate limiter, token accounting, call timeout, from the outside in.
///
/// Everything that one layer made shares one limiter and one ledger; so do its clones. For a strategy of another
/// account or model make another layer. Whoever needs more knobs than these composes the layers with
/// [`ServiceBuilder`](tower::ServiceBuilder) as the [crate documentation](crate) shows.
///
/// | part | default |
/// |---|---|
/// | [item timeout](Self::with_item_timeout) | 900 s |
/// | [retry](Self::with_max_attempts) | 3 attempts, 20 throttles |
/// | [rate limiter](Self::with_limiter) | no quotas; cools down and paces when the provider throttles |
/// | [ledger](Self::with_ledger) | a new one |
/// | prices (`with_prices`, feature `prices`) | none |
/// | [call timeout](Self::with_call_timeout) | 600 s, what OpenAI's own clients wait |
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use llm_batch::layer::rate_limiter::RateLimiter;
/// use llm_batch::layer::standard::StandardLayer;
/// use llm_batch::{LlmError, LlmRequest, LlmResponse, TokenUsage};
/// use tower::{Layer, ServiceExt, service_fn};
///
/// let strategy = service_fn(async |_: LlmRequest| {
///     Ok::<_, LlmError>(LlmResponse::new("42".to_owned()).with_usage(TokenUsage::new(10, 2)))
/// });
/// let limiter = RateLimiter::builder().requests_per_minute(500).build().unwrap();
/// let standard = StandardLayer::new().with_limiter(limiter);
/// let model = standard.layer(strategy);
/// model.oneshot(LlmRequest::new("6 times 7?".into())).await.unwrap();
/// assert_eq!(standard.ledger().snapshot().usage.total(), 12);
/// # }
/// ```
#[derive(Clone)]
pub struct StandardLayer<H = NoHook> {
    item_timeout: ItemTimeoutLayer,
    call_timeout: CallTimeoutLayer,
    policy: RetryPolicy<KindClassifier, InRequest, H>,
    limiter: RateLimiter,
    ledger: TokenLedger,
    events: Option<Events>,
    #[cfg(feature = "prices")]
    prices: Option<crate::price::PriceTable>,
}

/// What [`StandardLayer`] makes of a strategy.
pub type Standard<S, H = NoHook> = ItemTimeout<
    Retry<RetryPolicy<KindClassifier, InRequest, H>, RateLimited<TokenAccounting<CallTimeout<S>>>>,
>;

impl StandardLayer {
    /// The stack with its defaults.
    pub fn new() -> Self {
        Self {
            item_timeout: ItemTimeoutLayer::new(Duration::from_secs(900)),
            call_timeout: CallTimeoutLayer::new(Duration::from_secs(600)),
            policy: RetryPolicy::new(3),
            limiter: RateLimiter::default(),
            ledger: TokenLedger::new(),
            events: None,
            #[cfg(feature = "prices")]
            prices: None,
        }
    }
}

impl<H> StandardLayer<H> {
    /// How many attempts an item has.
    ///
    /// # Panics
    /// If `max_attempts` is 0.
    #[must_use]
    #[track_caller]
    pub fn with_max_attempts(mut self, max_attempts: u32) -> Self {
        assert!(
            max_attempts > 0,
            "max_attempts is at least 1: the first attempt counts"
        );
        self.policy = self.policy.max_attempts(max_attempts);
        self
    }

    /// Another retry policy: more throttles, another backoff, a hook.
    pub fn with_retry<G>(self, policy: RetryPolicy<KindClassifier, InRequest, G>) -> StandardLayer<G> {
        StandardLayer {
            item_timeout: self.item_timeout,
            call_timeout: self.call_timeout,
            policy,
            limiter: self.limiter,
            ledger: self.ledger,
            events: self.events,
            #[cfg(feature = "prices")]
            prices: self.prices,
        }
    }

    /// How long an item may take, over every call and every wait.
    ///
    /// # Panics
    /// If `limit` is zero.
    #[must_use]
    #[track_caller]
    pub fn with_item_timeout(mut self, limit: Duration) -> Self {
        self.item_timeout = ItemTimeoutLayer::new(limit);
        self
    }

    /// How long one call may take.
    ///
    /// # Panics
    /// If `limit` is zero.
    #[must_use]
    #[track_caller]
    pub fn with_call_timeout(mut self, limit: Duration) -> Self {
        self.call_timeout = CallTimeoutLayer::new(limit);
        self
    }

    /// The limiter, with the quotas of the account and model. A clone of the handle may stand in other stacks too,
    /// which then share the scope.
    #[must_use]
    pub fn with_limiter(mut self, limiter: RateLimiter) -> Self {
        self.limiter = limiter;
        self
    }

    /// The ledger to feed.
    #[must_use]
    pub fn with_ledger(mut self, ledger: TokenLedger) -> Self {
        self.ledger = ledger;
        self
    }

    /// Prices the calls whose provider does not report a cost. See
    /// [`TokenAccountingLayer::prices`](super::token_accounting::TokenAccountingLayer::prices).
    #[cfg(feature = "prices")]
    #[cfg_attr(docsrs, doc(cfg(feature = "prices")))]
    #[must_use]
    pub fn with_prices(mut self, table: crate::price::PriceTable) -> Self {
        self.prices = Some(table);
        self
    }

    /// Where retries and calls are told. The limiter has its own setting, as it may be shared:
    /// [`RateLimiterBuilder::events`](super::rate_limiter::RateLimiterBuilder::events).
    #[must_use]
    pub fn with_events(mut self, events: &Events) -> Self {
        self.events = Some(events.clone());
        self
    }

    /// The limiter's handle: for its snapshot, to reopen it, or to share it.
    pub const fn limiter(&self) -> &RateLimiter {
        &self.limiter
    }

    /// The ledger's handle.
    pub const fn ledger(&self) -> &TokenLedger {
        &self.ledger
    }
}

impl Default for StandardLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S, H: Clone> Layer<S> for StandardLayer<H> {
    type Service = Standard<S, H>;

    fn layer(&self, strategy: S) -> Self::Service {
        let mut policy = self.policy.clone();
        let mut accounting = TokenAccountingLayer::new(self.ledger.clone());
        #[cfg(feature = "prices")]
        if let Some(prices) = &self.prices {
            accounting = accounting.prices(prices.clone());
        }
        if let Some(events) = &self.events {
            policy = policy.events(events);
            accounting = accounting.events(events);
        }
        (
            self.item_timeout,
            RetryLayer::new(policy),
            RateLimiterLayer::new(self.limiter.clone()),
            accounting,
            self.call_timeout,
        )
            .layer(strategy)
    }
}

impl<H> fmt::Debug for StandardLayer<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StandardLayer")
            .field("item_timeout", &self.item_timeout)
            .field("call_timeout", &self.call_timeout)
            .field("policy", &self.policy)
            .field("limiter", &self.limiter)
            .field("ledger", &self.ledger)
            .finish_non_exhaustive()
    }
}
