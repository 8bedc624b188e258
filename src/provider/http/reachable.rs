//! A server that cannot be connected to: the address is wrong, or it is starting, or it has gone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::Url;
use tokio::time::Instant;

use crate::error::{Delivery, Disposition, ErrorKind, LlmError};

/// The time for which calls wait for a server that has never answered. A rate limiter tries it after 1, 3, 7, 15 and 30 s.
const STARTING: Duration = Duration::from_secs(30);

/// The time for which calls wait for a server that did answer before: a restart with a large model to load takes minutes.
const RESTARTING: Duration = Duration::from_secs(300);

/// The longest time between two tries of a server: a probe's wait and its connect timeout.
const PROBE: Duration = Duration::from_secs(60);

/// Notes how long the server of a client cannot be reached.
#[derive(Debug, Default)]
pub(super) struct Reachable {
    answered: AtomicBool,
    is_failing: AtomicBool,
    failing: Mutex<Option<Failing>>,
}

/// A row of calls that could not connect.
#[derive(Clone, Copy, Debug)]
struct Failing {
    since: Instant,
    last: Instant,
}

impl Reachable {
    /// The server has sent a reply of any status.
    pub(super) fn answered(&self) {
        // The usual case writes nothing.
        if !self.answered.load(Ordering::Relaxed) {
            self.answered.store(true, Ordering::Relaxed);
        }
        if self.is_failing.load(Ordering::Relaxed) {
            let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
            *failing = None;
            self.is_failing.store(false, Ordering::Relaxed);
        }
    }

    /// Lets an error be final for its item if the server could not be connected to for 30 s, or for 5 minutes after it had
    /// answered. Until then such an error is overload, for which calls wait.
    pub(super) fn judge(&self, error: LlmError, url: &Url) -> LlmError {
        if error.kind() != ErrorKind::Connection || error.delivery() != Delivery::NotSent {
            return error;
        }
        let now = Instant::now();
        let (patience, hint) = if self.answered.load(Ordering::Relaxed) {
            (RESTARTING, "start it again")
        } else {
            (STARTING, "check the address, or start the server first")
        };
        // Failures further apart are not one outage: nothing was tried in between.
        let since = self.failing_since(now, (patience / 2).max(PROBE));
        // The rest of the address may hold secrets.
        let server = url.origin().ascii_serialization();
        if since == now {
            tracing::warn!(%server, error = error.message(), "the server cannot be reached; calls wait for it");
        }
        let waited = now.saturating_duration_since(since);
        if waited < patience {
            return error;
        }
        let message = format!(
            "{}; {server} cannot be reached since {} s: {hint}",
            error.message(),
            waited.as_secs()
        );
        LlmError::new(ErrorKind::Connection, message)
            .with_delivery(Delivery::NotSent)
            .with_disposition(Disposition::Fatal)
    }

    /// Notes a failure, and returns the time of the first in its row.
    fn failing_since(&self, now: Instant, apart: Duration) -> Instant {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let row = failing.get_or_insert(Failing {
            since: now,
            last: now,
        });
        if now.saturating_duration_since(row.last) > apart {
            row.since = now;
        }
        row.last = now;
        self.is_failing.store(true, Ordering::Relaxed);
        row.since
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn refused() -> LlmError {
        LlmError::new(ErrorKind::Connection, "no connection: refused").with_delivery(Delivery::NotSent)
    }

    fn server() -> (Reachable, Url) {
        (
            Reachable::default(),
            Url::parse("http://h:9/v1?key=s3cret").unwrap(),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_never_answered_is_given_up_after_30_seconds() {
        let (reachable, url) = server();
        for wait in [0, 1, 2, 4, 8, 14] {
            tokio::time::advance(Duration::from_secs(wait)).await;
            let error = reachable.judge(refused(), &url);
            assert_eq!(error.disposition(), Disposition::Backoff);
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        let error = reachable.judge(refused(), &url);
        assert_eq!(error.disposition(), Disposition::Fatal);
        assert!(error.message().contains("http://h:9 "), "{error}");
        assert!(!error.message().contains("s3cret"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_far_apart_are_not_one_outage() {
        let (reachable, url) = server();
        for wait in [0, 61, 61] {
            tokio::time::advance(Duration::from_secs(wait)).await;
            let error = reachable.judge(refused(), &url);
            assert_eq!(error.disposition(), Disposition::Backoff);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_answered_once_is_waited_for_longer_and_not_for_ever() {
        let (reachable, url) = server();
        reachable.judge(refused(), &url);
        reachable.answered();
        for _ in 0..2 {
            for _ in 0..20 {
                let error = reachable.judge(refused(), &url);
                assert_eq!(error.disposition(), Disposition::Backoff);
                tokio::time::advance(Duration::from_secs(15)).await;
            }
            let error = reachable.judge(refused(), &url);
            assert_eq!(error.disposition(), Disposition::Fatal);
            assert!(error.message().ends_with("start it again"), "{error}");
            // An answer begins anew.
            reachable.answered();
        }
    }
}
