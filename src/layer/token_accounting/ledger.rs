//! The shared totals of calls and tokens.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::usage::TokenUsage;
use crate::usd::Usd;

/// Totals of calls and tokens, shared by all clones of this handle. Lock-free.
///
/// A ledger counts the calls of any number of batches, stacks and tasks, and outlives them.
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

/// The totals of a [`TokenLedger`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct LedgerSnapshot {
    /// Physical calls that have ended.
    pub calls: u64,
    /// The number of calls that failed or were cut.
    pub failed_calls: u64,
    /// The number of calls with unknown usage: each may have used tokens on top of `usage`.
    pub unknown_usage_calls: u64,
    /// Known usage over all calls, failed ones too.
    pub usage: TokenUsage,
    /// Known cost over all calls, failed ones too.
    pub cost: Usd,
    /// The number of calls with unknown cost: each may have cost something on top of `cost`.
    pub unknown_cost_calls: u64,
}

impl TokenLedger {
    /// Creates an empty ledger.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the totals. Every call in `calls` is in the other numbers too; a call that ends concurrently may already be in some of
    /// them. When no call is running they are exact.
    pub fn snapshot(&self) -> LedgerSnapshot {
        let totals = &*self.totals;
        let read = |total: &AtomicU64| total.load(Ordering::Relaxed);
        // Read first, with Acquire: a reader that sees a call sees its tokens, which are written before it.
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

    /// An identity that is equal for all clones and distinct from other ledgers.
    pub(super) fn address(&self) -> usize {
        Arc::as_ptr(&self.totals) as usize
    }

    pub(super) fn add(&self, failed: bool, usage: Option<TokenUsage>, cost: Option<Usd>) {
        let totals = &*self.totals;
        // Saturating, like the sums of items: absurd values from a provider must not wrap the totals.
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
