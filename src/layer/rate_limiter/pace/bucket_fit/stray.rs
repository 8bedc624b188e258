//! Rejections that do not depend on the rate: found by a trial, and lived with.

use tokio::time::Instant;

use super::seconds;

/// Tells rejections that come at random from those of a limit.
///
/// Rejections of a limit grow with the pace and end below it; others have the same share at any pace. Where the evidence for
/// a limit is odd, a short trial goes far above the estimate: a limit rejects most of it, chance as few as ever. Then
/// the pace climbs although calls are rejected, for as long as their share stays, and is lowered now and then to see whether
/// they end after all.
#[derive(Clone, Debug)]
pub(super) struct Stray {
    state: State,
    /// Generations in a row that ended early, at a pace below the estimate before.
    odd: u32,
    /// So many begin a trial.
    needed: u32,
    /// The estimate at the last trial, and at the last one that showed a limit.
    rate: f64,
    tried: f64,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Rejections are those of a limit.
    No,
    Trial(Trial),
    Yes(Tolerance),
}

#[derive(Clone, Copy, Debug)]
struct Trial {
    pace: f64,
    calls: u64,
    started: u64,
    rejected: u64,
    /// The last of its starts.
    last: Instant,
}

/// Rejections are tolerated while their share stays.
#[derive(Clone, Copy, Debug)]
struct Tolerance {
    pace: f64,
    /// The calls before the current ones: all of their rejections are known.
    before: Window,
    current: Window,
    /// The usual share of rejections.
    share: f64,
    /// Windows until the pace is lowered to see whether rejections end.
    until_test: u32,
    test_every: u32,
    test: Option<Test>,
}

/// Some calls in a row of one generation.
#[derive(Clone, Copy, Debug)]
struct Window {
    first: u64,
    opened: Instant,
    started: u64,
    rejected: u64,
    /// Seconds from its first start to the first one after it.
    seconds: f64,
}

#[derive(Clone, Copy, Debug)]
struct Test {
    /// The rate of accepted calls before it.
    accepted: f64,
    pace: f64,
    first: u64,
    /// So many calls without a rejection show a limit.
    calls: u64,
    rejected: bool,
}

/// The verdict that there is a limit: calls are accepted at this rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Limit(pub(super) f64);

/// So many odd generations in a row begin the first trial.
const ODD: u32 = 3;
/// An estimate that has fallen to this share since the last trial deserves another.
const FALLEN: f64 = 0.6;
/// A trial has so many calls at least, ...
const CALLS: f64 = 14.0;
/// ... and there is none that would need more, ...
const MOST_CALLS: f64 = 500.0;
/// ... and this pace at least, in calls per second; ...
const PACE: f64 = 50.0;
/// ... so far above the estimate.
const ABOVE: f64 = 8.0;
/// A larger share of a trial is rejected by a limit only.
const FEW: f64 = 0.43;
/// A larger share of a window shows that the pace does matter.
const MANY: f64 = 0.5;
/// So many rejections in a window are enough to judge it before its end.
const SURE: u64 = 12;
/// Calls of a window at least.
const WINDOW: u64 = 32;
/// A test lowers the pace to this share.
const TEST: f64 = 0.6;
/// A test is worth it above this share of rejections.
const WORTH: f64 = 0.02;
/// Windows before the first test.
const FIRST_TEST: u32 = 4;
/// The pace doubles in so many trips.
const TRIPS: f64 = 3.0;
/// A pace that no run reaches.
const HIGHEST: f64 = 1e6;

/// Seconds after which a call that was not rejected will not be.
fn patience(trip: f64) -> f64 {
    2.0 * trip + 0.05
}

impl Default for Stray {
    fn default() -> Self {
        Self {
            state: State::No,
            odd: 0,
            needed: ODD,
            rate: 0.0,
            tried: 0.0,
        }
    }
}

impl Window {
    fn new(first: u64, opened: Instant) -> Self {
        Self {
            first,
            opened,
            started: 0,
            rejected: 0,
            seconds: 0.0,
        }
    }

    fn share(&self) -> f64 {
        self.rejected as f64 / self.started.max(1) as f64
    }

    fn accepted_per_second(&self) -> f64 {
        self.started.saturating_sub(self.rejected) as f64 / self.seconds.max(1e-3)
    }
}

impl Stray {
    /// Of the calls that started after the first rejected one, and before it was seen, so many were rejected.
    pub(super) fn note_first(&mut self, started: u64, rejected: u64) {
        if started >= 3 && rejected as f64 <= FEW * started as f64 {
            self.odd = self.needed;
        }
    }

    /// A generation has ended with a rejection.
    pub(super) fn note(&mut self, odd: bool) {
        self.odd = if odd { self.odd + 1 } else { 0 };
    }

