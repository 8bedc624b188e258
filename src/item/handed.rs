//! Requests that are handed to services of which it is not known whether a layer there watches the calls.

use std::time::Duration;

use tokio::time::Instant;

use super::record::Record;

/// The state of a request that was handed to a service, for calls that no layer watches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Handed {
    /// It was handed to none, or the call that it led to is in the accounts.
    #[default]
    No,
    /// It is being handed over, in the poll that runs: the service may begin a call.
    Entering,
    /// No layer that watches calls has seen it since: the service may be in a call.
    Unwatched,
    /// It has ended, and nothing says whether a call was sent.
    Undecided,
    /// A layer that watches calls has it: what is not begun there did not take place.
    Watched,
}

/// The last time that the request was handed over.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LastHandOver {
    /// The driver did it, and no layer has since.
    by_driver: bool,
    /// When, and the item's total wait by then.
    since: Option<(Instant, Duration)>,
    /// The duration of the call, if that has ended and may not have been sent.
    undecided_time: Duration,
}

impl Record {
    /// The request is handed to a service, which may begin a call: it is `Entering` if the poll that hands it over looks once more
    /// before it goes on, else `Unwatched`.
    pub(super) fn hand_over(&mut self, now: Instant, handed: Handed, by_driver: bool) {
        self.count_undecided();
        self.handed = handed;
        self.last_hand_over = LastHandOver {
            by_driver,
            since: Some((now, self.waited)),
            undecided_time: Duration::ZERO,
        };
    }

    /// Returns `true` if the request is being handed over, in the poll that runs.
    pub(super) fn is_entering(&self) -> bool {
        self.handed == Handed::Entering
    }

    /// Returns `true` if the driver has handed the request over in the poll that runs, and no layer has it yet.
    pub(super) fn is_entering_by_driver(&self) -> bool {
        self.is_entering() && self.last_hand_over.by_driver
    }

    /// A layer that watches calls has the request.
    pub(super) fn watch(&mut self) {
        self.count_undecided();
        self.handed = Handed::Watched;
    }

    /// The item goes on after a call of which it is not known whether it was sent: it counts.
    fn count_undecided(&mut self) {
        if self.handed == Handed::Undecided {
            self.count_unwatched(self.last_hand_over.undecided_time);
        }
    }

    /// Counts a call that no layer watched, with unknown usage.
    fn count_unwatched(&mut self, time: Duration) {
        if self.closed {
            // It is in the final report as it was then.
            return;
        }
        let report = &mut self.report;
        report.call_time = report.call_time.saturating_add(time);
        report.calls += 1;
        report.unknown_usage_calls += 1;
        report.unknown_cost_calls += 1;
    }

    /// The duration of a call that no layer watched and that ended at `at`: the time since the request was handed over, without
    /// waits.
    fn unwatched_time(&self, at: Instant) -> Duration {
        let Some((since, waited)) = self.last_hand_over.since else {
            return Duration::ZERO;
        };
        let waits = self.waited.saturating_sub(waited);
        at.saturating_duration_since(since).saturating_sub(waits)
    }

    /// The call of a request that no layer watched ended `at` then: counts it, with unknown usage, if it was `sent`.
    pub(super) fn settle(
        &mut self,
        sent: impl FnOnce() -> bool,
        answered: bool,
        at: impl FnOnce() -> Instant,
    ) {
        let time = match self.handed {
            Handed::Entering | Handed::Unwatched => sent().then(|| self.unwatched_time(at())),
            Handed::Undecided => sent().then_some(self.last_hand_over.undecided_time),
            Handed::No | Handed::Watched => None,
        };
        self.handed = Handed::No;
        if let Some(time) = time {
            self.count_unwatched(time);
        }
        self.answered |= answered;
    }

    /// As [`settle`](Self::settle), for a layer that hands requests on and may be called again by what is around it. What nothing is
    /// known of is left for the driver to decide.
    pub(super) fn settle_inside(&mut self, sent: Option<bool>, answered: bool) {
        self.answered |= answered;
        if !matches!(self.handed, Handed::Entering | Handed::Unwatched) {
            return;
        }
        let time = self.unwatched_time(Instant::now());
        self.handed = match sent {
            Some(sent) => {
                if sent {
                    self.count_unwatched(time);
                }
                Handed::Watched
            }
            None => {
                self.last_hand_over.undecided_time = time;
                Handed::Undecided
            }
        };
    }

    /// Returns `true` if no layer has watched the request since the driver handed it over.
    pub(super) fn is_unwatched_since_driver(&self) -> bool {
        self.last_hand_over.by_driver
            && matches!(
                self.handed,
                Handed::Entering | Handed::Unwatched | Handed::Undecided
            )
    }
}
