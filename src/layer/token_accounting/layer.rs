//! The layer and its options.

use std::fmt;
use std::sync::Arc;

use tower_layer::Layer;

use super::{Shared, TokenAccounting, TokenLedger};
use crate::events::Events;
use crate::item::{InRequest, Untracked};
use crate::response::InResponse;
use crate::telemetry::Meter;

/// Accounts every physical call. See the [module](super).
///
/// Two type parameters have defaults and are changed by methods: how the usage is read
/// ([`usage_with`](Self::usage_with)) and how the item is found ([`untracked`](Self::untracked)).
#[derive(Clone)]
pub struct TokenAccountingLayer<U = InResponse, F = InRequest> {
    ledger: TokenLedger,
    events: Option<Events>,
    meter: Meter,
    usage: U,
    find: F,
}

impl TokenAccountingLayer {
    /// Feeds `ledger`, and reads the usage that [`LlmResponse`](crate::LlmResponse) and
    /// [`LlmError`](crate::LlmError) carry.
    pub fn new(ledger: TokenLedger) -> Self {
        Self {
            ledger,
            events: None,
            meter: Meter::new(None),
            usage: InResponse,
            find: InRequest,
        }
    }
}

impl<U, F> TokenAccountingLayer<U, F> {
    /// Where to send the events of calls.
    #[must_use]
    pub fn events(mut self, events: &Events) -> Self {
        self.events = Some(events.clone());
        self
    }

    /// The label `batch` of the [metrics](crate::telemetry). `default` by default.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.meter = Meter::new(Some(name));
        self
    }

    /// Reads the usage by `usage`, such as a closure `Fn(Result<&Res, &E>) -> Option<TokenUsage>`.
    pub fn usage_with<V>(self, usage: V) -> TokenAccountingLayer<V, F> {
        TokenAccountingLayer {
            ledger: self.ledger,
            events: self.events,
            meter: self.meter,
            usage,
            find: self.find,
        }
    }

    /// For requests of other crates, which carry no item: ledger, metrics and span only.
    pub fn untracked(self) -> TokenAccountingLayer<U, Untracked> {
        TokenAccountingLayer {
            ledger: self.ledger,
            events: self.events,
            meter: self.meter,
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
