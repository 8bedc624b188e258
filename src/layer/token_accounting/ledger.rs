//! Totals over everything that shares a ledger.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::usage::TokenUsage;
use crate::usd::Usd;

/// Totals of calls and tokens over everything that has a clone of this handle. Lock-free.
///
/// A ledger counts calls, whichever batch, stack or task made them; it outlives them all.
#[derive(Clone, Default)]
pub struct TokenLedger {
    totals: Arc<Totals>,
}

#[derive(Default)]
struct Totals {
    calls: AtomicU64,
    failed_calls: AtomicU64,
    unknown_usage_calls: AtomicU64,
    input: AtomicU64,
    output: AtomicU64,
    cached_input: AtomicU64,
    cache_write: AtomicU64,
    cache_write_long: AtomicU64,
    reasoning: AtomicU64,
    nanodollars: AtomicU64,
    unknown_cost_calls: AtomicU64,
}

/// The counts of a [`TokenLedger`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct LedgerSnapshot {
    /// Physical calls that have ended.
    pub calls: u64,
    /// The number of them that failed or were cut.
    pub failed_calls: u64,
    /// The number of them with unknown usage: each may have cost something on top of `usage`.
    pub unknown_usage_calls: u64,
    /// Known usage over all calls, failed ones too.
    pub usage: TokenUsage,
    /// Known cost over all calls, failed ones too.
    pub cost: Usd,
    /// The number of calls with unknown cost: each may have cost something on top of `cost`.
    pub unknown_cost_calls: u64,
}

impl TokenLedger {
    /// An empty ledger.
    pub fn new() -> Self {
        Self::default()
    }

    /// The totals. Every call in `calls` is in the other numbers too; one that ends meanwhile may be in some of
    /// them already. Once nothing runs they are exact.
    pub fn snapshot(&self) -> LedgerSnapshot {
        let totals = &*self.totals;
        let read = |total: &AtomicU64| total.load(Ordering::Relaxed);
        // First, and Acquire: a reader that sees a call sees its tokens, which are written before it.
        let calls = totals.calls.load(Ordering::Acquire);
        let mut usage = TokenUsage::new(read(&totals.input), read(&totals.output));
        usage.cached_input = read(&totals.cached_input);
        usage.cache_write = read(&totals.cache_write);
        usage.cache_write_long = read(&totals.cache_write_long);
        usage.reasoning = read(&totals.reasoning);
        LedgerSnapshot {
            calls,
            failed_calls: read(&totals.failed_calls),
            unknown_usage_calls: read(&totals.unknown_usage_calls),
            usage,
            cost: Usd::from_nanos(read(&totals.nanodollars)),
            unknown_cost_calls: read(&totals.unknown_cost_calls),
        }
    }

    /// The same for all clones, and for no other ledger.
    pub(super) fn address(&self) -> usize {
        Arc::as_ptr(&self.totals) as usize
    }

    pub(super) fn add(&self, failed: bool, usage: Option<TokenUsage>, cost: Option<Usd>) {
        let totals = &*self.totals;
        // Saturating, as the sums of items are: a provider's nonsense must not wrap the totals.
        let add = |total: &AtomicU64, count: u64| {
            if count > 0 {
                let old = total.fetch_add(count, Ordering::Relaxed);
                if old.checked_add(count).is_none() {
                    total.store(u64::MAX, Ordering::Relaxed);
                }
            }
        };
        match usage {
            Some(usage) => {
                add(&totals.input, usage.input);
                add(&totals.output, usage.output);
                add(&totals.cached_input, usage.cached_input);
                add(&totals.cache_write, usage.cache_write);
                add(&totals.cache_write_long, usage.cache_write_long);
                add(&totals.reasoning, usage.reasoning);
            }
            None => add(&totals.unknown_usage_calls, 1),
        }
        match cost {
            Some(cost) => add(&totals.nanodollars, cost.nanos()),
            None => add(&totals.unknown_cost_calls, 1),
        }
        add(&totals.failed_calls, u64::from(failed));
        totals.calls.fetch_add(1, Ordering::Release);
    }
}

impl fmt::Debug for TokenLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TokenLedger").field(&self.snapshot()).finish()
    }
}
