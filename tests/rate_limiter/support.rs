//! What the tests of the gate share.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use llm_batch::layer::rate_limiter::{
    ActiveCall, Cooldown, Grant, RateLimiter, RateLimiterBuilder, Refused, SlowStart,
};
use llm_batch::{Disposition, ErrorKind, Verdict};
use tokio::time::Instant;
use tracing::field::{Field, Visit};

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

/// As [`plain`], without a pace after a throttle.
pub(crate) fn unpaced() -> RateLimiterBuilder {
    plain().pace(SlowStart::new(0, Duration::ZERO, Duration::ZERO))
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

/// Keeps the messages of the gate's log events.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0 += &format!("{}={value:?} ", field.name());
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "llm_batch::rate_limiter"
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = Line(format!("{} ", event.metadata().level()));
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}
