//! Methods on tower's builder for the layers.

use std::time::Duration;

use tower::ServiceBuilder;
use tower_layer::Stack;

use super::rate_limiter::{RateLimiter, RateLimiterLayer};
use super::retry::RetryLayer;
use super::timeout::{CallTimeoutLayer, ItemTimeoutLayer};
use super::token_accounting::{TokenAccountingLayer, TokenLedger};

/// This crate's layers as methods of [`ServiceBuilder`].
///
/// The first method called adds the outermost layer. For further options configure the layers
/// themselves and pass them to [`ServiceBuilder::layer`]. The names differ from the builder's own (`retry`, `timeout`,
/// `rate_limit`), which would take precedence.
///
/// ```
/// use std::time::Duration;
/// use llm_batch::layer::ServiceBuilderExt;
/// use llm_batch::layer::rate_limiter::RateLimiter;
/// use llm_batch::layer::retry::RetryPolicy;
/// use llm_batch::layer::token_accounting::TokenLedger;
/// use llm_batch::{LlmError, LlmRequest, LlmResponse};
/// use tower::{ServiceBuilder, service_fn};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let limiter = RateLimiter::builder().requests_per_minute(500).build()?;
/// let model = ServiceBuilder::new()
///     .item_timeout(Duration::from_secs(900))
///     .llm_retry(RetryPolicy::new(3))
///     .rate_limiter(limiter)
///     .token_accounting(TokenLedger::new())
///     .call_timeout(Duration::from_secs(600))
///     .service(service_fn(async |_: LlmRequest| {
///         Ok::<_, LlmError>(LlmResponse::new("42".to_owned()))
///     }));
/// # let _ = model;
/// # Ok(())
/// # }
/// ```
pub trait ServiceBuilderExt<L>: sealed::Sealed<L> + Sized {
    /// Limits the time of the whole item. See [`ItemTimeoutLayer`].
    ///
    /// # Panics
    /// If `limit` is zero.
    fn item_timeout(self, limit: Duration) -> ServiceBuilder<Stack<ItemTimeoutLayer, L>>;

    /// Retries according to `policy`, such as a [`RetryPolicy`](super::retry::RetryPolicy).
    fn llm_retry<P>(self, policy: P) -> ServiceBuilder<Stack<RetryLayer<P>, L>>;

    /// Limits every call by `limiter`. See [`RateLimiterLayer`].
    fn rate_limiter(self, limiter: RateLimiter) -> ServiceBuilder<Stack<RateLimiterLayer, L>>;

    /// Records every call in `ledger`. See [`TokenAccountingLayer`].
    fn token_accounting(self, ledger: TokenLedger) -> ServiceBuilder<Stack<TokenAccountingLayer, L>>;

    /// Limits the time of each call. See [`CallTimeoutLayer`].
    ///
    /// # Panics
    /// If `limit` is zero.
    fn call_timeout(self, limit: Duration) -> ServiceBuilder<Stack<CallTimeoutLayer, L>>;
}

impl<L> ServiceBuilderExt<L> for ServiceBuilder<L> {
    #[track_caller]
    fn item_timeout(self, limit: Duration) -> ServiceBuilder<Stack<ItemTimeoutLayer, L>> {
        self.layer(ItemTimeoutLayer::new(limit))
    }

    fn llm_retry<P>(self, policy: P) -> ServiceBuilder<Stack<RetryLayer<P>, L>> {
        self.layer(RetryLayer::new(policy))
    }

    fn rate_limiter(self, limiter: RateLimiter) -> ServiceBuilder<Stack<RateLimiterLayer, L>> {
        self.layer(RateLimiterLayer::new(limiter))
    }

    fn token_accounting(self, ledger: TokenLedger) -> ServiceBuilder<Stack<TokenAccountingLayer, L>> {
        self.layer(TokenAccountingLayer::new(ledger))
    }

    #[track_caller]
    fn call_timeout(self, limit: Duration) -> ServiceBuilder<Stack<CallTimeoutLayer, L>> {
        self.layer(CallTimeoutLayer::new(limit))
    }
}

mod sealed {
    use tower::ServiceBuilder;

    pub trait Sealed<L> {}

    impl<L> Sealed<L> for ServiceBuilder<L> {}
}
