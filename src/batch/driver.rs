//! The state machine behind [`LlmBatch`](crate::LlmBatch): slots, stops and outcomes.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use tokio::task::coop::poll_proceed;
use tokio::time::Instant;
use tracing::Span;

use super::ending::{Failure, caught_text, judge, report_end, text_of};
use super::finished::Finished;
use super::options::{BoxFuture, Options};
use super::outcome::Outcome;
use super::shared::Shared;
use super::slots::{Slot, Slots};
use super::strategy::{BatchItem, Parts, StrategyError, sealed};
use super::task::{End, FailFast, ItemFuture};
use super::tasks::{EndedOf, Tasks};
use super::termination::{StopMode, Termination};
use crate::error::{BatchError, ErrorKind};
use crate::events::EventKind;
use crate::item::{CallsInside, Item, ItemId, ItemReport};
use crate::request::LlmRequest;
use crate::telemetry::item_span;

/// The maximum number of items started in one poll, so that a long run of ready items does not block the executor.
const STARTS_PER_POLL: usize = 128;

pub(super) type OutcomeOf<B> =
    Outcome<<B as BatchItem>::Response, <B as BatchItem>::Error, <B as BatchItem>::Context>;

pub(super) struct Driver<B: BatchItem, T: Tasks<B>> {
    pub(super) options: Options,
    pub(super) shared: Arc<Shared>,
    phase: Phase,
    tasks: T,
    slots: Slots<B::Context>,
    finished: Finished<OutcomeOf<B>>,
    accepted: u64,
    /// Something stops the batch, and may panic.
    has_signal: bool,
    /// That, polled here where no task of its own does it.
    signal: Option<BoxFuture>,
    fail_fast: Option<Arc<FailFast>>,
    calls_inside: CallsInside,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    New,
    Running,
    Completing,
    Done,
}

