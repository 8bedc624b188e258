//! The hand-over that this thread is executing, so that new requests of the item can be assigned to it.

use std::cell::{Cell, RefCell};
use std::marker::PhantomData;

use super::Item;

/// The address of an item, and the number of its hand-over: 0 for the driver's.
type Work = (usize, u32);

thread_local! {
    static CURRENT: Cell<Option<Work>> = const { Cell::new(None) };
    /// The outer work of this thread on other items, the innermost last: a batch nested in an item's work.
    static AROUND: RefCell<Vec<Work>> = const { RefCell::new(Vec::new()) };
}

#[inline]
fn address(item: &Item) -> usize {
    std::ptr::from_ref(item).addr()
}

/// While it exists, this thread executes the hand-over.
#[must_use = "dropping it ends the work"]
pub(crate) struct AtWork {
    before: Option<Work>,
    /// The previous work was on another item.
    nested: bool,
    /// Not `Send`: it must not be held over an await.
    thread: PhantomData<*const ()>,
}

/// Marks this thread as executing a hand-over of the item.
#[inline]
pub(crate) fn enter(item: &Item, hand_over: u32) -> AtWork {
    let address = address(item);
    let before = CURRENT.replace(Some((address, hand_over)));
    let other = before.filter(|(at, _)| *at != address);
    if let Some(work) = other {
        surround(work);
    }
    AtWork {
        before,
        nested: other.is_some(),
        thread: PhantomData,
    }
}

impl Drop for AtWork {
    #[inline]
    fn drop(&mut self) {
        CURRENT.set(self.before);
        if self.nested {
            leave();
        }
    }
}

// A thread that is ending has left all work; nothing to record.

#[cold]
fn surround(work: Work) {
    let _ = AROUND.try_with(|around| around.borrow_mut().push(work));
}

#[cold]
fn leave() {
    let _ = AROUND.try_with(|around| around.borrow_mut().pop());
}

/// The innermost hand-over of the item that this thread is executing; `None` in a task spawned by the item's work.
pub(super) fn of(item: &Item) -> Option<u32> {
    let address = address(item);
    let (at, hand_over) = CURRENT.get()?;
    if at == address {
        return Some(hand_over);
    }
    let found = AROUND.try_with(|around| {
        let around = around.borrow();
        let work = around.iter().rev().find(|(at, _)| *at == address);
        work.map(|(_, hand_over)| *hand_over)
    });
    found.ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::item::ItemId;

    #[test]
    fn work_on_another_item_does_not_hide_the_item_around_it() {
        let (outer, inner) = (Item::new(ItemId::Index(0), 0), Item::new(ItemId::Index(1), 1));
        let at_outer = enter(&outer, 3);
        let at_inner = enter(&inner, 5);
        let deeper = enter(&inner, 6);
        assert_eq!((of(&outer), of(&inner)), (Some(3), Some(6)));
        let back = enter(&outer, 4);
        assert_eq!((of(&outer), of(&inner)), (Some(4), Some(6)));
        drop(back);
        drop(deeper);
        assert_eq!((of(&outer), of(&inner)), (Some(3), Some(5)));
        drop(at_inner);
        assert_eq!((of(&outer), of(&inner)), (Some(3), None));
        drop(at_outer);
        assert_eq!(of(&outer), None);
    }
}
