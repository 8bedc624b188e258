//! The limit that was found, for others and for the next gate.

use std::time::UNIX_EPOCH;

use super::BucketFit;
use super::generation::Generation;
use crate::error::QuotaDimension;
use crate::events::EventKind;
use crate::layer::rate_limiter::learned::{Learned, LearnedLimit, LimitKind};

/// A limit that differs by less than this share is no news.
const NEWS: f64 = 0.15;

/// Two numbers of calls are the same that differ by less than this, and this share.
const SAME: (f64, f64) = (2.0, 0.2);

/// The limit that others know, of the generation in which they learnt it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Announced {
    kind: LimitKind,
    /// Calls per second, or at one time.
    amount: f64,
    generation: Option<u64>,
}

impl Announced {
    fn new(limit: &LearnedLimit, generation: Option<u64>) -> Self {
        let calls = limit.max_in_flight.map(|calls| calls as f64);
        Self {
            kind: limit.kind,
            amount: limit.starts_per_second.or(calls).unwrap_or(1.0),
            generation,
        }
    }
}

impl BucketFit {
    /// Starts with a limit that was found before.
    pub(in crate::layer::rate_limiter) fn start_with(&mut self, limit: LearnedLimit) {
        match (limit.kind, limit.starts_per_second, limit.max_in_flight) {
            (LimitKind::Rate, Some(rate), _) => self.fit.start_with(rate, limit.burst),
            (LimitKind::InFlight, _, Some(calls)) => self.cap.start_with(calls),
            (LimitKind::Stray, ..) => self.stray.suspect(),
            (LimitKind::Rate | LimitKind::InFlight, ..) => return,
        }
        self.given = Some(limit);
        self.announced = Some(Announced::new(&limit, None));
        let _ = self.answer();
    }

    /// The limit, as far as it is known.
    pub(in crate::layer::rate_limiter) fn learned(&self) -> Option<Learned> {
        let Some(rejected) = self.rejected else {
            return self.given.map(|limit| Learned {
                limit,
                rejected: None,
            });
        };
        let (kind, starts_per_second, max_in_flight) = if self.stray.is_tolerant() {
            (LimitKind::Stray, None, None)
        } else if let Some(calls) = self.cap.known().filter(|calls| !self.is_rate(*calls)) {
            (LimitKind::InFlight, None, Some(calls))
        } else if self.fit.is_known() {
            (LimitKind::Rate, Some(self.fit.measured()), self.cap.known())
        } else {
            return None;
        };
        let burst = starts_per_second.map(|_| self.fit.burst());
        Some(Learned {
            limit: LearnedLimit {
                kind,
                starts_per_second,
                burst: burst.filter(|burst| burst.is_finite()),
                max_in_flight,
                dimension: self.dimension,
                rejections: self.rejections,
                confirmed: kind != LimitKind::Rate || self.fit.is_confirmed(),
                at: self.given.map_or(UNIX_EPOCH, |given| given.at),
            },
            rejected: Some(rejected),
        })
    }

    /// A rate where all calls take the same time looks like a cap, but at first a cap accepts as many calls as it is, and then
    /// those that follow one that ended. The provider may also say which it is.
    fn is_rate(&self, cap: usize) -> bool {
        let (cap, rate) = (cap as f64, self.fit.rate());
        let is_odd = |first: &Generation| {
            let expected = cap.max(rate * first.seconds);
            (first.accepted() - expected).abs() > SAME.0 + SAME.1 * cap
        };
        self.fit.is_known()
            && match (self.dimension, self.given) {
                (Some(dimension), _) => dimension != QuotaDimension::Concurrency,
                (None, Some(given)) => given.kind == LimitKind::Rate,
                (None, None) => self.first.as_ref().is_some_and(is_odd),
            }
    }

    /// Notes whether the limit has become another one: once in a generation at most.
    pub(super) fn note_news(&mut self) {
        let generation = self.current.as_ref().map(|current| current.number);
        let Some(learned) = self.learned().filter(|learned| learned.rejected.is_some()) else {
            return;
        };
        let new = Announced::new(&learned.limit, generation);
        self.has_news = self.announced.is_none_or(|old| {
            old.generation != generation
                && (old.kind != new.kind || (new.amount / old.amount - 1.0).abs() > NEWS)
        });
        if self.has_news {
            self.announced = Some(new);
        }
    }

    /// The event of a limit that has become another one.
    pub(in crate::layer::rate_limiter) fn take_news(&mut self) -> Option<EventKind> {
        if !std::mem::take(&mut self.has_news) {
            return None;
        }
        let LearnedLimit {
            kind,
            starts_per_second,
            max_in_flight,
            rejections,
            ..
        } = self.learned()?.limit;
        Some(EventKind::LimitLearned {
            kind,
            starts_per_second,
            max_in_flight,
            rejections,
        })
    }
}
