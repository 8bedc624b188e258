//! Typed events of a run, for progress bars, logs and tests.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use tokio::time::Instant;

use crate::error::{ErrorKind, QuotaDimension};
use crate::item::{Item, ItemId, ItemReport};
use crate::layer::rate_limiter::LimitKind;
use crate::usage::TokenUsage;

/// The default number of events kept for a slow subscriber.
const DEFAULT_CAPACITY: usize = 4096;

/// A handle to the events of one run: give clones of it to the stream and to the layers.
///
/// There are two ways to receive. A [subscriber](Self::subscribe) receives in its own task; if it lags by more than the
/// capacity (4096 by default), it loses the oldest events and learns how many. A
/// [hook](Self::on_event) is called for every event where it happens, and misses none. Without either an event costs two
/// atomic reads.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use llm_batch::{Event, EventKind, Events};
///
/// let events = Events::new();
/// let mut receiver = events.subscribe();
/// events.emit(None, || EventKind::BatchStarted { expected: Some(3) });
/// let event = receiver.recv().await.unwrap();
/// assert_eq!(event.kind, EventKind::BatchStarted { expected: Some(3) });
/// # }
/// ```
#[derive(Clone)]
pub struct Events {
    inner: Arc<Inner>,
}

struct Inner {
    sender: broadcast::Sender<Event>,
    created: Instant,
    has_hooks: AtomicBool,
    // Replaced as a whole, so that no hook runs under the lock.
    hooks: Mutex<Arc<[Hook]>>,
}

type Hook = Arc<dyn Fn(&Event) + Send + Sync>;

impl Events {
    /// Creates a handle with the default capacity.
    pub fn new() -> Self {
        Self::with_capacity(DEFAULT_CAPACITY)
    }

    /// Creates a handle whose subscribers may lag by `capacity` events (rounded up to a power of two).
    ///
    /// # Panics
    /// If `capacity` is 0 or above `usize::MAX / 2`.
    #[track_caller]
    pub fn with_capacity(capacity: usize) -> Self {
        let (sender, _) = broadcast::channel(capacity);
        Self {
            inner: Arc::new(Inner {
                sender,
                created: Instant::now(),
                has_hooks: AtomicBool::new(false),
                hooks: Mutex::new(Arc::new([])),
            }),
        }
    }

    /// Calls `hook` for every event from now on, of this handle and its clones, as long as any of them exists. No event is lost.
    ///
    /// The hook runs where the event happens: in the task of an item or of the consumer, on several threads concurrently,
    /// and never under a lock of this crate. The caller waits for it, so only count or send to a channel, and do not block.
    /// A panic in it is caught and has no other effect; the next event is passed to it again. It must not
    /// [`emit`](Self::emit) to the same handle.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// use std::sync::Arc;
    /// use std::sync::atomic::{AtomicU64, Ordering};
    /// use llm_batch::{EventKind, Events};
    ///
    /// let retries = Arc::new(AtomicU64::new(0));
    /// let events = Events::new();
    /// let counter = Arc::clone(&retries);
    /// events.on_event(move |event| {
    ///     if let EventKind::RetryScheduled { .. } = event.kind {
    ///         counter.fetch_add(1, Ordering::Relaxed);
    ///     }
    /// });
    /// # }
    /// ```
    pub fn on_event(&self, hook: impl Fn(&Event) + Send + Sync + 'static) {
        let mut hooks = self.inner.hooks.lock().unwrap_or_else(PoisonError::into_inner);
        let hook: Hook = Arc::new(hook);
        *hooks = hooks.iter().cloned().chain([hook]).collect();
        self.inner.has_hooks.store(true, Ordering::Release);
    }

    /// Returns a receiver of all events from now on.
    pub fn subscribe(&self) -> EventReceiver {
        EventReceiver {
            receiver: self.inner.sender.subscribe(),
        }
    }

    /// Sends an event that happens now. `make` runs only if there is a subscriber or a hook.
    pub fn emit(&self, item: Option<&Item>, make: impl FnOnce() -> EventKind) {
        if self.is_observed() {
            self.emit_at(Instant::now(), item, make);
        }
    }

