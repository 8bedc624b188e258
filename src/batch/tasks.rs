//! Where items run: each on a task of its own, or all in the task of the consumer.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use pin_project::{pin_project, pinned_drop};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::AbortHandle;

use super::strategy::{BatchItem, StrategyError, sealed};
use super::task::{End, Ended, ItemFuture};

pub(super) type Running<B> =
    ItemFuture<<B as BatchItem>::Input, <B as BatchItem>::Strategy, <B as BatchItem>::Future>;
pub(super) type EndedOf<B> = Ended<<B as BatchItem>::Response, <B as BatchItem>::Error>;

/// Where the items of a batch run. Sealed: [`Spawned`] or [`InPlace`].
pub trait Placement<B: BatchItem>: sealed::Sealed {
    #[doc(hidden)]
    type Tasks: Tasks<B>;
}

/// Each item on a tokio task of its own: [`llm_batch`](crate::LlmStreamExt::llm_batch).
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
impl<B: BatchItem> Placement<B> for InPlace {
    type Tasks = InPlaceTasks<B>;
}

/// The items in flight, each in a slot.
#[doc(hidden)]
pub trait Tasks<B: BatchItem> {
    fn new() -> Self;
    fn start(&mut self, slot: usize, future: Running<B>);
    /// The next item that has ended. Every started one ends once.
    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<(usize, EndedOf<B>)>;
    /// Aborts the started items for whose slot `which` answers yes; they end as aborted unless they just ended.
    fn abort(&mut self, which: impl FnMut(usize) -> bool);
}

#[doc(hidden)]
#[allow(missing_debug_implementations)]
pub struct SpawnedTasks<B: BatchItem> {
    sender: UnboundedSender<(usize, EndedOf<B>)>,
    ended: UnboundedReceiver<(usize, EndedOf<B>)>,
    // By slot.
    handles: Vec<Option<AbortHandle>>,
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
    fn new() -> Self {
        // Bounded by the slots: the driver starts an item only into a free one.
        let (sender, ended) = unbounded_channel();
        Self {
            sender,
            ended,
            handles: Vec::new(),
        }
    }

    fn start(&mut self, slot: usize, future: Running<B>) {
        let task = tokio::spawn(Reporting {
            future: Some(future),
            slot,
            sender: self.sender.clone(),
        });
        if self.handles.len() <= slot {
            self.handles.resize(slot + 1, None);
        }
        self.handles[slot] = Some(task.abort_handle());
    }

    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<(usize, EndedOf<B>)> {
        match self.ended.poll_recv(cx) {
            Poll::Ready(Some((slot, ended))) => {
                self.handles[slot] = None;
                Poll::Ready((slot, ended))
            }
            // It holds a sender itself, so the channel never closes.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    fn abort(&mut self, mut which: impl FnMut(usize) -> bool) {
        for (slot, handle) in self.handles.iter().enumerate() {
            if let Some(handle) = handle
                && which(slot)
            {
                handle.abort();
            }
        }
    }
}

impl<B: BatchItem> Drop for SpawnedTasks<B> {
    fn drop(&mut self) {
        for handle in self.handles.iter().flatten() {
            handle.abort();
        }
    }
}

/// Reports the end of an item, also when its task is dropped by an abort or with its runtime.
#[pin_project(PinnedDrop)]
struct Reporting<I, S, F, R, E> {
    #[pin]
    future: Option<ItemFuture<I, S, F>>,
    slot: usize,
    sender: UnboundedSender<(usize, Ended<R, E>)>,
}

impl<I, S, F, R, E> Future for Reporting<I, S, F, R, E>
where
    ItemFuture<I, S, F>: Future<Output = Ended<R, E>>,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        if let Some(future) = this.future.as_mut().as_pin_mut() {
            let ended = std::task::ready!(future.poll(cx));
            this.future.set(None);
            // The receiver is gone when the stream was dropped; nobody wants the answer then.
            let _ = this.sender.send((*this.slot, ended));
        }
        Poll::Ready(())
    }
}

#[pinned_drop]
impl<I, S, F, R, E> PinnedDrop for Reporting<I, S, F, R, E> {
    fn drop(self: Pin<&mut Self>) {
        let this = self.project();
        if let Some(future) = this.future.as_pin_mut() {
            future.cancel();
            let _ = this.sender.send((*this.slot, Ended::now(End::Aborted)));
        }
    }
}

#[doc(hidden)]
#[allow(missing_debug_implementations)]
pub struct InPlaceTasks<B: BatchItem> {
    running: FuturesUnordered<Slotted<B::Input, B::Strategy, B::Future>>,
    aborted: VecDeque<usize>,
    item: PhantomData<fn() -> B>,
}

#[pin_project]
struct Slotted<I, S, F> {
    #[pin]
    future: ItemFuture<I, S, F>,
    slot: usize,
    // Its end was already told; the emptied future stays until the stream goes.
    told: bool,
}

impl<I, S, F, R, E> Future for Slotted<I, S, F>
where
    ItemFuture<I, S, F>: Future<Output = Ended<R, E>>,
{
    type Output = (usize, Ended<R, E>);

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if *this.told {
            return Poll::Pending;
        }
        this.future.poll(cx).map(|ended| (*this.slot, ended))
    }
}

impl<B: BatchItem> Tasks<B> for InPlaceTasks<B> {
    fn new() -> Self {
        Self {
            running: FuturesUnordered::new(),
            aborted: VecDeque::new(),
            item: PhantomData,
        }
    }

    fn start(&mut self, slot: usize, future: Running<B>) {
        self.running.push(Slotted {
            future,
            slot,
            told: false,
        });
    }

    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<(usize, EndedOf<B>)> {
        if let Some(slot) = self.aborted.pop_front() {
            return Poll::Ready((slot, Ended::now(End::Aborted)));
        }
        match self.running.poll_next_unpin(cx) {
            Poll::Ready(Some(ended)) => Poll::Ready(ended),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    fn abort(&mut self, mut which: impl FnMut(usize) -> bool) {
        for task in Pin::new(&mut self.running).iter_pin_mut() {
            let task = task.project();
            if !*task.told && which(*task.slot) {
                *task.told = true;
                task.future.cancel();
                self.aborted.push_back(*task.slot);
            }
        }
    }
}
