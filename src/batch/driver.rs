//! The state machine behind [`LlmBatch`](crate::LlmBatch): slots, stops and outcomes.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use tokio::task::coop::poll_proceed;
use tokio::time::{Instant, Sleep, sleep};
use tracing::Span;

use super::ending::{Failure, close, report_end, text_of};
use super::error::BatchError;
use super::finished::Finished;
use super::handle::{Shared, StopRequest};
use super::outcome::Outcome;
use super::slots::{Slot, Slots};
use super::strategy::{BatchItem, Parts, StrategyError, sealed};
use super::task::{End, ItemFuture};
use super::tasks::{EndedOf, Tasks};
use super::termination::{StopMode, Termination};
use crate::error::{ErrorKind, kind_of, was_sent};
use crate::events::{EventKind, Events};
use crate::item::{Item, ItemId};
use crate::request::LlmRequest;
use crate::telemetry::{Meter, item_span};

/// Items started in one poll at most, so that a long run of ready items leaves the executor to others.
const STARTS_PER_POLL: usize = 128;

pub(super) type OutcomeOf<B> =
    Outcome<<B as BatchItem>::Response, <B as BatchItem>::Error, <B as BatchItem>::Context>;

type BoxFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What the builder methods set.
pub(super) struct Options {
    pub(super) in_order: bool,
    pub(super) reorder_buffer: usize,
    pub(super) timeout: Option<Duration>,
    pub(super) stop_when: Vec<ErrorKind>,
    pub(super) stop_mode: StopMode,
    pub(super) stop_on: Option<BoxFuture>,
    pub(super) on_complete: Option<BoxFuture>,
    pub(super) events: Option<Events>,
    pub(super) meter: Meter,
}

pub(super) struct Driver<B: BatchItem, T: Tasks<B>> {
    pub(super) options: Options,
    pub(super) shared: Arc<Shared>,
    phase: Phase,
    tasks: T,
    slots: Slots<B::Context>,
    finished: Finished<OutcomeOf<B>>,
    accepted: u64,
    timer: Option<Pin<Box<Sleep>>>,
    stop: Option<Stop>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    New,
    Running,
    Completing,
    Done,
}

/// The batch is stopping.
struct Stop {
    mode: StopMode,
    reason: String,
}

