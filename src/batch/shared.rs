//! The state shared by the stream, its handles and its tasks: the running items, the account, and the stop.

use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use futures::task::AtomicWaker;
use tokio::time::Instant;

use super::statistics::Statistics;
use super::summary::BatchSummary;
use super::termination::{StopMode, Termination};
use crate::error::ErrorKind;
use crate::item::{Item, ItemReport};

pub(super) struct Shared {
    concurrency: AtomicUsize,
    paused: AtomicBool,
    /// `true` if there is a stop; read without the lock.
    stopping: AtomicBool,
    /// The task that polls the stream.
    waker: AtomicWaker,
    state: Mutex<State>,
}

struct State {
    statistics: Statistics,
    /// The mode of a stop without an explicit mode.
    stop_mode: StopMode,
    stop: Option<Stop>,
    /// The items in flight, by slot.
    running: Vec<Option<Arc<Item>>>,
    source_ended: bool,
    /// The panic of a stop signal, for the consumer.
    panic: Option<Box<dyn Any + Send>>,
}

/// The batch is stopping.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stop {
    pub(super) cause: Termination,
    mode: StopMode,
}

impl State {
    /// Returns `true` if the source and every item have ended, even if the consumer has not seen it yet.
    fn is_done(&self) -> bool {
        let ended = self.source_ended || self.statistics.is_source_exhausted();
        ended && self.running.iter().flatten().all(|item| item.has_ended())
    }

    fn is_cancelled(&self) -> bool {
        self.stop.is_some_and(|stop| stop.mode == StopMode::Cancel)
    }
}

impl Shared {
    pub(super) fn new(concurrency: usize) -> Arc<Self> {
        Arc::new(Self {
            concurrency: AtomicUsize::new(concurrency),
            paused: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            state: Mutex::new(State {
                statistics: Statistics::default(),
                stop_mode: StopMode::default(),
                stop: None,
                running: Vec::new(),
                source_ended: false,
                panic: None,
            }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn summary(&self) -> BatchSummary {
        // The percentiles are read outside the lock, which the driver takes for every item.
        let statistics = self.state().statistics.clone();
        statistics.summary(self.concurrency())
    }

    pub(super) fn termination(&self) -> Option<Termination> {
        self.state().statistics.termination()
    }

    pub(super) fn concurrency(&self) -> usize {
        self.concurrency.load(Ordering::Relaxed)
    }

    pub(super) fn set_concurrency(&self, n: usize) {
        self.concurrency.store(n, Ordering::Relaxed);
        self.waker.wake();
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    pub(super) fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
        self.waker.wake();
    }

    /// Registers the polling task; changes made by handles before this call are seen by the poll that made it.
    pub(super) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    pub(super) fn set_stop_mode(&self, mode: StopMode) {
        self.state().stop_mode = mode;
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(super) fn stop_cause(&self) -> Option<Termination> {
        self.state().stop.map(|stop| stop.cause)
    }

    /// Ends the batch immediately, from any thread: no call begins after this. `mode` defaults to that of the batch. The first
    /// cause is kept; a later cancel turns a drain into a cancel.
    pub(super) fn stop(&self, cause: Termination, mode: Option<StopMode>) {
        let (items, cancel) = {
            let mut state = self.state();
            let mode = mode.unwrap_or(state.stop_mode);
            if let Some(stop) = &mut state.stop {
                if stop.mode == StopMode::Cancel || mode == StopMode::Drain {
                    return;
                }
                stop.mode = mode;
            } else {
                // It may have ended although the consumer has not seen it.
                let cause = if state.is_done() {
                    Termination::Completed
                } else {
                    cause
                };
                state.statistics.terminate(cause);
                state.stop = Some(Stop { cause, mode });
            }
            let items: Vec<_> = state.running.iter().flatten().cloned().collect();
            (items, state.is_cancelled())
        };
        self.stopping.store(true, Ordering::Release);
        for item in items {
            item.request_stop(cancel);
        }
        self.waker.wake();
    }

    /// The stop signal panicked.
    pub(super) fn set_panic(&self, panic: Box<dyn Any + Send>) {
        self.state().panic = Some(panic);
        self.waker.wake();
    }

    pub(super) fn take_panic(&self) -> Option<Box<dyn Any + Send>> {
        self.state().panic.take()
    }

    // --- for the driver ---------------------------------------------------------------------------------------

    pub(super) fn start_batch(&self, now: Instant, size: (usize, Option<usize>)) {
        let mut state = self.state();
        state.statistics.start(now);
        state.statistics.set_remaining(size);
    }

    /// The source has ended; `left` is the remaining size of a source that was cut off by a stop.
    pub(super) fn end_source(&self, left: Option<(usize, Option<usize>)>) {
        let mut state = self.state();
        state.source_ended = true;
        if let Some(left) = left {
            state.statistics.set_not_reached(left);
        }
        state.statistics.set_remaining((0, Some(0)));
    }

    pub(super) fn end_batch(&self, now: Instant, cause: Termination) {
        let mut state = self.state();
        state.statistics.terminate(cause);
        state.statistics.end(now);
    }

    /// An item was taken from the source, which has `size` left. If it runs, it is registered in its `slot` before it starts.
    pub(super) fn accept(&self, size: (usize, Option<usize>), running: Option<(usize, &Arc<Item>)>) {
        let stop = {
            let mut state = self.state();
            state.statistics.accept();
            state.statistics.set_remaining(size);
            if let Some((slot, item)) = running {
                if state.running.len() <= slot {
                    state.running.resize(slot + 1, None);
                }
                state.running[slot] = Some(Arc::clone(item));
            }
            state.stop.map(|_| state.is_cancelled())
        };
        if let (Some(cancel), Some((_, item))) = (stop, running) {
            item.request_stop(cancel);
        }
    }

    /// The item has its outcome: creates its final report and adds it to the account.
    pub(super) fn finish(
        &self,
        slot: Option<usize>,
        item: &Item,
        at: Instant,
        failure: Option<ErrorKind>,
    ) -> ItemReport {
        let mut state = self.state();
        if let Some(slot) = slot
            && let Some(running) = state.running.get_mut(slot)
        {
            *running = None;
        }
        let closed = item.close(at);
        state.statistics.finish(item, &closed, failure);
        closed.report
    }

    /// A finished item waited this long to be taken.
    pub(super) fn taken_after(&self, time: std::time::Duration) {
        self.state().statistics.taken_after(time);
    }
}
