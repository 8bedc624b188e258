//! The recommended stack as one layer.

use std::fmt;
use std::sync::{Arc, Once};
use std::task::{Context, Poll};
use std::time::Duration;

use tower::retry::Retry;
use tower_layer::{Identity, Layer, Stack};
use tower_service::Service;

use super::rate_limiter::{RateLimited, RateLimiter, RateLimiterLayer};
use super::retry::RetryPolicy;
use super::timeout::{CallTimeout, CallTimeoutLayer, ItemTimeout, ItemTimeoutLayer};
use super::token_accounting::{TokenAccounting, TokenAccountingLayer, TokenLedger};
use crate::events::Events;
use crate::request::{CharacterEstimate, InRequest};

const CALL_TIMEOUT: Duration = Duration::from_secs(600);

/// The recommended stack: item timeout, retry, rate limiter, token accounting, call timeout, from the outside in.
///
/// All services of one layer and its clones share one limiter and one ledger. For a strategy of another
/// account or model create another layer. For other options (a gate per model, separate accounts) compose the layers with
/// [`ServiceBuilder`](tower::ServiceBuilder) as the [crate documentation](crate) shows.
///
/// | part | default |
/// |---|---|
/// | [item timeout](Self::with_item_timeout) | none: a long wait for the gate ends no item |
/// | [retry](Self::with_max_attempts) | 3 attempts, 20 throttles |
/// | [classifier](Self::with_classifier) | [`KindClassifier`](crate::KindClassifier) |
/// | [layers around attempts](Self::with_attempt_layer) | none; the place for a budget |
/// | [rate limiter](Self::with_limiter) | no quotas; cools down and paces when the provider throttles |
/// | [estimate](Self::with_estimate) of tokens, for a token quota | [`CharacterEstimate`] |
/// | [layers around calls](Self::with_call_layer) | none |
/// | [ledger](Self::with_ledger) | a new one |
/// | prices (`with_prices`, feature `prices`) | none |
/// | [call timeout](Self::with_call_timeout) | 600 s, as in OpenAI's own clients |
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
///
/// The type parameters (retry policy, estimate, layers around attempts, layers around calls) are set by methods and
/// rarely written: a function may return `StandardLayer` if none was changed, and
/// `impl Layer<S, Service = ..>` otherwise.
#[derive(Clone)]
pub struct StandardLayer<P = RetryPolicy, E = CharacterEstimate, A = Identity, B = Identity> {
    settings: Settings,
    policy: P,
    estimate: E,
    around_attempts: A,
    around_calls: B,
}

/// The settings without a type parameter.
#[derive(Clone)]
struct Settings {
    item_timeout: Option<Duration>,
    call_timeout: Option<Duration>,
    /// The user's own limiter, whose settings are not changed.
    own_limiter: bool,
    limiter: RateLimiter,
    ledger: TokenLedger,
    name: Option<Arc<str>>,
    events: Option<Events>,
    #[cfg(feature = "prices")]
    prices: Option<crate::price::PriceTable>,
    warned: Arc<Once>,
}

impl Settings {
    /// Makes the default limiter use the configured name and events.
    fn name_limiter(&mut self) {
        if self.own_limiter {
            return;
        }
        let mut builder = RateLimiter::builder();
        if let Some(name) = &self.name {
            builder = builder.name(Arc::clone(name));
        }
        if let Some(events) = &self.events {
            builder = builder.events(events);
        }
        // Without quotas the settings are always valid.
        self.limiter = builder.build().unwrap_or_default();
    }

    /// Warns once about a call timeout that can never fire because of the item timeout. Default values do not cause a warning.
    fn check_timeouts(&self) {
        if let (Some(call_timeout), Some(item_timeout)) = (self.call_timeout, self.item_timeout)
            && call_timeout > item_timeout
        {
            self.warned.call_once(|| {
                tracing::warn!(
                    ?call_timeout,
                    ?item_timeout,
                    "the call timeout is above the item timeout and never fires; raise with_item_timeout"
                );
            });
        }
    }

    fn accounting(&self) -> TokenAccountingLayer {
        let mut accounting = TokenAccountingLayer::new(self.ledger.clone());
        #[cfg(feature = "prices")]
        if let Some(prices) = &self.prices {
            accounting = accounting.prices(prices.clone());
        }
        if let Some(events) = &self.events {
            accounting = accounting.events(events);
        }
        if let Some(name) = &self.name {
            accounting = accounting.name(name);
        }
        accounting
    }
}

