//! What the tests of the gate share.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use llm_batch::layer::rate_limiter::{ActiveCall, Cooldown, Grant, RateLimiter, RateLimiterBuilder, Refused};
use llm_batch::{Disposition, ErrorKind, Verdict};
use tokio::time::Instant;

pub(crate) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) const fn millis(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A gate without ramp and jitter: only what a test sets is in the way.
pub(crate) fn plain() -> RateLimiterBuilder {
    RateLimiter::builder()
        .without_start_ramp()
        .cooldown(Cooldown::default().with_jitter(0.0))
}

/// Acquires and starts one call.
pub(crate) async fn call(limiter: &RateLimiter, estimate: u64) -> Result<ActiveCall, Refused> {
    let mut waiting = limiter.acquire(estimate);
    loop {
        match waiting.await?.start() {
            Ok(call) => return Ok(call),
            Err(again) => waiting = again,
        }
    }
}

/// A call if it may start without any waiting.
pub(crate) fn call_now(limiter: &RateLimiter, estimate: u64) -> Option<ActiveCall> {
    let grant = poll_once(limiter.acquire(estimate))?.unwrap();
    Some(grant.start().unwrap())
}

pub(crate) fn grant_now(limiter: &RateLimiter, estimate: u64) -> Option<Grant> {
    poll_once(limiter.acquire(estimate)).map(Result::unwrap)
}

pub(crate) fn poll_once<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

pub(crate) const fn throttled() -> Verdict {
    Verdict::of_kind(ErrorKind::RateLimit)
}

pub(crate) const fn throttled_for(hint: Duration) -> Verdict {
    throttled().with_retry_after(hint)
}

pub(crate) const fn overloaded() -> Verdict {
    Verdict::of_kind(ErrorKind::Overloaded)
}

pub(crate) const fn fatal(kind: ErrorKind) -> Verdict {
    Verdict::new(Disposition::ScopeFatal).with_kind(kind)
}

/// Whether two durations are the same up to the timer's granularity.
#[track_caller]
pub(crate) fn assert_about(actual: Duration, expected: Duration) {
    assert!(
        actual.abs_diff(expected) <= millis(2),
        "{actual:?} is not about {expected:?}"
    );
}

/// How long until a call may start.
pub(crate) async fn time_to_start(limiter: &RateLimiter, estimate: u64) -> (Duration, ActiveCall) {
    let before = Instant::now();
    let call = call(limiter, estimate).await.unwrap();
    (before.elapsed(), call)
}

/// What a future yields within this time.
pub(crate) async fn poll_for<F: Future>(time: Duration, future: F) -> Option<F::Output> {
    tokio::time::timeout(time, future).await.ok()
}
