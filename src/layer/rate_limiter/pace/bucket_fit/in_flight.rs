//! The cap on calls in flight: found by rejections that come at one number of calls in flight only.

use super::fit::doubling;

/// The cap, and the votes for one.
#[derive(Clone, Debug, Default)]
pub(super) struct InFlightCap {
    cap: Option<Cap>,
    /// Rejections in a row that agree on a number of calls in flight. Negative after a cap that was wrong.
    votes: i32,
    level: usize,
    /// The rises of the number of other calls in flight in this generation, and the ordinals of the calls they came with.
    rises: Vec<(u64, usize)>,
}

#[derive(Clone, Copy, Debug)]
struct Cap {
    calls: usize,
    /// Seconds that it was reached since it was set or confirmed.
    clock: f64,
    /// The share of a full hold that it has earned.
    trust: f64,
}

/// So many rejections that agree set a cap.
const VOTES: i32 = 4;
/// A cap that was wrong needs so many more.
const WRONG: i32 = -4;
/// A rejection with fewer other calls in flight is not taken for one of a cap.
const FEWEST: usize = 3;
/// A rejection counts once this share of the places was taken anew.
const TURNOVER: f64 = 0.7;
/// Two numbers of calls in flight agree that differ by 1 and this share.
const AGREE: f64 = 0.05;
/// A rejection below this share of the cap shows that there is none.
const BELOW: f64 = 0.85;
/// The first cap is kept for this share of a full hold.
const LOW: f64 = 0.2;
/// Seconds for which a confirmed cap is kept before it is exceeded.
const HOLD: f64 = 20.0;

impl InFlightCap {
    /// The cap on calls in flight, where there is one; above it for a while now and then.
    pub(super) fn calls(&self, trip: f64) -> Option<usize> {
        let cap = self.cap?;
        let beyond = cap.clock - HOLD * cap.trust;
        if beyond <= 0.0 {
            return Some(cap.calls);
        }
        let raised = cap.calls as f64 * (beyond / doubling(trip)).exp2();
        // Saturates.
        Some((raised as usize).saturating_add(1))
    }

    /// The cap, as it was found.
    pub(super) fn known(&self) -> Option<usize> {
        self.cap.map(|cap| cap.calls)
    }

    /// The cap was found before.
    pub(super) fn start_with(&mut self, calls: usize) {
        self.cap = Some(Cap {
            calls,
            clock: 0.0,
            trust: LOW,
        });
    }

    pub(super) fn begin_generation(&mut self) {
        self.rises.clear();
    }

    /// A call starts.
    pub(super) fn start(&mut self, ordinal: u64, in_flight: usize) {
        let others = in_flight.saturating_sub(1);
        if self.rises.last().is_none_or(|(_, most)| others > *most) {
            self.rises.push((ordinal, others));
        }
    }

    /// `gap` seconds have passed between two starts.
    pub(super) fn advance(&mut self, in_flight: usize, gap: f64) {
        if let Some(cap) = &mut self.cap
            && in_flight >= cap.calls
        {
            cap.clock += gap;
        }
    }

    /// A call was rejected that had started with `others` in flight, and closed the gate.
    pub(super) fn vote(&mut self, ordinal: u64, others: usize) {
        let turned_over = ordinal as f64 >= (TURNOVER * others as f64).max(6.0);
        if let Some(cap) = &mut self.cap {
            if (others as f64) < BELOW * cap.calls as f64 {
                self.cap = None;
                self.votes = WRONG;
                return;
            }
            if turned_over {
                cap.calls = others;
                cap.trust = (2.0 * cap.trust).min(1.0);
            } else {
                cap.calls = cap.calls.min(others);
            }
            cap.clock = 0.0;
            return;
        }
        if others < FEWEST || !turned_over {
            return;
        }
        // More were accepted before: it is not a cap that rejects.
        let most = self.rises.iter().rev().find(|(at, _)| *at < ordinal);
        if most.is_some_and(|(_, most)| *most > others + 1) {
            self.votes = 0;
            return;
        }
        let agrees = others.abs_diff(self.level) as f64 <= 1.0 + AGREE * self.level as f64;
        if self.votes < 0 || (self.votes > 0 && agrees) {
            self.level = if self.votes < 0 {
                others
            } else {
                self.level.min(others)
            };
            self.votes += 1;
        } else {
            (self.votes, self.level) = (1, others);
        }
        if self.votes >= VOTES {
            self.cap = Some(Cap {
                calls: self.level,
                clock: 0.0,
                trust: LOW,
            });
            self.votes = 0;
        }
    }
}
