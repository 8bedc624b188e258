//! The account of a batch, for people and for machines.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::bottleneck::{Bottleneck, BottleneckCause, FoundLimit, percent};
use super::termination::Termination;
use crate::error::ErrorKind;
use crate::item::{ItemId, WaitReason, Waits};
use crate::layer::rate_limiter::LearnedLimit;
use crate::usage::TokenUsage;
use crate::usd::Usd;

/// The account of a batch, returned by [`LlmBatch::summary`](crate::LlmBatch::summary) and
/// [`BatchHandle::statistics`](crate::BatchHandle::statistics).
///
/// `Display` is for people: a few aligned lines, the last of which is the [`Bottleneck`]; the alternate form (`{:#}`)
/// omits it.
/// Serde is for machines: durations are in seconds.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use futures::{StreamExt, stream};
/// use llm_batch::{BatchSummary, LlmError, LlmRequest, LlmResponse, LlmStreamExt};
/// use tower::service_fn;
///
/// let echo = service_fn(async |_: LlmRequest| Ok::<_, LlmError>(LlmResponse::new("hi".to_owned())));
/// let mut results = stream::iter(["a", "b"]).with_strategy(echo).llm_batch(2);
/// while results.next().await.is_some() {}
///
/// let summary = results.summary();
/// assert_eq!((summary.succeeded, summary.failed), (2, 0));
/// assert!(summary.to_string().starts_with("2 items: 2 succeeded, 0 failed"));
/// let json = serde_json::to_string(&summary).unwrap();
/// assert_eq!(serde_json::from_str::<BatchSummary>(&json).unwrap(), summary);
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct BatchSummary {
    /// The reason why the batch ended; `None` while it runs.
    pub termination: Option<Termination>,
    /// An upper bound on the number of items, if the source knows one.
    pub expected: Option<u64>,
    /// Items taken from the source.
    pub accepted: u64,
    /// Items with an answer.
    pub succeeded: u64,
    /// Items with an error.
    pub failed: u64,
    /// Items accepted and not yet done.
    pub in_flight: u64,
    /// After an early end: the number of items never taken from the source, if the source knows its length.
    pub not_reached: Option<u64>,
    /// The failed items by kind, most frequent first.
    pub failures: Vec<FailureGroup>,
    /// The number of items that may be in flight.
    pub concurrency: u64,
    /// Attempts of all finished items.
    pub attempts: u64,
    /// Physical requests of all finished items.
    pub calls: u64,
    /// The number of calls that were throttled.
    pub throttled_calls: u64,
    /// The provider's limit, as the gate has found it by the throttled calls: the last one known to an item that was throttled. Of several gates
    /// the one with the most rejections counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learned: Option<LearnedLimit>,
    /// The number of calls with unknown usage: each may have used tokens on top of `usage`.
    pub unknown_usage_calls: u64,
    /// Known usage over all calls, failed ones too.
    pub usage: TokenUsage,
    /// Known cost over all calls, failed ones too.
    pub cost: Usd,
    /// The number of calls with unknown cost: each may have cost something on top of `cost`.
    pub unknown_cost_calls: u64,
    /// From the first poll to the end, or to now.
    #[serde(with = "crate::serde_seconds")]
    pub elapsed: Duration,
    /// Finished items per second.
    pub items_per_second: f64,
    /// The sum over all finished items of the time from pick-up to outcome.
    #[serde(with = "crate::serde_seconds")]
    pub item_time: Duration,
    /// The part of `item_time` spent inside calls.
    #[serde(with = "crate::serde_seconds")]
    pub call_time: Duration,
    /// The parts of `item_time` spent waiting, by reason.
    pub waits: Waits,
    /// The sum of the times that finished items waited to be taken from the stream.
    #[serde(with = "crate::serde_seconds")]
    pub untaken_time: Duration,
    /// The time for which a closed gate held at least one item.
    #[serde(with = "crate::serde_seconds")]
    pub paused: Duration,
    /// The percentiles of the durations of calls, to 1 %.
    pub call_percentiles: Option<Percentiles>,
    /// The percentiles of the waits of items, over all reasons, to 1 %.
    pub wait_percentiles: Option<Percentiles>,
}

