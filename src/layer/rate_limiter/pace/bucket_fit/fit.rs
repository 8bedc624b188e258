//! The estimate: the rate of the bucket, and the pace that follows from it.

use std::collections::VecDeque;

use super::generation::Generation;
use super::{Rejection, TRIPS};

/// The bucket, as far as it is known.
#[derive(Clone, Debug)]
pub(super) struct Fit {
    /// The last generations, in order.
    past: VecDeque<Generation>,
    /// Calls per second.
    rate: f64,
    /// The same by more calls, for others.
    measured: f64,
    /// Enough was accepted to know the rate.
    known: bool,
    /// The pace of the search until it is.
    search: f64,
    /// The most calls that the bucket may hold.
    burst: f64,
    /// The highest rate of the last minutes, and of the last hours.
    highest: f64,
    peak: f64,
    /// The share of a full hold that the estimates have earned.
    trust: f64,
    /// The last pause, in seconds.
    pause: f64,
}

/// The most generations that are kept.
const MOST: usize = 64;
/// An estimate needs so many accepted calls ...
const CALLS: f64 = 16.0;
/// ... and so many seconds.
const SECONDS: f64 = 1.0;
/// The rate for others needs so many times as many.
const LONG: f64 = 10.0;
/// The pace at the beginning of a hold, as a share of the rate: the bucket has to refill.
const BELOW: f64 = 0.97;
/// The pace at its end.
const ABOVE: f64 = 1.05;
/// A full hold of a rate of one call a second, in seconds. A rejection costs a call or two, and a raised limit that is not found
/// costs time: both balance at a hold that falls with the root of the rate.
const HOLD: f64 = 100.0;
/// A hold lasts so many pauses at least.
const PAUSES: f64 = 10.0;
/// The first hold of a rate that was found before lasts so many seconds at the most, or so many starts.
const FIRST: (f64, f64) = (10.0, 2.0);
/// It is wrong where more than half of at least so many calls are rejected.
const STARTS: u64 = 8;
/// The trust after estimates that differ.
const LOW: f64 = 0.2;
/// Estimates agree that differ by less than this.
const AGREE: f64 = 0.15;
/// The weight, as a power, of the pace at which a climb was rejected.
const CLIMB: f64 = 1.0 / 3.0;
/// A rate below the highest one divided by this has a shorter hold.
const FAR: f64 = 4.0;
/// A rate below the highest one of the last hours divided by this is hard to believe.
const VERY_FAR: f64 = 16.0;
/// Seconds in which the climb doubles, at the fastest.
const DOUBLING: f64 = 5.0;
/// Seconds in which the memory of the highest rate halves.
const MEMORY: f64 = 300.0;
const LONG_MEMORY: f64 = 3_600.0;
/// The slowest search, in calls per second: while nothing is accepted, and while little is.
const SLOWEST: (f64, f64) = (0.2, 0.1);

impl Default for Fit {
    fn default() -> Self {
        Self {
            past: VecDeque::new(),
            rate: 0.0,
            measured: 0.0,
            known: false,
            search: 1.0,
            burst: f64::INFINITY,
            highest: 0.0,
            peak: 0.0,
            trust: LOW,
            pause: 0.0,
        }
    }
}

/// Seconds in which a pace beyond the known one doubles, at the fastest.
pub(super) fn doubling(trip: f64) -> f64 {
    DOUBLING.max(TRIPS * trip)
}

impl Fit {
    pub(super) const fn rate(&self) -> f64 {
        self.rate
    }

    /// The rate by more calls than the pace waits for, which is steadier.
    pub(super) const fn measured(&self) -> f64 {
        self.measured
    }

    pub(super) const fn is_known(&self) -> bool {
        self.known
    }

    /// The last estimates agree.
    pub(super) fn is_confirmed(&self) -> bool {
        self.known && self.trust > LOW
    }

    pub(super) const fn burst(&self) -> f64 {
        self.burst
    }

    pub(super) fn generations(&mut self) -> impl Iterator<Item = &mut Generation> {
        self.past.iter_mut().rev()
    }

    /// Seconds for which the pace stays close to the rate.
    fn hold(&self) -> f64 {
        let whole = (HOLD / self.rate.max(SLOWEST.1).sqrt()).max(PAUSES * self.pause) * self.trust;
        // Far below what was accepted not long ago it is worth trying more often.
        whole * (FAR * self.rate / self.highest).min(1.0)
    }

    /// Returns `true` if far more was accepted not long ago.
    pub(super) fn is_low(&self) -> bool {
        self.known && VERY_FAR * self.rate < self.peak
    }

    /// Returns `true` if the pace has left what is known `clock` seconds after the opening.
    pub(super) fn is_climbing(&self, clock: f64) -> bool {
        self.known && clock > self.hold()
    }

    /// Returns `true` if the pace is still below the rate, `clock` seconds after the opening.
    pub(super) fn is_early(&self, clock: f64) -> bool {
        self.known && clock < self.hold() / 2.0
    }

    /// The limit is known from elsewhere.
    pub(super) fn set(&mut self, rate: f64) {
        // Nothing grows from zero.
        let rate = rate.max(SLOWEST.1);
        (self.rate, self.known, self.trust) = (rate, true, LOW);
        self.measured = rate;
    }

    /// The limit was found before: a rate, and the most that the bucket may hold if that is known.
    pub(super) fn start_with(&mut self, rate: f64, burst: Option<f64>) {
        self.set(rate);
        self.burst = burst.unwrap_or(f64::INFINITY);
        // A rate that is far too low is found soon.
        let hold = FIRST.0.max(FIRST.1 / rate);
        self.trust = LOW.min(hold * rate.max(SLOWEST.1).sqrt() / HOLD);
    }

