//! The default policy: a bucket that is fitted to the calls that the provider accepted.

use tokio::time::Instant;

#[cfg(doc)]
use super::StartRamp;
use super::{EndedCall, Pace, Pacing, StartedCall};
use crate::error::{Disposition, QuotaDimension};
use crate::layer::rate_limiter::learned::LearnedLimit;

mod fit;
mod generation;
mod in_flight;
mod learned;
mod stray;

use fit::Fit;
use generation::{Generation, Marks};
use in_flight::InFlightCap;
use learned::Announced;
use stray::{Limit, Stray};

/// The default [`Pace`]: finds the provider's limit by itself and stays just below it.
///
/// A provider's limit works like a bucket of unknown size that is refilled at an unknown rate. Just after a pause it is
/// nearly empty, and when a call is rejected it is empty again: the calls accepted in between, over the time in between,
/// are the refill. Where the bucket overflowed meanwhile that is too little, and the densest stretch of accepted calls, less
/// what the bucket may have held, is a better bound. Calls start at 0.97 of that rate, climb to 1.05 of it over a hold,
/// and then ever faster until the next rejection. The hold is short while the estimates differ, and doubles each time they
/// agree, so that a limit which stays as it is costs few rejections. A limit on calls in flight shows by rejecting at one
/// number of them only: that number becomes the cap, which is tried again from time to time. The limit that was found is a
/// [value](LearnedLimit) that a later gate may start with.
///
/// Rejections that do not depend on the rate are told from those of a limit by a short trial far above the estimate, and then
/// [tolerated](Pacing::tolerating_throttles) for as long as their share stays.
///
/// Until the first rejection nothing is limited but by the [`StartRamp`]. Quota headers are not read, and the words of
/// a rejection do not matter: a quota of tokens is found as one of requests is.
///
/// ```
/// use llm_batch::layer::rate_limiter::{BucketFit, RateLimiter};
///
/// // The same as without the line in the middle.
/// let limiter = RateLimiter::builder().pace(BucketFit::default()).build().unwrap();
/// # let _ = limiter;
/// ```
#[derive(Clone, Debug)]
pub struct BucketFit {
    /// What the first generation showed, once it has ended.
    first: Option<Generation>,
    current: Option<Generation>,
    fit: Fit,
    marks: Marks,
    cap: InFlightCap,
    stray: Stray,
    /// The rejection that closed the gate last.
    closed_by: Option<Rejection>,
    /// The usual time from the start of a call to its rejection, in seconds.
    trip: f64,
    /// The mean of the estimates of the last calls, in tokens.
    estimate: f64,
    /// Seconds of this generation in which calls started as densely as the pace allows.
    clock: f64,
    last_start: Option<Instant>,
    pacing: Pacing,
    /// The limit to start with.
    given: Option<LearnedLimit>,
    /// The calls that were throttled, and the last time.
    rejections: u64,
    rejected: Option<Instant>,
    /// The quota that was named last.
    dimension: Option<QuotaDimension>,
    announced: Option<Announced>,
    has_news: bool,
}

/// A rejection that closed the gate.
#[derive(Clone, Copy, Debug)]
struct Rejection {
    at: Instant,
    /// The position of the rejected call.
    ordinal: u64,
    /// The pace had not come to what was thought to be the limit.
    early: bool,
    /// Not for overload.
    throttled: bool,
    /// The pace at that time.
    pace: f64,
    /// The pace had been climbing beyond what was known.
    climbing: bool,
}

/// The pace of the first pause: it lasts two of its starts.
const FIRST: f64 = 4.0;
/// The weight of the last rejection in the usual trip.
const LAST: f64 = 0.2;
/// The weight of the last estimate in the mean.
const FEW: f64 = 1.0 / 16.0;
/// A call is large that takes this many times the mean.
const LARGE: f64 = 1.5;
/// A search, and a climb, doubles in so many trips at the fastest, so that its rejections are seen in time.
const TRIPS: f64 = 5.0;
/// An estimate is lower than the one before if it is below this share of it.
const LOWER: f64 = 0.97;
/// A generation is short that ends after fewer calls.
const SHORT: f64 = 16.0;
/// Seconds by which timers and queues delay a start that still counts as dense.
const LATE: f64 = 0.01;

