//! The snapshot of a gate.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::learned::LearnedLimit;
use crate::error::ErrorKind;
use crate::item::WaitReason;

/// The state of a gate at one moment. Durations are in seconds in JSON.
///
/// `granted = returned + settled + in_flight` holds in every snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct RateLimiterSnapshot {
    /// The remaining time of the pause, if it is closed.
    #[serde(with = "crate::serde_seconds::option")]
    pub closed_for: Option<Duration>,
    /// The kind of failure that closed it, if it is closed.
    pub closed_by: Option<ErrorKind>,
    /// The kind of failure that latched it, if it is latched.
    pub latched: Option<ErrorKind>,
    /// Incremented with each pause, and when the gate is reopened.
    pub generation: u64,
    /// Calls that wait in its queue.
    pub waiting: usize,
    /// The wait reason of the first of them.
    pub waiting_for: Option<WaitReason>,
    /// Calls that were admitted and have not ended.
    pub in_flight: usize,
    /// The number of calls that may be in flight, if there is a cap.
    pub max_in_flight: Option<usize>,
    /// The pace, if starts are spaced.
    pub starts_per_second: Option<f64>,
    /// The provider's limit, once rejections have shown one. `None` with a [`Pace`](super::Pace) of one's own.
    pub learned: Option<LearnedLimit>,
    /// Requests that the request quotas allow to start now: the least of them.
    pub requests_available: Option<f64>,
    /// Tokens that the quotas of tokens allow to reserve now: the least of them; negative after a debt.
    pub tokens_available: Option<f64>,
    /// As before, of quotas of input tokens.
    pub input_tokens_available: Option<f64>,
    /// As before, of quotas of output tokens.
    pub output_tokens_available: Option<f64>,
    /// Grants given so far.
    pub granted: u64,
    /// Grants that were returned unused.
    pub returned: u64,
    /// Calls that have ended.
    pub settled: u64,
    /// Calls that were throttled.
    pub throttled: u64,
    /// The total time for which it was closed so far.
    #[serde(with = "crate::serde_seconds")]
    pub paused: Duration,
}