    /// Starts per second, `clock` seconds after the opening.
    pub(super) fn pace(&self, clock: f64, trip: f64) -> f64 {
        if !self.known {
            return self.search * (clock / (TRIPS * trip).max(1e-3)).exp2();
        }
        let hold = self.hold();
        let share = if clock < hold {
            BELOW + (ABOVE - BELOW) * clock / hold
        } else {
            ABOVE * ((clock - hold) / doubling(trip).max(hold / 4.0)).exp2()
        };
        self.rate * share
    }

    /// The first rejection: so many calls were accepted at once that the bucket may have held all of them.
    pub(super) fn begin(&mut self, first: &Generation) {
        self.burst = first.accepted();
        self.search = (self.burst / 8.0).max(1.0);
    }

    /// The first generation has ended that began with a known rate, and with a bucket of which it is not known how full it was;
    /// `time` seconds from its opening it closed. Returns `false` if the rate is not known after all.
    pub(super) fn add_first(&mut self, ended: &Generation, rejection: &Rejection, time: f64) -> bool {
        let calls = ended.accepted();
        if ended.starts >= STARTS && calls < ended.starts as f64 / 2.0 {
            self.known = false;
            self.begin(ended);
            return false;
        }
        self.pause = ended.seconds - time;
        if calls < CALLS || time < SECONDS {
            // The next one shows more.
            self.past.push_back(ended.clone());
            return true;
        }
        // The rate stays as it is where the bucket may explain the difference.
        let most = calls / time;
        let least = if self.burst.is_finite() {
            ((calls - self.burst) / time).max(ended.bound)
        } else if rejection.climbing {
            most * (rejection.pace / most).max(1.0).powf(CLIMB)
        } else {
            0.0
        };
        let before = self.rate;
        self.rate = before.max(least).min(most.max(least));
        (self.measured, self.highest) = (self.rate, self.rate);
        self.trust_by(before);
        true
    }

    /// Estimates that agree earn a longer hold.
    fn trust_by(&mut self, before: f64) {
        let agrees = (self.rate / before - 1.0).abs() <= AGREE;
        self.trust = if agrees { (2.0 * self.trust).min(1.0) } else { LOW };
    }

    /// A generation has ended with `rejection` and the pause after it.
    pub(super) fn add(
        &mut self,
        ended: Generation,
        rejection: &Rejection,
        pause: f64,
        first: Option<&Generation>,
    ) {
        let (void, accepted, seconds) = (ended.void, ended.accepted() > 0.0, ended.seconds);
        if self.past.len() == MOST {
            self.past.pop_front();
        }
        self.past.push_back(ended);
        if void {
            return;
        }
        self.pause = pause;
        let (calls, time, bound) = self.evidence(CALLS, SECONDS);
        if time <= 0.0 {
            return;
        }
        if calls <= 0.0 {
            if time >= 2.0 {
                self.search = (self.search / 2.0).max(SLOWEST.0);
            }
            return;
        }
        let mut rate = (calls / time).max(bound);
        let (most_calls, longest, _) = self.evidence(LONG * CALLS, LONG * SECONDS);
        let long = (most_calls / longest.max(time)).clamp(rate * (1.0 - AGREE), rate * (1.0 + AGREE));
        self.measured = long;
        if accepted && (rejection.climbing || !self.known) && rejection.pace > rate {
            rate *= (rejection.pace / rate).powf(CLIMB);
        }
        self.known |= calls >= CALLS && time >= SECONDS;
        let before = std::mem::replace(&mut self.rate, rate);
        if accepted {
            self.trust_by(before);
        }
        self.highest = (self.highest * (-seconds / MEMORY).exp2()).max(rate);
        self.peak = (self.peak * (-seconds / LONG_MEMORY).exp2()).max(rate);
        if rate < self.highest / 2.0 {
            self.trust = LOW;
        }
        if !self.known {
            self.search = rate.max(SLOWEST.1);
        }
        if let Some(first) = first {
            self.burst = (first.accepted() - rate * first.seconds).max(1.0);
        }
    }

    /// The calls accepted in the last generations that are needed for so many calls and seconds, their time, and their highest bound.
    fn evidence(&self, least_calls: f64, least_time: f64) -> (f64, f64, f64) {
        let (mut calls, mut time, mut bound) = (0.0, 0.0, 0.0_f64);
        // A generation of which nothing was accepted is part of the pause before it.
        let mut blocked = 0.0;
        for generation in self.past.iter().rev().filter(|generation| !generation.void) {
            let accepted = generation.accepted();
            let seconds = generation.seconds + blocked;
            if accepted <= 0.0 {
                blocked = seconds;
                continue;
            }
            blocked = 0.0;
            // Of the oldest one no more than what is missing.
            let missing = ((least_calls - calls) / accepted).max((least_time - time) / seconds);
            let share = missing.clamp(0.0, 1.0);
            calls += share * accepted;
            time += share * seconds;
            bound = bound.max(generation.bound);
            if calls >= least_calls && time >= least_time {
                break;
            }
        }
        (calls, time + blocked, bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_nothing_still_climbs() {
        let mut fit = Fit::default();
        fit.set(0.0);
        assert!(fit.pace(0.0, 0.07) > 0.09);
        assert!(fit.pace(1_000.0, 0.07) > 1.0);
    }
}
