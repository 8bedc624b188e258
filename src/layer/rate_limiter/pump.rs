//! The task that lets waiters through when the time has come.
//!
//! Every runtime with waiters has one, so that a runtime that has stopped or gone stalls nobody else's waiters. It
//! ends when nobody waits.

use std::sync::Arc;

use tokio::runtime::{self, Handle};

use super::gate::Gate;

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
            let next = gate.with(|state, now, effects| {
                state.drain(now, effects);
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
