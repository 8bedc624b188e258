//! Prices: the lists, the arithmetic, and the accounts that carry them.
#![allow(clippy::unwrap_used)]

mod accounts;
mod arithmetic;
mod lists;
mod lookup;

use llm_batch::price::{PriceTable, Rate};
use llm_batch::{TokenUsage, Usd};

/// A list in the form of LiteLLM's, with numbers of its own.
pub(crate) const PUBLIC: &str = include_str!("../data/prices.json");

pub(crate) fn public() -> PriceTable {
    PriceTable::parse(PUBLIC).unwrap()
}

pub(crate) fn usd(dollars: f64) -> Usd {
    Usd::from_dollars(dollars).unwrap()
}

/// Input, output, cached input, cache write, of it long, reasoning.
pub(crate) fn tokens(counts: [u64; 6]) -> TokenUsage {
    let mut usage = TokenUsage::new(counts[0], counts[1]);
    [
        usage.cached_input,
        usage.cache_write,
        usage.cache_write_long,
        usage.reasoning,
    ] = [counts[2], counts[3], counts[4], counts[5]];
    usage
}

/// What a call cost in dollars.
pub(crate) fn cost(table: &PriceTable, model: &str, counts: [u64; 6], rate: Rate) -> Option<f64> {
    let (provider, model) = model.split_once(':').unwrap();
    table
        .cost(provider, model, &tokens(counts), rate)
        .map(Usd::dollars)
}

/// What a million input tokens cost online, in dollars: tells which entry was found. Within no tier.
pub(crate) fn found(table: &PriceTable, provider: &str, model: &str) -> Option<f64> {
    table
        .cost(provider, model, &TokenUsage::new(100_000, 0), Rate::Online)
        .map(|cost| (cost.dollars() * 1e6).round() / 1e5)
}
