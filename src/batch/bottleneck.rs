//! The largest share of a batch's time, and the setting that reduces it.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::summary::counted;
use crate::error::QuotaDimension;
use crate::item::WaitReason;
use crate::layer::rate_limiter::{LearnedLimit, LimitKind};

/// The activity that took most of the items' time: the last line of a [`BatchSummary`](super::BatchSummary), as a value.
///
/// `Display` is that line: the share, what it is, and the advice.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// use futures::{StreamExt, stream};
/// use llm_batch::batch::BottleneckCause;
/// use llm_batch::{LlmError, LlmRequest, LlmResponse, LlmStreamExt};
/// use tower::service_fn;
///
/// let slow = service_fn(async |_: LlmRequest| {
///     tokio::time::sleep(std::time::Duration::from_secs(1)).await;
///     Ok::<_, LlmError>(LlmResponse::new("hi".to_owned()))
/// });
/// let mut results = stream::iter(["a", "b"]).with_strategy(slow).llm_batch(1);
/// while results.next().await.is_some() {}
///
/// let bottleneck = results.summary().bottleneck().unwrap();
/// assert_eq!((bottleneck.percent, bottleneck.cause), (100, BottleneckCause::Calls));
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Bottleneck {
    /// The cause.
    pub cause: BottleneckCause,
    /// Its percentage, from 1 to 100, of the time that items ran and finished outcomes waited to be taken.
    pub percent: u8,
    /// The provider's limit that the time was lost to, if rejections have shown which it is: stating it avoids them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<FoundLimit>,
}

/// A limit of the provider that a gate has found. `Display` is a sentence without the advice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FoundLimit {
    /// Requests in a minute.
    #[non_exhaustive]
    RequestsPerMinute {
        /// About so many; at least 1.
        requests: u32,
        /// The number of rejected calls that it follows from.
        rejections: u64,
    },
    /// Calls at one time.
    #[non_exhaustive]
    CallsInFlight {
        /// About so many; at least 1.
        calls: usize,
        /// The number of rejected calls that it follows from.
        rejections: u64,
    },
}

impl FoundLimit {
    /// The limit behind a loss of time, if it is one that a setting can state.
    pub(super) fn of(learned: &LearnedLimit, cause: BottleneckCause) -> Option<Self> {
        let rejections = learned.rejections;
        let BottleneckCause::Waiting(reason) = cause else {
            return None;
        };
        let is_of_the_pace = match reason {
            WaitReason::Cooldown | WaitReason::Pace => true,
            WaitReason::InFlight => learned.max_in_flight.is_some(),
            WaitReason::Requests | WaitReason::Tokens | WaitReason::Backoff => false,
        };
        match learned.kind {
            _ if !is_of_the_pace || !learned.confirmed => None,
            // How many tokens a minute that is, is not known.
            LimitKind::Rate if learned.dimension == Some(QuotaDimension::Tokens) => None,
            LimitKind::Rate => {
                // Saturates.
                let requests = (learned.starts_per_second? * 60.0) as u32;
                (requests > 0).then_some(Self::RequestsPerMinute { requests, rejections })
            }
            LimitKind::InFlight => {
                let calls = learned.max_in_flight.filter(|calls| *calls > 0)?;
                Some(Self::CallsInFlight { calls, rejections })
            }
            LimitKind::Stray => None,
        }
    }
}

impl fmt::Display for FoundLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rejections = match self {
            Self::RequestsPerMinute { requests, rejections } => {
                let requests = counted(u64::from(*requests), "request");
                write!(f, "the provider's limit is about {requests} a minute")?;
                rejections
            }
            Self::CallsInFlight { calls, rejections } => {
                write!(
                    f,
                    "the provider takes about {} at once",
                    counted(*calls as u64, "call")
                )?;
                rejections
            }
        };
        write!(f, " (found by {})", counted(*rejections, "rejection"))
    }
}

/// The cause of spent time. `Display` names it without the advice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BottleneckCause {
    /// Inside calls.
    Calls,
    /// One of the waits that layers record.
    Waiting(WaitReason),
    /// Finished outcomes waited to be taken from the stream.
    Untaken,
    /// None of these: items were in the user's own layers, or waited for another item's answer (a cache) or for a
    /// strategy to be created ([`lazy`](crate::lazy)).
    Elsewhere,
}

impl BottleneckCause {
    /// The setting that reduces it, in the names of this library.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Calls => "raise the concurrency of llm_batch(n), or use a faster model",
            Self::Waiting(WaitReason::Cooldown) => {
                "set requests_per_minute and tokens_per_minute to the provider's limits, or request higher ones"
            }
            Self::Waiting(WaitReason::Requests) => "raise requests_per_minute or use a second key",
            Self::Waiting(WaitReason::Tokens) => {
                "raise tokens_per_minute, lower max_output_tokens or use a second key"
            }
            Self::Waiting(WaitReason::InFlight) => "raise max_in_flight",
            Self::Waiting(WaitReason::Pace) => {
                "let it start faster if the provider allows, or set its quotas so that it is not throttled"
            }
            Self::Waiting(WaitReason::Backoff) => "look at the failures first, then lower the backoff",
            Self::Untaken => {
                "do less between two outcomes, or hand them to another task; with in_order, set a reorder_buffer"
            }
            Self::Elsewhere => {
                "in layers of your own, waiting for another item's answer, or while a lazy strategy was made"
            }
        }
    }
}

impl fmt::Display for BottleneckCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Calls => "inside calls",
            Self::Waiting(WaitReason::Cooldown) => "waiting out throttles",
            Self::Waiting(WaitReason::Requests) => "waiting for RPM",
            Self::Waiting(WaitReason::Tokens) => "waiting for TPM",
            Self::Waiting(WaitReason::InFlight) => "waiting for the cap on calls in flight",
            Self::Waiting(WaitReason::Pace) => "waiting for the gate's pace",
            Self::Waiting(WaitReason::Backoff) => "backing off after failures",
            Self::Untaken => "finished and waiting to be taken",
            Self::Elsewhere => "elsewhere",
        })
    }
}

impl fmt::Display for Bottleneck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            cause,
            percent,
            limit,
        } = self;
        write!(f, "{percent} % {cause}: ")?;
        match limit {
            None => f.write_str(cause.advice()),
            Some(found @ FoundLimit::RequestsPerMinute { requests, .. }) => {
                write!(f, "{found}; state it with requests_per_minute({requests})")
            }
            Some(found @ FoundLimit::CallsInFlight { calls, .. }) => {
                write!(f, "{found}; state it with max_in_flight({calls})")
            }
        }
    }
}

/// The part as a whole percentage.
pub(super) fn percent(part: Duration, whole: Duration) -> Option<u8> {
    (!whole.is_zero()).then(|| {
        (part.as_secs_f64() / whole.as_secs_f64() * 100.0)
            .round()
            .min(100.0) as u8
    })
}
