//! The task that lets waiters through when the time has come, and that alone talks to a shared store.
//!
//! Every runtime with waiters has one, so that a runtime that has stopped or gone stalls no waiters of another. It
//! ends when no call waits.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::runtime::{self, Handle};
use tokio::time::Instant;

use super::state::{Candidate, Turn};
use super::{Gate, TARGET};
use crate::error::BoxError;
use crate::layer::rate_limiter::store::{Leave, StateStore};

/// A store that says "wait" for no time at all is asked again after this.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// A store that says "wait" for longer is asked again after this.
const LONGEST_WAIT: Duration = Duration::from_secs(3_600);

/// Starts the pump of the current runtime.
pub(super) fn spawn(gate: &Arc<Gate>) {
    let Ok(handle) = Handle::try_current() else {
        return;
    };
    let pump = Pump {
        gate: Arc::clone(gate),
        runtime: handle.id(),
        done: false,
    };
    handle.spawn(pump.run());
}

struct Pump {
    gate: Arc<Gate>,
    runtime: runtime::Id,
    done: bool,
}

impl Pump {
    async fn run(mut self) {
        let gate = Arc::clone(&self.gate);
        loop {
            // Before the look at the state, so that no wake-up after it is missed.
            let woken = gate.wake.notified();
            if let Some(store) = &gate.store {
                talk(&gate, &**store).await;
            }
            let next = gate.with(|state, now, effects| {
                if gate.store.is_none() {
                    state.drain(now, effects);
                }
                state.next_wake(self.runtime)
            });
            match next {
                Ok(Some(until)) => {
                    tokio::select! {
                        () = woken => {}
                        () = tokio::time::sleep_until(until) => {}
                    }
                }
                Ok(None) => woken.await,
                Err(()) => break,
            }
        }
        self.done = true;
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        if !self.done {
            self.gate
                .with(|state, now, effects| state.pump_died(self.runtime, now, effects));
        }
    }
}

/// Talks to the store for as long as there is something to say.
async fn talk(gate: &Arc<Gate>, store: &dyn StateStore) {
    loop {
        match gate.with(|state, now, effects| state.take_turn(now, effects)) {
            Turn::None => return,
            Turn::Report(report) => {
                let _talk = Talk {
                    gate,
                    candidate: None,
                };
                if let Err(error) = caught(async { store.report(report).await }).await {
                    complain(gate, &error);
                }
            }
            Turn::Ask(candidate) => {
                let tokens = candidate.tokens();
                let mut talk = Talk {
                    gate,
                    candidate: Some(*candidate),
                };
                let shared = match caught(async { store.acquire(tokens).await }).await {
                    Ok(Leave::Granted) => true,
                    Ok(Leave::Wait { time, reason }) => {
                        let until = Instant::now().checked_add(time.clamp(SHORTEST_WAIT, LONGEST_WAIT));
                        let hold = until.map(|until| (reason, until));
                        gate.with(|state, now, effects| {
                            if let Some(candidate) = talk.candidate.take() {
                                state.put_back(candidate, hold, now, effects);
                            }
                        });
                        continue;
                    }
                    Err(error) => {
                        complain(gate, &error);
                        false
                    }
                };
                gate.with(|state, now, effects| {
                    if let Some(candidate) = talk.candidate.take() {
                        state.let_through(candidate, shared, now, effects);
                    }
                });
            }
        }
    }
}

/// A store that panics has failed.
async fn caught<T>(answer: impl Future<Output = Result<T, BoxError>>) -> Result<T, BoxError> {
    match AssertUnwindSafe(answer).catch_unwind().await {
        Ok(answer) => answer,
        Err(_) => Err("it panicked".into()),
    }
}

fn complain(gate: &Gate, error: &BoxError) {
    tracing::warn!(target: TARGET, limiter = &*gate.name, "the state store failed: {error}");
}

/// A turn at the store, which ends however the pump ends.
struct Talk<'a> {
    gate: &'a Arc<Gate>,
    candidate: Option<Candidate>,
}

impl Drop for Talk<'_> {
    fn drop(&mut self) {
        self.gate.with(|state, now, effects| {
            if let Some(candidate) = self.candidate.take() {
                state.put_back(candidate, None, now, effects);
            }
            state.end_turn(effects);
        });
    }
}
