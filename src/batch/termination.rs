//! The reasons for the end of a batch.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The first cause of the end of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Termination {
    /// The source ended and every item has its outcome.
    Completed,
    /// The time limit of [`batch_timeout`](crate::LlmBatch::batch_timeout) passed.
    BatchTimeout,
    /// An item failed with a kind given to [`stop_when`](crate::LlmBatch::stop_when).
    FailFast,
    /// The future given to [`stop_on`](crate::LlmBatch::stop_on) completed, or
    /// [`BatchHandle::stop`](crate::BatchHandle::stop) or [`cancel`](crate::BatchHandle::cancel) was called.
    Stopped,
    /// The source panicked.
    SourcePanicked,
    /// The stream was dropped before its end.
    Dropped,
}

impl fmt::Display for Termination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Completed => "completed",
            Self::BatchTimeout => "the batch timeout passed",
            Self::FailFast => "an item failed with a kind that stops the batch",
            Self::Stopped => "the batch was stopped",
            Self::SourcePanicked => "the source panicked",
            Self::Dropped => "the batch was dropped",
        })
    }
}

/// The effect of a stop on the items in flight. In both modes nothing new starts and every accepted item has its outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StopMode {
    /// Items that wait (for a gate, a backoff) are aborted; calls under way finish and keep their result, since they
    /// are paid for. Bounded by the longest call, so set a call timeout.
    #[default]
    Drain,
    /// All items in flight are aborted. The provider may still bill their calls, which count as calls with unknown usage.
    Cancel,
}
