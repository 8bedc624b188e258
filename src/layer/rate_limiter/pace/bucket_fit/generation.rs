//! The evidence: the calls between two pauses.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::seconds;

/// The calls from one opening of the gate to the next.
#[derive(Clone, Debug)]
pub(super) struct Generation {
    pub(super) number: u64,
    pub(super) opened: Instant,
    pub(super) starts: u64,
    pub(super) rejected: u64,
    /// Those of calls that started after the one that closed the gate.
    pub(super) rejected_after: u64,
    /// Its length, the pause at its end included.
    pub(super) seconds: f64,
    /// Its densest stretch of accepted calls, less what the bucket may have held, in calls per second.
    pub(super) bound: f64,
    /// It was ended by overload, which says nothing about the bucket.
    pub(super) void: bool,
}

impl Generation {
    pub(super) const fn new(number: u64, opened: Instant) -> Self {
        Self {
            number,
            opened,
            starts: 0,
            rejected: 0,
            rejected_after: 0,
            seconds: 0.0,
            bound: 0.0,
            void: false,
        }
    }

    pub(super) const fn accepted(&self) -> f64 {
        self.starts.saturating_sub(self.rejected) as f64
    }

    pub(super) fn starts_per_second(&self, until: Instant) -> f64 {
        let time = seconds(self.opened, until);
        if time > 0.0 {
            self.starts as f64 / time
        } else {
            0.0
        }
    }
}

/// The times of some starts of the generation, and their ordinals.
#[derive(Clone, Debug, Default)]
pub(super) struct Marks(VecDeque<(Instant, u64)>);

/// The most marks that are kept.
const MOST: usize = 256;
/// All of the first starts are marked, ...
const FIRST: u64 = 8;
/// ... and then one in so many, ...
const EVERY: u64 = 4;
/// ... and none sooner than this after the last.
const APART: Duration = Duration::from_millis(50);
/// A stretch shorter than this, in seconds, says nothing about a rate.
const SHORTEST: f64 = 1.0;

impl Marks {
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn add(&mut self, at: Instant, ordinal: u64) {
        let due = self.0.back().is_none_or(|(last, marked)| {
            ordinal <= FIRST || (ordinal >= marked + EVERY && *last + APART <= at)
        });
        if due {
            if self.0.len() == MOST {
                self.0.pop_front();
            }
            self.0.push_back((at, ordinal));
        }
    }

    /// The time before which no start need be marked; `None` while every one counts.
    pub(super) fn next(&self) -> Option<Instant> {
        let (last, ordinal) = self.0.back()?;
        (*ordinal >= FIRST).then(|| *last + APART)
    }

    /// The rate of the densest stretch before a call that was rejected, for a bucket that may have held `burst` calls.
    pub(super) fn bound(&self, rejected: Instant, burst: f64) -> f64 {
        let until = self.0.partition_point(|(at, _)| *at <= rejected);
        let mut before = self.0.iter().take(until).rev();
        let Some(&(end, last)) = before.next() else {
            return 0.0;
        };
        before
            .map(|&(begin, ordinal)| (last.saturating_sub(ordinal) + 1, seconds(begin, end)))
            .filter(|(_, time)| *time >= SHORTEST)
            .map(|(calls, time)| (calls as f64 - burst) / time)
            .fold(0.0, f64::max)
    }
}
