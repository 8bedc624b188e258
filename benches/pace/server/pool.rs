//! A server of one's own: a batch in which all calls slow each other down, and a queue.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::scenario::Pool;

/// Work in nanoseconds alone, and the call.
type Running = Reverse<(u64, u64)>;

/// The batch as a whole: all calls in it run at the same speed, so one clock of work serves them all.
pub(crate) struct Batch {
    pool: Pool,
    /// Work done by each call since the start.
    work: f64,
    at: f64,
    running: BinaryHeap<Running>,
    queue: VecDeque<(f64, u64)>,
}

impl Batch {
    pub(crate) const fn new(pool: Pool) -> Self {
        Self {
            pool,
            work: 0.0,
            at: 0.0,
            running: BinaryHeap::new(),
            queue: VecDeque::new(),
        }
    }

    fn speed(&self) -> f64 {
        1.0 / (1.0 + self.running.len() as f64 / self.pool.half_speed)
    }

    /// Accepts a call that would take this many seconds alone; `None` if all places are taken.
    pub(crate) fn take(&mut self, now: f64, seconds: f64, call: u64) -> bool {
        self.advance(now);
        if self.running.len() < self.pool.batch {
            self.start(seconds, call);
        } else if self.queue.len() < self.pool.queue {
            self.queue.push_back((seconds, call));
        } else {
            return false;
        }
        true
    }

    fn start(&mut self, seconds: f64, call: u64) {
        let end = ((self.work + seconds) * 1e9) as u64;
        self.running.push(Reverse((end, call)));
    }

    fn advance(&mut self, now: f64) {
        self.work += (now - self.at).max(0.0) * self.speed();
        self.at = self.at.max(now);
    }

    /// The time of the next end.
    pub(crate) fn next_end(&self) -> Option<f64> {
        let Reverse((end, _)) = self.running.peek()?;
        Some(self.at + (*end as f64 / 1e9 - self.work).max(0.0) / self.speed())
    }

    /// Ends the call that ends next, at this time.
    pub(crate) fn end_next(&mut self, now: f64) -> Option<u64> {
        self.advance(now);
        let Reverse((_, call)) = self.running.pop()?;
        if let Some((seconds, queued)) = self.queue.pop_front() {
            self.start(seconds, queued);
        }
        Some(call)
    }

    /// Whether the next end is due.
    fn is_due(&self, now: f64) -> bool {
        self.next_end().is_some_and(|end| end <= now + 1e-6)
    }
}

/// The batch with the calls that wait for its answers.
pub(crate) struct PoolServer {
    state: Mutex<(Batch, Vec<Option<oneshot::Sender<()>>>)>,
    changed: Notify,
    start: Instant,
}

impl PoolServer {
    /// Starts the server's task, which ends with the runtime.
    pub(crate) fn start(pool: Pool) -> Arc<Self> {
        let server = Arc::new(Self {
            state: Mutex::new((Batch::new(pool), Vec::new())),
            changed: Notify::new(),
            start: Instant::now(),
        });
        tokio::spawn(Arc::clone(&server).run());
        server
    }

    /// Ready when the call has ended; `None` without room.
    pub(crate) fn take(&self, seconds: f64) -> Option<oneshot::Receiver<()>> {
        let now = self.start.elapsed().as_secs_f64();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (batch, waiting) = &mut *state;
        if !batch.take(now, seconds, waiting.len() as u64) {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        waiting.push(Some(sender));
        self.changed.notify_one();
        Some(receiver)
    }

    async fn run(self: Arc<Self>) {
        loop {
            let next = self.end_due();
            let changed = self.changed.notified();
            match next {
                None => changed.await,
                Some(end) => {
                    let end = self.start + Duration::from_secs_f64(end);
                    // Either way it looks again.
                    let _ = tokio::time::timeout_at(end, changed).await;
                }
            }
        }
    }

    /// Ends what is due, and returns the time of the next end.
    fn end_due(&self) -> Option<f64> {
        let now = self.start.elapsed().as_secs_f64();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (batch, waiting) = &mut *state;
        while batch.is_due(now)
            && let Some(call) = batch.end_next(now)
        {
            if let Some(sender) = waiting[call as usize].take() {
                // Fails if the call was given up.
                let _ = sender.send(());
            }
        }
        batch.next_end()
    }
}
