//! Monitoring and controlling a batch from outside.

use std::fmt;
use std::sync::Arc;

use super::shared::Shared;
use super::summary::BatchSummary;
use super::termination::{StopMode, Termination};

/// Monitors and controls a batch, even when a combinator has consumed its stream. Clones share the same batch.
///
/// A stop takes effect immediately, from any thread, even while the consumer does not poll: no call begins after it. Other
/// changes take effect at the stream's next poll, for which the handle wakes its task. While the consumer is busy elsewhere no
/// item starts, but those in flight continue.
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
    /// The statistics of the batch up to now. An item counts as finished once the stream has received its outcome.
    pub fn statistics(&self) -> BatchSummary {
        self.shared.summary()
    }

    /// Starts no further item until [`resume`](Self::resume); items in flight continue, including their later calls.
    pub fn pause(&self) {
        self.shared.set_paused(true);
    }

    /// Ends a pause.
    pub fn resume(&self) {
        self.shared.set_paused(false);
    }

    /// Returns `true` if the batch is paused.
    pub fn is_paused(&self) -> bool {
        self.shared.is_paused()
    }

    /// Changes how many items may be in flight. A lower number does not abort items: those in flight finish, and new ones
    /// start once there is room.
    ///
    /// # Panics
    /// If `n` is 0; use [`pause`](Self::pause) to stop the intake.
    #[track_caller]
    pub fn set_concurrency(&self, n: usize) {
        assert_concurrency(n);
        self.shared.set_concurrency(n);
    }

    /// Returns the number of items that may be in flight.
    pub fn concurrency(&self) -> usize {
        self.shared.concurrency()
    }

    /// Ends the batch in its [`stop_mode`](crate::LlmBatch::stop_mode): no new item, no new call. Every accepted item
    /// still has its outcome, so keep polling the stream.
    pub fn stop(&self) {
        self.shared.stop(Termination::Stopped, None);
    }

    /// Ends the batch immediately in any mode, even while it drains: items in flight are aborted, and their
    /// calls may still be billed.
    pub fn cancel(&self) {
        self.shared.stop(Termination::Stopped, Some(StopMode::Cancel));
    }

    /// Returns the reason why the batch ended, or is ending; `None` while it runs.
    pub fn termination(&self) -> Option<Termination> {
        self.shared.termination()
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

/// Panics if the concurrency is 0, which would never start anything.
#[track_caller]
pub(super) fn assert_concurrency(n: usize) {
    assert!(
        n > 0,
        "llm_batch: a concurrency of 0 would start nothing; give at least 1"
    );
}