impl StandardLayer {
    /// Creates the stack with its defaults.
    pub fn new() -> Self {
        Self {
            settings: Settings {
                item_timeout: None,
                call_timeout: None,
                own_limiter: false,
                limiter: RateLimiter::default(),
                ledger: TokenLedger::new(),
                name: None,
                events: None,
                #[cfg(feature = "prices")]
                prices: None,
                warned: Arc::new(Once::new()),
            },
            policy: RetryPolicy::new(3),
            estimate: CharacterEstimate,
            around_attempts: Identity::new(),
            around_calls: Identity::new(),
        }
    }
}

impl<C, H, E, A, B> StandardLayer<RetryPolicy<C, InRequest, H>, E, A, B> {
    /// Sets the number of attempts of an item.
    ///
    /// # Panics
    /// If `max_attempts` is 0.
    #[must_use]
    #[track_caller]
    pub fn with_max_attempts(mut self, max_attempts: u32) -> Self {
        assert!(
            max_attempts > 0,
            "max_attempts must be at least 1: the first attempt counts"
        );
        self.policy = self.policy.max_attempts(max_attempts);
        self
    }

    /// Classifies outcomes by `classifier`, such as a closure `Fn(Result<&Res, &Err>) -> Verdict`, for the retries and the
    /// gate.
    ///
    /// ```
    /// use llm_batch::{Classify, Disposition, KindClassifier, LlmError, LlmResponse, StandardLayer, Verdict};
    ///
    /// let standard = StandardLayer::new().with_classifier(|outcome: Result<&LlmResponse, &LlmError>| match outcome {
    ///     Ok(response) if response.output.is_empty() => Verdict::new(Disposition::RetryNow),
    ///     outcome => KindClassifier.classify(outcome),
    /// });
    /// # let _ = standard;
    /// ```
    pub fn with_classifier<D>(self, classifier: D) -> StandardLayer<RetryPolicy<D, InRequest, H>, E, A, B> {
        self.map_policy(|policy| policy.classify_with(classifier))
    }

    fn map_policy<Q>(
        self,
        change: impl FnOnce(RetryPolicy<C, InRequest, H>) -> Q,
    ) -> StandardLayer<Q, E, A, B> {
        StandardLayer {
            settings: self.settings,
            policy: change(self.policy),
            estimate: self.estimate,
            around_attempts: self.around_attempts,
            around_calls: self.around_calls,
        }
    }
}

impl<P, E, A, B> StandardLayer<P, E, A, B> {
    /// Sets another retry policy: more throttles, another backoff, a hook. The gate uses its classifier too.
    pub fn with_retry<C, H>(
        self,
        policy: RetryPolicy<C, InRequest, H>,
    ) -> StandardLayer<RetryPolicy<C, InRequest, H>, E, A, B> {
        StandardLayer {
            settings: self.settings,
            policy,
            estimate: self.estimate,
            around_attempts: self.around_attempts,
            around_calls: self.around_calls,
        }
    }

    /// Estimates the tokens of a request by `estimate`, such as a closure `Fn(&Req) -> u64`: for a token quota with inputs
    /// other than [`Prompt`](crate::Prompt) or text.
    pub fn with_estimate<F>(self, estimate: F) -> StandardLayer<P, F, A, B> {
        StandardLayer {
            settings: self.settings,
            policy: self.policy,
            estimate,
            around_attempts: self.around_attempts,
            around_calls: self.around_calls,
        }
    }

    /// Adds `layer` between the retries and the gate: it sees each call before it waits for its quota and holds
    /// anything. This is the place for a budget that rejects calls it cannot pay for. Of several layers the first is the outermost.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// use llm_batch::{LlmError, LlmRequest, LlmResponse, StandardLayer};
    /// use tower::util::MapRequestLayer;
    /// use tower::{Layer, ServiceExt, service_fn};
    ///
    /// let standard = StandardLayer::new().with_attempt_layer(MapRequestLayer::new(|request: LlmRequest| {
    ///     println!("{}: attempt {}", request.id(), request.attempt());
    ///     request
    /// }));
    /// let strategy = service_fn(async |_: LlmRequest| Ok::<_, LlmError>(LlmResponse::new("42".to_owned())));
    /// standard.layer(strategy).oneshot(LlmRequest::new("6 times 7?".into())).await.unwrap();
    /// # }
    /// ```
    pub fn with_attempt_layer<L>(self, layer: L) -> StandardLayer<P, E, Stack<L, A>, B> {
        StandardLayer {
            settings: self.settings,
            policy: self.policy,
            estimate: self.estimate,
            around_attempts: Stack::new(layer, self.around_attempts),
            around_calls: self.around_calls,
        }
    }

