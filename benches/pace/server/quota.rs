//! Quotas of a provider, in seconds since the start of the run.

use std::collections::VecDeque;

use crate::scenario::{Quota, Scenario};

/// A ramped quota is looked at this often, as its refill changes with each call.
const STEP: f64 = 0.01;
/// The least refill of a ramped quota, per second.
const RAMP_FLOOR: f64 = 10.0;
const RAMP_MEMORY: f64 = 60.0;
/// Lost in rounding, at most.
const EPSILON: f64 = 1e-9;

pub(crate) struct QuotaState {
    quota: Quota,
    changes: Vec<(f64, f64)>,
    /// The rest, at the time `at`.
    level: f64,
    at: f64,
    /// The window of `at`.
    window: u64,
    /// Times of the calls accepted in the last minute, of a ramped quota.
    accepted: VecDeque<f64>,
}

impl QuotaState {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let level = match scenario.quota {
            Quota::Unlimited => f64::INFINITY,
            Quota::Bucket { burst, .. } | Quota::Ramp { burst, .. } => burst,
            Quota::Window { limit, .. } => limit as f64,
        };
        Self {
            quota: scenario.quota,
            changes: scenario.changes.clone(),
            level,
            at: 0.0,
            window: 0,
            accepted: VecDeque::new(),
        }
    }

    fn factor(&self, at: f64) -> f64 {
        let past = self.changes.iter().rev().find(|(from, _)| *from <= at);
        past.map_or(1.0, |(_, factor)| *factor)
    }

    /// The time of the first change after `at`.
    fn next_change(&self, at: f64) -> f64 {
        let next = self.changes.iter().find(|(from, _)| *from > at);
        next.map_or(f64::INFINITY, |(from, _)| *from)
    }

    fn refill(&self, at: f64) -> f64 {
        match self.quota {
            Quota::Unlimited | Quota::Window { .. } => 0.0,
            Quota::Bucket { per_second, .. } => per_second * self.factor(at),
            Quota::Ramp {
                per_second, growth, ..
            } => {
                let recent = self.accepted.len() as f64 / RAMP_MEMORY;
                (growth * recent).max(RAMP_FLOOR).min(per_second)
            }
        }
    }

    fn burst(&self, at: f64) -> f64 {
        match self.quota {
            Quota::Unlimited => f64::INFINITY,
            Quota::Bucket { burst, .. } => burst * self.factor(at),
            Quota::Ramp { burst, .. } => burst,
            Quota::Window { limit, .. } => limit as f64,
        }
    }

    /// The end of the window of `at`, and its number.
    fn window_of(&self, at: f64) -> (f64, u64) {
        let Quota::Window { seconds, first, .. } = self.quota else {
            return (f64::INFINITY, 0);
        };
        if at < first {
            return (first, 0);
        }
        let number = ((at - first) / seconds).floor();
        (first + (number + 1.0) * seconds, number as u64 + 1)
    }

    /// Brings the level up to `now`.
    pub(crate) fn advance(&mut self, now: f64) {
        match self.quota {
            Quota::Unlimited => {}
            Quota::Window { limit, .. } => {
                let (_, window) = self.window_of(now);
                if window != self.window {
                    (self.window, self.level) = (window, limit as f64);
                }
            }
            Quota::Bucket { .. } | Quota::Ramp { .. } => {
                while self.at < now {
                    let until = match self.quota {
                        Quota::Ramp { .. } => now.min(self.at + 10.0 * STEP),
                        _ => now.min(self.next_change(self.at)),
                    };
                    while self
                        .accepted
                        .front()
                        .is_some_and(|at| *at <= self.at - RAMP_MEMORY)
                    {
                        self.accepted.pop_front();
                    }
                    self.level += (until - self.at) * self.refill(self.at);
                    self.at = until;
                    self.level = self.level.min(self.burst(until));
                }
            }
        }
        self.at = self.at.max(now);
    }

    /// Whether the quota has this much. After [`advance`](Self::advance).
    pub(crate) fn has(&self, cost: f64) -> bool {
        self.level + EPSILON >= cost.min(self.burst(self.at))
    }

    /// Takes from the quota.
    pub(crate) fn take(&mut self, cost: f64) {
        self.level -= cost;
        if matches!(self.quota, Quota::Ramp { .. }) {
            self.accepted.push_back(self.at);
        }
    }

    /// A rejected call takes from the quota.
    pub(crate) fn count_rejected(&mut self) {
        self.level = (self.level - 1.0).max(-self.burst(self.at));
    }

    /// Seconds until it has this much, as things are now.
    pub(crate) fn wait(&self, cost: f64) -> f64 {
        match self.quota {
            Quota::Unlimited => 0.0,
            Quota::Window { .. } => self.window_of(self.at).0 - self.at,
            Quota::Bucket { .. } | Quota::Ramp { .. } => {
                (cost.min(self.burst(self.at)) - self.level).max(0.0) / self.refill(self.at)
            }
        }
    }

    /// Goes on to the first time from `at` on at which it has this much, and returns it.
    pub(crate) fn earliest(&mut self, at: f64, cost: f64) -> f64 {
        let mut at = at.max(self.at);
        loop {
            self.advance(at);
            if self.has(cost) {
                return at;
            }
            let wait = self.wait(cost).max(EPSILON);
            at = match self.quota {
                Quota::Ramp { .. } => at + wait.min(STEP),
                _ => (at + wait).min(self.next_change(at)),
            };
        }
    }

    /// For headers: the rest, the limit, and seconds until it is full.
    pub(crate) fn reported(&self) -> (f64, f64, f64) {
        let full = self.burst(self.at);
        let reset = match self.quota {
            Quota::Unlimited => 0.0,
            Quota::Window { .. } => (self.window_of(self.at).0 - self.at).ceil(),
            Quota::Bucket { .. } | Quota::Ramp { .. } => (full - self.level) / self.refill(self.at),
        };
        (self.level.max(0.0), full, reset)
    }
}
