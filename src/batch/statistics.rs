//! The running accounts of a batch.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

use super::summary::{BatchSummary, FailureGroup, Percentiles};
use super::termination::Termination;
use crate::error::ErrorKind;
use crate::item::{ClosedItem, Item, ItemId, Waits};
use crate::layer::rate_limiter::LearnedLimit;
use crate::usage::TokenUsage;
use crate::usd::Usd;

/// Ids kept per kind of failure.
const FIRST_IDS: usize = 5;

/// The longest time that the percentiles distinguish: a day, in microseconds.
const LONGEST: u64 = 24 * 60 * 60 * 1_000_000;

#[derive(Clone, Default)]
pub(super) struct Statistics {
    started: Option<Instant>,
    ended: Option<Instant>,
    termination: Option<Termination>,
    expected: Option<u64>,
    not_reached: Option<u64>,
    accepted: u64,
    succeeded: u64,
    failures: BTreeMap<ErrorKind, Failures>,
    attempts: u64,
    calls: u64,
    throttled_calls: u64,
    learned: Option<LearnedLimit>,
    unknown_usage_calls: u64,
    usage: TokenUsage,
    cost: Usd,
    unknown_cost_calls: u64,
    waits: Waits,
    call_time: Duration,
    item_time: Duration,
    untaken_time: Duration,
    // Disjoint, by start.
    pauses: Vec<(Instant, Instant)>,
    wait_times: Times,
    call_times: Times,
}

#[derive(Clone, Default)]
struct Failures {
    count: u64,
    first_ids: Vec<ItemId>,
}

/// Durations in microseconds to 1 %, in about 30 KiB once the first is recorded.
#[derive(Clone, Default)]
struct Times(Option<Histogram<u64>>);

impl Times {
    fn record(&mut self, time: Duration) {
        if self.0.is_none() {
            // The bounds are constants within what the histogram takes.
            self.0 = Histogram::new_with_bounds(1, LONGEST, 2).ok();
        }
        if let Some(histogram) = &mut self.0 {
            histogram.saturating_record(u64::try_from(time.as_micros()).unwrap_or(LONGEST));
        }
    }

    fn percentiles(&self) -> Option<Percentiles> {
        let histogram = self.0.as_ref()?;
        let at = |quantile| {
            let value = histogram.value_at_quantile(quantile);
            Duration::from_micros(histogram.median_equivalent(value))
        };
        Some(Percentiles {
            p50: at(0.50),
            p95: at(0.95),
            p99: at(0.99),
        })
    }
}

impl Statistics {
    pub(super) fn start(&mut self, now: Instant) {
        self.started = Some(now);
    }

    /// Records the cause of the batch's end unless one is recorded already.
    pub(super) fn terminate(&mut self, cause: Termination) {
        self.termination.get_or_insert(cause);
    }

    pub(super) fn termination(&self) -> Option<Termination> {
        self.termination
    }

    pub(super) fn end(&mut self, now: Instant) {
        self.ended.get_or_insert(now);
    }

    /// Sets the upper bound on the items that the source still has, if known.
    pub(super) fn set_remaining(&mut self, (_, upper): (usize, Option<usize>)) {
        self.expected = upper.map(|left| self.accepted.saturating_add(left as u64));
    }

    /// Returns `true` if the source reports that it has no more items.
    pub(super) fn is_source_exhausted(&self) -> bool {
        self.expected == Some(self.accepted)
    }

    /// The source was dropped before its end; its size hint was this.
    pub(super) fn set_not_reached(&mut self, (lower, upper): (usize, Option<usize>)) {
        self.not_reached = upper.filter(|upper| *upper == lower).map(|left| left as u64);
    }

    pub(super) fn accept(&mut self) {
        self.accepted += 1;
    }

