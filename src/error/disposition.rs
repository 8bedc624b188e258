//! The action that follows the outcome of a call.

use serde::{Deserialize, Serialize};

/// The action after a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Disposition {
    /// The call succeeded.
    Success,
    /// Retry immediately: the answer was unusable, the service works. Counts as an attempt.
    RetryNow,
    /// Retry after a backoff. Counts as an attempt.
    Backoff,
    /// The provider throttled the call: all calls of the gate pause. Does not count as an attempt.
    Throttled,
    /// Retrying cannot help this item.
    Fatal,
    /// Retrying cannot help any item of this account and model: the gate latches.
    ScopeFatal,
}
