//! Starts and ends of calls without the lock, while nothing limits them.
//!
//! If no quota, cap, pace or pause holds a call back and every call is answered, a start raises two counts and an end
//! lowers one. Both are in one word here, which is open while the state allows it. Every holder of the lock closes the word,
//! moves its counts into the state, and opens it again at the end, so the state is complete whenever it is read. Since one
//! atomic operation both counts and says whether the word was open, no end is missed by a call that queues meanwhile.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Instant;

/// Calls may pass.
const OPEN: u64 = 1 << 63;
/// A closed word, far from [`OPEN`] whatever late starts and ends still add to it or take from it.
const CLOSED: u64 = 1 << 62;
/// The low bits hold the calls in flight, those between them and [`OPEN`] the starts of the generation.
const IN_FLIGHT_BITS: u32 = 28;
const ONE_IN_FLIGHT: u64 = 1;
const ONE_START: u64 = 1 << IN_FLIGHT_BITS;

/// With more starts or calls in flight the word stays closed, so that no count overflows.
const MOST_STARTS: u64 = 1 << (62 - IN_FLIGHT_BITS);
const MOST_IN_FLIGHT: u64 = 1 << (IN_FLIGHT_BITS - 1);

/// The word has a cache line of its own: every call on every thread writes it.
#[repr(align(128))]
struct Line(AtomicU64);

pub(super) struct FastPath {
    /// The gate has no limit of its own that would have to be taken from at every start.
    usable: bool,
    made: Instant,
    word: Line,
    /// The generation that the word counts.
    generation: AtomicU64,
    /// A start later than this, in nanoseconds since the gate was made, has to go by the lock.
    until: AtomicU64,
}

/// The counts in the word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counts {
    /// Starts in the generation.
    pub(super) starts: u64,
    pub(super) in_flight: u64,
}

/// The start of a call that the word has counted.
pub(super) struct FastStart {
    pub(super) ordinal: u64,
    pub(super) generation: u64,
}

impl FastPath {
    pub(super) fn new(usable: bool, now: Instant) -> Self {
        Self {
            usable,
            made: now,
            word: Line(AtomicU64::new(CLOSED)),
            generation: AtomicU64::new(0),
            until: AtomicU64::new(0),
        }
    }

    pub(super) const fn is_usable(&self) -> bool {
        self.usable
    }

    fn nanos(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.made).as_nanos()).unwrap_or(u64::MAX)
    }

    // --- with the lock --------------------------------------------------------------------------------------

    /// From now on calls go by the lock. Returns what was counted, if the word was open.
    pub(super) fn close(&self) -> Option<Counts> {
        if !self.usable {
            return None;
        }
        let word = self.word.0.swap(CLOSED, Ordering::AcqRel);
        (word & OPEN != 0).then_some(Counts {
            starts: (word & !OPEN) >> IN_FLIGHT_BITS,
            in_flight: word & (ONE_START - 1),
        })
    }

    /// Calls may pass until `until`, and are counted on from these counts.
    pub(super) fn open(&self, counts: Counts, generation: u64, until: Instant) {
        if counts.starts >= MOST_STARTS || counts.in_flight >= MOST_IN_FLIGHT {
            return;
        }
        self.generation.store(generation, Ordering::Relaxed);
        self.until.store(self.nanos(until), Ordering::Relaxed);
        let word = OPEN | (counts.starts << IN_FLIGHT_BITS) | counts.in_flight;
        self.word.0.store(word, Ordering::Release);
    }

    // --- without ---------------------------------------------------------------------------------------------

    fn is_open(&self) -> bool {
        self.usable && self.word.0.load(Ordering::Relaxed) & OPEN != 0
    }

    /// Counts a start, if it may pass.
    pub(super) fn start(&self, now: impl FnOnce() -> Instant) -> Option<(FastStart, Instant)> {
        if !self.is_open() {
            return None;
        }
        let now = now();
        if self.nanos(now) >= self.until.load(Ordering::Relaxed) {
            return None;
        }
        let word = self.word.0.fetch_add(ONE_START + ONE_IN_FLIGHT, Ordering::AcqRel);
        let start = FastStart {
            ordinal: ((word & !OPEN) >> IN_FLIGHT_BITS) + 1,
            generation: self.generation.load(Ordering::Relaxed),
        };
        (word & OPEN != 0).then_some((start, now))
    }

    /// Counts the end of a call that was answered. Returns false if it has to go by the lock.
    pub(super) fn end(&self) -> bool {
        self.is_open() && self.word.0.fetch_sub(ONE_IN_FLIGHT, Ordering::AcqRel) & OPEN != 0
    }
}