impl<B: BatchItem, T: Tasks<B>> Driver<B, T> {
    pub(super) fn new(concurrency: usize) -> Self {
        Self {
            options: Options::new(),
            shared: Shared::new(concurrency),
            phase: Phase::New,
            tasks: T::new(),
            slots: Slots::default(),
            finished: Finished::default(),
            accepted: 0,
            has_signal: false,
            signal: None,
            fail_fast: None,
            calls_inside: CallsInside::default(),
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// Items in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.slots.len
    }

    /// Items whose outcome was not taken yet.
    pub(super) fn untaken(&self) -> usize {
        self.finished.len
    }

    fn emit(&self, item: Option<&Item>, make: impl FnOnce() -> EventKind) {
        if let Some(events) = &self.options.events {
            events.emit(item, make);
        }
    }

    /// Checks the running items for calls begun inside.
    fn look_for_calls_inside(&self) {
        if !self.calls_inside.begin() && self.slots.items().any(|item| item.has_begun()) {
            self.calls_inside.saw_begun();
        }
    }

    /// Returns `true` if another item may start while `untaken` outcomes wait to be taken.
    fn may_start(&self, untaken: usize) -> bool {
        self.has_room(untaken) && !self.shared.is_paused()
    }

    /// Returns `true` if one more item keeps those in flight plus the `untaken` ones within the limit.
    fn has_room(&self, untaken: usize) -> bool {
        let limit = self.shared.concurrency();
        let parked = if self.options.in_order {
            self.options.reorder_buffer
        } else {
            0
        };
        self.slots.len < limit && self.slots.len + untaken < limit.saturating_add(parked)
    }
}

impl<B: BatchItem, T: Tasks<B>> Driver<B, T>
where
    B::Error: StrategyError,
{
    pub(super) fn poll_next<St: Stream<Item = B>>(
        &mut self,
        source: Pin<&mut Option<St>>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<OutcomeOf<B>>> {
        // First, so that any later change through a handle wakes the task.
        self.shared.register(cx.waker());
        if self.phase == Phase::New {
            self.start_batch(size_of(source.as_ref()));
        }
        if self.phase == Phase::Running {
            self.poll_signal(cx);
            return self.poll_items(source, cx);
        }
        self.poll_complete(cx)
    }

    /// Runs what follows the last outcome.
    fn poll_complete(&mut self, cx: &mut Context<'_>) -> Poll<Option<OutcomeOf<B>>> {
        if let Some(work) = &mut self.options.on_complete {
            let worked = ready!(poll_caught(work.as_mut(), cx));
            self.options.on_complete = None;
            if let Err(panic) = worked {
                self.phase = Phase::Done;
                resume_unwind(panic);
            }
        }
        self.phase = Phase::Done;
        Poll::Ready(None)
    }

    fn start_batch(&mut self, size: (usize, Option<usize>)) {
        self.phase = Phase::Running;
        self.finished.in_order = self.options.in_order;
        self.shared.start_batch(Instant::now(), size);
        let kinds = std::mem::take(&mut self.options.stop_when);
        if !kinds.is_empty() {
            self.fail_fast = Some(Arc::new(FailFast {
                kinds,
                shared: Arc::clone(&self.shared),
            }));
        }
        let signal = self.options.stop_signal(&self.shared);
        self.has_signal = signal.is_some();
        self.signal = signal.and_then(|signal| self.tasks.watch(signal));
        self.emit(None, || EventKind::BatchStarted {
            expected: size.1.map(|upper| upper as u64),
        });
    }

    fn end_batch(&mut self) {
        self.phase = Phase::Completing;
        self.signal = None;
        self.tasks.end_watch();
        self.shared.end_batch(Instant::now(), Termination::Completed);
        self.emit(None, || match self.shared.stop_cause() {
            None | Some(Termination::Completed) => EventKind::BatchCompleted,
            Some(cause) => EventKind::BatchAborted {
                reason: cause.to_string(),
            },
        });
    }

    /// Polls the stop signal. Its panic is passed to the consumer, once, and does not stop the batch.
    fn poll_signal(&mut self, cx: &mut Context<'_>) {
        if !self.has_signal {
            return;
        }
        if let Some(signal) = &mut self.signal
            && signal.as_mut().poll(cx).is_ready()
        {
            self.signal = None;
        }
        if let Some(panic) = self.shared.take_panic() {
            resume_unwind(panic);
        }
    }

    /// After a stop no further item is taken.
    fn leave_source<St: Stream<Item = B>>(&mut self, mut source: Pin<&mut Option<St>>) {
        if self.shared.is_stopping()
            && let Some(left) = source.as_ref().as_pin_ref()
        {
            self.shared.end_source(Some(left.size_hint()));
            source.set(None);
        }
    }

    /// Starts what there is room for and gives the next outcome. After the last one it ends the batch.
    fn poll_items<St: Stream<Item = B>>(
        &mut self,
        mut source: Pin<&mut Option<St>>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<OutcomeOf<B>>> {
        let mut starts = 0;
        let mut intake_over = false;
        loop {
            self.leave_source(source.as_mut());
            while !intake_over && source.is_some() && self.may_start(self.finished.len) {
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
                        self.accept(item, size);
                        self.leave_source(source.as_mut());
                    }
                    Poll::Ready(None) => {
                        self.shared.end_source(None);
                        source.set(None);
                    }
                    Poll::Pending => intake_over = true,
                }
            }
            if let Some((outcome, at)) = self.finished.take() {
                self.shared.taken_after(at.elapsed());
                return Poll::Ready(Some(outcome));
            }
            let Poll::Ready(Some(ended)) = self.tasks.poll_ended(cx) else {
                if source.is_some() || self.slots.len > 0 {
                    return Poll::Pending;
                }
                self.end_batch();
                return self.poll_complete(cx);
            };
            let Some(Slot { item, context }) = self.slots.remove(ended.slot) else {
                continue;
            };
            let at = ended.at;
            let outcome = self.finish(&item, context, ended);
            self.leave_source(source.as_mut());
            // As a rule nothing starts before it is taken, and it takes no place among the others.
            let starts = !intake_over && source.is_some() && self.may_start(1);
            if self.options.in_order || starts {
                self.finished.put(outcome.index, outcome, at);
                continue;
            }
            if !T::END_IN_POLL {
                self.shared.taken_after(at.elapsed());
            }
            return Poll::Ready(Some(outcome));
        }
    }

    /// The source's next item. Its panic is passed to the consumer, after the other items were aborted.
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
            self.shared
                .stop(Termination::SourcePanicked, Some(StopMode::Cancel));
            self.leave_source(source);
            resume_unwind(panic)
        })
    }

    /// Starts an item. An item whose input could not be read gets its outcome without running.
    fn accept(&mut self, item: B, size: (usize, Option<usize>)) {
        let Parts {
            id,
            input,
            context,
            strategy,
        } = item.into_parts(sealed::Token);
        let index = self.accepted;
        self.accepted += 1;
        let item = Item::new(id.unwrap_or(ItemId::Index(index)), index);
        self.options.meter.item_started();
        match input {
            Ok(input) => {
                let slot = self.slots.insert(Slot {
                    item: Arc::clone(&item),
                    context,
                });
                self.shared.accept(size, Some((slot, &item)));
                self.emit(Some(&item), || EventKind::ItemStarted);
                let request = LlmRequest::of_driver(input, Arc::clone(&item));
                let mut span = item_span(&item);
                if span.is_disabled() {
                    span = Span::current();
                }
                let fail_fast = self.fail_fast.clone();
                let future = ItemFuture::new(slot, strategy, request, item, span, fail_fast);
                self.tasks.start(Box::pin(future));
            }
            Err(error) => {
                self.shared.accept(size, None);
                self.emit(Some(&item), || EventKind::ItemStarted);
                let message = caught_text(&error);
                let at = Instant::now();
                let outcome = self.fail(None, &item, context, BatchError::Source(error), message, at);
                self.finished.put(outcome.index, outcome, at);
                if let Some(fail_fast) = &self.fail_fast {
                    fail_fast.see(ErrorKind::Source);
                }
            }
        }
    }

    /// Makes the outcome of an item that ran.
    fn finish(&self, item: &Item, context: B::Context, ended: EndedOf<B>) -> OutcomeOf<B> {
        let (slot, at) = (Some(ended.slot), ended.at);
        let settle = |sent: Option<bool>, answered| {
            if sent.is_none() {
                self.look_for_calls_inside();
            }
            item.settle_ended(&self.calls_inside, sent, answered, at);
        };
        let error = match ended.end {
            End::Answered(result) => {
                let failure = match &result {
                    Ok(_) => {
                        settle(Some(true), true);
                        None
                    }
                    Err(error) => {
                        let (kind, sent) = judge(error);
                        settle(sent, false);
                        Some(Failure { kind, message: None })
                    }
                };
                let text = || result.as_ref().err().and_then(text_of);
                let report = self.publish(slot, item, failure, at, text);
                return outcome(item, context, result, report);
            }
            End::Panicked(message) => {
                settle(None, false);
                BatchError::Panicked { message }
            }
            End::Aborted => {
                settle(None, false);
                let reason = match self.shared.stop_cause() {
                    Some(cause) => cause.to_string(),
                    None if item.signals().deadline_missed() => "its deadline has passed".to_owned(),
                    None => "its task was dropped with the runtime".to_owned(),
                };
                BatchError::Aborted { reason }
            }
        };
        let message = error.to_string();
        self.fail(slot, item, context, error, message, at)
    }

    /// Makes the outcome of an item that has no answer of its strategy.
    fn fail(
        &self,
        slot: Option<usize>,
        item: &Item,
        context: B::Context,
        error: BatchError,
        message: String,
        at: Instant,
    ) -> OutcomeOf<B> {
        let failure = Failure {
            kind: error.kind(),
            message: Some(message),
        };
        let report = self.publish(slot, item, Some(failure), at, || None);
        // Last, as it may be code of the user's.
        outcome(item, context, Err(error.into()), report)
    }

    /// Closes an item's accounts and reports its end.
    fn publish(
        &self,
        slot: Option<usize>,
        item: &Item,
        failure: Option<Failure>,
        at: Instant,
        text: impl FnOnce() -> Option<String>,
    ) -> ItemReport {
        let kind = failure.as_ref().map(|failure| failure.kind);
        let report = self.shared.finish(slot, item, at, kind);
        report_end(&self.options, item, at, &report, failure, text);
        report
    }
}

