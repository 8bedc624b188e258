//! The rungs of a ladder, and the rung of each item.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::item::Item;

/// The rungs of a ladder, which its clones share; at least one.
#[derive(Debug)]
pub(super) struct Rungs<T> {
    id: u64,
    rungs: Box<[T]>,
}

impl<T> Rungs<T> {
    #[track_caller]
    pub(super) fn new(rungs: impl IntoIterator<Item = T>) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let rungs: Box<[T]> = rungs.into_iter().collect();
        assert!(!rungs.is_empty(), "a ladder has at least one rung");
        Arc::new(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            rungs,
        })
    }

    pub(super) fn rungs(&self) -> &[T] {
        &self.rungs
    }

    /// The next call of `item`, and the value on its rung.
    pub(super) fn step(&self, item: &Arc<Item>) -> (Step, &T) {
        let top = self.rungs.len() - 1;
        let rung = item
            .state()
            .update(|standing: &mut Standing| *standing.of(self.id));
        let step = Step {
            item: Arc::clone(item),
            ladder: self.id,
            rung,
            top,
        };
        (step, &self.rungs[rung])
    }
}

/// The rungs of one item, by ladder: a stack may have several ladders, nested or side by side.
#[derive(Default)]
struct Standing(Vec<(u64, usize)>);

/// A call that an item makes from one rung.
#[derive(Debug)]
pub(super) struct Step {
    item: Arc<Item>,
    ladder: u64,
    rung: usize,
    top: usize,
}

impl Standing {
    fn of(&mut self, ladder: u64) -> &mut usize {
        let position = self.0.iter().position(|(id, _)| *id == ladder);
        let position = position.unwrap_or_else(|| {
            self.0.push((ladder, 0));
            self.0.len() - 1
        });
        &mut self.0[position].1
    }
}

impl Step {
    pub(super) fn rung(&self) -> usize {
        self.rung
    }

    /// The answer from this rung was bad: the item moves up, only once for concurrent calls from this rung.
    pub(super) fn climb(&self) {
        self.item.state().update(|standing: &mut Standing| {
            let rung = standing.of(self.ladder);
            if *rung == self.rung {
                *rung = (self.rung + 1).min(self.top);
            }
        });
    }
}
