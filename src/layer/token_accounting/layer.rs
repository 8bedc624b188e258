//! The layer and its options.

use std::fmt;
use std::sync::Arc;

use tower_layer::Layer;

use super::{Prices, Shared, TokenAccounting, TokenLedger};
use crate::events::Events;
use crate::request::{InRequest, Untracked};
use crate::response::InResponse;
use crate::telemetry::Meter;

/// Records every physical call. See the [module](super).
///
/// Two type parameters have defaults and are changed by methods: the reader of the usage
/// ([`usage_with`](Self::usage_with)) and the look-up of the item ([`untracked`](Self::untracked)).
#[derive(Clone)]
pub struct TokenAccountingLayer<U = InResponse, F = InRequest> {
    ledger: TokenLedger,
    events: Option<Events>,
    meter: Meter,
    prices: Prices,
    usage: U,
    find: F,
}

impl TokenAccountingLayer {
    /// Records calls in `ledger`, and reads the usage from [`LlmResponse`](crate::LlmResponse) and
    /// [`LlmError`](crate::LlmError).
    pub fn new(ledger: TokenLedger) -> Self {
        Self {
            ledger,
            events: None,
            meter: Meter::new(None),
            prices: Prices::default(),
            usage: InResponse,
            find: InRequest,
        }
    }
}

impl<U, F> TokenAccountingLayer<U, F> {
    /// Sends the events of calls to `events`.
    #[must_use]
    pub fn events(mut self, events: &Events) -> Self {
        self.events = Some(events.clone());
        self
    }

    /// Sets the label `batch` of the [metrics](crate::telemetry). `default` by default.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.meter = Meter::new(Some(name));
        self
    }

    /// Computes the cost by `table` for calls whose provider does not report one, including failed calls with known usage: by the
    /// model that the strategy [recorded](crate::item::CallGuard::set_model), or else by the one that answered. The first call to a
    /// model that is not listed is logged as a warning.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// use llm_batch::layer::token_accounting::{TokenAccountingLayer, TokenLedger};
    /// use llm_batch::{LlmError, LlmRequest, LlmResponse, PriceTable, ResponseMetadata, TokenUsage};
    /// use tower::{ServiceBuilder, ServiceExt, service_fn};
    ///
    /// let prices = PriceTable::parse("models.answerer = { input = 2.0, output = 8.0 }").unwrap();
    /// let ledger = TokenLedger::new();
    /// let model = ServiceBuilder::new()
    ///     .layer(TokenAccountingLayer::new(ledger.clone()).prices(prices))
    ///     .service(service_fn(async |_: LlmRequest| {
    ///         let mut metadata = ResponseMetadata::default();
    ///         metadata.model = Some("answerer".to_owned());
    ///         let answer = LlmResponse::new("42".to_owned()).with_usage(TokenUsage::new(1_000, 500));
    ///         Ok::<_, LlmError>(answer.with_metadata(metadata))
    ///     }));
    /// model.oneshot(LlmRequest::new("6 times 7?".into())).await.unwrap();
    /// assert_eq!(ledger.snapshot().cost.to_string(), "$0.006");
    /// # }
    /// ```
    #[cfg(feature = "prices")]
    #[cfg_attr(docsrs, doc(cfg(feature = "prices")))]
    #[must_use]
    pub fn prices(mut self, table: crate::price::PriceTable) -> Self {
        self.prices = Prices::new(table);
        self
    }

    /// Reads the usage by `usage`, such as a closure `Fn(Result<&Res, &E>) -> Option<TokenUsage>`.
    pub fn usage_with<V>(self, usage: V) -> TokenAccountingLayer<V, F> {
        TokenAccountingLayer {
            ledger: self.ledger,
            events: self.events,
            meter: self.meter,
            prices: self.prices,
            usage,
            find: self.find,
        }
    }

    /// Makes it fit requests of other crates, which do not carry an item: ledger, metrics and span only.
    pub fn untracked(self) -> TokenAccountingLayer<U, Untracked> {
        TokenAccountingLayer {
            ledger: self.ledger,
            events: self.events,
            meter: self.meter,
            prices: self.prices,
            usage: self.usage,
            find: Untracked,
        }
    }
}

impl<S, U: Clone, F: Clone> Layer<S> for TokenAccountingLayer<U, F> {
    type Service = TokenAccounting<S, U, F>;

    fn layer(&self, inner: S) -> Self::Service {
        TokenAccounting {
            inner,
            shared: Arc::new(Shared {
                ledger: self.ledger.clone(),
                events: self.events.clone(),
                meter: self.meter.clone(),
                prices: self.prices.clone(),
            }),
            usage: self.usage.clone(),
            find: self.find.clone(),
        }
    }
}

impl<U, F> fmt::Debug for TokenAccountingLayer<U, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenAccountingLayer")
            .field("ledger", &self.ledger)
            .finish_non_exhaustive()
    }
}
