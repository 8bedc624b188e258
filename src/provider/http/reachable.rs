//! A server that was never reached: the address is wrong, or the server is still starting.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::Url;
use tokio::time::Instant;

use crate::error::{Delivery, Disposition, ErrorKind, LlmError};

/// The time for which calls wait for a server that has never answered. A rate limiter tries it after 1, 3, 7, 15 and 30 s.
const STARTING: Duration = Duration::from_secs(30);

/// Failures further apart than this are not one outage: nothing was tried in between.
const APART: Duration = Duration::from_secs(60);

/// Notes whether the server of a client was ever reached.
#[derive(Debug, Default)]
pub(super) struct Reachable {
    answered: AtomicBool,
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
    }

    /// Lets an error concern every call if the server has never answered and could not be connected to for 30 s.
    pub(super) fn judge(&self, error: LlmError, url: &Url) -> LlmError {
        let unsent = error.kind() == ErrorKind::Connection && error.delivery() == Delivery::NotSent;
        if !unsent || self.answered.load(Ordering::Relaxed) {
            return error;
        }
        let now = Instant::now();
        let since = self.failing_since(now);
        // The rest of the address may hold secrets.
        let server = url.origin().ascii_serialization();
        if since == now {
            tracing::warn!(%server, error = error.message(), "the server cannot be reached; calls wait for it");
        }
        if now.saturating_duration_since(since) < STARTING {
            return error;
        }
        let message = format!(
            "{}; {server} has not answered a call for {} s: check the address, or start the server first",
            error.message(),
            STARTING.as_secs()
        );
        LlmError::new(ErrorKind::Connection, message)
            .with_delivery(Delivery::NotSent)
            .with_disposition(Disposition::ScopeFatal)
    }

    /// Notes a failure, and returns the time of the first in its row.
    fn failing_since(&self, now: Instant) -> Instant {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let row = failing.get_or_insert(Failing {
            since: now,
            last: now,
        });
        if now.saturating_duration_since(row.last) > APART {
            row.since = now;
        }
        row.last = now;
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

    #[tokio::test(start_paused = true)]
    async fn a_server_that_never_answered_concerns_every_call_after_30_seconds() {
        let (reachable, url) = (
            Reachable::default(),
            Url::parse("http://h:9/v1?key=s3cret").unwrap(),
        );
        for wait in [0, 1, 2, 4, 8, 14] {
            tokio::time::advance(Duration::from_secs(wait)).await;
            let error = reachable.judge(refused(), &url);
            assert_eq!(error.disposition(), Disposition::Backoff);
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        let error = reachable.judge(refused(), &url);
        assert_eq!(error.disposition(), Disposition::ScopeFatal);
        assert!(error.message().contains("http://h:9 "), "{error}");
        assert!(!error.message().contains("s3cret"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_far_apart_are_not_one_outage() {
        let (reachable, url) = (Reachable::default(), Url::parse("http://h:9/v1").unwrap());
        for wait in [0, 61, 61] {
            tokio::time::advance(Duration::from_secs(wait)).await;
            assert_eq!(
                reachable.judge(refused(), &url).disposition(),
                Disposition::Backoff
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_answered_once_is_waited_for() {
        let (reachable, url) = (Reachable::default(), Url::parse("http://h:9/v1").unwrap());
        reachable.judge(refused(), &url);
        reachable.answered();
        for _ in 0..10 {
            tokio::time::advance(Duration::from_secs(20)).await;
            assert_eq!(
                reachable.judge(refused(), &url).disposition(),
                Disposition::Backoff
            );
        }
    }
}
