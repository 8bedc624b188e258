//! The times of outcomes whose rows are written later.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use llm_batch::{EventKind, Events};

use crate::args::RunArgs;

/// The times of outcomes whose rows wait for those of earlier items.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times(Arc<Mutex<HashMap<u64, SystemTime>>>);

impl Times {
    /// Those of a run, from now on. Rows that wait for nothing have the time at which they are written.
    pub(crate) fn of(args: &RunArgs, events: &Events) -> Self {
        let times = Self::default();
        if args.output.is_in_order() {
            let noted = times.clone();
            events.on_event(move |event| {
                let is_outcome = matches!(
                    event.kind,
                    EventKind::ItemCompleted { .. } | EventKind::ItemFailed { .. }
                );
                if let (true, Some(index)) = (is_outcome, event.index) {
                    let mut times = noted.0.lock().unwrap_or_else(PoisonError::into_inner);
                    times.insert(index, SystemTime::now());
                }
            });
        }
        times
    }

    /// The time of the outcome of the item that the run took at this place.
    pub(crate) fn take(&self, index: u64) -> SystemTime {
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        times.remove(&index).unwrap_or_else(SystemTime::now)
    }
}
