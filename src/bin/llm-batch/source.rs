//! The input as a stream of work: read on a thread of its own, a few items ahead.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_core::Stream;
use llm_batch::{Prompt, WorkItem};
use serde_json::{Map, Value};
use tokio::sync::mpsc;

use crate::compose::Composer;
use crate::destination::Earlier;
use crate::input::{Inputs, Item, Place, Unseen};

/// The number of items that are read ahead. They are in memory, so they are few.
const AHEAD: usize = 32;

/// The properties of an item that its row needs.
#[derive(Debug)]
pub(crate) struct ItemContext {
    pub(crate) index: u64,
    /// Where the item stands.
    pub(crate) place: Place,
    pub(crate) kept: Map<String, Value>,
    /// The error in it, if any.
    pub(crate) problem: Option<String>,
}

/// Work from the input.
#[derive(Debug)]
pub(crate) struct Source {
    receiver: mpsc::Receiver<WorkItem<Prompt, ItemContext>>,
    /// The number of items to come, where that is known.
    left: Option<usize>,
    state: Arc<Mutex<SourceState>>,
}

/// The state of reading; final once the source has ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct SourceState {
    /// Items that an earlier run had answered.
    pub(crate) skipped: u64,
    /// Items that were handed on.
    pub(crate) sent: u64,
    /// `true` if the input was read to its end.
    pub(crate) ended: bool,
    /// An id that several items have.
    pub(crate) repeated: Option<Arc<str>>,
    /// Warnings about the fields that options name.
    pub(crate) warnings: Vec<String>,
    /// The reason why the input could not be read to its end.
    pub(crate) failure: Option<String>,
}

impl Source {
    /// Starts to read. `left` is the number of items, where that is known.
    pub(crate) fn start(
        inputs: &Inputs,
        composer: Composer,
        earlier: Earlier,
        left: Option<usize>,
    ) -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel(AHEAD);
        let state = Arc::<Mutex<SourceState>>::default();
        let reader = Reader {
            composer,
            earlier,
            sender,
            state: Arc::clone(&state),
            unseen: inputs.unseen(),
        };
        let items = inputs.items();
        // Not a task: a read of standard input cannot be called off, and must not hold up the end of the program.
        std::thread::Builder::new()
            .name("input".to_owned())
            .spawn(move || reader.run(items))?;
        Ok(Self {
            receiver,
            left,
            state,
        })
    }

    /// The state of reading.
    pub(crate) fn state(&self) -> Arc<Mutex<SourceState>> {
        Arc::clone(&self.state)
    }
}

impl Stream for Source {
    type Item = WorkItem<Prompt, ItemContext>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let polled = this.receiver.poll_recv(cx);
        if let (Poll::Ready(Some(_)), Some(left)) = (&polled, &mut this.left) {
            *left = left.saturating_sub(1);
        }
        polled
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left.unwrap_or(0), self.left)
    }
}

struct Reader {
    composer: Composer,
    earlier: Earlier,
    sender: mpsc::Sender<WorkItem<Prompt, ItemContext>>,
    state: Arc<Mutex<SourceState>>,
    unseen: Unseen,
}

impl Reader {
    fn run(mut self, items: impl Iterator<Item = Result<Item, String>>) {
        // Hashes, as there may be millions.
        let mut ids = HashSet::new();
        let hasher = RandomState::new();
        for item in items {
            let item = match item {
                Ok(item) => item,
                Err(message) => {
                    self.note(|state| state.failure = Some(message));
                    return;
                }
            };
            self.unseen.note(&item);
            if !ids.insert(hasher.hash_one(&item.id)) {
                self.note(|state| {
                    state.repeated.get_or_insert_with(|| Arc::clone(&item.id));
                });
            }
            if self.earlier.take(&item.id, item.index) {
                self.note(|state| state.skipped += 1);
                continue;
            }
            // The stream has gone: the run has ended.
            if self.sender.blocking_send(self.work(item)).is_err() {
                return;
            }
            self.note(|state| state.sent += 1);
        }
        let warnings = self.unseen.warnings();
        self.note(|state| {
            state.ended = true;
            state.warnings = warnings;
        });
    }

    fn note(&self, change: impl FnOnce(&mut SourceState)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn work(&self, item: Item) -> WorkItem<Prompt, ItemContext> {
        let Item {
            id,
            index,
            place,
            kept,
            content,
        } = item;
        let made = content.and_then(|content| self.composer.prompt(content));
        let problem = made.as_ref().err().cloned();
        let work = match made {
            Ok(prompt) => WorkItem::new(prompt),
            Err(message) => WorkItem::failed(message),
        };
        work.with_id(id).with_context(ItemContext {
            index,
            place,
            kept,
            problem,
        })
    }
}