    /// Sends an event that happened at `at`. `make` runs only if there is a subscriber or a hook.
    pub fn emit_at(&self, at: Instant, item: Option<&Item>, make: impl FnOnce() -> EventKind) {
        self.emit_by(None, at, item, make);
    }

    /// Like [`emit_at`](Self::emit_at), by the gate of this name.
    pub(crate) fn emit_by(
        &self,
        limiter: Option<&Arc<str>>,
        at: Instant,
        item: Option<&Item>,
        make: impl FnOnce() -> EventKind,
    ) {
        if !self.is_observed() {
            return;
        }
        let event = Event {
            at: at.saturating_duration_since(self.inner.created),
            id: item.map(|item| item.id().clone()),
            index: item.map(Item::index),
            limiter: limiter.cloned(),
            kind: make(),
        };
        if self.inner.has_hooks.load(Ordering::Acquire) {
            let hooks = Arc::clone(&self.inner.hooks.lock().unwrap_or_else(PoisonError::into_inner));
            for hook in hooks.iter() {
                // The panic hook has reported the panic.
                let _ = catch_unwind(AssertUnwindSafe(|| hook(&event)));
            }
        }
        // It fails only if the last receiver was dropped.
        let _ = self.inner.sender.send(event);
    }

    /// Returns `true` if there is a subscriber or a hook.
    pub fn is_observed(&self) -> bool {
        self.inner.has_hooks.load(Ordering::Acquire) || self.inner.sender.receiver_count() > 0
    }
}

impl Default for Events {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events")
            .field("receivers", &self.inner.sender.receiver_count())
            .finish()
    }
}

/// An event: what happened, when, and to which item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Event {
    /// The time since the [`Events`] handle was created, in JSON in seconds. Events of one gate are stamped under its lock, so
    /// sorting by this time gives their true order.
    #[serde(with = "crate::serde_seconds")]
    pub at: Duration,
    /// The item's id, if the event is about an item.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<ItemId>,
    /// The item's index, if the event is about an item.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u64>,
    /// The name, as in logs and metrics, of the rate limiter that sent the event, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limiter: Option<Arc<str>>,
    /// The kind of the event, with its data.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// The kind of an event, with its data. Durations are in seconds in JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventKind {
    /// The driver was polled for the first time.
    BatchStarted {
        /// The upper bound on the number of items, if the source knows one.
        expected: Option<u64>,
    },
    /// The source has ended and every item has its outcome.
    BatchCompleted,
    /// The batch ended early.
    BatchAborted {
        /// The reason for the early end.
        reason: String,
    },
    /// An item was picked up.
    ItemStarted,
    /// An item succeeded.
    ItemCompleted {
        /// Its accounts.
        report: ItemReport,
    },
    /// An item finally failed.
    ItemFailed {
        /// The kind of the failure.
        kind: ErrorKind,
        /// The error's text.
        message: String,
        /// Its accounts.
        report: ItemReport,
    },
    /// An item's outcome came from a checkpoint.
    ItemReplayed,
    /// An item ran out of time. Its [`ItemFailed`](Self::ItemFailed) follows: each item has exactly one
    /// [`ItemCompleted`](Self::ItemCompleted) or `ItemFailed`.
    ItemDeadlineExceeded,
    /// A physical call starts.
    CallStarted {
        /// Its number, from 1.
        call: u32,
        /// The attempt it belongs to, from 1.
        attempt: u32,
    },
    /// A physical call succeeded.
    CallCompleted {
        /// Its number, from 1.
        call: u32,
        /// The duration of the call.
        #[serde(with = "crate::serde_seconds")]
        duration: Duration,
        /// The usage of the call, if known.
        usage: Option<TokenUsage>,
    },
    /// A physical call failed.
    CallFailed {
        /// Its number, from 1.
        call: u32,
        /// The kind of the failure, if known.
        kind: Option<ErrorKind>,
        /// The duration of the call.
        #[serde(with = "crate::serde_seconds")]
        duration: Duration,
        /// The usage of the call, if known.
        usage: Option<TokenUsage>,
    },
    /// A failed call will be followed by another one.
    RetryScheduled {
        /// The attempt to come, from 1; the same as before after a throttle.
        attempt: u32,
        /// The backoff before it; the gate may add to it.
        #[serde(with = "crate::serde_seconds")]
        wait: Duration,
    },
    /// A call was throttled.
    Throttled {
        /// The provider's hint.
        #[serde(with = "crate::serde_seconds::option")]
        retry_after: Option<Duration>,
        /// The exhausted quota, if known.
        dimension: Option<QuotaDimension>,
        /// `true` if it belongs to the gate's current generation and closes the gate. A stale one does not, nor one that the pace
        /// [tolerates](crate::layer::rate_limiter::Pacing::tolerating_throttles).
        current: bool,
    },
    /// A gate closed, or an existing pause was extended.
    CooldownStarted {
        /// The generation that starts with the pause.
        generation: u64,
        /// The time from now until it opens.
        #[serde(with = "crate::serde_seconds")]
        pause: Duration,
        /// The kind of failure that closed it.
        kind: ErrorKind,
    },
    /// A gate opened again.
    CooldownEnded {
        /// The generation that ended its pause.
        generation: u64,
    },
    /// A gate has found the provider's limit, or that it differs by more than 15 % from the last one that was reported. At most
    /// once between two pauses.
    LimitLearned {
        /// The kind of the limit.
        kind: LimitKind,
        /// The calls that the provider accepts per second, if it is a rate.
        #[serde(default)]
        starts_per_second: Option<f64>,
        /// The calls that it accepts at one time, if that is limited, or that amount to the rate.
        #[serde(default)]
        max_in_flight: Option<usize>,
        /// The number of rejected calls that it follows from.
        rejections: u64,
    },
    /// A gate latched: later calls fail without being sent.
    Latched {
        /// The kind of failure that latched it.
        kind: ErrorKind,
    },
    /// A latched gate was reopened by the program, or the quota that latched it has reset.
    Reopened,
    /// A quota of a gate's own that counts in windows is used up. Sent once per window.
    QuotaExhausted {
        /// What it counts.
        dimension: QuotaDimension,
        /// The time to its reset.
        #[serde(with = "crate::serde_seconds")]
        resets_in: Duration,
    },
    /// A gate let a call through.
    QuotaAdmitted {
        /// Tokens reserved.
        estimate: u64,
    },
    /// A call's reservation was settled.
    QuotaSettled {
        /// Tokens reserved.
        estimate: u64,
        /// Tokens used; `None` keeps the reservation.
        used: Option<u64>,
    },
}