    /// Adds `layer` between the gate and the accounting: it sees each call that the gate has admitted. A call that it rejects is
    /// neither sent nor accounted. Its own time counts against the gate's cap on calls in flight, not against the call
    /// timeout; for a layer inside that, wrap the strategy. Of several layers the first is the outermost.
    pub fn with_call_layer<L>(self, layer: L) -> StandardLayer<P, E, A, Stack<L, B>> {
        StandardLayer {
            settings: self.settings,
            policy: self.policy,
            estimate: self.estimate,
            around_attempts: self.around_attempts,
            around_calls: Stack::new(layer, self.around_calls),
        }
    }

    /// Sets the time limit of an item, over every call and every wait. None by default: in a large batch an item may wait for
    /// hours until the provider's limit lets it start, and its calls, attempts and throttles are limited each.
    ///
    /// # Panics
    /// If `limit` is zero.
    #[must_use]
    #[track_caller]
    pub fn with_item_timeout(mut self, limit: Duration) -> Self {
        assert!(!limit.is_zero(), "the item timeout must be above zero");
        self.settings.item_timeout = Some(limit);
        self
    }

    /// Sets the time limit of one call. A limit above the item timeout never fires, which is logged once as a warning.
    ///
    /// # Panics
    /// If `limit` is zero.
    #[must_use]
    #[track_caller]
    pub fn with_call_timeout(mut self, limit: Duration) -> Self {
        assert!(!limit.is_zero(), "the call timeout must be above zero");
        self.settings.call_timeout = Some(limit);
        self
    }

    /// Sets the limiter, with the quotas of the account and model. Other stacks may use clones of the handle
    /// and then share the scope.
    #[must_use]
    pub fn with_limiter(mut self, limiter: RateLimiter) -> Self {
        self.settings.limiter = limiter;
        self.settings.own_limiter = true;
        self
    }

    /// Sets the ledger that counts the calls.
    #[must_use]
    pub fn with_ledger(mut self, ledger: TokenLedger) -> Self {
        self.settings.ledger = ledger;
        self
    }

    /// Sets the prices for calls whose provider does not report a cost. See
    /// [`TokenAccountingLayer::prices`](super::token_accounting::TokenAccountingLayer::prices).
    #[cfg(feature = "prices")]
    #[cfg_attr(docsrs, doc(cfg(feature = "prices")))]
    #[must_use]
    pub fn with_prices(mut self, table: crate::price::PriceTable) -> Self {
        self.settings.prices = Some(table);
        self
    }

    /// Sets the name of retries, calls and the default gate in [metrics](crate::telemetry) and logs. `default` by default. Your own
    /// limiter has its own name, as it may be shared:
    /// [`RateLimiterBuilder::name`](super::rate_limiter::RateLimiterBuilder::name). Items take theirs from
    /// [`LlmBatch::name`](crate::LlmBatch::name).
    #[must_use]
    pub fn with_name(mut self, name: &str) -> Self {
        self.settings.name = Some(name.into());
        self.settings.name_limiter();
        self
    }

    /// Sends the events of retries, calls and the default gate to `events`. Your own limiter has its own setting, as
    /// it may be shared: [`RateLimiterBuilder::events`](super::rate_limiter::RateLimiterBuilder::events).
    #[must_use]
    pub fn with_events(mut self, events: &Events) -> Self {
        self.settings.events = Some(events.clone());
        self.settings.name_limiter();
        self
    }

    /// The limiter's handle, to take a snapshot, reopen it, or share it.
    pub const fn limiter(&self) -> &RateLimiter {
        &self.settings.limiter
    }

    /// The ledger's handle.
    pub const fn ledger(&self) -> &TokenLedger {
        &self.settings.ledger
    }
}

