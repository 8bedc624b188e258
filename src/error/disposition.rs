//! What follows from the outcome of a call.

use serde::{Deserialize, Serialize};

/// What to do after a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Disposition {
    /// It worked.
    Success,
    /// Ask again at once: the answer was bad, not the service. Counts as an attempt.
    RetryNow,
    /// Try again after a backoff. Counts as an attempt.
    Backoff,
    /// The provider limits the rate: everyone who shares the gate pauses. Does not count as an attempt.
    Throttled,
    /// No try will cure it for this item.
    Fatal,
    /// No try will cure it for any item of this account and model: the gate latches.
    ScopeFatal,
}
