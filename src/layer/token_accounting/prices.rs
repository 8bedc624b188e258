//! The cost of a call.

#[cfg(feature = "prices")]
use std::sync::{Arc, Mutex, PoisonError};

use crate::item::CallGuard;
#[cfg(feature = "prices")]
use crate::price::{PriceTable, Rate};
#[cfg(feature = "prices")]
use crate::response::BilledApart;
use crate::response::ResponseMetadata;
use crate::usage::TokenUsage;
use crate::usd::Usd;

/// The maximum number of warnings about models without a price.
#[cfg(feature = "prices")]
const MOST_WARNED: usize = 32;

/// The source of the cost of calls.
#[derive(Clone, Default)]
pub(super) struct Prices {
    #[cfg(feature = "prices")]
    table: Option<PriceTable>,
    /// Models without a price that were already warned about.
    #[cfg(feature = "prices")]
    warned: Arc<Mutex<Vec<String>>>,
}

impl Prices {
    #[cfg(feature = "prices")]
    pub(super) fn new(table: PriceTable) -> Self {
        Self {
            table: Some(table),
            warned: Arc::default(),
        }
    }

    /// The cost of the call: the provider's figure, or else the table's. None if neither is known.
    pub(super) fn cost(
        &self,
        guard: Option<&CallGuard>,
        metadata: Option<&ResponseMetadata>,
        usage: Option<TokenUsage>,
    ) -> Option<Usd> {
        let reported = metadata.and_then(|metadata| metadata.cost);
        if let Some(cost) = reported.and_then(Usd::from_dollars) {
            return Some(cost);
        }
        let usage = usage?;
        if usage.total() == 0 {
            return Some(Usd::ZERO);
        }
        self.listed(guard, metadata, &usage)
    }

    #[cfg(not(feature = "prices"))]
    #[allow(clippy::unused_self)]
    fn listed(&self, _: Option<&CallGuard>, _: Option<&ResponseMetadata>, _: &TokenUsage) -> Option<Usd> {
        None
    }

    /// The table's figure: for the requested model, or else for the one that answered. So a user's price for the requested
    /// name counts even if the provider answers with a dated name.
    #[cfg(feature = "prices")]
    fn listed(
        &self,
        guard: Option<&CallGuard>,
        metadata: Option<&ResponseMetadata>,
        usage: &TokenUsage,
    ) -> Option<Usd> {
        let table = self.table.as_ref()?;
        let asked = guard.and_then(CallGuard::model);
        let asked = asked.as_ref().map(|(provider, model)| (&**provider, &**model));
        let answered = metadata.and_then(|metadata| {
            let provider = metadata.provider.as_deref();
            let provider = provider.or(asked.map(|(provider, _)| provider));
            Some((provider.unwrap_or_default(), metadata.model.as_deref()?))
        });
        // Token prices do not cover the whole cost.
        let apart = metadata.and_then(|metadata| metadata.extensions.get::<BilledApart>());
        if apart.is_some() {
            self.warn(asked.or(answered));
            return None;
        }
        let cost = [asked, answered]
            .into_iter()
            .flatten()
            .find_map(|(provider, model)| table.cost(provider, model, usage, Rate::Online));
        if cost.is_none() {
            self.warn(asked.or(answered));
        }
        cost
    }

    /// Warns about a model without a price, once.
    #[cfg(feature = "prices")]
    fn warn(&self, model: Option<(&str, &str)>) {
        let name = match model {
            Some((provider, model)) => format!("{provider}:{model}"),
            None => String::new(),
        };
        {
            let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
            if warned.len() >= MOST_WARNED || warned.contains(&name) {
                return;
            }
            warned.push(name.clone());
        }
        if name.is_empty() {
            tracing::warn!(
                "the cost of calls is not known: the strategy does not report which model it calls"
            );
        } else {
            tracing::warn!("the cost of calls to {name} is not known: the prices do not list what it used");
        }
    }
}
