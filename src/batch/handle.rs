//! Watching and steering a batch from outside.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::task::AtomicWaker;

use super::statistics::Statistics;
use super::summary::BatchSummary;
use super::termination::Termination;

/// What the stream and its handles share.
pub(super) struct Shared {
    concurrency: AtomicUsize,
    paused: AtomicBool,
    stop: AtomicU8,
    // The task that polls the stream.
    waker: AtomicWaker,
    statistics: Mutex<Statistics>,
}

/// A stop asked for through a handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StopRequest {
    /// In the mode of the batch.
    Stop,
    /// Without waiting for calls.
    Cancel,
}

const NO_STOP: u8 = 0;
const STOP: u8 = 1;
const CANCEL: u8 = 2;

impl Shared {
    pub(super) fn new(concurrency: usize) -> Arc<Self> {
        Arc::new(Self {
            concurrency: AtomicUsize::new(concurrency),
            paused: AtomicBool::new(false),
            stop: AtomicU8::new(NO_STOP),
            waker: AtomicWaker::new(),
            statistics: Mutex::default(),
        })
    }

    pub(super) fn statistics(&self) -> MutexGuard<'_, Statistics> {
        self.statistics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn summary(&self) -> BatchSummary {
        // The percentiles are read outside the lock, which the driver takes for every item.
        let statistics = self.statistics().clone();
        statistics.summary(self.concurrency())
    }

    pub(super) fn concurrency(&self) -> usize {
        self.concurrency.load(Ordering::Relaxed)
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    pub(super) fn stop_request(&self) -> Option<StopRequest> {
        match self.stop.load(Ordering::Acquire) {
            NO_STOP => None,
            STOP => Some(StopRequest::Stop),
            _ => Some(StopRequest::Cancel),
        }
    }

    /// Registers the polling task; what handles set before this call is seen by the poll that made it.
    pub(super) fn register(&self, waker: &std::task::Waker) {
        self.waker.register(waker);
    }

    fn request_stop(&self, request: u8) {
        self.stop.fetch_max(request, Ordering::AcqRel);
        self.waker.wake();
    }
}

/// Watches and steers a batch, also when a combinator has consumed its stream. Clones are the same handle.
///
/// What is set takes effect at the stream's next poll, for which the handle wakes its task. While the consumer is busy
/// elsewhere no item starts, but those in flight go on.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use futures::{StreamExt, stream};
/// use llm_batch::{LlmError, LlmRequest, LlmResponse, LlmStreamExt, Termination};
/// use tower::service_fn;
///
/// let echo = service_fn(async |_: LlmRequest| Ok::<_, LlmError>(LlmResponse::new("hi".to_owned())));
/// let results = stream::iter(["a", "b", "c"]).with_strategy(echo).llm_batch(2);
/// let handle = results.handle();
/// assert_eq!(handle.termination(), None);
///
/// let answers: Vec<_> = results.collect().await;
/// assert_eq!(handle.statistics().succeeded, answers.len() as u64);
/// assert_eq!(handle.termination(), Some(Termination::Completed));
/// # }
/// ```
#[derive(Clone)]
pub struct BatchHandle {
    pub(super) shared: Arc<Shared>,
}

impl BatchHandle {
    /// What the batch has done up to now. Items count once their outcome was seen by the stream.
    pub fn statistics(&self) -> BatchSummary {
        self.shared.summary()
    }

    /// Starts no further item until [`resume`](Self::resume); items in flight go on, their later calls too.
    pub fn pause(&self) {
        self.shared.paused.store(true, Ordering::Relaxed);
    }

    /// Ends a pause.
    pub fn resume(&self) {
        self.shared.paused.store(false, Ordering::Relaxed);
        self.shared.waker.wake();
    }

    /// Whether the batch is paused.
    pub fn is_paused(&self) -> bool {
        self.shared.is_paused()
    }

    /// Changes how many items may be in flight. A lower number ends nothing: items in flight finish, and new ones
    /// start once there is room.
    ///
    /// # Panics
    /// If `n` is 0; [`pause`](Self::pause) stops the intake.
    #[track_caller]
    pub fn set_concurrency(&self, n: usize) {
        assert_concurrency(n);
        self.shared.concurrency.store(n, Ordering::Relaxed);
        self.shared.waker.wake();
    }

    /// How many items may be in flight.
    pub fn concurrency(&self) -> usize {
        self.shared.concurrency()
    }

    /// Ends the batch in its [`stop_mode`](crate::LlmBatch::stop_mode): no new item, no new call. Every accepted item
    /// still has its outcome, so go on taking them.
    pub fn stop(&self) {
        self.shared.request_stop(STOP);
    }

    /// Ends the batch at once, whatever its mode and also while it drains: items in flight are aborted, and their
    /// calls may still be billed.
    pub fn cancel(&self) {
        self.shared.request_stop(CANCEL);
    }

    /// Why the batch ended, or is ending; `None` while it runs.
    pub fn termination(&self) -> Option<Termination> {
        self.shared.statistics().termination()
    }
}

impl fmt::Debug for BatchHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchHandle")
            .field("concurrency", &self.concurrency())
            .field("paused", &self.is_paused())
            .field("termination", &self.termination())
            .finish_non_exhaustive()
    }
}

/// Refuses a concurrency that would never start anything.
#[track_caller]
pub(super) fn assert_concurrency(n: usize) {
    assert!(
        n > 0,
        "llm_batch: a concurrency of 0 would start nothing; give at least 1"
    );
}
