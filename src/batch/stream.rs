//! The stream of outcomes and its options.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::{FusedStream, Stream};
use pin_project::pin_project;

use super::driver::{Driver, OutcomeOf, Phase};
use super::handle::{BatchHandle, assert_concurrency};
use super::result::BatchResult;
use super::strategy::{BatchItem, StrategyError};
use super::summary::BatchSummary;
use super::tasks::{Placement, Spawned};
use super::termination::StopMode;
use crate::error::ErrorKind;
use crate::events::Events;
use crate::telemetry::Meter;

type ResponseOf<St> = <<St as Stream>::Item as BatchItem>::Response;
type ErrorOf<St> = <<St as Stream>::Item as BatchItem>::Error;
type ContextOf<St> = <<St as Stream>::Item as BatchItem>::Context;

/// The stream of [`Outcome`](crate::Outcome)s that [`llm_batch`](crate::LlmStreamExt::llm_batch) and
/// [`llm_batch_local`](crate::LlmStreamExt::llm_batch_local) return.
///
/// It is driven by being polled: it pulls an item from the source only when a slot is free, starts it, and yields
/// outcomes as items finish. Items in flight and finished items not yet taken are never more than the
/// concurrency together, so a consumer that stops polling stops the spending. Dropping it aborts everything in flight; see
/// [the module](crate::batch) for what that may cost.
///
/// The methods that take `self` set options; use them before the first poll.
#[pin_project]
#[must_use = "streams do nothing unless polled"]
pub struct LlmBatch<St, P = Spawned>
where
    St: Stream,
    St::Item: BatchItem,
    P: Placement<St::Item>,
{
    // Boxed, so that the batch is `Unpin` over any source, and `results.next()` works.
    source: Pin<Box<Option<St>>>,
    driver: Driver<St::Item, P::Tasks>,
}

