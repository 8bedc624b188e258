//! One item's identity and accounts, shared by the request, the layers and the driver.

use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::task::AtomicWaker;
use tokio::time::Instant;

use crate::state::RetryState;

mod call;
mod context;
mod id;
mod record;
mod report;
mod signals;

pub use call::CallGuard;
pub(crate) use call::{CallEnded, EndedCall, GateEnd};
pub use context::{CallContext, CallHold};
pub use id::ItemId;
pub use record::CallRefused;
use record::Record;
pub use report::{ItemReport, WaitReason, Waits};

/// One item's identity, retry state, deadline and accounts.
///
/// The request and the driver hold the same one, so what an item did survives a panic or an abort. Users meet it
/// through [`LlmRequest`](crate::LlmRequest). What layers note in it for each other is for authors of layers.
pub struct Item {
    id: ItemId,
    index: u64,
    started: Instant,
    state: RetryState,
    /// Whether the batch is stopping, to be read without the lock.
    stopped: AtomicBool,
    record: Mutex<Record>,
    /// The task that runs the item, so that a stop is seen at once.
    driver: AtomicWaker,
    /// A call went to a server on a machine of the user's own.
    local_server: AtomicBool,
}

impl Item {
    /// A new item, picked up now. Strategies outside a batch get one through [`LlmRequest::new`](crate::LlmRequest::new).
    pub fn new(id: ItemId, index: u64) -> Arc<Self> {
        let mut record = Record::default();
        record.report.attempts = 1;
        Arc::new(Self {
            id,
            index,
            started: Instant::now(),
            state: RetryState::default(),
            stopped: AtomicBool::new(false),
            local_server: AtomicBool::new(false),
            record: record.into(),
            driver: AtomicWaker::new(),
        })
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The item's identifier.
    pub fn id(&self) -> &ItemId {
        &self.id
    }

    /// Its position in the input, from 0.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// When it was picked up.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// What it remembers from call to call.
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

    /// When the item must be done, if it has a deadline.
    pub fn deadline(&self) -> Option<Instant> {
        self.record().deadline
    }

    /// Its accounts up to now.
    ///
    /// `total_time` runs until this call; open calls are counted, but are not in `call_time`. A request of the item that passed no
    /// layer that watches calls counts as one call of unknown usage from the moment it was made: it may have been sent.
    pub fn report(&self) -> ItemReport {
        let mut report = {
            let mut record = self.record();
            let handed = record.handed;
            let before = record.report;
            record.settle(true, false);
            let report = record.report_with_open();
            record.report = before;
            record.handed = handed;
            report
        };
        report.total_time = self.started.elapsed();
        report
    }

    /// Its final accounts, if it ended at `finished`. From now on no call begins, and what ends later is not counted: a call that
    /// is still open counts as it was observed, or as unknown.
    pub(crate) fn close(&self, finished: Instant) -> ItemReport {
        let mut record = self.record();
        record.closed = true;
        let mut report = record.report_with_open();
        report.total_time = finished.saturating_duration_since(self.started);
        if !record.watched && report.calls > 0 {
            // Its calls were not timed; what was not a wait was spent in them.
            report.call_time = report.total_time.saturating_sub(report.waits.total());
        }
        report
    }

    /// Gives how long each ended call took.
    pub(crate) fn for_each_call_time(&self, each: impl FnMut(Duration)) {
        let record = self.record();
        record
            .first_call_time
            .iter()
            .chain(&record.more_call_times)
            .copied()
            .for_each(each);
    }

    /// Takes the intervals during which a closed gate held the item, for the batch's time paused.
    pub(crate) fn take_cooldowns(&self) -> Vec<(Instant, Instant)> {
        std::mem::take(&mut self.record().cooldowns)
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
