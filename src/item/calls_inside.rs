//! The calls inside a gate or a batch: whether something there begins them.

use std::sync::atomic::{AtomicBool, Ordering};

/// The knowledge that calls inside are begun by a layer or strategy that watches them. Then a request that was not begun was not sent.
///
/// If that is not known from the start, it is learned from the calls. An uncertain request counts as sent until the first call was
/// seen to begin, and again once an answer came from a request without one.
#[derive(Debug, Default)]
pub(crate) struct CallsInside {
    /// The layers inside are this crate's, and begin every call.
    certain: bool,
    begun: AtomicBool,
    answered_unbegun: AtomicBool,
}

impl CallsInside {
    pub(crate) const fn begun_by_this_crate() -> Self {
        Self {
            certain: true,
            begun: AtomicBool::new(true),
            answered_unbegun: AtomicBool::new(false),
        }
    }

    /// Returns `true` if it is known from the start that every call begins inside.
    pub(crate) const fn is_certain(&self) -> bool {
        self.certain
    }

    /// Returns `true` if a call was seen that began inside.
    #[inline]
    pub(crate) fn begin(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// A call has begun inside.
    #[inline]
    pub(crate) fn saw_begun(&self) {
        if !self.begin() {
            self.begun.store(true, Ordering::Relaxed);
        }
    }

    /// Decides about a request that has ended and was not begun inside: returns `true` if it was sent. `sent` is what its error says.
    pub(crate) fn sent_unbegun(&self, answered: bool, sent: Option<bool>) -> bool {
        if self.certain {
            return false;
        }
        if answered {
            self.answered_unbegun.store(true, Ordering::Relaxed);
            return true;
        }
        sent.unwrap_or_else(|| !self.begin() || self.answered_unbegun.load(Ordering::Relaxed))
    }
}