/// The failures of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FailureGroup {
    /// The kind.
    pub kind: ErrorKind,
    /// The number of items.
    pub count: u64,
    /// The ids of the first ones, five at most.
    pub first_ids: Vec<ItemId>,
}

/// The median and two tails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Percentiles {
    /// Half are below.
    #[serde(with = "crate::serde_seconds")]
    pub p50: Duration,
    /// 95 % are below.
    #[serde(with = "crate::serde_seconds")]
    pub p95: Duration,
    /// 99 % are below.
    #[serde(with = "crate::serde_seconds")]
    pub p99: Duration,
}

impl BatchSummary {
    /// Items that have their outcome.
    pub const fn finished(&self) -> u64 {
        self.succeeded + self.failed
    }

    /// The largest share of the items' time, and the setting that reduces it. `None` if no item succeeded, no call was made, no
    /// time passed, or the calls took the largest share and all items ran concurrently, so that no setting makes it faster.
    pub fn bottleneck(&self) -> Option<Bottleneck> {
        if self.calls == 0 || self.succeeded == 0 {
            return None;
        }
        // The time that no layer accounts for. Hedged calls and waits of one item overlap, so the parts may exceed the whole.
        let elsewhere = self
            .item_time
            .saturating_sub(self.call_time)
            .saturating_sub(self.waits.total());
        let waits = self.waits.iter();
        let (cause, time) = waits
            .map(|(reason, time)| (BottleneckCause::Waiting(reason), time))
            .chain([
                (BottleneckCause::Elsewhere, elsewhere),
                (BottleneckCause::Untaken, self.untaken_time),
                (BottleneckCause::Calls, self.call_time),
            ])
            .max_by_key(|(_, time)| *time)?;
        if cause == BottleneckCause::Calls && self.accepted <= self.concurrency {
            return None;
        }
        let percent = percent(time, self.item_time.saturating_add(self.untaken_time))?;
        let limit = self
            .learned
            .filter(|_| self.throttled_calls > 0)
            .and_then(|learned| FoundLimit::of(&learned, cause));
        (percent > 0).then_some(Bottleneck {
            cause,
            percent,
            limit,
        })
    }
}

impl fmt::Display for BatchSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} succeeded, {} failed",
            counted(self.accepted, "item"),
            grouped(self.succeeded),
            grouped(self.failed)
        )?;
        if self.in_flight > 0 {
            write!(f, ", {} in flight", grouped(self.in_flight))?;
        }
        if let Some(left) = self.not_reached {
            write!(f, ", {} not reached", grouped(left))?;
        }
        write!(f, " in {}", Seconds(self.elapsed))?;
        if self.items_per_second > 0.0 {
            write!(f, " ({}/s)", significant(self.items_per_second))?;
        }
        match self.termination {
            None | Some(Termination::Completed) => {}
            Some(cause) => write!(f, "; ended early: {cause}")?,
        }
        for group in &self.failures {
            write!(
                f,
                "\n  {:<10} {} {}: ",
                "failed",
                grouped(group.count),
                group.kind
            )?;
            for (position, id) in group.first_ids.iter().enumerate() {
                let comma = if position > 0 { ", " } else { "" };
                write!(f, "{comma}{id}")?;
            }
            if group.count > group.first_ids.len() as u64 {
                f.write_str(", ...")?;
            }
        }
        if self.calls > 0 {
            write!(f, "\n  {:<10} {}", "calls", grouped(self.calls))?;
            if self.throttled_calls > 0 {
                write!(f, ", {} throttled", grouped(self.throttled_calls))?;
            }
            write!(f, ", {} each on average", self.mean_call_time())?;
            if let Some(percentiles) = &self.call_percentiles {
                write!(f, " ({percentiles})")?;
            }
            write!(f, "\n  {:<10} ", "tokens")?;
            let unknown = self.unknown_usage_calls;
            if unknown < self.calls {
                write!(f, "{}", Tokens(&self.usage))?;
            }
            if unknown > 0 {
                let separator = if unknown < self.calls { "; " } else { "" };
                write!(f, "{separator}unknown for {}", counted(unknown, "call"))?;
            }
            let unknown = self.unknown_cost_calls;
            // Without prices the cost is unknown and is not shown.
            if self.cost > Usd::ZERO || (unknown == 0 && self.usage.total() > 0) {
                write!(f, "\n  {:<10} {}", "cost", self.cost)?;
                if unknown > 0 {
                    write!(f, "; unknown for {}", counted(unknown, "call"))?;
                }
            }
        }
        let total = self.waits.total();
        if !total.is_zero() {
            write!(f, "\n  {:<10} {} total", "waits", Seconds(total))?;
            if let Some(percentiles) = &self.wait_percentiles {
                write!(f, ", per item {percentiles}")?;
            }
            let mut reasons: Vec<_> = self.waits.iter().filter(|(_, time)| !time.is_zero()).collect();
            reasons.sort_by_key(|(_, time)| std::cmp::Reverse(*time));
            for (position, (reason, time)) in reasons.into_iter().enumerate() {
                let before = if position > 0 { ", " } else { "; " };
                let name = match reason {
                    WaitReason::Requests => "RPM",
                    WaitReason::Tokens => "TPM",
                    WaitReason::InFlight => "in flight",
                    WaitReason::Cooldown | WaitReason::Pace | WaitReason::Backoff => reason.as_str(),
                };
                write!(f, "{before}{name} {} %", percent(time, total).unwrap_or(0))?;
            }
        }
        if !self.paused.is_zero() {
            write!(f, "\n  {:<10} {}", "paused", Seconds(self.paused))?;
        }
        if let (Some(bottleneck), false) = (self.bottleneck(), f.alternate()) {
            write!(f, "\n{bottleneck}")?;
        }
        Ok(())
    }
}

