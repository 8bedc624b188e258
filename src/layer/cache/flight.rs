//! Requests under way: of all that are the same one asks, the others wait for it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::key::KeyDigest;

/// The requests under way, each with what its waiters will receive.
pub(super) struct Flights<T> {
    under_way: Mutex<HashMap<KeyDigest, watch::Receiver<Option<T>>>>,
}

/// The role of a request among those that are the same.
pub(super) enum Role<'a, T> {
    /// It asks, and has to [`land`](Flight::land) with the result.
    Asks(Flight<'a, T>),
    /// It waits for the one that asks.
    Waits(Landing<T>),
}

impl<T> Flights<T> {
    fn under_way(&self) -> MutexGuard<'_, HashMap<KeyDigest, watch::Receiver<Option<T>>>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn join(&self, key: KeyDigest) -> Role<'_, T> {
        match self.under_way().entry(key) {
            Entry::Occupied(flight) => Role::Waits(Landing {
                result: flight.get().clone(),
            }),
            Entry::Vacant(vacant) => {
                let (sender, receiver) = watch::channel(None);
                vacant.insert(receiver);
                Role::Asks(Flight {
                    flights: self,
                    key,
                    sender,
                    landed: false,
                })
            }
        }
    }
}

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Self {
            under_way: Mutex::default(),
        }
    }
}

/// The request that asks. Dropped before it has landed, one of those that wait asks in its place.
pub(super) struct Flight<'a, T> {
    flights: &'a Flights<T>,
    key: KeyDigest,
    sender: watch::Sender<Option<T>>,
    landed: bool,
}

impl<T> Flight<'_, T> {
    /// Hands `result` to those that wait.
    pub(super) fn land(mut self, result: T) {
        // Before they wake: one that tries again after a failure must not meet this flight once more.
        self.flights.under_way().remove(&self.key);
        self.landed = true;
        self.sender.send_replace(Some(result));
    }
}

impl<T> Drop for Flight<'_, T> {
    fn drop(&mut self) {
        if !self.landed {
            self.flights.under_way().remove(&self.key);
        }
    }
}

/// The wait for the one that asks.
pub(super) struct Landing<T> {
    result: watch::Receiver<Option<T>>,
}

impl<T: Clone> Landing<T> {
    /// Returns the result of the one that asked; `None` if it went away without a result.
    pub(super) async fn result(mut self) -> Option<T> {
        let result = self.result.wait_for(Option::is_some).await.ok()?;
        (*result).clone()
    }
}
