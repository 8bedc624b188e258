//! Token accounting, call metrics and the span of every call.
//!
//! [`TokenAccountingLayer`] belongs inside the retries and outside the call timeout, where it sees every physical
//! call: failed ones, cut ones, and those that end in a panic. Once per call, before any retry hook runs, it
//! - reports the usage to the item's record and a shared [`TokenLedger`];
//! - counts the call in the [metrics](crate::telemetry) and ends its `tracing` span `chat`;
//! - sends [`CallStarted`](crate::EventKind::CallStarted) and [`CallCompleted`](crate::EventKind::CallCompleted)
//!   or [`CallFailed`](crate::EventKind::CallFailed), if it was given [`Events`].
//!
//! A stack may have several such layers, each with its ledger: every ledger counts each call once, and the item's record,
//! the metrics, span and events report it once.
//!
//! The cost of a call is the provider's own figure ([`ResponseMetadata::cost`](crate::ResponseMetadata::cost)), or else
//! computed from the usage by the price table, if one was given (`TokenAccountingLayer::prices`, feature `prices`). A
//! call that used nothing costs nothing. The cost of any other call is unknown, and so is that of a call with usage that is not
//! billed as text tokens ([`BilledApart`](crate::response::BilledApart)): a search, or audio.
//!
//! The account has the usage that the provider billed for calls answered in full. A call that may have been billed but
//! was not answered is counted as one with unknown usage, which is not zero.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! use llm_batch::layer::token_accounting::{TokenAccountingLayer, TokenLedger};
//! use llm_batch::{LlmError, LlmRequest, LlmResponse, TokenUsage};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! let ledger = TokenLedger::new();
//! let model = ServiceBuilder::new()
//!     .layer(TokenAccountingLayer::new(ledger.clone()))
//!     .service(service_fn(async |_: LlmRequest| {
//!         Ok::<_, LlmError>(LlmResponse::new("42".to_owned()).with_usage(TokenUsage::new(10, 2)))
//!     }));
//! model.oneshot(LlmRequest::new("6 times 7?".into())).await.unwrap();
//! assert_eq!(ledger.snapshot().usage.total(), 12);
//! # }
//! ```
//!
//! # Errors
//! A call that may not begin (after a stop, or the item's deadline) is neither sent nor accounted. It fails with
//! [`CallRefused`](crate::item::CallRefused) if the error type is [`LlmError`](crate::LlmError) or [`BoxError`](crate::BoxError), so
//! that an agent can return its results so far. Another error type cannot express it: the future waits until the driver or the item
//! timeout ends the item.
//!
//! # Cancel safety
//! A future dropped before its end counts as a call with unknown usage, unless the strategy
//! had observed the usage already.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use tower_service::Service;

use crate::events::Events;
use crate::request::{FindItem, InRequest};
use crate::response::{InResponse, ReportsUsage};
use crate::telemetry::Meter;

mod call;
mod future;
mod layer;
mod ledger;
mod prices;

use call::Call;
pub use future::TokenAccountingFuture;
pub use layer::TokenAccountingLayer;
pub use ledger::{LedgerSnapshot, TokenLedger};
use prices::Prices;

/// Records every call; created by [`TokenAccountingLayer`].
#[derive(Clone)]
pub struct TokenAccounting<S, U = InResponse, F = InRequest> {
    inner: S,
    shared: Arc<Shared>,
    usage: U,
    find: F,
}

/// The destinations of an account.
struct Shared {
    ledger: TokenLedger,
    events: Option<Events>,
    meter: Meter,
    prices: Prices,
}

impl<S, U, F> TokenAccounting<S, U, F> {
    /// The ledger of the layer.
    pub fn ledger(&self) -> &TokenLedger {
        &self.shared.ledger
    }

    /// The service inside.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The service inside, mutably.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Takes the service out.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, U, F, Req> Service<Req> for TokenAccounting<S, U, F>
where
    S: Service<Req>,
    S::Error: 'static,
    U: ReportsUsage<S::Response, S::Error> + Clone,
    F: FindItem<Req>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = TokenAccountingFuture<S::Future, U>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Req) -> Self::Future {
        let claimed = match self.find.context_mut(&mut request) {
            Some(context) => match context.begin_claimed() {
                Ok(claimed) => Some(claimed),
                Err(refused) => {
                    let hold = context.hold();
                    return TokenAccountingFuture::refused(refused, hold, self.usage.clone());
                }
            },
            None => None,
        };
        // Begun before the call: a strategy that panics in `call` has been called.
        let call = Call::start(&self.shared, claimed);
        let future = {
            let _entered = call.enter();
            self.inner.call(request)
        };
        call.announce();
        TokenAccountingFuture::new(future, call, self.usage.clone())
    }
}

impl<S: fmt::Debug, U, F> fmt::Debug for TokenAccounting<S, U, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenAccounting")
            .field("inner", &self.inner)
            .field("ledger", &self.shared.ledger)
            .finish_non_exhaustive()
    }
}
