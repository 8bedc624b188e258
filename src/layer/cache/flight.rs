//! Single flight: of identical requests under way one calls the service, the others wait for its result.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::key::KeyDigest;

/// The requests under way, each with the channel on which its waiters receive the result.
pub(super) struct Flights<T> {
    under_way: Mutex<HashMap<KeyDigest, watch::Receiver<Option<T>>>>,
}

/// The role of a request among identical ones.
pub(super) enum Role<'a, T> {
    /// It calls the service, and has to [`land`](Flight::land) with the result.
    Asks(Flight<'a, T>),
    /// It waits for the leading request.
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

/// The leading request, which calls the service. If it is dropped before it has landed, one of the waiting requests takes its place.
pub(super) struct Flight<'a, T> {
    flights: &'a Flights<T>,
    key: KeyDigest,
    sender: watch::Sender<Option<T>>,
    landed: bool,
}

impl<T> Flight<'_, T> {
    /// Passes `result` to the waiting requests.
    pub(super) fn land(mut self, result: T) {
        // Removed before they wake: a retry after a failure must not join this flight again.
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

/// The wait for the leading request.
pub(super) struct Landing<T> {
    result: watch::Receiver<Option<T>>,
}

impl<T: Clone> Landing<T> {
    /// Returns the result of the leading request; `None` if it was dropped without a result.
    pub(super) async fn result(mut self) -> Option<T> {
        let result = self.result.wait_for(Option::is_some).await.ok()?;
        (*result).clone()
    }
}