fn outcome<R, E, C>(item: &Item, context: C, result: Result<R, E>, report: ItemReport) -> Outcome<R, E, C> {
    Outcome {
        index: item.index(),
        id: item.id().clone(),
        context,
        result,
        report,
    }
}

/// One poll of work that may panic.
fn poll_caught(
    work: Pin<&mut (dyn Future<Output = ()> + Send)>,
    cx: &mut Context<'_>,
) -> Poll<std::thread::Result<()>> {
    match catch_unwind(AssertUnwindSafe(|| work.poll(cx))) {
        Ok(polled) => polled.map(Ok),
        Err(panic) => Poll::Ready(Err(panic)),
    }
}

/// The number of items that the source still has.
fn size_of<St: Stream>(source: Pin<&Option<St>>) -> (usize, Option<usize>) {
    source
        .as_pin_ref()
        .map_or((0, Some(0)), |source| source.size_hint())
}

/// The stream was dropped, and its outcomes with it; this completes the accounts and the events.
impl<B: BatchItem, T: Tasks<B>> Drop for Driver<B, T> {
    fn drop(&mut self) {
        let phase = self.phase;
        if phase == Phase::Done {
            return;
        }
        if phase == Phase::New {
            self.shared.end_batch(Instant::now(), Termination::Dropped);
            return;
        }
        if phase == Phase::Running {
            self.shared.stop(Termination::Dropped, Some(StopMode::Cancel));
            let at = Instant::now();
            let reason = Termination::Dropped.to_string();
            self.look_for_calls_inside();
            for (slot, Slot { item, .. }) in self.slots.drain() {
                // A call that ends from now on counts only as a call with unknown usage, here and in a ledger.
                item.settle_dropped(&self.calls_inside, at);
                let kind = ErrorKind::Aborted;
                let report = self.shared.finish(Some(slot), &item, at, Some(kind));
                let failure = Failure {
                    kind,
                    message: Some(reason.clone()),
                };
                report_end(&self.options, &item, at, &report, Some(failure), || None);
            }
            self.shared.end_batch(at, Termination::Dropped);
            self.emit(None, || EventKind::BatchAborted { reason });
        }
        self.tasks.leave(self.options.on_complete.take());
    }
}
