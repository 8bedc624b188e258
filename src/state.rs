//! The per-item store that is kept over all calls.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The state of one item from call to call, keyed by type: escalation counters, partial results.
///
/// Every item has its own; items that share a strategy never see each other's. The library does not store its own
/// bookkeeping here. The lock of a value is held while [`update`](Self::update) runs its closure, so a closure
/// must not access the value of the *same* type through the state; other types are fine.
///
/// ```
/// use llm_batch::LlmRequest;
///
/// #[derive(Default, Clone)]
/// struct Failures(u32);
///
/// let request = LlmRequest::new("hi");
/// request.state().update(|failures: &mut Failures| failures.0 += 1);
/// assert_eq!(request.state().get::<Failures>().unwrap().0, 1);
/// ```
#[derive(Default)]
pub struct RetryState {
    // One slot per type with its own lock: the map's lock is never held while user code runs.
    slots: Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>,
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RetryState {
    /// Changes the value of type `T`, starting from its default if absent, and returns the closure's result.
    pub fn update<T, R>(&self, f: impl FnOnce(&mut T) -> R) -> R
    where
        T: Default + Send + 'static,
    {
        let slot = {
            let mut slots = lock(&self.slots);
            let slot = slots
                .entry(TypeId::of::<T>())
                .or_insert_with(|| Arc::new(Mutex::new(Some(T::default()))));
            Arc::clone(slot)
        };
        match slot.downcast_ref::<Mutex<Option<T>>>() {
            Some(cell) => f(lock(cell).get_or_insert_default()),
            None => unreachable!("a slot holds the type it is keyed by"),
        }
    }

    /// Returns a clone of the value of type `T`, if present.
    pub fn get<T: Clone + Send + 'static>(&self) -> Option<T> {
        let slot = Arc::clone(lock(&self.slots).get(&TypeId::of::<T>())?);
        let cell = slot.downcast_ref::<Mutex<Option<T>>>()?;
        lock(cell).clone()
    }

    /// Sets the value of type `T` and returns the previous one.
    pub fn insert<T: Send + 'static>(&self, value: T) -> Option<T> {
        let new: Arc<dyn Any + Send + Sync> = Arc::new(Mutex::new(Some(value)));
        let old = lock(&self.slots).insert(TypeId::of::<T>(), new)?;
        lock(old.downcast_ref::<Mutex<Option<T>>>()?).take()
    }

    /// Removes and returns the value of type `T`.
    pub fn remove<T: Send + 'static>(&self) -> Option<T> {
        let old = lock(&self.slots).remove(&TypeId::of::<T>())?;
        lock(old.downcast_ref::<Mutex<Option<T>>>()?).take()
    }
}

impl fmt::Debug for RetryState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryState")
            .field("values", &lock(&self.slots).len())
            .finish()
    }
}
