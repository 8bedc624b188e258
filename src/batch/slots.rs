//! The items in flight.

use std::sync::Arc;

use crate::item;

/// An item in flight.
pub(super) struct Slot<C> {
    pub(super) item: Arc<item::Item>,
    pub(super) context: C,
}

/// Items in flight by slot; freed slots are reused.
pub(super) struct Slots<C> {
    slots: Vec<Option<Slot<C>>>,
    free: Vec<usize>,
    pub(super) len: usize,
}

impl<C> Default for Slots<C> {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            len: 0,
        }
    }
}

impl<C> Slots<C> {
    pub(super) fn insert(&mut self, slot: Slot<C>) -> usize {
        self.len += 1;
        match self.free.pop() {
            Some(position) => {
                self.slots[position] = Some(slot);
                position
            }
            None => {
                self.slots.push(Some(slot));
                self.slots.len() - 1
            }
        }
    }

    pub(super) fn remove(&mut self, position: usize) -> Option<Slot<C>> {
        let slot = self.slots.get_mut(position)?.take()?;
        self.free.push(position);
        self.len -= 1;
        Some(slot)
    }

    pub(super) fn items(&self) -> impl Iterator<Item = &item::Item> {
        self.slots.iter().flatten().map(|slot| &*slot.item)
    }

    pub(super) fn drain(&mut self) -> impl Iterator<Item = (usize, Slot<C>)> + use<C> {
        self.free.clear();
        self.len = 0;
        let slots = std::mem::take(&mut self.slots).into_iter().enumerate();
        slots.filter_map(|(position, slot)| slot.map(|slot| (position, slot)))
    }
}
