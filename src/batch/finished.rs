//! The outcomes that wait to be taken, in input order if requested.

use std::collections::VecDeque;

use tokio::time::Instant;

/// Outcomes that wait to be taken, each with the time when its item ended.
pub(super) struct Finished<O> {
    pub(super) in_order: bool,
    // In order: by index from `next` on, with gaps for items in flight. Otherwise: in order of completion, without gaps.
    outcomes: VecDeque<Option<(O, Instant)>>,
    next: u64,
    pub(super) len: usize,
}

impl<O> Default for Finished<O> {
    fn default() -> Self {
        Self {
            in_order: false,
            outcomes: VecDeque::new(),
            next: 0,
            len: 0,
        }
    }
}

impl<O> Finished<O> {
    pub(super) fn put(&mut self, index: u64, outcome: O, at: Instant) {
        self.len += 1;
        if !self.in_order {
            self.outcomes.push_back(Some((outcome, at)));
            return;
        }
        // Fits: the distance is bounded by the slots and the reorder buffer.
        let position = (index - self.next) as usize;
        if self.outcomes.len() <= position {
            self.outcomes.resize_with(position + 1, || None);
        }
        self.outcomes[position] = Some((outcome, at));
    }

    pub(super) fn take(&mut self) -> Option<(O, Instant)> {
        self.outcomes.front()?.as_ref()?;
        let outcome = self.outcomes.pop_front()??;
        self.next += 1;
        self.len -= 1;
        Some(outcome)
    }
}
