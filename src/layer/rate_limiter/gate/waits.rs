//! The waits of the queue, with their times.

use std::collections::VecDeque;

use tokio::time::Instant;

use crate::item::{Item, WaitReason, Waits};
use crate::telemetry::Meter;

/// Pauses kept while calls wait: more than any waiter sees.
const PAUSES: usize = 1024;

/// The reasons that held the head of the queue over time. What a waiter waited for is the difference between two looks at it.
#[derive(Debug, Default)]
pub(in crate::layer::rate_limiter) struct Timeline {
    current: Option<(WaitReason, Instant)>,
    totals: Waits,
    pauses: VecDeque<(Instant, Instant)>,
}

/// The waits of one waiter.
#[derive(Debug)]
pub(in crate::layer::rate_limiter) struct Waited {
    waits: Waits,
    until: Instant,
    /// Those for a closed gate, one by one.
    pauses: Vec<(Instant, Instant)>,
}

impl Timeline {
    /// From now on the head is held for `reason`; `None` when no call waits.
    pub(in crate::layer::rate_limiter) fn held(&mut self, reason: Option<WaitReason>, now: Instant) {
        if let (Some((old, _)), Some(new)) = (self.current, reason)
            && old == new
        {
            return;
        }
        if let Some((old, since)) = self.current.take() {
            self.totals.add(old, now.saturating_duration_since(since));
            if old == WaitReason::Cooldown && now > since {
                self.pauses.push_back((since, now));
                if self.pauses.len() > PAUSES {
                    self.pauses.pop_front();
                }
            }
        }
        if reason.is_none() {
            self.pauses.clear();
        }
        self.current = reason.map(|reason| (reason, now));
    }

    /// Returns the reason for which the head waits.
    pub(in crate::layer::rate_limiter) fn reason(&self) -> Option<WaitReason> {
        self.current.map(|(reason, _)| reason)
    }

    /// All time waited up to now, by reason.
    pub(in crate::layer::rate_limiter) fn totals(&self, now: Instant) -> Waits {
        let mut totals = self.totals;
        if let Some((reason, since)) = self.current {
            totals.add(reason, now.saturating_duration_since(since));
        }
        totals
    }

    /// The waits of a call that came at `since`, when the totals were `mark`.
    pub(in crate::layer::rate_limiter) fn waited(
        &self,
        since: Instant,
        mark: &Waits,
        now: Instant,
    ) -> Box<Waited> {
        let totals = self.totals(now);
        let mut waits = Waits::default();
        for (reason, total) in totals.iter() {
            waits.add(reason, total.saturating_sub(mark.get(reason)));
        }
        let mut pauses = Vec::new();
        if !waits.cooldown.is_zero() {
            if let Some((WaitReason::Cooldown, from)) = self.current {
                pauses.push((from.max(since), now));
            }
            let earlier = self.pauses.iter().rev().take_while(|(_, until)| *until > since);
            pauses.extend(earlier.map(|(from, until)| ((*from).max(since), *until)));
        }
        Box::new(Waited {
            waits,
            until: now,
            pauses,
        })
    }
}

impl Waited {
    /// Writes it into the item's record and the metrics.
    pub(in crate::layer::rate_limiter) fn record(&self, item: Option<&Item>, meter: &Meter) {
        for (reason, time) in self.waits.iter() {
            if time.is_zero() {
                continue;
            }
            meter.waited(reason, time);
            if reason != WaitReason::Cooldown
                && let Some(item) = item
                && let Some(since) = self.until.checked_sub(time)
            {
                item.signals().add_wait(reason, since, self.until);
            }
        }
        for (since, until) in &self.pauses {
            if let Some(item) = item {
                item.signals().add_wait(WaitReason::Cooldown, *since, *until);
            }
        }
    }
}
