//! The consequences of a decision, to be carried out once the lock is released.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Reply, Slot};
use crate::error::ErrorKind;
use crate::events::EventKind;
use crate::layer::rate_limiter::quota::Quota;
use crate::layer::rate_limiter::store::StoreReport;

/// The notices for others.
#[derive(Debug, Default)]
pub(in crate::layer::rate_limiter::gate) struct Notices {
    pub(in crate::layer::rate_limiter::gate) events: Vec<(Instant, EventKind)>,
    pub(in crate::layer::rate_limiter::gate) warnings: Vec<Warning>,
    pub(in crate::layer::rate_limiter::gate) reports: Vec<StoreReport>,
}

impl Notices {
    pub(in crate::layer::rate_limiter::gate) fn event(&mut self, at: Instant, event: EventKind) {
        self.events.push((at, event));
    }

    pub(in crate::layer::rate_limiter::gate) fn warn(&mut self, warning: Warning) {
        self.warnings.push(warning);
    }

    pub(in crate::layer::rate_limiter::gate) fn report(&mut self, report: StoreReport) {
        self.reports.push(report);
    }
}

/// The work to be done once the lock is released. As a rule nothing, which costs nothing.
#[derive(Default)]
pub(in crate::layer::rate_limiter) struct Effects {
    pub(in crate::layer::rate_limiter::gate) notices: Notices,
    pub(in crate::layer::rate_limiter::gate) replies: Vec<(Arc<Slot>, Reply)>,
    /// Waiters that are let go without a reply, so that they ask again.
    pub(in crate::layer::rate_limiter::gate) orphans: Vec<Arc<Slot>>,
    /// Pumps sleep too long: the next wake-up has become earlier, or nothing is left to wait for.
    pub(in crate::layer::rate_limiter::gate) wake_pumps: bool,
    /// The caller's runtime needs a pump.
    pub(in crate::layer::rate_limiter::gate) spawn_pump: bool,
    /// More can be let through, but the lock has been held for long enough.
    pub(in crate::layer::rate_limiter::gate) more: bool,
    /// The gate was closed or latched.
    pub(in crate::layer::rate_limiter::gate) closed: bool,
    /// The gate was opened by hand.
    pub(in crate::layer::rate_limiter::gate) reopened: bool,
}

impl Effects {
    /// Returns `true` if there is nothing to do.
    pub(in crate::layer::rate_limiter::gate) fn is_empty(&self) -> bool {
        let flags = [
            self.wake_pumps,
            self.spawn_pump,
            self.more,
            self.closed,
            self.reopened,
        ];
        let notices = &self.notices;
        !flags.contains(&true)
            && self.replies.is_empty()
            && self.orphans.is_empty()
            && notices.events.is_empty()
            && notices.warnings.is_empty()
    }
}

/// A fact about the gate that a person should know.
#[derive(Debug)]
pub(in crate::layer::rate_limiter::gate) enum Warning {
    Closed {
        kind: ErrorKind,
        pause: Duration,
        generation: u64,
    },
    Latched {
        kind: ErrorKind,
    },
    /// A reported usage was charged in part only.
    Unbelievable {
        used: u64,
        charged: u64,
    },
    /// A quota of the gate's own is used up.
    Exhausted {
        quota: Quota,
        resets_in: Duration,
    },
    /// There is a token quota, and neither an estimate nor a usage.
    Unmeasured,
}
