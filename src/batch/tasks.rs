//! The tasks of items: each on its own task, or all in the consumer's task.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::AbortHandle;

use super::options::BoxFuture;
use super::strategy::{BatchItem, StrategyError, sealed};
use super::task::{End, Ended, ItemFuture};

/// In a box, as it would be moved several times on its way to where it runs.
pub(super) type Running<B> =
    Pin<Box<ItemFuture<<B as BatchItem>::Input, <B as BatchItem>::Strategy, <B as BatchItem>::Future>>>;
pub(super) type EndedOf<B> = Ended<<B as BatchItem>::Response, <B as BatchItem>::Error>;

/// The place where the items of a batch run. Sealed: [`Spawned`] or [`InPlace`].
pub trait Placement<B: BatchItem>: sealed::Sealed {
    #[doc(hidden)]
    type Tasks: Tasks<B>;
}

/// Each item on its own tokio task: [`llm_batch`](crate::LlmStreamExt::llm_batch).
#[derive(Clone, Copy, Debug)]
pub struct Spawned;

/// All items in the consumer's task: [`llm_batch_local`](crate::LlmStreamExt::llm_batch_local).
#[derive(Clone, Copy, Debug)]
pub struct InPlace;

impl sealed::Sealed for Spawned {}
impl sealed::Sealed for InPlace {}

#[diagnostic::do_not_recommend]
impl<B> Placement<B> for Spawned
where
    B: BatchItem,
    B::Input: Send + 'static,
    B::Strategy: Send + 'static,
    B::Future: Send + 'static,
    B::Response: Send + 'static,
    B::Error: StrategyError,
{
    type Tasks = SpawnedTasks<B>;
}

#[diagnostic::do_not_recommend]
impl<B: BatchItem<Error: 'static>> Placement<B> for InPlace {
    type Tasks = InPlaceTasks<B>;
}

/// The items in flight, each in a slot.
#[doc(hidden)]
pub trait Tasks<B: BatchItem> {
    /// `true` if items end inside `poll_ended`.
    const END_IN_POLL: bool;
    fn new() -> Self;
    fn start(&mut self, future: Running<B>);
    /// The next item that has ended. Every started one ends once. Pending, or `None` where none runs, says that none has.
    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<Option<EndedOf<B>>>;
    /// Runs `signal` beside the items until [`end_watch`](Self::end_watch), or gives it back to be polled.
    fn watch(&mut self, signal: BoxFuture) -> Option<BoxFuture>;
    fn end_watch(&mut self);
    /// Ends all items, and then runs `work` if there is a runtime.
    fn leave(&mut self, work: Option<BoxFuture>);
}

#[doc(hidden)]
#[allow(missing_debug_implementations)]
pub struct SpawnedTasks<B: BatchItem> {
    sender: UnboundedSender<EndedOf<B>>,
    ended: UnboundedReceiver<EndedOf<B>>,
    // By slot.
    handles: Vec<Option<AbortHandle>>,
    watch: Option<AbortHandle>,
    runtime: Option<Handle>,
}

impl<B> Tasks<B> for SpawnedTasks<B>
where
    B: BatchItem,
    B::Input: Send + 'static,
    B::Strategy: Send + 'static,
    B::Future: Send + 'static,
    B::Response: Send + 'static,
    B::Error: Send + 'static,
{
    const END_IN_POLL: bool = false;

    fn new() -> Self {
        // Bounded by the slots: the driver starts an item only into a free one.
        let (sender, ended) = unbounded_channel();
        Self {
            sender,
            ended,
            handles: Vec::new(),
            watch: None,
            runtime: None,
        }
    }

    fn start(&mut self, future: Running<B>) {
        let slot = future.slot();
        let task = tokio::spawn(Reporting {
            future: Some(future),
            sender: self.sender.clone(),
        });
        if self.runtime.is_none() {
            self.runtime = Handle::try_current().ok();
        }
        if self.handles.len() <= slot {
            self.handles.resize(slot + 1, None);
        }
        self.handles[slot] = Some(task.abort_handle());
    }

    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<Option<EndedOf<B>>> {
        // It holds a sender itself, so the channel never closes.
        let polled = self.ended.poll_recv(cx);
        if let Poll::Ready(Some(ended)) = &polled {
            self.handles[ended.slot] = None;
        }
        polled
    }

    fn watch(&mut self, signal: BoxFuture) -> Option<BoxFuture> {
        self.watch = Some(tokio::spawn(signal).abort_handle());
        None
    }

    fn end_watch(&mut self) {
        if let Some(watch) = self.watch.take() {
            watch.abort();
        }
    }

    fn leave(&mut self, work: Option<BoxFuture>) {
        self.end_watch();
        for handle in self.handles.drain(..).flatten() {
            handle.abort();
        }
        let Some(work) = work else { return };
        let Some(runtime) = Handle::try_current().ok().or_else(|| self.runtime.take()) else {
            return warn_of_lost_work();
        };
        let (_, none) = unbounded_channel();
        let mut ended = std::mem::replace(&mut self.ended, none);
        // Only the tasks' senders are left, so that the channel closes when the last task ends.
        self.sender = unbounded_channel().0;
        runtime.spawn(async move {
            while ended.recv().await.is_some() {}
            work.await;
        });
    }
}

fn warn_of_lost_work() {
    tracing::warn!("the batch was dropped without a runtime for its `on_complete`");
}

/// Reports the end of an item, also when its task is dropped by an abort or with its runtime.
struct Reporting<I, S, F, R, E> {
    /// Until it has ended.
    future: Option<Pin<Box<ItemFuture<I, S, F>>>>,
    sender: UnboundedSender<Ended<R, E>>,
}

impl<I, S, F, R, E> Future for Reporting<I, S, F, R, E>
where
    ItemFuture<I, S, F>: Future<Output = Ended<R, E>>,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if let Some(future) = &mut this.future {
            let ended = std::task::ready!(future.as_mut().poll(cx));
            this.future = None;
            // The receiver is gone when the stream was dropped; the answer is not wanted then.
            let _ = this.sender.send(ended);
        }
        Poll::Ready(())
    }
}

impl<I, S, F, R, E> Drop for Reporting<I, S, F, R, E> {
    fn drop(&mut self) {
        if let Some(future) = &mut self.future {
            future.as_mut().cancel();
            let _ = self.sender.send(Ended::now(future.slot(), End::Aborted));
        }
    }
}

#[doc(hidden)]
#[allow(missing_debug_implementations)]
pub struct InPlaceTasks<B: BatchItem> {
    running: FuturesUnordered<Running<B>>,
}

impl<B: BatchItem<Error: 'static>> Tasks<B> for InPlaceTasks<B> {
    const END_IN_POLL: bool = true;

    fn new() -> Self {
        Self {
            running: FuturesUnordered::new(),
        }
    }

    fn start(&mut self, future: Running<B>) {
        self.running.push(future);
    }

    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<Option<EndedOf<B>>> {
        self.running.poll_next_unpin(cx)
    }

    fn watch(&mut self, signal: BoxFuture) -> Option<BoxFuture> {
        Some(signal)
    }

    fn end_watch(&mut self) {}

    fn leave(&mut self, work: Option<BoxFuture>) {
        for task in Pin::new(&mut self.running).iter_pin_mut() {
            task.get_mut().as_mut().cancel();
        }
        self.running.clear();
        match (work, Handle::try_current()) {
            (Some(work), Ok(runtime)) => drop(runtime.spawn(work)),
            (Some(_), Err(_)) => warn_of_lost_work(),
            (None, _) => {}
        }
    }
}