impl<St, P> LlmBatch<St, P>
where
    St: Stream,
    St::Item: BatchItem,
    P: Placement<St::Item>,
{
    #[track_caller]
    pub(super) fn new(source: St, concurrency: usize) -> Self {
        assert_concurrency(concurrency);
        Self {
            source: Box::pin(Some(source)),
            driver: Driver::new(concurrency),
        }
    }

    /// Yields outcomes in the order of the input. Without a [`reorder_buffer`](Self::reorder_buffer) the slots of items that
    /// finish behind a slow item at the head stay idle until it finishes.
    pub fn in_order(mut self) -> Self {
        self.driver.options.in_order = true;
        self
    }

    /// With [`in_order`](Self::in_order): buffers up to `outcomes` finished outcomes beyond the concurrency in memory behind a slow
    /// item at the head, so that the slots do not stay idle. Default 0.
    pub fn reorder_buffer(mut self, outcomes: usize) -> Self {
        self.driver.options.reorder_buffer = outcomes;
        self
    }

    /// Stops the batch this long after its first poll; no limit by default. It runs on its own task, so it takes effect on time
    /// even while the consumer is busy elsewhere; with `llm_batch_local`, when the stream is polled. A batch whose items have all
    /// ended by then is complete.
    ///
    /// With [`StopMode::Drain`], the default, calls under way still finish.
    pub fn batch_timeout(mut self, limit: Duration) -> Self {
        self.driver.options.timeout = Some(limit);
        self
    }

    /// Fails fast: stops the batch when an item has finally failed with one of these kinds. A failed call that is
    /// retried does not stop it. Neither does an error that concerns its item alone, such as an unknown model that only this prompt
    /// requested: a kind whose default is [`Disposition::ScopeFatal`](crate::Disposition::ScopeFatal) in an error with
    /// [`Disposition::Fatal`](crate::Disposition::Fatal).
    pub fn stop_when(mut self, kinds: impl IntoIterator<Item = ErrorKind>) -> Self {
        self.driver.options.stop_when.extend(kinds);
        self
    }

    /// Sets the effect of a stop on the items in flight. Default [`StopMode::Drain`].
    pub fn stop_mode(self, mode: StopMode) -> Self {
        self.driver.shared.set_stop_mode(mode);
        self
    }

    /// Stops the batch when `signal` completes; its output is ignored. It runs on its own task, so that the stop takes effect
    /// immediately; with `llm_batch_local` it is polled with the stream. A signal that panics does not stop the batch; its panic
    /// reaches the consumer once.
    ///
    /// ```no_run
    /// # use futures::{Stream, StreamExt};
    /// # use llm_batch::{LlmStreamExt, BoxStrategy};
    /// # fn run(prompts: impl Stream<Item = String> + Unpin, strategy: BoxStrategy) {
    /// let results = prompts.with_strategy(strategy).llm_batch(10).stop_on(tokio::signal::ctrl_c());
    /// # }
    /// ```
    pub fn stop_on(mut self, signal: impl Future + Send + 'static) -> Self {
        self.driver.options.stop_on = Some(Box::pin(async move {
            signal.await;
        }));
        self
    }

    /// Runs `work` once, after the last outcome was taken and before the stream ends, to close resources that the strategies
    /// share. It runs after an early stop too. If the stream is dropped before its end, `work` runs in a task of the runtime, once
    /// all items have ended, provided that the runtime still runs; [`close`](Self::close) waits for it. It does not run if
    /// the stream was never polled. Its panic reaches the consumer once, or is logged if the stream was dropped.
    pub fn on_complete(mut self, work: impl Future<Output = ()> + Send + 'static) -> Self {
        self.driver.options.on_complete = Some(Box::pin(work));
        self
    }

    /// Sends the batch's events and those of its items to `events`. Give clones of the same handle to the layers.
    pub fn events(mut self, events: &Events) -> Self {
        self.driver.options.events = Some(events.clone());
        self
    }

    /// The value of the label `batch` in metrics. Default `default`.
    pub fn name(mut self, name: &str) -> Self {
        self.driver.options.meter = Meter::new(Some(name));
        self
    }

    /// Ends the batch early: cancels the items in flight, drops the outcomes that were not taken, and runs
    /// [`on_complete`](Self::on_complete) to its end. The account remains available through the [handle](Self::handle).
    ///
    /// # Panics
    /// If the work of `on_complete` or the source panics.
    ///
    /// # Cancel safety
    /// Dropping it is the same as dropping the stream.
    pub async fn close(self)
    where
        St::Item: BatchItem<Error: StrategyError>,
    {
        self.handle().cancel();
        let mut stream = std::pin::pin!(self);
        while std::future::poll_fn(|cx| stream.as_mut().poll_next(cx))
            .await
            .is_some()
        {}
    }

    /// Returns a handle to monitor and control the batch, even after the stream was consumed.
    pub fn handle(&self) -> BatchHandle {
        BatchHandle {
            shared: self.driver.shared.clone(),
        }
    }

    /// Runs the batch to its end and keeps every outcome, in the order of the input: for batches that fit in memory.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// use futures::stream;
    /// use llm_batch::{LlmError, LlmRequest, LlmResponse, LlmStreamExt};
    /// use tower::service_fn;
    ///
    /// let model = service_fn(async |request: LlmRequest| match request.index() {
    ///     1 => Err(LlmError::fatal("no")),
    ///     index => Ok(LlmResponse::new(format!("answer {index}"))),
    /// });
    /// let prompts = stream::iter([("a", "?"), ("b", "?"), ("c", "?")]);
    /// let result = prompts.with_strategy(model).llm_batch(10).into_result().await;
    /// assert_eq!(result.successes().map(|(outcome, _)| outcome.index).collect::<Vec<_>>(), [0, 2]);
    /// assert_eq!(result.by_id()["c"].response().unwrap().output, "answer 2");
    /// println!("{}", result.summary);
    /// # }
    /// ```
    ///
    /// # Cancel safety
    /// Dropping it before its end drops the batch and the outcomes collected so far.
    pub async fn into_result(mut self) -> BatchResult<ResponseOf<St>, ErrorOf<St>, ContextOf<St>>
    where
        St::Item: BatchItem<Error: StrategyError>,
    {
        let mut outcomes = Vec::with_capacity(self.size_hint().1.unwrap_or(0).min(1 << 16));
        while let Some(outcome) = poll_fn(|cx| Pin::new(&mut self).poll_next(cx)).await {
            outcomes.push(outcome);
        }
        outcomes.sort_by_key(|outcome| outcome.index);
        BatchResult {
            outcomes,
            summary: self.summary(),
        }
    }

    /// The account of the batch up to now.
    pub fn summary(&self) -> BatchSummary {
        self.driver.shared.summary()
    }
}

impl<St, P> Stream for LlmBatch<St, P>
where
    St: Stream,
    St::Item: BatchItem<Error: StrategyError>,
    P: Placement<St::Item>,
{
    type Item = OutcomeOf<St::Item>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.project();
        this.driver.poll_next(this.source.as_mut(), cx)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // A stop may come at any time, so only the accepted items are certain.
        let accepted = self.driver.in_flight() + self.driver.untaken();
        let left = self
            .source
            .as_ref()
            .as_pin_ref()
            .map_or(Some(0), |source| source.size_hint().1);
        (accepted, left.and_then(|left| left.checked_add(accepted)))
    }
}

impl<St, P> FusedStream for LlmBatch<St, P>
where
    St: Stream,
    St::Item: BatchItem<Error: StrategyError>,
    P: Placement<St::Item>,
{
    fn is_terminated(&self) -> bool {
        self.driver.phase() == Phase::Done
    }
}

impl<St, P> fmt::Debug for LlmBatch<St, P>
where
    St: Stream,
    St::Item: BatchItem,
    P: Placement<St::Item>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LlmBatch")
            .field("phase", &self.driver.phase())
            .field("in_flight", &self.driver.in_flight())
            .field("untaken", &self.driver.untaken())
            .finish_non_exhaustive()
    }
}
