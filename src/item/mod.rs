//! One item's identity and accounts, and, for authors of layers, the protocol through which the layers of a stack work together.
//!
//! Users of a batch need [`Item`], [`ItemId`], [`ItemReport`], [`WaitReason`] and [`Waits`], which the crate's root re-exports. The
//! rest is for layers that begin calls, wait before them, or decide about the next one. A layer that only changes requests or
//! answers does not need it.
//!
//! # The beginning of a call
//!
//! A call begins in one place, [`CallContext::begin_call`], right before it is sent.
//! ([`LlmRequest::begin_call`](crate::LlmRequest::begin_call) does the same; a layer for requests of any type finds the
//! context with [`FindItem`](crate::FindItem).) It counts the call, or refuses it with a [`CallRefused`]: after a stop,
//! after the item's deadline, and once the item has its outcome. After a refusal, send nothing.
//!
//! - The outermost layer that begins the call owns it; layers further in that begin it join the same call. The call ends when
//!   the outermost [`CallGuard`] is dropped: keep it until the answer has arrived.
//! - Record facts about the call through the guard ([`observe`](CallGuard::observe), [`observe_cost`](CallGuard::observe_cost),
//!   [`set_throttled`](CallGuard::set_throttled)). The first observation counts; without one the usage is unknown.
//! - A layer that waits before the call, or may answer without one, takes a [`CallHold`] with [`CallContext::hold`]. While it
//!   exists, the request does not count as sent, and a stop ends the item. The wait ends with
//!   [`release`](CallHold::release) or with the beginning of the call. A pending wait registers with
//!   [`wake_at_stop`](Signals::wake_at_stop), and enters the accounts with [`add_wait`](Signals::add_wait).
//! - A layer that is refused fails with its own error once [`poll_refused`](CallHold::poll_refused) is ready: an agent above
//!   keeps its results so far, and a hedge keeps the call that is under way.
//! - [`HandOver`] passes a held request to a service that may or may not watch its calls, so that the call is counted in both cases;
//!   without a hold, [`hand_over`](Signals::hand_over) announces it and [`settle_call`](Signals::settle_call) settles it. Concurrent
//!   requests of one item, in services that do not watch calls, are counted separately if a layer of this crate passes them on.
//!   Tower's own `Retry` does not do that, so its concurrent clones count as one call.
//!
//! An unknown request counts as sent: if a service that does not watch calls fails, the call counts unless the error states that
//! nothing was sent (an [`LlmError`](crate::LlmError), a layer's refusal, tower's `LoadShed`). Once other calls of the batch have
//! begun in a layer inside, an unknown error without a begun call is attributed to a check before the call, such as tower's
//! `Filter`.
//!
//! ```
//! use std::task::{Context, Poll};
//!
//! use futures::future::{BoxFuture, FutureExt, ready};
//! use llm_batch::item::CallRefused;
//! use llm_batch::{BoxError, LlmRequest, LlmResponse};
//! use tower::{Service, ServiceExt, service_fn};
//!
//! /// Prints each call. Inside a rate limiter it joins the limiter's call; alone it begins one.
//! #[derive(Clone)]
//! struct PrintCalls<S>(S);
//!
//! impl<S> Service<LlmRequest> for PrintCalls<S>
//! where
//!     S: Service<LlmRequest, Response = LlmResponse>,
//!     S::Error: From<CallRefused> + Send + 'static,
//!     S::Future: Send + 'static,
//! {
//!     type Response = LlmResponse;
//!     type Error = S::Error;
//!     type Future = BoxFuture<'static, Result<LlmResponse, S::Error>>;
//!
//!     fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
//!         self.0.poll_ready(cx)
//!     }
//!
//!     fn call(&mut self, mut request: LlmRequest) -> Self::Future {
//!         let call = match request.begin_call() {
//!             Ok(call) => call,
//!             Err(refused) => return ready(Err(refused.into())).boxed(),
//!         };
//!         let answer = self.0.call(request);
//!         async move {
//!             let result = answer.await;
//!             if let Ok(response) = &result {
//!                 call.observe(response.usage);
//!             }
//!             println!("item {}, call {}: {:?}", call.item().id(), call.number(), call.observed());
//!             result
//!         }
//!         .boxed()
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let model = service_fn(async |_: LlmRequest| Ok::<_, BoxError>(LlmResponse::new("42".to_owned())));
//! let request = LlmRequest::prompt("What is 6 times 7?");
//! let item = request.item().clone();
//! PrintCalls(model).oneshot(request).await?;
//! assert_eq!(item.report().calls, 1);
//! # Ok(())
//! # }
//! ```
//!
//! # Signals
//!
//! The notes in [`Item::signals`] through which layers and the driver communicate without depending on each other:
//!
//! | signal | written by | read by |
//! |---|---|---|
//! | [`hand_over`](Signals::hand_over), [`expect_call`](Signals::expect_call) | the driver, retry policies | the driver, at a stop and at the end |
//! | [`settle_call`](Signals::settle_call) | the driver, retry policies | the accounts |
//! | [`call_under_way`](Signals::call_under_way) | the beginning and the end of calls, the two above | the driver, `Balance`, `Fallback` |
//! | [`stop_requested`](Signals::stop_requested), [`wake_at_stop`](Signals::wake_at_stop) | the driver | retry policies, gates, caches, `lazy` |
//! | [`set_attempt`](Signals::set_attempt) | retry policies | requests, events, the report |
//! | [`limit_deadline`](Signals::limit_deadline) | timeout layers | retry policies, the beginning of a call |
//! | [`set_deadline_missed`](Signals::set_deadline_missed) | retry policies, the beginning of a call | timeout layers, the driver |
//! | [`set_last_failure`](Signals::set_last_failure) | retry policies | timeout layers |
//! | [`set_throttled_until`](Signals::set_throttled_until) | gates | retry policies, gates |
//! | [`add_wait`](Signals::add_wait) | layers that wait | the accounts |
//! | [`start_over`](Signals::start_over) | `Fallback` | clears the attempt, the throttle, the missed deadline and the last failure |

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use futures::task::AtomicWaker;
use tokio::time::Instant;

