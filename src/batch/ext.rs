//! The combinators.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use pin_project::pin_project;

use super::strategy::{BatchItem, StrategyError};
use super::stream::LlmBatch;
use super::tasks::{InPlace, Spawned};
use super::work_item::{IntoWorkItem, WorkItem};

/// The methods that this crate adds to every [`Stream`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use futures::{StreamExt, stream};
/// use llm_batch::{LlmError, LlmRequest, LlmResponse, LlmStreamExt};
/// use tower::service_fn;
///
/// let model = service_fn(async |request: LlmRequest| {
///     Ok::<_, LlmError>(LlmResponse::new(format!("answer {}", request.index())))
/// });
/// let prompts = ["one", "two", "three"];
///
/// let mut results = stream::iter(prompts).with_strategy(model).llm_batch(10);
/// while let Some(outcome) = results.next().await {
///     println!("{}: {}", outcome.id, outcome.result.unwrap().output);
/// }
/// println!("{}", results.summary());
/// # }
/// ```
pub trait LlmStreamExt: Stream + sealed::Sealed {
    /// Converts every item into a [`WorkItem`](crate::WorkItem) and attaches a clone of `strategy` to it.
    fn with_strategy<S>(self, strategy: S) -> WithStrategy<Self, S>
    where
        Self: Sized,
        Self::Item: IntoWorkItem,
        S: Clone,
    {
        WithStrategy {
            source: self,
            strategy,
        }
    }

    /// Runs the items through their strategies, at most `n` at a time, and yields an [`Outcome`](crate::Outcome) for
    /// each, as they finish.
    ///
    /// `n` counts **items**, including those that wait or back off; the limiter's `max_in_flight` counts calls. Each item
    /// runs on its own tokio task, so it makes progress while the consumer is busy. See
    /// [the module](crate::batch) for stopping and cancel safety.
    ///
    /// # Panics
    /// If `n` is 0. When polled outside a tokio runtime.
    #[track_caller]
    fn llm_batch(self, n: usize) -> LlmBatch<Self>
    where
        Self: Sized,
        Self::Item: BatchItem<
                Error: StrategyError,
                Future: Send + 'static, // is yours not? `llm_batch_local` runs it in this task
                Input: Send + 'static,
                Strategy: Send + 'static,
                Response: Send + 'static,
            >,
    {
        LlmBatch::<Self, Spawned>::new(self, n)
    }

    /// Like [`llm_batch`](Self::llm_batch), in the consumer's own task: for strategies that are not `Send` or that borrow.
    ///
    /// **Items make progress only while the stream is polled.** If the loop body awaits something long, calls in
    /// flight stand still: they time out although the provider has answered long ago, and a body that waits for a
    /// permit held by such a call deadlocks. Use [`llm_batch`](Self::llm_batch) wherever it compiles; here, keep
    /// the loop body short or hand outcomes to another task.
    ///
    /// # Panics
    /// If `n` is 0.
    #[track_caller]
    fn llm_batch_local(self, n: usize) -> LlmBatch<Self, InPlace>
    where
        Self: Sized,
        Self::Item: BatchItem<Error: StrategyError>,
    {
        LlmBatch::new(self, n)
    }
}

impl<St: Stream> LlmStreamExt for St {}

mod sealed {
    pub trait Sealed {}
    impl<St: futures_core::Stream> Sealed for St {}
}

/// The stream of [`with_strategy`](LlmStreamExt::with_strategy).
#[pin_project]
#[derive(Clone)]
#[must_use = "streams do nothing unless polled"]
pub struct WithStrategy<St, S> {
    #[pin]
    source: St,
    strategy: S,
}

impl<St, S> Stream for WithStrategy<St, S>
where
    St: Stream,
    St::Item: IntoWorkItem,
    S: Clone,
{
    type Item = WorkItem<<St::Item as IntoWorkItem>::Input, <St::Item as IntoWorkItem>::Context, S>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.project();
        this.source
            .poll_next(cx)
            .map(|item| item.map(|item| item.into_work_item().with_strategy(this.strategy.clone())))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.source.size_hint()
    }
}

impl<St: fmt::Debug, S> fmt::Debug for WithStrategy<St, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WithStrategy")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}