impl Default for BucketFit {
    fn default() -> Self {
        Self {
            first: None,
            current: None,
            fit: Fit::default(),
            marks: Marks::default(),
            cap: InFlightCap::default(),
            stray: Stray::default(),
            closed_by: None,
            trip: 0.07,
            estimate: 0.0,
            clock: 0.0,
            last_start: None,
            pacing: Pacing::UNLIMITED,
            given: None,
            rejections: 0,
            rejected: None,
            dimension: None,
            announced: None,
            has_news: false,
        }
    }
}

impl BucketFit {
    pub(super) const fn pacing(&self) -> Pacing {
        self.pacing
    }

    /// Returns the time from which on it has to see a start of this generation; `None`: it has to see every one.
    pub(super) fn next_look(&self, generation: u64) -> Option<Instant> {
        let current = self.current.as_ref()?;
        (self.first.is_none() && current.number == generation)
            .then(|| self.marks.next())
            .flatten()
    }

    /// The starts per second that the fit allows now.
    fn pace(&self) -> f64 {
        self.fit.pace(self.clock, self.trip)
    }

    fn answer(&mut self) -> Pacing {
        if let Some(pace) = self.stray.pace(self.trip) {
            self.pacing = Pacing::per_second(pace).tolerating_throttles();
            return self.pacing;
        }
        let searches = self.first.is_none() && !self.fit.is_known();
        self.pacing = match &self.current {
            _ if searches => match (self.closed_by, self.cap.calls(self.trip)) {
                (Some(closed), _) if closed.throttled => Pacing::per_second(FIRST),
                (_, Some(calls)) => Pacing::UNLIMITED.with_max_in_flight(calls),
                (_, None) => Pacing::UNLIMITED,
            },
            Some(current) => match self.cap.calls(self.trip) {
                Some(calls) => {
                    let recent = self.last_start.map_or(0.0, |at| current.starts_per_second(at));
                    Pacing::per_second(2.0 * self.fit.rate().max(recent).max(1.0)).with_max_in_flight(calls)
                }
                None => Pacing::per_second(self.pace()),
            },
            None => Pacing::per_second(self.pace()),
        };
        self.pacing
    }

    /// The first call after a pause has started: the generation before it is complete.
    fn begin_generation(&mut self, call: &StartedCall) {
        let next = Generation::new(call.generation, call.at);
        if let Some(mut ended) = self.current.replace(next) {
            ended.seconds = seconds(ended.opened, call.at);
            match self.closed_by {
                // The gate was opened by hand: how full the bucket is, is not known.
                None => {}
                // Overload says nothing about a bucket.
                Some(_) if self.first.is_none() && ended.void => {}
                Some(closed) if self.first.is_none() && self.fit.is_known() => {
                    let until_closed = seconds(ended.opened, closed.at);
                    if !self.fit.add_first(&ended, &closed, until_closed) {
                        self.given = None;
                    }
                    ended.seconds = until_closed;
                    self.first = Some(ended);
                }
                Some(closed) if self.first.is_none() => {
                    ended.seconds = seconds(ended.opened, closed.at);
                    self.fit.begin(&ended);
                    // Only if the rejections of the others would have been seen by now.
                    if seconds(closed.at, call.at) >= 2.0 * self.trip {
                        self.stray
                            .note_first(ended.starts.saturating_sub(closed.ordinal), ended.rejected_after);
                    }
                    self.first = Some(ended);
                }
                Some(closed) => {
                    let pause = seconds(closed.at, call.at);
                    let (before, void, accepted) = (self.fit.rate(), ended.void, ended.accepted());
                    // One that began with a known limit shows less of the bucket than was known.
                    let first = self.first.as_ref().filter(|_| self.given.is_none());
                    self.fit.add(ended, &closed, pause, first);
                    if !void && accepted > 0.0 {
                        let lower = closed.early && self.fit.rate() < LOWER * before;
                        self.stray.note(lower || (self.fit.is_low() && accepted < SHORT));
                    }
                }
            }
            if let Some(closed) = self.closed_by {
                let pause = seconds(closed.at, call.at);
                let first = self
                    .first
                    .as_ref()
                    .map_or(0.0, |first| first.accepted() / first.seconds.max(1.0));
                let rate = if self.fit.is_known() {
                    self.fit.rate()
                } else {
                    first.max(self.fit.rate())
                };
                self.stray.begin_generation(call.at, rate, pause, self.trip);
            }
        }
        self.closed_by = None;
        self.clock = 0.0;
        self.marks.clear();
        self.cap.begin_generation();
        self.note_news();
    }