    /// An item has its outcome; `failure` is its kind if it failed.
    pub(super) fn finish(&mut self, item: &Item, closed: &ClosedItem, failure: Option<ErrorKind>) {
        let report = &closed.report;
        match failure {
            None => self.succeeded += 1,
            Some(kind) => {
                let failures = self.failures.entry(kind).or_default();
                failures.count += 1;
                if failures.first_ids.len() < FIRST_IDS {
                    failures.first_ids.push(item.id().clone());
                }
            }
        }
        self.attempts += u64::from(report.attempts);
        self.calls += u64::from(report.calls);
        self.throttled_calls += u64::from(report.throttled_calls);
        self.unknown_usage_calls += u64::from(report.unknown_usage_calls);
        self.usage += report.usage;
        self.cost += report.cost;
        self.unknown_cost_calls += u64::from(report.unknown_cost_calls);
        if !closed.waited.is_zero() {
            for (reason, time) in report.waits.iter() {
                self.waits.add(reason, time);
            }
        }
        // The latest; of several gates the one with the most rejections.
        if let Some(learned) = closed.learned
            && self
                .learned
                .is_none_or(|known| known.rejections <= learned.rejections)
        {
            self.learned = Some(learned);
        }
        self.call_time = self.call_time.saturating_add(report.call_time);
        self.item_time = self.item_time.saturating_add(report.total_time);
        self.wait_times.record(closed.waited);
        let mut timed = false;
        for time in closed.call_times() {
            timed = true;
            self.call_times.record(time);
        }
        if !timed && report.calls > 0 {
            self.call_times.record(report.call_time);
        }
        for pause in &closed.cooldowns {
            merge(&mut self.pauses, *pause);
        }
    }

    /// A finished item waited this long to be taken.
    pub(super) fn taken_after(&mut self, time: Duration) {
        self.untaken_time = self.untaken_time.saturating_add(time);
    }

    pub(super) fn summary(&self, concurrency: usize) -> BatchSummary {
        let failed = self.failures.values().map(|failures| failures.count).sum();
        let elapsed = match (self.started, self.ended) {
            (Some(started), Some(ended)) => ended.saturating_duration_since(started),
            (Some(started), None) => started.elapsed(),
            (None, _) => Duration::ZERO,
        };
        let mut failures: Vec<_> = self
            .failures
            .iter()
            .map(|(kind, failures)| FailureGroup {
                kind: *kind,
                count: failures.count,
                first_ids: failures.first_ids.clone(),
            })
            .collect();
        failures.sort_by_key(|group| std::cmp::Reverse(group.count));
        BatchSummary {
            termination: self.termination,
            expected: self.expected,
            accepted: self.accepted,
            succeeded: self.succeeded,
            failed,
            in_flight: self.accepted - self.succeeded - failed,
            not_reached: self.not_reached,
            failures,
            concurrency: concurrency as u64,
            attempts: self.attempts,
            calls: self.calls,
            throttled_calls: self.throttled_calls,
            learned: self.learned,
            unknown_usage_calls: self.unknown_usage_calls,
            usage: self.usage,
            cost: self.cost,
            unknown_cost_calls: self.unknown_cost_calls,
            elapsed,
            items_per_second: rate(self.succeeded + failed, elapsed),
            item_time: self.item_time,
            call_time: self.call_time,
            waits: self.waits,
            untaken_time: self.untaken_time,
            paused: self.pauses.iter().map(|(since, until)| *until - *since).sum(),
            call_percentiles: self.call_times.percentiles(),
            wait_percentiles: self.wait_times.percentiles(),
        }
    }
}

fn rate(count: u64, elapsed: Duration) -> f64 {
    if elapsed.is_zero() {
        return 0.0;
    }
    count as f64 / elapsed.as_secs_f64()
}

/// Adds an interval to disjoint ones sorted by start, merging those it touches.
fn merge(intervals: &mut Vec<(Instant, Instant)>, (mut since, mut until): (Instant, Instant)) {
    let first = intervals.partition_point(|(_, end)| *end < since);
    let last = intervals.partition_point(|(start, _)| *start <= until);
    for (start, end) in &intervals[first..last] {
        since = since.min(*start);
        until = until.max(*end);
    }
    intervals.splice(first..last, [(since, until)]);
}
