//! The accounts of an item in its outcome.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::usage::TokenUsage;
use crate::usd::Usd;

/// The reason for a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WaitReason {
    /// The gate was closed after a throttle.
    Cooldown,
    /// The request quota (RPM).
    Requests,
    /// The token quota (TPM).
    Tokens,
    /// The gate's cap on calls in flight.
    InFlight,
    /// The gate's pacing of starts: the startup ramp, or the resume after a throttle.
    Pace,
    /// The backoff before a retry.
    Backoff,
}

impl WaitReason {
    /// All reasons, in the order of [`Waits::iter`].
    pub const ALL: [Self; 6] = [
        Self::Cooldown,
        Self::Requests,
        Self::Tokens,
        Self::InFlight,
        Self::Pace,
        Self::Backoff,
    ];

    /// The name in metrics and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cooldown => "cooldown",
            Self::Requests => "requests",
            Self::Tokens => "tokens",
            Self::InFlight => "in_flight",
            Self::Pace => "pace",
            Self::Backoff => "backoff",
        }
    }
}

/// Time waited, by reason. In JSON: seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Waits {
    /// The gate was closed after a throttle.
    #[serde(with = "crate::serde_seconds")]
    pub cooldown: Duration,
    /// The request quota (RPM).
    #[serde(with = "crate::serde_seconds")]
    pub requests: Duration,
    /// The token quota (TPM).
    #[serde(with = "crate::serde_seconds")]
    pub tokens: Duration,
    /// The gate's cap on calls in flight.
    #[serde(with = "crate::serde_seconds")]
    pub in_flight: Duration,
    /// The gate's pacing of starts.
    #[serde(with = "crate::serde_seconds")]
    pub pace: Duration,
    /// The backoff before a retry.
    #[serde(with = "crate::serde_seconds")]
    pub backoff: Duration,
}

impl Waits {
    /// Adds `time` to the wait for `reason`.
    pub fn add(&mut self, reason: WaitReason, time: Duration) {
        let slot = match reason {
            WaitReason::Cooldown => &mut self.cooldown,
            WaitReason::Requests => &mut self.requests,
            WaitReason::Tokens => &mut self.tokens,
            WaitReason::InFlight => &mut self.in_flight,
            WaitReason::Pace => &mut self.pace,
            WaitReason::Backoff => &mut self.backoff,
        };
        *slot = slot.saturating_add(time);
    }

    /// The time waited for one reason.
    pub const fn get(&self, reason: WaitReason) -> Duration {
        match reason {
            WaitReason::Cooldown => self.cooldown,
            WaitReason::Requests => self.requests,
            WaitReason::Tokens => self.tokens,
            WaitReason::InFlight => self.in_flight,
            WaitReason::Pace => self.pace,
            WaitReason::Backoff => self.backoff,
        }
    }

    /// Every reason with its time.
    pub fn iter(&self) -> impl Iterator<Item = (WaitReason, Duration)> + '_ {
        WaitReason::ALL
            .into_iter()
            .map(|reason| (reason, self.get(reason)))
    }

    /// The sum of all waits.
    pub fn total(&self) -> Duration {
        self.iter()
            .map(|(_, time)| time)
            .fold(Duration::ZERO, Duration::saturating_add)
    }
}

/// The accounts of one item over all its calls.
///
/// `usage` and `cost` hold the known part; each of the `unknown_usage_calls` and `unknown_cost_calls` may have added to the real
/// totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ItemReport {
    /// The number of attempts, which the retry budget counts, from 1. A throttled call does not advance it.
    pub attempts: u32,
    /// Physical requests.
    pub calls: u32,
    /// The number of throttled calls.
    pub throttled_calls: u32,
    /// Known usage over **all** calls, failed ones too.
    pub usage: TokenUsage,
    /// Calls whose usage is not known: cut, timed out, cancelled, or never observed.
    pub unknown_usage_calls: u32,
    /// Known cost over **all** calls, failed ones too: the provider's own figure, or else the cost by the accounting layer's price
    /// table.
    pub cost: Usd,
    /// Calls whose cost is unknown: their usage or the price of their model is unknown, or no price table was configured. The cost of
    /// a call that used nothing is known: zero.
    pub unknown_cost_calls: u32,
    /// Time waited, by reason.
    pub waits: Waits,
    /// Time inside calls.
    #[serde(with = "crate::serde_seconds")]
    pub call_time: Duration,
    /// The time from the start of a call to the first piece of its streamed answer, thoughts included; of the last call that got
    /// there. `None` if nothing was streamed.
    #[serde(
        skip_serializing_if = "Option::is_none",
        with = "crate::serde_seconds::option"
    )]
    pub time_to_first_token: Option<Duration>,
    /// From the moment the item was picked up to its outcome.
    #[serde(with = "crate::serde_seconds")]
    pub total_time: Duration,
}

impl ItemReport {
    /// Counts a call with unknown usage and cost.
    pub(super) fn add_unwatched(&mut self) {
        self.calls += 1;
        self.unknown_usage_calls += 1;
        self.unknown_cost_calls += 1;
    }
}