pub use crate::error::CallRefused;
use crate::state::RetryState;

mod abandoned;
mod call;
mod calls_inside;
mod context;
mod current;
mod driver;
mod hand_over;
mod handed;
mod id;
mod record;
mod report;
mod signals;

pub(crate) use abandoned::Abandoned;
pub use call::CallGuard;
pub(crate) use call::{CallEnded, EndedCall, GateEnd};
pub(crate) use calls_inside::CallsInside;
pub use context::{CallContext, CallHold};
pub(crate) use current::{AtWork, enter};
pub(crate) use driver::ClosedItem;
pub use hand_over::HandOver;
pub(crate) use handed::HandedOn;
pub use id::ItemId;
use record::Record;
pub use report::{ItemReport, WaitReason, Waits};
pub(crate) use signals::HeldItem;
pub use signals::Signals;

/// One item's identity, retry state, deadline and accounts.
///
/// The request and the driver share it, so the accounts survive a panic or an abort. Users reach it
/// through [`LlmRequest::item`](crate::LlmRequest::item). The notes between layers are behind
/// [`signals`](Self::signals), for authors of layers.
pub struct Item {
    id: ItemId,
    index: u64,
    started: Instant,
    state: RetryState,
    /// Set if the batch is stopping; read without the lock.
    stopped: AtomicBool,
    /// Set if the item may have to end before its future does; read without the lock.
    may_end: AtomicBool,
    /// The item's future has ended.
    ended: AtomicBool,
    record: Mutex<Record>,
    /// The task that runs the item, so that a stop can wake it.
    driver: AtomicWaker,
    /// A call went to a server on the user's own machine.
    local_server: AtomicBool,
    /// The number of requests made for it, not counting clones.
    requests: AtomicU32,
}

impl Item {
    /// Creates an item that is picked up now. Outside a batch, [`LlmRequest::new`](crate::LlmRequest::new) creates one.
    pub fn new(id: ItemId, index: u64) -> Arc<Self> {
        Arc::new(Self {
            id,
            index,
            started: Instant::now(),
            state: RetryState::default(),
            stopped: AtomicBool::new(false),
            may_end: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            local_server: AtomicBool::new(false),
            requests: AtomicU32::new(0),
            record: Mutex::new(Record::new()),
            driver: AtomicWaker::new(),
        })
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn requests_made(&self) -> u32 {
        self.requests.load(Ordering::Relaxed)
    }

    /// A call, or a part of it, has ended: wakes those that wait for that, and the driver. None of them waits for it before a stop.
    #[inline]
    fn wake_after_a_call(&self, record: MutexGuard<'_, Record>) {
        if record.stopped {
            self.wake_waiting(record);
        }
    }

    #[cold]
    fn wake_waiting(&self, mut record: MutexGuard<'_, Record>) {
        record.wakes = record.wakes.wrapping_add(1);
        let waiting = std::mem::take(&mut record.waiting);
        drop(record);
        self.driver.wake();
        // Wakers may be anything: called outside the lock.
        waiting.into_iter().for_each(Waker::wake);
    }

    /// The item's identifier.
    pub fn id(&self) -> &ItemId {
        &self.id
    }

    /// Its position in the input, from 0.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The time at which it was picked up.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// The state kept from call to call.
    pub fn state(&self) -> &RetryState {
        &self.state
    }

    /// The current attempt, from 1.
    pub fn attempt(&self) -> u32 {
        self.record().report.attempts
    }

    /// Calls begun so far.
    pub fn calls(&self) -> u32 {
        self.record().report.calls
    }

    /// The item's deadline, if it has one.
    pub fn deadline(&self) -> Option<Instant> {
        self.record().deadline
    }

    /// Its accounts up to now.
    ///
    /// `total_time` runs until now; open calls are counted, but are not in `call_time`. A request of the item that did not pass a
    /// layer that watches calls counts as one call with unknown usage from its creation: it may have been sent.
    pub fn report(&self) -> ItemReport {
        let mut report = self.record().report_with_open();
        report.total_time = self.started.elapsed();
        report
    }
}

impl fmt::Debug for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Item")
            .field("id", &self.id)
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}