impl<B: BatchItem, T: Tasks<B>> Driver<B, T> {
    pub(super) fn new(concurrency: usize) -> Self {
        Self {
            options: Options {
                in_order: false,
                reorder_buffer: 0,
                timeout: None,
                stop_when: Vec::new(),
                stop_mode: StopMode::default(),
                stop_on: None,
                on_complete: None,
                events: None,
                meter: Meter::new(None),
            },
            shared: Shared::new(concurrency),
            phase: Phase::New,
            tasks: T::new(),
            slots: Slots::default(),
            finished: Finished::default(),
            accepted: 0,
            timer: None,
            stop: None,
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// Items in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.slots.len
    }

    /// Items with an outcome that was not taken.
    pub(super) fn untaken(&self) -> usize {
        self.finished.len
    }

    fn emit(&self, item: Option<&Item>, make: impl FnOnce() -> EventKind) {
        if let Some(events) = &self.options.events {
            events.emit(item, make);
        }
    }

    /// Whether another item may start: in flight and finished-but-not-taken together stay within the limit.
    fn has_room(&self) -> bool {
        let limit = self.shared.concurrency();
        let parked = if self.options.in_order {
            self.options.reorder_buffer
        } else {
            0
        };
        self.slots.len < limit && self.slots.len + self.finished.len < limit.saturating_add(parked)
    }
}

impl<B: BatchItem, T: Tasks<B>> Driver<B, T>
where
    B::Error: StrategyError,
{
    pub(super) fn poll_next<St: Stream<Item = B>>(
        &mut self,
        mut source: Pin<&mut Option<St>>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<OutcomeOf<B>>> {
        // First, so that what a handle sets from here on wakes the task.
        self.shared.register(cx.waker());
        if self.phase == Phase::New {
            self.start_batch(size_of(source.as_ref()));
        }
        if self.phase == Phase::Running {
            self.poll_stop(source.as_mut(), cx);
            if let Poll::Ready(outcome) = self.poll_items(source.as_mut(), cx) {
                return Poll::Ready(Some(outcome));
            }
            if source.is_some() || self.slots.len > 0 {
                return Poll::Pending;
            }
            self.end_batch();
        }
        if let Some(on_complete) = &mut self.options.on_complete {
            ready!(on_complete.as_mut().poll(cx));
            self.options.on_complete = None;
        }
        self.phase = Phase::Done;
        Poll::Ready(None)
    }

    fn start_batch(&mut self, size: (usize, Option<usize>)) {
        self.phase = Phase::Running;
        self.finished.in_order = self.options.in_order;
        self.timer = self.options.timeout.map(|limit| Box::pin(sleep(limit)));
        let mut statistics = self.shared.statistics();
        statistics.start(Instant::now());
        statistics.set_remaining(size);
        drop(statistics);
        self.emit(None, || EventKind::BatchStarted {
            expected: size.1.map(|upper| upper as u64),
        });
    }

    fn end_batch(&mut self) {
        self.phase = Phase::Completing;
        self.timer = None;
        self.options.stop_on = None;
        let mut statistics = self.shared.statistics();
        statistics.terminate(Termination::Completed);
        statistics.end(Instant::now());
        drop(statistics);
        self.emit(None, || match &self.stop {
            None => EventKind::BatchCompleted,
            Some(stop) => EventKind::BatchAborted {
                reason: stop.reason.clone(),
            },
        });
    }

    /// Sees whether something asks for a stop, or for a harder one.
    fn poll_stop<St: Stream<Item = B>>(&mut self, source: Pin<&mut Option<St>>, cx: &mut Context<'_>) {
        let mode = self.options.stop_mode;
        let stop = match (&self.stop, self.shared.stop_request()) {
            (Some(stop), _) if stop.mode == StopMode::Cancel => return,
            (_, Some(StopRequest::Cancel)) => Some((Termination::Stopped, StopMode::Cancel)),
            (Some(_), _) => return,
            (None, Some(StopRequest::Stop)) => Some((Termination::Stopped, mode)),
            (None, None) => None,
        };
        let stop = stop.or_else(|| {
            let stop_on = self.options.stop_on.as_mut()?;
            stop_on.as_mut().poll(cx).is_ready().then(|| {
                self.options.stop_on = None;
                (Termination::Stopped, mode)
            })
        });
        let stop = stop.or_else(|| {
            let timer = self.timer.as_mut()?;
            timer.as_mut().poll(cx).is_ready().then(|| {
                self.timer = None;
                (Termination::BatchTimeout, mode)
            })
        });
        if let Some((cause, mode)) = stop {
            self.stop(source, cause, mode);
        }
    }

    /// Takes no further item and ends what is in flight, according to `mode`. The first cause is kept.
    fn stop<St: Stream<Item = B>>(
        &mut self,
        mut source: Pin<&mut Option<St>>,
        cause: Termination,
        mode: StopMode,
    ) {
        let reason = match self.stop.take() {
            Some(stop) => stop.reason,
            None => {
                let left = source.as_ref().as_pin_ref().map(|source| source.size_hint());
                let mut statistics = self.shared.statistics();
                statistics.terminate(cause);
                if let Some(left) = left {
                    statistics.set_not_reached(left);
                    statistics.set_remaining((0, Some(0)));
                }
                cause.to_string()
            }
        };
        self.stop = Some(Stop { mode, reason });
        let slots = &self.slots;
        self.tasks.abort(|slot| {
            let under_way = slots.get(slot).is_some_and(|slot| slot.item.request_stop());
            mode == StopMode::Cancel || !under_way
        });
        source.set(None);
    }

    /// Starts what there is room for and gives the next outcome.
    fn poll_items<St: Stream<Item = B>>(
        &mut self,
        mut source: Pin<&mut Option<St>>,
        cx: &mut Context<'_>,
    ) -> Poll<OutcomeOf<B>> {
        let mut starts = 0;
        let mut intake_over = false;
        loop {
            while !intake_over && source.is_some() && self.has_room() && !self.shared.is_paused() {
                if starts == STARTS_PER_POLL {
                    intake_over = true;
                    cx.waker().wake_by_ref();
                    break;
                }
                let Poll::Ready(coop) = poll_proceed(cx) else {
                    intake_over = true;
                    break;
                };
                match self.poll_source(source.as_mut(), cx) {
                    Poll::Ready(Some(item)) => {
                        coop.made_progress();
                        starts += 1;
                        let size = size_of(source.as_ref());
                        if let Some(kind) = self.accept(item, size) {
                            self.fail_fast(source.as_mut(), kind);
                        }
                    }
                    Poll::Ready(None) => {
                        self.shared.statistics().set_remaining((0, Some(0)));
                        source.set(None);
                    }
                    Poll::Pending => intake_over = true,
                }
            }
            if let Some((outcome, at)) = self.finished.take() {
                self.shared.statistics().taken_after(at.elapsed());
                return Poll::Ready(outcome);
            }
            let (slot, ended) = ready!(self.tasks.poll_ended(cx));
            if let Some(Slot { item, context }) = self.slots.remove(slot)
                && let Some(kind) = self.finish(&item, context, ended)
            {
                self.fail_fast(source.as_mut(), kind);
            }
        }
    }

    /// The source's next item. Its panic goes on to the consumer, after the rest was aborted.
    fn poll_source<St: Stream<Item = B>>(
        &mut self,
        mut source: Pin<&mut Option<St>>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<B>> {
        let polled = catch_unwind(AssertUnwindSafe(|| match source.as_mut().as_pin_mut() {
            Some(source) => source.poll_next(cx),
            None => Poll::Ready(None),
        }));
        polled.unwrap_or_else(|panic| {
            self.stop(source, Termination::SourcePanicked, StopMode::Cancel);
            resume_unwind(panic)
        })
    }

    fn fail_fast<St: Stream<Item = B>>(&mut self, source: Pin<&mut Option<St>>, kind: ErrorKind) {
        if self.stop.is_none() && self.options.stop_when.contains(&kind) {
            self.stop(source, Termination::FailFast, self.options.stop_mode);
        }
    }

    /// Starts an item. One whose input could not be read has its outcome at once; then its kind is returned.
    fn accept(&mut self, item: B, size: (usize, Option<usize>)) -> Option<ErrorKind> {
        let Parts {
            id,
            input,
            context,
            strategy,
        } = item.into_parts(sealed::Token);
        let index = self.accepted;
        self.accepted += 1;
        let item = Item::new(id.unwrap_or(ItemId::Index(index)), index);
        let mut statistics = self.shared.statistics();
        statistics.accept();
        statistics.set_remaining(size);
        drop(statistics);
        self.options.meter.item_started();
        self.emit(Some(&item), || EventKind::ItemStarted);
        match input {
            Ok(input) => {
                let request = LlmRequest::for_item(input, Arc::clone(&item));
                let mut span = item_span(&item);
                if span.is_disabled() {
                    span = Span::current();
                }
                let future = ItemFuture::new(strategy, request, Arc::clone(&item), span);
                let slot = self.slots.insert(Slot { item, context });
                self.tasks.start(slot, future);
                None
            }
            Err(error) => {
                let message = error.to_string();
                let error = BatchError::Source(error);
                let failure = Failure {
                    kind: error.kind(),
                    message: Some(message),
                };
                self.publish(&item, context, Err(error.into()), Some(failure), Instant::now())
            }
        }
    }

    /// Makes the outcome of an item that ran. Returns the kind of its failure.
    fn finish(&mut self, item: &Item, context: B::Context, ended: EndedOf<B>) -> Option<ErrorKind> {
        let of_driver = |error: BatchError| {
            let failure = Failure {
                kind: error.kind(),
                message: Some(error.to_string()),
            };
            (Err(error.into()), Some(failure))
        };
        let (result, failure): (Result<B::Response, B::Error>, _) = match ended.end {
            End::Answered(Ok(response)) => (Ok(response), None),
            End::Answered(Err(error)) => {
                let failure = Failure {
                    kind: kind_of(&error),
                    message: None,
                };
                (Err(error), Some(failure))
            }
            End::Panicked(message) => of_driver(BatchError::Panicked { message }),
            End::Aborted => {
                let reason = match &self.stop {
                    Some(stop) => stop.reason.clone(),
                    None => "its task was dropped with the runtime".to_owned(),
                };
                of_driver(BatchError::Aborted { reason })
            }
        };
        self.publish(item, context, result, failure, ended.at)
    }

    /// Closes an item's accounts and puts its outcome where the consumer takes it.
    fn publish(
        &mut self,
        item: &Item,
        context: B::Context,
        result: Result<B::Response, B::Error>,
        failure: Option<Failure>,
        at: Instant,
    ) -> Option<ErrorKind> {
        let kind = failure.as_ref().map(|failure| failure.kind);
        let sent = result.as_ref().err().is_none_or(was_sent);
        let report = close(item, at, sent);
        self.shared.statistics().finish(item, &report, kind);
        report_end(&self.options, item, at, report, failure, || {
            result.as_ref().err().and_then(text_of)
        });
        let outcome = Outcome {
            index: item.index(),
            id: item.id().clone(),
            context,
            result,
            report,
        };
        self.finished.put(outcome.index, outcome, at);
        kind
    }
}

/// How many more items the source has.
fn size_of<St: Stream>(source: Pin<&Option<St>>) -> (usize, Option<usize>) {
    source
        .as_pin_ref()
        .map_or((0, Some(0)), |source| source.size_hint())
}

/// The stream was dropped: nobody takes outcomes any more, but the accounts and the events are complete.
impl<B: BatchItem, T: Tasks<B>> Drop for Driver<B, T> {
    fn drop(&mut self) {
        if matches!(self.phase, Phase::Completing | Phase::Done) {
            return;
        }
        self.tasks.abort(|_| true);
        let at = Instant::now();
        let reason = Termination::Dropped.to_string();
        let mut statistics = self.shared.statistics();
        statistics.terminate(Termination::Dropped);
        statistics.end(at);
        drop(statistics);
        for Slot { item, .. } in self.slots.drain() {
            let report = close(&item, at, true);
            let kind = ErrorKind::Aborted;
            self.shared.statistics().finish(&item, &report, Some(kind));
            let failure = Failure {
                kind,
                message: Some(reason.clone()),
            };
            report_end(&self.options, &item, at, report, Some(failure), || None);
        }
        if self.phase == Phase::Running {
            self.emit(None, || EventKind::BatchAborted { reason });
        }
    }
}