impl Default for StandardLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S, P, E, A, B> Layer<S> for StandardLayer<P, E, A, B>
where
    Self: sealed::Nest<S>,
{
    type Service = Standard<S, Self>;

    fn layer(&self, strategy: S) -> Self::Service {
        self.settings.check_timeouts();
        Standard {
            nested: sealed::Nest::nest(self, strategy),
        }
    }
}

impl<P: fmt::Debug, E, A, B> fmt::Debug for StandardLayer<P, E, A, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = &self.settings;
        f.debug_struct("StandardLayer")
            .field("item_timeout", &settings.item_timeout)
            .field("call_timeout", &settings.call_timeout.unwrap_or(CALL_TIMEOUT))
            .field("policy", &self.policy)
            .field("limiter", &settings.limiter)
            .field("ledger", &settings.ledger)
            .finish_non_exhaustive()
    }
}

mod sealed {
    /// The nesting of the layers around a strategy: not part of the public interface.
    pub trait Nest<S> {
        type Nested;

        fn nest(&self, strategy: S) -> Self::Nested;
    }
}

type Called<S, B> = <B as Layer<TokenAccounting<CallTimeout<S>>>>::Service;
type Admitted<S, C, E, B> = RateLimited<Called<S, B>, C, InRequest, E>;
type Attempted<S, C, E, A, B> = <A as Layer<Admitted<S, C, E, B>>>::Service;

impl<S, C, H, E, A, B> sealed::Nest<S> for StandardLayer<RetryPolicy<C, InRequest, H>, E, A, B>
where
    C: Clone,
    H: Clone,
    E: Clone,
    A: Layer<Admitted<S, C, E, B>>,
    B: Layer<TokenAccounting<CallTimeout<S>>>,
{
    type Nested = ItemTimeout<Retry<RetryPolicy<C, InRequest, H>, Attempted<S, C, E, A, B>>>;

    fn nest(&self, strategy: S) -> Self::Nested {
        let settings = &self.settings;
        let mut policy = self.policy.clone();
        if let Some(events) = &settings.events {
            policy = policy.events(events);
        }
        if let Some(name) = &settings.name {
            policy = policy.name(name);
        }
        let gate = RateLimiterLayer::new(settings.limiter.clone())
            .classify_with(policy.classifier().clone())
            .estimate_with(self.estimate.clone());
        let call_timeout = CallTimeoutLayer::new(settings.call_timeout.unwrap_or(CALL_TIMEOUT));
        // Too far away to be reached.
        let item_timeout = ItemTimeoutLayer::new(settings.item_timeout.unwrap_or(Duration::MAX));

        let called = settings.accounting().layer(call_timeout.layer(strategy));
        // The accounting inside begins every call.
        let admitted = gate
            .layer(self.around_calls.layer(called))
            .with_calls_begun_inside();
        let attempted = self.around_attempts.layer(admitted);
        // The gate refuses calls after a stop, and waits in its own future.
        item_timeout.layer(Retry::new(policy.with_calls_refused_inside(), attempted))
    }
}

/// The service that [`StandardLayer`] returns for a strategy `S`; its inner types may change.
///
/// ```
/// use llm_batch::layer::standard::Standard;
/// use llm_batch::BoxStrategy;
///
/// struct Application {
///     model: Standard<BoxStrategy>,
/// }
/// # let _ = |application: Application| application.model;
/// ```
pub struct Standard<S, L: sealed::Nest<S> = StandardLayer> {
    nested: L::Nested,
}

impl<S, L: sealed::Nest<S, Nested: Clone>> Clone for Standard<S, L> {
    fn clone(&self) -> Self {
        Self {
            nested: self.nested.clone(),
        }
    }
}

impl<S, L, Req> Service<Req> for Standard<S, L>
where
    L: sealed::Nest<S, Nested: Service<Req>>,
{
    type Response = <L::Nested as Service<Req>>::Response;
    type Error = <L::Nested as Service<Req>>::Error;
    type Future = <L::Nested as Service<Req>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.nested.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        self.nested.call(request)
    }
}

impl<S, L: sealed::Nest<S, Nested: fmt::Debug>> fmt::Debug for Standard<S, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Standard").field(&self.nested).finish()
    }
}