    /// A generation begins after a pause: with a trial, if there is reason to doubt the estimate of `rate`.
    pub(super) fn begin_generation(&mut self, at: Instant, rate: f64, pause: f64, trip: f64) {
        match &mut self.state {
            State::No if self.odd >= self.needed || (self.odd >= ODD && rate < FALLEN * self.tried) => {
                self.odd = 0;
                self.rate = rate;
                // Far more than a bucket of this rate holds after the pause.
                let calls = (4.0 * rate * (pause + trip)).max(CALLS);
                if calls > MOST_CALLS {
                    return;
                }
                self.state = State::Trial(Trial {
                    pace: PACE.max(ABOVE * rate),
                    calls: calls as u64,
                    started: 0,
                    rejected: 0,
                    last: at,
                });
            }
            State::No => {}
            State::Trial(_) => self.state = State::No,
            State::Yes(tolerance) => {
                tolerance.before = Window::new(0, at);
                tolerance.current = Window::new(0, at);
                tolerance.test = None;
            }
        }
    }

    /// Rejections were tolerated before: the first pause is followed by a trial.
    pub(super) fn suspect(&mut self) {
        self.odd = self.needed;
    }

    pub(super) const fn is_tolerant(&self) -> bool {
        matches!(self.state, State::Yes(_))
    }

    /// The pace in calls per second, while rejections are tolerated.
    pub(super) fn pace(&self, trip: f64) -> Option<f64> {
        match self.state {
            State::No => None,
            State::Trial(trial) if trial.started < trial.calls => Some(trial.pace),
            // The next start comes when all rejections of the trial are known.
            State::Trial(_) => Some(1.0 / (patience(trip) + 0.02)),
            State::Yes(tolerance) => Some(tolerance.test.map_or(tolerance.pace, |test| test.pace)),
        }
    }

    /// A call starts; `gap` seconds after the one before, as far as that was dense. Returns the limit, if there proves to be one.
    pub(super) fn start(&mut self, ordinal: u64, at: Instant, gap: f64, trip: f64) -> Option<Limit> {
        match &mut self.state {
            State::No => None,
            // Some may have been let through before the pace was lowered.
            State::Trial(trial)
                if trial.started < trial.calls || seconds(trial.last, at) < patience(trip) =>
            {
                trial.started += 1;
                trial.last = at;
                None
            }
            State::Trial(trial) => {
                let stray = trial.rejected as f64 <= FEW * trial.started as f64;
                if stray {
                    self.state = State::Yes(Tolerance {
                        pace: trial.pace,
                        before: Window::new(ordinal, at),
                        current: Window::new(ordinal, at),
                        share: trial.rejected as f64 / trial.started as f64,
                        until_test: FIRST_TEST,
                        test_every: FIRST_TEST,
                        test: None,
                    });
                } else {
                    self.give_up();
                }
                None
            }
            State::Yes(tolerance) => {
                let limit = tolerance.start(ordinal, at, gap, trip);
                if limit.is_some() {
                    self.give_up();
                }
                limit
            }
        }
    }

    fn give_up(&mut self) {
        self.state = State::No;
        self.needed = self.needed.saturating_mul(2);
        self.tried = self.rate;
    }

    /// A call of the current generation was rejected.
    pub(super) fn reject(&mut self, ordinal: u64) {
        match &mut self.state {
            State::No => {}
            State::Trial(trial) => trial.rejected += 1,
            State::Yes(tolerance) => tolerance.reject(ordinal),
        }
    }
}

impl Tolerance {
    fn start(&mut self, ordinal: u64, at: Instant, gap: f64, trip: f64) -> Option<Limit> {
        self.pace = (self.pace * (gap / (TRIPS * trip).max(1e-3)).exp2()).min(HIGHEST);
        if let Some(test) = self.test
            && ordinal >= test.first + test.calls
            && seconds(self.current.opened, at) > patience(trip)
        {
            self.test = None;
            if !test.rejected {
                return Some(Limit(test.accepted));
            }
            self.current = Window::new(ordinal, at);
            self.before = self.current;
        }
        // Not all are known yet, so there are more.
        if self.current.rejected >= SURE && self.current.share() > MANY {
            self.current.seconds = seconds(self.current.opened, at);
            return Some(Limit(self.current.accepted_per_second()));
        }
        let age = seconds(self.current.opened, at);
        if self.current.started >= WINDOW && age >= patience(trip) {
            let known = self.before;
            self.current.seconds = age;
            self.before = std::mem::replace(&mut self.current, Window::new(ordinal, at));
            if known.started > 0 {
                if known.share() > MANY {
                    return Some(Limit(known.accepted_per_second()));
                }
                self.share += 0.25 * (known.share() - self.share);
                self.until_test = self.until_test.saturating_sub(1);
                if self.until_test == 0 && self.share >= WORTH && self.test.is_none() {
                    self.test_every = self.test_every.saturating_mul(2);
                    self.until_test = self.test_every;
                    self.test = Some(Test {
                        accepted: known.accepted_per_second(),
                        pace: TEST * known.started as f64 / known.seconds.max(1e-3),
                        first: ordinal,
                        calls: (4.0 / self.share) as u64,
                        rejected: false,
                    });
                }
            }
        }
        self.current.started += 1;
        None
    }

    fn reject(&mut self, ordinal: u64) {
        if ordinal >= self.current.first {
            self.current.rejected += 1;
        } else if ordinal >= self.before.first {
            self.before.rejected += 1;
        }
        if let Some(test) = &mut self.test
            && ordinal >= test.first
        {
            test.rejected = true;
        }
    }
}
