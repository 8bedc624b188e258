//! Detection of whether the layers inside a gate or a batch begin the calls.

use std::sync::atomic::{AtomicBool, Ordering};

/// Records whether a layer or strategy inside begins the calls. If so, a request without a begun call was not sent.
///
/// If that is not known from the start, it is learned from the calls. An uncertain request counts as sent until a call was
/// seen to begin, and again once a request without a begun call was answered.
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

    /// Returns `true` if a call was seen to begin inside.
    #[inline]
    pub(crate) fn begin(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// Records that a call has begun inside.
    #[inline]
    pub(crate) fn saw_begun(&self) {
        if !self.begin() {
            self.begun.store(true, Ordering::Relaxed);
        }
    }

    /// Returns `true` if a request that has ended without a begun call counts as sent. `sent` is the statement of its error, if any.
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