impl BatchSummary {
    fn mean_call_time(&self) -> Seconds {
        let calls = u32::try_from(self.calls).unwrap_or(u32::MAX);
        Seconds(self.call_time.checked_div(calls).unwrap_or_default())
    }
}

impl fmt::Display for Percentiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50, p95, p99 } = self;
        write!(
            f,
            "p50 {}, p95 {}, p99 {}",
            Seconds(*p50),
            Seconds(*p95),
            Seconds(*p99)
        )
    }
}

/// Tokens by class, without the classes that are empty.
struct Tokens<'a>(&'a TokenUsage);

impl fmt::Display for Tokens<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let usage = self.0;
        write!(f, "{}: input {}", grouped(usage.total()), grouped(usage.input))?;
        match (usage.cached_input, usage.cache_write) {
            (0, 0) => {}
            (read, 0) => write!(f, " ({} cached)", grouped(read))?,
            (0, write) => write!(f, " ({} written to the cache)", grouped(write))?,
            (read, write) => write!(
                f,
                " ({} cached, {} written to the cache)",
                grouped(read),
                grouped(write)
            )?,
        }
        write!(f, ", output {}", grouped(usage.output))?;
        if usage.reasoning > 0 {
            write!(f, " ({} reasoning)", grouped(usage.reasoning))?;
        }
        Ok(())
    }
}

/// A duration in a suitable unit: `12 ms`, `3.4 s`, `5 min 20 s`, `2 h 5 min`.
pub(super) struct Seconds(pub(super) Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs_f64();
        if seconds == 0.0 {
            f.write_str("0 s")
        } else if seconds < 0.001 {
            write!(f, "{} us", significant(seconds * 1e6))
        } else if seconds < 0.9995 {
            write!(f, "{} ms", significant(seconds * 1e3))
        } else if seconds < 119.5 {
            write!(f, "{} s", significant(seconds))
        } else {
            let seconds = seconds.round() as u64;
            let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
            if hours > 0 {
                write!(f, "{hours} h {minutes} min")
            } else {
                write!(f, "{minutes} min {seconds} s")
            }
        }
    }
}

/// Three significant digits, without trailing zeros.
pub(super) fn significant(number: f64) -> String {
    let decimals = match number {
        n if n >= 99.95 => 0,
        n if n >= 9.995 => 1,
        _ => 2,
    };
    let text = format!("{number:.decimals$}");
    if decimals == 0 {
        return text;
    }
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// `1 item`, `1,234 items`.
pub(super) fn counted(count: u64, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", grouped(count))
}

/// `1,234,567`.
pub(super) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