/// Receives the events of an [`Events`] handle.
#[derive(Debug)]
pub struct EventReceiver {
    receiver: broadcast::Receiver<Event>,
}

/// A subscriber was too slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventError {
    /// The oldest events were dropped; receiving continues after them.
    Lost(u64),
    /// Every handle was dropped and every event was received.
    Closed,
}

impl fmt::Display for EventError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(count) => write!(
                f,
                "{count} events were lost, because they were not received in time"
            ),
            Self::Closed => f.write_str("there will be no more events"),
        }
    }
}

impl std::error::Error for EventError {}

impl EventReceiver {
    /// The next event. Cancel safe: a dropped call loses nothing.
    ///
    /// # Errors
    /// [`EventError::Lost`] once after events were dropped, [`EventError::Closed`] at the end.
    pub async fn recv(&mut self) -> Result<Event, EventError> {
        self.receiver.recv().await.map_err(|error| match error {
            broadcast::error::RecvError::Lagged(count) => EventError::Lost(count),
            broadcast::error::RecvError::Closed => EventError::Closed,
        })
    }

    /// Returns the next event if one is already there.
    ///
    /// # Errors
    /// As for [`recv`](Self::recv).
    pub fn try_recv(&mut self) -> Result<Option<Event>, EventError> {
        match self.receiver.try_recv() {
            Ok(event) => Ok(Some(event)),
            Err(broadcast::error::TryRecvError::Empty) => Ok(None),
            Err(broadcast::error::TryRecvError::Lagged(count)) => Err(EventError::Lost(count)),
            Err(broadcast::error::TryRecvError::Closed) => Err(EventError::Closed),
        }
    }
}