    /// Time that counts: the gap before a start, unless it is longer than the pace asked for.
    fn advance(&mut self, call: &StartedCall) {
        let Some(last) = self.last_start else { return };
        let gap = seconds(last, call.at);
        if let Some(pace) = self.stray.pace(self.trip) {
            let dense = if gap <= 2.0 / pace + LATE { gap } else { 0.0 };
            if let Some(Limit(rate)) = self.stray.start(call.ordinal, call.at, dense, self.trip) {
                self.fit.set(rate);
            }
            self.note_news();
            return;
        }
        let due = 1.0 / self.pace();
        if gap <= 2.0 * due + LATE {
            // One gap of a slow search could be many doublings.
            let most = if self.fit.is_known() {
                due
            } else {
                due.min(TRIPS * self.trip)
            };
            self.clock += gap.min(most);
        }
        self.cap.advance(call.in_flight, gap);
    }

    /// So many starts were counted in the current generation.
    pub(super) fn note_starts(&mut self, starts: u64) {
        if let Some(current) = &mut self.current {
            current.starts = current.starts.max(starts);
        }
    }

    /// The generation that a call belongs to.
    fn generation(&mut self, number: u64) -> Option<&mut Generation> {
        [&mut self.current, &mut self.first]
            .into_iter()
            .flatten()
            .chain(self.fit.generations())
            .find(|generation| generation.number == number)
    }
}

impl Pace for BucketFit {
    fn on_start(&mut self, call: &StartedCall) -> Pacing {
        match &self.current {
            Some(current) if call.generation < current.number => return self.pacing,
            Some(current) if call.generation == current.number => self.advance(call),
            _ => self.begin_generation(call),
        }
        self.marks.add(call.at, call.ordinal);
        self.estimate += FEW * (call.estimate as f64 - self.estimate);
        self.cap.start(call.ordinal, call.in_flight);
        if let Some(current) = &mut self.current {
            current.starts = current.starts.max(call.ordinal);
        }
        self.last_start = self.last_start.max(Some(call.at));
        self.answer()
    }

    fn on_end(&mut self, call: &StartedCall, end: &EndedCall) -> Pacing {
        let throttled = end.disposition == Disposition::Throttled;
        if !throttled && !end.overload {
            return self.pacing;
        }
        self.trip += LAST * (seconds(call.at, end.at) - self.trip);
        if throttled {
            self.rejections += 1;
            self.rejected = self.rejected.max(Some(end.at));
            self.dimension = end.dimension.or(self.dimension);
        }
        let closed_by = self.closed_by.map(|closed| closed.ordinal);
        if let Some(generation) = self.generation(call.generation) {
            generation.rejected += 1;
            generation.rejected_after += u64::from(closed_by.is_some_and(|closing| call.ordinal > closing));
        }
        if throttled
            && self
                .current
                .as_ref()
                .is_some_and(|current| current.number == call.generation)
        {
            self.stray.reject(call.ordinal);
        }
        if end.closes {
            self.closed_by = Some(Rejection {
                at: end.at,
                ordinal: call.ordinal,
                // A bucket of tokens that is nearly empty rejects the large ones first.
                early: self.fit.is_early(self.clock)
                    && call.estimate as f64 <= LARGE * self.estimate.max(1.0),
                throttled,
                pace: self.pace(),
                climbing: self.fit.is_climbing(self.clock),
            });
            let bound = self.marks.bound(call.at, self.fit.burst());
            if let Some(current) = &mut self.current {
                current.void = !throttled;
                current.bound = bound;
            }
        }
        if throttled && end.closes {
            self.cap.vote(call.ordinal, call.in_flight.saturating_sub(1));
        }
        self.answer()
    }
}

fn seconds(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64()
}
